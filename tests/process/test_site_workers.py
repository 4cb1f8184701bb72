"""``site`` in gunicorns of several workers: on one host with a file, and on two hosts with Redis."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from gws_middleware.groups.backends.redis import LIVING

from ..support.brokers import Broker, broker
from ..support.rawclient import CLOSE, RawClient, upgrade_request
from ..support.servers import Server, launch
from ..support.waiting import eventually

APP = "tests.fixtureapps.sites:wrapped"
LIMITS = {"max_connections": 40, "max_connections_per_address": 8, "max_connections_per_user": 5}


class Site:
    """Its servers, as clients of all of them see them."""

    def __init__(self, servers: list[Server]) -> None:
        self.servers = servers
        self._open: dict[RawClient, tuple[Server, int]] = {}
        """Each client with its server and its worker."""
        self._turn = 0

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    @property
    def workers(self) -> int:
        """In how many workers they are."""
        return len({worker for _, worker in self._open.values()})

    def open(self, **headers: str) -> tuple[int, str]:
        """A handshake at the next server: status and body; of one that was accepted the process, or the close code."""
        self._turn += 1
        server = self.servers[self._turn % len(self.servers)]
        client = server.connect(timeout=20)
        client.send(upgrade_request("/", *[(f"X-{name}", value) for name, value in headers.items()]))
        response = client.read_response()
        if response.status != 101:
            client.close()
            return response.status, response.body.decode()
        client.text("x")
        answer = client.read_frame()
        if answer.opcode == CLOSE:
            client.close()
            return 101, str(answer.code)
        self._open[client] = server, int(answer.payload)
        return 101, answer.payload.decode()

    def open_many(self, count: int, **headers: str) -> list[tuple[int, str]]:
        """So many at the same time."""
        with ThreadPoolExecutor(count) as pool:
            return [future.result() for future in [pool.submit(self.open, **headers) for _ in range(count)]]

    def fill(self, limit: int, **headers: str) -> None:
        """Open until there are so many. What was refused or closed just before may count for a moment."""
        while len(self) < limit:
            eventually(lambda: accepted([self.open(**headers)]), "a free slot", interval=0.2)

    def close(self, count: int | None = None) -> None:
        """Disconnect the oldest, or all."""
        for client in list(self._open)[:count]:
            del self._open[client]
            client.close()

    @contextmanager
    def stopped_worker(self) -> Iterator[None]:
        """The worker with most connections takes no other one for the time of a block."""
        workers = list(self._open.values())
        _, worker = max(workers, key=workers.count)
        os.kill(worker, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(worker, signal.SIGCONT)

    def kill_a_worker(self) -> int:
        """SIGKILL to the worker with most connections; how many it had."""
        workers = list(self._open.values())
        server, worker = max(workers, key=workers.count)
        os.kill(worker, signal.SIGKILL)
        self.lose(server, worker)
        server.log.expect("Worker .* was sent SIGKILL")
        return workers.count((server, worker))

    def lose(self, server: Server, worker: int | None = None) -> None:
        """Wait for the end of the connections of a server, or of one of its workers, and disconnect."""
        for client, of in list(self._open.items()):
            if of[0] is server and worker in (None, of[1]):
                del self._open[client]
                with suppress(EOFError):
                    client.read_frame()
                client.close()


class Place(NamedTuple):
    """Where the numbers are."""

    url: str
    hosts: int
    workers: int
    broker: Broker | None


@pytest.fixture(params=["one host", pytest.param("two hosts", marks=pytest.mark.database)], scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if request.param == "one host":
        yield Place("auto", 1, 4, None)
    else:
        with broker(tmp_path_factory.mktemp("valkey")) as running:
            yield Place(running.url, 2, 2, running)


@pytest.fixture(scope="module")
def servers(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Four workers. Hosts have directories of their own."""
    env = {"GROUPS": place.url, "LIMITS": json.dumps(LIMITS)}
    options = ["--workers", str(place.workers)]
    with ExitStack() as stack:
        yield [
            stack.enter_context(launch("worker", tmp_path_factory.mktemp("host"), APP, options=options, env=env))
            for _ in range(place.hosts)
        ]


@pytest.fixture
def site(servers: list[Server]) -> Iterator[Site]:
    """After the test all slots are free."""
    made = Site(servers)
    yield made
    made.close()
    for server in servers:
        server.log.check()


def accepted(found: list[tuple[int, str]]) -> int:
    """How many were let in and stay open."""
    return len([1 for status, text in found if status == 101 and text != "1008"])


REFUSED = {
    "address": (8, (429, "Your address has 8 WebSockets here, and may have no more.\n")),
    "user": (5, (101, "1008")),
}
WHOLE = 40, (503, "This site has 40 WebSockets, and takes no more for now.\n")


@pytest.mark.parametrize("what", list(REFUSED))
def test_limits_count_all_workers(site: Site, what: str) -> None:
    """So many are let in, in several workers; the next one is refused as by one worker. One that ends is free soon."""
    fills_and_refills(site, *REFUSED[what], **{what: "first"})


def fills_and_refills(site: Site, limit: int, refusal: tuple[int, str], **headers: str) -> None:
    site.fill(limit // 2, **headers)
    with site.stopped_worker():  # an idle server may give all connections to one
        site.fill(limit - 1, **headers)
    site.fill(limit, **headers)
    assert site.workers > 1
    assert [site.open(**headers) for _ in range(5)] == [refusal] * 5
    site.close(2)
    site.fill(limit, **headers)
    assert [site.open(**headers) for _ in range(5)] == [refusal] * 5


@pytest.mark.parametrize("what", list(REFUSED))
def test_many_handshakes_at_once_are_never_more_than_the_limit(site: Site, what: str) -> None:
    """From many sockets, in all workers, again and again."""
    comes_at_once(site, *REFUSED[what], **{what: "second"})


def comes_at_once(site: Site, limit: int, refusal: tuple[int, str], **headers: str) -> None:
    for _ in range(3):
        found = site.open_many(2 * limit, **headers)
        assert accepted(found) <= limit
        assert {one for one in found if not accepted([one])} == {refusal}
        site.fill(limit, **headers)
        assert not accepted(site.open_many(8, **headers))
        site.close()


def test_slots_of_a_killed_worker_are_free(site: Site, place: Place) -> None:
    """At once on one host; with Redis after fifteen seconds, in which nothing else has changed."""
    site.fill(8, address="third")
    killed = site.kill_a_worker()
    begun = time.monotonic()
    eventually(lambda: accepted([site.open(address="third")]), "a slot of the killed worker", timeout=25, interval=0.5)
    if place.broker is not None:
        assert time.monotonic() - begun > 10
    assert killed > 1
    site.fill(8, address="third")
    assert site.open(address="third")[0] == 429


def test_whole_site_has_a_limit(site: Site) -> None:
    """The same for all connections, after the tests that are to stay below it."""
    fills_and_refills(site, *WHOLE)
    site.close()
    comes_at_once(site, *WHOLE)


def test_slots_of_a_killed_worker_are_free_at_once_on_one_host(tmp_path: Path) -> None:
    """Though no connection is a member of a group, so that nothing looks for processes that live no more."""
    env = {"LIMITS": json.dumps({"max_connections": 4}), "GROUPS": f"sqlite://{tmp_path}/log"}
    with launch("worker", tmp_path / "a", APP, options=["--workers", "2"], env=env) as server:
        site = Site([server])
        site.fill(4)
        assert site.open()[0] == 503
        killed = site.kill_a_worker()
        begun = time.monotonic()
        site.fill(4)
        assert time.monotonic() - begun < LIVING  # after which those of Redis would be free
        assert killed > 0 and site.open()[0] == 503

        def both_serve() -> bool:
            site.close()
            site.open_many(4)
            return site.workers == 2

        eventually(both_serve, "the next worker: gunicorn loses a stop that comes while it starts", timeout=20)
        site.close()


@pytest.mark.database
def test_worker_has_its_own_limits_while_the_broker_is_stopped(tmp_path: Path) -> None:
    """The first handshakes wait for a second at most; the log says so once; when the broker answers, what was let in
    counts.
    """
    env = {"LIMITS": json.dumps({"max_connections": 3})}
    with broker(tmp_path / "valkey") as running:
        servers = [launch("worker", tmp_path / name, APP, env={**env, "GROUPS": running.url}) for name in ("a", "b")]
        with servers[0] as one, servers[1] as other:
            site = Site([one, other])
            assert [site.open()[0] for _ in range(4)] == [101, 101, 101, 503]
            site.close(1)
            site.fill(3)
            running.kill(signal.SIGSTOP)
            try:
                times: list[float] = []
                found = []
                for _ in range(12):
                    begun = time.monotonic()
                    found.append(site.open())
                    times.append(time.monotonic() - begun)
                assert len(site) == 6  # three in each worker
                assert found[-1] == (503, "This site has 3 WebSockets, and takes no more for now.\n")
                assert max(times) < 1.0 + 2.0  # WAIT, and a busy machine
                assert sum(times) < 2 * 1.0 + 4.0  # one wait in each worker, and no more
            finally:
                running.kill(signal.SIGCONT)
            for server in (one, other):
                server.log.expect("limits count this worker alone")
                server.log.expect("limits count all workers again")
            site.close(3)
            time.sleep(0.5)
            assert site.open()[0] == 503
            site.close(1)
            site.fill(3)
            site.close()
            for server in (one, other):  # a busy machine may take longer than the time of a call
                for problem in server.log.problems():
                    if "groups: " in problem.text:
                        server.log.expect(re.escape(problem.text))


@pytest.mark.database
@pytest.mark.parametrize("kind", ["worker", "gevent"])
def test_slots_of_a_stopped_server_are_free_at_once(tmp_path: Path, kind: str) -> None:
    """The last numbers are put before a worker ends: its clients connect to other workers, and are let in."""
    env = {"LIMITS": json.dumps({"max_connections": 3})}
    with broker(tmp_path / "valkey") as running:
        env["GROUPS"] = running.url
        with launch("worker", tmp_path / "b", APP, env=env) as other:
            with launch(kind, tmp_path / "a", APP, env=env) as one:
                leaving = Site([one])
                assert [leaving.open()[0] for _ in range(4)] == [101, 101, 101, 503]
                one.kill(signal.SIGTERM)
                leaving.lose(one)
                one.wait()
            staying = Site([other])
            assert [staying.open()[0] for _ in range(4)] == [101, 101, 101, 503]
            staying.close()
