"""``site``: limits that count all workers. Each worker here is ``Slots`` with ``Groups`` of its own; all have
the same file.
"""

from __future__ import annotations

import os
import random
import signal
import uuid
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gws_middleware import HandshakeRefused, WebSocketMiddleware
from gws_middleware.config import Config
from gws_middleware.groups import Groups, GroupsUnavailable
from gws_middleware.groups.backends.sqlite import SqliteBackend
from gws_middleware.process import site
from gws_middleware.process.limits import Slots, reserve_request_slots, reserve_user_slot
from gws_middleware.process.registry import Registry
from gws_middleware.process.shutdown import drain
from gws_middleware.testing import connect
from gws_middleware.typing import Environ, StartResponse

from ..support.inprocess import echo, hub_errors, until
from ..support.programs import run_python
from ..support.registries import here

__all__ = ["here", "hub_errors"]

ENVIRON = {"REMOTE_ADDR": "1.2.3.4"}
ONE_FOR_A_USER = {"max_connections_per_user": 1, "user_key": lambda ws: ws.environ.get("HTTP_X_USER")}


class Worker:
    """Slots of one worker. Its numbers are those of its groups, and fail or take long on demand."""

    def __init__(self, directory: Path) -> None:
        self.groups, self.slots = Groups(f"sqlite://{directory}"), Slots()
        self.exchanged: list[tuple[str, int]] = []
        """Each number that a handshake has put."""
        self.put: list[Mapping[str, int]] = []
        """Each batch that was put, or failed."""
        self.before: Callable[[], object] = lambda: None
        """Runs before each use of the table; may wait, or raise."""
        self.after: Callable[[], object] = lambda: None
        """Runs where a number was put, and its result has not been returned."""
        self.on_put: Callable[[], object] = lambda: None
        """Runs before numbers are put, and not before those of handshakes."""
        self.done: list[object] = []
        """Each use of the table, when it is over."""

    def exchange_number(self, name: str, number: int) -> int:
        self.exchanged.append((name, number))
        self.before()
        found = self.groups.exchange_number(name, number)
        self.done.append((name, number))
        self.after()
        return found

    def put_numbers(self, numbers: Mapping[str, int]) -> None:
        self.put.append(numbers)
        self.before()
        self.on_put()
        self.groups.put_numbers(numbers)
        self.done.append(numbers)

    def reserve(self, holder: object, environ: Environ = ENVIRON, **limits: int) -> str | None:
        """Reserve what a request needs, and release it where a limit is reached, which is returned."""
        config = Config(site_limits=self, **limits or {"max_connections": 2})  # type: ignore[arg-type]
        reached = reserve_request_slots(self.slots, holder, config, environ)
        if reached is not None:
            self.slots.release(holder)
        return None if reached is None else reached.setting

    def reserve_for(self, user: Hashable) -> bool:
        """Reserve a slot of a user."""
        config = Config(site_limits=self, max_connections_per_user=5, user_key=lambda ws: user)
        return reserve_user_slot(self.slots, object(), config)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[tuple[Worker, Worker]]:
    """Two of them."""
    found = Worker(tmp_path / "log"), Worker(tmp_path / "log")
    yield found
    for worker in found:
        worker.groups.release()


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Callable[[], int]]:
    """How many numbers the table has."""
    backend = SqliteBackend(tmp_path / "log")
    yield lambda: backend.count("slots")
    backend.close()


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "AFTER", 0.01)
    monkeypatch.setattr(site, "RETRY", 0.05)
    monkeypatch.setattr(site, "REFUSED", 0.05)


def unavailable() -> None:
    raise GroupsUnavailable("out of order")


class TestCount:
    def test_limit_is_of_all_workers(self, workers: tuple[Worker, Worker], table: Callable[[], int]) -> None:
        """A slot that one has released is free for the other; nothing stays in the table."""
        one, other = workers
        assert [one.reserve("a"), other.reserve("b"), one.reserve("c"), other.reserve("d")] == [
            None,
            None,
            "max_connections",
            "max_connections",
        ]
        one.slots.release("a")
        until(lambda: other.reserve("e") is None)
        assert one.reserve("f") == "max_connections"
        other.slots.release("b")
        other.slots.release("e")
        until(lambda: not table())
        assert one.slots.reserved == other.slots.reserved == {}

    def test_both_limits_of_a_request_are_asked_at_once(self, workers: tuple[Worker, Worker]) -> None:
        """A request over that of its address keeps no slot of the site."""
        one, other = workers
        limits = {"max_connections": 2, "max_connections_per_address": 1}
        assert one.reserve("a", **limits) is None
        assert other.reserve("b", **limits) == "max_connections_per_address"
        until(lambda: other.reserve("c", {"REMOTE_ADDR": "1.2.3.5"}, **limits) is None)
        assert other.reserve("d", {"REMOTE_ADDR": "1.2.3.6"}, **limits) == "max_connections"
        started: list[str] = []
        other.before = lambda: (started.append("begin"), gevent.sleep(0), started.append("end"))
        other.slots.release("c")
        until(lambda: other.reserve("e", {"REMOTE_ADDR": "1.2.3.7"}, **limits) is None)
        assert started[-4:] == ["begin", "begin", "end", "end"]

    def test_own_slots_alone_reach_the_limit_without_asking(self, workers: tuple[Worker, Worker]) -> None:
        """Others cannot make them fewer."""
        one, _ = workers
        for holder in ("a", "b", "c", "d"):
            one.reserve(holder)
        assert [number for _, number in one.exchanged] == [1, 2]

    def test_one_of_two_gets_the_last_slot(
        self, workers: tuple[Worker, Worker], table: Callable[[], int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They ask at the same time, in two workers, or in the same one."""
        monkeypatch.setattr(site, "REFUSED", 0.0)
        for number in range(20):
            pair = [workers[number % 2], workers[number // 2 % 2]]
            for each in workers:
                each.before = each.after = lambda: gevent.sleep(random.uniform(0, 0.003))
            asking = [gevent.spawn(each.reserve, (number, place), max_connections=1) for place, each in enumerate(pair)]
            gevent.joinall(asking, raise_error=True)
            assert sorted(map(str, (one.value for one in asking))) == ["None", "max_connections"], number
            for place, each in enumerate(pair):
                each.slots.release((number, place))
            until(lambda: not table())

    def test_oldest_handshake_of_a_worker_gets_the_last_slot(self, workers: tuple[Worker, Worker]) -> None:
        """Of two that are counted together."""
        one, other = workers
        other.reserve("x")
        coming = [gevent.spawn(one.reserve, holder) for holder in ("a", "b")]
        gevent.joinall(coming, raise_error=True)
        assert [greenlet.value for greenlet in coming] == [None, "max_connections"]
        assert one.exchanged == [("site", 2)]

    def test_older_number_never_comes_after_a_newer_one(self, workers: tuple[Worker, Worker]) -> None:
        """A handshake waits for the end of a release that is being put."""
        one, _ = workers
        for holder in ("a", "b"):
            one.reserve(holder)
        begun, ends = Event(), Event()
        one.on_put = lambda: (begun.set(), ends.wait())
        one.slots.release("a")
        assert begun.wait(5)
        coming = gevent.spawn(one.reserve, "c")
        gevent.sleep(0.05)
        ends.set()
        coming.join()
        assert coming.value is None
        assert one.done[-2:] == [{"site": 1}, ("site", 2)]

    def test_never_more_than_the_limit(
        self, workers: tuple[Worker, Worker], table: Callable[[], int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However many come and end at any time; in the end all slots are free."""
        monkeypatch.setattr(site, "REFUSED", 0.0)
        held: set[object] = set()
        most = 0

        def come(worker: Worker, holder: object) -> None:
            nonlocal most
            for _ in range(10):
                gevent.sleep(random.uniform(0, 0.02))
                if worker.reserve(holder, max_connections=7) is None:
                    held.add(holder)
                    most = max(most, len(held))
                    gevent.sleep(random.uniform(0, 0.02))
                    held.discard(holder)
                    worker.slots.release(holder)

        for worker in workers:
            worker.before = worker.after = lambda: gevent.sleep(random.uniform(0, 0.002))
        gevent.joinall([gevent.spawn(come, workers[n % 2], n) for n in range(40)], raise_error=True)
        assert 1 < most <= 7
        until(lambda: not table())

    def test_handshakes_at_the_same_time_are_counted_together(self, workers: tuple[Worker, Worker]) -> None:
        """A hundred of them need two numbers: the first one's, and that of all others."""
        one, _ = workers
        one.before = lambda: gevent.sleep(0.01)
        coming = [gevent.spawn(one.reserve, number, max_connections=60) for number in range(100)]
        gevent.joinall(coming, raise_error=True)
        assert [greenlet.value for greenlet in coming].count(None) == 60
        assert len(one.exchanged) <= 3

    def test_release_meanwhile_is_put(self, workers: tuple[Worker, Worker], table: Callable[[], int]) -> None:
        """The number that a handshake has put is outdated as the answer comes."""
        one, _ = workers
        one.after = lambda: one.slots.release("a")
        one.reserve("a")
        until(lambda: not table())

    def test_refused_client_that_comes_again_is_not_asked_for(
        self, workers: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """For a second: a flood of refused handshakes is no flood for the backend."""
        monkeypatch.setattr(site, "REFUSED", 60)
        one, other = workers
        one.reserve("a", max_connections_per_address=1)
        for number in range(50):
            assert other.reserve(number, max_connections_per_address=1) == "max_connections_per_address"
        assert len(other.exchanged) == 1
        assert other.reserve("b", {"REMOTE_ADDR": "1.2.3.5"}, max_connections_per_address=1) is None

    def test_slots_of_a_site_and_of_a_worker_are_apart(self, workers: tuple[Worker, Worker]) -> None:
        """Two applications in one process: the one that counts its worker puts nothing."""
        one, _ = workers
        config = Config(max_connections=5, max_connections_per_address=5)
        for holder in ("a", "b"):
            assert reserve_request_slots(one.slots, holder, config, ENVIRON) is None
        one.reserve("c")
        one.slots.release("a")
        gevent.sleep(0.05)
        assert (one.exchanged, one.put) == ([("site", 1)], [])


class TestAway:
    """The groups cannot be used."""

    @pytest.mark.parametrize("how", ["fails", "is silent"])
    def test_own_limit_holds_until_the_groups_work(
        self,
        workers: tuple[Worker, Worker],
        how: str,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """One handshake waits, and no other. What was let in counts afterwards. The log has the begin and the end."""
        monkeypatch.setattr(site, "WAIT", 0.05)
        monkeypatch.setattr(site, "RETRY", 0.2)
        one, other = workers
        assert other.reserve("x") is None
        works = Event()
        one.before = unavailable if how == "fails" else works.wait
        found = [one.reserve(holder) for holder in ("a", "b", "c")]
        assert found == [None, None, "max_connections"]
        assert len(one.exchanged) == 1
        works.set()
        one.before = lambda: None
        until(lambda: len(caplog.records) == 2)
        assert one.groups.exchange_number("site", 2) == 3
        texts = [record.getMessage() for record in caplog.records]
        reason = "out of order" if how == "fails" else "no answer within 0.05 s"
        assert texts[0] == f"limits count this worker alone, because the others' numbers cannot be had: {reason}"
        assert texts[1].startswith("limits count all workers again, after ")
        assert {(record.name, record.levelname) for record in caplog.records} == {("gws_middleware", "WARNING")}
        one.slots.release("b")
        until(lambda: other.groups.exchange_number("site", 1) == 2)
        assert one.reserve("d") == "max_connections"

    def test_waiting_handshakes_are_let_in_together(
        self, workers: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Those too that have come later, when the first one has waited for its time."""
        monkeypatch.setattr(site, "WAIT", 0.6)
        one, _ = workers
        works = Event()
        one.before = works.wait
        coming = [gevent.spawn(one.reserve, number, max_connections=60) for number in range(50)]
        gevent.sleep(0.4)
        late = [gevent.spawn(one.reserve, number, max_connections=60) for number in range(50, 60)]
        gevent.joinall(coming, raise_error=True)
        gevent.joinall(late, timeout=0.2, raise_error=True)
        assert all(greenlet.ready() and greenlet.value is None for greenlet in [*coming, *late])
        works.set()
        until(lambda: len(caplog.records) == 2)

    def test_addresses_of_an_outage_are_not_kept(
        self, workers: tuple[Worker, Worker], table: Callable[[], int], caplog: pytest.LogCaptureFixture
    ) -> None:
        """However many come and end in that time; those that are open are put in the end."""
        one, _ = workers
        one.before = unavailable
        for number in range(520):
            one.reserve(number, {"REMOTE_ADDR": f"10.0.{number // 250}.{number % 250}"}, max_connections_per_address=1)
            if number % 10 or number >= 500:
                gevent.spawn_later(0.02, one.slots.release, number)
            gevent.sleep(0.001)
        gevent.sleep(0.05)
        attempts, one.before, one.put = len(one.put), lambda: None, []
        until(lambda: len(caplog.records) == 2)
        assert table() == 50
        assert 50 <= sum(map(len, one.put)) <= 50 + attempts + 1

    def test_outage_of_releases_is_noticed(
        self, workers: tuple[Worker, Worker], table: Callable[[], int], caplog: pytest.LogCaptureFixture
    ) -> None:
        """They are put when the groups work."""
        one, _ = workers
        one.reserve("a")
        one.before = unavailable
        one.slots.release("a")
        until(lambda: len(caplog.records) == 1)
        one.before = lambda: None
        until(lambda: not table())
        until(lambda: len(caplog.records) == 2)

    def test_whatever_the_numbers_raise_the_handshake_goes_on(
        self, workers: tuple[Worker, Worker], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Numbers of another package may have mistakes."""
        one, _ = workers

        def mistake() -> None:
            raise LookupError("a mistake")

        one.before = mistake
        assert one.reserve("a") is None
        one.before = lambda: None
        until(lambda: len(caplog.records) == 2)
        assert caplog.records[0].getMessage().endswith(": a mistake")


class TestKeys:
    def name(self, worker: Worker, user: Hashable) -> str:
        """What the number of a user is called."""
        assert worker.reserve_for(user)
        return worker.exchanged[-1][0]

    @pytest.mark.parametrize("make", [lambda: "b" + "ob", lambda: 10**20, lambda: ("a", uuid.UUID(int=7))])
    def test_equal_keys_have_one_name(self, workers: tuple[Worker, Worker], make: Callable[[], Hashable]) -> None:
        """In each worker."""
        assert self.name(workers[0], make()) == self.name(workers[1], make())

    def test_text_counts_by_its_characters(self, workers: tuple[Worker, Worker]) -> None:
        """Django has classes of it."""

        class Text(str):
            __slots__ = ()

            def __repr__(self) -> str:
                return f"<{self!s}>"

        assert self.name(workers[0], Text("bob")) == self.name(workers[1], "bob")

    def test_different_keys_have_different_names(self, workers: tuple[Worker, Worker]) -> None:
        """Short ones, of any length and with any character; and a user is no address."""

        class Number:
            def __repr__(self) -> str:
                return "1"

        keys: list[Hashable] = [
            Number(),
            "1",
            1.5,
            1,
            b"1",
            ("1",),
            (1,),
            "str 1",
            "'1'",
            "x" * 100_000,
            "x" * 100_001,
            "\udcff",
            "é",
        ]
        one, _ = workers
        names = [self.name(one, key) for key in keys]
        one.reserve("a", {"REMOTE_ADDR": "1"}, max_connections_per_address=1)
        names.append(one.exchanged[-1][0])
        assert len(set(names)) == len(names)
        assert max(map(len, names)) <= 50

    def test_key_that_is_another_in_each_worker_is_an_error(self, workers: tuple[Worker, Worker]) -> None:
        """It names the setting."""
        with pytest.raises(TypeError, match=r"^user_key returned <object .*: wanted something with the same repr\(\)"):
            workers[0].reserve_for(object())
        address = Config(site_limits=workers[0], max_connections_per_address=1, client_address=lambda environ: object())
        with pytest.raises(TypeError, match=r"^client_address returned"):
            reserve_request_slots(workers[0].slots, "a", address, {})


class TestProcess:
    def test_flush_puts_what_was_released(
        self, workers: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker that ends does not wait for the time of a release."""
        monkeypatch.setattr(site, "AFTER", 5)
        one, other = workers
        one.reserve("a")
        one.slots.release("a")
        assert other.groups.exchange_number("site", 1) == 2
        one.slots.flush(2)
        assert other.groups.exchange_number("site", 1) == 1

    def test_flush_does_not_wait_for_groups_that_cannot_be_used(
        self, workers: tuple[Worker, Worker], caplog: pytest.LogCaptureFixture
    ) -> None:
        """The process ends."""
        one, _ = workers
        one.reserve("a")
        one.before = unavailable
        one.slots.release("a")
        with gevent.Timeout(2):
            one.slots.flush(60)
        assert len(caplog.records) == 1
        one.before = lambda: None
        until(lambda: len(caplog.records) == 2)

    def test_drain_puts_what_it_has_closed(
        self, here: Registry, workers: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker may end right after it, and its clients connect to the others."""
        monkeypatch.setattr(site, "AFTER", 5)
        one, other = workers
        with connect(WebSocketMiddleware(echo, site_limits=one, max_connections=5)) as client:
            assert other.groups.exchange_number("site", 1) == 2
            draining = gevent.spawn(drain, here, timeout=2)
            assert client.receive() is None
        draining.join()
        assert other.groups.exchange_number("site", 1) == 1

    def test_exit_puts_what_was_released(self) -> None:
        """Of a process that is no worker of gunicorn's."""
        done = run_python("-c", EXIT)
        assert (done.stdout, done.stderr) == ("site 1\n{'site': 0}\n", "")

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_forked_child_puts_nothing_of_its_parent(self, workers: tuple[Worker, Worker]) -> None:
        """The slots are the parent's; a child that counted them again would count them twice."""
        one, _ = workers
        one.reserve("a")
        one.slots.release("a")
        pid = os.fork()
        if pid == 0:
            status = 1
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            try:
                gevent.reinit()
                gevent.sleep(0.2)
                status = 0 if one.put == [] else 2
            finally:
                os._exit(status)
        ended: list[tuple[int, int]] = []
        until(lambda: (ended.append(os.waitpid(pid, os.WNOHANG)), ended[-1][0] == pid)[1], "the child has ended", 10)
        assert ended[-1][1] == 0
        assert one.put == [{"site": 0}]


EXIT = """
from gevent import monkey
monkey.patch_all()
import time
from gevent import socket
from gws_middleware import WebSocketMiddleware
from gws_middleware.process import registry, site
from gws_middleware.pywsgi import WSGIServer

site.AFTER = 60

class Numbers:
    def exchange_number(self, name, number):
        print(name, number)
        return number

    def put_numbers(self, numbers):
        print(numbers)

def app(environ, start_response):
    for message in environ["wsgi.websocket"]:
        pass
    return []

server = WSGIServer(("127.0.0.1", 0), WebSocketMiddleware(app, site_limits=Numbers(), max_connections=5), log=None)
server.start()
client = socket.create_connection(server.address)
client.sendall(
    b"GET / HTTP/1.1\\r\\nHost: localhost\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
    b"Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n"
)
client.recv(1000)
client.close()
while not registry.current().is_finished():
    time.sleep(0.01)
"""


# --- the middleware --------------------------------------------------------------------------------------------------


class TestRefusals:
    """What a client sees."""

    @pytest.mark.parametrize(
        ("limit", "status", "sentence"),
        [
            ("max_connections", "503 Service Unavailable", "This site has 1 WebSockets, and takes no more for now.\n"),
            (
                "max_connections_per_address",
                "429 Too Many Requests",
                "Your address has 1 WebSockets here, and may have no more.\n",
            ),
        ],
    )
    def test_one_more_than_the_site_takes(
        self, here: Registry, workers: tuple[Worker, Worker], limit: str, status: str, sentence: str
    ) -> None:
        """The same status as of one worker, also where this worker alone has so many."""
        one, other = workers
        options: dict[str, Any] = {limit: 1}
        other.reserve("x", {"REMOTE_ADDR": "127.0.0.1"}, **options)
        app = WebSocketMiddleware(echo, site_limits=one, **options)
        with pytest.raises(HandshakeRefused) as caught, connect(app):
            pass
        assert (caught.value.status, caught.value.body.decode()) == (status, sentence)
        assert dict(caught.value.headers)["Retry-After"] == "5"
        other.slots.release("x")

        def is_served() -> bool:
            try:
                with connect(app), pytest.raises(HandshakeRefused) as caught, connect(app):
                    pass
            except HandshakeRefused:
                return False
            return caught.value.body.decode() == sentence

        until(is_served)
        until(lambda: not here.slots.reserved)
        assert set(here.counters.refused) == {limit}

    @pytest.mark.parametrize("switched", [False, True])
    def test_one_more_of_a_user_ends_with_1008(
        self,
        here: Registry,
        workers: tuple[Worker, Worker],
        table: Callable[[], int],
        switched: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It counts no more while the peer has not answered the close frame."""
        monkeypatch.setattr("gws_middleware.testing._PairServer.switched", switched)
        one, other = workers
        config = Config(site_limits=other, max_connections_per_user=1, user_key=lambda ws: "bob")
        assert reserve_user_slot(other.slots, "x", config)
        reserved: list[dict[Hashable, int]] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            environ["wsgi.websocket"].accept()
            reserved.append(here.slots.reserved)
            return echo(environ, start_response)

        wrapped = WebSocketMiddleware(app, site_limits=one, **ONE_FOR_A_USER)
        with connect(wrapped, headers={"X-User": "bob"}) as client:
            assert client.receive() is None
        assert (client.close_code, reserved) == (1008, [{}])
        with connect(wrapped, headers={"X-User": "eve"}) as client:
            client.send("x")
            assert client.receive() == "x"
        until(lambda: table() == 1)

    def test_handshake_that_is_closed_while_it_waits_is_not_accepted(
        self, here: Registry, workers: tuple[Worker, Worker]
    ) -> None:
        """Another greenlet has refused it."""
        one, _ = workers
        seen: list[str] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            one.before = ws.close
            with pytest.raises(RuntimeError) as caught:
                ws.accept()
            seen.append(str(caught.value))
            return []

        wrapped = WebSocketMiddleware(app, site_limits=one, **ONE_FOR_A_USER)
        with pytest.raises(HandshakeRefused) as refused, connect(wrapped, headers={"X-User": "bob"}):
            pass
        assert refused.value.status_code == 403
        assert seen == ["this WebSocket has been refused: an HTTP response has been started"]
        until(lambda: not here.slots.reserved)
