"""``table``: every counter is in it, and each exporter gets every delta once."""

from __future__ import annotations

from collections import Counter

import pytest

from gws_middleware.metrics.table import METRICS, Deltas, Metric, Snapshot
from gws_middleware.process.counters import Counters, Traffic
from gws_middleware.process.registry import Registry

from ..support.inprocess import connected, hub_errors, until
from ..support.seam import registry_of

__all__ = ["hub_errors"]

KEYS = [metric.key for metric in METRICS]
COUNTERS = [metric.key for metric in METRICS if metric.kind == "counter"]


def counted(deltas: Deltas) -> dict[str, float]:
    """What the counters have grown by, with the label's value after the key."""
    taken = [delta for delta in deltas.take() if delta.metric.kind == "counter"]
    return {f"{metric.key}{f' {label}' if label else ''}": value for metric, label, value in taken}


def by_key(key: str) -> Metric:
    return METRICS[KEYS.index(key)]


# --- the table -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["key", "name"])
def test_names_are_unique(field: str) -> None:
    """In statsd and in Prometheus."""
    names = [getattr(metric, field) for metric in METRICS]
    assert len(set(names)) == len(names)


def test_every_counter_of_the_process_is_in_the_table() -> None:
    """Each field of ``Counters`` and of ``Traffic`` is read by one row, under its own name."""
    public = [name for name in vars(Counters()) if not name.startswith("_")]
    assert sorted(COUNTERS) == sorted([name for name in public if name != "traffic"] + list(Traffic._fields))


def test_rows_read_what_their_key_says() -> None:
    """Each counter set to a number of its own."""
    registry = Registry()
    counters = registry.counters
    for number, key in enumerate(COUNTERS, 1):
        if key in Traffic._fields:
            counters.traffic = counters.traffic._replace(**{key: number})
        else:
            setattr(counters, key, Counter({"x": number}) if by_key(key).label else number)
    values = [by_key(key).read(Snapshot(registry)) for key in COUNTERS]
    assert [value["x"] if isinstance(value, Counter) else value for value in values] == list(
        range(1, len(COUNTERS) + 1)
    )


def test_connections_are_summed_up_once_for_each_snapshot() -> None:
    """With ten thousand of them a sum takes milliseconds, and five rows need it."""
    sums = []

    class Summed(Registry):
        def traffic(self) -> Traffic:
            sums.append("traffic")
            return super().traffic()

    now = Snapshot(Summed())
    for metric in METRICS:
        metric.read(now)
    assert sums == ["traffic"]


# --- deltas --------------------------------------------------------------------------------------------------------


def test_deltas_are_what_has_grown() -> None:
    """Since the latest call. A counter that has not grown is left out."""
    registry = Registry()
    deltas, counters = Deltas(registry), registry.counters
    counters.accepted, counters.dropped = 3, 1
    counters.refused["handshake"] += 2
    first, second = counted(deltas), counted(deltas)
    counters.accepted += 4
    counters.closed[1006] += 1
    counters.refused["handshake"] += 1
    third = counted(deltas)
    assert first == {"accepted": 3, "dropped": 1, "refused handshake": 2}
    assert second == {}
    assert third == {"accepted": 4, "closed 1006": 1, "refused handshake": 1}


def test_exporters_do_not_take_from_each_other() -> None:
    """Each has its own counts, and its own latencies."""
    registry = Registry()
    one, two = Deltas(registry), Deltas(registry)
    registry.counters.accepted = 2
    registry.counters.pong(0.5)
    assert one.take() == two.take()
    assert [delta.value for delta in one.take() if delta.metric.kind != "gauge"] == []


def test_gauges_are_there_every_time() -> None:
    """With their value, grown or not."""
    registry = Registry()
    registry.keepalive.lag = 0.25
    deltas = Deltas(registry)
    taken = [{delta.metric.key: delta.value for delta in deltas.take()} for _ in range(2)]
    assert taken == [{"open": 0, "outbox_bytes": 0, "loop_lag": 0.25}] * 2


def test_observations_are_there_once() -> None:
    """Each latency since the latest call."""
    registry = Registry()
    deltas = Deltas(registry)
    registry.counters.pong(0.5)
    registry.counters.pong(0.25)
    taken = [[delta.value for delta in deltas.take() if delta.metric.kind == "histogram"] for _ in range(2)]
    assert taken == [[0.5, 0.25], []]


def test_messages_of_a_connection_are_counted_once() -> None:
    """While it is open, and not again when it ends."""
    with connected() as (ws, peer):
        deltas = Deltas(registry_of(ws))
        peer.send("x")
        ws.receive()
        first = counted(deltas)
        peer.close()
        until(lambda: not len(registry_of(ws)))
        second = counted(deltas)
    assert (first["messages_received"], first["bytes_received"], first["accepted"]) == (1, 7, 1)
    assert second == {"bytes_received": 8, "bytes_sent": 4, "closed 1000": 1}
