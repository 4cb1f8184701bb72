"""``shutdown``: the drain and the coordinator; then, in real servers of every kind, a close frame for every WebSocket,
whatever ends the worker.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import gevent
import psutil
import pytest
from gevent.event import Event
from gunicorn import version_info as gunicorn_version

from gws_middleware.codes import CloseCode
from gws_middleware.process import shutdown as module
from gws_middleware.process.registry import Registry
from gws_middleware.process.shutdown import CLOSES_PER_SECOND, ShutdownCoordinator, drain, kill_views

from ..support import servers
from ..support.inprocess import Peer, connected, hub_errors, plain_channel, tcp_pair, ticks, unaccepted, until
from ..support.rawclient import CLOSE, TEXT, Frame, RawClient, close_frame, request, upgrade_request
from ..support.registries import here
from ..support.seam import registry_of
from ..support.servers import KINDS, POWERLESS, Certificate, Server, launch
from ..support.waiting import eventually
from .members import OpenConnection

__all__ = ["here", "hub_errors"]

ABLE = [name for name in KINDS if name not in POWERLESS and not name.endswith("-parser")]
"""Every server that opens WebSockets, each once."""
STOP_TIMEOUT = 8
"""Seconds within which a server has to end whose peers answer; gunicorn's own graceful timeout is 30."""


@contextmanager
def open_clients(server: Server, *paths: str) -> Iterator[list[RawClient]]:
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


def close_codes(clients: list[RawClient]) -> list[int]:
    """The codes of the close frames that they receive; each is answered, and the connection ends."""
    frames = [client.read_frame() for client in clients]
    for client, frame in zip(clients, frames, strict=True):
        assert frame.opcode == CLOSE
        client.send(close_frame(frame.code))
    assert [client.read_until_eof() for client in clients] == [b""] * len(clients)
    return [frame.code for frame in frames]


# --- the drain, in this process --------------------------------------------------------------------------------------


def test_drain_without_connections_returns_at_once() -> None:
    """A worker without connections stops without delay."""
    begin = time.monotonic()
    drain(Registry(), timeout=60)
    assert time.monotonic() - begin < 1


def test_drain_sends_close_frames_and_waits_until_all_sockets_are_closed() -> None:
    """Each connection is closed once; the default code is its ``shutdown_close_code``."""
    registry = Registry()
    members = [OpenConnection(registry, after) for after in (0, 0.01, 0.02)]
    drain(registry, timeout=60)
    assert [connection.calls for connection in members] == [[1012]] * 3
    assert len(registry) == 0


def test_drain_aborts_connections_that_are_open_after_the_timeout() -> None:
    """And no other."""
    registry = Registry()
    closing, staying = OpenConnection(registry, 0.01), OpenConnection(registry)
    drain(registry, CloseCode.SERVICE_RESTART, timeout=0.1)
    assert (closing.calls, staying.calls) == ([1012], [1012, "abort"])
    assert len(registry) == 0


def test_two_drains_at_once_do_no_harm() -> None:
    """SIGTERM may come twice, and a server's ``stop()`` may drain while its worker does."""
    registry = Registry()
    connection = OpenConnection(registry, 0.02)
    drains = [gevent.spawn(drain, registry, 1001, 5.0) for _ in range(2)]
    gevent.joinall(drains, timeout=5, raise_error=True)
    assert "abort" not in connection.calls


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The sleeps of a drain, which take no time: its clock stands still otherwise."""
    noted: list[float] = []
    monkeypatch.setattr(module.time, "monotonic", lambda: sum(noted))
    monkeypatch.setattr(module.gevent, "sleep", noted.append)
    return noted


@pytest.mark.parametrize(
    ("count", "timeout", "least", "most"),
    [
        (2000, 60, 2000 / CLOSES_PER_SECOND - 0.2, 2000 / CLOSES_PER_SECOND),
        (2000, 1.0, 0.9, 1.0),
        (20, 60, 0, 0),
    ],
    ids=["many", "too many for the timeout", "few"],
)
def test_close_frames_are_spread(pauses: list[float], count: int, timeout: float, least: float, most: float) -> None:
    """At most ``CLOSES_PER_SECOND``, and a few at a time: each of them makes a client connect again at once. They take
    no longer than the timeout, and few are not delayed at all.
    """
    registry, order = Registry(), []
    members = [OpenConnection(registry, 0, on_close=order.append) for _ in range(count)]
    drain(registry, CloseCode.SERVICE_RESTART, timeout)
    assert order == members
    assert {tuple(connection.calls) for connection in members} == {(1012,)}
    assert least <= sum(pauses) <= most
    assert max(pauses, default=0) < 0.1


def test_connection_that_is_accepted_during_a_drain_is_closed_too() -> None:
    """With the same code as the others; its ``accept()`` returns before."""
    registry = Registry()
    drain(registry, CloseCode.SERVICE_RESTART, timeout=0.01)
    late = OpenConnection(registry, 0)
    at_once = list(late.calls)
    until(lambda: late.calls)
    assert (at_once, late.calls, registry.is_draining) == ([], [1012], True)


def test_real_connection_that_is_accepted_during_a_drain_is_closed_too() -> None:
    """Its 101 comes before the close frame."""
    with connected() as (ws, peer):
        registry = registry_of(ws)
        draining = gevent.spawn(drain, registry, CloseCode.SERVICE_RESTART, 5.0)
        assert peer.close_frame() == (1012, "")
        ours, theirs = tcp_pair()
        late = unaccepted(lambda headers: (plain_channel(ours), b""), registry)
        late.accept()
        other = Peer(theirs)
        assert other.close_frame() == (1012, "")
        for one in (peer, other):
            one.answer()
        draining.get(timeout=5)
        theirs.close()
        assert late.close_code == 1012


def test_drain_waits_for_views() -> None:
    """Their sockets are closed before; their ``finally`` must not be cut off."""
    registry, order = Registry(), []
    connection = OpenConnection(registry, 0, has_view=True, on_close=order.append)
    gevent.spawn_later(0.05, lambda: (order.append("view"), registry.finished(connection)))
    drain(registry, timeout=60)
    assert order == [connection, "view"]


def test_drain_waits_for_views_no_longer_than_the_timeout() -> None:
    """A view that never returns does not keep the worker."""
    registry = Registry()
    OpenConnection(registry, 0, has_view=True)
    begin = time.monotonic()
    drain(registry, timeout=0.1)
    assert 0.1 <= time.monotonic() - begin < 3


def test_drain_of_some_leaves_others_open() -> None:
    """Neither open connections nor those that are accepted later are closed, and it does not wait for them."""
    registry = Registry()
    closing, staying = OpenConnection(registry, 0.01), OpenConnection(registry)
    drain(registry, timeout=60, only=[closing])
    late = OpenConnection(registry)
    ticks()
    found = closing.calls, staying.calls, late.calls, registry.is_draining
    for connection in (staying, late):
        registry.remove(connection)
    assert found == ([1012], [], [], False)


def test_drain_of_some_aborts_no_other() -> None:
    """A drain of all runs at the same time, and gives more time."""
    registry = Registry()
    one, two = OpenConnection(registry), OpenConnection(registry, 0.3)
    some = gevent.spawn(drain, registry, 1001, 0.05, [one])
    everything = gevent.spawn(drain, registry, 1012, 5.0)
    some.get(timeout=5)
    found = list(two.calls)
    everything.get(timeout=5)
    assert found == [1012]


def test_drain_of_some_waits_for_their_views_alone() -> None:
    """Another view may go on for hours."""
    registry = Registry()
    mine, other = (OpenConnection(registry, 0, has_view=True) for _ in range(2))
    gevent.spawn_later(0.05, registry.finished, mine)
    drain(registry, timeout=60, only=[mine])
    registry.remove(other)
    assert registry.unfinished == [other]


@pytest.mark.parametrize("answers", [True, False])
def test_drain_closes_real_connections(answers: bool) -> None:
    """A peer that answers is disconnected at once, one that does not at the timeout."""
    with connected() as (ws, peer):
        draining = gevent.spawn(drain, registry_of(ws), 1012, 5.0 if answers else 0.1)
        assert peer.close_frame() == (1012, "")
        if answers:
            peer.answer()
        draining.get(timeout=2)
        assert len(registry_of(ws)) == 0


def test_drain_returns_when_what_it_aborted_is_counted() -> None:
    """The last update of the metrics, after the drain, has all ends."""
    with connected() as (ws, peer):
        registry = registry_of(ws)
        drain(registry, 1001, timeout=0.1)
        assert (len(registry), dict(registry.counters.closed)) == (0, {1001: 1})
        assert peer.close_frame() == (1001, "")


def test_kill_ends_the_views_that_have_not_returned() -> None:
    """By GreenletExit, so that their ``finally`` runs. A greenlet whose view has returned is left alone."""
    registry, ended = Registry(), []
    members = [OpenConnection(registry) for _ in range(3)]

    def view(number: int) -> None:
        registry.view_started(members[number], gevent.getcurrent())
        try:
            gevent.sleep(60)
        except gevent.GreenletExit:
            ended.append(number)
            raise
        finally:
            registry.finished(members[number])

    views = [gevent.spawn(view, number) for number in range(3)]
    until(lambda: len(registry.views) == 3)
    views[0].kill()
    ended.clear()
    registry.view_returned(members[1])
    kill_views(registry)
    views[2].join(5)
    found = list(ended), views[1].dead
    views[1].kill()
    for connection in members:
        registry.remove(connection)
    assert found == ([2], False)


def test_kill_does_not_wait() -> None:
    """A view that goes on in its ``finally`` ends with the process."""
    registry, steps, go_on = Registry(), [], Event()
    connection = OpenConnection(registry)

    def view() -> None:
        registry.view_started(connection, gevent.getcurrent())
        try:
            gevent.sleep(60)
        finally:
            steps.append("finally")
            go_on.wait()
            steps.append("done")

    viewing = gevent.spawn(view)
    until(lambda: registry.views)
    kill_views(registry)
    before = list(steps)
    until(lambda: steps == ["finally"])
    go_on.set()
    viewing.join(5)
    registry.remove(connection)
    assert (before, steps) == ([], ["finally", "done"])


# --- the coordinator, in this process --------------------------------------------------------------------------------


def test_coordinator_closes_once_the_worker_is_to_stop(here: Registry) -> None:
    """Not before; and once, however often it checks."""
    stopping: list[bool] = []
    coordinator = ShutdownCoordinator(lambda: bool(stopping), graceful_timeout=0.6)
    connection = OpenConnection(here, 0.02)
    coordinator.check()
    ticks()
    before = list(connection.calls), coordinator.is_finished
    stopping.append(True)
    for _ in range(3):
        coordinator.check()
    until(lambda: coordinator.is_finished)
    assert (before, connection.calls) == (([], False), [1012])


def test_coordinator_kills_views_before_the_graceful_timeout_is_over(here: Registry) -> None:
    """At half of a short one."""
    coordinator = ShutdownCoordinator(lambda: True, graceful_timeout=0.2)
    connection, view = OpenConnection(here), gevent.spawn(gevent.sleep, 60)
    here.view_started(connection, view)
    begin = time.monotonic()
    coordinator.check()
    view.join(5)
    assert 0.1 <= time.monotonic() - begin < 3
    assert isinstance(view.value, gevent.GreenletExit)


def test_coordinator_closes_quickly(here: Registry) -> None:
    """A peer that does not answer costs a third of the graceful timeout, and views are killed."""
    coordinator = ShutdownCoordinator(lambda: True, graceful_timeout=0.15)
    connection, view = OpenConnection(here), gevent.spawn(gevent.sleep, 60)
    here.view_started(connection, view)
    begin = time.monotonic()
    coordinator.close_quickly()
    assert connection.calls == [1012, "abort"]
    assert view.dead
    assert time.monotonic() - begin < 3


# --- real servers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ABLE)
def test_stopped_server_closes_all(server_directory: Path, kind: str) -> None:
    """Attached and detached connections are closed with ``shutdown_close_code``, ``finally`` and ``on_close`` run, and
    the server ends long before its graceful timeout is over.
    """
    with launch(kind, server_directory, env={"GWS_SHUTDOWN_CLOSE_CODE": "4123"}) as server:
        with open_clients(server, "/waiting?id=one", "/waiting?id=two", "/detached?id=three") as clients:
            server.kill(signal.SIGTERM)
            codes = close_codes(clients)
        server.wait(STOP_TIMEOUT)
        ends = {
            record.text for record in server.log.records() if " after 4123" in record.text and "tests:" in record.text
        }
    assert codes == [4123] * 3
    assert ends == {
        "INFO tests: finally of one after 4123",
        "INFO tests: finally of two after 4123",
        "INFO tests: on_close of three after 4123",
    }


@pytest.mark.parametrize(
    ("number", "over_tls"),
    [(signal.SIGTERM, True), (signal.SIGINT, False), (signal.SIGQUIT, False)],
    ids=["term-tls", "int", "quit"],
)
def test_stopped_server_closes_all_whatever_the_signal(
    server_directory: Path, certificate: Certificate, number: int, over_tls: bool
) -> None:
    """Over TLS too, and after the signals at which gunicorn stops quickly."""
    with launch("worker", server_directory, certificate=certificate if over_tls else None) as server:
        with open_clients(server, "/waiting?id=one", "/detached?id=two") as clients:
            server.kill(number)
            codes = close_codes(clients)
        server.wait(STOP_TIMEOUT)
        server.log.find("(finally|on_close) of .* after 1012", 2)
    assert codes == [1012, 1012]


def test_peer_that_answers_no_close_frame_is_disconnected(server_directory: Path) -> None:
    """A silent peer costs a third of the graceful timeout, not all of it."""
    with launch("worker", server_directory, options=["--graceful-timeout", "3"]) as server:
        with open_clients(server, "/waiting?id=one", "/detached?id=two") as clients:
            server.kill(signal.SIGTERM)
            codes = [[one.code for one in client.read_frames_until_eof()] for client in clients]
        code = server.wait(3)
    assert (codes, code) == ([[1012]] * 2, 0)


@pytest.mark.parametrize("kind", ABLE)
def test_stopped_server_closes_all_where_every_view_has_returned(server_directory: Path, kind: str) -> None:
    """Detached connections alone keep no server from ending."""
    with launch(kind, server_directory) as server:
        with open_clients(server, "/detached?id=one", "/detached?id=two") as clients:
            server.kill(signal.SIGTERM)
            codes = close_codes(clients)
        server.wait(STOP_TIMEOUT)
        server.log.find("on_close of (one|two) after 1012", 2)
    assert codes == [1012, 1012]


@pytest.mark.parametrize("kind", ["worker", "gevent"])
@pytest.mark.parametrize("first", ["waiting", "detached"])
def test_worker_that_has_served_enough_closes_all(server_directory: Path, first: str, kind: str) -> None:
    """At ``max_requests``: 1012, attached and detached, also where every view has returned, and the next worker serves.
    (Workers on ``gevent.pywsgi`` count no requests.)
    """
    with launch(kind, server_directory, options=["--max-requests", "4"]) as server:
        before = server.status()["pid"]
        with open_clients(server, f"/{first}?id=one", "/detached?id=two") as clients:
            codes = close_codes(clients)
        server.next_worker(before)
        server.log.find("(finally|on_close) of .* after 1012", 2)
    assert codes == [1012, 1012]


def test_new_worker_serves_while_the_old_one_waits_for_peers(server_directory: Path) -> None:
    """On SIGHUP: 1012; a peer that does not answer delays no other, and is disconnected."""
    # The old worker waits for a third of it: longer than the new one takes to boot on a busy machine.
    with launch("worker", server_directory, options=["--graceful-timeout", "24"]) as server:
        before = server.status()["pid"]
        with open_clients(server, "/waiting?id=one", "/detached?id=two") as clients:
            server.kill(signal.SIGHUP)
            codes = [client.read_frame().code for client in clients]
            server.next_worker(before)
            with server.connect() as client:
                client.upgrade("/echo")
                client.text("x")
                echo = client.read_frame()
            old_is_there = psutil.pid_exists(before)
            rest = [client.read_until_eof() for client in clients]
    assert codes == [1012, 1012]
    assert (echo, old_is_there, rest) == (Frame(TEXT, b"x"), True, [b"", b""])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_worker_that_boots_is_stopped(server_directory: Path, number: int) -> None:
    """The signal comes after the fork, and before gunicorn's ``init_signals()``: it is not lost, which would keep the
    arbiter waiting until the graceful timeout is over.
    """
    options = ["--worker-class", "tests.fixtureapps.workers.SlowToBoot"]
    with launch("worker", server_directory, options=options, answers=False) as server:
        server.log.find("patching")
        server.kill(number)
        assert server.wait() == 0
        server.log.find("Worker exiting")


def test_worker_whose_view_sleeps_ends_before_it_is_killed(server_directory: Path) -> None:
    """Also where it takes gunicorn a second to notice the signal and another one to notice that the view has ended."""
    options = ["--worker-class", "tests.fixtureapps.workers.LateToStop", "--graceful-timeout", "6"]
    with launch("worker", server_directory, options=options) as server:
        with open_clients(server, "/forever?id=one") as clients:
            codes = close_codes(clients)
        assert server.wait() == 0
        server.log.find("finally of one")
        server.log.find("the exit handler has run")
    assert codes == [1012]


def test_changed_code_closes_all(server_directory: Path) -> None:
    """With ``--reload``: 1012, and the port is served again at once."""
    watched = server_directory.parent / "watched.txt"
    watched.write_text("")
    options = ["--reload", "--reload-extra-file", str(watched), "--reload-engine", "poll"]
    with launch("worker", server_directory, options=options) as server:
        before = server.status()["pid"]
        with open_clients(server, "/waiting?id=one", "/detached?id=two") as clients:
            os.utime(watched, (time.time() + 60,) * 2)
            codes = close_codes(clients)
            server.next_worker(before)
        server.log.find("(finally|on_close) of .* after 1012", 2)
        if gunicorn_version >= (25,):  # it warns once in each worker
            server.log.expect("Reloader is on", 2)
    assert codes == [1012, 1012]


def test_blocked_worker_closes_all_before_it_is_killed(server_directory: Path) -> None:
    """A view that computes for longer than ``--timeout`` ends the connections of others, but with a close frame."""
    with launch("worker", server_directory, options=["--timeout", "2"]) as server:
        before = server.status()["pid"]
        with open_clients(server, "/waiting?id=one", "/detached?id=two") as clients, server.connect() as culprit:
            culprit.upgrade("/blocking")
            codes = close_codes(clients)
            server.next_worker(before)
        server.log.find("(finally|on_close) of .* after 1012", 2)
        server.log.expect("WORKER TIMEOUT")
        if gunicorn_version >= (27,):  # it logs which view it was
            server.log.expect("Error handling request.*in blocking.*SystemExit")
    assert codes == [1012, 1012]


def test_worker_without_an_arbiter_closes_all(server_directory: Path) -> None:
    """The arbiter was killed: its worker finds out, and stops as at a signal."""
    server = servers.start("worker", server_directory)
    servers.await_answer(server)
    worker = psutil.Process(server.status()["pid"])
    with open_clients(server, "/waiting?id=one", "/detached?id=two") as clients:
        server.process.kill()
        server.process.wait()
        codes = close_codes(clients)
    eventually(lambda: not worker.is_running(), "the end of the worker")
    server.log.find("(finally|on_close) of .* after 1012", 2)
    assert codes == [1012, 1012]


@pytest.mark.parametrize("how", ["signal to the worker", "max_requests", "signal to the arbiter"])
def test_view_that_ignores_the_end_is_killed(server_directory: Path, how: str) -> None:
    """Before the graceful timeout is over the greenlets of its views are killed, and ``finally`` runs. An arbiter that
    stops kills its workers only after that; one that does not starts another worker.
    """
    options = ["--graceful-timeout", "4", "--max-requests", "3" if how == "max_requests" else "0"]
    with launch("worker", server_directory, options=options) as server:
        before = server.status()["pid"]
        with open_clients(server, "/forever?id=one") as [client]:
            if how == "signal to the worker":
                os.kill(before, signal.SIGTERM)
            elif how == "signal to the arbiter":
                server.kill(signal.SIGTERM)
            codes = close_codes([client])
        if how == "signal to the arbiter":
            server.wait(STOP_TIMEOUT)
        else:
            server.next_worker(before)
        server.log.find("finally of one$")
    assert codes == [1012]


@pytest.mark.parametrize("kind", ["worker", "gevent"])
def test_handshake_during_a_drain_is_accepted_and_closed(server_directory: Path, kind: str) -> None:
    """On a connection that was open before: a 101 and then 1012, and no refusal, which a browser would report as a
    failure.
    """
    with launch(kind, server_directory, options=["--keep-alive", "10"]) as server:
        with open_clients(server, "/waiting?id=one") as [witness], server.connect() as late:
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
        server.wait(STOP_TIMEOUT)
    assert frames[-1].code == 1012


def test_close_frames_of_a_server_are_spread(server_directory: Path) -> None:
    """Each client that connects again costs the next worker a handshake: 500 close frames in a second."""
    count = 600
    with launch("worker", server_directory) as server:
        with open_clients(server, *["/detached"] * count) as clients:
            server.kill(signal.SIGTERM)
            times, codes = [], []
            for client in clients:
                codes.append(client.read_frame().code)
                times.append(time.monotonic())
                client.send(close_frame(1012))
        server.wait(STOP_TIMEOUT)
    assert codes == [1012] * count
    assert max(times) - min(times) > 0.5


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
        with open_clients(server, "/waiting?id=one", "/detached?id=two") as clients:
            server.kill(signal.SIGTERM)
            codes = close_codes(clients)
        server.wait(STOP_TIMEOUT)
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
        with open_clients(server, "/waiting?id=one", "/detached?id=two") as clients:
            server.kill(signal.SIGTERM)
            codes = close_codes(clients)
        server.wait(STOP_TIMEOUT)
    assert codes == [1001, 1001]
