"""The 501 for a handshake on a server that cannot open WebSockets.

Rule: a handshake that reaches Django without ``wsgi.websocket`` is answered with 501. The package's
``WebSocketMiddleware`` passes on no handshake without it. So that wrapper is missing: gunicorn runs without the worker
class, or Django's own ``runserver`` serves.
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
    """Return the 501 for a handshake without a WebSocket, and None for any other request."""
    if "wsgi.websocket" in request.META or "websocket" not in request.META.get("HTTP_UPGRADE", "").lower():
        return None
    log_once(request.META.get("SERVER_SOFTWARE", ""))
    response = HttpResponse(f"{SENTENCE.format(COMMAND)}\n", status=501, content_type="text/plain")
    # Django would log each one as an error and mail it to ADMINS, and browsers repeat the handshake.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


@cache
def log_once(software: str) -> None:
    """Log the command that starts this project on a server with WebSockets, once for each value of ``software``."""
    module, _, name = (settings.WSGI_APPLICATION or "project.wsgi.application").rpartition(".")
    sentence = SENTENCE.format(f"{COMMAND} {module}:{name}")
    log.warning("a WebSocket handshake was answered with 501 (server: %r). %s. %s", software, sentence, DEVELOPMENT)
