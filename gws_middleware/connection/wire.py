"""The wire's side of a ``WebSocket``: what comes is put into the inbox, what must be answered by itself is, and the end
comes in its order.

Rule: nothing here waits. What the transport and keepalive call runs in the hub.
"""

from __future__ import annotations

import time
from functools import partial
from sys import getsizeof
from typing import Any, NamedTuple

from ..codes import CloseCode
from ..config import Config
from ..exceptions import ConnectionClosed
from ..process.registry import Registry
from ..protocol.connection import Connection, State, close_payload
from ..typing import Message
from .fastpath import ATTACHED, IDLE, WebSocketPath
from .transport import Transport

__all__ = ["Stats", "Wire"]

MAX_PINGS_DROPPED = 100_000
"""Pings that came faster than they could be answered, in all, before the connection ends: no honest peer has many."""
_OPEN = State.OPEN


def _hold(messages: list[Message], size: int) -> bool:
    """Whether messages that wait take so many bytes of memory: a text may take four for each of its characters."""
    # Most are far from it, which their lengths show in a third of the time.
    return 4 * sum(map(len, messages)) >= size and sum(map(getsizeof, messages)) >= size


class Stats(NamedTuple):
    """What went over one connection so far; bytes count frames, not payloads."""

    messages_received: int
    messages_sent: int
    bytes_received: int
    bytes_sent: int


class Wire(WebSocketPath):
    """Engine, transport and inbox."""

    __slots__ = (
        "_accepted_at",
        "_advances",
        "_config",
        "_ended",
        "_ended_at",
        "_latency",
        "_ping",
        "_registry",
        "_senders",
        "_wakes",
        "_yielding",
    )

    _config: Config
    _registry: Registry
    _engine: Connection | None
    _transport: Transport | None
    _accepted_at: float | None
    _ended_at: float | None
    _ended: bool
    _latency: float | None
    _ping: tuple[bytes, float] | None
    _senders: list[Any] | None
    _advances: bool
    """The engine goes on in another turn of the loop."""
    _yielding: int
    """Greenlets that let others run in the middle of their work with this connection."""
    _wakes: bool
    """The view that waits is woken in another turn of the loop."""

    def _refuse(self) -> None:
        raise NotImplementedError

    # --- what the transport says (in the hub) ----------------------------------------------------------------------

    def _eventful(self, engine: Connection, messages: list[Message]) -> None:
        """Something other than whole messages came: a control frame, a piece of a message, a fault; or more than is
        parsed at once. Runs in the hub.
        """
        came = bool(messages)
        self._put(messages)
        self._answer(engine)
        if engine.stalled:
            came |= self._advance(engine)
        if came and self._reader is not None:
            if self._turn.is_over():
                self._wake_later()
            else:
                self._reader.switch()
        elif came and self._stage == IDLE:
            self._start_work()
        if engine.over:
            # What came before the end is answered before the end: a greenlet that waits for it, or was started for it,
            # runs first.
            self._conclude_soon()

    def _conclude_soon(self) -> None:
        if self._wakes:
            self._turn.wake(self._conclude)
        else:
            self._hub.loop.run_callback(self._conclude)

    def _give_way(self) -> None:
        """Let others run before this greenlet goes on with the connection."""
        self._yielding += 1
        try:
            self._turn.give_way()
        finally:
            self._yielding -= 1

    def _wake_later(self) -> None:
        """A message has come for a view that waits, in a turn of the loop that has lasted long enough."""
        if not self._wakes:
            self._wakes = True
            self._turn.wake(self._wake)

    def _wake(self) -> None:
        """Runs in the hub."""
        self._wakes = False
        if self._reader is not None and self._inbox:
            self._reader.switch()

    def _put(self, messages: list[Message]) -> None:
        self._messages_received += len(messages)
        messages.reverse()
        if self._inbox:
            messages.extend(self._inbox)
        self._inbox = messages
        config = self._config
        if len(messages) >= config.inbox_messages or _hold(messages, config.max_message_size):
            self._pause()

    def _pause(self) -> None:
        if not self._paused and not self._ended:
            self._paused = True
            self._transport.pause()  # type: ignore[union-attr]

    def _relax(self) -> None:
        """The application has taken a message while reading was paused."""
        config, inbox = self._config, self._inbox
        if len(inbox) > config.inbox_messages // 2 or _hold(inbox, config.max_message_size):
            return
        engine = self._engine
        assert engine is not None
        if engine.stalled:
            self._advance(engine)
        else:
            self._resume()

    def _resume(self) -> None:
        self._paused = False
        self._transport.resume()  # type: ignore[union-attr]

    def _advance(self, engine: Connection) -> bool:
        """Let the engine go on with what it holds, as long as the inbox and the turn of the loop have room for it.
        Whether messages came.
        """
        self._pause()  # what it holds comes before what is read
        came = False
        while engine.stalled and self._has_room(engine):
            if self._turn.is_over():
                if not self._advances:
                    self._advances = True
                    self._turn.later(self._advance_later)
                return came
            messages = engine.feed(b"")
            came |= bool(messages)
            self._put(messages)
            self._answer(engine)
            if engine.over:
                self._conclude_soon()
                return came
        if not engine.stalled and self._has_room(engine):
            self._resume()
        return came

    def _has_room(self, engine: Connection) -> bool:
        """Whether more may come. After our close frame no message does."""
        config, inbox = self._config, self._inbox
        full = len(inbox) >= config.inbox_messages or _hold(inbox, config.max_message_size)
        return engine.state is not _OPEN or not full

    def _advance_later(self) -> None:
        """Runs in the hub."""
        self._advances = False
        engine, transport = self._engine, self._transport
        assert engine is not None and transport is not None
        if engine.stalled and not transport.closed and self._advance(engine):
            if self._reader is not None:
                self._reader.switch()
            elif self._stage == IDLE:
                self._start_work()

    def _answer(self, engine: Connection) -> None:
        """Answer pings, unless the peer does not read; note pongs."""
        engine.eventful = False
        transport = self._transport
        assert transport is not None
        if engine.pongs:
            self._pongs(engine)
        if engine.pongs_due:
            if transport.outbox_size > self._high_water:
                transport.flush()  # it may only wait for the turn to end
            if transport.outbox_size <= self._high_water:
                transport.write(engine.take_pongs())
            if engine.pings_dropped > MAX_PINGS_DROPPED:
                self._fail(CloseCode.POLICY_VIOLATION, "a flood of pings")
        transport.expect(engine.frame_left)

    def _conclude(self, times: int | None = None) -> None:
        """The peer has closed or broken a rule: answer, and release the socket. Runs in the hub."""
        if self._yielding and times != 0:
            # The application is at the messages that came before, and lets others run meanwhile: its answers go first.
            # It may do so before it takes each of them and before each answer; what sends for ever is not waited for.
            times = 2 * len(self._inbox) + 2 if times is None else times
            self._turn.later(partial(self._conclude, times - 1))
            return
        transport, engine = self._transport, self._engine
        assert transport is not None
        assert engine is not None
        if engine.has_replies:
            transport.write(engine.take_replies())
        transport.close(linger=engine.state is State.FAILED)
        transport.set_deadline(self._config.close_timeout)  # nothing to do where the socket is gone already
        self._end()

    def _pongs(self, engine: Connection) -> None:
        pongs, engine.pongs = engine.pongs, []
        if self._ping is not None and self._ping[0] in pongs:
            self._latency = time.monotonic() - self._ping[1]
            self._ping = None
            self._registry.counters.pong(self._latency)

    def _writable(self) -> None:
        """The outbox is empty again, or writing has failed."""
        transport, engine = self._transport, self._engine
        assert transport is not None and engine is not None
        if transport.broken:
            self._open = False
        elif engine.pongs_due:
            transport.write(engine.take_pongs())
        self._wake_senders()

    def _connection_lost(self) -> None:
        """The socket is closed. Runs in the hub. A second call does what the first one has not done."""
        registry = self._registry
        self._end()
        registry.slots.release(self)
        if self in registry:
            engine = self._engine
            from_peer = engine is not None and engine.closed_by_peer
            registry.counters.add(self.stats, int(self._first_close()[0]), from_peer=from_peer)
            registry.remove(self)

    def _forked(self) -> None:
        """This is a process that has just been forked: the connection is the parent's, and here it has ended. No
        greenlet is woken, because those that wait here are copies of the parent's.
        """
        self._open, self._ended, self._told = False, True, True
        self._reader = self._senders = None
        self._inbox.clear()
        if self._transport is not None:
            self._transport.drop()

    # --- what keepalive asks (in the hub) --------------------------------------------------------------------------

    def _activity(self) -> int | None:
        """A number that changes with every sign of life; None while the inbox is full and nothing is read."""
        if self._paused:
            return None
        transport: Any = self._transport
        taken: int = transport.bytes_received
        if transport.blocked_since is not None:
            # What the kernel has taken of the outbox since shows that the peer reads, however slowly.
            taken += transport.bytes_sent - transport.outbox_size
        return taken

    def _message_number(self) -> int | None:
        """The number of the message of which a part has come, None between two."""
        engine: Any = self._engine
        return self._messages_received if engine.in_a_message else None

    def _keepalive_ping(self) -> None:
        """Ask for a sign of life, unless the peer takes nothing anyway."""
        transport: Any = self._transport
        if transport.broken and self._paused:
            transport.abort()  # nobody reads to the end to find out how it ended
        elif self._open and transport.blocked_since is None:
            self.ping()

    def _wake_senders(self) -> None:
        senders, self._senders = self._senders, None
        for waiter in senders or ():
            self._hub.loop.run_callback(waiter.switch, None)

    def _wake_reader(self) -> None:
        """The end has come."""
        if self._reader is not None:
            self._hub.loop.run_callback(self._switch_to, self._reader)
        elif self._stage == IDLE and not self._told:
            self._start_work()

    def _switch_to(self, reader: Any) -> None:
        """Runs in the hub. The reader may have gone, or come back for another wait, since this was asked for."""
        if self._reader is reader:
            reader.switch()

    # --- saying something ------------------------------------------------------------------------------------------

    def ping(self, payload: bytes | None = None) -> None:
        """Send a ping (RFC 6455 5.5.2); the pong's way back shows in ``latency``. At most 125 bytes. May be called in
        any thread of the operating system.
        """
        if self._turn.is_foreign():
            self._turn.call(self.ping, payload)
            return
        if not self._open:
            self._check_open()
        now = time.monotonic()  # the loop's clock stands still while a view computes
        if payload is None:
            payload = int(now * 1000).to_bytes(8, "big")
        frame = self._engine.ping(payload)  # type: ignore[union-attr]
        self._ping = payload, now
        self._transport.write(frame)  # type: ignore[union-attr]
        if self._turn.is_over():
            self._transport.flush()  # type: ignore[union-attr]

    # --- the end ---------------------------------------------------------------------------------------------------

    def close(self, code: int = CloseCode.NORMAL, reason: str | bytes = "", message: str | bytes | None = None) -> None:
        """Say goodbye with ``code`` and ``reason`` (RFC 6455 7.1.2) without waiting for the answer; later calls do
        nothing.

        The rest happens in the background: the peer has ``close_timeout`` seconds to answer. ``message`` is
        gevent-websocket's name of ``reason``. ValueError for a code that may not travel, or over 123 bytes of reason.
        Before the 101, it refuses the handshake: 403 unless the application answers otherwise. May be called in any
        thread of the operating system.
        """
        if self._turn.is_foreign():
            self._turn.call(self.close, code, reason, message)
            return
        text = (reason if message is None else message) or ""
        if isinstance(text, bytes):
            text = text.decode()
        close_payload(code, text)  # a wrong call is told as one even when the connection has ended
        engine, transport = self._engine, self._transport
        if engine is None or transport is None:
            self._refuse()
            self._ended = True
            return
        if engine.state is not _OPEN or transport.closed:
            return
        if self._stage != ATTACHED:
            self._inbox.clear()  # a callback could neither answer nor tell that it is over
        if self._open:  # else it has been cut, or a write was refused: no close frame can go out
            engine.close(code, text)
            transport.write(engine.take_replies())
        transport.flush()  # what is last need not wait for more
        transport.set_deadline(self._config.close_timeout)
        if engine.stalled:
            self._advance(engine)  # what waits inside is skipped, up to the peer's close frame
        else:
            self._resume()
        self._end()

    def _fail(self, code: CloseCode, reason: str) -> None:
        """The peer has gone beyond a limit: say so, drop what it still sends, and let go of it."""
        engine, transport = self._engine, self._transport
        if engine is None or transport is None or engine.state is not _OPEN or transport.closed:
            return
        if self._open:
            engine.fail(code, reason)
            self._hub.loop.run_callback(self._conclude)
        else:  # it has been cut, or a write was refused: no close frame can go out
            transport.abort()

    def abort(self) -> None:
        """Cut the connection without a close frame (1006 to the peer). May be called in any thread of the operating
        system.
        """
        if self._turn.is_foreign():
            self._turn.call(self.abort)
            return
        self._open = False
        if self._transport is not None:
            self._transport.abort()

    def _finish(self, code: int) -> None:
        """The application is done with the connection."""
        if self._transport is not None:
            self.close(code)
            self._transport.flush()

    def _end(self) -> None:
        """Nothing more is received or sent: tell those who wait."""
        if not self._ended:
            self._ended_at = time.monotonic()
            self._registry.keepalive.forget(self)
        self._open = False
        self._ended = True
        self._wake_senders()
        self._wake_reader()

    @property
    def _is_closed(self) -> bool:
        """Whether the connection has ended or is ending; unlike ``closed`` this does not accept."""
        return self._ended or (self._engine is not None and not self._open)

    def _closed_error(self) -> ConnectionClosed:
        engine = self._engine
        if engine is None:
            return ConnectionClosed()
        code, reason = self._first_close()
        return ConnectionClosed(code, reason, received=engine.received_close, sent=engine.sent_close)

    def _first_close(self) -> tuple[int, str]:
        """Of the side that said goodbye first: an answer repeats the code and has no reason."""
        engine = self._engine
        if engine is None:
            return CloseCode.ABNORMAL, ""
        sent, received = engine.sent_close, engine.received_close
        if sent is not None and received is not None and sent == (received[0], ""):
            return received
        return sent or received or (int(CloseCode.ABNORMAL), "")

    @property
    def close_code(self) -> int | None:
        """The code of the first close frame, whoever sent it; 1005 if it had none, 1006 if there was no frame, None
        while the connection is open (RFC 6455 7.1.5).
        """
        return int(self._first_close()[0]) if self._is_closed else None

    @property
    def close_reason(self) -> str | None:
        """The reason beside ``close_code``."""
        return self._first_close()[1] if self._is_closed else None

    # --- facts -----------------------------------------------------------------------------------------------------

    @property
    def duration(self) -> float:
        """Seconds since the 101, until the connection has ended; 0 before."""
        if self._accepted_at is None:
            return 0.0
        return (self._ended_at or time.monotonic()) - self._accepted_at

    @property
    def latency(self) -> float | None:
        """Seconds between the last ping and its pong, or None before the first."""
        return self._latency

    @property
    def _outbox_state(self) -> tuple[int, float | None]:
        """Bytes that wait for the peer, and since when (``time.monotonic()``) the kernel has not taken them all."""
        transport = self._transport
        return (0, None) if transport is None else (transport.outbox_size, transport.blocked_since)

    @property
    def stats(self) -> Stats:
        """Messages and bytes both ways so far."""
        transport = self._transport
        received, sent = (0, 0) if transport is None else (transport.bytes_received, transport.bytes_sent)
        return Stats(self._messages_received, self._messages_sent, received, sent)
