"""``WebSocket``: what application code holds, and what waits for the application. Under it are ``Detached``, for when
there is no view, and ``Wire``, which waits for nobody.

gevent-websocket's contract holds: ``receive``, ``send(message, binary)``, ``close(code, message)``, ``closed``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import gevent
from gevent import get_hub, getcurrent
from gevent.hub import Waiter

from .. import hooks
from ..codes import CloseCode
from ..config import Config
from ..exceptions import ConnectionClosed
from ..process.limits import reserve_user_slot
from ..process.registry import Registry
from ..protocol.deflate import Deflate
from ..protocol.handshake import Handshake, accept_headers
from ..protocol.headers import check_field, check_token
from ..typing import Environ, Headers, Message
from . import jsontext, logs
from .channel import Channel, give_up_silent
from .compat import OlderNames
from .detached import Detached
from .fastpath import ATTACHED
from .rates import engine_for
from .transport import Transport
from .turns import turns_of

__all__ = ["WebSocket"]

log = logging.getLogger("gws_middleware")

Switch = Callable[[Headers], "tuple[Channel, bytes]"]
"""Sends the 101 with these headers and gives the connection away, with the bytes read behind the request."""
_TIMED_OUT = object()


class WebSocket(Detached, OlderNames):
    """One WebSocket connection, from the handshake on.

    Until the application accepts - by ``accept()``, or by the first ``receive``, ``send``, ``detach``, iteration or
    look at ``closed`` - its ordinary HTTP response goes out instead, e.g. a 403 or a redirect to the login page.

    Any number of greenlets may send; one at a time may receive.
    """

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_handshake",
        "_switch",
        "_switched",
        "_vanished",
        "_waited",
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
        self._hub = hub = get_hub()
        self._turn = turns_of(hub)
        self._plain = True
        self._wakes = self._advances = False
        self._yielding = 0
        self._registry = registry
        self._adapter = hooks.current()
        self._handshake: Handshake | None = handshake
        self._switch: Switch | None = switch
        self._switched = False
        self._vanished = False
        self._engine = None
        self._transport = None
        self._open = False
        self._ended = False
        self._told = False
        self._holds = False
        self._waited = 0.0
        self._accepted_at = None
        self._ended_at = None
        self._stage = ATTACHED
        self._paused = False
        self._inbox = []  # the oldest message is the last item
        self._reader = None
        self._senders = None
        self._on_message = None
        self._on_close = None
        self._ping = None
        self._log_line = None
        self._is_over = False
        self._latency = None
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
        already, or the application has already started an HTTP response. ConnectionClosed: the peer has disconnected,
        or reads nothing for ``send_timeout`` seconds.
        """
        self._turn.refuse_foreign()
        if self._switched:
            self._switched = False
            if subprotocol not in (None, self.subprotocol):
                raise ValueError(f"the server has sent the 101 already, with the subprotocol {self.subprotocol!r}")
            return
        if self._engine is not None:
            raise RuntimeError("this WebSocket has been accepted already")
        handshake = self._handshake
        if handshake is None:
            raise RuntimeError("this WebSocket has been refused: an HTTP response has been started")
        if self._switch is None:
            raise RuntimeError("another greenlet is accepting this WebSocket")
        if subprotocol is None:
            subprotocol = self.subprotocol
        elif check_token(subprotocol, "the subprotocol") not in handshake.subprotocols:
            offers = ", ".join(handshake.subprotocols) or "none"
            raise ValueError(f"the subprotocol {subprotocol!r} was not offered by the client, which offers: {offers}")
        response = accept_headers(handshake, subprotocol) + _checked(headers)
        response += self._adapter.accepting(self)
        free = reserve_user_slot(self._registry.slots, self, self._config)
        self.subprotocol = subprotocol
        self._take(response)
        if not free:
            self._fail(CloseCode.POLICY_VIOLATION, "too many connections")

    def _take(self, response: Headers) -> None:
        """Have the 101 sent with these headers, and take the connection."""
        switch, handshake = self._switch, self._handshake
        assert switch is not None and handshake is not None
        self._switch = None
        try:
            channel, early = switch(response)
        except OSError:
            self._ended = self._vanished = True
            raise self._closed_error() from None
        finally:
            self._handshake = None
        try:
            self._begin(channel, early, handshake)
        except BaseException:
            if self._transport is None:  # nothing can be answered any more, and nobody else closes the connection
                self._ended = self._vanished = True
                channel.close()
            raise

    def _begin(self, channel: Channel, early: bytes, handshake: Handshake) -> None:
        config = self._config
        compression = handshake.compression
        engine = engine_for(config, None if compression is None else Deflate(compression))
        self._plain = compression is None
        give_up_silent(channel, config.ping_interval, config.ping_timeout, config.send_timeout)
        transport = Transport(channel, self)
        self._engine, self._transport, self._open = engine, transport, True
        self._accepted_at = time.monotonic()
        self._registry.add(self, config)
        self._transport.start(early)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("WebSocket %s: opened", ascii(self.path), extra=logs.of(self))
        self._adapter.opened(self)

    def limits(self, **options: Any) -> None:
        """Other settings for this connection alone, before it is accepted: those of sizes, rates and deadlines that
        docs/settings.md marks. ConfigError for a wrong one; RuntimeError once the WebSocket has been accepted.
        """
        if self._engine is not None:
            raise RuntimeError("this WebSocket has been accepted already: its limits are set before")
        self._config = config = self._config.for_view(options)
        self._high_water, self._send_limit = config.send_high_water, config.send_limit

    def _accept_switched(self, subprotocol: str | None) -> None:
        """The server has sent the 101 itself. The application may still call ``accept()``, once.

        The connection is taken first: whatever raises then finds it open, and it is closed with 1011.
        """
        assert self._handshake is not None
        self.subprotocol = subprotocol
        self._take(accept_headers(self._handshake, None))
        self._switched = True
        self._adapter.accepting(self)
        if not reserve_user_slot(self._registry.slots, self, self._config):
            self._fail(CloseCode.POLICY_VIOLATION, "too many connections")

    @property
    def accepted(self) -> bool:
        """Whether the 101 has been sent."""
        return self._engine is not None

    @property
    def vanished(self) -> bool:
        """Whether the peer had gone before the 101 could be sent: nobody is there for any answer."""
        return self._vanished

    @property
    def closed(self) -> bool:
        """Whether the connection has ended or is ending: nothing can be sent any more.

        Reading it accepts, as the first ``receive`` or ``send`` does: a loop that asks for it is a view that talks.
        """
        if self._switch is not None and not self._ended:
            self._accepted_late()
        return self._is_closed or (self._engine is None and self._handshake is None)

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
        self._waited = 0.0

    # --- receiving -------------------------------------------------------------------------------------------------

    def _receive(self, timeout: float | None) -> Message | None:
        """The inbox is empty."""
        self._turn.refuse_foreign()
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
        self._turn.refuse_foreign()
        if self._engine is None and not self._ended:
            self._accepted_late()
        if not self._inbox and not self._ended:
            gevent.sleep(0)  # so that a loop around this call lets the messages in
        return len(self._inbox)

    def receive_json(self, timeout: float | None = None) -> Any:
        """The next message as JSON (RFC 8259). ConnectionClosed at the end, TimeoutError as in ``receive``.

        A message that is not JSON (so is NaN, and a number too large for a float) is the peer's fault: the connection
        is closed with 1007 and ConnectionClosed raised.
        """
        message = self.receive(timeout)
        if message is None:
            raise self._closed_error()
        try:
            return jsontext.loads(message)
        except (ValueError, RecursionError):
            self.close(CloseCode.INVALID_DATA, "a message is not JSON")
            raise self._closed_error() from None

    # --- sending ---------------------------------------------------------------------------------------------------

    def send_json(self, value: Any) -> None:
        """Send a value as JSON text. TypeError for a value that has no JSON, ValueError for NaN and infinity."""
        self.send(jsontext.dumps(value))

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
        if transport.outbox_size <= self._high_water:
            self._give_way()  # the peer reads as fast as this view sends: others have not been served meanwhile
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

    # --- facts -----------------------------------------------------------------------------------------------------

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


def _checked(headers: Iterable[tuple[str, str]]) -> Headers:
    """Headers of the application for the 101; ValueError for those that are the handshake's own."""
    checked = []
    for name, value in headers:
        check_field(name, value)
        if name.lower().startswith("sec-websocket-") or name.lower() in (
            "upgrade",
            "connection",
            "content-length",
            "transfer-encoding",  # RFC 9112 6.1: never in a 1xx; a proxy would take frames for chunks
        ):
            raise ValueError(f"the header {name} belongs to the handshake: it is set for you")
        checked.append((name, value))
    return checked
