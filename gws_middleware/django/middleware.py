"""The middleware class, which is optional: every view finds ``request.websocket``, and views that did not ask for
WebSockets are spared them. It stands last in ``MIDDLEWARE``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.cache import patch_vary_headers

from . import conf
from .serving import View, attach, serve

__all__ = ["WebSocketMiddleware"]


class WebSocketMiddleware:
    """``"gws_middleware.django.middleware.WebSocketMiddleware"``.

    Sets ``request.websocket`` and ``request.is_websocket()`` on every request. A WebSocket for a view without
    ``accept_websocket`` or ``require_websocket`` is refused with 400, unless ``WEBSOCKET_ACCEPT_ALL`` is true.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        attach(request)
        response = self.get_response(request)
        if conf.accept_all():
            patch_vary_headers(response, ("Upgrade",))  # what is cached of it is not to answer a handshake
        return response

    def process_view(
        self, request: HttpRequest, view: View, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> HttpResponse | None:
        """Called by Django just before the view, in whose place this may stand."""
        ws = attach(request)
        if ws is None or getattr(view, "accept_websocket", False):
            return None
        if conf.accept_all():
            non_atomic = getattr(view, "_non_atomic_requests", ())
            response: HttpResponse = serve(request, ws, view, args, kwargs, non_atomic)
            return response
        return HttpResponse("This address does not speak WebSocket.\n", status=400, content_type="text/plain")
