"""A connection taken over from a server and used without waiting: plain (in C where that was built) or TLS.

Rule: each call does what it can at once. A send that would wait raises BlockingIOError, a read that would wait raises
that or SSLWantReadError; every other failure of the connection is another OSError.
"""

from __future__ import annotations

import _socket
import errno
import socket
import ssl
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

from ..native import load

__all__ = ["Channel", "PlainChannel", "check_peer", "give_up_silent", "plain_channel", "tls_channel"]


class Channel(Protocol):
    """What a transport needs of a non-blocking socket."""

    def fileno(self) -> int:
        """The descriptor; -1 once the channel is closed."""

    def recv_into(self, buffer: Any, /) -> int:
        """Read what has come, up to the size of a buffer.

        Returns:
            How many bytes were written to the buffer; 0 when the peer sends no more.

        Raises:
            BlockingIOError: Nothing has come.
            OSError: The connection is broken.

        """

    def send(self, data: Any, /) -> int:
        """Write what the kernel takes of a buffer.

        Returns:
            How many bytes that was.

        Raises:
            BlockingIOError: The kernel takes nothing.
            OSError: The connection is broken.

        """

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""

    def shutdown(self, how: int, /) -> None:
        """Shut down one direction, or both: ``socket.SHUT_RD``, ``SHUT_WR`` or ``SHUT_RDWR``."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        """Set a socket option that is a number."""


class PlainChannel(Channel, Protocol):
    """A channel without TLS: ``_channel.SocketChannel``, or the socket of the standard library."""

    def sendmsg(self, buffers: Sequence[Any], /) -> int:
        """Write what the kernel takes of several buffers, in order.

        Returns:
            How many bytes that was.

        Raises:
            BlockingIOError: The kernel takes nothing.
            OSError: The connection is broken, or the buffers are more than ``IOV_MAX``.

        """


_in_c = load("gws_middleware.connection._channel")


def plain_channel(sock: Any) -> PlainChannel:
    """Move the connection of a gevent or plain socket to a channel.

    The socket object is left without a descriptor (``detach()``), so nothing that its owner does later has an effect.

    Args:
        sock: A connected socket.

    """
    channel: PlainChannel
    if _in_c is not None:
        channel = _in_c.SocketChannel(sock.detach())
    else:
        family, kind, proto = sock.family, sock.type, sock.proto
        channel = plain = _socket.socket(family, kind, proto, fileno=sock.detach())
        plain.setblocking(False)
    try:
        # Without it a small frame would wait for the acknowledgement of the frame before it (Nagle's algorithm).
        channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        pass  # a Unix socket has no such option and needs none; or the peer has disconnected
    return channel


def tls_channel(sock: Any) -> Channel:
    """Use the connection of a gevent TLS socket.

    Its SSL object is bound to the socket object, so that object stays. A file object of it counts as a user, so the
    owner's ``close()`` does not close the descriptor before the channel does.

    Args:
        sock: A connected ``gevent.ssl.SSLSocket``.

    """
    keep_open = sock.makefile("rb", 0)
    sock.settimeout(0.0)
    if sock.family != getattr(socket, "AF_UNIX", None):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _TLS(sock, keep_open)


PROBE_AFTER, PROBE_EVERY, PROBES = 60, 15, 4
"""TCP keepalive where no pings are sent: seconds without data, seconds between two probes, probes without an answer."""


def give_up_silent(channel: Channel, ping_interval: float | None, ping_timeout: float | None, wait: float) -> None:
    """Let the kernel, too, end the connection of a peer that no longer answers, as far as the system can.

    With pings it does so when data stays unacknowledged for as long as a peer may be silent or may let ``send()`` wait
    (RFC 5482). Without pings nothing is sent regularly, so the kernel probes.

    Args:
        channel: The channel.
        ping_interval: Seconds between two pings; None where none are sent.
        ping_timeout: Seconds that a peer may take to answer; None for no limit.
        wait: Seconds that ``send()`` waits at most.

    """
    try:
        for level, option, value in _giving_up(ping_interval, ping_timeout, wait):
            channel.setsockopt(level, option, value)
    except OSError:
        pass  # a Unix socket has no such options and needs none; or the peer has disconnected


@lru_cache
def _giving_up(ping_interval: float | None, ping_timeout: float | None, wait: float) -> list[tuple[int, int, int]]:
    """Level, option and value of the options that this system has."""
    if ping_interval is not None:
        seconds = max(ping_interval + (ping_timeout or 0), wait)
        options = [(socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", min(int(seconds * 1000), 2**31 - 1))]
    else:
        options = [
            (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
            (socket.IPPROTO_TCP, "TCP_KEEPIDLE", PROBE_AFTER),
            (socket.IPPROTO_TCP, "TCP_KEEPINTVL", PROBE_EVERY),
            (socket.IPPROTO_TCP, "TCP_KEEPCNT", PROBES),
        ]
    return [(level, getattr(socket, name), value) for level, name, value in options if hasattr(socket, name)]


def check_peer(sock: Any) -> None:
    """Check that the peer of a gevent socket is connected, or that data of it is still unread.

    Raises:
        BrokenPipeError: The peer has disconnected.

    """
    try:
        disconnected = not sock._sock.recv(1, socket.MSG_PEEK)  # gevent's own recv() would wait
    except BlockingIOError:
        disconnected = False
    if disconnected:
        raise BrokenPipeError(errno.EPIPE, "the peer has disconnected")


RECORD = 2**14
"""Bytes of data in a full record of TLS (RFC 8446 5.1)."""


class _TLS:
    """A gevent TLS socket, used without waiting."""

    __slots__ = ("_keep_open", "_read", "_sock", "_write")

    def __init__(self, sock: Any, keep_open: Any) -> None:
        self._sock, self._keep_open = sock, keep_open
        self._read, self._write = sock._sslobj.read, sock._sslobj.write

    def recv_into(self, buffer: Any, /) -> int:
        size: int = len(buffer)
        done: int = self._read(size, buffer)
        # Where a record is full another one follows, which need not wait for the event loop to poll. The descriptor
        # does not become readable for what is left of a record, so none is read that might not fit.
        while done and not done % RECORD and size - done >= RECORD:
            try:
                more: int = self._read(size - done, memoryview(buffer)[done:])
            except OSError:  # nothing has come yet; or the connection is broken, and the next read says so
                break
            if not more:
                break
            done += more
        return done

    def fileno(self) -> int:
        number: int = self._sock.fileno()
        return number

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        self._sock.setsockopt(level, option, value)

    def pending(self) -> int:
        """Bytes that are decrypted already: the descriptor does not become readable for them."""
        count: int = self._sock.pending()
        return count

    def send(self, data: Any, /) -> int:
        try:
            sent: int = self._write(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None
        return sent

    def shutdown(self, how: int, /) -> None:
        # close_notify says that the data is complete (RFC 8446 6.1). Both directions at once is an abort, which must
        # not look like that.
        if how == socket.SHUT_WR:
            try:
                self._sock.unwrap()  # the peer's close_notify is not awaited
            except (OSError, ValueError):
                pass
        self._sock.shutdown(how)

    def close(self) -> None:
        # gevent's close() waits for the event loop, which does not run in a forked child.
        number = self._sock.detach()
        if number >= 0:
            _socket.close(number)
        self._keep_open.close()
