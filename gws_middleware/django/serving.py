"""Sets ``request.websocket`` and calls the view, for decorators, the middleware class and undecorated views alike.

Rule 1: before the 101, a response or an exception of the view is ordinary HTTP. After the 101 the response is
discarded, and an exception closes the connection with 1011 and is logged by Django.
Rule 2: the end of the connection is not an error of the view.
"""

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
    """A request of a view, for annotations.

    Attributes:
        websocket: The WebSocket, or None for plain HTTP.
        is_websocket: A function without arguments that returns whether the request is a WebSocket.

    """

    websocket: WebSocket | None
    is_websocket: Callable[[], bool]


class WebSocketResponse(HttpResponse):
    """The response that Django gets from the view of an accepted WebSocket. It is never sent: the 101 was sent."""

    status_code = 101


def connect() -> None:
    """Patch ``BaseHandler.make_view_atomic``, which Django calls with each view right before it calls the view, so that
    undecorated views are served too.
    """
    BaseHandler.make_view_atomic = _patched(BaseHandler.make_view_atomic)  # type: ignore[method-assign,assignment]


def _patched(make_view_atomic: Callable[[BaseHandler, View], View]) -> Callable[[BaseHandler, View], View]:
    """The method that wraps a view for plain HTTP as the original does (Django's transaction of ``ATOMIC_REQUESTS``,
    and patches of other packages), and serves WebSockets with the transaction of ``databases``.
    """

    @wraps(make_view_atomic)
    def make_view(handler: BaseHandler, view: View) -> View:
        atomic = make_view_atomic(handler, view)
        if getattr(view, "accept_websocket", False) or iscoroutinefunction(atomic):
            return atomic

        def serving(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            ws = attach(request)
            if not isinstance(ws, WebSocket):  # plain HTTP, or the object of another package, e.g. gevent-websocket
                response = unavailable.answer(request)
                return atomic(request, *args, **kwargs) if response is None else response
            non_atomic = getattr(view, "_non_atomic_requests", ())
            called = make_view_atomic(handler, _non_atomic(view)) if databases.atomic_requests(non_atomic) else atomic
            return serve(request, ws, called, args, kwargs, non_atomic)

        return serving

    return make_view


def _non_atomic(view: View) -> View:
    """A view that calls this one, and for which Django opens no transaction."""

    @wraps(view)
    def called(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return view(request, *args, **kwargs)

    called._non_atomic_requests = databases.NonAtomic()  # type: ignore[attr-defined]
    return called


def attach(request: HttpRequest) -> WebSocket | None:
    """Set ``request.websocket`` and ``request.is_websocket()``.

    Args:
        request: The request of a view.

    Returns:
        ``request.websocket``: None for plain HTTP.

    """
    if not hasattr(request, "websocket"):
        ws = request.META.get("wsgi.websocket")
        annotated = cast(WebSocketRequest, request)
        annotated.websocket = ws
        annotated.is_websocket = _is_http if ws is None else _is_websocket
        if isinstance(ws, WebSocket):
            ws.request = request  # type: ignore[attr-defined]
            if ws.accepted:  # by the server, before Django saw the request: the user is known only now
                users.opened(ws)
    return cast(WebSocketRequest, request).websocket


def _is_websocket() -> bool:
    """``request.is_websocket`` of a WebSocket: one function for all, which no open connection has to keep."""
    return True


def _is_http() -> bool:
    """``request.is_websocket`` of plain HTTP."""
    return False


def serve(
    request: HttpRequest,
    ws: WebSocket,
    view: View,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    non_atomic: Iterable[str] = (),
) -> Any:
    """Call the view of a WebSocket.

    Args:
        request: The handshake.
        ws: Its WebSocket.
        view: The view, which may return None after it has accepted or closed the WebSocket.
        args: Positional arguments of the view.
        kwargs: Keyword arguments of the view.
        non_atomic: The databases in which the view is in no transaction of ``ATOMIC_REQUESTS`` before it accepts.

    Returns:
        The response for Django: the view's own before the 101, a ``WebSocketResponse`` after it.

    Raises:
        ValueError: The view returned None, but neither accepted nor closed the WebSocket.

    """
    if not conf.host_allowed(request, ws):
        ws.close(CloseCode.POLICY_VIOLATION, "this host is not allowed")
        view = _refuse_host
    try:
        with databases.atomic_until_accepted(ws, non_atomic):
            response = view(request, *args, **kwargs)
    except GreenletExit:
        if not ws.accepted:
            databases.finish_refused_request()
            raise
        ws.close(control.config_of(ws).shutdown_close_code)
        response = None  # so that Django ends the request as any other, while the worker is stopping
    except Exception as error:
        if not (isinstance(error, ConnectionClosed) and control.is_closed(ws)):
            ws.close(CloseCode.INTERNAL_ERROR)
            raise
        response = None  # the connection ended while the view was sending
    except BaseException:
        if not ws.accepted:
            databases.finish_refused_request()
        raise
    finally:
        _release(request, ws)
    if control.is_http_over(ws):
        return _discard(response)
    if response is not None:
        return response
    if control.is_closed(ws):
        return HttpResponseForbidden("The WebSocket was refused.\n", content_type="text/plain")
    raise ValueError(f"the view {view!r} returned None, but neither accepted nor closed the WebSocket")


def _refuse_host(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
    """The view for a handshake whose host is not allowed."""
    sentence = "The Host header of this request is not in ALLOWED_HOSTS, so the page may not open a WebSocket here.\n"
    return HttpResponseForbidden(sentence, content_type="text/plain")


def _discard(response: Any) -> WebSocketResponse:
    """Replace the view's response, which is not sent, by one with status 101, which e.g. no cache stores. Closing it
    closes the resources of the view's response.
    """
    answer = WebSocketResponse()
    if isinstance(response, HttpResponseBase):
        answer._resource_closers.extend(response._resource_closers)  # type: ignore[attr-defined]
    return answer


def _release(request: HttpRequest, ws: WebSocket) -> None:
    """Called when the view has ended."""
    if ws.detached:
        users.keep_login(ws)
    if ws.accepted:
        sessions.replace_by_copy(request)
    # The request, its META and the WebSocket refer to each other. Without the cycle they are freed at once.
    if getattr(ws, "request", None) is request:
        del ws.request  # type: ignore[attr-defined]
