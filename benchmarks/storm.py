"""The load of a storm: very many clients connect at once, while plain HTTP requests are sent at a steady rate."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from contextlib import AbstractContextManager
from time import perf_counter
from types import TracebackType

from .frames import WrongReplyError, check_upgrade, upgrade_request
from .lanes import Address, answer_pings

__all__ = ["Clients"]

IN_FLIGHT = 4000
"""Clients that have begun and are not yet served, at most: the queue of a listening socket takes 4,096."""
BURST = 64
"""Clients that begin, and events that are handled, before it is checked whether a plain request is due."""
ADDRESSES = 4
"""Loopback addresses from which the clients connect."""
WITHIN = 120.0
"""Seconds after which a server has failed."""
INTERVAL = 0.02
"""Seconds between two plain requests."""


class Clients(AbstractContextManager["Clients"]):
    """The connections of a storm, open until the end of a ``with`` block.

    A client sends ``request`` after its handshake, and is served when ``expected`` has come.
    """

    def __init__(self, address: Address, path: str, request: bytes, expected: bytes) -> None:
        host = "{}:{}".format(*address)
        self._address = address
        self._client = upgrade_request(host, path), request, expected
        self._plain = f"GET /plain HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        self._poll = select.epoll()
        self._busy: dict[int, _Connection] = {}
        self._served: list[_Connection] = []
        self.seconds = 0.0
        """Until all clients were served."""
        self.delays: list[float] = []
        """Seconds from the time at which each plain request was due to the end of its response."""

    def run(self, count: int) -> int:
        """Serve that many clients, and send a plain request every ``INTERVAL`` until then. Returns the number."""
        begun = 0
        begin = due = perf_counter()
        while self._busy or len(self._served) < count:
            now = perf_counter()
            if len(self._served) < count and now >= due:
                self._add(_Plain(self._connect(0), self._plain, due))
                due += INTERVAL
            room = min(count - begun, IN_FLIGHT - (begun - len(self._served)), BURST)
            for number in range(begun, begun + room):
                self._add(_Client(self._connect(number), *self._client))
            begun += room
            for fd, events in self._poll.poll(0 if room else max(0.001, due - now), BURST):
                self._handle(fd, events)
            if not self.seconds and len(self._served) == count:
                self.seconds = perf_counter() - begin
            if now > begin + WITHIN:
                raise WrongReplyError(f"{len(self._served)} of {count} clients were served in {WITHIN:g} s")
        return count

    def _connect(self, number: int) -> socket.socket:
        """Begin to connect. Nothing waits: the kernel reports when the connection can be written to."""
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Closed by a RST: 10,000 ports that are in TIME_WAIT after each storm would make the next ones search for one.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            sock.bind((f"127.0.0.{2 + number % ADDRESSES}", 0))
            if (error := sock.connect_ex(self._address)) not in (0, errno.EINPROGRESS):
                raise OSError(error, os.strerror(error))
        except BaseException:
            sock.close()
            raise
        return sock

    def _add(self, connection: _Connection) -> None:
        """Send the request at once, because servers close connections that wait before they send one."""
        fd = connection.sock.fileno()
        self._busy[fd] = connection
        try:
            connection.begin()
        except BlockingIOError:  # the kernel has not connected yet: the queue of the server is full
            self._poll.register(fd, select.EPOLLOUT)
        else:
            self._poll.register(fd, select.EPOLLIN)

    def _handle(self, fd: int, events: int) -> None:
        connection = self._busy[fd]
        if events == select.EPOLLOUT:
            connection.begin()
            self._poll.modify(fd, select.EPOLLIN)
        elif connection.receive():
            self._poll.unregister(fd)
            del self._busy[fd]
            if isinstance(connection, _Plain):
                self.delays.append(perf_counter() - connection.due)
                connection.sock.close()
            else:
                self._served.append(connection)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._poll.close()
        for connection in (*self._busy.values(), *self._served):
            connection.sock.close()


class _Connection:
    """A connection that sends ``request`` first; ``received`` is what has come since it has sent something."""

    def __init__(self, sock: socket.socket, request: bytes) -> None:
        self.sock = sock
        self.received = b""
        self._request = request

    def begin(self) -> None:
        """Send the request, as soon as the kernel has connected."""
        self.sock.sendall(self._request)

    def receive(self) -> bool:
        """Read once. True at the end of the exchange, when all that has come was right."""
        data = self.sock.recv(4096)
        self.received += data
        return self.check(ended=not data)

    def check(self, ended: bool) -> bool:
        raise NotImplementedError


class _Plain(_Connection):
    """A plain HTTP request, which was due at a time of the clock of this module."""

    def __init__(self, sock: socket.socket, request: bytes, due: float) -> None:
        super().__init__(sock, request)
        self.due = due

    def check(self, ended: bool) -> bool:
        if ended and not (self.received.startswith(b"HTTP/1.1 200 ") and self.received.endswith(b"\r\n\r\nok")):
            raise WrongReplyError(f"the plain request was answered with {self.received[:200]!r}")
        return ended


class _Client(_Connection):
    """A handshake, then a message and its echo."""

    def __init__(self, sock: socket.socket, upgrade: bytes, message: bytes, expected: bytes) -> None:
        super().__init__(sock, upgrade)
        self._message, self._expected = message, expected
        self._upgraded = False

    def check(self, ended: bool) -> bool:
        if not self._upgraded:
            if ended or b"\r\n\r\n" in self.received:
                check_upgrade(self.received)
                self._upgraded, self.received = True, b""
                self.sock.sendall(self._message)
        elif ended or len(self.received) >= len(self._expected):
            if self.received != self._expected:
                self.received = answer_pings(self.sock, self.received, self._expected)
                return self.check(ended)
            return True
        return False
