"""``metrics``: what is new since somebody last asked."""

from __future__ import annotations

from typing import Any

from gws_middleware.metrics.table import COUNTERS, GAUGES, LABELLED, News
from gws_middleware.process.registry import Registry

from ..support.inprocess import connected, hub_errors, until

__all__ = ["hub_errors"]


def as_dict(grown: list[tuple[str, Any, int]]) -> dict[Any, int]:
    return {key if label is None else (key, label): number for key, label, number in grown}


def test_every_total_is_a_counter_or_a_gauge() -> None:
    """Nothing that is counted is kept from those who ask."""
    assert sorted((*COUNTERS, *LABELLED, *GAUGES)) == sorted(Registry().totals())


def test_news_are_what_is_new() -> None:
    """Each look tells what has come since the last one, and nothing that has not."""
    registry = Registry()
    news, counters = News(registry), registry.counters
    counters.accepted, counters.dropped = 3, 1
    counters.refused["handshake"] += 2
    first = as_dict(news.look()[0])
    nothing = news.look()[0]
    counters.accepted += 4
    counters.closed[1006] += 1
    counters.refused["handshake"] += 1
    second = as_dict(news.look()[0])
    assert first == {"accepted": 3, "dropped": 1, ("refused", "handshake"): 2}
    assert nothing == []
    assert second == {"accepted": 4, ("closed", 1006): 1, ("refused", "handshake"): 1}


def test_those_who_ask_do_not_take_from_each_other() -> None:
    """Each has its own memory, and its own latencies."""
    registry = Registry()
    one, two = News(registry), News(registry)
    registry.counters.accepted = 2
    registry.counters.pong(0.5)
    found = [one.look()[0], two.look()[0]]
    one.latencies.clear()
    assert found == [[("accepted", None, 2)]] * 2
    assert list(two.latencies) == [0.5]


def test_gauges_are_told_every_time() -> None:
    """They are no news, but the case."""
    registry = Registry()
    registry.keepalive.lag = 0.25
    news = News(registry)
    assert [news.look()[1], news.look()[1]] == [{"open": 0, "outbox_bytes": 0, "loop_lag": 0.25}] * 2


def test_messages_of_a_connection_are_told_once() -> None:
    """While it is open, and not again when it ends."""
    with connected() as (ws, peer):
        news = News(ws._registry)
        peer.send("x")
        ws.receive()
        first = as_dict(news.look()[0])
        peer.close()
        until(lambda: not len(ws._registry))
        second = as_dict(news.look()[0])
    assert (first["messages_received"], first["bytes_received"], first["accepted"]) == (1, 7, 1)
    assert second == {"bytes_received": 8, "bytes_sent": 4, ("closed", 1000): 1}
