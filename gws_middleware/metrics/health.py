"""The health report of this worker, for load balancers and probes. ``application`` answers with it as JSON.

Rule: it is a report of the process that answers. With several workers, ask each by a listener of its own, or read the
metrics.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from typing import Any

from ..process import registry
from ..typing import Environ, StartResponse
from .table import METRICS, Snapshot

__all__ = ["application", "status"]


def status() -> dict[str, Any]:
    """The health report.

    Returns:
        Some of the metrics, and three facts that are no metric: ``pid``; ``oldest_outbox``, for how many seconds a peer
        has not taken what waits for it, the longest of all; ``draining``, whether the worker closes all connections.
        docs/operations.md has all keys.

    """
    connections = registry.current()
    now = Snapshot(connections)
    since = now.outbox.blocked_since
    return {
        "pid": os.getpid(),
        **{metric.health: metric.read(now) for metric in METRICS if metric.health},
        "oldest_outbox": 0.0 if since is None else time.monotonic() - since,
        "draining": connections.is_draining,
    }


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A WSGI application.

    Returns:
        200 with ``status()`` as JSON; 503 with the same while the worker is draining.

    """
    found = status()
    body = json.dumps(found).encode() + b"\n"
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    start_response("503 Service Unavailable" if found["draining"] else "200 OK", headers)
    return [body]
