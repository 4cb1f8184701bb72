"""Metrics for Prometheus, by ``prometheus_client`` (the extra ``prometheus``).

In gunicorn's configuration::

    from gws_middleware.metrics.prometheus import child_exit, post_worker_init

What serves the metrics of ``prometheus_client`` then serves these too: those of one process, or of all workers where
``PROMETHEUS_MULTIPROC_DIR`` is set, as its documentation says. Importing this module starts nothing.
"""

from __future__ import annotations

import atexit
import os
from typing import Any

import gevent

from ..process import registry
from .table import METRICS, Deltas, Metric

__all__ = ["Exporter", "child_exit", "post_worker_init"]

INTERVAL = 5.0
"""Seconds between two updates: less than between two scrapes."""
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets of a histogram, in seconds."""


class Exporter:
    """Keeps the metrics of this process in ``prometheus_client`` up to date.

    Args:
        into: A CollectorRegistry; by default that of ``prometheus_client`` itself.

    """

    def __init__(self, into: Any = None) -> None:
        from prometheus_client import REGISTRY

        self._series = {metric.key: _series(metric, REGISTRY if into is None else into) for metric in METRICS}
        self._deltas = Deltas(registry.current())

    def update(self) -> None:
        """Add what is new since the latest update."""
        for metric, label, value in self._deltas.take():
            series = self._series[metric.key].labels(label) if label else self._series[metric.key]
            if metric.kind == "counter":
                series.inc(value)
            elif metric.kind == "gauge":
                series.set(value)
            else:
                series.observe(value)

    def run(self) -> None:
        """Update again and again; for a greenlet of its own."""
        while True:
            self.update()
            gevent.sleep(INTERVAL)


def _series(metric: Metric, into: Any) -> Any:
    from prometheus_client import Counter, Gauge, Histogram

    if metric.kind == "counter":
        return Counter(metric.name, metric.text, [metric.label] if metric.label else [], registry=into)
    if metric.kind == "gauge":  # "live": without the workers that have ended
        return Gauge(metric.name, metric.text, registry=into, multiprocess_mode=f"live{metric.workers}")  # type: ignore[arg-type]
    return Histogram(metric.name, metric.text, registry=into, buckets=BUCKETS)


def post_worker_init(worker: Any) -> None:
    """The hook of gunicorn's of that name: export the metrics of this worker from now on."""
    exporter = Exporter()
    gevent.spawn(exporter.run)
    atexit.register(_export_last, exporter, os.getpid())


def _export_last(exporter: Exporter, pid: int) -> None:
    """At the exit: the ends of the last connections, which a forked child does not have, though it has this call."""
    if os.getpid() == pid:
        exporter.update()


def child_exit(server: Any, worker: Any) -> None:
    """The hook of gunicorn's of that name: with several workers, remove one that has ended from all gauges."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
