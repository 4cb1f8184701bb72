"""Decorators for WebSocket views: ``accept_websocket`` and ``require_websocket``. They need no middleware.

Rule: a decorated view has ``request.websocket`` and ``request.is_websocket()``, may return None after it has accepted
or closed the WebSocket, and is in a transaction of ``ATOMIC_REQUESTS`` only until it accepts.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers

from . import unavailable
from .databases import NonAtomic, in_transactions
from .serving import View, attach, serve

__all__ = ["accept_websocket", "require_websocket"]

STRICT_SERVERS = ("WSGIServer/", "waitress")
"""Servers, Django's own among them, that answer with 500 where an application sends a hop-by-hop header (PEP 3333).
They cannot open WebSockets, so the header would be of no use.
"""


def accept_websocket(view: View) -> View:
    """Decorate a view that serves plain HTTP and WebSockets.

    Args:
        view: A synchronous view. ``request.websocket`` is None for plain HTTP.

    Returns:
        The decorated view. Its HTTP responses have ``Vary: Upgrade``.

    Raises:
        TypeError: The view is async.

    """
    return _decorate(view, _serve_http)


def require_websocket(view: View) -> View:
    """Decorate a view that serves only WebSockets. Plain HTTP is answered with 426 (RFC 9110 15.5.22).

    Args:
        view: A synchronous view.

    Returns:
        The decorated view.

    Raises:
        TypeError: The view is async.

    """
    return _decorate(view, _refuse_http)


def _decorate(view: View, http: Any) -> View:
    if iscoroutinefunction(view):
        raise TypeError(f"{view!r} is async: a WebSocket view is a synchronous function")
    non_atomic = NonAtomic(getattr(view, "_non_atomic_requests", ()))

    @wraps(view)
    def decorated(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        ws = attach(request)
        if ws is None:
            response = unavailable.answer(request)
            return http(view, non_atomic, request, *args, **kwargs) if response is None else response
        return serve(request, ws, view, args, kwargs, non_atomic)

    decorated.accept_websocket = True  # type: ignore[attr-defined]
    decorated._non_atomic_requests = non_atomic  # type: ignore[attr-defined]
    return decorated


def _serve_http(view: View, non_atomic: NonAtomic, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
    """Call the view as Django does. ``Vary`` keeps a cache from answering a handshake with it (RFC 9110 12.5.5)."""
    with in_transactions(non_atomic):
        response = view(request, *args, **kwargs)
    if isinstance(response, HttpResponseBase):
        patch_vary_headers(response, ("Upgrade",))
    return response


def _refuse_http(view: View, non_atomic: NonAtomic, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
    response = HttpResponse("This address serves only WebSockets.\n", status=426, content_type="text/plain")
    if not request.META.get("SERVER_SOFTWARE", "").startswith(STRICT_SERVERS):
        response["Upgrade"] = "websocket"
        response["Connection"] = "Upgrade"
    return response
