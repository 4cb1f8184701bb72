"""An application whose limits count the site.

GROUPS is the URL of its groups, LIMITS a JSON object of limits. Each message is answered with the process.
"""

from __future__ import annotations

import json
import os
from typing import Any

from gws_middleware import WebSocketMiddleware
from gws_middleware.groups import Groups
from gws_middleware.typing import Environ, StartResponse

from .common import configure_logging

configure_logging()
groups = Groups(os.environ["GROUPS"])
limits: dict[str, Any] = json.loads(os.environ["LIMITS"])


def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """A WebSocket, or a request."""
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("200 OK", [])
        return []
    for _ in ws:
        ws.send(str(os.getpid()))
    return []


wrapped = WebSocketMiddleware(
    application,
    site_limits=groups,
    client_address=lambda environ: environ.get("HTTP_X_ADDRESS"),
    user_key=lambda ws: ws.environ.get("HTTP_X_USER"),
    **limits,
)
