"""WebSocket routes of Flask applications and blueprints (the extra ``flask``).

::

    from gws_middleware.flask import websocket_route

    @websocket_route(app, "/echo/<room>")
    def echo(ws, room):
        for message in ws:
            ws.send(message)

Rule: Flask finds the view, and the wrapper around the application opens the WebSocket. Nothing here uses a socket.
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
from .connection import control
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
    """Decorate a view that serves WebSockets.

    The view is called with the WebSocket and the variables of the rule. It returns None, or before the 101 a response.
    Plain HTTP is answered with 426, unless another route has the same rule. ConnectionClosed in the view is the end of
    the connection and not an error. Any other exception is logged by Flask, and closes the connection with 1011.

    Args:
        app: A Flask application or a blueprint.
        rule: The URL rule, as for ``app.route``.
        **options: Options of ``app.route``.

    Returns:
        A decorator, which returns the view unchanged.

    Raises:
        TypeError: The decorator raises it for an async view.

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
    """Register the error handlers: a peer that disconnects is not an error, and plain HTTP is answered with 426.

    ``websocket_route`` calls this. Call it for an application whose views use ``app.route(…, websocket=True)``.

    Args:
        app: The Flask application.

    """
    if _EXTENSION not in app.extensions:
        app.extensions[_EXTENSION] = {"logged": False}
        app.register_error_handler(ConnectionClosed, _disconnected)
        app.register_error_handler(WebsocketMismatch, _not_websocket)


class _NoResponse(Response):
    """The response of a view that returns None. It sends nothing: the wrapper answers, or has answered."""

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
            if not _has_ended(ws):  # the exception is of another connection
                raise
            result = None
        except Exception:
            if ws.accepted:
                ws.close(CloseCode.INTERNAL_ERROR)  # so that only Flask logs it, and not also the wrapper
            raise
        return _NoResponse() if result is None else result

    return serving


def _has_ended(ws: WebSocket) -> bool:
    return control.is_http_over(ws) and control.is_closed(ws)


def _no_server() -> Response:
    state = current_app.extensions[_EXTENSION]
    if not state["logged"]:  # once, because a client can repeat the handshake
        state["logged"] = True
        log.warning(NO_SERVER)
    return Response(f"{NO_SERVER}\n", 501, content_type="text/plain; charset=utf-8")


def _disconnected(error: ConnectionClosed) -> Response:
    ws = request.environ.get("wsgi.websocket")
    if isinstance(ws, WebSocket) and _has_ended(ws):
        return _NoResponse()
    raise error


def _not_websocket(error: WebsocketMismatch) -> Response | WebsocketMismatch:
    """The rule is for WebSockets and the request is HTTP, or the other way round."""
    if "websocket" in request.headers.get("Upgrade", "").lower():
        return error
    response = Response("This address serves only WebSockets.\n", 426, content_type="text/plain; charset=utf-8")
    if not request.environ.get("SERVER_SOFTWARE", "").startswith(STRICT_SERVERS):
        response.headers["Upgrade"] = "websocket"
        response.headers["Connection"] = "Upgrade"
    return response
