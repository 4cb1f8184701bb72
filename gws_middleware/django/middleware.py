"""The middleware class, which is optional.

Rule: every request has ``request.websocket``, and a WebSocket reaches only views that are decorated for it. The class
is the last in ``MIDDLEWARE``, because it answers in place of some views.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.cache import patch_vary_headers

from . import conf, unavailable
from .serving import View, attach, serve

__all__ = ["WebSocketMiddleware"]


class WebSocketMiddleware:
    """Sets ``request.websocket`` and ``request.is_websocket()`` on every request.

    A WebSocket for a view without ``accept_websocket`` or ``require_websocket`` is refused with 400, unless the Django
    setting ``WEBSOCKET_ACCEPT_ALL`` is true.

    Args:
        get_response: The next middleware, or the view handler.

    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        attach(request)
        response = self.get_response(request)
        if conf.accept_all():
            patch_vary_headers(response, ("Upgrade",))  # a cached page must not answer a handshake
        return response

    def process_view(
        self, request: HttpRequest, view: View, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> HttpResponse | None:
        """Call the view of a WebSocket, or refuse the WebSocket; Django calls this right before the view.

        Returns:
            The response, or None where Django is to call the view.

        """
        ws = attach(request)
        if ws is None:
            return unavailable.answer(request)
        if getattr(view, "accept_websocket", False):
            return None
        if conf.accept_all():
            non_atomic = getattr(view, "_non_atomic_requests", ())
            response: HttpResponse = serve(request, ws, view, args, kwargs, non_atomic)
            return response
        return HttpResponse("This address serves no WebSockets.\n", status=400, content_type="text/plain")
