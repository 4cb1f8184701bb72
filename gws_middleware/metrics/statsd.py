"""Metrics through gunicorn's own statsd client, where ``--statsd-host`` says that there is one."""

from __future__ import annotations

import time
from typing import Any

from ..process import registry
from .table import Deltas

__all__ = ["Statsd", "find_statsd"]

INTERVAL = 5.0
"""Seconds between two updates."""


class Statsd:
    """Sends what is new, under names that begin with ``websocket.`` after gunicorn's prefix.

    Args:
        logger: gunicorn's logger, which is the statsd client.

    """

    def __init__(self, logger: Any) -> None:
        self._deltas = Deltas(registry.current())
        self._sent_at = time.monotonic()
        # Before 24, gunicorn's "histogram" sends a timer.
        send_timer = logger.timer if hasattr(logger, "timer") else logger.histogram
        self._send = {
            "counter": logger.increment,
            "gauge": logger.gauge,
            "histogram": lambda name, seconds: send_timer(name, seconds * 1000),  # statsd's timers are in ms
        }

    def send_if_due(self) -> None:
        """Send what is new once ``INTERVAL`` seconds have passed. The caller calls this about once in a second."""
        if time.monotonic() - self._sent_at >= INTERVAL:
            self.send()

    def send(self) -> None:
        """Send what is new."""
        self._sent_at = time.monotonic()
        for metric, label, value in self._deltas.take():
            name = f"websocket.{metric.key}.{label}" if label else f"websocket.{metric.key}"
            self._send[metric.kind](name, value)


def find_statsd(worker: Any) -> Statsd | None:
    """The exporter for a worker of gunicorn's; None where it has no statsd client. A ``logger_class`` of the project's
    may have none, although ``--statsd-host`` is set.
    """
    return Statsd(worker.log) if worker.cfg.statsd_host and hasattr(worker.log, "increment") else None
