"""What every message costs, and nothing else: the path from the socket to ``receive()`` and from ``send()`` back.

Three base classes, of ``Turns``, ``Transport`` and ``WebSocket``, each here and once more in C (``_fastpath.c``).
Rule 1: both have one contract: the same signatures, exceptions and docstrings (``tests/test_parity.py``). Rule 2: this
is the one place where a base class calls its subclass: each class ends with the methods of its slow path, which the
subclass has. They exist once, in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from gevent import getcurrent
from gevent.monkey import get_original

from ..native import load
from ..protocol.connection import Connection, PreparedMessage
from ..typing import Message, Sendable
from .channel import Channel
from .states import OPEN

__all__ = ["LASTS", "FastTransport", "FastWebSocket", "Owner", "Turn", "get_thread_ident"]

T = TypeVar("T")

LASTS = 0.005
"""Seconds that a turn of the event loop may last before greenlets that can wait let the loop poll its sockets: as long
as CPython lets a thread keep the interpreter (``sys.getswitchinterval``).
"""

get_thread_ident: Callable[[], int] = get_original("_thread", "get_ident")
"""The thread of the operating system: gevent's replacement of it answers with the greenlet."""


class Polls(Protocol):
    """What counts the polls of an event loop."""

    @property
    def iteration(self) -> int:
        """The number of the poll."""


class Hub(Protocol):
    """gevent's hub, or a greenlet that waits."""

    def switch(self, *values: Any) -> Any:
        """Run it; in the hub: wait until another greenlet switches back."""


class Owner(Protocol):
    """What a transport delivers to."""

    def _data_received(self, buffer: bytearray, size: int, /) -> None:
        """``buffer[:size]`` was read. The buffer is lent for the call only. Runs in the hub."""

    def _connection_lost(self) -> None:
        """The socket is closed, for whatever reason. Runs in the hub."""

    def _writable(self) -> None:
        """The outbox has become empty after it had been blocked, or the kernel has refused a write."""


class Starts(Protocol):
    """What takes the messages of a detached connection."""

    def start(self) -> None:
        """Messages have come, or the end."""


class Turn:
    """The time between two polls of an event loop."""

    __slots__ = ("_began", "_iteration", "_thread", "polls")

    polls: Polls
    """What counts the polls."""
    _iteration: int
    _began: float
    _thread: int

    def is_foreign(self) -> bool:
        """Whether the caller runs in another thread of the operating system than the loop."""
        return get_thread_ident() != self._thread

    def begin(self) -> None:
        """A turn begins, in the current poll."""
        self._iteration, self._began = self.polls.iteration, monotonic()

    def is_over(self) -> bool:
        """Whether this turn has lasted for LASTS seconds. In another thread than the loop's it always has.

        The clock is read each time, the number of the poll only when that much time has passed. So what follows a poll
        directly may last twice as long.
        """
        if get_thread_ident() != self._thread:
            return True
        now = monotonic()
        if now - self._began < LASTS:
            return False
        iteration = self.polls.iteration
        if iteration == self._iteration:
            return True
        self._iteration, self._began = iteration, now
        return False

    if TYPE_CHECKING:  # the slow path

        def call(self, function: Callable[..., T], *arguments: Any) -> T: ...


class FastTransport:
    """One read, one write, and the outbox."""

    __slots__ = (
        "_buffer",
        "_channel",
        "_flush_due",
        "_outbox",
        "_owner",
        "_turn",
        "_window",
        "_write_turn",
        "bytes_received",
        "bytes_sent",
        "outbox_size",
    )

    _channel: Channel
    _turn: Turn
    _owner: Owner
    _buffer: bytearray
    _window: memoryview | bytearray
    _outbox: list[bytes | memoryview]
    _flush_due: bool
    _write_turn: int
    outbox_size: int
    bytes_received: int
    bytes_sent: int

    def _readable(self) -> None:
        """Runs in the hub."""
        try:
            size = self._channel.recv_into(self._window)
        except OSError as error:
            self._read_failed(error)
            return
        if size:
            self.bytes_received += size
            self._owner._data_received(self._buffer, size)
        else:
            self._lost()

    def write(self, data: bytes, /) -> None:
        """Send a frame without waiting.

        One that finds the outbox empty goes to the kernel at once; those that follow in the same turn of the loop are
        joined and leave together when it ends.
        """
        number = self._turn.polls.iteration
        if self.outbox_size or number == self._write_turn:
            self.queue(data)
            return
        self._write_turn = number
        size = len(data)
        self.bytes_sent += size
        try:
            sent = self._channel.send(data)
        except OSError as error:
            self._write_failed(data, error)
            return
        if sent != size:
            self._keep(data, sent)

    def queue(self, data: bytes, /) -> None:
        """Send a frame when the turn ends, because more is about to follow."""
        size = len(data)
        self.bytes_sent += size
        self._outbox.append(data)
        self.outbox_size += size
        if not self._flush_due:
            self._flush_later()

    if TYPE_CHECKING:  # the slow path

        def _read_failed(self, error: OSError) -> None: ...
        def _lost(self) -> None: ...
        def _write_failed(self, data: bytes, error: OSError) -> None: ...
        def _keep(self, data: bytes, sent: int) -> None: ...
        def _flush_later(self) -> None: ...
        def write_parts(self, parts: Sequence[bytes]) -> None: ...


class FastWebSocket:
    """One message in, one message out."""

    __slots__ = (
        "_callbacks",
        "_end_delivered",
        "_engine",
        "_high_water",
        "_holds",
        "_hub",
        "_inbox",
        "_messages_received",
        "_messages_sent",
        "_paused",
        "_plain",
        "_reader",
        "_send_limit",
        "_state",
        "_transport",
        "_turn",
    )

    _engine: Connection
    """Set when the 101 has been sent."""
    _transport: FastTransport
    """Set when the 101 has been sent."""
    _hub: Hub
    _turn: Turn
    _reader: Hub | None
    """The greenlet that waits in ``receive()``."""
    _callbacks: Starts | None
    """What takes the messages once the connection is detached."""
    _inbox: list[Message]
    """The oldest message is the last item."""
    _high_water: int
    _send_limit: int
    _messages_received: int
    _messages_sent: int
    _state: int
    """See ``states``."""
    _paused: bool
    """Nothing is read, because the inbox is full."""
    _end_delivered: bool
    """``receive()`` has returned None, or ``on_close`` was called."""
    _holds: bool
    """The view holds what ``Adapter.idle()`` gives back."""
    _plain: bool
    """Messages are sent as they are: the engine does not compress them."""

    def receive(self, timeout: float | None = None) -> Message | None:
        """The next message. Waits for one.

        Args:
            timeout: Seconds to wait at most; None for no limit.

        Returns:
            ``str`` for a text message, ``bytes`` for a binary one (RFC 6455 5.6). None, once, when the connection has
            ended.

        Raises:
            ConnectionClosed: The connection has ended, and None was returned before.
            TimeoutError: No message came in time. The connection stays usable.
            RuntimeError: Another greenlet is waiting here, the WebSocket is detached, or the caller runs in another
                thread of the operating system.

        """
        if self._inbox and self._turn.is_over():
            self._give_way()  # before a message is taken: a caller that is cut off in its wait has lost none
        if not self._inbox or self._callbacks is not None:
            if (
                timeout is not None
                or self._state != OPEN
                or self._reader is not None
                or self._callbacks is not None
                or self._holds
                or self._turn.is_foreign()
            ):
                return self._receive(timeout)
            self._reader = getcurrent()
            try:
                self._hub.switch()
            finally:
                self._reader = None
            if not self._inbox:
                return self._receive(None)
        message = self._inbox.pop()
        if self._paused:
            self._relax()
        return message

    def __iter__(self) -> FastWebSocket:
        """The messages until the connection ends, however it ends."""
        return self

    def __next__(self) -> Message:
        """The next message, as ``receive()`` returns it."""
        if self._end_delivered and not self._inbox:
            raise StopIteration
        message = self.receive()
        if message is None:
            raise StopIteration
        return message

    def send(self, message: Sendable | PreparedMessage, binary: bool | None = None) -> None:
        """Send a message. Waits while more than ``send_high_water`` bytes wait for the peer to read.

        May be called in any thread of the operating system.

        Args:
            message: ``str`` is sent as text, bytes are sent as binary, a number as text.
            binary: True or False to choose the kind of message instead.

        Raises:
            ConnectionClosed: The connection has ended, or the peer read nothing for ``send_timeout`` seconds.
            TypeError: This is not a message.
            ValueError: The text cannot be encoded, or the bytes are not UTF-8.

        """
        if self._turn.is_over():
            if self._turn.is_foreign():
                self._turn.call(self.send, message, binary)
                return
            self._give_way()
        if self._state != OPEN:
            self._check_open()
        transport = self._transport
        if transport.outbox_size > self._high_water:
            self._wait_writable(transport)
        frame = self._engine.encode(message, binary)
        self._messages_sent += 1
        if isinstance(frame, tuple):
            transport.write_parts(frame)  # a large one: its payload is not copied
        elif self._inbox:
            transport.queue(frame)  # the answer to a burst of which more waits
        else:
            transport.write(frame)

    def offer(self, message: Sendable | PreparedMessage) -> bool:
        """Send a message without ever waiting for the peer.

        A peer with more than ``send_limit`` bytes unread is too slow: its connection is closed with 1013. A greenlet
        that sends on one connection without a pause lets the event loop run now and then. May be called in any thread
        of the operating system.

        Args:
            message: A message, encoded for this connection alone, or one that ``prepare()`` has made ready for many
                connections.

        Returns:
            False when the connection is not open.

        Raises:
            TypeError: This is not a message.

        """
        if self._turn.is_over():
            if self._turn.is_foreign():
                return self._turn.call(self.offer, message)
            self._give_way()
        if self._state != OPEN:
            return False
        if self._plain and type(message) is PreparedMessage:
            frame = message.frame
        else:
            encoded = self._engine.encode(message)
            frame = b"".join(encoded) if isinstance(encoded, tuple) else encoded
        transport = self._transport
        if transport.outbox_size and transport.outbox_size + len(frame) > self._send_limit:
            self._too_slow()
            return False
        transport.write(frame)
        self._messages_sent += 1
        return True

    def _data_received(self, buffer: bytearray, size: int, /) -> None:
        """Runs in the hub."""
        engine = self._engine
        messages = engine.feed(buffer, size)
        if engine.eventful:
            self._eventful(engine, messages)
            return
        if self._inbox or len(messages) != 1:
            self._put(messages)
        else:
            self._messages_received += 1
            self._inbox = messages
        if not self._inbox:
            return  # a part of a message
        reader = self._reader
        if reader is not None:
            if self._turn.is_over():
                self._wake_later()
            else:
                reader.switch()  # runs the view until it waits again: nothing may follow
        elif self._callbacks is not None:
            self._callbacks.start()

    if TYPE_CHECKING:  # the slow path

        def _receive(self, timeout: float | None) -> Message | None: ...
        def _give_way(self) -> None: ...
        def _wake_later(self) -> None: ...
        def _relax(self) -> None: ...
        def _check_open(self) -> None: ...
        def _wait_writable(self, transport: FastTransport) -> None: ...
        def _too_slow(self) -> None: ...
        def _eventful(self, engine: Connection, messages: list[Message]) -> None: ...
        def _put(self, messages: list[Message]) -> None: ...


_in_c = load("gws_middleware.connection._fastpath")
if _in_c is not None:
    Turn = _in_c.Turn  # type: ignore[misc]
    FastTransport = _in_c.FastTransport  # type: ignore[misc]
    FastWebSocket = _in_c.FastWebSocket  # type: ignore[misc]
