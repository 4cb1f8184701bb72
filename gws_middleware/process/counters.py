"""What has gone by in this worker: plain numbers that metrics are made of.

What every message costs is counted on its connection alone, and comes in here when that ends.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

__all__ = ["Counters"]

LATENCIES_KEPT = 10_000
"""Latencies that wait for a listener; the oldest are dropped."""


class Counters:
    """They only grow."""

    def __init__(self) -> None:
        self.accepted = 0
        self.refused: Counter[str] = Counter()
        """Handshakes that were answered with HTTP, by whom or what: ``"handshake"`` (its rules), ``"max_connections"``,
        ``"max_connections_per_address"``, ``"accept_timeout"``, ``"application"`` (also where it raised).
        """
        self.closed: Counter[int | str] = Counter()
        """Connections that have ended, by the code of the first close frame; 1006 where there was none. The codes that
        a peer is free to choose count together, as ``"3xxx"`` and ``"4xxx"``: each key is a series in a metrics
        database.
        """
        self.messages_received = self.messages_sent = self.bytes_received = self.bytes_sent = 0
        """Of connections that have ended."""
        self.dropped = 0
        """Frames that ``offer()`` did not send, because the peer was too slow."""
        self._listeners: list[deque[float]] = []

    def add(self, stats: Any, code: int, *, from_peer: bool) -> None:
        """A connection has ended: its ``Stats``, the code of its first close frame, and whether that was the peer's."""
        self.closed[f"{code // 1000}xxx" if from_peer and code >= 3000 else code] += 1
        self.messages_received += stats.messages_received
        self.messages_sent += stats.messages_sent
        self.bytes_received += stats.bytes_received
        self.bytes_sent += stats.bytes_sent

    def pong(self, latency: float) -> None:
        """A ping has been answered after so many seconds."""
        for listener in self._listeners:
            listener.append(latency)

    def latencies(self) -> deque[float]:
        """Those of all pongs from now on, for a listener who takes them out."""
        listener: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._listeners.append(listener)
        return listener
