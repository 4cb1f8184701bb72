"""``stopping``: a goodbye for every WebSocket, whatever ends the worker, in real servers of every kind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from ..support import servers
from ..support.inprocess import package_path
from ..support.rawclient import CLOSE, TEXT, Frame, RawClient, close_frame, request, upgrade_request
from ..support.servers import KINDS, POWERLESS, Certificate, Server, eventually, launch

ABLE = [name for name in KINDS if name not in POWERLESS and not name.endswith("-parser")]
"""Every server that opens WebSockets, each once."""
PATIENCE = 8
"""Seconds within which a server has to end that has peers who answer; gunicorn's own patience is 30."""


@contextmanager
def visitors(server: Server, *paths: str) -> Iterator[list[RawClient]]:
    """A connection to each path, open."""
    with ExitStack() as stack:
        clients = []
        for path in paths:
            client = stack.enter_context(server.connect())
            client.upgrade(path)
            if not path.startswith("/detached"):
                assert client.read_frame() == Frame(TEXT, b"ready")
            clients.append(client)
        yield clients


def goodbyes(clients: list[RawClient]) -> list[int]:
    """The codes that they hear; each answers, and the connection ends."""
    heard = [client.read_frame() for client in clients]
    for client, goodbye in zip(clients, heard, strict=True):
        assert goodbye.opcode == CLOSE
        client.send(close_frame(goodbye.code))
    assert [client.read_until_eof() for client in clients] == [b""] * len(clients)
    return [goodbye.code for goodbye in heard]


@pytest.mark.parametrize("kind", ABLE)
def test_stopped_server_says_goodbye(server_directory: Path, kind: str) -> None:
    """Attached and detached connections hear 1012, ``finally`` and ``on_close`` run, and the server is gone long before
    its patience is over.
    """
    with launch(kind, server_directory) as server:
        with visitors(server, "/waiting?id=one", "/waiting?id=two", "/detached?id=three") as clients:
            server.kill(signal.SIGTERM)
            codes = goodbyes(clients)
        server.wait(PATIENCE)
        ends = {
            record.text for record in server.log.records() if " after 1012" in record.text and "tests:" in record.text
        }
    assert codes == [1012] * 3
    assert ends == {
        "INFO tests: finally of one after 1012",
        "INFO tests: finally of two after 1012",
        "INFO tests: on_close of three after 1012",
    }


@pytest.mark.parametrize(
    ("number", "over_tls"),
    [(signal.SIGTERM, True), (signal.SIGINT, False), (signal.SIGQUIT, False)],
    ids=["term-tls", "int", "quit"],
)
def test_stop_says_goodbye_whatever_the_signal(
    server_directory: Path, certificate: Certificate, number: int, over_tls: bool
) -> None:
    """Over TLS too, and where gunicorn is told to be quick."""
    with launch("worker", server_directory, certificate=certificate if over_tls else None) as server:
        with visitors(server, "/waiting?id=one", "/detached?id=two") as clients:
            server.kill(number)
            codes = goodbyes(clients)
        server.wait(PATIENCE)
        server.log.find("(finally|on_close) of .* after 1012", 2)
    assert codes == [1012, 1012]


def test_peer_that_answers_no_goodbye_is_cut(server_directory: Path) -> None:
    """A silent peer costs a third of the graceful timeout, not all of it."""
    with launch("worker", server_directory, options=["--graceful-timeout", "3"]) as server:
        with visitors(server, "/waiting?id=one", "/detached?id=two") as clients:
            server.kill(signal.SIGTERM)
            heard = [[one.code for one in client.read_frames_until_eof()] for client in clients]
        code = server.wait(3)
    assert (heard, code) == ([[1012]] * 2, 0)


@pytest.mark.parametrize("kind", ABLE)
def test_stopped_server_says_goodbye_where_no_view_is_left(server_directory: Path, kind: str) -> None:
    """Detached connections alone keep no server from ending."""
    with launch(kind, server_directory) as server:
        with visitors(server, "/detached?id=one", "/detached?id=two") as clients:
            server.kill(signal.SIGTERM)
            codes = goodbyes(clients)
        server.wait(PATIENCE)
        server.log.find("on_close of (one|two) after 1012", 2)
    assert codes == [1012, 1012]


@pytest.mark.parametrize("kind", ["worker", "gevent"])
@pytest.mark.parametrize("first", ["waiting", "detached"])
def test_worker_that_has_served_enough_closes_all(server_directory: Path, first: str, kind: str) -> None:
    """At ``max_requests``: 1012, attached and detached, also where no view is left, and the next worker serves.
    (Workers on ``gevent.pywsgi`` count no requests.)
    """
    with launch(kind, server_directory, options=["--max-requests", "4"]) as server:
        before = server.status()["pid"]
        with visitors(server, f"/{first}?id=one", "/detached?id=two") as clients:
            codes = goodbyes(clients)
        eventually(lambda: server.status()["pid"] != before, "the next worker")
        server.log.find("(finally|on_close) of .* after 1012", 2)
    assert codes == [1012, 1012]


def test_reloaded_server_serves_on_while_the_old_worker_waits(server_directory: Path) -> None:
    """On SIGHUP: 1012; a peer that answers nothing holds up nobody, and is cut."""
    with launch("worker", server_directory, options=["--graceful-timeout", "9"]) as server:
        before = server.status()["pid"]
        with visitors(server, "/waiting?id=one", "/detached?id=two") as clients:
            server.kill(signal.SIGHUP)
            heard = [client.read_frame().code for client in clients]
            eventually(lambda: server.status()["pid"] != before, "a new worker")
            with server.connect() as client:
                client.upgrade("/echo")
                client.text("x")
                echo = client.read_frame()
            old_is_there = psutil.pid_exists(before)
            rest = [client.read_until_eof() for client in clients]
    assert heard == [1012, 1012]
    assert (echo, old_is_there, rest) == (Frame(TEXT, b"x"), True, [b"", b""])


def test_changed_code_closes_all(server_directory: Path) -> None:
    """With ``--reload``: 1012, and the port is served again at once."""
    watched = server_directory.parent / "watched.txt"
    watched.write_text("")
    options = ["--reload", "--reload-extra-file", str(watched), "--reload-engine", "poll"]
    with launch("worker", server_directory, options=options) as server:
        server.log.expect("Reloader is on")
        before = server.status()["pid"]
        with visitors(server, "/waiting?id=one", "/detached?id=two") as clients:
            os.utime(watched, (time.time() + 60,) * 2)
            codes = goodbyes(clients)
            eventually(lambda: server.status()["pid"] != before, "the next worker")
        server.log.find("(finally|on_close) of .* after 1012", 2)
        server.log.expect("Reloader is on")
    assert codes == [1012, 1012]


def test_blocked_worker_says_goodbye_before_it_is_killed(server_directory: Path) -> None:
    """A view that computes for longer than ``--timeout`` costs the others their connection, but not their goodbye."""
    with launch("worker", server_directory, options=["--timeout", "2"]) as server:
        before = server.status()["pid"]
        with visitors(server, "/waiting?id=one", "/detached?id=two") as clients, server.connect() as culprit:
            culprit.upgrade("/blocking")
            codes = goodbyes(clients)
            eventually(lambda: server.status()["pid"] != before, "the next worker")
        server.log.find("(finally|on_close) of .* after 1012", 2)
        server.log.expect("WORKER TIMEOUT")
        server.log.expect("Error handling request.*in blocking.*SystemExit")  # gunicorn tells whose fault it was
    assert codes == [1012, 1012]


def test_worker_without_an_arbiter_says_goodbye(server_directory: Path) -> None:
    """Somebody has killed the arbiter: its worker finds out, and ends as if told to."""
    server = servers.start("worker", server_directory)
    servers.await_answer(server)
    worker = psutil.Process(server.status()["pid"])
    with visitors(server, "/waiting?id=one", "/detached?id=two") as clients:
        server.process.kill()
        server.process.wait()
        codes = goodbyes(clients)
    eventually(lambda: not worker.is_running(), "the end of the worker")
    server.log.find("(finally|on_close) of .* after 1012", 2)
    assert codes == [1012, 1012]


@pytest.mark.parametrize("how", ["told", "max_requests"])
def test_view_that_looks_at_nothing_is_ended(server_directory: Path, how: str) -> None:
    """When the patience of a worker is over that ends alone, the greenlets of its views are killed: ``finally`` runs,
    and another worker takes the place.
    """
    options = ["--graceful-timeout", "4", "--max-requests", "3" if how == "max_requests" else "0"]
    with launch("worker", server_directory, options=options) as server:
        before = server.status()["pid"]
        with visitors(server, "/forever?id=one") as [client]:
            if how == "told":
                os.kill(before, signal.SIGTERM)
            codes = goodbyes([client])
        server.log.find("finally of one$")
        eventually(lambda: server.status()["pid"] != before, "a new worker")
    assert codes == [1012]


def test_view_that_looks_at_nothing_ends_before_the_arbiter_kills(server_directory: Path) -> None:
    """SIGTERM to the arbiter, which kills when the graceful timeout is over: ``finally`` has run by then."""
    with launch("worker", server_directory, options=["--graceful-timeout", "4"]) as server:
        with visitors(server, "/forever?id=one") as [client]:
            server.kill(signal.SIGTERM)
            codes = goodbyes([client])
            server.wait(PATIENCE)
        server.log.find("finally of one$")
    assert codes == [1012]


@pytest.mark.parametrize("kind", ["worker", "gevent"])
def test_handshake_behind_the_goodbye_is_sent_home_too(server_directory: Path, kind: str) -> None:
    """On a connection that was open before: a 101 and then 1012, and no refusal, which a browser would take for a
    failure.
    """
    with launch(kind, server_directory, options=["--keep-alive", "10"]) as server:
        with visitors(server, "/waiting?id=one") as [witness], server.connect() as late:
            late.send(request("/plain"))
            late.read_response()
            server.kill(signal.SIGTERM)
            assert witness.read_frame().code == 1012
            late.send(upgrade_request("/waiting?id=late"))
            late.read_response()
            frames = [late.read_frame()]
            while frames[-1].opcode != CLOSE:
                frames.append(late.read_frame())
            late.send(close_frame(1012))
            witness.send(close_frame(1012))
        server.wait(PATIENCE)
    assert frames[-1].code == 1012


def test_goodbyes_to_many_are_spread(server_directory: Path) -> None:
    """Each client that comes back costs the next worker a handshake: 500 goodbyes in a second."""
    count = 600
    with launch("worker", server_directory) as server:
        with visitors(server, *["/detached"] * count) as clients:
            server.kill(signal.SIGTERM)
            times, codes = [], []
            for client in clients:
                codes.append(client.read_frame().code)
                times.append(time.monotonic())
                client.send(close_frame(1012))
        server.wait(PATIENCE)
    assert codes == [1012] * count
    assert max(times) - min(times) > 0.5


@pytest.mark.parametrize("kind", ABLE)
def test_close_code_of_a_shutdown_is_a_setting(server_directory: Path, kind: str) -> None:
    """``shutdown_close_code`` is what attached and detached connections are closed with, in every server."""
    with launch(kind, server_directory, env={"GWS_SHUTDOWN_CLOSE_CODE": "4123"}) as server:
        with visitors(server, "/waiting?id=one", "/detached?id=two") as clients:
            server.kill(signal.SIGTERM)
            codes = goodbyes(clients)
        server.wait(PATIENCE)
    assert codes == [4123, 4123]


def test_close_code_of_a_killed_view_is_the_setting(server_directory: Path) -> None:
    """A view that SystemExit ends is closed as at any other stop."""
    env = {"GWS_SHUTDOWN_CLOSE_CODE": "4123"}
    with launch("gevent", server_directory, env=env) as server, server.connect() as client:
        client.upgrade("/after/killed")
        client.read_frame()
        code = client.read_frame().code
        client.send(close_frame(4123))
        client.read_until_eof()
    assert code == 4123


@pytest.mark.parametrize("kind", ["worker", "gevent", "gevent_pywsgi"])
def test_application_may_replace_the_signal_handler(server_directory: Path, kind: str) -> None:
    """One that chains gunicorn's handler of SIGTERM in its own: the worker is found all the same, so connections are
    closed at once and each has its line in the access log.
    """
    with launch(kind, server_directory, "tests.fixtureapps.chained") as server:
        with visitors(server, "/waiting?id=one", "/detached?id=two") as clients:
            server.kill(signal.SIGTERM)
            codes = goodbyes(clients)
        server.wait(PATIENCE)
        server.log.find("(finally|on_close) of .* after 1012", 2)
        lines = [line.status for line in server.access("id=")]
    assert (codes, lines) == ([1012, 1012], [101, 101])


READS_THE_CLASS = """
def post_worker_init(worker):
    worker.cfg.worker_class

def when_ready(arbiter):
    arbiter.cfg.worker_class
"""


def test_reading_the_worker_class_is_no_reload(server_directory: Path) -> None:
    """The control socket of gunicorn, agents and hooks read ``cfg.worker_class``, and each read calls ``setup()`` of a
    class that has one: a stop is closed with the same code as without.
    """
    config = server_directory.parent / "reads_the_class.py"
    config.write_text(READS_THE_CLASS)
    options = ["--config", str(config)]
    with launch("worker", server_directory, options=options, env={"GWS_SHUTDOWN_CLOSE_CODE": "1001"}) as server:
        with visitors(server, "/waiting?id=one", "/detached?id=two") as clients:
            server.kill(signal.SIGTERM)
            codes = goodbyes(clients)
        server.wait(PATIENCE)
    assert codes == [1001, 1001]


WATCH = """
import os
from types import SimpleNamespace
from gws_middleware.servers.gunicorn import watch_worker

class Worker:
    alive, nr, max_requests, cfg = True, 0, 1, SimpleNamespace(graceful_timeout=1)
    def notify(self): pass
    def run(self): watch_worker()

watch_worker()
if not os.fork():
    worker = Worker()
    worker.run()
    os._exit("notify" in vars(worker))
_, status = os.wait()
print(os.waitstatus_to_exitcode(status))
"""


def test_forked_worker_watches_for_itself() -> None:
    """Also where its parent has opened a WebSocket: it was no worker, so it looked at no heartbeat."""
    answer = subprocess.run(
        [sys.executable, "-c", WATCH], env=package_path(), capture_output=True, text=True, timeout=30, check=True
    )
    assert answer.stdout == "1\n"
