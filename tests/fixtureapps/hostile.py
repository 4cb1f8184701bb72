"""The views of ``behaviours``, and those that tests of hostile peers and of leaks need beside them."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from typing import Any

import gevent

from gws_middleware import WebSocketMiddleware, registry
from gws_middleware.protocol.connection import prepare
from gws_middleware.typing import Environ, StartResponse

from .behaviours import app
from .common import json_response, query, record

__all__ = ["app", "wrapped"]

wrapped = WebSocketMiddleware(app)


@app.at("/census")
def census(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Living objects that no count of ``/status`` sees: loop watchers that were stopped but not let go, our own
    objects that belong to no registered connection any more.
    """
    gc.collect()
    watcher = _watcher_class()
    kinds = [type(item) for item in gc.get_objects()]
    return json_response(
        start_response,
        {
            "watcher objects": sum(issubclass(kind, watcher) for kind in kinds),
            "our objects": sum(str(kind.__module__).startswith("gws_middleware.") for kind in kinds),
        },
    )


def _watcher_class() -> type:
    """The class below all watchers of this loop, be it written in Cython or in Python."""
    watcher = gevent.get_hub().loop.io(0, 1)
    try:
        return next(one for one in type(watcher).__mro__ if one.__name__ == "watcher")
    finally:
        watcher.close()


@app.at("/flooding")
def flooding(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Sends as fast as the peer takes it, and more."""
    ws = environ["wsgi.websocket"]
    try:
        while True:
            ws.send(b"x" * 16384)
    finally:
        record(environ, f"left by {type(sys.exc_info()[1]).__name__}")


@app.at("/broadcasting")
def broadcasting(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Offers what comes to every connection of this worker with the same ``?id=``."""
    room = environ["QUERY_STRING"]
    for message in environ["wsgi.websocket"]:
        frame = prepare(message)
        for member in registry.current():
            if member.environ["QUERY_STRING"] == room:  # type: ignore[attr-defined]
                member.offer(frame)  # type: ignore[attr-defined]
    record(environ, "ended")
    return []


@app.at("/idle")
def idle(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Accepts, and neither receives nor sends for a while (``?nap=``)."""
    ws = environ["wsgi.websocket"]
    ws.send("ready")
    gevent.sleep(float(query(environ, "nap", "0.02")))
    return []


@app.at("/obedient")
def obedient(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A detached connection that does what it is told."""

    def on_message(ws: Any, message: Any) -> None:
        if message == "close":
            ws.close(4000)
        elif message == "raise":
            raise LookupError("as told")
        else:
            ws.send(message)

    environ["wsgi.websocket"].detach(on_message=on_message)
    return []
