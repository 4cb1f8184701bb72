"""Views that pass on what the peer gave them when they accept (row 15): nothing of it becomes a header."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from ..support.rawclient import KEY, TEXT, Frame, upgrade_request
from ..support.servers import Server

CONTROL = [*map(chr, [*range(32), 127])]
TOO_WIDE = ["\u0100", "\u010a", "\u010d", "\u2028", "\u560a", "\u560d", "\U0001f600"]
"""Not latin-1. The last byte of some is a line break, for an encoder that cuts."""
SEPARATORS = list(' "(),/:;<=>?@[\\]{}\x80\x85\xa0\xe9\xff')
UNFIT = {  # where it stands, and which characters may not stand there
    "subprotocol": [*CONTROL, *TOO_WIDE, *SEPARATORS],
    "name": [*CONTROL, *TOO_WIDE, *SEPARATORS],
    "room": [*(set(CONTROL) - {"\t"}), *TOO_WIDE],
}
FORGED = "{}Set-Cookie: forged=1"
BREAKS = ["\r\n", "\n", "\r", "\r\n\r\n", "\r\n\r\n\x81\x02hi", "x\r\n ", "\x00", "\u010d\u010a"]


def mirrored(path: str = "/mirroring", *headers: tuple[str, str], **parameters: str) -> bytes:
    """A handshake that asks to be mirrored."""
    asked = "&".join(f"{name}={quote(value)}" for name, value in parameters.items())
    return upgrade_request(f"{path}?{asked}", ("Sec-WebSocket-Protocol", "chat"), *headers)


@pytest.mark.parametrize("place", UNFIT)
def test_no_unfit_character_is_accepted(worker: Server, place: str) -> None:
    """ValueError at the call for each of them, at both ends and in between; what goes out is the view's own page."""
    answers = set()
    for character in UNFIT[place]:
        for value in (f"{character}a", f"a{character}a", f"a{character}"):
            with worker.connect() as client:
                client.send(mirrored("/mirroring/and-answer", **{place: value}))
                response = client.read_response()
                answers.add((response.status, "x-first" in response.headers, client.read_until_eof()))
    assert answers == {(400, False, b"")}


@pytest.mark.parametrize("forged", BREAKS, ids=ascii)
@pytest.mark.parametrize("place", UNFIT)
def test_forged_header_ends_as_an_error_of_the_view(worker: Server, place: str, forged: str) -> None:
    """A view that does not catch it is answered for as any that fails before the 101: nothing had been written."""
    with worker.connect() as client:
        client.send(mirrored(**{place: FORGED.format(forged)}))
        response = client.read_response()
        rest = client.read_until_eof()
    worker.log.expect("Error handling request .*/mirroring.*ValueError: the")
    assert (response.status, rest) == (500, b"")
    assert not {"set-cookie", "x-first", "x-room", "sec-websocket-accept"} & set(response.headers)


@pytest.mark.parametrize("forged", BREAKS, ids=ascii)
@pytest.mark.parametrize("place", UNFIT)
def test_view_may_accept_after_a_forged_header(worker: Server, place: str, forged: str) -> None:
    """Not a byte of the failed call is on the wire: the next one sends a 101 of its own, and the connection works."""
    with worker.connect() as client:
        client.send(mirrored("/mirroring/and-go-on", **{place: FORGED.format(forged)}))
        response = client.read_response()
        sentence = client.read_frame()
        client.text("x")
        received = client.read_frame()
    assert (response.status, sorted(response.headers)) == (101, sorted(ANSWER))
    assert b"wanted" in sentence.payload
    assert received == Frame(TEXT, b"x")


ANSWER = ["connection", "upgrade", "sec-websocket-accept"]
"""The headers of a bare 101 under gunicorn."""

OURS = {
    "Sec-WebSocket-Accept": KEY,
    "sec-websocket-protocol": "chat",
    "SEC-WEBSOCKET-EXTENSIONS": "permessage-deflate",
    "Sec-WebSocket-Anything": "x",
    "Upgrade": "h2c",
    "connection": "keep-alive",
    "Content-Length": "0",
    "Transfer-Encoding": "chunked",
    "transfer-encoding": "identity",
}


@pytest.mark.parametrize("name", OURS)
def test_header_of_the_handshake_is_not_the_views(worker: Server, name: str) -> None:
    """What would contradict the handshake, or make a proxy look for a body after the 101 (RFC 9112 6.1)."""
    with worker.connect() as client:
        client.send(mirrored("/mirroring/and-answer", name=name, room=OURS[name]))
        response = client.read_response()
        rest = client.read_until_eof()
    assert (response.status, rest) == (400, b"")


@pytest.mark.parametrize("arguments", [{"subprotocol": 1}, {"headers": [["X", None]]}, {"headers": [[1, "x"]]}])
def test_argument_of_another_type_is_named_in_the_error(worker: Server, arguments: dict[str, object]) -> None:
    """Not text at all: the same ValueError, before anything is written."""
    with worker.connect() as client:
        client.send(upgrade_request(f"/accept?arguments={quote(json.dumps(arguments))}"))
        response = client.read_response()
        rest = client.read_until_eof()
    assert (response.status, rest) == (400, b"")


def test_unusual_but_fit_value_is_sent(worker: Server) -> None:
    """Every character that a header may have arrives as it is, and a token of every kind of character is one."""
    value = "a\tb " + "".join(map(chr, [*range(33, 127), *range(160, 256)]))
    name = "!#$%&'*+-.^_`|~09AZaz"
    with worker.connect() as client:
        client.send(mirrored(name=name, room=value, subprotocol="chat"))
        response = client.read_response()
    assert (response.status, response.headers[name.lower()]) == (101, value)
