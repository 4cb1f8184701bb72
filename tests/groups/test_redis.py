"""The backend of Redis and Valkey, against a real server that is killed, stopped, emptied and cut off."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import gevent
import pytest

from gws_middleware.groups import Groups, GroupsUnavailable, History, UnknownOutcome
from gws_middleware.groups.backends.base import Buried, Confirmed, Event, Lost, Publish, Want
from gws_middleware.groups.backends.redis import RedisBackend, RedisFeed
from gws_middleware.groups.position import Entry, Position
from gws_middleware.process import registry

from ..support.brokers import REDIS, Broker, broker, free_port, needs_redis, sentinels, tls_options
from ..support.inprocess import until as until_true
from ..support.programs import run_python
from ..support.seam import is_signing, live_shortly, repeat_with_each_sign
from ..support.servers import ROOT, Certificate
from ..support.waiting import eventually
from .conftest import Attempt, Fake

pytestmark = pytest.mark.database
KEPT = History(size=100, age=60)
[COMMANDS] = re.findall(r"ACL SETUSER .* -@all ([^`]*)`", (ROOT / "docs" / "groups.md").read_text())
"""What a user of the server must be allowed to do."""
REMOVAL = b"a\r\n$1\r\n0\r\n"
"""What a command has that removes the record ``a``."""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Broker]:
    """A server of this test's own."""
    with broker(tmp_path / "valkey") as running:
        yield running


@contextmanager
def connected(url: str, *groups: str) -> Iterator[tuple[RedisBackend, RedisFeed]]:
    """A backend, and a feed of these groups."""
    backend = RedisBackend(url)
    feed = backend.feed()
    feed.subscribe(groups)
    confirmed: set[str] = set()
    while confirmed < set(groups):
        for event in feed.wait(5):
            assert isinstance(event, Confirmed)
            confirmed |= event.groups
    try:
        yield backend, feed
    finally:
        backend.close()


def until(feed: RedisFeed, kind: type[Event], timeout: float = 10) -> list[Event]:
    """What a feed brings, up to the first event of a kind."""
    found: list[Event] = []
    deadline = time.monotonic() + timeout
    while not any(isinstance(event, kind) for event in found):
        assert time.monotonic() < deadline, f"no {kind.__name__} in {found}"
        found += feed.wait(0.1)
    return found


def entries(feed: RedisFeed, last: bytes) -> list[Entry]:
    """What a feed brings of messages, up to the one with this payload: others may come before it."""
    found: list[Entry] = []
    while not found or found[-1].payload != last:
        found += [event for event in until(feed, Entry) if isinstance(event, Entry)]
    return found


def publish(backend: RedisBackend, group: str, payload: bytes, history: History | None = KEPT) -> int:
    """Publish; the offset."""
    [position] = backend.publish([Publish(group, payload, history)])
    return 0 if position is None else position.offset


def kept(backend: RedisBackend, group: str = "kept") -> list[bytes]:
    """What the history has."""
    [page] = backend.read([Want(group, KEPT, 0, 100)])
    assert [entry.offset for entry in page.entries] == list(range(page.top - len(page.entries) + 1, page.top + 1))
    return [entry.payload for entry in page.entries]


class TestServer:
    def test_killed_server_is_an_outage_and_a_new_epoch(self, own: Broker, caplog: pytest.LogCaptureFixture) -> None:
        """Calls fail at once; begin and end are logged once; what follows has another epoch."""
        with connected(own.url, "kept") as (backend, feed):
            [before] = backend.publish([Publish("kept", b"1", KEPT)])
            until(feed, Entry)
            own.kill()
            begun = time.monotonic()
            for _ in range(20):
                with pytest.raises((GroupsUnavailable, UnknownOutcome)):
                    publish(backend, "kept", b"2")
            assert time.monotonic() - begun < 2
            feed.wait(0.2)
            own.start()
            until(feed, Lost)
            eventually(lambda: not backend.server.retry_after, "the next attempt")
            [after] = backend.publish([Publish("kept", b"3", KEPT)])
            assert before and after and before.epoch != after.epoch and after.offset == 1
            assert entries(feed, b"3")[-1] == Entry("kept", after.epoch, 1, b"3")
        texts = [record.getMessage() for record in caplog.records]
        for kind in ("publish", "subscribe"):
            assert len([text for text in texts if text.startswith(f"groups: outage ({kind})")]) == 1, texts
            assert len([text for text in texts if text.startswith(f"groups: the outage ({kind})")]) == 1, texts

    def test_stopped_server_is_no_hang(self, own: Broker) -> None:
        """After the time of a call its outcome is unknown, and further calls fail at once; it was published once."""
        with connected(own.url, "kept") as (backend, _feed):
            publish(backend, "kept", b"1")
            own.kill(signal.SIGSTOP)
            begun = time.monotonic()
            with pytest.raises(UnknownOutcome):
                publish(backend, "kept", b"2")
            assert 4 < time.monotonic() - begun < 12
            own.kill(signal.SIGCONT)

            def works() -> bool:
                try:
                    publish(backend, "kept", b"3")
                except GroupsUnavailable:
                    return False
                return True

            eventually(works, "a server that works again", timeout=15)
            assert kept(backend) in ([b"1", b"2", b"3"], [b"1", b"3"])

    @pytest.mark.parametrize("what", [("CLIENT", "KILL", "TYPE", "pubsub"), ("CLIENT", "KILL", "TYPE", "normal")])
    def test_connection_that_the_server_closes(self, own: Broker, what: Sequence[str]) -> None:
        """The feed says that entries may be missing, after all groups are subscribed to again; the history has all."""
        with connected(own.url, "kept", "live", *(f"live.{number}" for number in range(1200))) as (backend, feed):
            publish(backend, "kept", b"1")
            until(feed, Entry)
            own.ask(*what)
            publish(backend, "kept", b"2")
            if what[-1] == "pubsub":
                found = until(feed, Lost)
                at = next(number for number, event in enumerate(found) if isinstance(event, Lost))
                assert [event for event in found[:at] if isinstance(event, Entry)] == []
            publish(backend, "live", b"3", None)
            publish(backend, "live.1199", b"4", None)
            assert [entry.payload for entry in entries(feed, b"4")][-2:] == [b"3", b"4"]
            assert kept(backend) == [b"1", b"2"]

    def test_emptied_server_begins_an_epoch(self, own: Broker) -> None:
        """The next entry has it; the feed goes on."""
        with connected(own.url, "kept") as (backend, feed):
            [before] = backend.publish([Publish("kept", b"1", KEPT)])
            own.ask("FLUSHALL")
            [after] = backend.publish([Publish("kept", b"2", KEPT)])
            assert before and after and (before.epoch != after.epoch, after.offset) == (True, 1)
            assert [entry.epoch for entry in entries(feed, b"2")] == [before.epoch, after.epoch]

    def test_removed_scripts_are_loaded_again(self, own: Broker) -> None:
        """The call that finds it works."""
        with connected(own.url, "kept") as (backend, _):
            publish(backend, "kept", b"1")
            own.ask("SCRIPT", "FLUSH")
            assert publish(backend, "kept", b"2") == 2
            own.ask("SCRIPT", "FLUSH")
            assert kept(backend) == [b"1", b"2"]

    def test_server_without_memory_refuses(self, own: Broker) -> None:
        """With its words; nothing was published."""
        with connected(own.url, "kept") as (backend, _):
            publish(backend, "kept", b"1")
            own.ask("CONFIG", "SET", "maxmemory", "1")
            with pytest.raises(GroupsUnavailable, match="used memory"):
                publish(backend, "kept", b"2")
            own.ask("CONFIG", "SET", "maxmemory", "0")
            assert kept(backend) == [b"1"]

    @pytest.mark.parametrize(
        ("options", "count"),
        [
            (("--maxmemory", "100mb", "--maxmemory-policy", "noeviction"), 0),
            (("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), 1),
            (("--maxmemory", "100mb", "--maxmemory-policy", "volatile-ttl"), 1),
            (("--maxmemory-policy", "allkeys-lru"), 0),
        ],
    )
    def test_server_that_may_delete_groups_is_a_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, options: tuple[str, ...], count: int
    ) -> None:
        """Once, however many connections there are. Without a limit of memory it deletes nothing."""
        with broker(tmp_path / "valkey", *options) as own, connected(own.url, "kept") as (backend, _):
            publish(backend, "kept", b"1")
        found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert [text.endswith(f"to noeviction, not {options[-1]}") for text in found] == [True] * count

    def test_replica_is_refused(self, own: Broker) -> None:
        """Messages are published at the master."""
        own.ask("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(GroupsUnavailable, match="this is a replica"):
            RedisBackend(own.url).publish([Publish("live", b"1", None)])

    def test_wrong_password_is_not_in_the_error(self, own: Broker) -> None:
        """The address is."""
        own.ask("CONFIG", "SET", "requirepass", "right")
        url = own.url.replace("redis://", "redis://:secret-word@")
        with pytest.raises(GroupsUnavailable) as failed:
            RedisBackend(url).publish([Publish("live", b"1", None)])
        assert "secret-word" not in str(failed.value)
        assert f"127.0.0.1:{own.port}" in str(failed.value) and "invalid" in str(failed.value)
        right = RedisBackend(url.replace("secret-word", "right"))
        assert publish(right, "kept", b"1") == 1
        right.close()

    def test_user_with_the_rights_of_the_documents(self, own: Broker) -> None:
        """All that is called is allowed to a user who may do no more."""
        rights = ["on", ">word", "resetkeys", "~gws:*", "resetchannels", "&gws:*", "-@all"]
        assert own.ask("ACL", "SETUSER", "site", *rights, *COMMANDS.split()) == b"+OK\r\n"
        with connected(own.url.replace("redis://", "redis://site:word@"), "kept", "live") as (backend, feed):
            publish(backend, "kept", b"1")
            publish(backend, "live", b"2", None)
            until(feed, Entry)
            assert kept(backend) == [b"1"]
            backend.put("members", {"a": b"3", "b": None})
            assert backend.get("members", "a") == backend.exchange("members", "a", b"3") == [b"3"]
            assert (len(backend.records("members", 5)), backend.count("members"), backend.bury()) == (1, 1, [])
            backend.put("members", {"a": None})
            backend.put("others", {"a": b"3"})


@needs_redis
def test_tls_with_a_certificate_that_is_checked(tmp_path: Path, certificate: Certificate) -> None:
    """``rediss://``; without the authority the connection is refused."""
    port = free_port()
    assert REDIS is not None
    with broker(tmp_path / "redis", *tls_options(certificate, port), program=REDIS):
        authority = quote(str(certificate.authority))
        with connected(f"rediss://localhost:{port}?ssl_ca_certs={authority}", "kept") as (backend, feed):
            assert publish(backend, "kept", b"1" * 100_000) == 1
            until(feed, Entry)
            assert kept(backend) == [b"1" * 100_000]
        with pytest.raises(GroupsUnavailable, match="certificate"):
            RedisBackend(f"rediss://localhost:{port}").publish([Publish("live", b"1", None)])


def test_failover_of_sentinels(tmp_path: Path) -> None:
    """The promoted replica begins new epochs: it may have fewer messages. The feed goes on at it."""
    with sentinels(tmp_path) as group, connected(group.url, "kept") as (backend, feed):
        [before] = backend.publish([Publish("kept", b"1", KEPT)])
        until(feed, Entry)
        group.master.kill()
        found: list[Event] = []

        def published() -> Position | None:
            try:
                return backend.publish([Publish("kept", b"2", KEPT)])[0]
            except (GroupsUnavailable, UnknownOutcome):
                found.extend(feed.wait(0.1))
                return None

        after = eventually(published, "a new master", timeout=30)
        assert before and after and before.epoch != after.epoch
        eventually(lambda: found.extend(feed.wait(0.1)) or any(isinstance(each, Lost) for each in found), "Lost")
        publish(backend, "kept", b"3")
        assert entries(feed, b"3")[-1].epoch == after.epoch
        assert kept(backend) == [b"2", b"3"]


class Crowd:
    """Groups with a member of each kind, and numbered messages for both; ``gap`` is what a member learns of a loss."""

    def __init__(self, url: str, size: int) -> None:
        self.groups = Groups(url, history={"kept": History(size=size, age=60)})
        self.got: dict[str, list[str]] = {"kept.1": [], "live.1": []}
        self.sent: dict[str, list[str]] = {"kept.1": [], "live.1": []}
        """What was acknowledged."""
        self._count = 0
        for name, got in self.got.items():
            self.groups.join(name, Fake(got.append), on_gap=lambda ws, name: self.got[name].append("gap"))  # type: ignore[arg-type]
        self.begin = self.groups.position("kept.1")

    def send(self, count: int, size: int = 0) -> None:
        """So many to each group; those that cannot be sent are not."""
        for _ in range(count):
            self._count += 1
            for name, sent in self.sent.items():
                try:
                    self.groups.send(name, f"{self._count}{' ' * size}")
                except GroupsUnavailable:
                    continue
                except UnknownOutcome:
                    continue
                sent.append(str(self._count))

    def settle(self) -> None:
        """Send until each member has got a message that was sent after all that has happened."""
        pairs = self.sent.values(), self.got.values()

        def has_come() -> bool:
            self.send(1)
            gevent.sleep(0.1)
            newest = str(self._count)
            return all(sent[-1] == got[-1].strip() == newest for sent, got in zip(*pairs, strict=True))

        eventually(has_come, "a message for each member", timeout=30, sleep=gevent.sleep)

    def losses(self, name: str) -> int:
        """How often a member was informed that messages are missing. What it has missed otherwise, or got twice, or in
        another order, fails.
        """
        got = [text.strip() for text in self.got[name]]
        numbers = [int(text) for text in got if text != "gap"]
        assert numbers == sorted(set(numbers)), got
        for part in " ".join(got).split("gap"):
            here = part.split()
            if here:
                between = [one for one in self.sent[name] if int(here[0]) <= int(one) <= int(here[-1])]
                assert set(between) <= set(here), got
        if "gap" not in got:
            assert set(self.sent[name]) <= set(got), got
        return got.count("gap")


@pytest.fixture
def make_crowd() -> Iterator[Callable[..., Crowd]]:
    """Makes a crowd, which is released after the test."""
    made: list[Crowd] = []

    def make(url: str, size: int = 100) -> Crowd:
        made.append(Crowd(url, size))
        return made[-1]

    yield make
    for crowd in made:
        crowd.groups.release()


class TestPromise:
    """With history no message is lost, doubled or out of order within it, and every other case is reported; without
    history every loss is reported, and counted.
    """

    def test_subscriptions_that_the_server_ends(self, own: Broker, make_crowd: Callable[..., Crowd]) -> None:
        """CLIENT KILL TYPE pubsub, with messages before the worker has subscribed again."""
        crowd = make_crowd(own.url)
        counters = registry.current().counters
        before = counters.group_gaps
        for _ in range(3):
            crowd.send(5)
            own.ask("CLIENT", "KILL", "TYPE", "pubsub")
            crowd.send(5)
        crowd.settle()
        assert crowd.losses("kept.1") == 0
        assert (
            1 <= crowd.losses("live.1") <= counters.group_gaps - before
        )  # the group of live orders has lost some, too

    def test_server_that_was_emptied(self, own: Broker, make_crowd: Callable[..., Crowd]) -> None:
        """FLUSHALL: the epoch has ended; messages without history are not kept, and none is lost."""
        crowd = make_crowd(own.url)
        crowd.send(5)
        own.ask("FLUSHALL")
        crowd.settle()
        assert (crowd.losses("kept.1"), crowd.losses("live.1")) == (1, 0)
        assert not crowd.groups.join("kept.1", Fake(), since=crowd.begin).recovered  # type: ignore[arg-type]

    @pytest.mark.parametrize("snapshot", [False, True])
    def test_server_that_was_restarted(self, own: Broker, make_crowd: Callable[..., Crowd], snapshot: bool) -> None:
        """SIGKILL; with the data of some time before, whose offsets are given to other messages then."""
        crowd = make_crowd(own.url)
        crowd.send(5)
        if snapshot:
            own.ask("SAVE")
        crowd.send(5)
        before = crowd.groups.position("kept.1")
        own.kill()
        crowd.send(2)
        own.start()
        crowd.settle()
        crowd.send(10)
        crowd.settle()
        assert crowd.losses("kept.1") >= 1
        assert crowd.losses("live.1") >= 1
        late = Fake()
        assert not crowd.groups.join("kept.1", late, since=before).recovered  # type: ignore[arg-type]
        assert late.texts == []

    @pytest.mark.parametrize("size", [1000, 20])
    def test_worker_that_reads_too_late(self, own: Broker, make_crowd: Callable[..., Crowd], size: int) -> None:
        """It is stopped, and the server ends its subscriptions, whose output buffers have a limit: then it reads what
        it has missed, if the history has it.
        """
        own.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 65536 0 0")
        crowd = make_crowd(own.url, size)
        crowd.send(5)
        gevent.sleep(0.2)
        publisher = threading.Thread(target=crowd.send, args=(300, 60_000))
        publisher.start()
        publisher.join()  # the event loop of this thread stands still
        assert b"sub=" not in own.ask("CLIENT", "LIST", "TYPE", "pubsub")
        crowd.settle()
        assert crowd.losses("kept.1") == (size < 300)
        assert crowd.losses("live.1") == 1

    def test_replica_that_had_fewer_messages(self, tmp_path: Path, make_crowd: Callable[..., Crowd]) -> None:
        """Its link was frozen, and it is promoted: its offsets go back, and stand for other messages."""
        with sentinels(tmp_path) as group:
            crowd = make_crowd(group.url)
            crowd.send(20)
            eventually(lambda: group.replica.ask("EXISTS", "gws:p") == b":1\r\n", "the replica to have something")
            group.master.ask("ACL", "SETUSER", "default", "-psync", "-sync")
            group.master.ask("CLIENT", "KILL", "TYPE", "replica")
            crowd.send(30)
            before = crowd.groups.position("kept.1")
            assert before is not None and before.offset == 50
            group.master.kill()
            crowd.settle()
            crowd.send(60)
            crowd.settle()
            after = crowd.groups.position("kept.1")
            assert after is not None and after.epoch != before.epoch
            assert crowd.losses("kept.1") >= 1
            assert crowd.losses("live.1") >= 1
            late = Fake()
            assert not crowd.groups.join("kept.1", late, since=before).recovered  # type: ignore[arg-type]
            assert late.texts == []
            crowd.groups.release()


def memory(server: Broker, what: str) -> str:
    """A line of its INFO."""
    [found] = re.findall(rf"^{what}:(\d+)", server.ask("INFO", "memory").decode(), re.MULTILINE)
    return str(found)


def evict(server: Broker, *keys: str, used: Sequence[str] = ()) -> None:
    """Fill the memory of a server with other keys, as a cache does, until these have been deleted for them.

    Those that are used meanwhile are not the first to be deleted.
    """
    # The server counts the time since a key was used in seconds, and compares as many keys as there are here. Those
    # to be deleted are the oldest; then come the ones that fill the memory, then those that are used.
    gevent.sleep(1.1)
    most, value = int(memory(server, "maxmemory")), "x" * 100_000
    number = 0
    while int(memory(server, "used_memory")) < most - 3 * len(value):
        number += 1
        server.ask("SET", f"cache:{number}", value, "EX", "1000")
    gevent.sleep(1.1)
    for _ in range(20):
        number += 1
        if used:
            server.ask("TOUCH", *used)
        server.ask("SET", f"cache:{number}", value, "EX", "1000")
        if server.ask("EXISTS", *keys) == b":0\r\n":
            return
    raise AssertionError(f"some of {keys} are still there")


class TestEviction:
    @pytest.fixture(params=["allkeys-lru", "volatile-lru"])
    def full(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
        """A server that deletes what was not used for long."""
        options = ["--maxmemory", "6mb", "--maxmemory-policy", request.param, "--maxmemory-samples", "64"]
        with broker(tmp_path / "valkey", *options) as running:
            yield running

    @pytest.mark.parametrize("what", ["s", "m", "sm"], ids=["entries", "epoch", "both"])
    def test_history_that_was_deleted_is_reported(self, full: Broker, what: str) -> None:
        """To a member that resumes, and to one that stays where the epoch is another one; nothing comes twice."""
        groups = Groups(full.url, history={"kept": KEPT})
        backend = RedisBackend(full.url)
        gaps: list[str] = []
        ws, late, last = Fake(), Fake(), Fake()
        begin = groups.join("kept.1", ws, on_gap=lambda ws, name: gaps.append(name)).position  # type: ignore[arg-type]
        for number in range(3):
            groups.send("kept.1", str(number))
        until_true(lambda: len(ws.texts) == 3)
        keys = {kind: backend.key(kind, "kept.1") for kind in "sm"}
        evict(full, *(keys[kind] for kind in what), used=[key for kind, key in keys.items() if kind not in what])
        before = groups.position("kept.1")
        assert not groups.join("kept.1", late, since=begin).recovered  # type: ignore[arg-type]
        groups.send("kept.1", "3")
        until_true(lambda: ws.texts == ["0", "1", "2", "3"] and late.texts == ["3"])
        assert gaps == ["kept.1"] * ("m" in what)
        assert groups.join("kept.1", last, since=before).recovered  # type: ignore[arg-type]
        assert last.texts == ["3"]
        groups.release()
        backend.close()

    def test_records_that_were_deleted_are_put_again(self, full: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of members and of limits; by a process that changes nothing meanwhile."""
        live_shortly(monkeypatch.setattr)
        other = RedisBackend(full.url)
        with connected(full.url) as (backend, feed):
            backend.put("members", {"a": b"1"})
            backend.exchange("slots", "address", b"2")
            process = other.records("members", 5)[0].process
            evict(full, *(f"gws:{kind}" for kind in (f"r:{process}:members", f"r:{process}:slots", f"t:{process}")))
            found: list[Event] = []

            def is_back() -> bool:
                found.extend(feed.wait(0.1))
                return (other.count("members"), other.get("slots", "address")) == (1, [b"2"])

            eventually(is_back, "the records again")
            assert full.ask("EXISTS", f"gws:t:{process}") == b":1\r\n"
            assert not any(isinstance(event, Lost) for event in found)
        other.close()


def test_server_that_was_started_again_has_buried_nothing(own: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no records; they are put again, and no process has taken this one for dead."""
    live_shortly(monkeypatch.setattr)
    with connected(own.url, "live") as (backend, feed):
        backend.put("members", {"a": b"1"})
        own.kill()
        own.start()
        events = until(feed, Lost)
        counts = RedisBackend(own.url)
        eventually(lambda: events.extend(feed.wait(0.1)) or counts.count("members") == 1, "the record")
        for _ in range(5):
            events += feed.wait(0.1)
        assert [event for event in events if isinstance(event, Buried)] == []
        counts.close()


def test_call_that_waits_while_groups_are_released_fails(own: Broker) -> None:
    """It would open the connection again, and its record would stay."""
    backend, other = RedisBackend(own.url), RedisBackend(own.url)
    publish(backend, "live", b"1", None)
    putting = Attempt(backend.put, "members", {"b": b"1"})
    gevent.sleep(0)
    backend.close()
    with pytest.raises(GroupsUnavailable, match="groups were released"):
        putting.get()
    assert other.get("members", "b") == []
    other.close()


LATE_REASON = "the server has not answered in time"
LATE = """
from gevent import monkey; monkey.patch_all()
import gc, gevent, json, os, signal, sys, time
from gws_middleware.groups import GroupsError, History
from gws_middleware.groups.backends.base import Publish
from gws_middleware.groups.backends.redis import RedisBackend

backend, pid = RedisBackend(sys.argv[1]), int(sys.argv[2])
outcomes = {}

def publish(text, timeout):
    begun = time.monotonic()
    try:
        backend.publish([Publish("kept", text.encode(), History(size=100, age=60))], timeout)
        outcome = "published"
    except GroupsError as error:
        outcome = f"{type(error).__name__}: {error}"
    outcomes[text] = [outcome, time.monotonic() - begun]

publish("first", 5)
os.kill(pid, signal.SIGSTOP)
sent = [gevent.spawn(publish, text, seconds) for text, seconds in [("sent", 5), ("sent, late", 0.6)]]
gevent.sleep(0.2)
queued = [gevent.spawn(publish, text, seconds) for text, seconds in [("queued", 5), ("queued, late", 0.3)]]
killed = gevent.spawn(publish, "killed", 5)
gevent.sleep(0.1)
killed.kill()
gevent.sleep(1)
os.kill(pid, signal.SIGCONT)
gevent.joinall([*sent, *queued], raise_error=True)
publish("next", 5)

os.kill(pid, signal.SIGSTOP)
lost = gevent.spawn(publish, "lost", 5)
gevent.sleep(0.1)
[sender] = [each for each in gc.get_objects() if isinstance(each, gevent.Greenlet) and "_Pipe._run" in repr(each)]
sender.kill()
os.kill(pid, signal.SIGCONT)
lost.join()
publish("last", 5)
backend.close()
print(json.dumps(outcomes))
"""


def test_calls_of_greenlets_keep_their_deadlines(own: Broker) -> None:
    """They share one connection, which waits for a stopped server: each fails at its own time, and the others go on.
    What was not sent by then is never published, nor what a greenlet has not sent that was killed. Where the one that
    sends is killed, the outcome is unknown, and the next call has another one.
    """
    ended = run_python("-c", LATE, own.url, str(own.pid))
    assert ended.returncode == 0, ended.stderr
    outcomes: dict[str, tuple[str, float]] = json.loads(ended.stdout)
    backend = RedisBackend(own.url)
    published = ["first", "sent", "sent, late", "queued", "next", "last"]
    assert [text for payload in kept(backend) if (text := payload.decode()) != "lost"] == published
    backend.close()
    for text in ("first", "sent", "queued", "next", "last"):
        assert outcomes[text][0] == "published"
    assert outcomes["lost"][0] == "UnknownOutcome: the greenlet that sends was killed"
    outcome, seconds = outcomes["sent, late"]
    assert outcome.startswith("UnknownOutcome: the message was published or not: ") and outcome.endswith(LATE_REASON)
    assert 0.6 <= seconds < outcomes["sent"][1]
    outcome, seconds = outcomes["queued, late"]
    assert outcome.startswith("GroupsUnavailable: ") and outcome.endswith(LATE_REASON)
    assert 0.3 <= seconds < outcomes["queued"][1]


STOPPED = """
from gevent import monkey; monkey.patch_all()
import os, signal, subprocess, sys
from gws_middleware.groups.backends.base import Publish
from gws_middleware.groups.backends.redis import RedisBackend

backend, pid = RedisBackend(sys.argv[1]), int(sys.argv[2])
backend.publish([Publish("live", b"1", None)])
os.kill(pid, signal.SIGSTOP)
script = 'sleep 0.3; kill -STOP $1; kill -CONT $2; sleep 2; kill -CONT $1'
helper = subprocess.Popen(["sh", "-c", script, "sh", str(os.getpid()), str(pid)])
backend.publish([Publish("live", b"2", None)], 1.0)
helper.wait()
backend.close()
"""


def test_process_that_was_stopped_takes_the_reply(own: Broker) -> None:
    """It has come in time; the deadline has passed when the process goes on."""
    ended = run_python("-c", STOPPED, own.url, str(own.pid))
    assert ended.returncode == 0, ended.stderr


class TestWithoutAFeed:
    @pytest.mark.parametrize("way", ["put", "exchange"])
    def test_process_keeps_its_records(self, own: Broker, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
        """It has put them once, and puts them again where the server was emptied."""
        live_shortly(monkeypatch.setattr)
        backend, other = RedisBackend(own.url), RedisBackend(own.url)
        gevent.spawn(backend.put, "a", {"x": b"1"}) if way == "put" else gevent.spawn(backend.exchange, "a", "x", b"1")
        for _ in range(15):
            gevent.sleep(0.1)
        assert other.get("a", "x") == [b"1"]
        own.ask("FLUSHALL")
        eventually(lambda: other.get("a", "x") == [b"1"], "the record again", sleep=gevent.sleep)
        backend.put("a", {"x": None})
        backend.put("a", {"x": b"2"})
        gevent.sleep(1.5)
        assert other.get("a", "x") == [b"2"]
        backend.close()
        assert other.get("a", "x") == []
        other.close()


class Cut:
    """A proxy before a server that passes commands on, and closes a connection in place of its next reply."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self.marker = b""
        """Of the command whose reply is lost."""
        self.then: Callable[[], object] = int
        """Is called when a reply is lost."""
        self.late = b""
        """Of the command that is passed on late, or whose reply is."""
        self.is_reply_late = False
        self.meanwhile: Callable[[], object] = int
        """Is called before that."""
        self.lost = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._port))
        with client, server:
            while data := client.recv(1 << 20):
                late = self.late and self.late in data
                if late:
                    self.late = b""
                if late and not self.is_reply_late:
                    self.meanwhile()
                server.sendall(data)
                found = self.marker and self.marker in data
                reply = server.recv(1 << 20)
                if late and self.is_reply_late:
                    self.meanwhile()
                if found:
                    self.marker = b""
                    self.lost += 1
                    self.then()
                    return
                client.sendall(reply)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def cut(own: Broker) -> Iterator[Cut]:
    made = Cut(own.port)
    yield made
    made.close()


class TestLostReply:
    def test_message_with_history_is_published_once(self, own: Broker, cut: Cut) -> None:
        """The script finds that it was."""
        backend = RedisBackend(cut.url)
        publish(backend, "kept", b"1")
        cut.marker = b"no-reply"
        assert publish(backend, "kept", b"no-reply 2") == 2
        assert cut.lost == 1
        assert publish(backend, "kept", b"3") == 3
        assert kept(backend) == [b"1", b"no-reply 2", b"3"]
        backend.close()

    def test_outcome_of_a_repetition_that_is_refused_is_unknown(self, own: Broker, cut: Cut) -> None:
        """The first one was carried out; by the time of the second the user may not publish."""
        backend = RedisBackend(cut.url)
        publish(backend, "kept", b"1")
        cut.marker, cut.then = b"no-reply", lambda: own.ask("ACL", "SETUSER", "default", "-evalsha")
        with pytest.raises(UnknownOutcome, match="evalsha"):
            publish(backend, "kept", b"no-reply 2")
        own.ask("ACL", "SETUSER", "default", "+evalsha")
        assert kept(backend) == [b"1", b"no-reply 2"]
        backend.close()

    @pytest.mark.parametrize("number", [1, 2], ids=["one", "after another group's"])
    def test_repetition_after_the_end_of_the_epoch_is_not_published(self, own: Broker, cut: Cut, number: int) -> None:
        """The first one may have been, as here: members would get it twice."""
        with connected(own.url, "kept") as (_, feed):
            backend = RedisBackend(cut.url)
            publish(backend, "kept", b"1")
            publish(backend, "other", b"1")
            cut.marker = b"no-reply"
            cut.then = lambda: own.ask("DEL", backend.key("m", "kept"))
            batch = [Publish("other", b"2", KEPT), Publish("kept", b"no-reply", KEPT)]
            with pytest.raises(UnknownOutcome, match="new epoch"):
                backend.publish(batch[-number:])
            publish(backend, "kept", b"3")
            found: list[Event] = []
            eventually(lambda: found.extend(feed.wait(0.1)) or len(found) >= 3, "three messages")
            assert [event.payload for event in found if isinstance(event, Entry)] == [b"1", b"no-reply", b"3"]
            backend.close()

    def test_outcome_of_a_message_without_history_is_unknown(self, own: Broker, cut: Cut) -> None:
        """It is not sent again: members would get it twice."""
        with connected(own.url, "live") as (_, feed):
            backend = RedisBackend(cut.url)
            publish(backend, "live", b"1", None)
            cut.marker = b"no-reply"
            with pytest.raises(UnknownOutcome):
                publish(backend, "live", b"no-reply 2", None)
            publish(backend, "live", b"3", None)
            found: list[Event] = []
            eventually(lambda: found.extend(feed.wait(0.1)) or len(found) >= 3, "three messages")
            payloads = [event.payload for event in found if isinstance(event, Entry)]
            assert payloads == [b"1", b"no-reply 2", b"3"]
            backend.close()

    def test_batch_of_both_kinds_is_not_sent_again(self, own: Broker, cut: Cut) -> None:
        """One of its messages could be published twice."""
        backend = RedisBackend(cut.url)
        cut.marker = b"no-reply"
        with pytest.raises(UnknownOutcome):
            backend.publish([Publish("kept", b"no-reply", KEPT), Publish("live", b"2", None)])
        assert kept(backend) == [b"no-reply"]
        backend.close()

    def test_reading_is_repeated(self, own: Broker, cut: Cut) -> None:
        """It changes nothing."""
        backend = RedisBackend(cut.url)
        publish(backend, "kept", b"1")
        cut.marker = b"s:kept"
        assert kept(backend) == [b"1"]
        assert cut.lost == 1
        backend.close()


class TestRecords:
    def test_process_that_gave_no_sign_is_buried_and_comes_back(
        self, own: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its records are given out once; when it goes on it is informed, and puts them again."""
        live_shortly(monkeypatch.setattr)
        other = RedisBackend(own.url)
        with connected(own.url) as (backend, feed):
            backend.put("members", {"a": b"1", "b": b"2"})
            assert (other.bury(), other.count("members")) == ([], 2)
            time.sleep(1.2)  # its feed is not waited for
            buried = other.bury()
            assert {(record.table, record.field, record.value) for record in buried} == {
                ("members", "a", b"1"),
                ("members", "b", b"2"),
            }
            assert (other.bury(), other.count("members")) == ([], 0)
            [event] = until(feed, Buried)
            assert other.count("members") == 2
            assert isinstance(event, Buried)
            assert event.reason == "this process gave no sign for 1 s, or the server was emptied"
            assert feed.wait(1.0) == []
        other.close()

    @pytest.mark.parametrize("first", ["put", "exchange"])
    def test_write_before_the_next_sign_does_not_hide_that(
        self, own: Broker, monkeypatch: pytest.MonkeyPatch, first: str
    ) -> None:
        """A process that goes on writes before it gives a sign, and is known to the server then."""
        live_shortly(monkeypatch.setattr)
        other = RedisBackend(own.url)
        with connected(own.url) as (backend, feed):
            backend.put("members", {str(number): b"1" for number in range(1200)})
            feed.wait(0.5)
            time.sleep(1.2)
            assert len(other.bury()) == 1200
            if first == "put":
                backend.put("members", {"0": None})
            else:
                assert backend.exchange("limits", "a", b"1") == [b"1"]
                backend.put("members", {"0": None})
            until(feed, Buried)
            assert other.count("members") == 1199
            assert feed.wait(0.5) == []
        other.close()

    @pytest.mark.parametrize("value", [None, b"2"])
    @pytest.mark.parametrize("way", ["put", "exchange"])
    def test_write_while_records_are_put_again_comes_last(
        self, own: Broker, monkeypatch: pytest.MonkeyPatch, way: str, value: bytes | None
    ) -> None:
        """At whichever of its steps: a record that was removed stays removed."""
        repeat_with_each_sign(monkeypatch.setattr)
        found: list[list[bytes]] = []
        with closing(RedisBackend(own.url)) as backend, closing(RedisBackend(own.url)) as other:
            backend.put("members", {str(number): b"1" for number in range(1200)})
            for step in range(24):
                field = str(1199 * step // 23)
                backend.sign()
                for _ in range(step):
                    gevent.sleep(0)
                if way == "put":
                    gevent.spawn(backend.put, "members", {field: value}).get()
                else:
                    gevent.spawn(backend.exchange, "members", field, value).get()
                until_true(lambda: not is_signing(backend), "the end of the sign")
                found.append(other.get("members", field))
        assert found == [[] if value is None else [value]] * 24

    def test_write_by_another_connection_comes_last(
        self, own: Broker, monkeypatch: pytest.MonkeyPatch, cut: Cut
    ) -> None:
        """A thread of the operating system has one of its own, and the server may get what was sent first later."""
        repeat_with_each_sign(monkeypatch.setattr)
        with closing(RedisBackend(cut.url)) as backend, closing(RedisBackend(own.url)) as other:
            backend.put("members", {"a": b"late", "b": b"1"})
            cut.late, cut.meanwhile = b"late", lambda: backend.put("members", {"a": None})
            backend.sign()
            until_true(lambda: not cut.late and not is_signing(backend), "the end of the sign")
            assert (other.get("members", "a"), other.get("members", "b")) == ([], [b"1"])

    def test_write_that_takes_longer_than_the_sign_comes_last(
        self, own: Broker, monkeypatch: pytest.MonkeyPatch, cut: Cut
    ) -> None:
        """The server has done it before the record was put again, and its answer comes afterwards."""
        repeat_with_each_sign(monkeypatch.setattr)
        may_answer = threading.Event()
        with closing(RedisBackend(cut.url)) as backend, closing(RedisBackend(own.url)) as other:
            backend.put("members", {"a": b"1", "b": b"1"})
            cut.late, cut.is_reply_late, cut.meanwhile = REMOVAL, True, lambda: may_answer.wait(10)
            writing = threading.Thread(target=backend.put, args=("members", {"a": None}))
            writing.start()
            until_true(lambda: other.get("members", "a") == [], "the removal")
            backend.sign()
            until_true(lambda: not is_signing(backend), "the end of the sign")
            assert other.get("members", "a") == [b"1"]
            may_answer.set()
            writing.join()
            assert other.get("members", "a") == []

    def test_what_could_not_be_put_again_is_put_with_the_next_sign(
        self, own: Broker, monkeypatch: pytest.MonkeyPatch, cut: Cut
    ) -> None:
        """Also where no record is left: the one that was removed would stay on the server."""
        with (
            monkeypatch.context() as shortly,
            closing(RedisBackend(cut.url)) as backend,
            closing(RedisBackend(own.url)) as other,
        ):
            repeat_with_each_sign(shortly.setattr)
            backend.put("members", {"a": b"late"})

            def write() -> None:
                backend.put("members", {"a": None})
                cut.late, cut.meanwhile = REMOVAL, lambda: own.ask("ACL", "SETUSER", "default", "-evalsha")

            cut.late, cut.meanwhile = b"late", write
            backend.sign()
            until_true(lambda: not cut.late and not is_signing(backend), "the end of the sign")
            own.ask("ACL", "SETUSER", "default", "+evalsha")
            assert other.get("members", "a") == [b"late"]
            shortly.undo()
            backend.sign()
            until_true(lambda: not is_signing(backend), "the end of the next one")
            assert other.get("members", "a") == []

    def test_process_is_informed_of_its_burial_when_its_records_are_right(
        self, own: Broker, monkeypatch: pytest.MonkeyPatch, cut: Cut
    ) -> None:
        """Then it publishes that its members are there."""
        live_shortly(monkeypatch.setattr)
        order: list[object] = []
        with connected(cut.url) as (backend, feed), closing(RedisBackend(own.url)) as other:
            monkeypatch.setattr(feed, "report", lambda event: order.append(type(event)))
            backend.put("members", {"a": b"1", "b": b"1"})
            time.sleep(1.2)
            assert len(other.bury()) == 2

            def written() -> None:
                cut.late, cut.meanwhile = REMOVAL, lambda: order.append("removed again")

            cut.late, cut.meanwhile = REMOVAL, written
            backend.sign()
            gevent.spawn(backend.put, "members", {"a": None}).get()
            until_true(lambda: not is_signing(backend), "the end of the sign")
            assert (order, other.count("members")) == (["removed again", Buried], 1)

    def test_records_of_a_closed_backend_are_buried(self, own: Broker) -> None:
        """At once: others may have something to do about what it had."""
        other = RedisBackend(own.url)
        with connected(own.url) as (backend, _):
            backend.put("members", {"a": b"1"})
        assert other.count("members") == 0
        assert [record.field for record in other.bury()] == ["a"]
        other.close()

    @pytest.mark.parametrize("signs_before", [True, False])
    @pytest.mark.parametrize("way", ["put", "exchange"])
    def test_restarted_server_has_buried_none(
        self, own: Broker, monkeypatch: pytest.MonkeyPatch, way: str, signs_before: bool
    ) -> None:
        """The records are put again, and no process has taken them for those of a dead one; also where the server has
        ended before the first sign.
        """
        live_shortly(monkeypatch.setattr)
        with connected(own.url) as (backend, feed):
            backend.put("members", {"a": b"1"}) if way == "put" else backend.exchange("members", "a", b"1")
            if signs_before:
                feed.wait(0.5)
            own.kill()
            own.start()
            events = until(feed, Lost)
            eventually(lambda: events.extend(feed.wait(0.1)) or backend.count("members") == 1, "the record")
            assert not any(isinstance(event, Buried) for event in events)


class TestUrl:
    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("redis://host:port", "the URL 'redis://host:port' is wrong"),
            ("redis://:secret@host/0?sockett_timeout=3", "sockett_timeout"),
            ("redis+sentinel://host:26379", "it does not name the service"),
            ("redis+sentinel://host:x/main", "'host:x' is no host:port of a Sentinel"),
            ("redis+sentinel://host/main?timeout=3", "'timeout' is unknown"),
        ],
    )
    def test_wrong_url_is_refused(self, url: str, words: str) -> None:
        """When it is made, and not at the first message."""
        with pytest.raises(ValueError, match=words.replace("?", r"\?")) as failed:
            Groups(url)
        assert "secret" not in str(failed.value)

    @pytest.mark.parametrize("prefix", ["", "a b", "x" * 51, "a:b", "{a}"])
    def test_wrong_prefix_is_refused(self, prefix: str) -> None:
        """It becomes a part of keys."""
        with pytest.raises(ValueError, match="the prefix is"):
            Groups("redis://127.0.0.1", prefix=prefix)
