"""The counters of this process, from which metrics are made.

Rule: a message costs no counter here. Messages and bytes are counted by their connection, and added when it has ended.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from operator import add
from typing import NamedTuple

__all__ = ["Counters", "Traffic"]

MAX_LATENCIES = 10_000
"""Latencies that are kept for a consumer; the oldest are dropped."""


class Traffic(NamedTuple):
    """Messages, and bytes of frames, in both directions."""

    messages_received: int = 0
    messages_sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0

    def plus(self, others: Iterable[Iterable[int]]) -> Traffic:
        """The sum of this and others, each of them with these four numbers in this order."""
        return Traffic(*map(sum, zip(self, *others, strict=True)))


class Counters:
    """Numbers that only grow."""

    def __init__(self) -> None:
        self.accepted = 0
        """Handshakes that were accepted."""
        self.refused: Counter[str] = Counter()
        """Handshakes that were answered with HTTP, by reason: ``"handshake"`` (the rules of the handshake), a limit's
        name, ``"accept_timeout"``, ``"application"`` (also where it raised).
        """
        self.closed: Counter[int | str] = Counter()
        """Connections that have ended, by the code of the first close frame; 1006 where there was none. The codes that
        a peer is free to choose count together, as ``"3xxx"`` and ``"4xxx"``: each key is a series in a metrics
        database.
        """
        self.traffic = Traffic()
        """Of connections that have ended."""
        self.dropped = 0
        """Frames that were not sent, and members of groups that were closed, because the peer or its handler was too
        slow.
        """
        self.group_skipped = 0
        """Messages of groups that slow members did not get, which had asked for that."""
        self.group_gaps = 0
        """How often a group has missed messages."""
        self._consumers: list[deque[float]] = []

    def add(self, stats: Iterable[int], code: int, *, from_peer: bool) -> None:
        """A connection has ended.

        Args:
            stats: The four numbers of ``Traffic``.
            code: Of the first close frame; 1006 where there was none.
            from_peer: Whether the first close frame was the peer's.

        """
        self.closed[f"{code // 1000}xxx" if from_peer and code >= 3000 else code] += 1
        self.traffic = Traffic(*map(add, self.traffic, stats))

    def pong(self, latency: float) -> None:
        """A ping has been answered after ``latency`` seconds."""
        for consumer in self._consumers:
            consumer.append(latency)

    def latencies(self) -> deque[float]:
        """A new consumer of latencies.

        Returns:
            A queue to which the latency (s) of each pong from now on is appended; the consumer takes them out.

        """
        consumer: deque[float] = deque(maxlen=MAX_LATENCIES)
        self._consumers.append(consumer)
        return consumer
