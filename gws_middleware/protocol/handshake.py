"""The opening handshake (RFC 6455 4): a request's values in, an answer out, on both sides.

Rule: nothing here reads an environ or writes a response; a refusal is a value that carries its status and headers.
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
"""Characters of one field. gunicorn takes no header line over 8190, but joins a hundred of one name, and a megabyte of
escaped quotes would hold the event loop for a quarter of a second.
"""
MAX_SHOWN = 100
"""Characters of a header that a sentence repeats."""

_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")
_ORIGIN = re.compile(r"([a-z][a-z0-9+.\-]*)://(\[[0-9a-f:.]+\]|[^\x00-\x20/?#@\\\[\]:*]+)(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}


class Request(NamedTuple):
    """What the handshake's rules look at. An absent header is None."""

    method: str
    protocol: str
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
    """The HTTP answer to a handshake that may not pass."""

    status: str
    headers: tuple[tuple[str, str], ...]
    sentence: str
    about_setup: bool = False
    """Whether a wrong setting, of this server or of a proxy in front of it, may be the cause."""


class Handshake(NamedTuple):
    """A handshake that may be accepted."""

    key: str
    subprotocols: tuple[str, ...] = ()
    """What the client offers, most wanted first."""
    compression: deflate.Parameters | None = None


_VERSION_13 = ("Sec-WebSocket-Version", "13")


def _refuse(status: str, sentence: str, *headers: tuple[str, str]) -> Refusal:
    return Refusal(status, (*headers, _VERSION_13), sentence)


def _bad(sentence: str) -> Refusal:
    return _refuse("400 Bad Request", sentence)


def _bad_setup(sentence: str) -> Refusal:
    return _bad(sentence)._replace(about_setup=True)


def wants_websocket(upgrade: str) -> bool:
    """Whether an Upgrade header names WebSocket at all, alone or among others; the rules then decide."""
    return "websocket" in upgrade.lower()


def upgrade_dropped(upgrade: str | None, key: str | None) -> bool:
    """Whether the request asks for no upgrade but has the key of a handshake: a proxy passed on one of the two."""
    return key is not None and not parse_list(upgrade or "")


def judge(
    request: Request, allowed_origins: Sequence[str | re.Pattern[str]], compression: str = "off"
) -> Handshake | Refusal:
    """The rules of RFC 6455 4.2.1 in order; the first one that the request breaks makes the answer."""
    if any(len(value) > MAX_FIELD for value in request if value is not None):
        return _bad(f"A header of the handshake is longer than {MAX_FIELD} characters.")
    return _judge_http(request) or _judge_websocket(request, allowed_origins, compression)


def _judge_http(request: Request) -> Refusal | None:
    """What HTTP asks of a request that wants to upgrade (items 1 to 4)."""
    if upgrade_dropped(request.upgrade, request.key):
        return _bad_setup(
            "The request has a Sec-WebSocket-Key, but no Upgrade header. A proxy in front of this server has to speak "
            "HTTP/1.1 to it, and to pass the Upgrade and Connection headers on."
        )
    if request.protocol != "HTTP/1.1":
        return _bad_setup(
            f"A WebSocket is opened over HTTP/1.1, not {_shown(request.protocol or '')[1:-1]}. A proxy in front of "
            "this server has to speak HTTP/1.1 to it."
        )
    if request.method != "GET":
        return _refuse("405 Method Not Allowed", "A WebSocket is opened with GET.", ("Allow", "GET"))
    if not request.host or "," in request.host:
        return _bad("A WebSocket request has exactly one Host header.")
    if parse_list(request.upgrade or "") != ["websocket"]:
        return _bad("The Upgrade header of a WebSocket request is 'websocket' alone.")
    if "upgrade" not in parse_list(request.connection or ""):
        return _bad_setup(
            "The Connection header does not contain 'Upgrade'. A proxy in front of this server has to pass "
            "the Connection and Upgrade headers on."
        )
    if request.transfer_encoding is not None or request.content_length not in (None, "", "0"):
        return _bad("A WebSocket request has no body.")
    return None


def _judge_websocket(
    request: Request, allowed_origins: Sequence[str | re.Pattern[str]], compression: str
) -> Handshake | Refusal:
    """What WebSocket asks of it (items 5 to 9)."""
    if request.version != "13":
        if request.version is not None and not (request.version.isascii() and request.version.isdigit()):
            return _bad("Sec-WebSocket-Version is not a number.")
        return _refuse(  # 4.2.2, item 4
            "426 Upgrade Required", "This server speaks WebSocket version 13.", ("Upgrade", "websocket")
        )
    if request.key is None or not _KEY.fullmatch(request.key):
        return _bad("Sec-WebSocket-Key is not 16 bytes in base64.")
    if request.origin is not None and not origin_allowed(request.origin, request.host or "", allowed_origins):
        return Refusal("403 Forbidden", (), _foreign(request.origin, request.host or ""), about_setup=True)
    try:
        subprotocols = () if request.subprotocols is None else parse_subprotocols(request.subprotocols)
        extensions = [] if request.extensions is None else parse_extensions(request.extensions)
    except ValueError as error:
        return _bad(f"{error}.")
    return Handshake(request.key, subprotocols, deflate.negotiate(extensions, compression))


def origin_allowed(origin: str, host: str, allowed: Sequence[str | re.Pattern[str]]) -> bool:
    """Whether a page of ``origin`` may connect to ``host`` (RFC 6455 10.2, RFC 6454 6.1)."""
    if any(_matches(origin, entry) for entry in allowed if isinstance(entry, re.Pattern)) or "*" in allowed:
        return True
    if origin in allowed and "*" not in origin and origin != "same-origin":
        return True  # "null", and what programs send, which need not be an origin (Tyrus: "localhost:8025")
    parts = _split_origin(origin)
    if parts is None:
        return False
    scheme, name, port = parts
    for entry in allowed:
        if entry == "same-origin":
            # The scheme is left out: behind a proxy that ends TLS this server sees "http" where the page says "https".
            ours = f"{scheme}://{host}"
            if ours == origin or _split_origin(ours) == parts:
                return True
        elif isinstance(entry, str) and _entry_matches(entry, scheme, name, port):
            return True
    return False


_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def _foreign(origin: str, host: str) -> str:
    """Why a page of ``origin`` may not connect to ``host``."""
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
    """What a peer has chosen, for a sentence: escaped and of bounded length."""
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
    """The client's check of the server's 101 (RFC 6455 4.1): the subprotocol and the compression, or ValueError.

    ``headers`` has lower-case names.
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
