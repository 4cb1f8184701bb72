"""The health report of this worker, for load balancers and probes. ``application`` answers with it as JSON.

Rule 1: it is a report of the process that answers. Where it is given the groups of the site, the sums of all workers
are added.
Rule 2: it takes ``WITHIN`` seconds at most, and never fails for what is elsewhere: it says what is missing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from typing import Any, Protocol

import gevent

from ..groups.errors import GroupsError
from ..groups.survey import Survey
from ..process import registry
from ..typing import Environ, StartResponse, WSGIApp
from .table import METRICS, Snapshot

__all__ = ["WITHIN", "Site", "application", "site_application", "status"]

WITHIN = 0.5
"""Seconds for the answers of all workers."""


class Site(Protocol):
    """The ``Groups`` that all workers have."""

    def survey(self, *, limit: int, timeout: float) -> Survey:
        """Ask all workers."""


def status(groups: Site | None = None) -> dict[str, Any]:
    """The health report.

    Args:
        groups: Those of the site, for the sums of all workers; in Django ``groups.get_groups()``.

    Returns:
        Some of the metrics, and three facts that are no metric: ``pid``; ``oldest_outbox``, for how many seconds a peer
        has not taken what waits for it, the longest of all; ``draining``, whether the worker closes all connections;
        with ``groups`` also ``site``. docs/operations.md has all keys.

    """
    connections = registry.current()
    now = Snapshot(connections)
    since = now.outbox.blocked_since
    report = {
        "pid": os.getpid(),
        **{metric.health: metric.read(now) for metric in METRICS if metric.health},
        "oldest_outbox": 0.0 if since is None else time.monotonic() - since,
        "draining": connections.is_draining,
    }
    if groups is not None:
        report["site"] = _site(groups, report)
    return report


def _site(groups: Site, own: dict[str, Any]) -> dict[str, Any]:
    """The sums of all workers; of this one alone where the others cannot be asked."""
    # In a greenlet of its own, which goes on where the backend does not answer in time.
    asked = gevent.spawn(_ask, groups)
    asked.join(WITHIN)
    found = asked.value
    if not isinstance(found, Survey):
        connections, lag, error = own["connections"], own["loop_lag"], found or f"no answer within {WITHIN:g} s"
        return {"workers": 1, "connections": connections, "loop_lag": lag, "missing": [], "error": error}
    return {
        "workers": len(found.workers),
        "connections": sum(worker.connections for worker in found.workers),
        "loop_lag": max((worker.lag for worker in found.workers), default=0.0),
        "missing": found.missing,
        "error": None,
    }


def _ask(groups: Site) -> Survey | str:
    """What all workers answer, or why they cannot be asked."""
    try:
        return groups.survey(limit=0, timeout=0.8 * WITHIN)
    except GroupsError as error:
        return str(error)


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A WSGI application.

    Returns:
        200 with ``status()`` as JSON; 503 with the same while the worker is draining.

    """
    return _respond(status(), start_response)


def site_application(groups: Site) -> WSGIApp:
    """The same with the sums of all workers.

    Args:
        groups: Those of the site.

    Returns:
        A WSGI application that answers with ``status(groups)``.

    """
    return lambda environ, start_response: _respond(status(groups), start_response)


def _respond(found: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    body = json.dumps(found).encode() + b"\n"
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    start_response("503 Service Unavailable" if found["draining"] else "200 OK", headers)
    return [body]
