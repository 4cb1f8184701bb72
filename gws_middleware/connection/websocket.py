"""``WebSocket``: one connection, as application code holds it.

Its states, and what each method does in them, are the tables of ``states``. What every message costs is in its base
class (``fastpath``), which calls the slow path here. What exists in one state alone is an object of its own:
``Pending`` until the 101, ``Callbacks`` after ``detach()``.

Rule 1: what has an underscore is for the transport, keepalive, the registry and ``control``, not for applications.
Rule 2: a method that runs in the hub says so, and never waits.

gevent-websocket's contract holds: ``receive``, ``send(message, binary)``, ``close(code, message)``, ``closed``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from functools import partial
from sys import getsizeof, maxsize
from typing import TYPE_CHECKING, Any

import gevent
from gevent import get_hub, getcurrent
from gevent.hub import Hub, Waiter

from .. import hooks
from ..codes import CloseCode
from ..config import Config, ViewOptions
from ..exceptions import ConnectionClosed
from ..process.counters import Traffic
from ..process.limits import reserve_user_slot
from ..process.registry import Registry
from ..protocol.connection import Connection, State, close_payload
from ..protocol.deflate import Deflate
from ..protocol.handshake import Handshake
from ..typing import Environ, Headers, Message
from . import compat, jsontext, logs
from .callbacks import Callbacks, LogLine, OnClose, OnMessage
from .channel import Channel, give_up_silent
from .closing import EndObserver, closed_error, first_close
from .fastpath import FastTransport, FastWebSocket
from .opening import Close, Pending, Switch
from .rates import engine_for
from .states import (
    ACCEPTING,
    ANSWERED,
    CLOSED,
    CLOSING,
    LOST,
    NAMES,
    OPEN,
    PENDING,
    REFUSED,
    has_ended,
    is_accepted,
)
from .transport import Transport
from .turns import Turns, turns_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["WebSocket"]

log = logging.getLogger("gws_middleware")

MAX_PINGS_DROPPED = 100_000
"""Pings of one connection that come faster than they can be answered, before it is closed: no honest peer has many."""
_TIMED_OUT = object()


def _is_full(messages: list[Message], config: Config) -> bool:
    """Whether so many messages wait that no more are read: by number, and by bytes of memory, of which a text may take
    four for each of its characters.
    """
    # Most are far from it, which their lengths show in a third of the time.
    size = config.max_message_size
    return len(messages) >= config.inbox_messages or (
        4 * sum(map(len, messages)) >= size and sum(map(getsizeof, messages)) >= size
    )


class WebSocket(FastWebSocket):
    """One WebSocket connection, from the handshake on.

    Until the application accepts - by ``accept()``, or by the first ``receive``, ``send``, ``detach``, iteration or use
    of ``closed`` - its ordinary HTTP response goes out instead, e.g. a 403 or a redirect to the login page.

    Any number of greenlets may send; one at a time may receive.
    """

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_accepted_at",
        "_adapter",
        "_advances",
        "_config",
        "_ended_at",
        "_latency",
        "_observers",
        "_pending",
        "_ping",
        "_registry",
        "_senders",
        "_waited",
        "_wakes",
        "_yielding",
        "environ",
        "subprotocol",
    )

    _hub: Hub
    _transport: Transport
    _turn: Turns
    _callbacks: Callbacks | None

    # For compat, in __dict__, which most WebSockets do not have.
    _client: compat.Client | None = None
    _server: Any = None

    def __init__(
        self,
        environ: Environ,
        handshake: Handshake,
        switch: Switch,
        config: Config,
        registry: Registry,
        subprotocol: str | None = None,
    ) -> None:
        self.environ: Environ = environ
        """The request's WSGI environ; after ``detach()`` a copy with its plain strings alone."""
        self.subprotocol = subprotocol
        """The subprotocol that was agreed on, or None (RFC 6455 1.9)."""
        self._config = config
        self._set_limits(config)
        self._hub = hub = get_hub()
        self._turn = turns_of(hub)
        self._registry = registry
        self._adapter = hooks.current()
        self._state = PENDING
        self._pending: Pending | None = Pending(handshake, switch)
        """What is left of the handshake; None once accepted or refused."""
        self._callbacks = None
        self._end_delivered = False
        self._inbox = []
        self._paused = False
        self._reader = None
        self._senders: list[Any] | None = None
        """The greenlets that wait for the outbox."""
        self._plain = True
        self._holds = False
        self._waited = 0.0
        """Seconds that the view has waited since it was last idle for long."""
        self._wakes = False
        """The view that waits is woken in another turn of the loop."""
        self._advances = False
        """The engine goes on in another turn of the loop."""
        self._yielding = 0
        """Greenlets that let others run in the middle of their work with this connection."""
        self._accepted_at: float | None = None
        self._ended_at: float | None = None
        self._ping: tuple[bytes, float] | None = None
        """Payload and time of the last ping that was not answered."""
        self._latency: float | None = None
        self._observers: list[EndObserver] | None = None
        self._messages_received = 0
        self._messages_sent = 0

    def __repr__(self) -> str:
        return f"<WebSocket {self.path!a} {NAMES[self._state].lower()}>"

    # --- the opening handshake -------------------------------------------------------------------------------------

    def accept(self, subprotocol: str | None = None, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Answer the handshake with 101 (RFC 6455 4.2.2).

        Args:
            subprotocol: One that the client offers (``offered_subprotocols``).
            headers: More headers for the 101.

        Raises:
            ValueError: A header or subprotocol that may not be sent; nothing was written.
            RuntimeError: Accepted already, or the application has already started an HTTP response.
            ConnectionClosed: The peer has disconnected, or reads nothing for ``send_timeout`` seconds.

        """
        self._turn.refuse_foreign()
        pending = self._pending
        if pending is not None and pending.switched:
            self._pending = None
            if subprotocol not in (None, self.subprotocol):
                raise ValueError(f"the server has sent the 101 already, with the subprotocol {self.subprotocol!r}")
            return
        if self._state != PENDING or pending is None:
            raise self._not_pending_error()
        if subprotocol is None:
            subprotocol = self.subprotocol
        response = pending.headers(subprotocol, headers)
        response += self._adapter.accepting(self)
        free = reserve_user_slot(self._registry.slots, self, self._config)
        if self._state != PENDING:  # another greenlet has accepted or closed it meanwhile
            raise self._not_pending_error()
        self.subprotocol = subprotocol
        self._take(pending, response)
        if not free:
            self._fail(CloseCode.POLICY_VIOLATION, "too many connections")

    def _not_pending_error(self) -> Exception:
        """Why it cannot be accepted."""
        if is_accepted(self._state):
            return RuntimeError("this WebSocket has been accepted already")
        if self._state == ACCEPTING:
            return RuntimeError("another greenlet is accepting this WebSocket")
        if self._state == LOST:
            return closed_error(None)
        return RuntimeError("this WebSocket has been refused: an HTTP response has been started")

    def _take(self, pending: Pending, headers: Headers) -> None:
        """Have the 101 sent with these headers, and take the connection."""
        self._state = ACCEPTING
        try:
            channel, early = pending.switch(headers)
        except OSError:
            self._state = LOST
            raise closed_error(None) from None
        except BaseException:
            self._state = ANSWERED
            raise
        finally:
            self._pending = None
        try:
            self._begin(channel, early, pending.handshake)
        except BaseException:
            if self._state == ACCEPTING:  # nothing can be answered any more, and nothing else closes the connection
                self._state = LOST
                channel.close()
            raise
        if pending.close is not None:
            self._close_late(pending.close)

    def _begin(self, channel: Channel, early: bytes, handshake: Handshake) -> None:
        config = self._config
        compression = handshake.compression
        engine = engine_for(config, None if compression is None else Deflate(compression))
        self._plain = compression is None
        give_up_silent(channel, config.ping_interval, config.ping_timeout, config.send_timeout)
        transport = Transport(channel, self)
        self._engine, self._transport, self._state = engine, transport, OPEN
        self._accepted_at = time.monotonic()
        self._registry.add(self, config)
        transport.start(early)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("WebSocket %s: opened", ascii(self.path), extra=logs.of(self))
        self._adapter.opened(self)

    def _close_late(self, close: Close) -> None:
        """Another greenlet has closed it while the 101 was being written."""
        if close.code is None:
            self.abort()
        else:
            self.close(close.code, close.reason)

    def _check_user_limit(self) -> None:
        if not reserve_user_slot(self._registry.slots, self, self._config):
            self._fail(CloseCode.POLICY_VIOLATION, "too many connections")

    def _accept_if_pending(self) -> None:
        """Accept, because the application uses the connection. What follows sees whether the peer has disconnected."""
        if self._state <= ANSWERED:
            try:
                self.accept()
            except ConnectionClosed:
                pass

    def limits(self, **options: Unpack[ViewOptions]) -> None:
        """Other settings for this connection alone, before it is accepted: those of sizes, rates and deadlines that
        docs/settings.md marks.

        Raises:
            ConfigError: A wrong or misspelt setting.
            RuntimeError: The WebSocket has been accepted.

        """
        if is_accepted(self._state):
            raise RuntimeError("this WebSocket has been accepted already: its limits are set before")
        self._config = config = self._config.for_view(options)
        self._set_limits(config)

    def _set_limits(self, config: Config) -> None:
        self._high_water, self._send_limit = min(config.send_high_water, maxsize), min(config.send_limit, maxsize)

    @property
    def accepted(self) -> bool:
        """Whether the 101 has been sent."""
        return is_accepted(self._state)

    @property
    def closed(self) -> bool:
        """Whether the connection has ended or is ending: nothing can be sent any more.

        Reading it accepts, as the first ``receive`` or ``send`` does: a loop that asks for it is a view that talks.
        """
        if self._state == PENDING:
            self._accept_if_pending()
        return self._state > OPEN or self._state == ANSWERED

    @property
    def offered_subprotocols(self) -> tuple[str, ...]:
        """What the client offers, most wanted first; empty once accepted."""
        pending = self._pending
        return () if pending is None or pending.switched else pending.handshake.subprotocols

    # --- receiving -------------------------------------------------------------------------------------------------

    def _receive(self, timeout: float | None) -> Message | None:
        """The inbox is empty, or something else is not as usual."""
        self._turn.refuse_foreign()
        if self._callbacks is not None:
            raise RuntimeError("this WebSocket is detached: its messages go to on_message")
        self._accept_if_pending()
        while not self._inbox:
            if has_ended(self._state):
                if not self._take_end():
                    raise self._closed_error()
                return None
            if not self._wait(timeout):
                raise TimeoutError(f"no message within {timeout} seconds")
        message = self._inbox.pop()
        if self._paused:
            self._relax()
        return message

    def _take_message(self) -> Message | None:
        """The next message, or None where none waits."""
        while self._inbox and self._turn.is_over():
            self._give_way()
        if not self._inbox:
            return None
        message = self._inbox.pop()
        if self._paused:
            self._relax()
        return message

    def _take_end(self) -> bool:
        """Whether the connection has ended and this was not delivered before."""
        if not has_ended(self._state) or self._end_delivered:
            return False
        self._end_delivered = True
        return True

    def _wait(self, timeout: float | None) -> bool:
        """Wait for the inbox or for the end; False when ``timeout`` seconds have passed."""
        if self._reader is not None:
            raise RuntimeError("another greenlet is waiting in receive() of this WebSocket")
        grace = self._adapter.grace
        if not self._holds or grace is None:
            return self._park(timeout)
        grace = max(0.0, grace - self._waited)  # many short waits in which nothing came are a long one
        if timeout is not None and timeout <= grace:
            came = self._park(timeout)
            self._waited = 0.0 if came else self._waited + timeout
            return came
        self._waited = 0.0
        if self._park(grace):
            return True
        self._holds = self._adapter.idle()
        # That may have taken its time: a message may have come, or the end.
        has_come = bool(self._inbox) or has_ended(self._state)
        return has_come or self._park(None if timeout is None else timeout - grace)

    def _park(self, timeout: float | None) -> bool:
        reader: Any = getcurrent()
        self._reader = reader
        timer = None
        try:
            if timeout is not None:
                timer = self._hub.loop.timer(timeout)
                # The loop's clock stands still while a view computes: the seconds count from now.
                timer.start(reader.switch, _TIMED_OUT, update=True)
            return self._hub.switch() is not _TIMED_OUT
        finally:
            self._reader = None
            if timer is not None:
                timer.close()

    def count_messages(self) -> int:
        """How many messages wait in the inbox. Lets the loop run once if there is none."""
        self._turn.refuse_foreign()
        self._accept_if_pending()
        if not self._inbox and not has_ended(self._state):
            gevent.sleep(0)  # so that a loop around this call lets the messages in
        return len(self._inbox)

    def receive_json(self, timeout: float | None = None) -> Any:
        """The next message as JSON (RFC 8259).

        A message that is not JSON (so is NaN, and a number too large for a float) is the peer's fault: the connection
        is closed with 1007.

        Args:
            timeout: Seconds to wait at most; None for no limit.

        Raises:
            ConnectionClosed: The connection has ended, or the message is not JSON.
            TimeoutError: No message came in time.

        """
        message = self.receive(timeout)
        if message is None:
            raise self._closed_error()
        try:
            return jsontext.loads(message)
        except (ValueError, RecursionError):
            self.close(CloseCode.INVALID_DATA, "a message is not JSON")
            raise self._closed_error() from None

    wait = compat.wait
    read = compat.read
    has_messages = compat.has_messages
    is_closed = compat.is_closed
    handler = property(compat.handler)

    # --- sending ---------------------------------------------------------------------------------------------------

    def send_json(self, value: Any) -> None:
        """Send a value as JSON text.

        Raises:
            TypeError: The value has no JSON.
            ValueError: It is, or has in it, NaN or an infinity.
            ConnectionClosed: As in ``send()``.

        """
        self.send(jsontext.dumps(value))

    def ping(self, payload: bytes | None = None) -> None:
        """Send a ping (RFC 6455 5.5.2). ``latency`` is set when its pong comes.

        May be called in any thread of the operating system.

        Args:
            payload: At most 125 bytes.

        Raises:
            ConnectionClosed: The connection has ended.

        """
        if self._turn.is_foreign():
            self._turn.call(self.ping, payload)
            return
        if self._state != OPEN:
            self._check_open()
        now = time.monotonic()  # the loop's clock stands still while a view computes
        if payload is None:
            payload = int(now * 1000).to_bytes(8, "big")
        frame = self._engine.ping(payload)
        self._ping = payload, now
        self._transport.write(frame)
        if self._turn.is_over():
            self._transport.flush()

    def _too_slow(self) -> None:
        self._registry.counters.dropped += 1
        self.close(CloseCode.TRY_AGAIN_LATER, "too slow")

    def _check_open(self) -> None:
        """Accept if that is what is missing; ConnectionClosed if the connection has ended."""
        if self._state > ANSWERED:
            raise self._closed_error()
        self.accept()

    def _wait_writable(self, transport: FastTransport) -> None:
        transport = self._transport
        transport.flush()
        if transport.outbox_size <= self._high_water:
            self._give_way()  # the peer reads as fast as this view sends: others have not been served meanwhile
        high_water, seconds, grace = self._high_water, self._config.send_timeout, self._adapter.grace
        if grace is not None and self._is_blocked(high_water) and not self._drained(grace):
            self._adapter.idle()
        while self._is_blocked(high_water):
            waiting = transport.outbox_size
            if not self._drained(seconds) and transport.outbox_size >= waiting:
                log.info("WebSocket %s: the peer read nothing for %s s: cut", ascii(self.path), seconds)
                self._state = CLOSING
                transport.abort()
        if self._state != OPEN:
            raise self._closed_error()

    def _is_blocked(self, high_water: int) -> bool:
        return self._transport.outbox_size > high_water and self._state == OPEN

    def _drained(self, timeout: float) -> bool:
        """Wait for the outbox to empty or for the end; False when ``timeout`` seconds have passed."""
        waiter: Any = Waiter()
        timer = None
        try:
            timer = self._hub.loop.timer(timeout)
            timer.start(waiter.switch, _TIMED_OUT, update=True)
            if self._senders is None:
                self._senders = []
            self._senders.append(waiter)
            return waiter.get() is not _TIMED_OUT
        finally:
            if timer is not None:
                timer.close()
            if self._senders is not None and waiter in self._senders:
                self._senders.remove(waiter)

    # --- without a view --------------------------------------------------------------------------------------------

    def detach(self, on_message: OnMessage | None = None, on_close: OnClose | None = None) -> None:
        """Let the connection stay open after the view has returned; it then holds no greenlet and no frame.

        An exception in a callback, SystemExit too, is logged once and closes with 1011. ``environ`` keeps the request's
        strings only.

        Args:
            on_message: Called with the WebSocket and the message, for each message in order, in one greenlet at a time
                for this connection, and no more after ``close()``. Without it messages are dropped.
            on_close: Called with the WebSocket exactly once, when the connection has ended.

        Raises:
            RuntimeError: It is detached already, or another greenlet waits in ``receive()``, which would take the
                messages.
            ConnectionClosed: The peer disconnected before the 101.

        """
        self._turn.refuse_foreign()
        if self._callbacks is not None:
            raise RuntimeError("this WebSocket is detached already")
        if self._reader is not None:
            raise RuntimeError(
                "another greenlet is waiting in receive() of this WebSocket: it must have ended before detach()"
            )
        if self._state <= ANSWERED:
            self.accept()
        self._callbacks = Callbacks(self, on_message, on_close)
        self._end_delivered = False  # on_close delivers it once more where receive() has
        self.environ = {key: value for key, value in self.environ.items() if type(value) is str}
        if self._inbox or has_ended(self._state):
            self._callbacks.start()

    @property
    def detached(self) -> bool:
        """Whether ``detach()`` was called."""
        return self._callbacks is not None

    def _drop_messages(self) -> None:
        self._inbox.clear()

    def _is_ended(self) -> bool:
        return self._state >= CLOSING

    def _shutdown_code(self) -> int:
        return self._config.shutdown_close_code

    def _greenlet_ends(self) -> None:
        self._adapter.ran(self)

    def _finish(self, log_line: LogLine | None) -> None:
        """The connection has ended, and so have its view and ``on_close``. Called once."""
        try:
            if log.isEnabledFor(logging.INFO):
                log.info(*logs.closing(self), extra=logs.of(self))
            self._adapter.closed(self)
        finally:
            self._registry.finished(self)
            if log_line is not None:
                log_line(self.environ, self.duration, self.stats.bytes_sent)

    # --- what the transport delivers (in the hub) --------------------------------------------------------------------

    def _eventful(self, engine: Connection, messages: list[Message]) -> None:
        """Something other than whole messages came: a control frame, a piece of a message, a violation; or more than is
        parsed at once. Runs in the hub.
        """
        came = bool(messages)
        self._put(messages)
        self._answer(engine)
        if engine.stalled:
            came |= self._advance(engine)
        if came and self._reader is not None and self._turn.is_over():
            self._wake_later()
        elif came:
            self._deliver()
        if engine.over:
            # What came before the end is answered before the end: a greenlet that waits for it, or was started for it,
            # runs first.
            self._conclude_soon()

    def _deliver(self) -> None:
        """Run what takes the messages."""
        if self._reader is not None:
            self._reader.switch()
        elif self._callbacks is not None:
            self._callbacks.start()

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
            self._turn.wake(self._wake, light=len(self._inbox) == 1)

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
        if _is_full(messages, self._config):
            self._pause()

    def _pause(self) -> None:
        if not self._paused and not has_ended(self._state):
            self._paused = True
            self._transport.pause()

    def _relax(self) -> None:
        """The application has taken a message while reading was paused."""
        config, inbox, engine = self._config, self._inbox, self._engine
        if len(inbox) > config.inbox_messages // 2 or _is_full(inbox, config):
            return
        if engine.stalled:
            self._advance(engine)
        else:
            self._resume()

    def _resume(self) -> None:
        self._paused = False
        self._transport.resume()

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
        return engine.state is not State.OPEN or not _is_full(self._inbox, self._config)

    def _advance_later(self) -> None:
        """Runs in the hub."""
        self._advances = False
        if self._engine.stalled and not self._transport.closed and self._advance(self._engine):
            self._deliver()

    def _answer(self, engine: Connection) -> None:
        """Answer pings, unless the peer does not read; note pongs."""
        engine.eventful = False
        transport = self._transport
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

    def _pongs(self, engine: Connection) -> None:
        pongs, engine.pongs = engine.pongs, ()
        if self._ping is not None and self._ping[0] in pongs:
            self._latency = time.monotonic() - self._ping[1]
            self._ping = None
            self._registry.counters.pong(self._latency)

    def _writable(self) -> None:
        """The outbox is empty again, or writing has failed."""
        if self._transport.broken:
            if self._state == OPEN:
                self._state = CLOSING
        elif self._engine.pongs_due:
            self._transport.write(self._engine.take_pongs())
        self._wake_senders()

    def _connection_lost(self) -> None:
        """The socket is closed. Runs in the hub. A second call does what the first one has not done."""
        registry = self._registry
        self._end()
        registry.slots.release(self)
        if self in registry:
            registry.counters.add(self.stats, first_close(self._engine)[0], from_peer=self._engine.closed_by_peer)
            registry.remove(self)

    def _forked(self) -> None:
        """This is a process that has just been forked: the connection is the parent's, and here it has ended. No
        greenlet is woken, because those that wait here are copies of the parent's.
        """
        self._state, self._end_delivered = CLOSED, True
        self._reader = self._senders = self._observers = None
        self._inbox.clear()
        self._transport.drop()

    # --- what keepalive asks (in the hub) --------------------------------------------------------------------------

    def _activity(self) -> int | None:
        """A number that changes when the peer sends or reads; None while the inbox is full and nothing is read."""
        if self._paused:
            return None
        transport = self._transport
        activity = transport.bytes_received
        if transport.blocked_since is not None:
            # What the kernel has taken of the outbox since shows that the peer reads, however slowly.
            activity += transport.bytes_sent - transport.outbox_size
        return activity

    def _message_number(self) -> int | None:
        """The number of the message of which a part has come, None between two."""
        return self._messages_received if self._engine.in_a_message else None

    def _keepalive_ping(self) -> None:
        """Send a ping, unless the peer takes nothing anyway."""
        transport = self._transport
        if transport.broken and self._paused:
            transport.abort()  # nothing is read to the end to find out how it ended
        elif self._state == OPEN and transport.blocked_since is None:
            self.ping()

    @property
    def _outbox_state(self) -> tuple[int, float | None]:
        """Bytes that wait for the peer, and since when (``time.monotonic()``) the kernel has not taken them all."""
        if not is_accepted(self._state):
            return 0, None
        return self._transport.outbox_size, self._transport.blocked_since

    # --- the end ---------------------------------------------------------------------------------------------------

    def close(self, code: int = CloseCode.NORMAL, reason: str | bytes = "", message: str | bytes | None = None) -> None:
        """Send a close frame (RFC 6455 7.1.2) without waiting for the answer; later calls do nothing.

        The rest happens in the background: the peer has ``close_timeout`` seconds to answer. Before the 101 this
        refuses the handshake: 403 unless the application answers otherwise. May be called in any thread of the
        operating system.

        Args:
            code: 1000 to 1014 where registered, 3000 to 4999 for libraries and applications.
            reason: At most 123 bytes as UTF-8.
            message: gevent-websocket's name of ``reason``.

        Raises:
            ValueError: A code that may not be sent, or a reason that is too long.

        """
        if self._turn.is_foreign():
            self._turn.call(self.close, code, reason, message)
            return
        text = (reason if message is None else message) or ""
        if isinstance(text, bytes):
            text = text.decode()
        close_payload(code, text)  # a wrong call raises even when the connection has ended
        if not is_accepted(self._state):
            self._refuse(Close(code, text))
            return
        engine, transport = self._engine, self._transport
        if engine.state is not State.OPEN or transport.closed:
            return
        if self._callbacks is not None:
            self._inbox.clear()  # a callback could neither answer nor learn that it has ended
        if self._state == OPEN:  # else it has been cut, or a write was refused: no close frame can go out
            engine.close(code, text)
            transport.write(engine.take_replies())
        transport.flush()  # what is last need not wait for more
        transport.set_deadline(self._config.close_timeout)
        if engine.stalled:
            self._advance(engine)  # what waits inside is skipped, up to the peer's close frame
        else:
            self._resume()
        self._end()

    def _refuse(self, close: Close) -> None:
        """It is closed before the 101: there will be none, or it is closed right after it."""
        if self._state == ACCEPTING and self._pending is not None:
            self._pending.close = close
        elif not has_ended(self._state):
            self._pending = None
            self._state = REFUSED

    def _fail(self, code: CloseCode, reason: str) -> None:
        """The peer has exceeded a limit: send a close frame with the reason, and drop what it still sends."""
        if not is_accepted(self._state) or self._engine.state is not State.OPEN or self._transport.closed:
            return
        if self._state == OPEN:
            self._engine.fail(code, reason)
            self._hub.loop.run_callback(self._conclude)
        else:  # it has been cut, or a write was refused: no close frame can go out
            self._transport.abort()

    def abort(self) -> None:
        """Cut the connection without a close frame (1006 to the peer); before the 101, refuse the handshake. May be
        called in any thread of the operating system.
        """
        if self._turn.is_foreign():
            self._turn.call(self.abort)
            return
        if not is_accepted(self._state):
            self._refuse(Close(None, ""))
            return
        if self._state == OPEN:
            self._state = CLOSING
        self._transport.abort()

    def _conclude(self, times: int | None = None) -> None:
        """The peer has closed or broken a rule: answer, and release the socket. Runs in the hub."""
        if self._yielding and times != 0:
            # The application is at the messages that came before, and lets others run meanwhile: its answers go first.
            # It may do so before it takes each of them and before each answer; what sends for ever is not waited for.
            times = 2 * len(self._inbox) + 2 if times is None else times
            self._turn.later(partial(self._conclude, times - 1))
            return
        transport, engine = self._transport, self._engine
        if engine.has_replies:
            transport.write(engine.take_replies())
        transport.close(linger=engine.state is State.FAILED)
        if not transport.closed:  # else ``_connection_lost()`` was called, which ends it
            transport.set_deadline(self._config.close_timeout)
            self._end()

    def _end(self) -> None:
        """Nothing more is received or sent: wake what waits."""
        if not has_ended(self._state):
            self._ended_at = time.monotonic()
            self._registry.keepalive.forget(self)
        self._state = CLOSED
        observers, self._observers = self._observers, None
        for observer in observers or ():
            observer.ended(self)
        self._wake_senders()
        if self._reader is not None:
            self._hub.loop.run_callback(self._switch_to, self._reader)
        elif self._callbacks is not None and not self._end_delivered:
            self._callbacks.start()

    def _wake_senders(self) -> None:
        senders, self._senders = self._senders, None
        for waiter in senders or ():
            self._hub.loop.run_callback(waiter.switch, None)

    def _switch_to(self, reader: Any) -> None:
        """Runs in the hub. The reader may have returned, or wait anew, since this was asked for."""
        if self._reader is not None and self._reader is reader:
            self._reader.switch()

    def _closed_error(self) -> ConnectionClosed:
        return closed_error(self._engine if is_accepted(self._state) else None)

    # --- facts -----------------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """The request's path below the application."""
        path: str = self.environ.get("PATH_INFO", "")
        return path

    @property
    def close_code(self) -> int | None:
        """The code of the first close frame, whichever side sent it; 1005 if it had none, 1006 if there was no frame,
        None while the connection is open (RFC 6455 7.1.5).
        """
        return None if self._state < CLOSING else self._first_close()[0]

    @property
    def close_reason(self) -> str | None:
        """The reason beside ``close_code``."""
        return None if self._state < CLOSING else self._first_close()[1]

    def _first_close(self) -> tuple[int, str]:
        return first_close(self._engine if is_accepted(self._state) else None)

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
    def stats(self) -> Traffic:
        """Messages and bytes both ways so far."""
        received, sent = 0, 0
        if is_accepted(self._state):
            received, sent = self._transport.bytes_received, self._transport.bytes_sent
        return Traffic(self._messages_received, self._messages_sent, received, sent)

    @property
    def origin(self) -> str | None:
        """The request's Origin header (RFC 6454 7)."""
        return self.environ.get("HTTP_ORIGIN")

    @property
    def version(self) -> str | None:
        """The protocol version: "13"."""
        return self.environ.get("HTTP_SEC_WEBSOCKET_VERSION")

    @property
    def protocol(self) -> str | None:
        """The request's Sec-WebSocket-Protocol header as it came; what was agreed on is ``subprotocol``."""
        return self.environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL")
