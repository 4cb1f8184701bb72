"""Which views speak WebSocket: ``accept_websocket`` and ``require_websocket``. They need no middleware.

Either puts ``request.websocket`` and ``request.is_websocket()`` there, lets the view return None, and keeps
``ATOMIC_REQUESTS`` out of a WebSocket, whose request lasts as long as the connection.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers

from . import unavailable
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
    """WebSockets alone reach the view. Plain HTTP is answered with 426 (RFC 9110 15.5.22)."""
    return _speaking(view, _refuse_http)


def _speaking(view: View, plain: Any) -> View:
    if iscoroutinefunction(view):
        raise TypeError(f"{view!r} is async: a WebSocket view is a synchronous function")
    not_atomic = _NotAtomic(getattr(view, "_non_atomic_requests", ()))

    @wraps(view)
    def speaking(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        ws = attach(request)
        if ws is None:
            response = unavailable.answer(request)
            return plain(view, not_atomic, request, *args, **kwargs) if response is None else response
        return serve(request, ws, view, args, kwargs)

    speaking.accept_websocket = True  # type: ignore[attr-defined]
    speaking._non_atomic_requests = not_atomic  # type: ignore[attr-defined]
    return speaking


class _NotAtomic(set[str]):
    """The databases in which Django is to open no transaction: all. As a plain set, those that the project named."""

    def __contains__(self, alias: object) -> bool:
        return True

    def named(self, alias: str) -> bool:
        """Whether ``transaction.non_atomic_requests`` was told so."""
        return super().__contains__(alias)


def _atomic_http(view: View, not_atomic: _NotAtomic, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
    """Plain HTTP: what Django would have done. What is cached of it is not to answer a handshake (RFC 9110 12.5.5)."""
    for alias, database in connections.settings.items():
        if database["ATOMIC_REQUESTS"] and not not_atomic.named(alias):
            view = transaction.atomic(using=alias)(view)
    response = view(request, *args, **kwargs)
    if isinstance(response, HttpResponseBase):
        patch_vary_headers(response, ("Upgrade",))
    return response


def _refuse_http(view: View, not_atomic: _NotAtomic, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
    response = HttpResponse("This address speaks WebSocket alone.\n", status=426, content_type="text/plain")
    if not request.META.get("SERVER_SOFTWARE", "").startswith(STRICT_SERVERS):
        response["Upgrade"] = "websocket"
        response["Connection"] = "Upgrade"
    return response
