"""``keepalive``: pings to idle peers, an end for those that do not answer, a deadline for each message.

The peers of these tests read and answer only when a test calls them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import groupby
from typing import Any

import gevent
import pytest

from gws_middleware import ConnectionClosed, WebSocket, prepare
from gws_middleware.codes import CloseCode, Opcode
from gws_middleware.config import Config
from gws_middleware.process import keepalive
from gws_middleware.process.keepalive import CHECKS, MAX_TICK, Keepalive

from ..support.inprocess import (
    PING_FRAME,
    Peer,
    connected,
    hub_errors,
    in_a_watcher,
    masked_frame,
    open_descriptors,
    spin,
    ticks,
    tls_pair,
    unix_pair,
    until,
)
from ..support.seam import activity, is_paused, keepalive_ping, registry_of, transport_of
from ..support.waiting import RESOLUTION

__all__ = ["hub_errors"]

pytestmark = pytest.mark.slow  # seconds of real time: too many for every save

SHORT = 0.04
"""Seconds of the intervals of these tests."""
SEVERAL = 5 * SHORT
"""Seconds in which each of them would have passed more than twice."""
QUICK: dict[str, Any] = {"ping_interval": SHORT, "ping_timeout": SHORT}
NEVER: dict[str, Any] = {"ping_interval": None, "ping_timeout": None, "message_timeout": None}


def next_ping(peer: Peer) -> None:
    """Read until another ping has come, and leave it unanswered."""
    peer.engine.take_pongs()
    while not peer.engine.pongs_due:
        assert not peer.ended, "the connection has ended"
        assert peer.engine.received_close is None
        peer.read()


def ended_with(ws: WebSocket) -> tuple[int | None, str | None]:
    """Code and reason, once there are any."""
    until(lambda: ws.closed, "the connection ends")
    return ws.close_code, ws.close_reason


class Quiet:
    """A connection without a socket, which counts the calls. Args: what the two numbers are at its n-th check."""

    def __init__(
        self, activity: Callable[[int], int | None] = lambda n: 0, message: Callable[[int], int | None] = lambda n: None
    ) -> None:
        self.activity, self.message = activity, message
        self.on_check: Callable[[], object] = lambda: None
        self.on_ping: Callable[[], object] = lambda: None
        self.checks = self.pings = 0
        self.failures: list[tuple[int, str]] = []

    def _activity(self) -> int | None:
        self.checks += 1
        self.on_check()
        return self.activity(self.checks)

    def _message_number(self) -> int | None:
        return self.message(self.checks)

    def _keepalive_ping(self) -> None:
        self.pings += 1
        self.on_ping()

    def _fail(self, code: CloseCode, reason: str) -> None:
        self.failures.append((int(code), reason))


@contextmanager
def watched(*members: Quiet, **options: Any) -> Iterator[Keepalive]:
    """A keepalive that checks these members, all with the same settings."""
    found = Keepalive()
    for connection in members:
        found.watch(connection, Config(**options))
    try:
        yield found
    finally:
        for connection in members:
            found.forget(connection)


# --- the rules, without a socket -----------------------------------------------------------------------------------

SILENT = (1011, "keepalive ping timeout")
BRIEF = {"ping_interval": 0.008, "ping_timeout": 0.008, "message_timeout": 0.008}
LATE = (1008, "a message took more than 0.008 seconds")
NUMBERS: dict[str, Callable[[int], int | None]] = {
    "the same": lambda n: 0,
    "another": lambda n: n,
    "none": lambda n: None,
}
"""What the activity of a connection or the number of its message is at the n-th check."""


@pytest.mark.parametrize(
    ("activity", "message", "without", "is_pinged", "ends"),
    [
        ("the same", "none", None, True, {SILENT}),
        ("the same", "none", "ping_timeout", True, set()),
        ("the same", "none", "ping_interval", False, set()),
        ("the same", "the same", "ping_interval", False, {LATE}),
        ("another", "none", None, False, set()),
        ("another", "the same", None, False, {LATE}),
        ("another", "the same", "message_timeout", False, set()),
        ("another", "another", None, False, set()),
        ("none", "none", None, True, set()),
        ("none", "the same", None, True, set()),
    ],
)
def test_rule(activity: str, message: str, without: str | None, is_pinged: bool, ends: set[tuple[int, str]]) -> None:
    """What follows from the activity and from the message of a connection, with and without each setting. While nothing
    is read the activity is None: it is pinged, but not ended, because what has come cannot be seen.
    """
    connection = Quiet(NUMBERS[activity], NUMBERS[message])
    options = {name: None if name == without else value for name, value in BRIEF.items()}
    with watched(connection, **options):
        until(lambda: connection.checks >= 4 * CHECKS, "all intervals are over, twice")
    assert (connection.pings > 0, set(connection.failures)) == (is_pinged, ends)


# --- pings --------------------------------------------------------------------------------------------------------


def push(ws: WebSocket) -> None:
    with suppress(ConnectionClosed):
        while True:
            ws.send("x")
            gevent.sleep(0.002)


VIEWS: dict[str, Callable[[WebSocket], object]] = {
    "waits": lambda ws: ws.receive(),
    "waits for a time": lambda ws: ws.receive(timeout=60),
    "sleeps": lambda ws: gevent.sleep(60),
    "only pushes": push,
    "has returned": lambda ws: ws.detach(),
}


class TestPings:
    @pytest.mark.parametrize("view", VIEWS)
    def test_ping_is_sent_after_an_interval_without_activity_and_not_before(self, view: str) -> None:
        """Whatever the view does."""
        begin = time.monotonic()
        with connected(**QUICK) as (ws, peer):
            viewing = gevent.spawn(VIEWS[view], ws)
            next_ping(peer)
            elapsed = time.monotonic() - begin
            viewing.kill()
        assert elapsed >= SHORT

    def test_ping_is_sent_while_the_inbox_is_full(self) -> None:
        """Again and again: nothing else could find out that the peer has disconnected. Its pongs wait in the kernel, so
        it is not silent; when the view goes on, nothing is lost.
        """
        with connected(inbox_messages=1, **QUICK) as (ws, peer):
            begin = time.monotonic()
            peer.send("one", "two")
            for _ in range(3):
                next_ping(peer)
            assert time.monotonic() - begin >= 3 * SHORT - RESOLUTION
            assert is_paused(ws)
            assert [ws.receive(), ws.receive()] == ["one", "two"]

    def test_ping_is_sent_over_tls(self) -> None:
        """A TLS connection has the same keepalive."""
        with connected(pair=tls_pair, **QUICK) as (_, peer):
            next_ping(peer)

    def test_pong_sets_the_latency(self) -> None:
        """The application need not call ``ping()`` for it."""
        with connected(**QUICK) as (ws, peer):
            next_ping(peer)
            peer.answer()
            until(lambda: ws.latency is not None)
            assert 0 < ws.latency < 1

    def test_peer_that_answers_gets_another_ping(self) -> None:
        """After another interval; its connection stays open."""
        with connected(**QUICK) as (ws, peer):
            begin = time.monotonic()
            for _ in range(4):
                next_ping(peer)
                peer.answer()
            elapsed = time.monotonic() - begin
            assert not ws.closed
            assert elapsed >= 4 * SHORT

    def test_ping_is_sent_beside_frames_that_wait_for_the_tick_to_end(self) -> None:
        """They wait for us, not for the peer, so they do not show whether it is connected."""
        with connected() as (ws, peer):
            ws.offer(prepare("one"))
            ws.offer(prepare("two"))
            assert transport_of(ws).outbox_size
            keepalive_ping(ws)
            next_ping(peer)
            assert peer.inbox == ["one", "two"]

    def test_stuck_outbox_gets_no_ping(self) -> None:
        """Each would add bytes for a peer that reads nothing."""
        with connected(pair=unix_pair, send_high_water=2**30) as (ws, _):
            ws.send(bytes(2**23))
            waiting = transport_of(ws).outbox_size
            keepalive_ping(ws)
            assert transport_of(ws).outbox_size == waiting > 0


# --- the end ------------------------------------------------------------------------------------------------------


class TestSilence:
    def test_connection_is_ended_after_ping_and_timeout(self) -> None:
        """1011, with the reason that the library ``websockets`` uses; the view's ``receive()`` returns None."""
        begin = time.monotonic()
        with connected(**QUICK) as (ws, peer):
            viewing = gevent.spawn(ws.receive)
            assert peer.close_frame() == SILENT
            elapsed = time.monotonic() - begin
            assert viewing.get(timeout=5) is None
            assert (ws.close_code, ws.close_reason) == SILENT
            assert elapsed >= 2 * SHORT

    def test_detached_connection_of_a_silent_peer_is_ended(self) -> None:
        """``on_close`` runs, once."""
        closed: list[Any] = []
        with connected(**QUICK) as (ws, _):
            ws.detach(on_close=lambda ws: closed.append((ws.close_code, ws.close_reason)))
            until(lambda: closed)
            ticks()
            assert closed == [SILENT]

    def test_connection_of_a_view_that_only_sends_is_ended(self) -> None:
        """That the kernel takes frames at once is no activity of the peer."""
        with connected(**QUICK) as (ws, peer):
            viewing = gevent.spawn(push, ws)
            assert peer.close_frame() == SILENT
            viewing.join(5)
            assert viewing.dead

    def test_socket_of_a_silent_peer_is_closed(self) -> None:
        """The peer does not answer the close frame either: the socket is closed after ``close_timeout``."""
        before = open_descriptors()
        with connected(close_timeout=0.02, **QUICK) as (ws, _):
            until(lambda: transport_of(ws).closed)
            assert open_descriptors() == before + 1  # the peer's
            assert ended_with(ws) == SILENT

    def test_connection_that_closes_is_not_checked(self) -> None:
        """Its own deadline ends it, with its own code."""
        with connected(close_timeout=5.0, **QUICK) as (ws, peer):
            ws.close(4001, "bye")
            assert ws not in registry_of(ws).keepalive
            assert peer.close_frame() == (4001, "bye")
            assert (ws.close_code, transport_of(ws).closed) == (4001, False)

    def test_worker_that_was_blocked_ends_no_connection(self) -> None:
        """For longer than all timeouts: pongs that arrived meanwhile have not been read yet."""
        with connected(**QUICK) as (ws, peer):
            for _ in range(3):
                next_ping(peer)
                peer.answer()
                in_a_watcher(lambda: spin(SEVERAL))
                ticks(10)
            assert not ws.closed

    def test_answer_that_arrived_while_the_worker_was_blocked_is_read_first(self) -> None:
        """Nearly all of its time was over, and the late check is the one that would end the connection.

        The intervals are long, because this process may have to wait for a core: an answer after ``timeout`` is late.
        """
        timeout = 20 * SHORT
        with connected(ping_interval=timeout, ping_timeout=timeout) as (ws, peer):
            next_ping(peer)
            gevent.sleep(timeout * 6.5 / CHECKS)
            peer.answer()
            spin(timeout * 2 / CHECKS)
            ticks(10)
            assert not ws.closed

    def test_timeout_starts_again_when_reading_starts_again(self) -> None:
        """Pings that were sent meanwhile do not count."""
        with connected(inbox_messages=1, **QUICK) as (ws, peer):
            peer.send("one", "two")
            next_ping(peer)
            next_ping(peer)
            begin = time.monotonic()
            assert [ws.receive(), ws.receive()] == ["one", "two"]
            assert peer.close_frame() == SILENT
            assert time.monotonic() - begin >= 2 * SHORT

    def test_disconnected_peer_is_detected_though_nothing_is_read(self) -> None:
        """By a refused write alone; the descriptor is closed, because no read would find the end."""
        with connected(inbox_messages=1, **QUICK) as (ws, peer):
            peer.send("one", "two")
            until(lambda: is_paused(ws))
            peer.reset()
            until(lambda: transport_of(ws).closed, "the socket is closed")
            assert [ws.receive(), ws.receive(), ws.receive()] == ["one", "two", None]
            assert ws.close_code == 1006

    def test_peer_that_reads_nothing_is_silent(self) -> None:
        """It sends nothing either."""
        with connected(pair=unix_pair, send_high_water=2**30, **QUICK) as (ws, _):
            ws.send(bytes(2**23))
            assert ended_with(ws) == SILENT

    def test_frame_that_waits_for_the_tick_to_end_is_no_activity(self) -> None:
        """The check may come between: a view that sends as often would keep the connection of a lost peer open."""
        with connected() as (ws, _):
            before = activity(ws)
            ws.offer(prepare("one"))
            ws.offer(prepare("two"))
            assert transport_of(ws).outbox_size
            assert activity(ws) == before


# --- the deadline of a message ------------------------------------------------------------------------------------

SLOW = (1008, "a message took more than 0.04 seconds")
TIMED: dict[str, Any] = {**NEVER, "message_timeout": SHORT}


def every_moment(send: Callable[..., object], *parts: bytes) -> None:
    """Send one part after the other, a few milliseconds apart, until the connection ends."""
    with suppress(OSError):
        for part in parts:
            send(part)
            gevent.sleep(0.003)


class TestMessages:
    @pytest.mark.parametrize(
        "begin",
        [b"\x81", masked_frame(Opcode.TEXT, b"x" * 300)[:3], masked_frame(Opcode.TEXT, b"x" * 300)[:7]],
        ids=["a byte", "half a header", "a header"],
    )
    def test_message_that_only_begins_ends_the_connection(self, begin: bytes) -> None:
        """1008, with the reason."""
        start = time.monotonic()
        with connected(**TIMED) as (ws, peer):
            peer.sock.sendall(begin)
            assert peer.close_frame() == SLOW
            elapsed = time.monotonic() - start
            assert ended_with(ws) == SLOW
            assert elapsed >= SHORT

    def test_message_that_comes_byte_by_byte_ends_the_connection(self) -> None:
        """Each byte is activity, and the deadline holds all the same."""
        frame = masked_frame(Opcode.BINARY, bytes(5000))
        with connected(**TIMED) as (ws, peer):
            sending = gevent.spawn(every_moment, peer.sock.sendall, *(bytes([byte]) for byte in frame))
            assert ended_with(ws) == SLOW
            sending.kill()

    def test_fragments_with_pings_between_are_one_message(self) -> None:
        """Control frames may come in the middle (RFC 6455 5.4); they neither end it nor extend its deadline."""
        with connected(**TIMED) as (ws, peer):
            parts = [masked_frame(Opcode.TEXT, b"x", first=0)]
            parts += [PING_FRAME, masked_frame(Opcode.CONTINUATION, b"x", first=0)] * 500
            sending = gevent.spawn(every_moment, peer.sock.sendall, *parts)
            assert ended_with(ws) == SLOW
            sending.kill()

    def test_time_in_which_the_worker_was_blocked_counts_as_one_check(self) -> None:
        """The rest was on its way, but the kernel had no room for all of it."""
        payload = bytes(300_000)
        frame = masked_frame(Opcode.BINARY, payload)
        with connected(buffers=1 << 15, **TIMED) as (ws, peer):
            peer.sock.sendall(frame[:100])
            gevent.sleep(SHORT / 3)
            sending = gevent.spawn(peer.sock.sendall, frame[100:])
            gevent.sleep(0)
            spin(SEVERAL)
            assert ws.receive(timeout=5) == payload
            sending.get(timeout=5)

    def test_deadline_holds_for_a_peer_that_answers_pings(self) -> None:
        """The two clocks are apart."""
        with connected(ping_interval=0.01, ping_timeout=0.5, message_timeout=SHORT) as (ws, peer):
            peer.sock.sendall(b"\x81")
            assert ended_with(ws) == SLOW


# --- the timer ----------------------------------------------------------------------------------------------------


class TestTimer:
    def test_timer_runs_while_there_are_connections(self) -> None:
        """It starts with the first, goes on with the second, and stops with the last."""
        one, two = Quiet(), Quiet()
        with watched(one, two, **QUICK) as found:
            ticks_ = [found.tick]
            found.forget(one)
            ticks_.append(found.tick)
        assert ticks_ == [SHORT / CHECKS] * 2
        assert found.tick is None

    def test_first_check_is_a_tick_after_a_view_that_was_busy(self) -> None:
        """The loop's clock stands still while a view computes; the seconds do not count from there."""
        connection, found, begins = Quiet(), Keepalive(), list[float]()

        def view() -> None:
            spin(2 * SHORT)
            begins.append(time.monotonic())
            found.watch(connection, Config(ping_interval=CHECKS * SHORT))

        in_a_watcher(view)
        until(lambda: connection.checks)
        elapsed = time.monotonic() - begins[0]
        found.forget(connection)
        assert elapsed >= SHORT

    def test_forgotten_member_is_not_checked(self) -> None:
        """A second ``forget()`` does nothing."""
        ended, open_ = Quiet(), Quiet()
        with watched(ended, open_, **QUICK) as found:
            found.forget(ended)
            found.forget(ended)
            until(lambda: open_.failures)
        assert (ended.checks, ended.pings, ended.failures) == (0, 0, [])

    def test_member_that_another_one_ends_is_not_checked(self) -> None:
        """In the same check of all."""
        found = Keepalive()
        first, second = Quiet(), Quiet()
        for connection, other in ((first, second), (second, first)):
            connection.on_ping = partial(found.forget, other)
            found.watch(connection, Config(**QUICK))
        until(lambda: len(found) == 1)
        last, ended = (first, second) if first in found else (second, first)
        checks = ended.checks
        until(lambda: last.failures)
        found.forget(last)
        assert ended.checks == checks

    def test_each_member_has_its_own_intervals(self) -> None:
        """A view's ``limits`` are its own; others get no more pings because of it."""
        quick, slow = Quiet(), Quiet()
        found = Keepalive()
        found.watch(slow, Config(ping_interval=60))
        found.watch(quick, Config(ping_interval=SHORT, ping_timeout=None))
        until(lambda: quick.pings > 3)
        for connection in (quick, slow):
            found.forget(connection)
        assert (slow.pings, slow.failures) == (0, [])

    def test_short_connections_do_not_stop_the_clock_of_others(self) -> None:
        """Each of them needs more checks, so the timer starts again: the time that had passed counts."""
        connection, found = Quiet(), Keepalive()
        found.watch(connection, Config(ping_interval=4 * SHORT, ping_timeout=None))
        rounds = 0
        while not connection.pings and rounds < 100:
            short = Quiet()
            found.watch(short, Config(ping_interval=SHORT))
            found.forget(short)
            gevent.sleep(SHORT / 3)
            rounds += 1
        found.forget(connection)
        assert rounds * SHORT / 3 < 12 * SHORT

    def test_lag_is_measured_without_any_interval(self) -> None:
        """A check every ``MAX_TICK`` seconds."""
        connection = Quiet()
        with watched(connection, **NEVER) as found:
            assert found.tick == MAX_TICK

    def test_lag_is_how_late_a_check_was(self) -> None:
        """About 0 where nothing keeps the loop busy."""
        with watched(Quiet(), **QUICK) as found:
            in_a_watcher(lambda: spin(0.1))
            until(lambda: found.lag > 0.05)
            until(lambda: found.lag < 0.05)
            assert found.lag >= 0

    def test_loop_serves_others_between_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Many members are checked in steps of ``BATCH``, each of them once; after each the loop polls its sockets."""
        monkeypatch.setattr(keepalive, "BATCH", 10)
        order: list[Quiet | None] = []  # None: a socket was served
        reading, writing = os.pipe()
        os.write(writing, b"x")
        watcher = gevent.get_hub().loop.io(reading, 1)  # which nothing reads: each poll finds it
        watcher.start(lambda: order.append(None) if order else None)
        members = [Quiet() for _ in range(95)]
        for connection in members:
            connection.on_check = partial(order.append, connection)
        with watched(*members, ping_interval=CHECKS * SHORT, ping_timeout=None):
            until(lambda: len(order) - order.count(None) >= 95)
        watcher.stop()
        watcher.close()
        os.close(reading)
        os.close(writing)
        checked = [connection for connection in order if connection is not None][: len(members)]
        steps = [len(list(step)) for is_member, step in groupby(order, lambda each: each is not None) if is_member]
        assert max(steps) == 10
        assert sorted(map(id, checked)) == sorted(map(id, members))


# --- the last activity ----------------------------------------------------------------------------------------------


class TestLastActivity:
    @pytest.mark.parametrize("options", [{}, NEVER], ids=["pings", "no pings"])
    def test_last_activity_is_when_the_number_has_changed(self, options: dict[str, Any]) -> None:
        """As the call finds it, also without a check in between; before any activity it is the time of ``watch()``."""
        numbers = [0]
        connection = Quiet(lambda n: numbers[0])
        begin = time.monotonic()
        with watched(connection, **options) as found:
            first = found.last_activity(connection)
            assert begin <= first <= time.monotonic()
            gevent.sleep(0.002)
            assert found.last_activity(connection) == first
            numbers[0] = 1
            second = found.last_activity(connection)
            assert second > first
            gevent.sleep(0.002)
            assert found.last_activity(connection) == second

    @pytest.mark.parametrize("without", ["ping_interval", "ping_timeout"])
    def test_last_activity_is_noted_by_checks(self, without: str) -> None:
        """So it is at most one check late; pings do not count, whatever settings there are."""
        connection = Quiet(lambda n: 0 if n < 3 else 7)
        with watched(connection, **{**BRIEF, without: None}) as found:
            until(lambda: connection.checks >= 3, "the activity is noted")
            noted = time.monotonic()
            until(lambda: connection.checks >= 4 * CHECKS, "pings are sent")
            assert found.last_activity(connection) <= noted
        assert (connection.pings > 0) is (without == "ping_timeout")

    def test_last_activity_stands_still_while_nothing_is_read(self) -> None:
        """Of a full inbox nothing is known."""
        connection = Quiet(lambda n: None if n % 2 else 0)
        with watched(connection, **BRIEF) as found:
            first = found.last_activity(connection)
            until(lambda: connection.checks >= CHECKS, "checks")
            assert found.last_activity(connection) == first

    def test_connection_that_is_not_checked_is_active_now(self) -> None:
        """It has just ended."""
        before = time.monotonic()
        assert before <= Keepalive().last_activity(Quiet()) <= time.monotonic()

    def test_peer_that_sends_is_active(self) -> None:
        """A message of ours is no activity of the peer."""
        with connected(**NEVER) as (ws, peer):
            keepalive = registry_of(ws).keepalive
            first = keepalive.last_activity(ws)
            ws.send("x")
            assert keepalive.last_activity(ws) == first
            peer.send("x")
            ws.receive()
            assert keepalive.last_activity(ws) > first
