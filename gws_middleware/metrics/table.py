"""The metrics of a worker: one table, from which Prometheus, statsd and the health report are made.

Rule: a metric is one row of ``METRICS``, and its name stands nowhere else in this package. A test compares the tables
of ``docs/operations.md`` with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, Literal, NamedTuple

from ..process.counters import Counters, Traffic
from ..process.registry import Outbox, Registry

__all__ = ["METRICS", "Delta", "Deltas", "Metric", "Snapshot"]


class Snapshot:
    """A registry at one moment.

    Args:
        registry: The connections.
        latencies: Latencies (s) of pongs since the latest snapshot of the same exporter.

    """

    def __init__(self, registry: Registry, latencies: Iterable[float] = ()) -> None:
        self.connections = registry
        self.latencies = latencies

    @property
    def counters(self) -> Counters:
        """The counters of the process."""
        return self.connections.counters

    @cached_property
    def traffic(self) -> Traffic:
        """Computed once: it is a sum over all connections."""
        return self.connections.traffic()

    @cached_property
    def outbox(self) -> Outbox:
        """Computed once: it is a sum over all connections."""
        return self.connections.outbox()


class Metric(NamedTuple):
    """One metric."""

    key: str
    """Its name in statsd, after ``websocket.``."""
    name: str
    """Its name in Prometheus, without the ``_total`` of a counter."""
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    """What it counts or measures."""
    read: Callable[[Snapshot], Any]
    """Its value: a number; for a counter with a label a number for each value of the label; for a histogram the
    observations (s) since the latest snapshot.
    """
    label: str = ""
    """The name of its label in Prometheus; in statsd the label's value is the last part of the name."""
    workers: Literal["sum", "max"] = "sum"
    """What a gauge of all workers together is."""
    health: str = ""
    """Its key in the health report, if it is there."""


METRICS = (
    Metric(
        "open",
        "websocket_open",
        "gauge",
        "Connections that are open",
        lambda now: len(now.connections),
        health="connections",
    ),
    Metric(
        "accepted",
        "websocket_accepted",
        "counter",
        "Handshakes that were accepted",
        lambda now: now.counters.accepted,
        health="accepted",
    ),
    Metric(
        "refused",
        "websocket_refused",
        "counter",
        "Handshakes that were answered with HTTP",
        lambda now: now.counters.refused,
        label="reason",
    ),
    Metric(
        "closed",
        "websocket_closed",
        "counter",
        "Connections that ended, by the code of the first close frame",
        lambda now: now.counters.closed,
        label="code",
    ),
    Metric(
        "messages_received",
        "websocket_messages_received",
        "counter",
        "Messages from peers",
        lambda now: now.traffic.messages_received,
    ),
    Metric(
        "messages_sent",
        "websocket_messages_sent",
        "counter",
        "Messages to peers",
        lambda now: now.traffic.messages_sent,
    ),
    Metric(
        "bytes_received",
        "websocket_received_bytes",
        "counter",
        "Bytes of frames from peers",
        lambda now: now.traffic.bytes_received,
    ),
    Metric(
        "bytes_sent",
        "websocket_sent_bytes",
        "counter",
        "Bytes of frames to peers",
        lambda now: now.traffic.bytes_sent,
    ),
    Metric(
        "outbox_bytes",
        "websocket_outbox_bytes",
        "gauge",
        "Bytes that wait for peers to read them",
        lambda now: now.outbox.size,
        health="outbox_bytes",
    ),
    Metric(
        "dropped",
        "websocket_dropped",
        "counter",
        "Broadcast frames that were not sent, because a peer was too slow",
        lambda now: now.counters.dropped,
    ),
    Metric(
        "group_skipped",
        "websocket_group_skipped",
        "counter",
        'Messages of groups that slow members did not get (slow="skip")',
        lambda now: now.counters.group_skipped,
    ),
    Metric(
        "group_gaps",
        "websocket_group_gaps",
        "counter",
        "How often messages of a group were missed by this worker",
        lambda now: now.counters.group_gaps,
    ),
    Metric(
        "ping_latency",
        "websocket_ping_latency_seconds",
        "histogram",
        "From a ping to its pong",
        lambda now: now.latencies,
    ),
    Metric(
        "loop_lag",
        "websocket_loop_lag_seconds",
        "gauge",
        "By how many seconds the event loop was late at the latest check",
        lambda now: now.connections.keepalive.lag,
        workers="max",
        health="loop_lag",
    ),
)


class Delta(NamedTuple):
    """What an exporter has to send of one metric, or of one label's value."""

    metric: Metric
    label: str
    """The label's value; "" for a metric without one."""
    value: float
    """Of a counter by how much it has grown, of a gauge its value, of a histogram one observation (s)."""


class Deltas:
    """What one exporter has not sent yet. Several exporters do not take from each other.

    Args:
        registry: The connections.

    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._sent: dict[tuple[str, str], float] = {}
        self._latencies: deque[float] = registry.counters.latencies()

    def take(self) -> list[Delta]:
        """All gauges, the counters that have grown since the latest call, and the observations since then."""
        latencies = [self._latencies.popleft() for _ in range(len(self._latencies))]
        now = Snapshot(self._registry, latencies)
        return [delta for metric in METRICS for delta in self._deltas(metric, metric.read(now))]

    def _deltas(self, metric: Metric, value: Any) -> list[Delta]:
        if metric.kind == "gauge":
            return [Delta(metric, "", value)]
        if metric.kind == "histogram":
            return [Delta(metric, "", observation) for observation in value]
        counts = {str(label): count for label, count in value.items()} if metric.label else {"": value}
        return [delta for label, count in counts.items() if (delta := self._grown(metric, label, count)).value]

    def _grown(self, metric: Metric, label: str, count: float) -> Delta:
        sent = self._sent.get((metric.key, label), 0)
        self._sent[metric.key, label] = count
        return Delta(metric, label, count - sent)
