"""Metrics through gunicorn's own statsd client, where ``--statsd-host`` says that there is one."""

from __future__ import annotations

import time
from typing import Any

from ..process import registry
from .table import News

__all__ = ["Statsd"]

EVERY = 5.0
"""Seconds between two updates."""


class Statsd:
    """Sends what is new under names that begin with ``websocket.``, behind gunicorn's prefix if it has one."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._news = News(registry.current())
        self._sent = time.monotonic()

    def beat(self) -> None:
        """To be called now and then: sends when it is time."""
        if time.monotonic() - self._sent >= EVERY:
            self.send()

    def send(self) -> None:
        """Send what is new since the last time."""
        self._sent = time.monotonic()
        grown, gauges = self._news.look()
        for key, label, count in grown:
            self._log.increment(f"websocket.{key}" if label is None else f"websocket.{key}.{label}", count)
        for key, value in gauges.items():
            self._log.gauge(f"websocket.{key}", value)
        while self._news.latencies:
            self._log.timer("websocket.ping_latency", self._news.latencies.popleft() * 1000)
