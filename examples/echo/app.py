"""Echo in plain WSGI. gws_middleware is not imported, because the worker wraps the application."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"Connect with a WebSocket: what you send comes back.\n"]
    for message in ws:
        ws.send(message)
    return []
