"""Which views speak WebSocket: ``accept_websocket`` and ``require_websocket``. They need no middleware.

Either puts ``request.websocket`` and ``request.is_websocket()`` there, lets the view return None, and ends the
transaction of ``ATOMIC_REQUESTS`` when a WebSocket is accepted.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers

from .databases import NonAtomic, in_transactions
from .serving import View, attach, serve

__all__ = ["accept_websocket", "require_websocket"]

STRICT_SERVERS = ("WSGIServer/", "waitress")
"""Servers, Django's own for one, that answer with 500 where an application sends a hop-by-hop header (PEP 3333). They
have no WebSockets to upgrade to.
"""


def accept_websocket(view: View) -> View:
    """Plain HTTP and WebSockets both reach the view; ``request.websocket`` is None for the former."""
    return _speaking(view, _atomic_http)


def require_websocket(view: View) -> View:
    """WebSockets alone reach the view. Plain HTTP is answered with 426 (RFC 9110 15.5.22), a request that asks for a
    WebSocket in a way that no server could grant with 400.
    """
    return _speaking(view, _refuse_http)


def _speaking(view: View, plain: Any) -> View:
    if iscoroutinefunction(view):
        raise TypeError(f"{view!r} is async: a WebSocket view is a synchronous function")
    non_atomic = NonAtomic(getattr(view, "_non_atomic_requests", ()))

    @wraps(view)
    def speaking(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        ws = attach(request)
        if ws is None:
            return plain(view, non_atomic, request, *args, **kwargs)
        return serve(request, ws, view, args, kwargs, non_atomic)

    speaking.accept_websocket = True  # type: ignore[attr-defined]
    speaking._non_atomic_requests = non_atomic  # type: ignore[attr-defined]
    return speaking


def _atomic_http(view: View, non_atomic: NonAtomic, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
    """Plain HTTP: what Django would have done. What is cached of it is not to answer a handshake (RFC 9110 12.5.5)."""
    with in_transactions(non_atomic):
        response = view(request, *args, **kwargs)
    if isinstance(response, HttpResponseBase):
        patch_vary_headers(response, ("Upgrade",))
    return response


def _refuse_http(view: View, non_atomic: NonAtomic, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
    if "websocket" in request.headers.get("Upgrade", "").lower():
        sentence = (
            "This request asks for a WebSocket, but there is none: the handshake is wrong, or the server has none."
        )
        return HttpResponse(f"{sentence}\n", status=400, content_type="text/plain")
    response = HttpResponse("This address speaks WebSocket alone.\n", status=426, content_type="text/plain")
    if not request.META.get("SERVER_SOFTWARE", "").startswith(STRICT_SERVERS):
        response["Upgrade"] = "websocket"
        response["Connection"] = "Upgrade"
    return response
