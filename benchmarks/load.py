"""The load generator: one process, one epoll, no event loop that could have a bug of its own.

Each of the four drivers ends when no message is in flight, so that the count and the CPU time are of the same
messages, and returns the number of checked replies, or how long they have taken.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from time import perf_counter
from types import TracebackType
from typing import NamedTuple

from .frames import (
    PING,
    PONG,
    WrongReplyError,
    check_close,
    check_upgrade,
    client_close,
    client_frame,
    server_frame,
    upgrade_request,
)
from .lanes import REPLY_TIMEOUT, Address, Lane, answer_pings, close_all, connect, encrypted

__all__ = ["Waiting", "broadcast", "cycles", "paced", "saturate"]

_IN = select.EPOLLIN
_OUT = select.EPOLLOUT
_AT_ONCE = 64
"""Pings that are answered before a message that is due is sent."""


def _wait(poll: select.epoll) -> list[tuple[int, int]]:
    ready = poll.poll(REPLY_TIMEOUT)
    if not ready:
        raise WrongReplyError(f"no reply within {REPLY_TIMEOUT:g} s")
    return ready


def saturate(lanes: Sequence[Lane], seconds: float) -> int:
    """Keep every lane busy for ``seconds``, then receive what is in flight; at least one burst each."""
    by_fd = {lane.fd: lane for lane in lanes}
    replies = 0
    with select.epoll() as poll:
        for lane in lanes:
            poll.register(lane.fd, _IN if lane.send() else _IN | _OUT)
        deadline = perf_counter() + seconds
        while by_fd:
            for fd, events in _wait(poll):
                lane = by_fd[fd]
                if events & _OUT and lane.flush():
                    poll.modify(fd, _IN)
                if events & ~_OUT and lane.receive():
                    replies += lane.messages
                    if perf_counter() >= deadline:
                        poll.unregister(fd)
                        del by_fd[fd]
                    elif not lane.send():
                        poll.modify(fd, _IN | _OUT)
    return replies


def broadcast(lanes: Sequence[Lane], seconds: float) -> int:
    """Send on the first lane, await the reply on all, again and again for ``seconds``; at least once."""
    by_fd = {lane.fd: lane for lane in lanes}
    delivered = 0
    with select.epoll() as poll:
        for lane in lanes:
            poll.register(lane.fd, _IN)
        deadline = perf_counter() + seconds
        while not delivered or perf_counter() < deadline:
            lanes[0].send()
            awaited = len(lanes)
            while awaited:
                awaited -= sum(by_fd[fd].receive() for fd, _ in _wait(poll))
            delivered += len(lanes)
    return delivered


class Waiting(AbstractContextManager["Waiting"]):
    """Open connections that send nothing but pongs; at the end of a ``with`` block they are closed without a handshake,
    unless ``close`` was called.

    For ``paced`` it is a lane on which no reply ever comes.
    """

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._by_fd: dict[int, socket.socket] = {}
        self.fd = self._poll.fileno()
        self.pings = 0
        """How many were answered."""

    def add(self, sockets: Iterable[socket.socket]) -> None:
        for sock in sockets:
            sock.setblocking(False)
            self._by_fd[sock.fileno()] = sock
            self._poll.register(sock, _IN)

    def close(self) -> None:
        """Close them cleanly."""
        close_all(list(self._by_fd.values()))

    def wait(self, seconds: float) -> None:
        """Answer pings for so long."""
        deadline = perf_counter() + seconds
        while (rest := deadline - perf_counter()) > 0:
            self._answer(self._poll.poll(rest, _AT_ONCE))

    def receive(self) -> bool:
        """Answer pings that have come."""
        self._answer(self._poll.poll(0, _AT_ONCE))
        return False

    def _answer(self, ready: Iterable[tuple[int, int]]) -> None:
        for fd, _ in ready:
            sock = self._by_fd[fd]
            frame = sock.recv(200)
            payload = frame[2:]
            if frame != server_frame(PING, payload):
                raise WrongReplyError(f"a ping was expected, not {frame!r}")
            sock.sendall(client_frame(PONG, payload))
            self.pings += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._poll.close()
        for sock in self._by_fd.values():
            sock.close()


def paced(lanes: Sequence[Lane], seconds: float, rate: float, beside: Waiting | None = None) -> list[float]:
    """Send on the first lane at a steady rate for ``seconds``, and await each message on all; at least one. Pings to
    ``beside`` are answered.

    Returns the seconds from the time at which each was to be sent to the last lane that had it.
    """
    by_fd: dict[int, Lane | Waiting] = {lane.fd: lane for lane in lanes}
    due: list[float] = []
    received = dict.fromkeys(by_fd, 0)
    missing: list[int] = []
    delays: list[float] = []
    with select.epoll() as poll:
        if beside is not None:
            by_fd[beside.fd] = beside
        for fd in by_fd:
            poll.register(fd, _IN)
        begin = perf_counter()
        while True:
            now = perf_counter()
            next_at = begin + len(due) / rate
            if not due or next_at < begin + seconds:
                if now >= next_at:
                    due.append(next_at)
                    missing.append(len(lanes))
                    lanes[0].send()
                    continue
                ready = poll.poll(next_at - now)
            elif len(delays) == len(due):
                return delays
            else:
                ready = _wait(poll)
            for fd, _ in ready:
                if by_fd[fd].receive():
                    number = received[fd]
                    received[fd] += 1
                    missing[number] -= 1
                    if not missing[number]:
                        delays.append(perf_counter() - due[number])


def cycles(
    address: Address,
    path: str,
    request: bytes,
    expected: bytes,
    slots: int,
    seconds: float,
    tls: ssl.SSLContext | None = None,
) -> int:
    """Connect, upgrade, send the request, await the answer, close cleanly, again and again in each slot; at least one
    cycle each. With ``tls`` each begins with a full handshake: no session is resumed.
    """
    script = _Script(upgrade_request("{}:{}".format(*address), path), request, expected, tls)
    in_progress: dict[int, _Cycle] = {}
    done = 0
    with select.epoll() as poll:
        try:
            deadline = perf_counter() + seconds
            for _ in range(slots):
                _start(address, script, poll, in_progress)
            while in_progress:
                for fd, _ in _wait(poll):
                    if not in_progress[fd].receive():
                        continue
                    done += 1
                    poll.unregister(fd)
                    in_progress.pop(fd).sock.close()
                    if perf_counter() < deadline:
                        _start(address, script, poll, in_progress)
        finally:
            for cycle in in_progress.values():
                cycle.sock.close()
    return done


class _Script(NamedTuple):
    """What the client sends in a cycle, and the answer that it expects."""

    upgrade: bytes
    request: bytes
    expected: bytes
    tls: ssl.SSLContext | None


def _start(address: Address, script: _Script, poll: select.epoll, in_progress: dict[int, _Cycle]) -> None:
    sock = connect(address)
    cycle = _Cycle(sock, script) if script.tls is None else _TLSCycle(sock, script)
    in_progress[cycle.sock.fileno()] = cycle
    poll.register(cycle.sock, _IN)
    cycle.begin()


class _Cycle:
    """One connection from the 101 to the server's FIN: each phase checks what came and starts the next."""

    __slots__ = ("_phase", "_received", "_script", "sock")

    def __init__(self, sock: socket.socket, script: _Script) -> None:
        self.sock = sock
        self._script = script
        self._received = b""
        self._phase: Callable[[bool], bool] = self._upgrade

    def begin(self) -> None:
        self.sock.sendall(self._script.upgrade)

    def receive(self) -> bool:
        """Read once. True when the server has closed the connection as it should."""
        data = self.sock.recv(65536)
        self._received += data
        return self._phase(not data)

    def _upgrade(self, ended: bool) -> bool:
        if ended or b"\r\n\r\n" in self._received:
            check_upgrade(self._received)
            self._proceed(self._echo, self._script.request)
        return False

    def _echo(self, ended: bool) -> bool:
        if ended or len(self._received) >= len(self._script.expected):
            if self._received != self._script.expected:
                self._received = answer_pings(self.sock, self._received, self._script.expected)
                return self._echo(ended)
            self._proceed(self._close, client_close())
        return False

    def _close(self, ended: bool) -> bool:
        if ended:
            check_close(self._received)
        return ended

    def _proceed(self, phase: Callable[[bool], bool], request: bytes) -> None:
        self._received = b""
        self._phase = phase
        self.sock.sendall(request)


class _TLSCycle(_Cycle):
    """The same after a handshake of TLS, which does not wait either: others go on meanwhile."""

    __slots__ = ("_encrypted",)

    def __init__(self, sock: socket.socket, script: _Script) -> None:
        assert script.tls is not None
        self._encrypted = encrypted(sock, script.tls, wait=False)
        self._encrypted.setblocking(False)
        super().__init__(self._encrypted, script)

    def begin(self) -> None:
        self.receive()

    def receive(self) -> bool:
        try:
            if self._encrypted.version() is not None:
                return super().receive()
            self._encrypted.do_handshake()
            super().begin()
        except ssl.SSLWantReadError:
            pass
        return False
