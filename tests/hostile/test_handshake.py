"""Sec-WebSocket-* headers that are broken: 400, never an exception, never a 500 (row 16)."""

from __future__ import annotations

import pytest

from ..support.rawclient import KEY, request, upgrade_request
from ..support.servers import Server

SERVERS = ["worker", "worker-python-parser", "gevent_pywsgi", "pywsgi"]
Headers = list[tuple[str, str]]


def twice(name: str, first: str, second: str | None = None) -> Headers:
    """The same header on two lines."""
    return [(name, first), (name, first if second is None else second)]


def key(value: str) -> Headers:
    return [("Sec-WebSocket-Key", value)]


def version(value: str) -> Headers:
    return [("Sec-WebSocket-Version", value)]


def subprotocol(value: str) -> Headers:
    return [("Sec-WebSocket-Protocol", value)]


def extension(value: str) -> Headers:
    return [("Sec-WebSocket-Extensions", value)]


BROKEN: dict[str, Headers] = {
    "empty key": key(""),
    "key of 15 bytes": key("MTIzNDU2Nzg5MDEyMzQ1"),
    "key of 17 bytes": key("MTIzNDU2Nzg5MDEyMzQ1Njc="),
    "key of 15 bytes and wrong padding": key("MTIzNDU2Nzg5MDEyMzQ1===="),
    "key without padding": key(KEY.rstrip("=")),
    "key of another alphabet": key("-_-_-_-_-_-_-_-_-_-_-_=="),
    "key with a space": key(KEY[:10] + " " + KEY[11:]),
    "key with a comma": key(KEY + ","),
    "key that is not ASCII": key("\xe9" * 22 + "=="),
    "key of non-ASCII digits": key("\xb2" * 22 + "=="),
    "key of 8000 characters": key("A" * 8000),
    "two keys": twice("Sec-WebSocket-Key", KEY, "MTIzNDU2Nzg5MDEyMzQ1Ng=="),
    "the same key twice": twice("Sec-WebSocket-Key", KEY),
    "key, and an empty one": twice("Sec-WebSocket-Key", KEY, ""),
    "version twice": twice("Sec-WebSocket-Version", "13"),
    "two versions": twice("Sec-WebSocket-Version", "13", "8"),
    "empty version": version(""),
    "version that is not ASCII": version("\xb9\xb3"),
    "version with a sign": version("+13"),
    "version that is no number": version("13.0"),
    "subprotocol that is not ASCII": subprotocol("chat, caf\xe9"),
    "subprotocol with a separator": subprotocol("chat/1"),
    "subprotocol twice": subprotocol("chat, chat"),
    "subprotocol twice, on two lines": twice("Sec-WebSocket-Protocol", "chat"),
    "one of two lines of subprotocols is broken": twice("Sec-WebSocket-Protocol", "chat", "a b"),
    "thousands of subprotocols": subprotocol(",".join(f"p{number}" for number in range(1500))),
    "extension that is not ASCII": extension("permessage-d\xe9flate"),
    "extension whose parameter is not ASCII": extension('x; a="\xe9"'),
    "extension without a name": extension("; client_max_window_bits"),
    "extension whose quote does not end": extension('permessage-deflate; client_max_window_bits="15'),
    "one of two lines of extensions is broken": twice("Sec-WebSocket-Extensions", "permessage-deflate", "a b"),
    "thousands of extensions": extension(",".join(["x"] * 3500)),
    "thousands of parameters": extension("x" + ";a=1" * 1800),
}
FINE: dict[str, Headers] = {
    "subprotocols on two lines": twice("Sec-WebSocket-Protocol", "chat", "superchat"),
    "extensions on two lines": twice("Sec-WebSocket-Extensions", "permessage-deflate", "x; a=1"),
    "unknown extension": extension('x-unknown; a="b"; c'),
    "empty items": subprotocol(",chat, ,"),
    "empty subprotocols": subprotocol(""),
    "subprotocols of commas alone": subprotocol(", ,"),
    "empty extensions": extension(""),
    "empty extensions twice": twice("Sec-WebSocket-Extensions", ""),
    "names in other letters": [("sec-websocket-KEY", KEY), ("SEC-WEBSOCKET-VERSION", "13")],
    "blanks around": key(f"  {KEY} \t") + version(" 13 "),
}


@pytest.mark.parametrize("headers", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("server", SERVERS, indirect=True)
def test_broken_header_is_a_400(server: Server, token: str, headers: Headers) -> None:
    """The answer is a 400 and the end: the application is not asked, nothing after the request is served."""
    with server.connect() as client:
        client.send(upgrade_request(f"/second?id={token}", *headers) + request(f"/second?id={token}"))
        response = client.read_response()
        rest = client.read_until_eof()
    assert (response.status, rest, server.events(token)) == (400, b"", [])


@pytest.mark.parametrize("headers", FINE.values(), ids=FINE)
@pytest.mark.parametrize("server", SERVERS, indirect=True)
def test_unusual_header_is_accepted(server: Server, headers: Headers) -> None:
    """What the RFC allows is no attack, and the connection works."""
    with server.connect() as client:
        client.upgrade("/echo", *headers)
        client.text("x")
        assert client.read_frame().payload == b"x"
