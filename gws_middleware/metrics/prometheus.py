"""Metrics for Prometheus, by ``prometheus_client`` (the extra ``prometheus``).

In gunicorn's configuration::

    from gws_middleware.metrics.prometheus import child_exit, post_worker_init

and whatever serves the metrics of ``prometheus_client`` serves these too: those of one process, or of all workers where
``PROMETHEUS_MULTIPROC_DIR`` is set, as its own documentation tells. Importing this module starts nothing.
"""

from __future__ import annotations

import atexit
import os
from typing import Any

import gevent

from ..process import registry
from .table import News

__all__ = ["Exporter", "child_exit", "post_worker_init"]

EVERY = 5.0
"""Seconds between two updates: finer than scrapes are."""
LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram's buckets, in seconds."""

TEXTS = {
    "accepted": ("websocket_accepted", "Handshakes that were accepted", ()),
    "refused": ("websocket_refused", "Handshakes that were answered with HTTP", ("reason",)),
    "closed": ("websocket_closed", "Connections that ended, by the code of the first close frame", ("code",)),
    "messages_received": ("websocket_messages_received", "Messages from peers", ()),
    "messages_sent": ("websocket_messages_sent", "Messages to peers", ()),
    "bytes_received": ("websocket_received_bytes", "Bytes of frames from peers", ()),
    "bytes_sent": ("websocket_sent_bytes", "Bytes of frames to peers", ()),
    "dropped": ("websocket_dropped", "Broadcast frames that were not sent, because a peer was too slow", ()),
}
"""Counters: name, without the ``_total`` that is added to it, text and labels."""


class Exporter:
    """Keeps the metrics of this process up to date with its counters."""

    def __init__(self, into: Any = None) -> None:
        """``into`` is a CollectorRegistry, that of prometheus_client itself unless given."""
        from prometheus_client import REGISTRY, Counter, Gauge, Histogram

        into = REGISTRY if into is None else into
        self._counters: dict[str, Any] = {
            key: Counter(name, text, labels, registry=into) for key, (name, text, labels) in TEXTS.items()
        }
        here: dict[str, Any] = {"registry": into, "multiprocess_mode": "livesum"}
        self._gauges: dict[str, Any] = {
            "open": Gauge("websocket_open", "Connections that are open", **here),
            "outbox_bytes": Gauge("websocket_outbox_bytes", "Bytes that wait for peers to read them", **here),
            "loop_lag": Gauge(
                "websocket_loop_lag_seconds",
                "For how long something kept the event loop busy",
                registry=into,
                multiprocess_mode="livemax",
            ),
        }
        self._latency = Histogram(
            "websocket_ping_latency_seconds", "From a ping to its pong", registry=into, buckets=LATENCIES
        )
        self._news = News(registry.current())

    def update(self) -> None:
        """Add what has gone by since the last time."""
        grown, gauges = self._news.look()
        for key, label, count in grown:
            metric = self._counters[key]
            (metric if label is None else metric.labels(str(label))).inc(count)
        for key, value in gauges.items():
            self._gauges[key].set(value)
        while self._news.latencies:
            self._latency.observe(self._news.latencies.popleft())

    def run(self) -> None:
        """Update for ever; for a greenlet of its own."""
        while True:
            self.update()
            gevent.sleep(EVERY)


def post_worker_init(worker: Any) -> None:
    """The hook of gunicorn's of that name: the counters of this worker are exported from now on."""
    exporter = Exporter()
    gevent.spawn(exporter.run)
    atexit.register(exporter.update)  # how its last connections have ended


def child_exit(server: Any, worker: Any) -> None:
    """The hook of gunicorn's of that name: of several processes, one that has gone counts in no gauge any more."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
