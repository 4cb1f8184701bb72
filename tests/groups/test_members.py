"""What members get: one frame for all, or a call of their handler; and what a slow or wrong one costs the others."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from typing import Any

import gevent
import pytest

from gws_middleware import WebSocket
from gws_middleware.groups import Publication, members
from gws_middleware.groups.members import Group, Mailbox
from gws_middleware.protocol.deflate import Parameters

from ..support.inprocess import connected, count_of, hub_errors, problems, spin, ticks, until  # noqa: F401
from .conftest import Attempt, Bare, Fake, Gate, Site

TOO_SLOW = (1013, "too slow")


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in problems(caplog)]


def leave(site: Site, name: str, *fakes: Fake) -> None:
    for ws in fakes:
        site.hub.leave(name, ws)  # type: ignore[arg-type]


# --- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("text", "text"),
        (b"\x00\xff", b"\x00\xff"),
        ({"a": [1, None, "é"]}, '{"a":[1,null,"é"]}'),
        (None, "null"),
        (3, "3"),
    ],
)
def test_message_is_sent_as_it_was(site: Site, message: Any, expected: str | bytes) -> None:
    """``str`` as text, bytes as binary, anything else as JSON text."""
    with connected() as (ws, peer):
        site.join("room", ws)
        site.send("room", message)
        assert peer.receive() == expected


def test_excluded_connection_gets_no_copy(site: Site) -> None:
    """Neither as a member, nor while it joins, nor of what it has missed; all others do."""
    gate = Gate()
    with connected() as (ws, peer), connected() as (other, other_peer):
        site.join("kept", other)
        start = site.send("kept", "0")
        site.send("kept", "own, missed", exclude=ws)
        site.backend.after_read = gate
        join = Attempt(site.join, "kept", ws, start)
        gate.reached()
        site.send("kept", "own, collected", exclude=ws)
        site.send("kept", "1")
        gate.open()
        join.get()
        site.send("kept", "own, live", exclude=ws)
        site.send("kept", "2")
        assert [peer.receive(), peer.receive()] == ["1", "2"]
        expected = ["0", "own, missed", "own, collected", "1", "own, live", "2"]
        assert [other_peer.receive() for _ in expected] == expected


def test_wrap_is_computed_once_for_all_members(site: Site) -> None:
    """Once per message and function; members get the same frame."""
    calls: list[str] = []

    def upper(publication: Publication) -> str:
        calls.append("upper")
        return publication.data.upper()

    def lower(publication: Publication) -> bytes:
        calls.append("lower")
        return publication.data.lower().encode()

    fakes = [Fake() for _ in range(6)]
    for number, ws in enumerate(fakes):
        site.join("room", ws, wrap=upper if number % 2 else lower, on_gap=print if number > 3 else None)
    site.send("room", "Hello")
    until(lambda: all(ws.texts for ws in fakes))
    assert [ws.texts for ws in fakes] == [["hello"], ["HELLO"]] * 3
    assert sorted(calls) == ["lower", "upper"]
    assert len({id(ws.frames[0]) for ws in fakes}) == 2
    leave(site, "room", *fakes)


def test_wrap_that_returns_none_sends_nothing(site: Site) -> None:
    """To its members; the others get the message."""
    silent, other = Fake(), Fake()
    site.join("room", silent, wrap=lambda publication: None if publication.data == "secret" else publication.message)
    site.join("room", other)
    site.send("room", "secret")
    site.send("room", "open")
    until(lambda: other.texts == ["secret", "open"])
    until(lambda: silent.texts == ["open"])
    leave(site, "room", silent, other)


@pytest.mark.parametrize("error", [ZeroDivisionError(), gevent.Timeout(1), SystemExit(1), "no message"])
def test_wrap_that_raises(site: Site, caplog: pytest.LogCaptureFixture, error: BaseException | str) -> None:
    """It is logged once; its members do not get that message, and everything else is delivered."""

    def wrap(publication: Publication) -> Any:
        if publication.data != "bad":
            return publication.message
        if isinstance(error, str):
            return [error]
        raise error

    wrapped, other = [Fake(), Fake()], Fake()
    for ws in wrapped:
        site.join("room", ws, wrap=wrap)
    site.join("room", other)
    site.send("room", "bad")
    site.send("room", "good")
    until(lambda: other.texts == ["bad", "good"])
    until(lambda: [ws.texts for ws in wrapped] == [["good"], ["good"]])
    assert errors(caplog) == [f"group room: {wrap!r} raised: its members do not get this message"]
    leave(site, "room", other, *wrapped)


def test_wrap_that_raises_for_what_was_missed(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """The same for a connection that joins."""
    start = site.send("kept", "0")
    for text in ("good", "bad", "better"):
        site.send("kept", text)

    def wrap(publication: Publication) -> Any:
        return {"bad": 3.5j}.get(publication.data, publication.message)

    ws = Fake()
    site.join("kept", ws, start, wrap=wrap)
    assert ws.texts == ["good", "better"]
    assert errors(caplog) == [f"group kept: {wrap!r} raised: its members do not get this message"]
    leave(site, "kept", ws)


def test_wrap_may_use_the_group(site: Site) -> None:
    """It may send, join and leave: what it sends comes after the message that it wraps."""
    first, second = Fake(), Fake()

    def wrap(publication: Publication) -> str:
        if publication.data == "1":
            site.send("room", "2")
            site.join("room", second)
            site.hub.leave("room", first)  # type: ignore[arg-type]
        return f"<{publication.data}>"

    stays = Fake()
    site.join("room", first, wrap=wrap)
    site.join("room", stays, wrap=wrap)
    site.send("room", "1")
    until(lambda: stays.texts == ["<1>", "<2>"])
    until(lambda: second.texts == ["2"])
    assert first.texts == []
    leave(site, "room", second, stays)


@pytest.mark.parametrize(
    "compression",
    [
        None,
        Parameters(server_no_context_takeover=True, client_no_context_takeover=True),
        Parameters(),
    ],
    ids=["none", "shared", "dedicated"],
)
def test_compression_of_members(site: Site, compression: Parameters | None) -> None:
    """The client of every member decodes the same text, whatever it was sent in between."""
    text = "the same words again and again " * 20
    with connected(compression=compression) as (first, one), connected(compression=compression) as (second, two):
        for ws in (first, second):
            site.join("room", ws)
        for number in range(5):
            first.send(f"own {number} " * 50)
            site.send("room", f"{number} {text}")
            assert one.receive() == f"own {number} " * 50
            assert one.receive() == two.receive() == f"{number} {text}"


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_no_message_after_leave(site: Site) -> None:
    """Nothing of what is on the way, also where it leaves in the middle of a message to others."""
    last = Fake()

    def leaves(text: str) -> None:
        if text == "1":
            assert site.hub.leave("room", last)  # type: ignore[arg-type]

    first = Fake(leaves)
    site.join("room", first)
    site.join("room", last)
    for text in ("1", "2", "3"):
        site.send("room", text)
    until(lambda: first.texts == ["1", "2", "3"])
    assert last.texts == []
    assert not site.hub.leave("room", last)  # type: ignore[arg-type]
    leave(site, "room", first)


def test_connection_that_joins_again_gets_what_follows(site: Site) -> None:
    """Each message once."""
    ws = Fake()
    for number in range(3):
        site.join("room", ws)
        site.send("room", str(number))
        until(lambda: len(ws.texts) == number + 1)  # noqa: B023
        leave(site, "room", ws)
        site.send("room", "between")
        site.flows()
    assert ws.texts == ["0", "1", "2"]


# --- slow members -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skips", [False, True])
def test_peer_that_reads_nothing_delays_no_other(site: Site, skips: bool) -> None:
    """It is closed with 1013, or gets no more; the others get all of it."""
    text = "x" * 10_000
    options = {"send_limit": 50_000, "send_high_water": 40_000}
    with connected(buffers=4096, **options) as (slow, slow_peer), connected(**options) as (quick, peer):
        site.join("room", slow, skips=skips)
        site.join("room", quick)
        for _ in range(100):
            site.send("room", text)
            assert peer.receive() == text
        assert slow.closed is not skips
        if skips:
            assert site.counters.group_skipped > 50
            assert slow_peer.receive() == text
        else:
            assert (slow.close_code, slow.close_reason) == TOO_SLOW
            assert site.counters.group_skipped == 0
            assert site.hub.sizes() == {"room": 1}


def test_many_members_let_others_be_served(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a message goes to 10,000 members, another group gets its own, and the event loop polls."""
    order: list[str] = []

    def slowly(text: str) -> None:
        order.append("big")
        spin(5e-6)

    big = [Fake(slowly) for _ in range(10_000)]
    small = Fake(lambda text: order.append("small"))
    for ws in big:
        site.join("big", ws)
    site.join("small", small)
    site.send("big", "x")
    site.send("small", "x")
    polls = 0
    while len(order) < 10_001:
        gevent.sleep(0.0001)
        polls += 1
    assert order.index("small") <= 2 * members.SLICE
    assert polls >= 4  # 50 ms of work, in turns of 5 to 10 ms
    for ws in big:
        leave(site, "big", ws)
    leave(site, "small", small)


# --- handler ----------------------------------------------------------------------------------------------------------


def test_handler_runs_in_order_one_at_a_time(site: Site) -> None:
    """Also where it waits; a greenlet exists only while there is something."""
    running, handled = [0], []

    def handle(ws: Any, publication: Publication) -> None:
        running[0] += 1
        assert running == [1]
        gevent.sleep(0.001)
        handled.append(publication.data)
        running[0] -= 1

    ws = Fake()
    site.join("room", ws, handler=handle)
    for _ in range(2):
        del handled[:]
        for number in range(30):
            site.send("room", number)
        until(lambda: handled == list(range(30)))
    assert ws.texts == []
    leave(site, "room", ws)


def test_handler_that_is_too_slow(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection is closed with 1013; other members are not delayed."""
    monkeypatch.setattr(members, "MAX_WAITING", 3)
    gate, quick = Gate(), Fake()
    with connected() as (slow, peer):
        site.join("room", slow, handler=gate)
        site.join("room", quick)
        for number in range(6):
            site.send("room", str(number))
        until(lambda: len(quick.texts) == 6)
        assert peer.close_frame() == TOO_SLOW
        assert site.counters.dropped == 1
        leave(site, "room", quick)
        gate.open()


@pytest.mark.parametrize("error", [ZeroDivisionError("a mistake"), gevent.Timeout(1), SystemExit(1)])
def test_handler_that_raises(site: Site, caplog: pytest.LogCaptureFixture, error: BaseException) -> None:
    """It is logged once and closes with 1011; nothing more is handled."""
    handled = []

    def handle(ws: WebSocket, publication: Publication) -> None:
        handled.append(publication.data)
        raise error

    with connected() as (ws, peer):
        site.join("room", ws, handler=handle)
        site.send("room", "1")
        site.send("room", "2")
        assert peer.close_frame() == (1011, "")
    assert handled == ["1"]
    assert errors(caplog) == [f"WebSocket '/chat': {handle!r} raised; closed with 1011"]


def test_handler_that_uses_a_connection_that_has_ended(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """ConnectionClosed is no mistake then."""
    gate = Gate()

    def handle(ws: WebSocket, publication: Publication) -> None:
        gate()
        ws.send(publication.data)

    with connected() as (ws, peer):
        site.join("room", ws, handler=handle)
        site.send("room", "1")
        gate.reached()
        peer.close()
        until(lambda: ws.closed)
        gate.open()
        ticks()
    assert errors(caplog) == []


def test_handler_may_use_the_group(site: Site) -> None:
    """It may send to the group, leave it and join again."""
    handled: list[str] = []
    ws = Fake()

    def handle(ws: Any, publication: Publication) -> None:
        handled.append(publication.data)
        if publication.data == "1":
            site.send("room", "2")
        elif publication.data == "2":
            leave(site, "room", ws)
            site.join("room", ws, handler=handle)
            site.send("room", "3")

    site.join("room", ws, handler=handle)
    site.send("room", "1")
    until(lambda: handled == ["1", "2", "3"])
    leave(site, "room", ws)


def test_no_call_of_a_handler_of_a_closed_connection() -> None:
    """Neither in a process that was forked, where every connection is closed, and none has ended."""
    ws, handled = Fake(), []

    def handle(ws: Any, publication: Any) -> None:
        handled.append(publication)
        ws.forked()

    mailbox = Mailbox(ws, handle)  # type: ignore[arg-type]
    mailbox.fill([1, 2])  # type: ignore[list-item]
    ticks()
    assert handled == [1]


def test_no_call_of_a_handler_after_leave(site: Site) -> None:
    """What waits is not handled, also what was missed."""
    gate, handled = Gate(), []
    start = site.send("kept", "0")
    for text in ("1", "2"):
        site.send("kept", text)

    def handle(ws: Any, publication: Publication) -> None:
        handled.append(publication.data)
        gate()

    ws = Fake()
    site.join("kept", ws, start, handler=handle)
    site.send("kept", "3")
    site.flows()
    gate.reached()
    leave(site, "kept", ws)
    gate.open()
    site.flows()
    assert handled == ["1"]


# --- on_gap -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ZeroDivisionError("a mistake"), gevent.Timeout(1), SystemExit(1)])
def test_on_gap_that_raises(site: Site, caplog: pytest.LogCaptureFixture, error: BaseException) -> None:
    """It is logged and closes its connection with 1011; the others are called."""
    called = []

    def fails(ws: Any, name: str) -> None:
        raise error

    bad, good = Fake(), Fake()
    site.join("room", bad, on_gap=fails)
    site.join("room", good, on_gap=lambda ws, name: called.append(name))
    site.backend.lose()
    until(lambda: called == ["room"])
    site.send("room", "x")
    until(lambda: good.texts == ["x"])
    assert bad.closes == [(1011, "")]
    assert errors(caplog)[1:] == [f"WebSocket '/fake': {fails!r} raised; closed with 1011"]
    leave(site, "room", bad, good)


def test_on_gap_comes_after_what_waits_for_the_handler(site: Site) -> None:
    """Messages from before the gap are handled before it."""
    ws, gate = Fake(), Gate()
    events: list[str] = []

    def handle(ws: Any, publication: Publication) -> None:
        gate()
        events.append(publication.data)

    site.join("room", ws, handler=handle, on_gap=lambda ws, name: events.append("gap"))
    site.send("room", "1")
    site.send("room", "2")
    gate.reached()
    site.backend.lose()
    site.flows()
    site.send("room", "3")
    gate.open()
    until(lambda: len(events) == 4)
    assert events == ["1", "2", "gap", "3"]
    leave(site, "room", ws)


def test_on_gap_may_use_the_group(site: Site) -> None:
    """It may leave and join: what follows is delivered."""
    ws = Fake()

    def again(ws: Any, name: str) -> None:
        leave(site, name, ws)
        site.join(name, ws)

    site.join("kept", ws, on_gap=again)
    site.backend.drops = lambda entry: entry.group == "kept"
    for number in range(150):
        site.send("kept", str(number))
    site.flows()
    site.backend.drops = lambda entry: False
    site.backend.lose()
    until(lambda: site.counters.group_gaps == 1)
    site.send("kept", "last")
    until(lambda: ws.texts == ["last"])
    leave(site, "kept", ws)


# --- a mistake of ours -----------------------------------------------------------------------------------------------


def test_member_that_cannot_be_offered_a_message(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the other members get the message."""

    def fails(text: str) -> None:
        if text == "1":
            raise ZeroDivisionError("a mistake")

    bad, good = Fake(fails), Fake()
    site.join("room", bad)
    site.join("room", good)
    site.send("room", "1")
    site.send("room", "2")
    until(lambda: bad.texts == ["2"])
    assert good.texts == ["1", "2"]
    assert errors(caplog) == ["WebSocket '/fake': a message of group room was not delivered"]
    leave(site, "room", bad, good)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_membership_takes_little_memory(site: Site) -> None:
    """At most 200 bytes, of 10,000 members of one group."""
    count = 10_000
    fakes: list[Any] = [Bare() for _ in range(count)]
    site.join("room", Fake())
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for ws in fakes:
        site.join("room", ws)
    site.flows()
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 50 <= taken / count <= 200
    site.hub.release()


@pytest.mark.parametrize("name", ["room", "kept"])
@pytest.mark.parametrize("end", ["leave", "close", "reset"])
def test_nothing_is_left_of_a_member(site: Site, name: str, end: str) -> None:
    """Neither of the connection nor of its group, and without the garbage collector's help for the connection."""
    references, groups = [], count_of(Group)

    def visit() -> None:
        with connected() as (ws, peer):
            ws.detach()
            site.join(name, ws, handler=lambda ws, publication: None)
            site.send(name, "x")
            site.flows()
            references.append(weakref.ref(ws))
            if end == "leave":
                site.hub.leave(name, ws)
            elif end == "close":
                peer.close()
            else:
                peer.reset()
            until(lambda: site.hub.sizes() == {})

    for _ in range(3):
        visit()
    gc.collect()
    until(lambda: [reference() for reference in references] == [None] * 3)
    assert count_of(Group) == groups
