"""The hub: a connection that joins gets everything once and in order, whatever happens while it joins."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any

import gevent
import pytest

from gws_middleware.exceptions import ConnectionClosed
from gws_middleware.groups import GroupsUnavailable, Position, hub, members, records
from gws_middleware.groups.backends.base import Confirmed
from gws_middleware.groups.hub import CONTROL_GROUP
from gws_middleware.groups.members import Collector
from gws_middleware.groups.position import Page
from gws_middleware.groups.records import COUNTS

from ..support.inprocess import Peer, connected, deadline, hub_errors, problems, ticks, unaccepted, until  # noqa: F401
from .conftest import Attempt, Double, Fake, Gate, Site

TOO_SLOW = (1013, "too slow")


def got(peer: Peer, count: int) -> list[Any]:
    return [peer.receive() for _ in range(count)]


def numbers(start: int, end: int) -> list[str]:
    return [str(number) for number in range(start, end)]


# --- joining ----------------------------------------------------------------------------------------------------------


def test_member_gets_what_is_published_in_order(site: Site) -> None:
    """One order for all members."""
    with connected() as (first, one), connected() as (second, two):
        for ws in (first, second):
            assert site.join("room", ws) == (None, False)
        for text in numbers(0, 50):
            site.send("room", text)
        assert got(one, 50) == got(two, 50) == numbers(0, 50)


def test_members_are_those_of_the_moment_of_the_message(site: Site) -> None:
    """A connection that joins while a message is on its way to the members does not get it."""
    late = Fake()
    early = Fake(lambda text: site.join("room", late) and None if text == "before" else None)
    site.join("room", early)
    site.send("room", "before")
    until(lambda: early.texts == ["before"])
    site.send("room", "after")
    until(lambda: early.texts == ["before", "after"])
    assert late.texts == ["after"]
    site.hub.leave("room", early)
    site.hub.leave("room", late)


def test_two_that_join_while_the_subscription_is_not_confirmed_are_in_one_group(site: Site) -> None:
    """Neither takes the group of the other away."""
    site.backend.confirms = False
    with connected() as (first, one), connected() as (second, two):
        joins = [Attempt(site.join, "room", ws) for ws in (first, second)]
        ticks()
        assert not any(join.ready for join in joins)
        site.backend.confirm("room")
        for join in joins:
            join.get()
        site.send("room", "x")
        assert [one.receive(), two.receive()] == ["x", "x"]


def test_iteration_and_member_are_in_one_group(site: Site) -> None:
    """A group in which something iterates, and nothing is a member, is not opened once more."""
    collector, ws = Collector(), Fake()
    site.hub.collect("room", collector, None)
    site.join("room", ws)
    site.send("room", "x")
    until(lambda: ws.texts == ["x"])
    assert len(collector.items) == 1
    site.hub.leave("room", ws)
    site.hub.forget("room", collector)


def test_two_that_open_the_feed_at_once_share_it(site: Site) -> None:
    """Also where the backend waits before it has a feed."""
    gate, members_ = Gate(), [Fake(), Fake()]
    site.backend.on_feed = gate
    joins = [Attempt(site.join, "room", ws) for ws in members_]
    gate.reached()
    gate.open()
    for join in joins:
        join.get()
    assert len(site.backend.feeds) == 1
    site.send("room", "x")
    until(lambda: [ws.texts for ws in members_] == [["x"], ["x"]])
    for ws in members_:
        site.hub.leave("room", ws)


def test_second_join_is_refused(site: Site) -> None:
    """The first one holds."""
    with connected() as (ws, peer):
        site.join("room", ws)
        with pytest.raises(ValueError, match="this WebSocket is a member of 'room' already"):
            site.join("room", ws)
        site.send("room", "once")
        site.send("room", "twice")
        assert got(peer, 2) == ["once", "twice"]


def test_subscription_that_is_never_confirmed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """GroupsUnavailable after the deadline, and nothing is left."""
    monkeypatch.setattr(hub, "TIMEOUT", 0.05)
    site.backend.confirms = False
    with connected() as (ws, _peer):
        with pytest.raises(GroupsUnavailable, match=r"the subscription of 'room' was not confirmed within 0.05 s"):
            site.join("room", ws)
        assert not site.hub.leave("room", ws)
        assert site.backend.feeds[0].subscribed <= {CONTROL_GROUP}


def test_reading_that_fails_leaves_nothing(site: Site) -> None:
    """The connection is no member, and may join again."""
    with connected() as (ws, peer):

        def fail() -> None:
            raise GroupsUnavailable("the disk is full")

        site.backend.on_read = fail
        with pytest.raises(GroupsUnavailable, match="the disk is full"):
            site.join("kept", ws)
        assert not site.hub.leave("kept", ws)
        site.backend.on_read = lambda: None
        site.join("kept", ws)
        site.send("kept", "x")
        assert peer.receive() == "x"


# --- what was missed --------------------------------------------------------------------------------------------------


def test_missed_collected_and_live_are_one_sequence(site: Site) -> None:
    """What is published while a connection joins comes after what it has missed, and before what follows."""
    since = site.send("kept", "0")
    for text in numbers(1, 10):
        site.send("kept", text)
    with connected() as (ws, peer):

        def publish() -> None:
            site.send("kept", "10")
            gevent.sleep(0.01)
            site.send("kept", "11")
            gevent.sleep(0.01)

        site.backend.on_read = publish
        site.backend.after_read = lambda: site.send("kept", "12")
        joined = site.join("kept", ws, since)
        assert joined.recovered
        assert joined.position == Position(since.epoch, 12) if since else None
        site.send("kept", "13")
        assert got(peer, 13) == numbers(1, 14)


@pytest.mark.parametrize("since", [Position("other", 3), Position("other", 0)])
def test_position_of_another_epoch_is_not_recovered(site: Site, since: Position) -> None:
    """None of it is sent, and the connection is a member from the top on."""
    site.send("kept", "old")
    ws = Fake()
    assert not site.join("kept", ws, since).recovered
    site.send("kept", "new")
    until(lambda: ws.texts == ["new"])
    site.hub.leave("kept", ws)


def test_publications_while_many_join_arrive_once_and_in_order(site: Site) -> None:
    """A publisher does not pause while fifty connections join, each from a position of its own."""
    start = site.send("kept", "0")
    assert start is not None
    site.backend.on_read = site.backend.after_read = lambda: gevent.sleep(0)
    fakes: list[tuple[int, Fake]] = []

    def publish() -> None:
        for text in numbers(1, 80):
            site.send("kept", text)
            gevent.sleep(0)

    def join(offset: int) -> None:
        ws = Fake(lambda text: gevent.sleep(0))
        fakes.append((offset, ws))
        assert site.join("kept", ws, Position(start.epoch, offset)).recovered

    publisher = gevent.spawn(publish)
    joins = []
    for offset in range(1, 51):
        gevent.sleep(0)
        joins.append(gevent.spawn(join, min(offset, 1 + offset // 3)))
    for one in (publisher, *joins):
        one.get(timeout=10)
    until(lambda: all(ws.texts[-1:] == ["79"] for _, ws in fakes), "the last one has arrived")
    for offset, ws in fakes:
        assert ws.texts == numbers(offset, 80)
        site.hub.leave("kept", ws)


def test_older_page_of_a_second_joiner_is_read_again(site: Site) -> None:
    """Two join a group that was not open: the position of the first one's page may be above that of the second's."""
    gate = Gate()
    first, second = Fake(), Fake()
    site.backend.after_read = gate
    slow = Attempt(site.join, "kept", first)  # has read at 0
    gate.reached()
    site.send("kept", "1")
    site.backend.after_read = lambda: None
    site.join("kept", second)  # has read at 1
    gate.open()
    joined = slow.get(timeout=5)
    site.send("kept", "2")
    until(lambda: second.texts == ["2"])
    assert first.texts == (["1", "2"] if joined.position.offset == 0 else ["2"])
    for ws in (first, second):
        site.hub.leave("kept", ws)


def test_loss_while_the_first_page_is_read(site: Site) -> None:
    """What was lost after the page was read, and before it was used, is found without another message."""
    gate, ws = Gate(), Fake()
    site.backend.after_read = gate
    site.backend.drops = lambda entry: True
    join = Attempt(site.join, "kept", ws)
    gate.reached()
    site.send("kept", "1")
    ticks()
    site.backend.lose()
    ticks()
    site.backend.after_read = lambda: None
    gate.open()
    assert join.get(timeout=5).position.offset == 0
    until(lambda: ws.texts == ["1"])
    site.hub.leave("kept", ws)


def test_epoch_that_begins_while_a_connection_joins(site: Site) -> None:
    """The stream has not shown it yet: members are informed; the joiner has missed nothing."""
    gaps: list[str] = []
    informed, late = Fake(), Fake()
    site.join("kept", informed, on_gap=lambda ws, name: gaps.append(name))
    site.send("kept", "old")
    until(lambda: informed.texts == ["old"])
    site.backend.changes = lambda page: Page("b", 0, [])
    joined = site.join("kept", late)
    assert joined.position == Position("b", 0)
    until(lambda: gaps == ["kept"])
    site.backend.bring(site.entry("kept", "late", joined.position.epoch + "x", 9))
    site.backend.bring(site.entry("kept", "new", "b", 1))
    until(lambda: informed.texts == ["old", "new"])
    assert (late.texts, late.closes, gaps) == (["new"], [], ["kept"])
    site.hub.leave("kept", informed)
    site.hub.leave("kept", late)


def test_joiner_that_has_read_more_than_the_stream_has_brought(site: Site) -> None:
    """What the stream brings late is for the others alone; so is what comes after a gap in the same epoch."""
    gaps: list[Fake] = []
    early, late = Fake(), Fake()
    start = site.join("kept", early).position
    site.backend.drops = lambda entry: entry.group == "kept"
    for text in numbers(1, 4):
        site.send("kept", text)
    site.flows()
    late_at = site.join("kept", late, start, on_gap=lambda ws, name: gaps.append(ws)).position
    assert (late.texts, late_at and late_at.offset) == (numbers(1, 4), 3)
    site.backend.drops = lambda entry: False
    site.backend.changes = lambda page: Page(page.epoch, 1, [])  # older than what the joiner has, and not complete
    site.backend.lose()
    until(lambda: gaps == [late])
    site.backend.changes = lambda page: page
    site.send("kept", "4")
    until(lambda: late.texts == numbers(1, 5))
    until(lambda: early.texts == numbers(2, 5))
    assert early.closes == [(1013, "messages were missed")]
    site.hub.leave("kept", early)
    site.hub.leave("kept", late)


def test_joiner_that_collects_a_gap(site: Site) -> None:
    """It is informed, in its place, and gets nothing twice."""
    events: list[str] = []
    gate, early, late = Gate(), Fake(), Fake(events.append)
    start = site.join("kept", early, on_gap=lambda ws, name: None).position
    site.backend.drops = lambda entry: entry.group == "kept"
    for text in numbers(1, 4):
        site.send("kept", text)
    site.flows()
    site.backend.after_read = gate
    join = Attempt(site.join, "kept", late, start, on_gap=lambda ws, name: events.append("gap"))
    gate.reached()
    site.backend.after_read = lambda: None
    site.backend.drops = lambda entry: False
    site.backend.changes = lambda page: Page(page.epoch, 1, [])
    site.backend.lose()
    until(lambda: site.counters.group_gaps == 1)
    site.backend.changes = lambda page: page
    site.send("kept", "4")
    until(lambda: early.texts == numbers(2, 5))
    gate.open()
    join.get()
    assert events == ["1", "2", "3", "gap", "4"]
    site.hub.leave("kept", early)
    site.hub.leave("kept", late)


def test_joiner_that_reads_too_slowly_gets_no_hole(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """More comes while it joins than can wait: it gets what came first, without a gap, and is closed with 1013."""
    monkeypatch.setattr(members, "MAX_WAITING", 10)
    start = site.send("kept", "0")
    for text in numbers(1, 3):
        site.send("kept", text)
    gate = Gate()
    calls: list[str] = []

    def slow(text: str) -> None:
        calls.append(text)
        if text == "1":
            gate()
        elif text == "4":  # there is room again
            for late in numbers(23, 26):
                site.send("kept", late)
            gevent.sleep(0.01)

    ws = Fake(slow)
    join = Attempt(site.join, "kept", ws, start)
    gate.reached()
    for text in numbers(3, 23):
        site.send("kept", text)
    ticks()
    gate.open()
    join.get()
    assert ws.texts == numbers(1, 13)
    assert ws.closes == [TOO_SLOW]
    assert site.counters.dropped == 1
    site.hub.leave("kept", ws)


def test_more_missed_than_wait_for_a_handler(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is for what comes faster than it is handled; all that was missed is handled."""
    monkeypatch.setattr(members, "MAX_WAITING", 5)
    start = site.send("kept", "0")
    for text in numbers(1, 40):
        site.send("kept", text)
    handled: list[str] = []
    ws = Fake()

    def handle(ws: Any, publication: Any) -> None:
        gevent.sleep(0)
        handled.append(publication.data)

    assert site.join("kept", ws, start, handler=handle).recovered
    site.send("kept", "40")
    until(lambda: len(handled) == 40)
    assert handled == numbers(1, 41)
    assert ws.closes == []
    site.hub.leave("kept", ws)


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_no_message_after_leave_while_joining(site: Site) -> None:
    """What was missed is not sent any more."""
    start = site.send("kept", "0")
    for text in numbers(1, 10):
        site.send("kept", text)
    gate = Gate()
    ws = Fake(lambda text: gate() if text == "3" else None)
    join = Attempt(site.join, "kept", ws, start)
    gate.reached()
    assert site.hub.leave("kept", ws)
    gate.open()
    join.get()
    assert ws.texts == numbers(1, 4)
    assert site.hub.sizes() == {}


def test_leave_and_join_again_while_joining(site: Site) -> None:
    """The first join does not take the second one's membership away, whether it succeeds or fails."""
    stays = Fake()
    site.join("kept", stays)
    for fails in (False, True):
        gate, ws = Gate(), Fake()

        def first() -> None:
            gate()  # noqa: B023
            if fails:  # noqa: B023
                raise GroupsUnavailable("no")

        site.backend.on_read = first
        slow = Attempt(site.join, "kept", ws)
        gate.reached()
        assert site.hub.leave("kept", ws)
        second_gate = Gate()
        site.backend.on_read = second_gate
        second = Attempt(site.join, "kept", ws)
        second_gate.reached()
        gate.open()
        until(lambda: slow.ready)  # noqa: B023
        second_gate.open()
        second.get(timeout=5)
        site.send("kept", "x")
        until(lambda: ws.texts == ["x"])  # noqa: B023
        assert site.hub.leave("kept", ws)
        site.backend.on_read = lambda: None
    site.hub.leave("kept", stays)


def test_end_while_joining(site: Site) -> None:
    """ConnectionClosed, and nothing is left."""
    for group in ("room", "kept"):
        gate = Gate()
        site.backend.on_read = gate
        site.backend.confirms = False
        with connected() as (ws, _peer):
            join = Attempt(site.join, group, ws)
            ticks()
            ws.close()
            site.backend.confirm(group)
            gate.open()
            with pytest.raises(ConnectionClosed):
                join.get(timeout=1)
        assert site.hub.sizes() == {}
        until(lambda: not site.backend.feeds[-1].subscribed - {CONTROL_GROUP})


def test_group_that_is_opened_anew_while_a_join_is_under_way(site: Site) -> None:
    """One connection leaves, the group is closed, another one opens it: each is a member of what there is."""
    gate = Gate()
    first, second = Fake(), Fake()
    site.backend.on_read = gate
    slow = Attempt(site.join, "kept", first)
    gate.reached()
    site.hub.leave("kept", first)
    site.backend.on_read = lambda: None
    site.join("kept", second)
    gate.open()
    slow.get()
    site.send("kept", "x")
    until(lambda: second.texts == ["x"])
    assert first.texts == []
    assert site.hub.sizes() == {"kept": 1}
    site.hub.leave("kept", second)


def test_end_of_a_connection_ends_membership_before_on_close(site: Site) -> None:
    """``on_close`` finds the group without it."""
    sizes = []
    with connected() as (ws, peer):
        site.join("room", ws)
        ws.detach(on_close=lambda ws: sizes.append(site.hub.sizes()))
        assert site.hub.sizes() == {"room": 1}
        peer.close()
        until(lambda: sizes)
    assert sizes == [{}]


def test_connection_that_was_a_member_is_not_kept(site: Site) -> None:
    """A group to which nothing is sent does not keep what was its member."""
    stays = Fake()
    site.join("room", stays)
    ws = Fake()
    site.join("room", ws)
    site.send("room", "x")
    until(lambda: stays.texts == ["x"])
    site.hub.leave("room", ws)
    reference = weakref.ref(ws)
    del ws
    gc.collect()
    assert reference() is None
    site.hub.leave("room", stays)


# --- the feed ---------------------------------------------------------------------------------------------------------


def test_gap_is_healed_from_the_history(site: Site) -> None:
    """Members notice nothing."""
    ws = Fake()
    site.join("kept", ws)
    site.send("kept", "1")
    site.flows()
    site.backend.drops = lambda entry: entry.group == "kept" and entry.offset in (2, 3)
    for text in numbers(2, 6):
        site.send("kept", text)
    until(lambda: len(ws.texts) == 5)
    assert ws.texts == numbers(1, 6)
    assert site.counters.group_gaps == 0
    site.hub.leave("kept", ws)


def test_loss_is_healed_without_another_message(site: Site) -> None:
    """What was lost last is found."""
    ws = Fake()
    site.join("kept", ws)
    site.backend.drops = lambda entry: entry.group == "kept"
    for text in numbers(1, 4):
        site.send("kept", text)
    site.flows()
    assert ws.texts == []
    site.backend.lose()
    until(lambda: ws.texts == numbers(1, 4))
    site.hub.leave("kept", ws)


def test_duplicated_and_late_entries_are_dropped(site: Site) -> None:
    """Each message is delivered once, in order."""
    ws = Fake()
    start = site.join("kept", ws).position
    assert start is not None
    for text in numbers(1, 4):
        site.send("kept", text)
    until(lambda: len(ws.texts) == 3)
    site.backend.bring(*(site.entry("kept", str(number), start.epoch, number) for number in (3, 1, 2)))
    site.send("kept", "4")
    until(lambda: len(ws.texts) > 3)
    assert ws.texts == numbers(1, 5)
    site.hub.leave("kept", ws)


def test_entry_of_an_ended_epoch_lets_the_reader_rest(site: Site) -> None:
    """It is dropped after a reading or two."""
    ws = Fake()
    site.join("kept", ws)
    reads = len(site.backend.reads)
    site.backend.bring(site.entry("kept", "old", "ended", 7))
    gevent.sleep(0.1)
    assert len(site.backend.reads) - reads <= 2
    site.send("kept", "x")
    until(lambda: ws.texts == ["x"])
    assert ws.closes == []
    site.hub.leave("kept", ws)


def test_gap_that_cannot_be_healed(site: Site) -> None:
    """Members with ``on_gap`` are called, between the messages; all others are closed with 1013."""
    events: list[str] = []
    informed, other = Fake(events.append), Fake()
    site.join("kept", informed, on_gap=lambda ws, name: events.append(f"gap in {name}"))
    site.join("kept", other)
    site.send("kept", "1")
    site.flows()
    site.backend.drops = lambda entry: entry.group == "kept"
    for text in numbers(2, 200):
        site.send("kept", text)
    site.flows()
    site.backend.drops = lambda entry: False
    site.backend.lose()
    until(lambda: len(events) > 1)
    site.send("kept", "last")
    until(lambda: events == ["1", "gap in kept", "last"])
    assert other.closes == [(1013, "messages were missed")]
    assert site.counters.group_gaps == 1
    for ws in (informed, other):
        site.hub.leave("kept", ws)


def test_loss_in_a_group_without_history(site: Site) -> None:
    """``on_gap`` is called; the others stay open."""
    gaps: list[str] = []
    informed, other = Fake(), Fake()
    site.join("room", informed, on_gap=lambda ws, name: gaps.append(name))
    site.join("room", other)
    site.backend.lose()
    until(lambda: gaps == ["room"])
    assert other.closes == []
    for ws in (informed, other):
        site.hub.leave("room", ws)


def test_backend_that_cannot_be_read_delays_no_other_group(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups that are to be read are read at once, again after a time, and live groups go on meanwhile."""
    monkeypatch.setattr(hub, "RETRY", (0.05, 0.1))
    names = [f"kept.{number}" for number in range(20)]
    fakes = {name: Fake() for name in names}
    live = Fake()
    for name, ws in fakes.items():
        site.join(name, ws)
    site.join("room", live)

    def fail() -> None:
        gevent.sleep(0.02)
        raise GroupsUnavailable("no")

    site.backend.drops = lambda entry: entry.group != "room"
    for name in names:
        site.send(name, name)
    site.backend.on_read = fail
    del site.backend.reads[:]
    site.backend.lose()
    began = time.monotonic()
    for text in numbers(0, 10):
        site.send("room", text)
        gevent.sleep(0.02)
    until(lambda: live.texts == numbers(0, 10))
    took = time.monotonic() - began
    assert len(site.backend.reads) <= 3 + took / 0.05
    assert max(map(len, site.backend.reads)) == len(names)
    assert took < 1
    site.backend.on_read = lambda: None
    until(lambda: all(ws.texts == [name] for name, ws in fakes.items()))
    for name, ws in fakes.items():
        site.hub.leave(name, ws)
    site.hub.leave("room", live)


def test_reader_that_fails_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake in a backend is logged, and what may be missing is read again."""
    monkeypatch.setattr(hub, "RETRY", (0.01, 0.02))
    ws = Fake()
    site.join("kept", ws)
    site.backend.drops = lambda entry: entry.group == "kept"
    site.send("kept", "1")
    site.flows()
    site.backend.bring(Confirmed(None))  # type: ignore[arg-type]
    until(lambda: ws.texts == ["1"])
    assert [record.message for record in problems(caplog) if record.exc_info] == [
        "groups: the reader failed and goes on"
    ]
    site.hub.leave("kept", ws)


def test_entry_that_is_no_message_is_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """It is skipped; the next one is delivered."""
    ws = Fake()
    site.join("room", ws)
    site.backend.bring(site.entry("room", "x")._replace(payload=b"\x07garbage"))
    site.send("room", "y")
    until(lambda: ws.texts == ["y"])
    assert [record.message for record in problems(caplog)] == [
        "group room: the backend has a message of version 7, and this is version 1"
    ]
    site.hub.leave("room", ws)


def test_thread_that_publishes_without_a_pause_leaves_the_loop_running(site: Site) -> None:
    """The reader lets other greenlets run, however much it has to read."""
    ws = Fake()
    ws.offer = lambda message: True  # type: ignore[method-assign]
    site.join("room", ws)
    ends = threading.Event()

    def publish() -> None:
        while not ends.is_set():
            site.send("room", "x")

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        longest, last = 0.0, time.monotonic()
        for _ in range(50):
            gevent.sleep(0.001)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
    finally:
        ends.set()
        thread.join()
    assert longest < 0.5
    site.hub.leave("room", ws)


def test_feed_ends_some_time_after_the_last_member(site: Site) -> None:
    """Nothing is left of it; a member that comes later has a new one."""
    for _ in range(2):
        ws = Fake()
        site.join("room", ws)
        site.hub.leave("room", ws)
        until(lambda: all(feed.closed for feed in site.backend.feeds))
    assert len(site.backend.feeds) == 2


# --- comparisons ------------------------------------------------------------------------------------------------------


@pytest.fixture
def compares(monkeypatch: pytest.MonkeyPatch) -> None:
    """All the time."""
    monkeypatch.setattr(hub, "CHECK_EVERY", 0.02)
    monkeypatch.setattr(hub, "COMPARE_EVERY", 0.0)


def test_lost_last_message_of_a_quiet_group_is_found(
    site: Site, compares: None, caplog: pytest.LogCaptureFixture
) -> None:
    """No later one shows that it is missing; other groups are not read once more for it."""
    ws, other, live = Fake(), Fake(), Fake()
    site.join("kept.1", ws)
    site.join("kept.2", other)
    site.join("live", live)
    site.backend.drops = lambda entry: b"lost" in entry.payload
    for name in ("kept.1", "kept.2", "live"):
        site.send(name, "first")
    until(lambda: ws.texts == other.texts == live.texts == ["first"])
    site.backend.reads.clear()
    site.send("kept.1", "lost")
    until(lambda: ws.texts == ["first", "lost"])
    assert set(map(tuple, site.backend.reads)) == {("kept.1", "kept.2"), ("kept.1",)}
    site.send("kept.1", "last")
    until(lambda: ws.texts == ["first", "lost", "last"])
    assert other.texts == ["first"]
    assert problems(caplog) == []
    for name, member in (("kept.1", ws), ("kept.2", other), ("live", live)):
        site.hub.leave(name, member)  # type: ignore[arg-type]


def test_comparison_that_fails_is_made_again(site: Site, compares: None, caplog: pytest.LogCaptureFixture) -> None:
    """Members get what comes meanwhile; nothing waits for the reading. A mistake of a backend is logged."""
    ws, errors = Fake(), [LookupError("a mistake"), GroupsUnavailable("no"), GroupsUnavailable("no")]

    def fail() -> None:
        if errors:
            raise errors.pop()

    site.join("kept", ws)
    site.backend.drops = lambda entry: b"lost" in entry.payload
    site.backend.on_read = fail
    site.send("kept", "live")
    until(lambda: ws.texts == ["live"])
    site.send("kept", "lost")
    until(lambda: ws.texts == ["live", "lost"])
    assert [record.getMessage() for record in problems(caplog)] == ["groups: a check failed"]
    site.hub.leave("kept", ws)  # type: ignore[arg-type]


def test_new_epoch_without_messages_is_found(site: Site, compares: None) -> None:
    """Members are informed that messages may be missing: the group does not go on from where they are."""
    ws = Fake()
    site.join("kept", ws)
    site.backend.changes = lambda page: page._replace(epoch="another")
    until(lambda: ws.closes == [(1013, "messages were missed")])
    site.hub.leave("kept", ws)  # type: ignore[arg-type]


# --- counts -----------------------------------------------------------------------------------------------------------


def counted(backend: Double, name: str) -> int:
    return sum(map(int, backend.get(COUNTS, name)))


def test_counts_follow_the_members(site: Site) -> None:
    """Other processes see them soon; a group without members takes no space."""
    first, second = Fake(), Fake()
    site.join("room", first)
    site.join("room", second)
    until(lambda: counted(site.backend, "room") == 2)
    site.hub.leave("room", first)
    until(lambda: counted(site.backend, "room") == 1)
    site.hub.leave("room", second)
    until(lambda: site.backend.get(COUNTS, "room") == [])


def test_counts_that_were_not_put_are_put_later(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where two greenlets put them at the same time, and the first one fails."""
    monkeypatch.setattr(records, "RETRY", 0.01)
    gate, ws = Gate(), Fake()

    def fail(values: Mapping[str, bytes | None]) -> None:
        gate()
        site.backend.on_put = lambda values: None
        raise GroupsUnavailable("no")

    site.backend.on_put = fail
    site.join("room", ws)
    asks = Attempt(site.hub.records.flush)
    gate.reached()
    gevent.sleep(0.05)  # the timer comes
    gate.open()
    with pytest.raises(GroupsUnavailable):
        asks.get(timeout=5)
    until(lambda: counted(site.backend, "room") == 1)
    more = Fake()
    site.join("room", more)
    until(lambda: counted(site.backend, "room") == 2)
    site.hub.leave("room", ws)
    site.hub.leave("room", more)


def test_older_count_does_not_overwrite_a_newer_one(site: Site) -> None:
    """One is put after the other."""
    gate, first, second = Gate(), Fake(), Fake()

    def wait(values: Mapping[str, bytes | None]) -> None:
        site.backend.on_put = lambda values: None
        gate()

    site.backend.on_put = wait
    site.join("room", first)
    old = Attempt(site.hub.records.flush)
    gate.reached()
    site.join("room", second)
    new = Attempt(site.hub.records.flush)
    ticks()
    gate.open()
    old.get()
    new.get()
    assert counted(site.backend, "room") == 2
    site.hub.leave("room", first)
    site.hub.leave("room", second)


def test_release_puts_nothing(site: Site) -> None:
    """What was due would open the backend again."""
    put: list[Any] = []
    ws = Fake()
    site.backend.on_put = put.append
    site.join("room", ws)
    site.hub.release()
    ticks(30)
    assert put == []
    assert site.backend.feeds[0].closed


def test_log_is_quiet(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """What peers do causes no warning."""
    caplog.set_level(logging.WARNING)
    with connected() as (ws, peer):
        site.join("room", ws)
        site.send("room", "x")
        peer.reset()
        until(lambda: site.hub.sizes() == {})
    assert problems(caplog) == []


def test_groups_of_a_connection_are_those_of_this_hub(site: Site) -> None:
    """As long as it is a member."""
    other = Site()
    ws = Fake()
    site.join("one", ws)
    site.join("two", ws)
    other.join("three", ws)
    assert site.hub.groups_of(ws) == ["one", "two"]
    assert other.hub.groups_of(ws) == ["three"]
    site.hub.leave("one", ws)
    other.hub.leave("three", ws)
    assert (site.hub.groups_of(ws), other.hub.groups_of(ws)) == (["two"], [])
    site.hub.leave("two", ws)
