"""Helpers of the tests in this folder."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import RequestFactory

from gws_middleware.django.test import WebSocketClient, WebSocketRefused
from tests.support.inprocess import refuse_switch, unaccepted

__all__ = ["answer", "disconnected_request", "refusal"]


def answer(ws: Any, message: str) -> Any:
    """Send a message, and return the next one: the answer, or None at the end."""
    ws.send(message)
    return ws.receive()


def refusal(client: WebSocketClient, path: str, **options: Any) -> Any:
    """The HTTP response to a handshake."""
    with pytest.raises(WebSocketRefused) as refused, client.websocket(path, **options):
        pass
    return refused.value.response


def disconnected_request() -> Any:
    """A request whose peer has disconnected before it is accepted."""
    request: Any = RequestFactory().get("/")
    request.META["wsgi.websocket"] = unaccepted(refuse_switch)
    return request
