"""How this worker is: for load balancers, probes and people. ``application`` answers with it as JSON.

It tells of the process that answers: with several workers, ask each by a listener of its own, or take the metrics.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from typing import Any

from ..process import registry
from ..typing import Environ, StartResponse

__all__ = ["application", "status"]


def status() -> dict[str, Any]:
    """``pid``; ``connections``, the WebSockets that are open; ``accepted``, how many have been since the start;
    ``loop_lag``, by how many seconds something kept the event loop busy when it was last looked at;
    ``oldest_outbox``, for how many seconds a peer has not taken what waits for it, the longest of all;
    ``outbox_bytes``, what waits for all of them; ``draining``, whether the worker is sending everybody home.
    """
    here = registry.current()
    now, waiting = time.monotonic(), [member._outbox_state for member in here]
    return {
        "pid": os.getpid(),
        "connections": len(here),
        "accepted": here.counters.accepted,
        "loop_lag": here.keepalive.lag,
        "oldest_outbox": max((now - since for _, since in waiting if since is not None), default=0.0),
        "outbox_bytes": sum(size for size, _ in waiting),
        "draining": here.draining,
    }


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A WSGI application: 200 with ``status()`` as JSON, 503 with the same while the worker is draining."""
    found = status()
    body = json.dumps(found).encode() + b"\n"
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    start_response("503 Service Unavailable" if found["draining"] else "200 OK", headers)
    return [body]
