"""docs/blocking.md: what views may call. Each row of its tables is tried in a gunicorn with our worker."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ..django.postgres import Postgres, postgres  # noqa: F401 - importing the fixture here makes it one of this module's
from ..support.documents import blocks, serve
from ..support.inprocess import package_path
from ..support.servers import ROOT, Server, launch

PAGE = (ROOT / "docs" / "blocking.md").read_text("utf-8")


def table(heading: str) -> dict[str, str]:
    """The first two cells of each row below this heading."""
    part = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in re.findall(r"^\|.*$", part, re.MULTILINE)]
    return {name: answer for name, answer in rows if name and answer in ("yes", "no", "refused")}


CALLS, COROUTINES = table("In a view"), table("In a coroutine")
NEVER = "`multiprocessing.Pool`"
"""Ends the worker: tried in a process of its own."""

RESULTS: dict[str, Any] = {
    "`socket`, `ssl`, `urllib.request`, `http.client`": "slow",
    "`socket.getaddrinfo`": "127.0.0.1",
    "`requests`, `urllib3`": "slow",
    "`httpx.Client`": "slow",
    "`threading.Lock`, `Event`, `queue.Queue`": "put",
    "`threading.Thread`, `ThreadPoolExecutor`": 6,
    "`subprocess.run`, `Popen`, `os.popen`": [0, "x\n"],
    "`os.system`": 0,
    "`os.fork` with `os.waitpid`": 3,
    "`multiprocessing.Process`: `join()` after a fork": 0,
    "the same, spawned": 0,
    "`multiprocessing.Queue`, `Pipe`": "put",
    "`ProcessPoolExecutor`": 1,
    "`asyncio.run`": ["slept", "asyncio.run() cannot be called from a running event loop"],
    "asgiref's `async_to_sync`": ["slept", "asyncio.run() cannot be called from a running event loop"],
    "`gws_middleware.coroutines.run`": ["slept", "slept"],
    "psycopg 3": "row",
    "psycopg2": "row",
    "psycopg2 with psycogreen": "row",
    "`hashlib.pbkdf2_hmac`, numpy: C code that computes": 32,
    "Python code that computes": 499999500000,
    "a file: `open`, `read`, `write`": 1_000_000,
    "`httpx.AsyncClient`, kept for all requests": ["slow", "slow"],
    "`psycopg.AsyncConnection`, kept for all requests": ["row", "row"],
    "an asynchronous generator: `iterate(stream)`": "slow",
    "`asyncio.to_thread`, `run_in_executor`": [None, None],
    "asgiref's `sync_to_async`, Django's asynchronous ORM": "row",
    "`asyncio.create_subprocess_exec`": "TypeError: child watchers are only available on the default loop",
}
"""What the calls return, where it is not None."""


@pytest.fixture(scope="module")
def server(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:  # noqa: F811
    env = {"POSTGRES": str(postgres.folder)}
    with launch("worker", tmp_path_factory.mktemp("server"), "tests.fixtureapps.calls", env=env) as running:
        yield running


def make(server: Server, name: str) -> tuple[bool, Any]:
    """Whether the event loop ran during the call, and what the call returned."""
    with server.connect(timeout=60) as client:
        client.upgrade(f"/call?name={quote(name)}")
        answer = json.loads(client.read_frame().payload)
    return answer["turns"] > 0, answer["result"]


def test_every_row_is_tried(server: Server) -> None:
    """And what is tried is on the page."""
    calls, coroutines = json.loads(server.get("/names").body)
    assert (sorted(CALLS), sorted(COROUTINES)) == (sorted([*calls, NEVER]), sorted(coroutines))


@pytest.mark.parametrize("name", [name for name in CALLS if name != NEVER])
def test_other_connections_are_served_during_a_call(server: Server, name: str) -> None:
    """As the page says: "yes" is when the event loop runs meanwhile, "no" when it does not, not once."""
    assert make(server, name) == (CALLS[name] == "yes", RESULTS.get(name))


@pytest.mark.parametrize("name", [name for name, answer in COROUTINES.items() if answer == "yes"])
def test_coroutine_may_use(server: Server, name: str) -> None:
    """All of this works in the asyncio thread, and the other connections of the worker are served."""
    assert make(server, name) == (True, RESULTS.get(name))


@pytest.mark.parametrize("name", [name for name, answer in COROUTINES.items() if answer == "refused"])
def test_coroutine_may_not_use(server: Server, name: str) -> None:
    """It is an error, and not a wait without end."""
    assert make(server, name)[1] == RESULTS[name]


# --- the rest of the page ------------------------------------------------------------------------------------------


def test_program_runs_as_printed(tmp_path: Path) -> None:
    """The view that streams from a coroutine."""
    [program] = blocks(ROOT / "docs" / "blocking.md", "python")
    (tmp_path / "assistant.py").write_text(program)
    with serve(["assistant"], tmp_path / "server", files=tmp_path) as server, server.connect(timeout=60) as client:
        client.upgrade("/")
        client.text("one two")
        assert [client.read_frame().payload for _ in range(2)] == [b"one", b"two"]
        client.close_handshake()


def test_gevent_finds_calls_that_block(server_directory: Path) -> None:
    """The variable that the page names makes gevent print where a greenlet kept the event loop from running."""
    assert "`GEVENT_MONITOR_THREAD_ENABLE=1`" in PAGE
    env = {"GEVENT_MONITOR_THREAD_ENABLE": "1", "GEVENT_MAX_BLOCKING_TIME": "0.02"}
    with launch("worker", server_directory, "tests.fixtureapps.calls", env=env) as server:
        make(server, "`os.system`")
        server.log.find("appears to be blocked")
        server.log.find("os.system")


def test_coroutine_ends_with_its_worker(server_directory: Path) -> None:
    """Its view is ended before the graceful timeout is over, and the coroutine is cancelled."""
    options = ["--graceful-timeout", "4"]
    with launch("worker", server_directory, "tests.fixtureapps.calls", options=options) as server:
        with server.connect(timeout=60) as client:
            client.upgrade("/endless")
            assert client.read_frame().payload == b"ready"
            server.kill(signal.SIGTERM)
            client.read_frames_until_eof()
        server.log.find("the coroutine has ended")


POOL = """
from gevent import monkey; monkey.patch_all()
import multiprocessing, signal
signal.alarm(5)
with multiprocessing.Pool(1) as pool:
    print(pool.apply(abs, (-1,)))
"""


def test_multiprocessing_pool_never_returns() -> None:
    """Its result thread reads a pipe and holds up the whole process: so the page says never."""
    assert CALLS[NEVER] == "no"
    process = subprocess.Popen(
        [sys.executable, "-c", POOL], env=package_path(), stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.wait(60) == -signal.SIGALRM
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        assert process.stdout is not None
        process.stdout.close()
