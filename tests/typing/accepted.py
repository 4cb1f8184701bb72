"""Programs of users that type-check: plain WSGI, the test client and a worker class."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gws_middleware import ConnectionClosed, HandshakeRefused, PreparedMessage, WebSocket, WebSocketMiddleware, prepare
from gws_middleware.config import Options, ViewOptions
from gws_middleware.groups import Groups
from gws_middleware.testing import connect
from gws_middleware.typing import Environ, Message, StartResponse
from gws_middleware.worker import GeventWebSocketWorker

# ruff: noqa: RUF012


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A WSGI application."""
    ws: WebSocket = environ["wsgi.websocket"]
    ws.limits(max_message_size=2**24, ping_interval=None, message_rate=5)
    for message in ws:
        if isinstance(message, str):
            ws.send(message.upper())
        else:
            ws.send(message, binary=False)
    return []


def user_of(ws: WebSocket) -> str:
    """A function for ``user_key``."""
    return ws.path


options: Options = {"max_message_size": 5, "allowed_origins": ["*"], "compression": "shared"}
view_options: ViewOptions = {"send_timeout": 1}

wrapped = WebSocketMiddleware(application, max_message_size=65536, ping_timeout=0.5, compression="off")
WebSocketMiddleware(application, **options)
WebSocketMiddleware(application, allowed_origins=["https://example.com", re.compile("https://.*")])
WebSocketMiddleware(application, allowed_origins=[re.compile("https://.*")])
WebSocketMiddleware(application, allowed_origins=("null", "same-origin"))
WebSocketMiddleware(application, max_connections=500, site_limits=Groups("memory://"))
WebSocketMiddleware(application, max_connections=500, site_limits="project.live.groups")
WebSocketMiddleware(application, max_connections_per_user=5, user_key=user_of, client_address="project.proxies.address")


class Worker(GeventWebSocketWorker):
    """Settings of a worker class of the project."""

    options = {"max_message_size": 65536, "max_connections": 500}


def receives(ws: WebSocket) -> Message | None:
    """All ways to receive and to send."""
    ws.limits(**view_options)
    ws.accept(subprotocol="json.v1", headers=[("X-Room", "lobby")])
    try:
        message: str | bytes | None = ws.receive(timeout=0.5)
    except ConnectionClosed as closed:
        code: int = closed.code
        reason: str = closed.reason
        sides: tuple[int, str] | None = closed.received or closed.sent
        ws.send_json({"code": code, "reason": reason, "sides": sides})
        return None
    prepared: PreparedMessage = prepare("x")
    queued: bool = ws.offer(prepared) and ws.offer("text") and ws.offer(b"binary")
    ws.detach(on_message=on_message, on_close=on_close)
    ws.close(1000 if queued else 4000, "that was all")
    return message


def on_message(ws: WebSocket, message: Message) -> None:
    """A callback."""
    ws.send(message)
    ws.send(bytearray(b"x"))
    ws.send(5)
    ws.offer(2.5)


def on_close(ws: WebSocket) -> None:
    """A callback."""
    code: int | None = ws.close_code
    assert code != 1006


def test_application() -> None:
    """A test with the test client."""
    with connect(wrapped, "/", headers={"Host": "localhost"}, subprotocols=["json.v1"], timeout=1) as ws:
        ws.send("x")
        message: str | bytes | None = ws.receive()
        assert message == "x"
    try:
        with connect(application, "/", max_message_size=1, ping_interval=None):
            pass
    except HandshakeRefused as refused:
        number: int = refused.status_code
        assert number == 403
