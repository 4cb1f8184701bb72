"""A connection taken over from a server and used without waiting: plain (in C where that was built) or TLS.

Rule: each call does what it can at once. A send that would wait raises BlockingIOError, a read that would wait that or
SSLWantReadError; every other fault of the connection is an OSError.
"""

from __future__ import annotations

import _socket
import errno
import socket
from functools import lru_cache
from typing import Any, Protocol

from ..native import load

__all__ = ["Channel", "check_peer", "give_up_silent", "plain_channel", "tls_channel"]


class Channel(Protocol):
    """What a transport needs of a non-blocking socket."""

    def fileno(self) -> int: ...
    def recv_into(self, buffer: Any, /) -> int: ...
    def send(self, data: Any, /) -> int: ...
    def close(self) -> None: ...
    def shutdown(self, how: int, /) -> None: ...
    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...


_in_c = load("gws_middleware.connection._channel")


def plain_channel(sock: Any) -> Channel:
    """Move the connection of a gevent or plain socket to an object of ours: the old one is left empty
    (``detach()``), so that whatever its owner does to it later touches nothing.
    """
    family, kind, proto = sock.family, sock.type, sock.proto
    if family != getattr(socket, "AF_UNIX", None):
        # A lone small frame must not wait for the acknowledgement of the one before it.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if _in_c is not None:
        in_c: Channel = _in_c.SocketChannel(sock.detach())
        return in_c
    channel = _socket.socket(family, kind, proto, fileno=sock.detach())
    channel.setblocking(False)
    return channel


def tls_channel(sock: Any) -> Channel:
    """The connection of a TLS socket. Its SSL object is bound to the socket object, so that stays; the file object
    counts as a user of it, which makes its owner's ``close()`` wait for ours.
    """
    keep_open = sock.makefile("rb", 0)
    sock.settimeout(0.0)
    if sock.family != getattr(socket, "AF_UNIX", None):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _TLS(sock, keep_open)


PROBE_AFTER, PROBE_EVERY, PROBES = 60, 15, 4
"""TCP keepalive, where no pings are sent: seconds of silence, seconds between two probes, probes without an answer."""


def give_up_silent(channel: Channel, ping_interval: float | None, ping_timeout: float | None, wait: float) -> None:
    """Let the kernel too give up a peer that has vanished, as far as the system can: when what was sent stays
    unacknowledged for as long as a peer may be silent, or may let ``send()`` wait (RFC 5482); where nothing is sent by
    itself, by probes.
    """
    try:
        for level, option, value in _giving_up(ping_interval, ping_timeout, wait):
            channel.setsockopt(level, option, value)
    except OSError:
        pass  # a unix socket has neither, and needs neither; or the peer has gone


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
    """BrokenPipeError when the peer of a socket of gevent's has disconnected, and nothing that it has sent is still to
    be read.
    """
    try:
        left = not sock._sock.recv(1, socket.MSG_PEEK)  # gevent's own recv() would wait
    except BlockingIOError:
        left = False
    if left:
        raise BrokenPipeError(errno.EPIPE, "the peer has disconnected")


class _TLS:
    """A TLS socket of gevent's, used without waiting."""

    __slots__ = ("_keep_open", "_sock", "recv_into")

    def __init__(self, sock: Any, keep_open: Any) -> None:
        self._sock, self._keep_open = sock, keep_open
        self.recv_into = sock.recv_into

    def fileno(self) -> int:
        number: int = self._sock.fileno()
        return number

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self._sock.setsockopt(level, option, value)

    def pending(self) -> int:
        """Bytes that are decrypted already: no watcher will tell of them."""
        count: int = self._sock.pending()
        return count

    def send(self, data: Any) -> int:
        sent: int = self._sock.send(data)
        if not sent and len(data):
            raise BlockingIOError  # gevent's way to say it at timeout 0
        return sent

    def shutdown(self, how: int) -> None:
        if how == socket.SHUT_WR:  # both ways is a cut, which must not look like an end that was meant
            try:
                self._sock.unwrap()  # sends close_notify; the peer's own is not waited for
            except (OSError, ValueError):
                pass
        self._sock.shutdown(how)

    def close(self) -> None:
        # gevent's own ways wait for the loop, which e.g. a forked child need not run.
        number = self._sock.detach()
        if number >= 0:
            _socket.close(number)
        self._keep_open.close()
