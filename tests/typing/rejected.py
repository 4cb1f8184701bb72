"""Programs of users that do not type-check. Each wrong line ends with the error that mypy reports for it."""

from __future__ import annotations

from gws_middleware import ConnectionClosed, WebSocket, WebSocketMiddleware, prepare
from gws_middleware.config import Options
from gws_middleware.testing import connect
from gws_middleware.typing import WSGIApp
from gws_middleware.worker import GeventWebSocketWorker

# ruff: noqa: RUF012


def middleware_options(app: WSGIApp) -> None:
    """``WebSocketMiddleware``: the name and the type of each option."""
    WebSocketMiddleware(app, ping_intervall=3)  # error: Unexpected keyword argument "ping_intervall"
    WebSocketMiddleware(app, max_message_size="64 KiB")  # error: incompatible type "str"; expected "int"
    WebSocketMiddleware(app, max_message_size=None)  # error: incompatible type "None"; expected "int"
    WebSocketMiddleware(app, allowed_origins="*")  # error: incompatible type "str"; expected "Origins"
    WebSocketMiddleware(app, allowed_origins={"*"})  # error: incompatible type "set[str]"; expected "Origins"
    WebSocketMiddleware(app, allowed_origins=[5])  # error: List item 0 has incompatible type "int"
    WebSocketMiddleware(app, compression="on")  # error: incompatible type "Literal['on']"
    WebSocketMiddleware(app, user_key=5)  # error: incompatible type "int"
    WebSocketMiddleware(app, database_grace=1.0)  # error: Unexpected keyword argument "database_grace"
    WebSocketMiddleware(app, 65536)  # error: Too many positional arguments


options: Options = {"max_mesage_size": 5}  # error: Extra key "max_mesage_size"


class Worker(GeventWebSocketWorker):
    """Settings of a worker class of the project."""

    options = {"max_mesage_size": 65536}  # error: Extra key "max_mesage_size"


def limits(ws: WebSocket) -> None:
    """``limits``: what is decided before a view is called is no argument."""
    ws.limits(max_mesage_size=5)  # error: Unexpected keyword argument "max_mesage_size"
    ws.limits(message_rate="5")  # error: incompatible type "str"; expected "float | None"
    ws.limits(max_connections=5)  # error: Unexpected keyword argument "max_connections"
    ws.limits(allowed_origins=["*"])  # error: Unexpected keyword argument "allowed_origins"
    ws.limits(compression="off")  # error: Unexpected keyword argument "compression"


def receives(ws: WebSocket) -> str:
    """``receive``: text, binary, or None at the end."""
    ws.receive(timeout="5")  # error: incompatible type "str"; expected "float | None"
    for message in ws:
        number: int = message  # error: expression has type "str | bytes", variable has type "int"
        ws.close(number)
    text = ws.receive()
    text.upper()  # error: Item "None" of "str | bytes | None" has no attribute "upper"
    return ws.receive()  # error: Incompatible return value type (got "str | bytes | None", expected "str")


def sends(ws: WebSocket) -> None:
    """``send`` and ``offer``: what is no message."""
    ws.send({"a": 1})  # error: incompatible type "dict[str, int]"
    ws.send(None)  # error: incompatible type "None"
    ws.send("x", binary="no")  # error: incompatible type "str"; expected "bool | None"
    ws.offer(None)  # error: incompatible type "None"
    ws.offer([prepare("x")])  # error: incompatible type "list[PreparedMessage]"
    ws.close("1000")  # error: incompatible type "str"; expected "int"
    ws.accept(headers={"X-Room": "lobby"})  # error: expected "tuple[str, str]": "str"
    ws.accept(subprotocols=["json.v1"])  # error: Unexpected keyword argument "subprotocols"


def callbacks(ws: WebSocket) -> None:
    """``detach``: the callbacks take the WebSocket and the message, or the WebSocket."""
    ws.detach(on_message=one_argument)  # error: incompatible type "Callable[[WebSocket], None]"
    ws.detach(on_closed=one_argument)  # error: Unexpected keyword argument "on_closed"


def one_argument(ws: WebSocket) -> None:
    """No callback for messages."""


def facts(ws: WebSocket, closed: ConnectionClosed) -> None:
    """Attributes that are read alone, and those that may be None."""
    ws.closed = True  # error: Property "closed" defined in "WebSocket" is read-only
    code: int = ws.close_code  # error: expression has type "int | None", variable has type "int"
    reason: int = closed.reason  # error: expression has type "str", variable has type "int"
    assert code == reason


def test_client(app: WSGIApp) -> None:
    """``testing.connect``: its own arguments and the options of the application."""
    connect(app, "/", max_mesage_size=1)  # error: Unexpected keyword argument "max_mesage_size"
    connect(app, "/", max_message_size="1")  # error: incompatible type "str"; expected "int"
    connect(app, "/", compression="shared")  # error: incompatible type "str"; expected "Parameters | None"
    connect(app, "/", headers=[("Host", "localhost")])  # error: incompatible type "list[tuple[str, str]]"
    with connect(app) as ws:
        ws.send(None)  # error: incompatible type "None"
