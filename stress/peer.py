"""The clients: a raw client that can wait for a frame without losing bytes at a timeout, and numbered messages."""

from __future__ import annotations

import math
import random
import socket
import time
from collections import Counter
from typing import Any

from tests.support.rawclient import CLOSE, PING, PONG, TEXT, Address, Frame, RawClient, Response, close_frame, frame

__all__ = ["Address", "Ended", "Numbered", "Peer", "can_close_silently", "tally"]

TCP_REPAIR = 19


class Ended(Exception):  # noqa: N818 - it is not an error
    """The connection has ended: ``code`` is that of the server's close frame, 1006 if there was none."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"the connection ended with {code}")


def _code_of(received: Frame) -> int:
    """The code of a close frame, 1005 where it has none (RFC 6455 7.1.5)."""
    return received.code or 1005


class Peer(RawClient):
    """One connection. ``worker`` is the pid of the worker that has it, 0 while it is not known."""

    timeout: float | None
    """Seconds that a frame may take, however many pings come before it; None for no limit."""

    def __init__(self, address: Address, timeout: float = 15.0, **options: Any) -> None:
        super().__init__(address, timeout=timeout, **options)
        self.timeout = timeout
        self.worker = 0
        self.started = time.monotonic()

    def __enter__(self) -> Peer:
        return self

    def note_worker(self, response: Response) -> None:
        """Store the pid of the worker that has answered."""
        self.worker = int(response.headers.get("x-worker", "0").split(",")[0])

    def open(self, path: str, *headers: tuple[str, str]) -> None:
        """The handshake; AssertionError if the answer is not a 101, EOFError if there is none."""
        self.note_worker(self.upgrade(path, *headers))

    def wait(self, seconds: float) -> Frame | None:
        """The next data frame, or None when none came in time. Pings are answered and close frames too.

        Ended is raised at the end.
        """
        deadline = time.monotonic() + seconds
        while True:
            while (received := self._whole()) is None:
                if not self._more_before(deadline):
                    return None
            if received.opcode == PING:
                self.write(frame(PONG, received.payload))
            elif received.opcode == CLOSE:
                self.write(close_frame(None if received.code is None else received.code))
                raise Ended(_code_of(received))
            elif received.opcode != PONG:
                return received

    def read_frame(self) -> Frame:
        """The next frame but pings, which are answered: on a busy machine one of the server's may come at any time.

        TimeoutError if nothing but pings has come in ``timeout``.
        """
        deadline = time.monotonic() + self.timeout if self.timeout is not None else math.inf
        while (received := super().read_frame()).opcode == PING:
            self.write(frame(PONG, received.payload))
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing but pings came in {self.timeout:g} s")
        return received

    def write(self, data: bytes) -> None:
        """Send. That the connection is closed is found by reading, where a close frame may still wait."""
        self.sock.settimeout(self.timeout)  # wait() leaves its own
        try:
            self.sock.sendall(data)
        except (ConnectionError, TimeoutError):
            pass

    def _whole(self) -> Frame | None:
        """The frame at the beginning of the buffer, if it is complete."""
        buffer = self.buffer
        if len(buffer) < 2:
            return None
        extended = {126: 2, 127: 8}.get(buffer[1] & 0x7F, 0)
        size = int.from_bytes(buffer[2 : 2 + extended], "big") if extended else buffer[1] & 0x7F
        return super().read_frame() if len(buffer) >= 2 + extended + size else None

    def _more_before(self, deadline: float) -> bool:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        self.sock.settimeout(left)
        try:
            more = self._more()
        except TimeoutError:
            return False
        if not more:
            raise Ended(1006)
        return True

    def close_silently(self) -> None:
        """Close the socket so that neither FIN nor RST is sent; with a RST where that is not allowed (it needs
        CAP_NET_ADMIN on Linux).
        """
        try:
            self.sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
            self.sock.close()
        except OSError:
            self.reset()


def can_close_silently() -> bool:
    """Whether a socket can be closed without FIN and RST here."""
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        except OSError:
            return False
    return True


class Numbered:
    """Messages of one client: each has its number in it, and the echoes must come in the same order."""

    def __init__(self, name: str, chance: random.Random) -> None:
        self.name, self.chance = name, chance
        self.sent = 0
        self._in_flight: list[tuple[bytes, float]] = []
        self.answered = 0
        self.worst = 0.0
        """Seconds of the slowest echo."""

    @property
    def waiting(self) -> int:
        """Messages whose echo has not come."""
        return len(self._in_flight)

    @property
    def oldest(self) -> float:
        """Seconds since the oldest of them was sent."""
        return time.monotonic() - self._in_flight[0][1] if self._in_flight else 0.0

    def fresh_connection(self) -> None:
        """The missing echoes of the last connection will not come."""
        self._in_flight.clear()

    def next(self) -> bytes:
        """The frame of the next message."""
        self.sent += 1
        size = self.chance.choice((0, 10, 100, 1000, 20_000))
        payload = f"{self.name}:{self.sent}:".encode() + b"x" * size
        self._in_flight.append((payload, time.monotonic()))
        return frame(TEXT, payload)

    def check(self, received: Frame) -> bool:
        """Take an echo; AssertionError unless it is the next one. False for a message of another client."""
        if not received.payload.startswith(f"{self.name}:".encode()):
            return False
        assert self._in_flight, f"{self.name}: an echo without a message: {received.payload[:40]!r}"
        payload, at = self._in_flight.pop(0)
        assert received.payload == payload, f"{self.name}: {received.payload[:40]!r} instead of {payload[:40]!r}"
        self.answered += 1
        self.worst = max(self.worst, time.monotonic() - at)
        return True


def tally(counter: Counter[Any]) -> str:
    """``1000 × 5, 1001 × 2``: what was counted, in order."""
    return ", ".join(f"{name} × {count:,}" for name, count in sorted(counter.items())) or "none"
