"""Each event loop that gevent ships: libev through Cython is what all other tests run on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.rawclient import BINARY, TEXT, Frame, frame
from ..support.servers import launch

TESTS = Path(__file__).parents[1]
LOOPS = {
    # "debug": a watcher that is freed without a close is closed then, with a warning. libuv goes on using its memory.
    "libuv": {"GEVENT_LOOP": "libuv-cffi", "GEVENT_DEBUG": "debug"},
    "libev-cffi": {"GEVENT_LOOP": "libev-cffi"},
    "pure Python": {"PURE_PYTHON": "1"},
}
FILES = [
    "connection/test_turns.py",
    "connection/test_transport.py",
    "connection/test_websocket.py",
    "connection/test_callbacks.py",
    "process/test_keepalive.py",
    "groups/test_waiting.py",
]
"""The tests of the modules that use a loop."""

pytestmark = pytest.mark.timeout(300)


LANES = [("libuv", "1"), ("libuv", "0"), ("libev-cffi", "1"), ("pure Python", "0")]


@pytest.fixture(scope="module")
def lanes() -> dict[tuple[str, str], tuple[int, str]]:
    """Exit status and output of the tests on each, all at once: they wait more than they compute."""
    running = {}
    for loop, speedups in LANES:
        environ = {**os.environ, **LOOPS[loop], "GWS_SPEEDUPS": speedups}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-W",
            "error:Failed to close watcher:ResourceWarning",
            *(str(TESTS / file) for file in FILES),
        ]
        running[loop, speedups] = subprocess.Popen(
            command, env=environ, cwd=TESTS.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    done = {}
    for lane, process in running.items():
        with process:
            output, _ = process.communicate()
        done[lane] = process.returncode, output
    return done


@pytest.mark.parametrize("lane", LANES, ids=" ".join)
def test_on_this_loop(lanes: dict[tuple[str, str], tuple[int, str]], lane: tuple[str, str]) -> None:
    """Each passes there, too, in C and in Python."""
    status, output = lanes[lane]
    assert status == 0, output[-5000:]
    assert " passed" in output


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("path", ["/echo", "/detached"])
def test_server_on_this_loop(loop: str, path: str, server_directory: Path) -> None:
    """Gunicorn with the worker class: messages, a burst, and the close."""
    with launch("worker", server_directory, env=LOOPS[loop]) as server, server.connect() as client:
        client.upgrade(path)
        client.text("1")
        assert client.read_frame() == Frame(TEXT, b"1")
        client.send(frame(TEXT, b"2") * 1000)
        assert [client.read_frame() for _ in range(1000)] == [Frame(TEXT, b"2")] * 1000
        client.send(frame(BINARY, bytes(300_000)))
        assert client.read_frame() == Frame(BINARY, bytes(300_000))
        client.close_handshake(4001)
