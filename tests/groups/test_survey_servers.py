"""The survey of real workers: from a process that is none, and from each of them; on one host, and on two."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gws_middleware.groups import Groups, GroupsUnavailable, Presence, UnknownOutcome
from gws_middleware.groups.backends.base import TIMEOUT, Want
from gws_middleware.groups.backends.sqlite import SqliteBackend
from gws_middleware.groups.orders import KEPT, ORDERS
from tests.support.brokers import Broker, broker
from tests.support.programs import run_python
from tests.support.rawclient import CLOSE, TEXT, Frame, RawClient
from tests.support.servers import Log, Server, launch
from tests.support.waiting import SPARE, eventually

APP = "tests.fixtureapps.surveyed"


class Site:
    """Servers with the same groups, which this process has, too; it is no worker."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        self.groups, self._stack = Groups(url), stack
        stack.callback(self.groups.release)
        self.clients: dict[int, RawClient] = {}
        """A member in each process."""

    def join(self, server: Server, workers: int) -> None:
        """Open connections until each worker has one, and close the others."""
        found: dict[int, RawClient] = {}
        while len(found) < workers:
            client = self._stack.enter_context(server.connect())
            client.upgrade("/room")
            pid = int(client.read_frame().payload)
            if pid in found:
                client.close_handshake(1000)
            else:
                found[pid] = client
        self.clients |= found
        pids = sorted(self.clients)
        eventually(lambda: sorted(one.pid for one in self.groups.workers()) == pids, "all workers are known")
        eventually(lambda: len(self.groups.connections()) == len(pids), "the others have ended")

    def id_of(self, pid: int) -> str:
        """Of the connection in this worker."""
        [found] = [each for each in self.groups.connections() if each.worker.endswith(f":{pid}")]
        return found.id


@contextmanager
def site(url: str, *directories: Path, options: tuple[str, ...] = ()) -> Iterator[tuple[Site, list[Server]]]:
    """A gunicorn with two workers for each directory."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                launch("worker", directory, APP, options=["--workers", "2", *options], env={"GROUPS": url})
            )
            for directory in directories
        ]
        found = Site(url, stack)
        for server in servers:
            found.join(server, 2)
        yield found, servers


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.database)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of the groups."""
    return f"sqlite://{tmp_path}/log" if request.param == "sqlite" else str(request.getfixturevalue("valkey"))


@pytest.fixture
def one_host(url: str, tmp_path: Path) -> Iterator[tuple[Site, Server]]:
    with site(url, tmp_path / "server") as (found, [server]):
        yield found, server


def test_all_workers_are_seen_from_anywhere(one_host: tuple[Site, Server]) -> None:
    """By this process, and by each of them, each with all of its connections."""
    found, server = one_host
    survey = found.groups.survey()
    assert sorted(worker.pid for worker in survey.workers) == sorted(found.clients)
    assert [worker.connections for worker in survey.workers] == [1, 1]
    assert {(each.path, each.groups) for each in survey.connections} == {("/room", ("room.1",))}
    assert (survey.missing, survey.more) == ([], False)
    ids = sorted(each.id for each in survey.connections)
    for _ in range(6):
        pids, seen, missing = json.loads(server.get("/survey").body)
        assert (sorted(pids), seen, missing) == (sorted(found.clients), ids, [])


def test_surveys_and_messages_are_not_kept(tmp_path: Path) -> None:
    """The history of orders is for what no worker may miss: one survey each second would push logouts out of it."""
    with site(f"sqlite://{tmp_path}/log", tmp_path / "server") as (found, _):
        pid = min(found.clients)
        number = found.id_of(pid)
        log = SqliteBackend(tmp_path / "log")

        def kept() -> int:
            [page] = log.read([Want(ORDERS, KEPT, 0, 0)])
            return page.top

        before = kept()
        found.groups.survey()
        found.groups.send_to(number, "x")
        assert kept() == before
        found.groups.close_connection(number)
        assert kept() == before + 1
        log.close()


def test_worker_is_chosen(one_host: tuple[Site, Server]) -> None:
    """By its name."""
    found, _ = one_host
    for worker in found.groups.workers():
        survey = found.groups.survey(worker=worker.name)
        assert [one.pid for one in survey.workers] == [worker.pid]
        assert [each.worker for each in survey.connections] == [worker.name]


def test_connection_is_closed_in_whichever_worker_it_is(one_host: tuple[Site, Server]) -> None:
    """By this process, and by a worker."""
    found, server = one_host
    (first, one), (second, other) = found.clients.items()
    found.groups.close_connection(found.id_of(first), 4000, "bye")
    frame = one.read_frame()
    assert (frame.opcode, frame.payload) == (CLOSE, b"\x0f\xa0bye")
    number = found.id_of(second)
    while int(server.get(f"/close?connection={number}").body) == second:
        pass  # until the other one has been asked
    frame = other.read_frame()
    assert (frame.opcode, frame.payload) == (CLOSE, b"\x0f\xa1closed by another worker")


def test_message_is_sent_to_one_connection(one_host: tuple[Site, Server]) -> None:
    """Once, in whichever worker it is; the other one gets none."""
    found, _ = one_host
    for pid, client in found.clients.items():
        found.groups.send_to(found.id_of(pid), f"for {pid}")
        assert client.read_frame() == Frame(TEXT, f"for {pid}".encode())
        client.text("own")
        assert client.read_frame() == Frame(TEXT, b"own")


def test_worker_that_is_stopped_is_missing(one_host: tuple[Site, Server]) -> None:
    """The others answer, and the survey takes its time and no more."""
    found, _ = one_host
    stopped, running = sorted(found.clients)
    os.kill(stopped, signal.SIGSTOP)
    try:
        begin = time.monotonic()
        survey = found.groups.survey(timeout=0.5)
        assert time.monotonic() - begin >= 0.5
        assert [worker.pid for worker in survey.workers] == [running]
        assert [name.rpartition(":")[2] for name in survey.missing] == [str(stopped)]
    finally:
        os.kill(stopped, signal.SIGCONT)
    eventually(lambda: found.groups.survey().missing == [], "it answers again")


def test_worker_that_has_ended_is_not_waited_for(url: str, tmp_path: Path) -> None:
    """It withdraws itself: no survey takes its whole time after a deploy."""
    with ExitStack() as stack:
        here = Site(url, stack)
        with site(url, tmp_path / "server"):
            assert len(here.groups.workers()) == 2
        assert here.groups.survey(timeout=60) == ([], [], [], False)


def test_health_sums_up_all_workers(one_host: tuple[Site, Server]) -> None:
    """Whichever answers."""
    _, server = one_host
    for _ in range(4):
        report = json.loads(server.get("/health").body)
        assert (report["connections"], report["site"]["workers"], report["site"]["connections"]) == (1, 2, 2)
        assert (report["site"]["missing"], report["site"]["error"]) == ([], None)


def test_workers_of_a_preloaded_application_know_each_other(tmp_path: Path) -> None:
    """Its groups were made before the fork: each worker is one of its own, and carries out the orders of the others."""
    with site(f"sqlite://{tmp_path}/log", tmp_path / "server", options=("--preload",)) as (found, [server]):
        assert len({worker.name for worker in found.groups.workers()}) == 2
        pid, client = next(iter(found.clients.items()))
        number = found.id_of(pid)
        while int(server.get(f"/close?connection={number}").body) == pid:
            pass
        assert client.read_frame().opcode == CLOSE


def test_process_that_asks_has_no_event_loop(one_host: tuple[Site, Server], tmp_path: Path) -> None:
    """A command, which nothing has patched: no hub, no thread, and nothing that stays open."""
    found, _ = one_host
    script = """
import json, os, sys, threading
from gws_middleware.groups import Groups
groups = Groups(sys.argv[1])
groups.survey(limit=0)
before = len(os.listdir("/proc/self/fd"))
survey = groups.survey()
from gevent._hub_local import get_hub_if_exists
left = len(os.listdir("/proc/self/fd")) - before
found = [len(survey.workers), len(survey.connections), get_hub_if_exists() is None, threading.active_count(), left]
print(json.dumps(found))
"""
    ended = run_python("-c", script, found.groups.url)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout) == [2, 2, True, 1, 0]


# --- hosts ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Broker]:
    """A broker of one test."""
    with broker(tmp_path / "broker") as running:
        yield running


@pytest.mark.database
def test_two_hosts_are_one_site(server: Broker, tmp_path: Path) -> None:
    """Two gunicorns with directories of their own, and one broker."""
    with site(server.url, tmp_path / "one", tmp_path / "other") as (found, [one, other]):
        survey = found.groups.survey()
        assert sorted(worker.pid for worker in survey.workers) == sorted(found.clients)
        assert len(survey.connections) == len(found.clients) == 4
        for each in (one, other):
            assert sorted(json.loads(each.get("/survey").body)[0]) == sorted(found.clients)
            assert json.loads(each.get("/health").body)["site"]["connections"] == 4
        pids = list(found.clients)
        number = found.id_of(pids[-1])  # of the other host
        one.get(f"/close?connection={number}")
        assert found.clients[pids[-1]].read_frame().opcode == CLOSE


@pytest.mark.database
def test_worker_that_was_killed_is_missing_until_the_broker_forgets_it(server: Broker, tmp_path: Path) -> None:
    """Its connections have ended; at the latest 15 seconds later nothing waits for it."""
    with site(server.url, tmp_path / "one") as (found, [gunicorn]):
        killed = min(found.clients)
        os.kill(killed, signal.SIGKILL)
        gunicorn.log.expect(r"was sent SIGKILL")
        survey = found.groups.survey(timeout=0.3)
        assert [name.rpartition(":")[2] for name in survey.missing] == [str(killed)]
        eventually(lambda: found.groups.survey(timeout=0.3).missing == [], "it is forgotten", timeout=25)


def answering(groups: Groups) -> list[int]:
    """The processes of all workers; none where they cannot be asked."""
    try:
        return sorted(worker.pid for worker in groups.workers())
    except GroupsUnavailable:
        return []


@pytest.mark.database
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "not yet connected"])
def test_calls_end_in_time_while_the_broker_is_stopped(server: Broker, connected: bool) -> None:
    """A survey after its own timeout, everything else after five seconds; at the same time in several threads, and
    whether there was a connection or not.
    """
    made = Groups(server.url, presence={"room": Presence()})
    calls: dict[str, tuple[float, Callable[[], object]]] = {
        "survey": (0.3, lambda: made.survey(timeout=0.3)),
        "connections": (0.6, lambda: made.connections(timeout=0.6)),
        "workers": (0.9, lambda: made.workers(timeout=0.9)),
        "members": (TIMEOUT, lambda: made.members("room.1")),
        "count": (TIMEOUT, lambda: made.count("room.1")),
        "send_to": (TIMEOUT, lambda: made.send_to("x", "x")),
        "close_connection": (TIMEOUT, lambda: made.close_connection("x")),
        "exchange_number": (TIMEOUT, lambda: made.exchange_number("x", 1)),
        "put_numbers": (TIMEOUT, lambda: made.put_numbers({"x": 1})),
    }
    if connected:
        made.survey()
    server.kill(signal.SIGSTOP)

    def measured(call: Callable[[], object]) -> float:
        begin = time.monotonic()
        with pytest.raises((GroupsUnavailable, UnknownOutcome)):
            call()
        return time.monotonic() - begin

    try:
        with ThreadPoolExecutor(len(calls)) as pool:
            took = dict(zip(calls, pool.map(lambda one: measured(one[1]), calls.values()), strict=True))
    finally:
        server.kill(signal.SIGCONT)
    assert {name: seconds for name, seconds in took.items() if seconds > calls[name][0] + SPARE} == {}
    made.release()


@pytest.mark.database
def test_surveys_of_a_worker_end_in_time_while_the_broker_is_stopped(server: Broker, tmp_path: Path) -> None:
    """Each after its own timeout, though all of them use one connection, which another call waits for."""
    with site(server.url, tmp_path / "one") as (found, [gunicorn]):
        server.kill(signal.SIGSTOP)

        def measured(timeout: float) -> float:
            begin = time.monotonic()
            assert gunicorn.get(f"/survey?timeout={timeout}").status == 503
            return time.monotonic() - begin

        try:
            with ThreadPoolExecutor(8) as pool:
                took = list(pool.map(measured, [3.5] * 4 + [0.5] * 4))
        finally:
            server.kill(signal.SIGCONT)
        assert [seconds for seconds in took[4:] if seconds > 0.5 + SPARE] == []
        assert [seconds for seconds in took if seconds > 3.5 + SPARE] == []
        eventually(lambda: answering(found.groups) == sorted(found.clients), "all workers answer again", timeout=30)
        expect_outage(gunicorn.log, at_least=0)


OUTAGE = "groups: (the )?outage|messages may be missing|messages are missing|the members of this process are"


def expect_outage(log: Log, at_least: int = 1) -> None:
    """Its beginnings have ended, and nothing else was logged."""

    def count(pattern: str) -> int:
        return sum(re.search(pattern, record.text) is not None for record in log.records())

    eventually(
        lambda: at_least <= count("groups: outage") == count("groups: the outage"), "the end of the outage", timeout=30
    )
    problems = log.problems()
    assert [record.text for record in problems if not re.search(OUTAGE, record.text)] == []
    if problems:
        log.expect("", len(problems))


@pytest.mark.database
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_broker_that_is_away(server: Broker, number: signal.Signals, tmp_path: Path) -> None:
    """The survey is an error; the health report answers in time, with this worker, and says so."""
    with site(server.url, tmp_path / "one") as (found, [gunicorn]):
        server.kill(number)
        begin = time.monotonic()
        report: dict[str, Any] = json.loads(gunicorn.get("/health").body)
        assert time.monotonic() - begin < 3
        assert report["site"]["error"]
        assert report["site"] | {"error": ""} == {
            "workers": 1,
            "connections": 1,
            "loop_lag": report["loop_lag"],
            "missing": [],
            "error": "",
        }
        with pytest.raises(GroupsUnavailable):
            found.groups.survey()
        assert gunicorn.get("/survey").status == 503
        server.kill(signal.SIGCONT) if number == signal.SIGSTOP else server.start()
        eventually(lambda: answering(found.groups) == sorted(found.clients), "all workers answer again", timeout=30)
        eventually(lambda: json.loads(gunicorn.get("/health").body)["site"]["connections"] == 2, "the report has all")
        expect_outage(gunicorn.log)
