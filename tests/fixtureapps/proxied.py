"""What a proxy in front of gunicorn could change: the client's address, the bytes that pass, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterable

from gws_middleware import WebSocket
from gws_middleware.typing import Environ, StartResponse

from .common import Router, configure_logging, json_response, query, record, text_response

configure_logging()

pages = Router()


def facts(environ: Environ) -> dict[str, str | None]:
    """The request as the application sees it."""
    return {
        "address": environ["REMOTE_ADDR"],
        "forwarded for": environ.get("HTTP_X_FORWARDED_FOR"),
        "scheme": environ["wsgi.url_scheme"],
        "upgrade": environ.get("HTTP_UPGRADE"),
        "path": environ["PATH_INFO"],
        "query": environ["QUERY_STRING"],
    }


@pages.at("/facts")
def tell_facts(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Sends them over HTTP or over a WebSocket, as it is asked."""
    ws: WebSocket | None = environ.get("wsgi.websocket")
    if ws is None:
        return json_response(start_response, facts(environ))
    ws.send(json.dumps(facts(environ)))
    return []


@pages.at("/echo")
def echo(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Takes the subprotocol ``chat.v2``, sends back what comes, and records how it ended."""
    ws: WebSocket = environ["wsgi.websocket"]
    ws.accept("chat.v2" if "chat.v2" in ws.offered_subprotocols else None)
    for message in ws:
        ws.send(message)
    record(environ, f"{ws.close_code} {ws.close_reason}")
    return []


@pages.at("/close")
def close(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Closes with the code and the reason of the query."""
    ws: WebSocket = environ["wsgi.websocket"]
    ws.accept()
    ws.close(int(query(environ, "code")), query(environ, "reason"))
    return []


@pages.at("/pinging")
def pinging(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Sends back what comes, and a ping after each 0.3 seconds of silence."""
    ws: WebSocket = environ["wsgi.websocket"]
    while True:
        try:
            message = ws.receive(timeout=0.3)
        except TimeoutError:
            ws.ping()
            continue
        if message is None:
            return []
        ws.send(message)


@pages.at("/refuse")
def refuse(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answers a handshake with a page."""
    return text_response(start_response, "not you", "403 Forbidden")


def internal(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """What only the inside may see."""
    record(environ, "served")
    return text_response(start_response, "SMUGGLED")


MOUNTED = {"/internal/": internal, "/facts/": tell_facts}


def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Dispatches by prefix, as a program that mounts several applications does, and then by path."""
    for prefix, mounted in MOUNTED.items():
        if environ["PATH_INFO"].startswith(prefix):
            return mounted(environ, start_response)
    return pages(environ, start_response)
