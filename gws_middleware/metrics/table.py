"""The counters of a worker on their way to those who keep them: what is new since the last time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from ..process.registry import Registry

__all__ = ["COUNTERS", "GAUGES", "LABELLED", "News"]

COUNTERS = ("accepted", "messages_received", "messages_sent", "bytes_received", "bytes_sent", "dropped")
"""Keys of ``Registry.totals()`` that only grow."""
LABELLED = ("refused", "closed")
"""Keys whose value is a number for each reason, or close code."""
GAUGES = ("open", "outbox_bytes", "loop_lag")
"""Keys that say what is the case."""


class News:
    """What one keeper of metrics has not heard of yet."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: dict[tuple[str, Any], int] = {}
        self.latencies: deque[float] = registry.counters.latencies()
        """Of pongs, in seconds; to be taken out."""

    def look(self) -> tuple[list[tuple[str, Any, int]], dict[str, float]]:
        """By how much each counter has grown, as key, label (or None) and number, and the gauges."""
        totals = self._registry.totals()
        grown = [
            (key, label, count - self._known.get((key, label), 0))
            for key, label, count in _counts(totals)
            if count != self._known.get((key, label), 0)
        ]
        self._known.update({(key, label): count for key, label, count in _counts(totals)})
        return grown, {key: totals[key] for key in GAUGES}


def _counts(totals: dict[str, Any]) -> Iterator[tuple[str, Any, int]]:
    for key in COUNTERS:
        yield key, None, totals[key]
    for key in LABELLED:
        for label, count in totals[key].items():
            yield key, label, count
