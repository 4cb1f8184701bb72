"""A view on a WebSocket: what stands between it and Django, be it called by a decorator, the middleware or neither."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, cast

from asgiref.sync import iscoroutinefunction
from django.core.handlers.base import BaseHandler
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden
from django.http.response import HttpResponseBase
from gevent import GreenletExit

from ..codes import CloseCode
from ..connection import control
from ..connection.websocket import WebSocket
from ..exceptions import ConnectionClosed
from . import conf, databases, sessions, unavailable, users

__all__ = ["View", "WebSocketRequest", "WebSocketResponse", "attach", "connect", "serve"]

View = Callable[..., Any]


class WebSocketRequest(HttpRequest):
    """For annotations: what a request has here beside Django's own."""

    websocket: WebSocket | None
    """None for plain HTTP."""
    is_websocket: Callable[[], bool]


class WebSocketResponse(HttpResponse):
    """What Django gets from a view whose answer was a WebSocket. It is never sent: the 101 was."""

    status_code = 101


def connect() -> None:
    """Serve undecorated views too: Django asks this of its handlers for each view, right before it calls it."""
    BaseHandler.make_view_atomic = _serving(BaseHandler.make_view_atomic)  # type: ignore[method-assign,assignment]


def _serving(make_view_atomic: Callable[[BaseHandler, View], View]) -> Callable[[BaseHandler, View], View]:
    """Django's step wraps a view in the transaction of ``ATOMIC_REQUESTS``, and other packages' are around it; for a
    WebSocket the transaction is ours.
    """

    @wraps(make_view_atomic)
    def make_view(handler: BaseHandler, view: View) -> View:
        atomic = make_view_atomic(handler, view)
        if getattr(view, "accept_websocket", False) or iscoroutinefunction(atomic):
            return atomic

        def speaking(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            ws = attach(request)
            if not isinstance(ws, WebSocket):  # plain HTTP, or e.g. gevent-websocket's own server
                response = unavailable.answer(request)
                return atomic(request, *args, **kwargs) if response is None else response
            called = make_view_atomic(handler, _non_atomic(view))
            return serve(request, ws, called, args, kwargs, getattr(view, "_non_atomic_requests", ()))

        return speaking

    return make_view


def _non_atomic(view: View) -> View:
    """The view, for which Django opens no transaction."""

    @wraps(view)
    def called(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return view(request, *args, **kwargs)

    called._non_atomic_requests = databases.NonAtomic()  # type: ignore[attr-defined]
    return called


def attach(request: HttpRequest) -> WebSocket | None:
    """Give the request its ``websocket``, which is None for plain HTTP, and ``is_websocket()``."""
    if not hasattr(request, "websocket"):
        ws = request.META.get("wsgi.websocket")
        known = cast(WebSocketRequest, request)
        known.websocket = ws
        known.is_websocket = lambda: ws is not None
        if isinstance(ws, WebSocket):
            ws.request = request  # type: ignore[attr-defined]
            if ws.accepted:  # by the server, before Django saw the request: only now it is known whose it is
                users.opened(ws)
    return cast(WebSocketRequest, request).websocket


def serve(
    request: HttpRequest,
    ws: WebSocket,
    view: View,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    non_atomic: Iterable[str] = (),
) -> Any:
    """Call the view, in the transactions of ``ATOMIC_REQUESTS`` until it accepts, but for the databases in
    ``non_atomic``. It may return None once it has accepted or closed the WebSocket.

    What it raises before the 101 is an ordinary HTTP error; after it the connection closes with 1011, and Django logs
    the error as it logs every view's.
    """
    if not conf.host_allowed(request, ws):
        ws.close(CloseCode.POLICY_VIOLATION, "this host is not allowed")
        view = _refuse_host
    try:
        with databases.atomic_until_accepted(ws, non_atomic):
            response = view(request, *args, **kwargs)
    except GreenletExit:
        if not ws.accepted:
            databases.abandon_request()
            raise
        ws.close(control.config_of(ws).shutdown_close_code)
        response = None  # Django ends the request as any other: the worker stops, and has no more to say
    except Exception as error:
        if not (isinstance(error, ConnectionClosed) and control.is_closed(ws)):
            ws.close(CloseCode.INTERNAL_ERROR)
            raise
        response = None  # the peer has gone while the view was sending
    except BaseException:
        if not ws.accepted:
            databases.abandon_request()
        raise
    finally:
        _leave(request, ws)
    if control.is_http_over(ws):
        return _swallowed(response)
    if response is not None:
        return response
    if control.is_closed(ws):
        return HttpResponseForbidden("The WebSocket was refused.\n", content_type="text/plain")
    raise ValueError(f"the view {view!r} returned None, and neither accepted nor closed the WebSocket")


def _refuse_host(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
    """In place of the view."""
    sentence = "The Host header of this request is not in ALLOWED_HOSTS, so its page may not open a WebSocket here.\n"
    return HttpResponseForbidden(sentence, content_type="text/plain")


def _swallowed(response: Any) -> WebSocketResponse:
    """What nobody sends looks like what it is, so that e.g. no cache keeps it; what the view's response has opened is
    closed with it.
    """
    answer = WebSocketResponse()
    if isinstance(response, HttpResponseBase):
        answer._resource_closers.extend(response._resource_closers)  # type: ignore[attr-defined]
    return answer


def _leave(request: HttpRequest, ws: WebSocket) -> None:
    if ws.detached:
        users.remember(ws)
    if ws.accepted:
        sessions.retire(request)
    # The request, its META and the WebSocket refer to each other: part them, so that none waits for the collector.
    if getattr(ws, "request", None) is request:
        del ws.request  # type: ignore[attr-defined]
