"""The bytes that are sent and expected, built once, before time is measured. Rule: no socket and no clock here.

A client's frame is masked with a key of its own that stays the same, a server's reply is the same payload
unmasked: so both are known in advance, and a whole burst of replies is checked with one comparison.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "BINARY_1M",
    "BINARY_16K",
    "BINARY_16M",
    "BINARY_64K",
    "PING",
    "PONG",
    "TEXT",
    "TEXT_1M",
    "TEXT_4K",
    "TEXT_16M",
    "TEXT_64",
    "TEXT_64K",
    "Payload",
    "WrongReplyError",
    "check_close",
    "check_upgrade",
    "client_close",
    "client_frame",
    "server_frame",
    "take_pings",
    "upgrade_request",
]

TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA

_FIN = 0x80
_MASKED = 0x80

# RFC 6455 1.3: the key and the answer of the RFC's example; no server checks that keys differ.
_KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
_ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


class WrongReplyError(Exception):
    """The server sent something else than expected, or nothing: its figures would be invalid."""


@dataclass(frozen=True)
class Payload:
    """The payload of one message; ``build`` is called when a scenario starts, so that an import builds nothing."""

    name: str
    opcode: int
    build: Callable[[], bytes]


def _ascii() -> bytes:
    return b"The quick brown fox jumps over the lazy dog; 64 bytes of ASCII.."


def _multibyte(size: int) -> Callable[[], bytes]:
    """Cyrillic and Chinese: two and three bytes per character, no ASCII shortcut anywhere."""
    return lambda: "Жизнь世界".encode() * (size // 16)


def _noise(size: int) -> Callable[[], bytes]:
    return lambda: random.Random(6455).randbytes(size)


TEXT_64 = Payload("64 B text", TEXT, _ascii)
TEXT_4K = Payload("4 KiB non-ASCII text", TEXT, _multibyte(4 * 1024))
TEXT_64K = Payload("64 KiB non-ASCII text", TEXT, _multibyte(64 * 1024))
TEXT_1M = Payload("1 MiB non-ASCII text", TEXT, _multibyte(1024 * 1024))
TEXT_16M = Payload("16 MiB non-ASCII text", TEXT, _multibyte(16 * 1024 * 1024))
BINARY_16K = Payload("16 KiB binary", BINARY, _noise(16 * 1024))
BINARY_64K = Payload("64 KiB binary", BINARY, _noise(64 * 1024))
BINARY_1M = Payload("1 MiB binary", BINARY, _noise(1024 * 1024))
BINARY_16M = Payload("16 MiB binary", BINARY, _noise(16 * 1024 * 1024))


def _header(opcode: int, size: int, mask_bit: int) -> bytes:
    """RFC 6455 5.2: the shortest of the three lengths."""
    if size < 126:
        return bytes((_FIN | opcode, mask_bit | size))
    if size < 65536:
        return struct.pack("!BBH", _FIN | opcode, mask_bit | 126, size)
    return struct.pack("!BBQ", _FIN | opcode, mask_bit | 127, size)


def _masking_key(client: int) -> bytes:
    """A key for this client: spread over the 32 bits, the same in every run."""
    return ((client + 1) * 0x9E3779B1 & 0xFFFFFFFF).to_bytes(4, "big")


def _masked(payload: bytes, key: bytes) -> bytes:
    size = len(payload)
    repeated = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")


def client_frame(opcode: int, payload: bytes, client: int = 0) -> bytes:
    """A whole message as the numbered client sends it."""
    key = _masking_key(client)
    return _header(opcode, len(payload), _MASKED) + key + _masked(payload, key)


def server_frame(opcode: int, payload: bytes) -> bytes:
    """The only bytes with which a server may deliver this message."""
    return _header(opcode, len(payload), 0) + payload


def take_pings(received: bytes) -> tuple[bytes, bytes]:
    """The frames of a server without the pings among them, and the pongs that answer those.

    A server may send a ping between any two frames (RFC 6455 5.5.2). Called where something else than the expected
    bytes has come, so that pings cost nothing where there are none.
    """
    kept = pongs = b""
    at = 0
    while at < len(received):
        head, size = 2, received[at + 1] if at + 1 < len(received) else 0
        if size > 125:
            head += 2 if size == 126 else 8
            size = int.from_bytes(received[at + 2 : at + head], "big")
        frame, at = received[at : at + head + size], at + head + size
        payload = frame[2:]
        if frame == server_frame(PING, payload):
            pongs += client_frame(PONG, payload)
        else:
            kept += frame
    return kept, pongs


def client_close() -> bytes:
    """The client's close frame: 1000, no reason."""
    return client_frame(CLOSE, struct.pack("!H", 1000))


def check_close(received: bytes) -> None:
    """Pass what must follow our close frame: one close frame, 1000 or (gevent-websocket) without a code.

    Pings before it need no answer any more (RFC 6455 5.5.2).
    """
    if take_pings(received)[0] not in (server_frame(CLOSE, b"\x03\xe8"), server_frame(CLOSE, b"")):
        raise WrongReplyError(f"the close handshake was answered with {received[:80]!r}")


def upgrade_request(host: str, path: str, offer: str = "") -> bytes:
    """A browser's handshake with all its usual headers. ``offer`` is an extension; permessage-deflate stays off
    without it.
    """
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Connection: Upgrade",
        "Pragma: no-cache",
        "Cache-Control: no-cache",
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        "Upgrade: websocket",
        f"Origin: http://{host}",
        "Sec-WebSocket-Version: 13",
        "Accept-Encoding: gzip, deflate, br, zstd",
        "Accept-Language: en-US,en;q=0.9",
        "Cookie: theme=dark; sessionid=3k2v9x0f8m1q7w5e4r6t",
        f"Sec-WebSocket-Key: {_KEY.decode()}",
        *([f"Sec-WebSocket-Extensions: {offer}"] if offer else []),
    )
    return "\r\n".join((*lines, "", "")).encode()


def check_upgrade(head: bytes, offer: str = "") -> None:
    """Pass a complete 101 that answers our key, with an extension if one was offered, and no byte after it."""
    right = head.startswith(b"HTTP/1.1 101 ") and _ACCEPT in head and head.endswith(b"\r\n\r\n")
    if not right or (b"sec-websocket-extensions:" in head.lower()) != bool(offer):
        raise WrongReplyError(f"the handshake was answered with {head[:400]!r}")
