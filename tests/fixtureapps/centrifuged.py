"""A plain WSGI application for clients of Centrifuge's protocol, with methods that cut, close and publish.

GROUPS is the backend's URL.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from typing import Any

import gevent

from gws_middleware import WebSocket, WebSocketMiddleware
from gws_middleware.groups import Groups, History, Presence
from gws_middleware.groups.centrifuge import CentrifugeError, Policy, serve
from gws_middleware.typing import Environ, StartResponse

from .common import Router, configure_logging

configure_logging()

__all__ = ["app", "wrapped"]

log = logging.getLogger(__name__)
app = Router()
wrapped = WebSocketMiddleware(app)
groups = Groups(
    os.environ.get("GROUPS", "memory://"),
    history={"room": History(size=100)},
    presence={"hall": Presence(events=True, leave_delay=0.1)},
)


class Rooms(Policy):
    """Allows every channel but "secret"."""

    def connected(self, ws: WebSocket) -> None:
        if ws.path == "/refused":
            raise CentrifugeError(101)
        if ws.path == "/slow":
            log.warning("a connect command waits")
            gevent.sleep(0.5)

    def info(self, ws: WebSocket) -> dict[str, Any]:
        return {"user": "bob" if ws.path == "/bob" else "ada"}

    def may_join(self, ws: WebSocket, name: str) -> bool:
        return name != "secret"

    def may_publish(self, ws: WebSocket, name: str, data: Any) -> bool:
        return name != "secret"

    def may_see_members(self, ws: WebSocket, name: str) -> bool:
        return name.startswith("hall")

    def rpc(self, ws: WebSocket, method: str, data: Any) -> Any:
        if method not in METHODS:
            raise CentrifugeError(104)
        return METHODS[method](ws, data)


def cut(ws: WebSocket, data: Any) -> None:
    """Cut the connection without a close frame, and publish what it misses."""
    ws.abort()
    publish(ws, data)


def publish(ws: WebSocket, data: Any) -> None:
    """Publish numbers, one by one."""
    for number in range(data["first"], data["first"] + data["count"]):
        groups.send(data["channel"], number)


def sold_out(ws: WebSocket, data: Any) -> None:
    """An error of the application."""
    raise CentrifugeError(1404, "sold out")


def fail(ws: WebSocket, data: Any) -> None:
    """A mistake of the application."""
    raise LookupError("no such row")


METHODS: dict[str, Callable[[WebSocket, Any], Any]] = {
    "echo": lambda ws, data: data,
    "sleep": lambda ws, data: gevent.sleep(data),
    "pid": lambda ws, data: os.getpid(),
    "count": lambda ws, data: groups.count(data),
    "close": lambda ws, data: ws.close(data, "a test"),
    "cut": cut,
    "publish": publish,
    "sold out": sold_out,
    "fail": fail,
}


def live(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A client of the protocol."""
    serve(environ["wsgi.websocket"], groups, Rooms())
    return []


def quick(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The same with a ping in each second."""
    serve(environ["wsgi.websocket"], groups, Rooms(), ping=1)
    return []


app.at("/live")(live)
app.at("/refused")(live)
app.at("/slow")(live)
app.at("/bob")(live)
app.at("/quick")(quick)
