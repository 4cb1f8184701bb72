"""What every message costs, and nothing else: the way from the socket to ``receive()`` and from ``send()`` back.

Two base classes, of ``Transport`` and of ``WebSocket``, each here and once more in C (``_shortpath.c``), which answers
the same and is chosen as ``masking`` chooses the codec. Rule: whatever is not the common case is a method of the
subclass, which exists once.
"""

from __future__ import annotations

from typing import Any

from gevent import getcurrent

from .protocol.masking import extension
from .typing import Message

__all__ = ["ATTACHED", "IDLE", "WORKING", "TransportPath", "WebSocketPath"]

ATTACHED, IDLE, WORKING = 0, 1, 2
"""Who takes the messages: the view; nobody yet, and the first one starts a greenlet; that greenlet."""


class TransportPath:
    """One read, one write, and the outbox behind it."""

    __slots__ = (
        "_buffer",
        "_channel",
        "_flush_due",
        "_loop",
        "_outbox",
        "_owner",
        "_tick",
        "_window",
        "bytes_received",
        "bytes_sent",
        "outbox_size",
    )

    _channel: Any
    _loop: Any
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
            self._owner.data_received(self._buffer, size)
        else:
            self._lost()

    def write(self, data: bytes) -> None:
        """Send a frame without waiting.

        One that finds the outbox empty goes to the kernel at once; those that follow in the same tick of the loop are
        joined and leave together when the tick ends.
        """
        tick = self._loop.iteration
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
        """Send a frame when the tick ends, because more is about to follow."""
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
        "_reader",
        "_send_limit",
        "_stage",
        "_told",
        "_transport",
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

    def receive(self, timeout: float | None = None) -> Message | None:
        """The next message: ``str`` for text, ``bytes`` for binary. Waits for one, ``timeout`` seconds at the most.

        None, once, when the connection has ended; ConnectionClosed on a further call. TimeoutError when nothing came in
        time: the connection stays usable. RuntimeError when another greenlet is waiting here, or after ``detach()``.
        """
        if not self._inbox or self._stage != ATTACHED:
            straight = timeout is None and self._open and self._reader is None and not self._holds
            if not straight or self._stage != ATTACHED:
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
        """
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

    def offer(self, frame: bytes) -> bool:
        """Send one ready frame (``prepare()``) without ever waiting; False when the connection has ended.

        A peer with more than ``send_limit`` bytes unread is too slow for the rest: its connection ends with 1013.
        """
        if not self._open:
            return False
        transport = self._transport
        if transport.outbox_size and transport.outbox_size + len(frame) > self._send_limit:
            self._too_slow()
            return False
        transport.write(frame)
        self._messages_sent += 1
        return True

    def data_received(self, buffer: bytearray, size: int) -> None:
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
            reader.switch()  # runs the view until it waits again: nothing may follow
        elif self._stage == IDLE:
            self._start_work()

    # What is not common.

    def _receive(self, timeout: float | None) -> Message | None:
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


_in_c = extension("gws_middleware._shortpath")
if _in_c is not None:
    TransportPath = _in_c.TransportPath  # type: ignore[misc]
    WebSocketPath = _in_c.WebSocketPath  # type: ignore[misc]
