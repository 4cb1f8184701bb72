"""What every message costs, and nothing else: the way from the socket to ``receive()`` and from ``send()`` back.

Three base classes, of ``Turns``, ``Transport`` and ``WebSocket``, each here and once more in C (``_fastpath.c``),
which answers the same and is chosen as ``masking`` chooses the codec. Rule: whatever is not the common case is a method
of the subclass, which exists once.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from gevent import getcurrent
from gevent.monkey import get_original

from ..native import load
from ..protocol.connection import PreparedMessage
from ..typing import Message

__all__ = ["ATTACHED", "IDLE", "LASTS", "WORKING", "TransportPath", "Turn", "WebSocketPath", "get_thread_ident"]

LASTS = 0.005
"""Seconds that a turn of the event loop may last before those who can wait let the loop poll its sockets: as long as
CPython lets a thread keep the interpreter (``sys.getswitchinterval``).
"""

get_thread_ident: Any = get_original("_thread", "get_ident")
"""The operating system's thread: gevent's replacement of it answers with the greenlet."""

ATTACHED, IDLE, WORKING = 0, 1, 2
"""Who takes the messages: the view; nobody yet, and the first one starts a greenlet; that greenlet."""


class Turn:
    """The time between two polls of an event loop."""

    __slots__ = ("_began", "_iteration", "_thread", "ticks")

    ticks: Any
    """What counts the polls, as ``iteration``."""
    _iteration: int
    _began: float
    _thread: int

    def is_foreign(self) -> bool:
        """Whether the caller runs in another thread of the operating system than the loop."""
        ident: int = get_thread_ident()
        return ident != self._thread

    def is_over(self) -> bool:
        """Whether this turn has lasted for ``LASTS`` seconds. In another thread than the loop's it always has.

        The clock is read each time, the loop's counter only when that much time has passed. So a turn may last twice
        as long before it shows.
        """
        if get_thread_ident() != self._thread:
            return True
        now = monotonic()
        if now - self._began < LASTS:
            return False
        iteration = self.ticks.iteration
        if iteration == self._iteration:
            return True
        self._iteration, self._began = iteration, now
        return False


class TransportPath:
    """One read, one write, and the outbox."""

    __slots__ = (
        "_buffer",
        "_channel",
        "_flush_due",
        "_outbox",
        "_owner",
        "_tick",
        "_turn",
        "_window",
        "bytes_received",
        "bytes_sent",
        "outbox_size",
    )

    _channel: Any
    _turn: Any
    _owner: Any
    _buffer: bytearray
    _window: Any
    _outbox: list[Any]
    _flush_due: bool
    _tick: int
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

    def write(self, data: bytes) -> None:
        """Send a frame without waiting.

        One that finds the outbox empty goes to the kernel at once; those that follow in the same turn of the loop are
        joined and leave together when it ends.
        """
        tick = self._turn.ticks.iteration
        if self.outbox_size or tick == self._tick:
            self.queue(data)
            return
        self._tick = tick
        size = len(data)
        self.bytes_sent += size
        try:
            sent = self._channel.send(data)
        except OSError as error:
            self._write_failed(data, error)
            return
        if sent != size:
            self._keep(data, sent)

    def queue(self, data: bytes) -> None:
        """Send a frame when the turn ends, because more is about to follow."""
        size = len(data)
        self.bytes_sent += size
        self._outbox.append(data)
        self.outbox_size += size
        if not self._flush_due:
            self._flush_later()

    # What is not common.

    def _read_failed(self, error: OSError) -> None:
        raise NotImplementedError

    def _lost(self) -> None:
        raise NotImplementedError

    def _write_failed(self, data: bytes, error: OSError) -> None:
        raise NotImplementedError

    def _keep(self, data: bytes, sent: int) -> None:
        raise NotImplementedError

    def _flush_later(self) -> None:
        raise NotImplementedError


class WebSocketPath:
    """One message in, one message out."""

    __slots__ = (
        "_engine",
        "_high_water",
        "_holds",
        "_hub",
        "_inbox",
        "_messages_received",
        "_messages_sent",
        "_open",
        "_paused",
        "_plain",
        "_reader",
        "_send_limit",
        "_stage",
        "_told",
        "_transport",
        "_turn",
    )

    _engine: Any
    _transport: Any
    _hub: Any
    _reader: Any
    _inbox: list[Message]
    _high_water: int
    _send_limit: int
    _messages_received: int
    _messages_sent: int
    _stage: int
    _open: bool
    _paused: bool
    _told: bool
    _holds: bool
    _turn: Any
    _plain: bool
    """Messages are sent as they are: the engine does not compress them."""

    def receive(self, timeout: float | None = None) -> Message | None:
        """The next message: ``str`` for text, ``bytes`` for binary. Waits for one, ``timeout`` seconds at the most.

        None, once, when the connection has ended; ConnectionClosed on a further call. TimeoutError when nothing came in
        time: the connection stays usable. RuntimeError when another greenlet is waiting here, after ``detach()``, and
        in another thread of the operating system.
        """
        if self._inbox and self._turn.is_over():
            self._give_way()  # before a message is taken: a caller that is cut off in its wait has lost none
        if not self._inbox or self._stage != ATTACHED:
            straight = timeout is None and self._open and self._reader is None and not self._holds
            if not straight or self._stage != ATTACHED or self._turn.is_foreign():
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

    def __iter__(self) -> WebSocketPath:
        """The messages until the connection ends, however it ends."""
        return self

    def __next__(self) -> Message:
        """The next message, as ``receive()`` gives it."""
        if self._told and not self._inbox:
            raise StopIteration
        message = self.receive()
        if message is None:
            raise StopIteration
        return message

    def send(self, message: Message, binary: bool | None = None) -> None:
        """Send a message: ``str`` as text, bytes as binary; ``binary`` says otherwise.

        Waits while more than ``send_high_water`` bytes wait for the peer to read. ConnectionClosed on an ended
        connection, and when the peer read nothing for ``send_timeout`` seconds. TypeError, ValueError: not a message.
        May be called in any thread of the operating system.
        """
        if self._turn.is_over():
            if self._turn.is_foreign():
                self._turn.call(self.send, message, binary)
                return
            self._give_way()
        if not self._open:
            self._check_open()
        transport = self._transport
        if transport.outbox_size > self._high_water:
            self._wait_writable(transport)
        frame = self._engine.encode(message, binary)
        self._messages_sent += 1
        if type(frame) is not bytes:
            transport.write_parts(frame)
        elif self._inbox:
            transport.queue(frame)  # the answer to a burst of which more waits
        else:
            transport.write(frame)

    def offer(self, message: Message | PreparedMessage) -> bool:
        """Send a message without ever waiting for the peer; False when the connection has ended.

        ``prepare()`` makes a message ready once for many connections; any other is encoded for this one alone. A peer
        with more than ``send_limit`` bytes unread is too slow for the rest: its connection ends with 1013. A greenlet
        that sends on one connection without a pause lets the loop run now and then. TypeError: not a message.
        """
        if self._turn.is_over():
            if self._turn.is_foreign():
                sent: bool = self._turn.call(self.offer, message)
                return sent
            self._give_way()
        if not self._open:
            return False
        if self._plain and type(message) is PreparedMessage:
            frame: Any = message.frame
        else:
            frame = self._engine.encode(message)
            if type(frame) is not bytes:
                frame = b"".join(frame)
        transport = self._transport
        if transport.outbox_size and transport.outbox_size + len(frame) > self._send_limit:
            self._too_slow()
            return False
        transport.write(frame)
        self._messages_sent += 1
        return True

    def _data_received(self, buffer: bytearray, size: int) -> None:
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
        reader = self._reader
        if reader is not None:
            if self._turn.is_over():
                self._wake_later()
            else:
                reader.switch()  # runs the view until it waits again: nothing may follow
        elif self._stage == IDLE:
            self._start_work()

    # What is not common.

    def _receive(self, timeout: float | None) -> Message | None:
        raise NotImplementedError

    def _give_way(self) -> None:
        raise NotImplementedError

    def _wake_later(self) -> None:
        raise NotImplementedError

    def _relax(self) -> None:
        raise NotImplementedError

    def _check_open(self) -> None:
        raise NotImplementedError

    def _wait_writable(self, transport: Any) -> None:
        raise NotImplementedError

    def _too_slow(self) -> None:
        raise NotImplementedError

    def _eventful(self, engine: Any, messages: list[Message]) -> None:
        raise NotImplementedError

    def _put(self, messages: list[Message]) -> None:
        raise NotImplementedError

    def _start_work(self) -> None:
        raise NotImplementedError


_in_c = load("gws_middleware.connection._fastpath")
if _in_c is not None:
    Turn = _in_c.Turn  # type: ignore[misc]
    TransportPath = _in_c.TransportPath  # type: ignore[misc]
    WebSocketPath = _in_c.WebSocketPath  # type: ignore[misc]
