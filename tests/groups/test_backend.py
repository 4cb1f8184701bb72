"""What every backend does: the contract of ``Backend`` and ``Feed``, with each of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import gevent
import pytest

from gws_middleware.groups.backends.base import Backend, Confirmed, Event, Feed, Publish, Want
from gws_middleware.groups.backends.memory import MemoryBackend
from gws_middleware.groups.backends.redis import RedisBackend
from gws_middleware.groups.backends.sqlite import SqliteBackend
from gws_middleware.groups.position import Entry, History, Position

from ..support.brokers import needs_redis

SMALL = History(size=3, age=60)
LARGE = History(size=1000, age=60)
NUMBERS = [b"1", b"2", b"3", b"4", b"5"]


@pytest.fixture(
    params=[
        "memory",
        "sqlite",
        pytest.param("valkey", marks=pytest.mark.database),
        pytest.param("redis", marks=[pytest.mark.database, needs_redis]),
    ]
)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    made: Backend
    if request.param == "memory":
        made = MemoryBackend()
    elif request.param == "sqlite":
        made = SqliteBackend(tmp_path / "log")
    else:
        made = RedisBackend(request.getfixturevalue(request.param), prefix=f"test-{time.monotonic_ns()}")
    yield made
    made.close()


@pytest.fixture
def feed(backend: Backend) -> Iterator[Feed]:
    made = backend.feed()
    yield made
    made.close()


def subscribe(feed: Feed, *groups: str) -> None:
    """Subscribe, and wait until that holds."""
    if not feed.subscribe(groups):
        missing = set(groups)
        while missing:
            for event in feed.wait(5):
                assert isinstance(event, Confirmed)
                missing -= event.groups


def entries(feed: Feed, count: int) -> list[Entry]:
    """The next entries of a feed, no more and no fewer."""
    found: list[Event] = []
    deadline = time.monotonic() + 5
    while len(found) < count and time.monotonic() < deadline:
        found += feed.wait(deadline - time.monotonic())
    found += feed.wait(0.05)
    assert [event for event in found if not isinstance(event, Entry)] == []
    assert len(found) == count
    return [event for event in found if isinstance(event, Entry)]


def publish(backend: Backend, group: str, *payloads: bytes, history: History | None = None) -> list[Position | None]:
    return backend.publish([Publish(group, payload, history) for payload in payloads])


class TestPublish:
    def test_group_without_history_has_no_position(self, backend: Backend) -> None:
        """There is nothing to come back to."""
        assert publish(backend, "live", b"one", b"two") == [None, None]

    def test_offsets_of_a_history_begin_with_one_and_have_no_gap(self, backend: Backend) -> None:
        """In one epoch, over several calls."""
        first = publish(backend, "chat", b"one", b"two", history=LARGE)
        positions = first + publish(backend, "chat", b"three", history=LARGE)
        assert [position and position.offset for position in positions] == [1, 2, 3]
        assert len({position and position.epoch for position in positions}) == 1

    def test_positions_are_in_the_order_of_the_batch(self, backend: Backend) -> None:
        """Groups of both kinds in one batch."""
        batch = [
            Publish("a", b"1", LARGE),
            Publish("live", b"2", None),
            Publish("b", b"3", LARGE),
            Publish("a", b"4", LARGE),
        ]
        assert [position and position.offset for position in backend.publish(batch)] == [1, None, 1, 2]

    def test_epoch_has_letters_and_digits_and_is_of_one_group(self, backend: Backend) -> None:
        """It goes into a URL or a cookie as a part of ``str(position)``."""
        [one] = publish(backend, "a", b"1", history=LARGE)
        [other] = publish(backend, "b", b"1", history=LARGE)
        assert one and other and one.epoch != other.epoch
        assert Position.parse(str(one)) == one

    def test_empty_batch_does_nothing(self, backend: Backend) -> None:
        """It is no mistake of the caller."""
        assert backend.publish([]) == []

    def test_payload_is_kept_byte_for_byte(self, backend: Backend, feed: Feed) -> None:
        """Also zeros, an empty one, and one of a megabyte."""
        payloads = [b"\x00\xff'\"", b"", bytes(range(256)) * 4096]
        subscribe(feed, "chat")
        publish(backend, "chat", *payloads, history=LARGE)
        assert [entry.payload for entry in entries(feed, 3)] == payloads
        [page] = backend.read([Want("chat", LARGE, 0, 10)])
        assert [entry.payload for entry in page.entries] == payloads


class TestRead:
    def test_unknown_group_begins_an_epoch(self, backend: Backend) -> None:
        """And keeps it for what is published first."""
        [page] = backend.read([Want("chat", LARGE, None, 10)])
        [position] = publish(backend, "chat", b"one", history=LARGE)
        assert (page.top, list(page.entries)) == (0, [])
        assert position == Position(page.epoch, 1)

    def test_page_has_what_comes_after_an_offset_the_oldest_first(self, backend: Backend) -> None:
        """Up to the limit."""
        [epoch] = {position.epoch for position in publish(backend, "chat", *NUMBERS, history=LARGE) if position}
        [page] = backend.read([Want("chat", LARGE, 1, 3)])
        assert (page.epoch, page.top, [entry.offset for entry in page.entries]) == (epoch, 5, [2, 3, 4])

    def test_page_without_an_offset_has_the_latest_entries_in_order(self, backend: Backend) -> None:
        """As many as the limit says."""
        publish(backend, "chat", *NUMBERS, history=LARGE)
        [page] = backend.read([Want("chat", LARGE, None, 2)])
        assert [(entry.offset, entry.payload) for entry in page.entries] == [(4, b"4"), (5, b"5")]

    def test_limit_of_zero_reads_the_top_alone(self, backend: Backend) -> None:
        """That is what a position is asked for with."""
        publish(backend, "chat", *NUMBERS, history=LARGE)
        pages = backend.read([Want("chat", LARGE, None, 0), Want("chat", LARGE, 2, 0)])
        assert [(page.top, list(page.entries)) for page in pages] == [(5, []), (5, [])]

    def test_page_has_no_more_than_the_size_of_the_history(self, backend: Backend) -> None:
        """The latest of them, whatever is asked for."""
        publish(backend, "chat", *NUMBERS, history=SMALL)
        pages = backend.read([Want("chat", SMALL, 0, 10), Want("chat", SMALL, None, 10)])
        assert [[entry.offset for entry in page.entries] for page in pages] == [[3, 4, 5], [3, 4, 5]]

    def test_page_has_nothing_older_than_the_age_of_the_history(self, backend: Backend) -> None:
        """The top stays, so that a reader finds that it misses something."""
        brief = History(size=10, age=0.2)
        [position] = publish(backend, "chat", b"old", history=brief)
        time.sleep(0.3)
        publish(backend, "chat", b"new", history=brief)
        [page] = backend.read([Want("chat", brief, 0, 10)])
        assert position and (page.epoch, page.top, [entry.offset for entry in page.entries]) == (position.epoch, 2, [2])

    def test_pages_are_in_the_order_of_the_wants(self, backend: Backend) -> None:
        """Several groups, and the same one twice."""
        publish(backend, "a", b"1", history=LARGE)
        publish(backend, "b", b"1", b"2", history=LARGE)
        wants = [Want("b", LARGE, 0, 9), Want("a", LARGE, 0, 9), Want("b", LARGE, 1, 9)]
        assert [[entry.group for entry in page.entries] for page in backend.read(wants)] == [["b", "b"], ["a"], ["b"]]

    def test_offset_beyond_the_top_has_no_entries(self, backend: Backend) -> None:
        """A client can send any position."""
        publish(backend, "chat", b"one", history=LARGE)
        [page] = backend.read([Want("chat", LARGE, 10**15, 10)])
        assert (page.top, list(page.entries)) == (1, [])


class TestFeed:
    def test_feed_has_what_its_own_process_publishes(self, backend: Backend, feed: Feed) -> None:
        """In the order of the calls; both kinds of groups."""
        subscribe(feed, "live", "chat")
        [position] = publish(backend, "chat", b"one", history=LARGE)
        publish(backend, "live", b"two")
        assert position
        assert entries(feed, 2) == [Entry("chat", position.epoch, 1, b"one"), Entry("live", "", 0, b"two")]

    def test_feed_has_nothing_of_groups_that_were_not_subscribed_to(self, backend: Backend, feed: Feed) -> None:
        """However many there are."""
        subscribe(feed, "mine")
        publish(backend, "other", *NUMBERS)
        publish(backend, "mine", b"one")
        assert [entry.payload for entry in entries(feed, 1)] == [b"one"]

    def test_unsubscribed_group_ends_and_can_be_subscribed_to_again(self, backend: Backend, feed: Feed) -> None:
        """What was published between the two is not delivered."""
        subscribe(feed, "a", "b")
        feed.unsubscribe(["a"])
        publish(backend, "a", b"unwanted")
        publish(backend, "b", b"one")
        assert [entry.payload for entry in entries(feed, 1)] == [b"one"]
        subscribe(feed, "a")
        publish(backend, "a", b"two")
        assert [entry.payload for entry in entries(feed, 1)] == [b"two"]

    def test_subscribing_twice_delivers_once(self, backend: Backend, feed: Feed) -> None:
        """As does a batch that names a group twice."""
        subscribe(feed, "a")
        subscribe(feed, "a", "a")
        publish(backend, "a", b"one")
        assert [entry.payload for entry in entries(feed, 1)] == [b"one"]

    def test_two_feeds_have_the_same_order(self, backend: Backend, feed: Feed) -> None:
        """Of all that several threads publish, and of each thread in its order."""
        other = backend.feed()
        for one in (feed, other):
            subscribe(one, "chat")

        def work(name: int) -> None:
            for number in range(50):
                publish(backend, "chat", b"%d.%d" % (name, number), history=LARGE)

        threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
        for thread in threads:
            thread.start()
        first = entries(feed, 150)
        second = entries(other, 150)
        for thread in threads:
            thread.join()
        other.close()
        assert first == second
        assert [entry.offset for entry in first] == list(range(1, 151))
        for name in range(3):
            mine = [entry.payload for entry in first if entry.payload.startswith(b"%d." % name)]
            assert mine == [b"%d.%d" % (name, number) for number in range(50)]

    def test_wait_returns_nothing_when_the_time_has_passed(self, feed: Feed) -> None:
        """And not before."""
        before = time.monotonic()
        assert list(feed.wait(0.2)) == []
        assert time.monotonic() - before > 0.15

    def test_wait_of_zero_does_not_wait(self, backend: Backend, feed: Feed) -> None:
        """It gives what is there."""
        subscribe(feed, "a")
        assert list(feed.wait(0)) == []
        publish(backend, "a", b"one")
        found: Sequence[Event] = []
        while not found:
            found = feed.wait(0)
        assert [event.payload for event in found if isinstance(event, Entry)] == [b"one"]

    def test_wait_lets_other_greenlets_run(self, feed: Feed) -> None:
        """It is called in a greenlet of the hub."""
        ticks = []
        greenlet = gevent.spawn(lambda: [ticks.append(gevent.sleep(0.01)) for _ in range(5)])
        feed.wait(0.5)
        greenlet.join()
        assert len(ticks) == 5

    @pytest.mark.parametrize("native", [False, True], ids=["greenlet", "thread"])
    def test_wake_ends_a_wait(self, feed: Feed, native: bool) -> None:
        """From a greenlet, and from a thread of the operating system."""
        if native:
            starter: Callable[[], object] = threading.Timer(0.1, feed.wake).start
        else:
            starter = gevent.spawn_later(0.1, feed.wake).ready
        starter()
        before = time.monotonic()
        found = list(feed.wait(5))
        assert found == [] and time.monotonic() - before < 3

    def test_wake_before_a_wait_ends_it(self, feed: Feed) -> None:
        """A wake-up is not lost between two waits."""
        feed.wake()
        before = time.monotonic()
        feed.wait(5)
        assert time.monotonic() - before < 3

    def test_message_ends_a_wait(self, backend: Backend, feed: Feed) -> None:
        """Well before the next regular reading."""
        subscribe(feed, "a")
        delays = []
        for _ in range(5):
            thread = threading.Timer(0.05, publish, [backend, "a", b"one"])
            thread.start()
            before = time.monotonic()
            assert len(feed.wait(5)) == 1
            delays.append(time.monotonic() - before)
            thread.join()
        assert sorted(delays)[2] < 0.5

    def test_closed_feed_can_be_closed_again(self, backend: Backend, feed: Feed) -> None:
        """And another one is not disturbed."""
        other = backend.feed()
        subscribe(other, "a")
        feed.close()
        feed.close()
        publish(backend, "a", b"one")
        assert [entry.payload for entry in entries(other, 1)] == [b"one"]
        other.close()


class TestRecords:
    def test_value_is_what_was_put_last(self, backend: Backend) -> None:
        """By table and field."""
        backend.put("members", {"a": b"3", "b": b"4"})
        backend.put("members", {"a": b"5"})
        backend.put("limits", {"a": b"7"})
        found = [backend.get(*of) for of in (("members", "a"), ("members", "b"), ("limits", "a"), ("limits", "b"))]
        assert found == [[b"5"], [b"4"], [b"7"], []]

    def test_none_removes_a_value(self, backend: Backend) -> None:
        """Also one that is not there."""
        backend.put("members", {"a": b"3"})
        backend.put("members", {"a": None, "c": None})
        assert (backend.get("members", "a"), backend.count("members")) == ([], 0)

    def test_value_may_be_empty_and_have_any_byte(self, backend: Backend) -> None:
        """It is not the same as none."""
        values = {"a": b"", "b": bytes(range(256)), "é/:{}": b"\xff"}
        backend.put("x:é/{y}", values)
        assert {record.field: record.value for record in backend.records("x:é/{y}", 10)} == values

    def test_exchange_sets_and_reads(self, backend: Backend) -> None:
        """This process's own value is among what comes back, unless it was removed."""
        assert backend.exchange("limits", "a", b"1") == [b"1"]
        assert backend.exchange("limits", "a", b"2") == backend.get("limits", "a") == [b"2"]
        assert backend.exchange("limits", "a", None) == []

    def test_records_and_their_count(self, backend: Backend) -> None:
        """Those of one table, and not more than asked for."""
        backend.put("members", {str(number): b"%d" % number for number in range(1200)})
        backend.put("others", {"a": b"x"})
        assert (backend.count("members"), len(backend.records("members", 1000))) == (1200, 1000)
        found = backend.records("members", 5000)
        assert sorted(int(record.field) for record in found) == list(range(1200))
        assert all(record.field.encode() == record.value and record.table == "members" for record in found)
        assert len({record.process for record in found}) == 1

    def test_limit_of_records_is_reached(self, backend: Backend) -> None:
        """Of many records so many are read, each once."""
        backend.put("members", {str(number): b"" for number in range(10_000)})
        for limit in (1, 9000, 9999, 10_000):
            assert len({record.field for record in backend.records("members", limit)}) == limit
        backend.put("members", {str(number): None for number in range(100, 10_000)})
        assert len(backend.records("members", 50)) == 50

    def test_living_process_is_not_buried(self, backend: Backend) -> None:
        """What it has put stays."""
        backend.put("members", {"a": b"3"})
        assert backend.bury() == []
        assert backend.get("members", "a") == [b"3"]


class TestClose:
    def test_closed_backend_begins_anew(self, backend: Backend) -> None:
        """A second close does nothing, and what follows works."""
        backend.put("members", {"a": b"3"})
        backend.close()
        backend.close()
        assert backend.get("members", "a") == []
        feed = backend.feed()
        subscribe(feed, "a")
        publish(backend, "a", b"one")
        assert [entry.payload for entry in entries(feed, 1)] == [b"one"]
