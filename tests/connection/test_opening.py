"""``opening``: the headers of the 101 (RFC 6455 4.2.2), and what an application may not put there."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gws_middleware.connection.opening import Pending
from gws_middleware.protocol.handshake import Handshake, accept_headers

from ..support.inprocess import KEY, refuse_switch

OFFERED = ("chat", "superchat")
BELONGS = "belongs to the handshake: it is set for you"


def pending(*subprotocols: str) -> Pending:
    return Pending(Handshake(KEY, subprotocols, None), refuse_switch)


@pytest.mark.parametrize("subprotocol", ["chat", "superchat", None])
def test_headers_of_the_application_follow_those_of_the_handshake(subprotocol: str | None) -> None:
    """In their order, each as often as it was passed."""
    given = [("X-Served-By", "worker 1"), ("Set-Cookie", "a=b"), ("Set-Cookie", "c=\xe9")]
    waiting = pending(*OFFERED)
    assert waiting.headers(subprotocol, given) == accept_headers(waiting.handshake, subprotocol) + given


@pytest.mark.parametrize(
    ("subprotocol", "offered", "sentence"),
    [
        ("mqtt", OFFERED, "the subprotocol 'mqtt' was not offered by the client, which offers: chat, superchat"),
        ("chat", (), "the subprotocol 'chat' was not offered by the client, which offers: none"),
        ("two words", OFFERED, "the subprotocol is 'two words': wanted a token"),
        ("", OFFERED, "the subprotocol is '': wanted a token"),
        ("chat\r\nX: y", OFFERED, r"the subprotocol is 'chat\r\nX: y': wanted a token"),
    ],
)
def test_subprotocol_is_one_that_the_client_offers(subprotocol: str, offered: tuple[str, ...], sentence: str) -> None:
    """A ValueError that names those that it offers."""
    with pytest.raises(ValueError, match=re.escape(sentence)):
        pending(*offered).headers(subprotocol, [])


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (("Set-Cookie", "a\r\nb"), r"the value of header Set-Cookie is 'a\r\nb': wanted latin-1"),
        (("Set-Cookie", "\u20ac"), "the value of header Set-Cookie is '\u20ac': wanted latin-1"),
        (("Bad Name", "x"), "the header name is 'Bad Name': wanted a token"),
        (("Upgrade", "h2c"), f"the header Upgrade {BELONGS}"),
        (("connection", "close"), f"the header connection {BELONGS}"),
        (("Content-Length", "0"), f"the header Content-Length {BELONGS}"),
        (("Transfer-Encoding", "chunked"), f"the header Transfer-Encoding {BELONGS}"),
        (("Sec-WebSocket-Accept", "x"), f"the header Sec-WebSocket-Accept {BELONGS}"),
        (("sec-websocket-extensions", "x"), f"the header sec-websocket-extensions {BELONGS}"),
    ],
)
def test_header_that_may_not_be_sent_is_refused(header: Any, sentence: str) -> None:
    """Also where it is not the first one."""
    with pytest.raises(ValueError, match=re.escape(sentence)):
        pending().headers(None, [("X-Fine", "x"), header])
