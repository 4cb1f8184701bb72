"""Connections of the load generator: opened, driven and closed; every byte that comes back is compared.

A lane keeps one burst (``in_flight`` frames, sent with one system call) and the exact bytes that must answer
it. A reply is read into a buffer of exactly that size: with too few bytes the run stops for want of a reply,
other bytes fail the comparison, surplus bytes fail the next one, or the closing handshake. Pings are answered.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from .frames import (
    TEXT,
    Payload,
    WrongReplyError,
    check_close,
    check_upgrade,
    client_close,
    client_frame,
    server_frame,
    take_pings,
    upgrade_request,
)

__all__ = [
    "REPLY_TIMEOUT",
    "Address",
    "Lane",
    "TLSLane",
    "answer",
    "answer_pings",
    "close_all",
    "connect",
    "echo_lanes",
    "encrypted",
    "open_all",
    "opened",
    "stuck",
]

Address: TypeAlias = tuple[str, int]

REPLY_TIMEOUT = 30.0
"""Seconds without a byte from a server after which it has failed."""

_TOGETHER = 64
"""Handshakes in progress at a time while many connections are opened."""
PORTS = 20_000
"""Connections from one address."""
_SMALL, _LARGE, _MESSAGES = 4096, 32768, 24
"""Bytes of a small buffer, bytes of a large message, and how many of those are more than a kernel takes for a peer with
such a buffer, and less than the server stores (1 MiB).
"""


class Lane:
    """One open connection, the burst that it sends again and again and the reply that must come back."""

    __slots__ = (
        "_buffer",
        "_expected",
        "_free",
        "_recv_into",
        "_request",
        "_unsent",
        "_view",
        "fd",
        "messages",
        "sock",
    )

    def __init__(self, sock: socket.socket, request: bytes, expected: bytes, messages: int = 1) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.fd = sock.fileno()
        self.messages = messages
        self._request = memoryview(request)
        self._unsent = self._request[:0]
        self._expected = expected
        self._buffer = bytearray(len(expected))
        self._view = self._free = memoryview(self._buffer)
        self._recv_into = sock.recv_into

    def send(self) -> bool:
        """Start a burst. True when the kernel took all of it."""
        self._unsent = self._request
        return self.flush()

    def flush(self) -> bool:
        """Pass the rest of the burst to the kernel, as much as it takes. True when nothing remains."""
        try:
            sent = self.sock.send(self._unsent)
        except BlockingIOError:
            return False
        self._unsent = self._unsent[sent:]
        return not self._unsent

    def receive(self) -> bool:
        """Read once. True when the burst has been answered in full and every byte was right."""
        size = self._recv_into(self._free)
        if size == 0:
            raise WrongReplyError("the server closed the connection instead of replying")
        if size < len(self._free):
            self._free = self._free[size:]
            return False
        self._free = self._view
        if self._buffer == self._expected:
            return True
        received = answer_pings(self.sock, bytes(self._buffer), self._expected)
        self._view[: len(received)] = received
        self._free = self._view[len(received) :]
        return False


class TLSLane(Lane):
    """The same over TLS, where one call reads or writes one record (16 KiB) at most, and a record may have no data."""

    __slots__ = ()

    def flush(self) -> bool:
        try:
            while self._unsent:
                self._unsent = self._unsent[self.sock.send(self._unsent) :]
        except ssl.SSLWantWriteError:
            return False
        return True

    def receive(self) -> bool:
        try:
            while not super().receive():
                pass
        except ssl.SSLWantReadError:
            return False
        return True


def answer_pings(sock: socket.socket, received: bytes, expected: bytes) -> bytes:
    """Answer the pings in what has come instead of the expected bytes, and return the rest.

    Raises:
        WrongReplyError: There are none.

    """
    rest, pongs = take_pings(received)
    if not pongs:
        pairs = enumerate(zip(received, expected, strict=False))
        at = next((index for index, (a, b) in pairs if a != b), min(len(received), len(expected)))
        window = slice(max(0, at - 4), at + 12)
        text = f"wrong reply at byte {at} of {len(expected)}: {received[window]!r}, not {expected[window]!r}"
        raise WrongReplyError(text)
    sock.sendall(pongs)
    return rest


def echo_lanes(sockets: Sequence[socket.socket], payload: Payload, in_flight: int = 1) -> list[Lane]:
    """A lane on each socket that sends ``in_flight`` messages at a time and expects their echoes."""
    data = payload.build()
    expected = server_frame(payload.opcode, data) * in_flight
    return [
        (TLSLane if isinstance(sock, ssl.SSLSocket) else Lane)(
            sock, client_frame(payload.opcode, data, client) * in_flight, expected, in_flight
        )
        for client, sock in enumerate(sockets)
    ]


def connect(address: Address, receive_buffer: int | None = None, source: str = "") -> socket.socket:
    """A TCP connection to a server on this machine; ``receive_buffer`` is that of the kernel, in bytes."""
    sock = socket.socket()
    if receive_buffer is not None:  # before connect(), so that the window is small
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(REPLY_TIMEOUT)
    try:
        if source:
            sock.bind((source, 0))
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def encrypted(sock: socket.socket, tls: ssl.SSLContext, *, wait: bool = True) -> ssl.SSLSocket:
    """The same connection over TLS, in a new session; without ``wait`` the handshake is left to the caller."""
    return tls.wrap_socket(sock, do_handshake_on_connect=wait, server_hostname=sock.getpeername()[0])


def open_all(
    address: Address,
    path: str,
    count: int,
    receive_buffer: int | None = None,
    tls: ssl.SSLContext | None = None,
    offer: str = "",
    each: Callable[[list[socket.socket]], None] | None = None,
) -> list[socket.socket]:
    """Open ``count`` WebSockets, some at a time; each 101 is checked. ``each`` is called with those that are open."""
    request = upgrade_request("{}:{}".format(*address), path, offer)
    sockets: list[socket.socket] = []
    try:
        for size in _portions(count):
            numbers = range(len(sockets), len(sockets) + size)
            for number in numbers:
                sockets.append(connect(address, receive_buffer, _source(number) if count > PORTS else ""))
            if tls is not None:
                for number in numbers:
                    sockets[number] = encrypted(sockets[number], tls)
            newest = sockets[-size:]
            for sock in newest:
                sock.sendall(request)
            for sock in newest:
                check_upgrade(_read_head(sock), offer)
            if each is not None:
                each(newest)
    except BaseException:
        _discard(sockets)
        raise
    return sockets


def _source(number: int) -> str:
    """The address of a connection: one has ports for some 28,000."""
    return f"127.0.0.{2 + number // PORTS}"


def _portions(count: int) -> Iterator[int]:
    for start in range(0, count, _TOGETHER):
        yield min(_TOGETHER, count - start)


def _read_head(sock: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        data = sock.recv(65536)
        if not data:
            break
        head += data
    return head


def answer(address: Address, path: str, offer: str) -> bytes:
    """The head of the response to one more handshake, in which that extension is offered."""
    with connect(address) as sock:
        sock.sendall(upgrade_request("{}:{}".format(*address), path, offer))
        head = _read_head(sock)
        check_upgrade(head, offer)
        close_all([sock])
    return head


@contextmanager
def opened(
    address: Address, path: str, count: int, tls: ssl.SSLContext | None = None, offer: str = ""
) -> Iterator[list[socket.socket]]:
    """``count`` open WebSockets for a ``with`` block; closed cleanly unless the block has failed."""
    sockets = open_all(address, path, count, tls=tls, offer=offer)
    try:
        yield sockets
        close_all(sockets)
    finally:
        _discard(sockets)


@contextmanager
def stuck(address: Address, path: str, count: int) -> Iterator[None]:
    """``count`` WebSockets for a ``with`` block that read nothing, and to which more was sent than the kernel takes.

    ``path`` sends each message to all of them. At the end it is checked that the server has kept all of it.
    """
    sockets = open_all(address, path, count, _SMALL)
    message, size = client_frame(TEXT, b"x" * _LARGE), len(server_frame(TEXT, b"x" * _LARGE)) * _MESSAGES
    try:
        for sock in sockets[:1]:
            try:
                sock.sendall(message * _MESSAGES)
            except ConnectionError:
                raise _closed_early(size) from None
        yield
        for sock in sockets:
            _read_at_least(sock, size)
    finally:
        _discard(sockets)


def _read_at_least(sock: socket.socket, size: int) -> None:
    while size > 0:
        try:
            data = sock.recv(1 << 20)
        except ConnectionError:
            data = b""
        if not data:
            raise _closed_early(size)
        size -= len(data)


def _closed_early(missing: int) -> WrongReplyError:
    return WrongReplyError(f"the server closed a connection that still had {missing} bytes to read")


def close_all(sockets: Sequence[socket.socket]) -> None:
    """Close cleanly. Nothing may come but the answer to our close frame and the end of the connection."""
    for sock in sockets:
        sock.settimeout(REPLY_TIMEOUT)
        sock.sendall(client_close())
    for sock in sockets:
        check_close(_read_rest(sock))


def _read_rest(sock: socket.socket) -> bytes:
    rest = b""
    while data := sock.recv(65536):
        rest += data
    return rest


def _discard(sockets: Sequence[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
