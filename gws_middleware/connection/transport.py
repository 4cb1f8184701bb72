"""One channel on gevent's loop: event-driven reads, a batched outbox, half-close and drain.

Rule 1: only the outbox writes to the socket, so frames of concurrent senders never interleave.
Rule 2: what runs in the hub says so and never blocks.
Rule 3: ``_connection_lost()`` of the owner is called exactly once, after the descriptor and the watchers were closed.
"""

from __future__ import annotations

import socket
import ssl
import time
import weakref
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from gevent import get_hub, getcurrent

from .channel import Channel
from .fastpath import FastTransport, Owner
from .turns import turns_of

__all__ = ["Transport"]

READ_SIZE = 65536 + 14
"""Bytes of one read: a message of 64 KiB and its header (RFC 6455 5.2). It also bounds by how much the inbox can
overshoot.
"""
BIG_READ = 2**19
"""Bytes of one read that lies inside one big frame, so that no inbox can overshoot by it: fewer wake-ups."""
JOIN_UP_TO = 131072
"""Bytes of outbox that are cheaper to join than to hand over as a vector."""
VECTOR = 512
"""Buffers of one vectored write (IOV_MAX is 1024 on Linux)."""
DRAIN_LIMIT = 2**20
"""Bytes that are read and dropped after a half-close before a peer that keeps sending is cut."""

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class _NoOwner:
    """The owner of a transport whose socket is closed: so the two do not refer to each other any more."""

    def _data_received(self, buffer: bytearray, size: int) -> None: ...
    def _connection_lost(self) -> None: ...
    def _writable(self) -> None: ...


_NO_OWNER = _NoOwner()


class _Drain:
    """The owner while the connection is being closed: what still comes is read and dropped."""

    __slots__ = ("_dropped", "_owner", "_transport")

    def __init__(self, transport: Transport, owner: Owner) -> None:
        self._transport, self._owner = transport, owner
        self._dropped = 0

    def _data_received(self, buffer: bytearray, size: int) -> None:
        """Runs in the hub."""
        self._dropped += size
        if self._dropped > DRAIN_LIMIT:
            self._transport._lost()

    def _writable(self) -> None:
        """No sender waits for it any more."""

    def _connection_lost(self) -> None:
        """Runs in the hub."""
        self._owner._connection_lost()


class _Closed:
    """The channel of a transport whose socket is closed: a late write fails as one to a peer that has disconnected."""

    def send(self, data: Any) -> int:
        raise BrokenPipeError

    def shutdown(self, how: int) -> None: ...
    def close(self) -> None: ...


_CLOSED: Any = _Closed()


class _Buffers:
    """The read buffers that all connections of one hub share: reads never overlap in one thread."""

    def __init__(self) -> None:
        self.usual = bytearray(READ_SIZE)

    @cached_property
    def big(self) -> bytearray:
        """For what is inside of a big frame. Made for the first of those."""
        return bytearray(BIG_READ)


_buffers: weakref.WeakKeyDictionary[Any, _Buffers] = weakref.WeakKeyDictionary()


def _buffers_of(hub: Any) -> _Buffers:
    buffers = _buffers.get(hub)
    if buffers is None:
        buffers = _buffers[hub] = _Buffers()
    return buffers


class Transport(FastTransport):
    """Carries bytes between a socket and its ``owner`` without ever waiting."""

    __slots__ = (
        "_buffers",
        "_deadline",
        "_finish",
        "_hub",
        "_loop",
        "_reader",
        "_reading",
        "_writer",
        "blocked_since",
        "broken",
    )

    def __init__(self, channel: Channel, owner: Owner) -> None:
        self._channel = channel
        self._owner = owner
        self._hub = hub = get_hub()
        self._loop = loop = hub.loop
        self._turn = turns_of(hub)
        self._buffers = _buffers_of(hub)
        self._buffer = self._window = self._buffers.usual
        self._outbox = []
        self.outbox_size = 0
        """Bytes that wait for the peer to read."""
        self.bytes_received = 0
        self.bytes_sent = 0
        """Bytes that the application has had sent, those in the outbox included."""
        self.broken = False
        """The kernel refused a write; the reader finds out how the connection ended."""
        self.blocked_since: float | None = None
        """Since when the kernel has taken less than it was offered, on time.monotonic()'s clock; None: it takes all."""
        self._write_turn = -1
        self._flush_due = False
        self._finish: str | None = None
        self._deadline: Any = None
        self._writer: Any = None
        self._reader = loop.io(channel.fileno(), 1)
        self._reading = False

    # --- reading ---------------------------------------------------------------------------------------------------

    def start(self, early: bytes = b"") -> None:
        """Begin to read; ``early`` is what the server had read already."""
        if early:
            self._loop.run_callback(self._deliver_early, bytearray(early))
        else:
            self.resume()

    def _deliver_early(self, early: bytearray) -> None:
        """Runs in the hub."""
        if not self.closed:
            self.bytes_received += len(early)
            self.resume()
            self._owner._data_received(early, len(early))

    def resume(self) -> None:
        """Go on reading after ``pause()``."""
        if not self._reading and not self.closed:
            self._reading = True
            self._reader.start(self._readable)
            pending = getattr(self._channel, "pending", None)
            if pending is not None and pending():
                self._loop.run_callback(self._read_pending)

    def _read_pending(self) -> None:
        """Runs in the hub."""
        if self._reading:
            before = self.bytes_received
            self._readable()
            if self.broken and self._reading and self.bytes_received != before:
                self._loop.run_callback(self._read_pending)

    def expect(self, size: int) -> None:
        """So many bytes of a frame are still to come: take bigger steps, as long as none can reach beyond it."""
        if size > READ_SIZE:
            self._buffer = self._buffers.big
            self._window = memoryview(self._buffer)[:size]
        else:
            self._buffer = self._window = self._buffers.usual

    def pause(self) -> None:
        """Stop reading: TCP holds the peer back."""
        if self._reading:
            self._reading = False
            self._reader.stop()

    def _read_failed(self, error: OSError) -> None:
        """Runs in the hub."""
        if not isinstance(error, _WOULD_BLOCK):
            self._lost()

    # --- writing ---------------------------------------------------------------------------------------------------

    def _write_failed(self, data: bytes, error: OSError) -> None:
        if isinstance(error, _WOULD_BLOCK):
            self._keep(data, 0)
        else:
            self._break()

    def _keep(self, data: bytes, sent: int) -> None:
        """The outbox was empty, and the kernel took the first ``sent`` bytes only."""
        self._outbox.append(memoryview(data)[sent:])
        self.outbox_size = len(data) - sent
        self._watch_writable()

    def _flush_later(self) -> None:
        if self.broken or self.closed:
            self._outbox.clear()
            self.outbox_size = 0
        elif self._turn.is_over():
            self.flush()  # a view that computes, or a call that blocks: the end of this turn may be far away
        elif self._writer is None:
            self._loop.run_callback(self._end_of_turn)
            self._flush_due = True

    def write_parts(self, parts: Sequence[bytes]) -> None:
        """Send a big frame in parts: they join the outbox uncopied, and what the kernel takes goes at once."""
        if self.broken or self.closed:
            return
        size = sum(map(len, parts))
        self.bytes_sent += size
        self._outbox.extend(parts)
        self.outbox_size += size
        self.flush()

    def flush(self) -> None:
        """Hand to the kernel what it takes now, without waiting for the turn to end."""
        if self._writer is None and self._outbox:
            self._write_out()

    def _end_of_turn(self) -> None:
        """Runs in the hub."""
        self._flush_due = False
        self.flush()

    def _write_out(self) -> None:
        """Write until the outbox is empty or the kernel takes no more."""
        outbox = self._outbox
        try:
            while outbox:
                if len(outbox) == 1:
                    sent, size = self._channel.send(outbox[0]), self.outbox_size
                elif self.outbox_size <= JOIN_UP_TO:
                    outbox[:] = [b"".join(outbox)]
                    sent, size = self._channel.send(outbox[0]), self.outbox_size
                else:
                    sent, size = self._send_many(outbox)
                self.outbox_size -= sent
                _drop(outbox, sent)
                if sent < size:
                    break
        except _WOULD_BLOCK:
            pass
        except OSError:
            self._break()
            return
        if outbox:
            self._watch_writable()
            return
        self.outbox_size = 0  # an exception between two lines may have made the sum wrong
        if self._finish is not None:
            self._finish_now()

    def _send_many(self, outbox: list[Any]) -> tuple[int, int]:
        """The bytes taken, and the bytes offered."""
        if hasattr(self._channel, "sendmsg"):
            vector = outbox[:VECTOR]
            return self._channel.sendmsg(vector), sum(map(len, vector))
        return self._channel.send(outbox[0]), len(outbox[0])

    def _watch_writable(self) -> None:
        if self._writer is None:
            self.blocked_since = time.monotonic()
            self._writer = self._loop.io(self._channel.fileno(), 2)
            self._writer.start(self._on_writable)

    def _on_writable(self) -> None:
        """Runs in the hub."""
        self._write_out()
        if not self._outbox and self._writer is not None:
            self._stop_writer()
            self._owner._writable()

    def _stop_writer(self) -> None:
        if self._writer is not None:
            self._writer.stop()
            self._writer.close()
            self._writer = self.blocked_since = None

    def _break(self) -> None:
        """The kernel has refused a write. What the peer sent before may still be unread, its close frame
        too: the reader goes on to the end.
        """
        self.broken = True
        self._outbox.clear()
        self.outbox_size = 0
        self._stop_writer()
        if self._finish is not None:
            self._loop.run_callback(self._lost)
        else:
            # A loop on libuv reports an error of the socket once, and this write may have been its report.
            self._loop.run_callback(self._read_pending)
        self._owner._writable()

    # --- the end ---------------------------------------------------------------------------------------------------

    def set_deadline(self, seconds: float) -> None:
        """Cut the connection in ``seconds``, later as long as the peer takes what waits in the outbox."""
        if self._deadline is None and not self.closed:
            self._deadline = self._loop.timer(seconds)
            # The loop's clock stands still while a view computes: the seconds count from now.
            self._deadline.start(self._on_deadline, seconds, self.outbox_size, update=True)

    def _on_deadline(self, seconds: float, outbox_size: int) -> None:
        """Runs in the hub."""
        self._deadline.close()
        self._deadline = None
        if self.outbox_size < outbox_size:
            self.set_deadline(seconds)
        else:
            self._lost()

    def close(self, linger: bool = False) -> None:
        """Close as soon as the outbox is empty. ``linger``: the peer may be sending still, and closing on unread
        bytes makes the kernel reset the connection, which can cost the peer our last frames; so half-close, and read
        and drop until the peer closes too (RFC 6455 7.1.1).
        """
        if self.closed or self._finish is not None:
            return
        self._finish = "linger" if linger else "close"
        self._owner = _Drain(self, self._owner)
        self.resume()
        self.flush()
        if not self._outbox and not self.closed:
            self._finish_now()

    def _finish_now(self) -> None:
        """The outbox is empty and the end was asked for."""
        if self._finish == "close":
            self._in_hub(self._lost)
        elif self._finish == "linger":
            self._finish = "drain"
            try:
                self._channel.shutdown(socket.SHUT_WR)
            except OSError:
                self._in_hub(self._lost)

    def abort(self) -> None:
        """Cut the connection now, whatever waits in the outbox."""
        if not self.closed:
            self._outbox.clear()
            self._in_hub(self._lost)

    def _in_hub(self, callback: Any) -> None:
        if getcurrent() is self._hub:
            callback()
        else:
            self._loop.run_callback(callback)

    def _lost(self) -> None:
        """Runs in the hub. Releases all that the transport holds."""
        try:
            if not self.closed:
                self._end()
        except BaseException:  # e.g. of a signal handler: what it has interrupted is done once more
            self._loop.run_callback(self._end)
            raise

    def _end(self) -> None:
        """Runs in the hub. A second call does what the first one has not done."""
        try:
            # A forked child may have the descriptor too: closing ours would not end the connection.
            self._channel.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.drop()
        self._owner._connection_lost()
        self._owner = _NO_OWNER

    def drop(self) -> None:
        """Close the descriptor and the watchers, without a byte to the peer or a call of the owner: all that a forked
        child may do with a connection of its parent's.
        """
        self._reading = False
        self._reader.stop()
        self._reader.close()
        self._stop_writer()
        if self._deadline is not None:
            self._deadline.stop()
            self._deadline.close()
            self._deadline = None
        self._outbox.clear()
        self.outbox_size = 0
        try:
            self._channel.close()
        except OSError:
            pass
        self._channel = _CLOSED

    @property
    def closed(self) -> bool:
        """Whether the socket is closed."""
        return self._channel is _CLOSED


def _drop(outbox: list[Any], sent: int) -> None:
    """Take the first ``sent`` bytes off the outbox."""
    whole = 0
    for part in outbox:
        if sent < len(part):
            break
        sent -= len(part)
        whole += 1
    del outbox[:whole]
    if sent:
        outbox[0] = memoryview(outbox[0])[sent:]
