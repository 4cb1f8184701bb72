"""``WebSocket``: what application code holds. It joins the engine, the transport and an inbox.

gevent-websocket's contract holds: ``receive``, ``send(message, binary)``, ``close(code, message)``, ``closed``.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

import gevent
from gevent import get_hub, getcurrent
from gevent.hub import Waiter

from . import adapter, records
from .channel import Channel, give_up_silent
from .codes import CloseCode
from .config import Config
from .contracts import OlderNames
from .exceptions import ConnectionClosed
from .protocol.connection import Connection, State, close_payload
from .protocol.deflate import Deflate
from .protocol.handshake import Handshake, accept_headers
from .protocol.headers import check_field, check_token
from .rates import metered
from .registry import Registry
from .shortpath import ATTACHED, IDLE, WORKING, WebSocketPath
from .transport import Transport
from .typing import Environ, Headers, Message

__all__ = ["Stats", "WebSocket"]

log = logging.getLogger("gws_middleware")

Switch = Callable[[Headers], "tuple[Channel, bytes]"]
"""Sends the 101 with these headers and gives the connection away, with the bytes read behind the request."""
OnMessage = Callable[["WebSocket", Message], object]
OnClose = Callable[["WebSocket"], object]

MAX_PINGS_DROPPED = 1024
"""Pings of a peer that reads nothing, beyond those that are kept to be answered, before the connection ends."""

_TIMED_OUT = object()
_OPEN = State.OPEN


class Stats(NamedTuple):
    """What went over one connection so far; bytes count frames, not payloads."""

    messages_received: int
    messages_sent: int
    bytes_received: int
    bytes_sent: int


class WebSocket(WebSocketPath, OlderNames):
    """One WebSocket connection, from the handshake on.

    Until the application accepts - by ``accept()``, or by the first ``receive``, ``send``, ``detach`` or iteration -
    its ordinary HTTP response goes out instead, e.g. a 403 or a redirect to the login page.

    Any number of greenlets may send; one at a time may receive.
    """

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_accepted_at",
        "_adapter",
        "_config",
        "_ended",
        "_ended_at",
        "_handshake",
        "_is_over",
        "_latency",
        "_log_line",
        "_on_close",
        "_on_message",
        "_ping",
        "_places",
        "_registry",
        "_senders",
        "_switch",
        "_switched",
        "environ",
        "subprotocol",
    )

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
        self._high_water = config.send_high_water
        self._send_limit = config.send_limit
        self._hub: Any = get_hub()
        self._registry = registry
        self._adapter = adapter.current()
        self._handshake: Handshake | None = handshake
        self._switch: Switch | None = switch
        self._switched = False
        self._engine: Connection | None = None
        self._transport: Transport | None = None
        self._open = False
        self._ended = False
        self._told = False
        self._holds = False
        self._accepted_at: float | None = None
        self._ended_at: float | None = None
        self._stage = ATTACHED
        self._paused = False
        self._inbox: list[Message] = []  # the oldest message is the last item
        self._reader: Any = None
        self._senders: list[Any] | None = None
        self._on_message: OnMessage | None = None
        self._on_close: OnClose | None = None
        self._ping: tuple[bytes, float] | None = None
        self._places: list[Hashable] = []
        self._log_line: Callable[[Environ, float, int], None] | None = None
        self._is_over = False
        self._latency: float | None = None
        self._messages_received = 0
        self._messages_sent = 0

    def __repr__(self) -> str:
        state = "closed" if self._ended else "open" if self._engine is not None else "not accepted"
        return f"<WebSocket {self.path!a} {state}>"

    # --- the opening -----------------------------------------------------------------------------------------------

    def accept(self, subprotocol: str | None = None, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Answer the handshake with 101 (RFC 6455 4.2.2).

        ``subprotocol`` must be one that the client offers (``offered_subprotocols``); ``headers`` are added to the 101.
        ValueError: a header or subprotocol that may not be sent; nothing was written. RuntimeError: accepted
        already, or the application has already started an HTTP response. ConnectionClosed: the peer has gone.
        """
        if self._switched:
            self._switched = False
            if subprotocol not in (None, self.subprotocol):
                raise ValueError(f"the server has sent the 101 already, with the subprotocol {self.subprotocol!r}")
            return
        if self._engine is not None:
            raise RuntimeError("this WebSocket has been accepted already")
        handshake = self._handshake
        if handshake is None or self._switch is None:
            raise RuntimeError("this WebSocket has been refused: an HTTP response has been started")
        if subprotocol is None:
            subprotocol = self.subprotocol
        elif check_token(subprotocol, "the subprotocol") not in handshake.subprotocols:
            offers = ", ".join(handshake.subprotocols) or "none"
            raise ValueError(f"the subprotocol {subprotocol!r} was not offered by the client, which offers: {offers}")
        response = accept_headers(handshake, subprotocol) + _checked(headers)
        response += self._adapter.accepting(self)
        welcome = self._take_users_place()
        switch, self._switch, self._handshake = self._switch, None, None
        try:
            channel, early = switch(response)
        except OSError:
            self._ended = True
            raise self._closed_error() from None
        self.subprotocol = subprotocol
        self._begin(channel, early, handshake)
        if not welcome:
            self.fail(CloseCode.POLICY_VIOLATION, "too many connections")

    def _begin(self, channel: Channel, early: bytes, handshake: Handshake) -> None:
        config = self._config
        compression = handshake.compression
        self._engine = Connection(
            max_message_size=config.max_message_size,
            max_fragments=config.max_fragments,
            deflate=None if compression is None else Deflate(compression),
        )
        give_up_silent(channel, config.ping_interval, config.ping_timeout, config.send_timeout)
        self._transport = Transport(channel, metered(self, config))
        self._open = True
        self._accepted_at = time.monotonic()
        self._registry.add(self, config)
        self._transport.start(early)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("WebSocket %s: opened", ascii(self.path), extra=records.of(self))
        self._adapter.opened(self)

    def _take_users_place(self) -> bool:
        limit, user_key = self._config.max_connections_per_user, self._config.user_key
        if limit is None or user_key is None:
            return True
        user = user_key(self)
        return user is None or self._take_place(("user", user), limit)

    def _take_place(self, key: Hashable, limit: int) -> bool:
        """Take one of the ``limit`` places of ``key``, until the socket is gone or the handshake refused."""
        taken = self._registry.take_place(key, limit)
        if taken:
            self._places.append(key)
        return taken

    def _give_places(self) -> None:
        while self._places:
            self._registry.give_place(self._places.pop())

    def limits(self, **options: Any) -> None:
        """Other settings for this connection alone, before it is accepted: those of sizes, rates and deadlines that
        docs/settings.md marks. ConfigError for a wrong one; RuntimeError once the WebSocket has been accepted.
        """
        if self._engine is not None:
            raise RuntimeError("this WebSocket has been accepted already: its limits are set before")
        self._config = config = self._config.for_view(options)
        self._high_water, self._send_limit = config.send_high_water, config.send_limit

    def _accept_switched(self, subprotocol: str | None) -> None:
        """The server has sent the 101 itself. The application may still say ``accept()``, once."""
        self.accept()
        self.subprotocol = subprotocol
        self._switched = True

    @property
    def accepted(self) -> bool:
        """Whether the 101 has been sent."""
        return self._engine is not None

    @property
    def offered_subprotocols(self) -> tuple[str, ...]:
        """What the client offers, most wanted first; empty once accepted."""
        return () if self._handshake is None else self._handshake.subprotocols

    def _refuse(self) -> None:
        """An HTTP response has been started: there will be no 101."""
        self._switch = self._handshake = None

    def expect_idle(self) -> None:
        """For an adapter: this WebSocket's view holds what ``Adapter.idle`` gives back."""
        self._holds = self._adapter.grace is not None

    # --- receiving -------------------------------------------------------------------------------------------------

    def _receive(self, timeout: float | None) -> Message | None:
        """The inbox is empty."""
        if self._stage != ATTACHED:
            raise RuntimeError("this WebSocket is detached: its messages go to on_message")
        if self._engine is None and not self._ended and not self._accepted_late():
            self._tell_end()
            return None
        while not self._inbox:
            if self._ended:
                self._tell_end()
                return None
            if not self._wait(timeout):
                raise TimeoutError(f"no message within {timeout} seconds")
        message = self._inbox.pop()
        if self._paused:
            self._relax()
        return message

    def _accepted_late(self) -> bool:
        """Accept because the application uses the connection; False when the peer has gone."""
        try:
            self.accept()
        except ConnectionClosed:
            return False
        return True

    def _tell_end(self) -> None:
        if self._told:
            raise self._closed_error()
        self._told = True

    def _wait(self, timeout: float | None) -> bool:
        """Wait for the inbox or for the end; False when ``timeout`` seconds have passed."""
        if self._reader is not None:
            raise RuntimeError("another greenlet is waiting in receive() of this WebSocket")
        grace = self._adapter.grace
        if not self._holds or grace is None or (timeout is not None and timeout <= grace):
            return self._park(timeout)
        if self._park(grace):
            return True
        self._holds = self._adapter.idle()
        # That may have taken its time: a message may be here, or the end.
        return bool(self._inbox) or self._ended or self._park(None if timeout is None else timeout - grace)

    def _park(self, timeout: float | None) -> bool:
        self._reader = reader = getcurrent()
        timer = None
        if timeout is not None:
            timer = self._hub.loop.timer(timeout)
            # The loop's clock stands still while a view computes: the seconds count from now.
            timer.start(reader.switch, _TIMED_OUT, update=True)
        try:
            return self._hub.switch() is not _TIMED_OUT
        finally:
            self._reader = None
            if timer is not None:
                timer.close()

    def count_messages(self) -> int:
        """How many messages wait in the inbox. Lets the loop run once if there is none."""
        if self._engine is None and not self._ended:
            self._accepted_late()
        if not self._inbox and not self._ended:
            gevent.sleep(0)  # so that a loop around this call lets the messages in
        return len(self._inbox)

    def receive_json(self, timeout: float | None = None) -> Any:
        """The next message as JSON. ConnectionClosed at the end, TimeoutError as in ``receive``.

        A message that is not JSON is the peer's fault: the connection is closed with 1007 and ConnectionClosed raised.
        """
        message = self.receive(timeout)
        if message is None:
            raise self._closed_error()
        try:
            return json.loads(message)
        except (ValueError, RecursionError):
            self.close(CloseCode.INVALID_DATA, "a message is not JSON")
            raise self._closed_error() from None

    # --- sending ---------------------------------------------------------------------------------------------------

    def send_json(self, value: Any) -> None:
        """Send a value as JSON text. TypeError for a value that has no JSON."""
        self.send(json.dumps(value, separators=(",", ":"), ensure_ascii=False))

    def _too_slow(self) -> None:
        self._registry.counters.dropped += 1
        self.close(CloseCode.TRY_AGAIN_LATER, "too slow")

    def _check_open(self) -> None:
        """Accept if that is what is missing; ConnectionClosed if the connection has ended."""
        if self._engine is None and not self._ended:
            self.accept()
        else:
            raise self._closed_error()

    def _wait_writable(self, transport: Transport) -> None:
        transport.flush()
        high_water, seconds, grace = self._high_water, self._config.send_timeout, self._adapter.grace
        if grace is not None and transport.outbox_size > high_water and self._open and not self._drained(grace):
            self._adapter.idle()
        while transport.outbox_size > high_water and self._open:
            waiting = transport.outbox_size
            if not self._drained(seconds) and transport.outbox_size >= waiting:
                log.info("WebSocket %s: the peer read nothing for %s s: cut", ascii(self.path), seconds)
                self._open = False
                transport.abort()
        if not self._open:
            raise self._closed_error()

    def _drained(self, timeout: float) -> bool:
        """Wait for the outbox to empty or for the end; False when ``timeout`` seconds have passed."""
        waiter: Any = Waiter()
        timer = self._hub.loop.timer(timeout)
        timer.start(waiter.switch, _TIMED_OUT, update=True)
        if self._senders is None:
            self._senders = []
        self._senders.append(waiter)
        try:
            return waiter.get() is not _TIMED_OUT
        finally:
            timer.close()
            if self._senders is not None and waiter in self._senders:
                self._senders.remove(waiter)

    def ping(self, payload: bytes | None = None) -> None:
        """Send a ping (RFC 6455 5.5.2); the pong's way back shows in ``latency``. At most 125 bytes."""
        if not self._open:
            self._check_open()
        now = time.monotonic()  # the loop's clock stands still while a view computes
        if payload is None:
            payload = int(now * 1000).to_bytes(8, "big")
        frame = self._engine.ping(payload)  # type: ignore[union-attr]
        self._ping = payload, now
        self._transport.write(frame)  # type: ignore[union-attr]

    # --- the end ---------------------------------------------------------------------------------------------------

    def close(self, code: int = CloseCode.NORMAL, reason: str | bytes = "", message: str | bytes | None = None) -> None:
        """Say goodbye with ``code`` and ``reason`` (RFC 6455 7.1.2) without waiting for the answer; later calls do
        nothing.

        The rest happens in the background: the peer has ``close_timeout`` seconds to answer. ``message`` is
        gevent-websocket's name of ``reason``. ValueError for a code that may not travel, or over 123 bytes of reason.
        Before the 101, it refuses the handshake: 403 unless the application answers otherwise.
        """
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
        self._paused = False
        transport.resume()
        transport.set_deadline(self._config.close_timeout)
        if engine.stalled:
            engine.feed(b"")  # what waits inside is skipped, up to the peer's close frame
            if engine.over:
                self._hub.loop.run_callback(self._conclude)
        self._end()

    def fail(self, code: CloseCode, reason: str) -> None:
        """The peer has gone beyond a limit: say so, drop what it still sends, and let go of it."""
        engine, transport = self._engine, self._transport
        if engine is not None and transport is not None and engine.state is _OPEN and not transport.closed:
            engine.fail(code, reason)
            self._hub.loop.run_callback(self._conclude)

    def abort(self) -> None:
        """Cut the connection without a goodbye (1006 to the peer)."""
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
    def closed(self) -> bool:
        """Whether the connection has ended or is ending: nothing can be sent any more."""
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
        return int(self._first_close()[0]) if self.closed else None

    @property
    def close_reason(self) -> str | None:
        """The reason beside ``close_code``."""
        return self._first_close()[1] if self.closed else None

    # --- a connection without a view -------------------------------------------------------------------------------

    def detach(self, on_message: OnMessage | None = None, on_close: OnClose | None = None) -> None:
        """Let the connection live on after the view has returned; it then holds no greenlet and no frame.

        ``on_message(ws, message)`` is called for each message in order, in one greenlet at a time for this connection,
        and no more after ``close()``; without it messages are dropped. ``on_close(ws)`` is called exactly once, at the
        end. An exception in either is logged once and closes with 1011. ``ws.environ`` keeps the request's strings
        only.
        """
        if self._stage != ATTACHED:
            raise RuntimeError("this WebSocket is detached already")
        if self._engine is None and not self._ended:
            self.accept()
        self._stage = IDLE
        self._told = False  # on_close tells it once more where receive() has
        self._on_message, self._on_close = on_message, on_close
        self.environ = {sys.intern(key): value for key, value in self.environ.items() if type(value) is str}
        if self._inbox or self._ended:
            self._start_work()

    @property
    def detached(self) -> bool:
        """Whether ``detach()`` was called."""
        return self._stage != ATTACHED

    def _start_work(self) -> None:
        """One greenlet at a time works through the inbox of a detached connection."""
        if self._stage == IDLE:
            self._stage = WORKING
            gevent.spawn(self._work)

    def _work(self) -> None:
        try:
            while self._inbox:
                message = self._inbox.pop()
                if self._paused:
                    self._relax()
                if self._on_message is not None:
                    self._call(self._on_message, message)
        finally:
            self._stage = IDLE
            if self._ended and not self._told:
                self._told = True
                on_close, self._on_message, self._on_close = self._on_close, None, None
                try:
                    if on_close is not None:
                        self._call(on_close)
                finally:
                    self._over()
            else:
                self._adapter.ran(self)

    def _leave(self, log_line: Callable[[Environ, float, int], None] | None) -> None:
        """The view has left, and the connection stays; ``log_line`` is for its end."""
        if not self._is_over:
            self._registry.left(self)
        self._log_line = log_line
        self._adapter.ran(self)

    def _over(self) -> None:
        """The connection has ended, and so have its view and ``on_close``. Called once."""
        self._is_over = True
        self._registry.ended(self)
        if log.isEnabledFor(logging.INFO):
            log.info(*records.closing(self), extra=records.of(self))
        try:
            self._adapter.closed(self)
        finally:
            log_line, self._log_line = self._log_line, None
            if log_line is not None:
                log_line(self.environ, self.duration, self.stats.bytes_sent)

    def _call(self, callback: Callable[..., object], *arguments: object) -> None:
        try:
            callback(self, *arguments)
        except (Exception, gevent.Timeout) as error:
            if isinstance(error, ConnectionClosed) and self.closed:
                return  # the end of the connection, seen from a callback
            log.exception("WebSocket %s: %r raised; closed with 1011", ascii(self.path), callback)
            self._inbox.clear()
            self.close(CloseCode.INTERNAL_ERROR)
        except BaseException:  # GreenletExit, SystemExit: the worker is stopping
            self.close(CloseCode.GOING_AWAY)
            raise

    # --- what the transport says (in the hub) ----------------------------------------------------------------------

    def _eventful(self, engine: Connection, messages: list[Message]) -> None:
        """Something other than whole messages came: a control frame, a piece of a message, a fault. Runs in the hub."""
        self._put(messages)
        self._answer(engine)
        if messages and self._reader is not None:
            self._reader.switch()
        elif messages and self._stage == IDLE:
            self._start_work()
        if engine.over:
            # What came before the end is answered before the end: a greenlet that was started for it runs first.
            self._hub.loop.run_callback(self._conclude)

    def _put(self, messages: list[Message]) -> None:
        self._messages_received += len(messages)
        messages.reverse()
        if self._inbox:
            messages.extend(self._inbox)
        self._inbox = messages
        if len(messages) >= self._config.inbox_messages or (
            len(messages) > 1 and sum(map(len, messages)) >= self._config.max_message_size
        ):
            self._pause()

    def _pause(self) -> None:
        if not self._paused and not self._ended:
            self._paused = True
            self._transport.pause()  # type: ignore[union-attr]

    def _relax(self) -> None:
        """The application has taken a message while reading was paused."""
        engine, transport = self._engine, self._transport
        assert engine is not None and transport is not None
        if len(self._inbox) > self._config.inbox_messages // 2 or (
            self._inbox and sum(map(len, self._inbox)) >= self._config.max_message_size
        ):
            return
        self._paused = False
        if engine.stalled:
            self._put(engine.feed(b""))
            self._answer(engine)
            if engine.over:
                self._hub.loop.run_callback(self._conclude)
        if not self._paused:
            transport.resume()

    def _answer(self, engine: Connection) -> None:
        """Answer pings, unless the peer does not read; note pongs."""
        engine.eventful = False
        transport = self._transport
        assert transport is not None
        if engine.pongs:
            self._pongs(engine)
        if engine.pongs_due:
            if transport.outbox_size > self._high_water:
                transport.flush()  # it may only wait for the tick to end
            if transport.outbox_size <= self._high_water:
                transport.write(engine.take_pongs())
            elif engine.pings_dropped > MAX_PINGS_DROPPED:
                self.fail(CloseCode.POLICY_VIOLATION, "pings, but no pong is read")
        if engine.stalled:
            self._pause()
        transport.expect(engine.frame_left)

    def _conclude(self) -> None:
        """The peer has said goodbye or broken a rule: answer, and let go of the socket. Runs in the hub."""
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

    def writable(self) -> None:
        """The outbox is empty again, or writing has failed."""
        transport, engine = self._transport, self._engine
        assert transport is not None and engine is not None
        if transport.broken:
            self._open = False
        elif engine.pongs_due:
            transport.write(engine.take_pongs())
        self._wake_senders()

    def connection_lost(self) -> None:
        """The socket is gone. Runs in the hub."""
        self._end()
        self._registry.remove(self)
        self._give_places()
        self._registry.counters.add(self.stats, int(self._first_close()[0]))

    # --- what keepalive asks (in the hub) --------------------------------------------------------------------------

    def pulse(self) -> int | None:
        """A number that changes with every sign of life; None while the inbox is full and nothing is read."""
        if self._paused:
            return None
        transport: Any = self._transport
        waiting: int = transport.outbox_size
        taken: int = transport.bytes_received
        # What the kernel has taken of the outbox shows that the peer reads, however slowly.
        return taken if not waiting else taken + transport.bytes_sent - waiting

    def in_a_message(self) -> int | None:
        """The number of the message of which a part has come, None between two."""
        engine: Any = self._engine
        return self._messages_received if engine.in_a_message else None

    def knock(self) -> None:
        """Ask for a sign of life, unless something waits for the peer already."""
        transport: Any = self._transport
        if transport.broken and self._paused:
            transport.abort()  # nobody reads to the end to find out how it ended
        elif self._open and not transport.outbox_size:
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

    # --- facts -----------------------------------------------------------------------------------------------------

    @property
    def origin(self) -> str | None:
        """The request's Origin header (RFC 6454 7)."""
        return self.environ.get("HTTP_ORIGIN")

    @property
    def path(self) -> str:
        """The request's path below the application."""
        path: str = self.environ.get("PATH_INFO", "")
        return path

    @property
    def version(self) -> str | None:
        """The protocol version: "13"."""
        return self.environ.get("HTTP_SEC_WEBSOCKET_VERSION")

    @property
    def protocol(self) -> str | None:
        """The request's Sec-WebSocket-Protocol header as it came; what was agreed on is ``subprotocol``."""
        return self.environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL")

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
    def waiting(self) -> tuple[int, float | None]:
        """Bytes that wait for the peer, and since when (``time.monotonic()``) the kernel has not taken them all."""
        transport = self._transport
        return (0, None) if transport is None else (transport.outbox_size, transport.blocked_since)

    @property
    def stats(self) -> Stats:
        """Messages and bytes both ways so far."""
        transport = self._transport
        received, sent = (0, 0) if transport is None else (transport.bytes_received, transport.bytes_sent)
        return Stats(self._messages_received, self._messages_sent, received, sent)


def _checked(headers: Iterable[tuple[str, str]]) -> Headers:
    """Headers of the application for the 101; ValueError for those that are the handshake's own."""
    checked = []
    for name, value in headers:
        check_field(name, value)
        if name.lower().startswith("sec-websocket-") or name.lower() in (
            "upgrade",
            "connection",
            "content-length",
        ):
            raise ValueError(f"the header {name} belongs to the handshake: it is set for you")
        checked.append((name, value))
    return checked
