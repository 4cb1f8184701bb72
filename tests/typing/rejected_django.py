"""A Django project's views that do not type-check. Each wrong line ends with the error that mypy reports for it."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse

from gws_middleware.django import Settings, WebSocketView, accept_websocket, require_websocket
from gws_middleware.django.serving import WebSocketRequest
from gws_middleware.typing import Message

misspelt: Settings = {"max_mesage_size": 5}  # error: Extra key "max_mesage_size" for TypedDict "Settings"
GWS: Settings = {
    "max_message_size": "5",  # error: Incompatible types (expression has type "str"
    "site_limits": None,  # error: Incompatible types (expression has type "None"
    "groups": {"history": {"room": {"length": 5}}},  # error: Incompatible types (expression has type "dict[str, dict
}


@require_websocket
def chat(request: WebSocketRequest) -> None:
    """Of plain HTTP ``request.websocket`` is None."""
    request.websocket.send("x")  # error: Item "None" of "WebSocket | None" has no attribute "send"
    assert request.websocket is not None
    request.websocket.send([5])  # error: incompatible type "list[int]"
    request.websocket.limits(max_mesage_size=5)  # error: Unexpected keyword argument "max_mesage_size"


@accept_websocket
def either(request: HttpRequest) -> HttpResponse:
    """Django's own class has no WebSocket."""
    request.websocket.send("x")  # error: "HttpRequest" has no attribute "websocket"
    return HttpResponse()


require_websocket("chat")  # error: incompatible type "str"
accept_websocket(methods=["GET"])  # error: Unexpected keyword argument "methods"


class Echo(WebSocketView):
    """Methods with other arguments than those that are called."""

    subprotocols = 5  # error: Incompatible types in assignment (expression has type "int"

    def receive(self, message: str) -> None:  # error: Argument 1 of "receive" is incompatible with supertype
        """Binary messages come as well."""
        answer: Message = self.websocket.receive_json(5.0, 6.0)  # error: Too many arguments for "receive_json"
        assert answer

    def disconnect(self) -> None:  # error: Signature of "disconnect" incompatible with supertype
        """The code is an argument."""
