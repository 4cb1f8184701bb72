"""``health``: the report of a worker, for probes and load balancers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from gws_middleware import worker
from gws_middleware.groups import GroupsUnavailable, Survey, WorkerInfo
from gws_middleware.metrics import health
from gws_middleware.process.registry import Registry
from gws_middleware.process.shutdown import drain

from ..support.inprocess import connected, hub_errors, unix_pair, until
from ..support.registries import here, make_current
from ..support.seam import registry_of, transport_of

__all__ = ["here", "hub_errors"]


def ask() -> tuple[str, dict[str, str], Any]:
    """What the application answers."""
    started: list[Any] = []
    body = b"".join(health.application({}, lambda status, headers: started.extend([status, headers])))
    return started[0], dict(started[1]), json.loads(body) | {"length": len(body)}


def test_status_of_a_worker_without_connections() -> None:
    """Every key is there."""
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
    """It is imported from there, too."""
    assert worker.status is health.status


def test_status_has_the_metrics_of_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open connections, and all that were accepted."""
    with connected() as (ws, _):
        make_current(monkeypatch, registry_of(ws))
        registry_of(ws).counters.accepted += 4
        registry_of(ws).keepalive.lag = 0.5
        found = health.status()
    assert (found["connections"], found["accepted"], found["loop_lag"]) == (1, 5, 0.5)


def test_outbox_that_is_not_read_grows_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until its peer has read all of it."""
    with connected(pair=unix_pair, send_high_water=2**30) as (ws, peer):
        make_current(monkeypatch, registry_of(ws))
        ws.send(bytes(2**20))
        first = health.status()
        until(lambda: health.status()["oldest_outbox"] >= first["oldest_outbox"] + 0.02, "the outbox grows old")
        second = health.status()
        peer.receive()
        until(lambda: not transport_of(ws).outbox_size)
        third = health.status()
    assert first["outbox_bytes"] == second["outbox_bytes"] > 0
    assert 0 <= first["oldest_outbox"] < second["oldest_outbox"] < 5
    assert (third["outbox_bytes"], third["oldest_outbox"]) == (0, 0.0)


def test_application_answers_with_the_status() -> None:
    """As JSON that no proxy caches."""
    status, headers, body = ask()
    assert status == "200 OK"
    assert headers == {
        "Content-Type": "application/json",
        "Content-Length": str(body.pop("length")),
        "Cache-Control": "no-store",
    }
    assert body == health.status()


def test_application_of_a_draining_worker_answers_503(here: Registry) -> None:
    """For a load balancer. The report is the same."""
    drain(here, timeout=0.01)
    status, _, body = ask()
    assert (status, body["draining"]) == ("503 Service Unavailable", True)


class Answering:
    """Groups whose survey is as a test has it."""

    def __init__(self, survey: Callable[[], Survey]) -> None:
        self._survey = survey

    def survey(self, *, limit: int, timeout: float) -> Survey:
        assert (limit, 0 < timeout < health.WITHIN) == (0, True)
        return self._survey()


def of(connections: int, lag: float) -> WorkerInfo:
    """The facts about a worker."""
    return WorkerInfo("host:1", "host", 1, 0.0, connections, 0, lag, "1.0")


def test_report_has_the_sums_of_all_workers() -> None:
    """Where it is given groups; the lag is the longest. Workers that have not answered are named."""
    found = health.status(Answering(lambda: Survey([], [of(3, 0.1), of(4, 0.5)], ["host:2"], more=True)))
    site = {"workers": 2, "connections": 7, "loop_lag": 0.5, "missing": ["host:2"], "error": None}
    assert found == {**health.status(), "site": site}


def test_report_without_any_worker() -> None:
    """No process has had a WebSocket yet."""
    site = health.status(Answering(lambda: Survey([], [], [], more=False)))["site"]
    assert site == {"workers": 0, "connections": 0, "loop_lag": 0.0, "missing": [], "error": None}


def never() -> Survey:
    """A broker that takes each byte, and answers none."""
    gevent.sleep(60)
    raise AssertionError("the test has ended")


def unavailable() -> Survey:
    raise GroupsUnavailable("the broker is away")


@pytest.mark.parametrize(("survey", "error"), [(never, "no answer within 0.5 s"), (unavailable, "the broker is away")])
def test_report_of_this_worker_alone(here: Registry, survey: Callable[[], Survey], error: str) -> None:
    """Where the others cannot be asked: it says why, and answers 200."""
    asked: list[Any] = []

    def note() -> Survey:
        asked.append(gevent.getcurrent())
        return survey()

    application = health.site_application(Answering(note))
    started: list[Any] = []
    body = b"".join(application({}, lambda status, headers: started.append(status)))
    site = {"workers": 1, "connections": 0, "loop_lag": 0.0, "missing": [], "error": error}
    assert (started, json.loads(body)["site"]) == (["200 OK"], site)
    asked[0].kill()


def test_drain_of_some_connections_is_not_reported(here: Registry) -> None:
    """One of two servers in a process may stop."""
    drain(here, timeout=0.01, only=[])
    assert ask()[0] == "200 OK"
