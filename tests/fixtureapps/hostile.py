"""The views of ``behaviours``, and those that tests of hostile peers and of leaks need beside them."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterable
from typing import Any

import gevent

from gws_middleware import WebSocketMiddleware
from gws_middleware.process import registry
from gws_middleware.protocol.connection import prepare
from gws_middleware.typing import Environ, StartResponse

from .behaviours import app, echo
from .common import UGLY, json_response, query, record, text_response

__all__ = ["app", "wrapped"]

wrapped = WebSocketMiddleware(app)


@app.at("/census")
def census(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Living objects that no count of ``/status`` sees: loop watchers that were stopped but not released, our own
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


@app.at("/cpu")
def cpu(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The seconds of a processor that this worker has used."""
    return json_response(start_response, time.process_time())


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
    """A detached connection that does what it is asked to."""

    def on_message(ws: Any, message: Any) -> None:
        if message == "close":
            ws.close(4000)
        elif message == "raise":
            raise LookupError("as asked")
        else:
            ws.send(message)

    environ["wsgi.websocket"].detach(on_message=on_message)
    return []


# --- more than its share (rows 26 and 27) --------------------------------------------------------------------------


@app.at("/computing")
def computing(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Computes for each message (``?each=``, seconds); ``?detached=1``: without a view."""
    ws, each = environ["wsgi.websocket"], float(query(environ, "each", "0.001"))

    def compute(ws: Any, message: Any) -> None:
        end = time.monotonic() + each
        while time.monotonic() < end:
            pass

    if query(environ, "detached"):
        ws.detach(compute)
    else:
        for message in ws:
            compute(ws, message)
    return []


@app.at("/hurrying")
def hurrying(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Sends small messages without a pause; ``?offer=1``: by what never waits."""
    ws, prepared = environ["wsgi.websocket"], prepare("x" * 10)
    ws.accept()
    if query(environ, "offer"):
        while ws.offer(prepared):
            pass
    else:
        while True:
            ws.send("x" * 10)
    return []


@app.at("/limited")
def limited(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Echoes at a rate (``?rate=``, messages a second, ``?burst=``, seconds); ``?detached=1``: without a view."""
    ws = environ["wsgi.websocket"]
    ws.limits(message_rate=float(query(environ, "rate")), rate_burst=float(query(environ, "burst")))
    if query(environ, "detached"):
        ws.detach(lambda ws, message: ws.send(message))
        return []
    return echo(environ, start_response)


# --- what an application passes on unchecked (row 15) --------------------------------------------------------------


def _mirror(environ: Environ) -> None:
    """Accept with what the peer has asked for in its query."""
    header = (query(environ, "name", "X-Room"), query(environ, "room", "lobby"))
    environ["wsgi.websocket"].accept(query(environ, "subprotocol") or None, [("X-First", "fine"), header])


@app.at("/mirroring")
def mirroring(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Leaves the ValueError to the server."""
    _mirror(environ)
    return []


@app.at("/mirroring/and-go-on")
def mirroring_and_go_on(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Accepts without it instead."""
    ws = environ["wsgi.websocket"]
    try:
        _mirror(environ)
    except ValueError as error:
        ws.send(str(error))
    return echo(environ, start_response)


@app.at("/mirroring/and-answer")
def mirroring_and_answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answers with a page of its own instead."""
    try:
        _mirror(environ)
    except ValueError as error:
        return text_response(start_response, str(error), "400 Bad Request")
    return []


# --- what reaches a log (row 17) -----------------------------------------------------------------------------------

_IN_PATH = UGLY.encode().decode("latin-1")  # as WSGI has it


@app.at("/parting")
def parting(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A detached connection whose end is an error."""

    def on_close(ws: Any) -> None:
        raise LookupError("at the end")

    environ["wsgi.websocket"].detach(on_close=on_close)
    return []


for _path in ("/after/raise", "/after/status", "/answer/nothing", "/flooding", "/obedient", "/parting", "/pushing"):
    app.at(f"{_path}/{_IN_PATH}")(app.view(_path))


# --- responses after the 101 (row 23) -----------------------------------------------------------------------------


@app.at("/after/again")
def again(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Starts a response for each message, as an error handler that catches its own error does."""
    ws = environ["wsgi.websocket"]
    ws.send("ready")
    for status in ("200 OK", "404 Not Found", "500 Internal Server Error"):
        try:
            raise LookupError("the reason")
        except LookupError:
            start_response(status, [("Content-Type", "text/plain")], sys.exc_info())
    return [b"HTTP"]
