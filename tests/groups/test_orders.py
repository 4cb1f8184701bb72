"""Orders in one process, without a backend: which are carried out, and what follows from a failure or a release."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from gws_middleware.groups import GroupsUnavailable, orders
from gws_middleware.groups.orders import LIVE_ORDERS, ORDERS, Orders

from ..support.inprocess import hub_errors, ticks, until

__all__ = ["hub_errors"]


class Site:
    """What orders are given ``Orders``, and what it calls."""

    def __init__(self) -> None:
        self.published: list[tuple[str, Any]] = []
        self.carried_out: list[Any] = []
        self.registered: list[Any] = []
        self.missed = 0
        self.coming: dict[str, list[Any]] = {ORDERS: [], LIVE_ORDERS: []}
        """Orders that a listener has; an exception is raised by it."""
        self.on_listen: Callable[[str], object] = lambda group: None
        self.listeners: list[str] = []
        self.orders = Orders(
            lambda group, order, timeout: self.published.append((group, order)),
            self.listen,
            self.registered.append,
            lambda worker: None,
            self.carry_out,
        )
        self.orders.carry_out(lambda order: self.carried_out.append(("other", order["do"])), self.miss)

    def listen(self, group: str) -> Any:
        self.listeners.append(group)
        self.on_listen(group)
        return self._iterate(group)

    def _iterate(self, group: str) -> Iterator[Any]:
        while self.coming[group]:
            order = self.coming[group].pop(0)
            if isinstance(order, Exception):
                raise order
            yield SimpleNamespace(data=order)
        gevent.sleep(60)

    def carry_out(self, order: Any) -> bool:
        if order["do"] == "fail":
            raise ValueError(order)
        self.carried_out.append(order["do"])
        return bool(order["do"] != "theirs")

    def miss(self) -> None:
        self.missed += 1


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Its greenlets end with the test."""
    started: list[Any] = []
    spawn = gevent.spawn

    def note(*arguments: Any) -> Any:
        started.append(spawn(*arguments))
        return started[-1]

    monkeypatch.setattr(orders.gevent, "spawn", note)
    monkeypatch.setattr(orders, "AGAIN", 0.001)
    yield Site()
    gevent.killall(started)


def test_orders_of_others_are_carried_out(site: Site) -> None:
    """Kept and live ones. Those that are none of groups are for the framework."""
    site.coming[ORDERS] = [{"do": "one", "by": "x"}, {"do": "theirs", "by": "x"}]
    site.coming[LIVE_ORDERS] = [{"do": "live", "by": "x"}]
    site.orders.follow()
    until(lambda: len(site.carried_out) == 4)
    assert sorted(map(str, site.carried_out)) == ["('other', 'theirs')", "live", "one", "theirs"]


def test_own_order_is_not_carried_out_again(site: Site) -> None:
    """What gives it has done so; each order says by which process it is."""
    site.orders.publish({"do": "own"}, live=True)
    site.orders.give({"do": "own"})
    assert [group for group, _ in site.published] == [LIVE_ORDERS, ORDERS]
    site.coming[ORDERS] = [order for _, order in site.published] + [{"do": "one", "by": "x"}]
    site.orders.follow()
    until(lambda: site.carried_out == ["one"])


def test_order_that_fails_does_not_end_it(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and so is what is no order."""
    site.coming[ORDERS] = [{"do": "fail", "by": "x"}, {"by": "x"}, "nonsense", {"do": "one", "by": "x"}]
    site.orders.follow()
    until(lambda: site.carried_out == ["one"])
    assert caplog.messages == ["an order for all workers could not be carried out"] * 2


def test_second_call_does_nothing(site: Site) -> None:
    """On the same event loop."""
    for _ in range(3):
        site.orders.follow()
    until(lambda: len(site.registered) == 1)
    ticks()
    assert sorted(site.listeners) == [ORDERS, LIVE_ORDERS]
    assert site.orders.are_followed


def test_missed_orders_are_reported(site: Site) -> None:
    """Kept ones; live ones are missed."""
    site.coming[ORDERS] = [LookupError(), {"do": "one", "by": "x"}]
    site.coming[LIVE_ORDERS] = [LookupError(), {"do": "live", "by": "x"}]
    site.orders.follow()
    until(lambda: sorted(site.carried_out) == ["live", "one"])
    assert site.missed == 1


def test_worker_is_registered_when_the_backend_is_back(site: Site) -> None:
    """After the subscription, so that what is asked from then on is answered."""
    failures = [GroupsUnavailable("not now") for _ in range(4)]

    def fail(group: str) -> None:
        assert not site.registered
        if failures:
            raise failures.pop()

    site.on_listen = fail
    site.orders.follow()
    until(lambda: site.registered == [site.orders.worker])
    assert site.missed == 1


def test_release_while_it_subscribes_registers_nothing(site: Site) -> None:
    """The record would open the backend again."""
    site.on_listen = lambda group: site.orders.release() if group == LIVE_ORDERS else None
    site.orders.follow()
    until(lambda: LIVE_ORDERS in site.listeners)
    ticks()
    assert (site.registered, site.orders.are_followed) == ([], False)


def test_release_begins_anew(site: Site) -> None:
    """At once, also while the greenlets of before have not ended."""
    site.orders.follow()
    until(lambda: len(site.registered) == 1)
    site.orders.release()
    site.orders.follow()
    until(lambda: len(site.registered) == 2)
    assert sorted(site.listeners) == [ORDERS, ORDERS, LIVE_ORDERS, LIVE_ORDERS]
