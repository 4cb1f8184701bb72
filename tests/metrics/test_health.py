"""``health``: how a worker is, for programs and people."""

from __future__ import annotations

import json
import os
from typing import Any

import gevent
import pytest

from gws_middleware import worker
from gws_middleware.metrics import health
from gws_middleware.process import registry
from gws_middleware.process.registry import Registry

from ..support.inprocess import connected, hub_errors, unix_pair, until

__all__ = ["hub_errors"]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry of the test's own in place of the process'."""
    monkeypatch.setattr(registry, "_registry", Registry())
    return registry.current()


def asked() -> tuple[str, dict[str, str], Any]:
    """What the application answers."""
    heard: list[Any] = []
    body = b"".join(health.application({}, lambda status, headers: heard.extend([status, headers])))
    return heard[0], dict(heard[1]), json.loads(body) | {"length": len(body)}


def test_status_of_a_worker_without_connections() -> None:
    """Everything is there, and nothing is going on."""
    assert health.status() == {
        "pid": os.getpid(),
        "connections": 0,
        "accepted": 0,
        "loop_lag": 0.0,
        "oldest_outbox": 0.0,
        "outbox_bytes": 0,
        "draining": False,
    }


def test_worker_module_has_it_too() -> None:
    """Where a deployment looks for it."""
    assert worker.status is health.status


def test_status_tells_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """And of those that have been."""
    with connected() as (ws, _):
        monkeypatch.setattr(registry, "_registry", ws._registry)
        ws._registry.counters.accepted += 4
        ws._registry.keepalive.lag = 0.5
        found = health.status()
    assert (found["connections"], found["accepted"], found["loop_lag"]) == (1, 5, 0.5)


def test_outbox_that_nobody_takes_grows_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is told, until its peer has taken all of it."""
    with connected(pair=unix_pair, send_high_water=2**30) as (ws, peer):
        monkeypatch.setattr(registry, "_registry", ws._registry)
        ws.send(bytes(2**20))
        first = health.status()
        gevent.sleep(0.02)
        second = health.status()
        peer.receive()
        until(lambda: not ws._transport.outbox_size)
        third = health.status()
    assert first["outbox_bytes"] == second["outbox_bytes"] > 0
    assert second["oldest_outbox"] >= first["oldest_outbox"] + 0.02
    assert (third["outbox_bytes"], third["oldest_outbox"]) == (0, 0.0)


def test_oldest_outbox_is_the_oldest_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """One stuck peer must not hide behind a thousand others."""
    now = 1000.0
    monkeypatch.setattr(health.time, "monotonic", lambda: now)

    class Open:
        def __init__(self, size: int, since: float | None) -> None:
            self._outbox_state = size, since

    registry.current()._members = {Open(0, None), Open(5, 999.0), Open(7, 990.0), Open(3, None)}
    found = health.status()
    assert (found["oldest_outbox"], found["outbox_bytes"]) == (10.0, 15)


def test_application_answers_with_the_status() -> None:
    """As JSON that no proxy keeps."""
    status, headers, body = asked()
    assert status == "200 OK"
    assert headers == {
        "Content-Type": "application/json",
        "Content-Length": str(body.pop("length")),
        "Cache-Control": "no-store",
    }
    assert body == health.status()


def test_application_of_a_draining_worker_says_503(here: Registry) -> None:
    """A load balancer takes it out; the facts are the same."""
    here.drain(timeout=0.01)
    status, _, body = asked()
    assert (status, body["draining"]) == ("503 Service Unavailable", True)


def test_drain_of_some_is_no_drain(here: Registry) -> None:
    """One of two servers in a process may stop."""
    here.drain(timeout=0.01, members=[])
    assert asked()[0] == "200 OK"
