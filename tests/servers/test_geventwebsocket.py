"""``geventwebsocket``: gevent-websocket's handler and worker, which send the 101 themselves."""

from __future__ import annotations

import pytest

from ..support.rawclient import CLOSE, Frame, close_frame
from ..support.servers import SWITCHED, Server, carried

NOT_LISTED = (
    "Pages of Origin 'https://evil.example' may not open a WebSocket at Host 'test': "
    "allowed_origins does not list that origin."
)

switched = pytest.mark.parametrize("server", carried(SWITCHED, "tcp", "tls"), indirect=True)


@switched
def test_foreign_websocket_is_replaced(server: Server) -> None:
    """The view finds our object in environ, and one close frame ends the connection: ours."""
    with server.connect() as client:
        client.upgrade("/facts")
        facts = client.read_frame().payload
        assert client.read_frame() == Frame(CLOSE, b"\x03\xe8")
        client.send(close_frame())
        rest = client.read_until_eof()
    assert b'"gws_middleware.connection.websocket.WebSocket"' in facts
    assert rest == b""


@switched
@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        ([("Origin", "https://evil.example")], NOT_LISTED[:123]),
        ([("Sec-WebSocket-Version", "8")], "This server speaks WebSocket version 13."),
        ([("Content-Length", "5")], "A WebSocket request has no body."),
        ([("Transfer-Encoding", "chunked")], "A WebSocket request has no body."),
    ],
)
def test_refusal_after_a_foreign_101_is_a_close_frame(
    server: Server, token: str, headers: list[tuple[str, str]], sentence: str
) -> None:
    """The server has sent the 101 itself: a refused peer gets 1008 with the sentence, and no view runs."""
    with server.connect() as client:
        client.upgrade(f"/echo?id={token}", *headers)
        close = client.read_frame()
        client.send(close_frame(1008))
        rest = client.read_until_eof()
    assert (close.code, close.reason, rest, server.events(token)) == (1008, sentence, b"", [])
