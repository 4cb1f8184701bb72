"""The answer to a handshake that reaches Django without a WebSocket: nothing around the application can open one.

``WebSocketMiddleware`` of the package lets no handshake pass without one, so it is not there: the worker class was
forgotten, or Django's own ``runserver`` serves.
"""

from __future__ import annotations

import logging
from functools import cache

from django.conf import settings
from django.http import HttpRequest, HttpResponse

__all__ = ["answer", "log_once"]

log = logging.getLogger("gws_middleware")

SENTENCE = "This server cannot open WebSockets. Start it with: {}"
COMMAND = "gunicorn -k gws_middleware.worker.GeventWebSocketWorker"
DEVELOPMENT = (
    'For development use "manage.py runserver" with "gws_middleware.django" above "django.contrib.staticfiles" in '
    "INSTALLED_APPS."
)


def answer(request: HttpRequest) -> HttpResponse | None:
    """The 501 for a request that asks for a WebSocket and has none; None for any other request."""
    if "wsgi.websocket" in request.META or "websocket" not in request.META.get("HTTP_UPGRADE", "").lower():
        return None
    log_once(request.META.get("SERVER_SOFTWARE", ""))
    response = HttpResponse(f"{SENTENCE.format(COMMAND)}\n", status=501, content_type="text/plain")
    # Django would log each of them as an error, and mail it to ADMINS: browsers ask again and again.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


@cache
def log_once(software: str) -> None:
    """Log the command for this project; the log is the first place to look when a handshake fails."""
    module, _, name = (settings.WSGI_APPLICATION or "project.wsgi.application").rpartition(".")
    sentence = SENTENCE.format(f"{COMMAND} {module}:{name}")
    log.warning("a WebSocket handshake was answered with 501 (server: %r). %s. %s", software, sentence, DEVELOPMENT)
