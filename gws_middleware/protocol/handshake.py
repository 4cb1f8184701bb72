"""The opening handshake (RFC 6455 4), on both ends: values of a request or response in, a decision out.

Rule: nothing here reads an environ or writes a response. A refusal is a value with its status and headers.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from . import deflate
from .headers import parse_extensions, parse_list, parse_subprotocols

__all__ = [
    "MAX_FIELD",
    "Handshake",
    "Refusal",
    "Request",
    "accept_headers",
    "accept_key",
    "check_response",
    "judge",
    "origin_allowed",
    "upgrade_dropped",
    "wants_websocket",
]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
MAX_FIELD = 8192
"""Characters of one field at most. gunicorn takes no header line over 8190, but joins a hundred lines of one name, and
a megabyte of escaped quotes would block the event loop for a quarter of a second.
"""
MAX_SHOWN = 100
"""Characters of a header that an error text repeats at most."""

_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")
_ORIGIN = re.compile(r"([a-z][a-z0-9+.\-]*)://(\[[0-9a-f:.]+\]|[^\x00-\x20/?#@\\\[\]:*]+)(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}


class Request(NamedTuple):
    """The values of a request that the rules of the handshake read. What is absent is None."""

    method: str | None
    protocol: str | None
    """The HTTP version as WSGI's SERVER_PROTOCOL has it: ``HTTP/1.1``."""
    host: str | None
    upgrade: str | None
    connection: str | None
    key: str | None
    version: str | None
    subprotocols: str | None
    extensions: str | None
    origin: str | None
    content_length: str | None
    transfer_encoding: str | None


class Refusal(NamedTuple):
    """A handshake that is refused, with the HTTP response to it."""

    status: str
    headers: tuple[tuple[str, str], ...]
    sentence: str
    about_setup: bool = False
    """Whether the cause may be a wrong setting of this server or of a reverse proxy."""


class Handshake(NamedTuple):
    """A handshake that may be accepted."""

    key: str
    subprotocols: tuple[str, ...] = ()
    """What the client offers, in its order of preference."""
    compression: deflate.Parameters | None = None


_VERSION_13 = ("Sec-WebSocket-Version", "13")


def _refuse(status: str, sentence: str, *headers: tuple[str, str]) -> Refusal:
    return Refusal(status, (*headers, _VERSION_13), sentence)


def _bad(sentence: str) -> Refusal:
    return _refuse("400 Bad Request", sentence)


def _bad_setup(sentence: str) -> Refusal:
    return _bad(sentence)._replace(about_setup=True)


def wants_websocket(upgrade: str) -> bool:
    """Whether an Upgrade header contains "websocket" in any form. If so, ``judge()`` decides."""
    return "websocket" in upgrade.lower()


def upgrade_dropped(upgrade: str | None, key: str | None) -> bool:
    """Whether a request has the key of a handshake but no Upgrade header: a reverse proxy has removed that."""
    return key is not None and (upgrade is None or not upgrade.strip(", \t"))


def judge(
    request: Request, allowed_origins: Sequence[str | re.Pattern[str]], compression: str = "off"
) -> Handshake | Refusal:
    """Apply the rules of RFC 6455 4.2.1, in order, on the server.

    Args:
        request: The values of the request.
        allowed_origins: The setting ``allowed_origins``.
        compression: The setting ``compression``: ``"off"``, ``"shared"`` or ``"dedicated"``.

    Returns:
        The handshake, or the refusal for the first rule that the request breaks.

    """
    if max(map(len, filter(None, request)), default=0) > MAX_FIELD:
        return _bad(f"A header of the handshake is longer than {MAX_FIELD} characters.")
    answer = _judge_http(request) or _judge_websocket(request, allowed_origins, compression)
    if isinstance(answer, Refusal):
        # Blanks around a value are no part of it (RFC 9110 5.5), but gunicorn 22 leaves those that follow it.
        trimmed = Request._make(value and value.strip(" \t") for value in request)
        if trimmed != request:
            return judge(trimmed, allowed_origins, compression)
    return answer


def _judge_http(request: Request) -> Refusal | None:
    """The rules about HTTP (4.2.1, items 1 to 4; RFC 9110 7.8)."""
    # Before the version and the method: a proxy that removes Upgrade often changes those too, and this text helps more.
    if upgrade_dropped(request.upgrade, request.key):
        return _bad_setup(
            "The request has a Sec-WebSocket-Key, but no Upgrade header. A proxy in front of this server has to speak "
            "HTTP/1.1 to it, and to pass the Upgrade and Connection headers on."
        )
    # Item 1: HTTP/1.1 or higher; HTTP/2 has another handshake (RFC 8441).
    if request.protocol != "HTTP/1.1":
        return _bad_setup(
            f"A WebSocket is opened over HTTP/1.1, not {_shown(request.protocol or '')[1:-1]}. A proxy in front of "
            "this server has to speak HTTP/1.1 to it."
        )
    if request.method != "GET":
        return _refuse("405 Method Not Allowed", "A WebSocket is opened with GET.", ("Allow", "GET"))
    if not request.host or "," in request.host:  # item 2; WSGI joins several Host headers with commas
        return _bad("A WebSocket request has exactly one Host header.")
    # Item 3. With several protocols a server chooses one (RFC 9110 7.8), and a proxy could choose another one.
    if parse_list(request.upgrade or "") != ["websocket"]:
        return _bad("The Upgrade header of a WebSocket request is 'websocket' alone.")
    if "upgrade" not in parse_list(request.connection or ""):  # item 4
        return _bad_setup(
            "The Connection header does not contain 'Upgrade'. A proxy in front of this server has to pass "
            "the Connection and Upgrade headers on."
        )
    # A body would be read as frames, or as the next request (request smuggling).
    if request.transfer_encoding is not None or request.content_length not in (None, "", "0"):
        return _bad("A WebSocket request has no body.")
    return None


def _judge_websocket(
    request: Request, allowed_origins: Sequence[str | re.Pattern[str]], compression: str
) -> Handshake | Refusal:
    """The rules about WebSocket (4.2.1, items 5 to 9)."""
    # Item 6; 4.4: another version MUST be answered with the versions that the server supports.
    if request.version != "13":
        if request.version is not None and not (request.version.isascii() and request.version.isdigit()):
            return _bad("Sec-WebSocket-Version is not a number.")
        return _refuse("426 Upgrade Required", "This server speaks WebSocket version 13.", ("Upgrade", "websocket"))
    if request.key is None or not _KEY.fullmatch(request.key):
        return _bad("Sec-WebSocket-Key is not 16 bytes in base64.")
    # Item 7; 4.2.2, item 4: 403 for an origin that is not accepted. Programs that are no browsers send none (10.2).
    if request.origin is not None and not origin_allowed(request.origin, request.host or "", allowed_origins):
        return Refusal("403 Forbidden", (), _foreign(request.origin, request.host or ""), about_setup=True)
    try:
        subprotocols = () if request.subprotocols is None else parse_subprotocols(request.subprotocols)
        extensions = [] if request.extensions is None else parse_extensions(request.extensions)
    except ValueError as error:
        return _bad(f"{error}.")
    return Handshake(request.key, subprotocols, deflate.negotiate(extensions, compression))


def origin_allowed(origin: str, host: str, allowed: Sequence[str | re.Pattern[str]]) -> bool:
    """Whether a page of ``origin`` may connect to ``host`` (RFC 6455 10.2, RFC 6454).

    Args:
        origin: The Origin header.
        host: The Host header.
        allowed: The setting ``allowed_origins``: origins, ``"same-origin"``, ``"*"``, ``"https://*.example.com"`` for
            the subdomains, or compiled patterns, which must match the whole origin.

    """
    if any(_matches(origin, entry) for entry in allowed if isinstance(entry, re.Pattern)) or "*" in allowed:
        return True
    if origin in allowed and "*" not in origin and origin != "same-origin":
        return True  # "null", or what a program sends that is no origin (Tyrus: "localhost:8025")
    parts = _split_origin(origin)
    if parts is None:
        return False
    scheme, name, port = parts
    for entry in allowed:
        if entry == "same-origin":
            # The scheme is not compared: where a reverse proxy terminates TLS, the page has https and the server http.
            ours = f"{scheme}://{host}"
            if ours == origin or _split_origin(ours) == parts:
                return True
        elif isinstance(entry, str) and _entry_matches(entry, scheme, name, port):
            return True
    return False


_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def _foreign(origin: str, host: str) -> str:
    """The sentence of the refusal: a page of ``origin`` may not connect to ``host``."""
    sentence = (
        f"Pages of Origin {_shown(origin)} may not open a WebSocket at Host {_shown(host)}: allowed_origins does not "
        "list that origin."
    )
    page, ours = _split_origin(origin), _split_origin(f"http://{host}")
    if page and ours and page[1] != ours[1] and page[1] in _LOOPBACK and ours[1] in _LOOPBACK:
        sentence += (
            " localhost, 127.0.0.1 and [::1] are different origins: use one name for the page and for the WebSocket."
        )
    return sentence


def _shown(value: str) -> str:
    """A value of the peer for an error text: escaped, and of limited length."""
    return ascii(value if len(value) <= MAX_SHOWN else value[:MAX_SHOWN] + "...")


def _matches(origin: str, pattern: re.Pattern[str]) -> bool:
    return pattern.fullmatch(origin) is not None


def _split_origin(origin: str) -> tuple[str, str, str] | None:
    match = _ORIGIN.fullmatch(origin.lower())
    if match is None:
        return None
    scheme, name, port = match.groups()
    return scheme, name, port or _DEFAULT_PORTS.get(scheme, "")


def _entry_matches(entry: str, scheme: str, name: str, port: str) -> bool:
    wildcard = "://*." in entry
    parts = _split_origin(entry.replace("://*.", "://", 1))
    if parts is None or (parts[0], parts[2]) != (scheme, port):
        return False
    return name.endswith("." + parts[1]) if wildcard else name == parts[1]


def accept_key(key: str) -> str:
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 4.2.2, item 5.4)."""
    return base64.b64encode(hashlib.sha1(key.encode("ascii") + _GUID).digest()).decode("ascii")


def accept_headers(handshake: Handshake, subprotocol: str | None) -> list[tuple[str, str]]:
    """The headers of the 101 (RFC 6455 4.2.2, item 5)."""
    headers = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept_key(handshake.key)),
    ]
    if subprotocol is not None:
        headers.append(("Sec-WebSocket-Protocol", subprotocol))
    if handshake.compression is not None:
        headers.append(("Sec-WebSocket-Extensions", deflate.answer(handshake.compression)))
    return headers


def check_response(
    status: int,
    headers: Mapping[str, str],
    key: str,
    subprotocols: Sequence[str] = (),
    offered: deflate.Parameters | None = None,
) -> tuple[str | None, deflate.Parameters | None]:
    """Check the server's response, on the client (RFC 6455 4.1).

    Args:
        status: The HTTP status.
        headers: The header fields, with names in lower case.
        key: The Sec-WebSocket-Key of the request.
        subprotocols: What the client has offered.
        offered: The compression that the client has offered; None for none.

    Returns:
        The subprotocol and the compression that the server has chosen, or None for each.

    Raises:
        ValueError: The response breaks a rule. The client MUST fail the connection.

    """
    if status != 101:
        raise ValueError(f"the server answered with status {status}, not 101")
    if headers.get("upgrade", "").lower() != "websocket":
        raise ValueError("the 101 does not say 'Upgrade: websocket'")
    if "upgrade" not in parse_list(headers.get("connection", "")):
        raise ValueError("the 101 does not say 'Connection: Upgrade'")
    if headers.get("sec-websocket-accept") != accept_key(key):
        raise ValueError("the 101 answers another key")
    subprotocol = headers.get("sec-websocket-protocol")
    if subprotocol is not None and subprotocol not in subprotocols:
        raise ValueError(f"the server chose the subprotocol {subprotocol!r}, which was not offered")
    answer = parse_extensions(headers.get("sec-websocket-extensions", ""))
    if not answer:
        return subprotocol, None
    if offered is None:
        raise ValueError("the server answered with an extension that was not offered")
    return subprotocol, deflate.agree(answer, offered)
