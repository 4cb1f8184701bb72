"""The short path exists twice, in C and in Python. All that is tested of it elsewhere runs on C where that is built;
here the same tests run once more on pure Python, and C is shown what no correct caller does.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from gws_middleware.connection import fastpath
from gws_middleware.connection.transport import Transport
from gws_middleware.connection.websocket import WebSocket
from gws_middleware.protocol import frames
from gws_middleware.protocol.connection import Connection

from ..support.notices import EXTENSIONS

TESTS = Path(__file__).parents[1]

TWICE = [
    "connection/test_transport.py",
    "connection/test_turns.py",
    "test_hooks.py",
    "connection/test_websocket.py",
    "connection/test_detached.py",
    "connection/test_compat.py",
    "test_testing.py",
    "protocol/test_connection.py",
    "protocol/test_fuzz.py",
]
"""What tests the short path and what builds on it."""

SHORT = [(fastpath, "FastTransport"), (fastpath, "FastWebSocket"), (frames, "ShortPath")]
C_TYPES = [getattr(module, name) for module, name in SHORT if "._s" in getattr(module, name).__module__]


@pytest.mark.parametrize("file", TWICE)
def test_on_pure_python(file: str) -> None:
    """Every test of it holds without the extensions too."""
    environ = {**os.environ, "GWS_SPEEDUPS": "0"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS / file)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, cwd=TESTS.parent, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout


def test_the_choice() -> None:
    """With GWS_SPEEDUPS=0 the classes are Python's, without it they are C's where that was built."""
    program = (
        "from gws_middleware.connection import fastpath\n"
        "from gws_middleware.protocol import frames\n"
        "for kind in (fastpath.FastTransport, fastpath.FastWebSocket, frames.ShortPath): print(kind.__module__)\n"
    )
    pure = _run(program, {"GWS_SPEEDUPS": "0"})
    assert pure == [
        "gws_middleware.connection.fastpath",
        "gws_middleware.connection.fastpath",
        "gws_middleware.protocol.frames",
    ]
    if all(map(find_spec, EXTENSIONS)):
        built = _run(program, {})
        assert built == ["gws_middleware.connection._fastpath"] * 2 + ["gws_middleware.protocol._speedups"]


def _run(program: str, environ: dict[str, str]) -> list[str]:
    environ = {name: value for name, value in os.environ.items() if name != "GWS_SPEEDUPS"} | environ
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    return done.stdout.split()


class TestMisuse:
    """A wrong call is an exception, never a crash; in pure Python the kinds of exception may differ."""

    ERRORS = (TypeError, AttributeError, ValueError, NotImplementedError, SystemError)

    @pytest.mark.parametrize(
        ("kind", "call"),
        [
            (WebSocket, lambda it: it.receive()),
            (WebSocket, lambda it: it.receive(1, 2)),
            (WebSocket, lambda it: it.receive(time=1)),
            (WebSocket, lambda it: next(it)),
            (WebSocket, lambda it: it.send()),
            (WebSocket, lambda it: it.send("x")),
            (WebSocket, lambda it: it.send("x", None, None)),
            (WebSocket, lambda it: it.send("x", text=True)),
            (WebSocket, lambda it: it._data_received(b"", 0)),
            (WebSocket, lambda it: it._data_received(b"")),
            (Transport, lambda it: it._readable()),
            (Transport, lambda it: it.write(b"x")),
            (Transport, lambda it: it.write(1)),
            (Transport, lambda it: it.queue(b"x")),
            (Transport, lambda it: it.queue(1)),
        ],
    )
    def test_object_without_its_parts(self, kind: type[Any], call: Any) -> None:
        """As after a failed constructor."""
        with pytest.raises(self.ERRORS):
            call(kind.__new__(kind))

    @pytest.mark.skipif(fastpath.FastWebSocket not in C_TYPES, reason="the C extension is not built")
    @pytest.mark.parametrize("inbox", [None, (), {"a": 1}])
    def test_inbox_of_another_kind(self, inbox: Any) -> None:
        """Nothing is taken for a list that is none."""
        ws: Any = WebSocket.__new__(WebSocket)
        ws._inbox = inbox
        with pytest.raises(TypeError, match="the inbox is a list"):
            ws.receive()


@pytest.mark.parametrize("kind", C_TYPES, ids=lambda kind: kind.__name__)
def test_types_in_c_cannot_be_changed(kind: type[Any]) -> None:
    """They are shared by all connections."""
    with pytest.raises(TypeError):
        kind.extra = 1


@pytest.mark.parametrize("base", [fastpath.FastTransport, fastpath.FastWebSocket])
def test_a_cycle_through_a_member_is_collected(base: type[Any]) -> None:
    """The garbage collector sees what the members refer to."""

    class Kind(base):  # type: ignore[misc]
        __slots__ = ("__weakref__",)

    it = Kind()
    name = "_outbox" if base is fastpath.FastTransport else "_inbox"
    setattr(it, name, [it])
    gone = weakref.ref(it)
    del it
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("end", [3, 2**70])
def test_feed_beyond_the_data(end: int) -> None:
    """A shell that says that more came than there is."""
    with pytest.raises(ValueError, match="lie"):
        Connection().feed(b"\x81\x00", end)
