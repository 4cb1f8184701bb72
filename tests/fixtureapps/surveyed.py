"""An application whose connections join a group, and which asks all workers. GROUPS is the URL of the groups.

They are made when the module is loaded: with ``--preload`` that is before the fork.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable

from gws_middleware import WebSocketMiddleware
from gws_middleware.groups import Groups, GroupsUnavailable
from gws_middleware.metrics import health
from gws_middleware.typing import Environ, StartResponse

from .common import Router, configure_logging, json_response, query, text_response

__all__ = ["app", "groups", "wrapped"]

if "--preload" not in sys.argv:  # gunicorn's arbiter leaks its sockets
    configure_logging()
groups = Groups(os.environ.get("GROUPS", "auto"))
app = Router()
wrapped = WebSocketMiddleware(app)
app.at("/health")(health.site_application(groups))


@app.at("/room")
def room(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A member; the first message is the process."""
    ws = environ["wsgi.websocket"]
    groups.join("room.1", ws)
    ws.send(str(os.getpid()))
    for message in ws:
        ws.send(message)
    return []


@app.at("/survey")
def survey(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The processes that have answered, and the ids of their connections."""
    try:
        found = groups.survey(timeout=float(query(environ, "timeout", "5")))
    except GroupsUnavailable as error:
        return text_response(start_response, str(error), "503 Service Unavailable")
    pids = [worker.pid for worker in found.workers]
    return json_response(start_response, [pids, sorted(each.id for each in found.connections), found.missing])


@app.at("/close")
def close(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Close one connection."""
    groups.close_connection(query(environ, "connection"), 4001, "closed by another worker")
    return text_response(start_response, str(os.getpid()))


@app.at("/busy")
def busy(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Block the event loop; the answer is the process."""
    time.sleep(float(query(environ, "seconds")))
    return text_response(start_response, str(os.getpid()))
