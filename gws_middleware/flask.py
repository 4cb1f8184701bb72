"""WebSocket routes of Flask applications and blueprints (the extra ``flask``).

::

    from gws_middleware.flask import websocket_route

    @websocket_route(app, "/echo/<room>")
    def echo(ws, room):
        for message in ws:
            ws.send(message)

Rule: Flask routes, and the wrapper around the application opens the WebSocket; nothing here touches a socket.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, TypeVar

from flask import Blueprint, Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import WebsocketMismatch

from .codes import CloseCode
from .connection.websocket import WebSocket
from .exceptions import ConnectionClosed
from .typing import Environ, StartResponse

__all__ = ["init_app", "websocket_route"]

log = logging.getLogger("gws_middleware")

NO_SERVER = (
    "This server cannot open WebSockets: run the application with `flask gws-run`, or with "
    "gunicorn -k gws_middleware.worker.GeventWebSocketWorker."
)
STRICT_SERVERS = ("WSGIServer/", "waitress")
"""Servers that answer with 500 where an application sends a hop-by-hop header (PEP 3333)."""

_EXTENSION = "gws_middleware"
View = TypeVar("View", bound=Callable[..., Any])


def websocket_route(app: Flask | Blueprint, rule: str, **options: Any) -> Callable[[View], View]:
    """A decorator: ``app.route(rule, websocket=True, **options)`` for a view of the WebSocket and the rule's variables.

    The view may return None, before the 101 also an ordinary response. Plain HTTP is answered with 426, unless another
    route has the same rule. ConnectionClosed in the view is the end of the connection and no error. What else the view
    raises is logged by Flask, and closes with 1011. TypeError for an async view.
    """

    def decorate(view: View) -> View:
        if iscoroutinefunction(view):
            raise TypeError(f"{view!r} is async: a WebSocket view is a synchronous function")
        if isinstance(app, Blueprint):
            app.record_once(lambda state: init_app(state.app))  # type: ignore[arg-type]
        else:
            init_app(app)
        app.route(rule, websocket=True, **options)(_serving(view))
        return view

    return decorate


def init_app(app: Flask) -> None:
    """Register the error handlers, for an application whose views are routed by ``app.route(…, websocket=True)`` alone:
    a peer that disconnects is no error, and plain HTTP gets 426. ``websocket_route`` calls this by itself.
    """
    if _EXTENSION not in app.extensions:
        app.extensions[_EXTENSION] = {"logged": False}
        app.register_error_handler(ConnectionClosed, _disconnected)
        app.register_error_handler(WebsocketMismatch, _not_websocket)


class _NoResponse(Response):
    """What a view that returns None has answered: the wrapper knows whether that is an end or a refusal."""

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self.close()
        return []


def _serving(view: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(view)
    def serving(**variables: Any) -> Any:
        ws = request.environ.get("wsgi.websocket")
        if not isinstance(ws, WebSocket):
            return _no_server()
        try:
            result = view(ws, **variables)
        except HTTPException:
            raise
        except ConnectionClosed:
            if not _has_ended(ws):  # another connection's
                raise
            result = None
        except Exception:
            if ws.accepted:
                ws.close(CloseCode.INTERNAL_ERROR)  # Flask logs it: the wrapper has nothing to add
            raise
        return _NoResponse() if result is None else result

    return serving


def _has_ended(ws: WebSocket) -> bool:
    return ws.vanished or (ws.accepted and ws.closed)


def _no_server() -> Response:
    state = current_app.extensions[_EXTENSION]
    if not state["logged"]:  # once: a client can repeat it at will
        state["logged"] = True
        log.warning(NO_SERVER)
    return Response(f"{NO_SERVER}\n", 501, content_type="text/plain; charset=utf-8")


def _disconnected(error: ConnectionClosed) -> Response:
    ws = request.environ.get("wsgi.websocket")
    if isinstance(ws, WebSocket) and _has_ended(ws):
        return _NoResponse()
    raise error


def _not_websocket(error: WebsocketMismatch) -> Response | WebsocketMismatch:
    """The path has a rule, but for the other one of HTTP and WebSocket."""
    if "websocket" in request.headers.get("Upgrade", "").lower():
        return error
    response = Response("This address serves only WebSockets.\n", 426, content_type="text/plain; charset=utf-8")
    if not request.environ.get("SERVER_SOFTWARE", "").startswith(STRICT_SERVERS):
        response.headers["Upgrade"] = "websocket"
        response.headers["Connection"] = "Upgrade"
    return response
