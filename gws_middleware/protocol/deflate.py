"""permessage-deflate (RFC 7692): the negotiation, and a codec for one connection.

Two ways to compress. ``"shared"``: no context takeover, so one compressor serves every connection (a full flush behind
each message leaves nothing that the next one could refer to) and a connection costs no memory. ``"dedicated"``: context
takeover with a window of 4 KiB, which shrinks small similar messages at about 40 KB for each connection.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from .headers import Extension

__all__ = [
    "NAME",
    "Deflate",
    "InflateError",
    "Parameters",
    "agree",
    "answer",
    "format_parameters",
    "negotiate",
    "offer",
]

NAME = "permessage-deflate"
TAIL = b"\x00\x00\xff\xff"
"""What a sender takes off the end of a message and a receiver puts back (RFC 7692 7.2.1)."""

SHARED_FROM = 1024
"""Bytes from which "shared" compresses: below it a message without context hardly shrinks."""
DEDICATED_BITS = 12
DEDICATED_LEVEL = 3
MAX_FINAL_BLOCKS = 64
"""Final blocks (RFC 7692 7.2.3.4) in one message: what follows each of them is copied."""
FINAL_BLOCK_BYTES = 16
"""Bytes of a message for each final block after its first: each one makes zlib start again, which costs as much as a
message does, and a peer could buy it with two bytes."""

_NOTHING = (b"", b"\0" + TAIL)
"""What follows the last final block of a message: an empty block at most."""

_BITS = {str(bits): bits for bits in range(8, 16)}


class InflateError(Exception):
    """The peer's compressed data is broken (``too_big`` False) or inflates beyond the limit (True)."""

    def __init__(self, too_big: bool) -> None:
        super().__init__(too_big)
        self.too_big = too_big


class Parameters(NamedTuple):
    """What both sides agreed on (RFC 7692 7.1). "Server" and "client" name the side that compresses."""

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int = 15
    client_max_window_bits: int = 15


def format_parameters(parameters: Parameters) -> str:
    """The extension as it stands in a header; defaults are left out."""
    parts = [NAME]
    parts += [name for name, value in zip(parameters._fields, parameters, strict=True) if value is True]
    parts += [f"{n}={v}" for n, v in zip(parameters._fields, parameters, strict=True) if v is not True and 8 <= v < 15]
    return "; ".join(parts)


def _read(pairs: Sequence[tuple[str, str | None]], *, response: bool) -> dict[str, Any] | None:
    """The parameters by name, or None where one is unknown, doubled or has a wrong value (RFC 7692 7.1)."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            return None
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            if value is not None:
                return None
            found[name] = True
        elif name == "client_max_window_bits" and value is None and not response:
            found[name] = 15  # the client only says that it knows the parameter (7.1.2.2)
        elif name in ("server_max_window_bits", "client_max_window_bits") and value in _BITS:
            found[name] = _BITS[value]
        else:
            return None
    return found


def negotiate(offers: Sequence[Extension], mode: str) -> Parameters | None:
    """The server's answer: the parameters for the first offer that ``mode`` can serve, or None to go on without."""
    if mode == "off":
        return None
    shared = mode == "shared"
    for name, pairs in offers:
        wanted = _read(pairs, response=False) if name == NAME else None
        if wanted is None or wanted.get("server_max_window_bits") == 8:  # zlib makes no raw stream of 256 bytes' window
            continue
        most = 15 if shared else DEDICATED_BITS
        limited = "client_max_window_bits" in wanted
        return Parameters(
            shared or "server_no_context_takeover" in wanted,
            # A client that did not name the other parameter may not be given it (7.1.2.2), but it may be told to keep
            # no context (7.1.1.2): else its window of 32 KiB would be held for as long as the connection.
            shared or not limited or "client_no_context_takeover" in wanted,
            min(most, wanted.get("server_max_window_bits", 15)),
            min(most, wanted["client_max_window_bits"]) if limited else 15,
        )
    return None


def answer(agreed: Parameters) -> str:
    """The server's answer. It always names server_max_window_bits, as an offer that names it demands (7.1.2.1)."""
    text = format_parameters(agreed)
    return text if "server_max_window_bits" in text else text + "; server_max_window_bits=15"


def offer(wanted: Parameters) -> str:
    """The client's offer of ``wanted``; it always says that it knows client_max_window_bits."""
    text = format_parameters(wanted)
    return text if "client_max_window_bits" in text else text + "; client_max_window_bits"


def agree(answer: Sequence[Extension], offered: Parameters) -> Parameters | None:
    """What the server's answer means to a client that offered ``offered``; ValueError where it was not offered."""
    if not answer:
        return None
    (name, pairs), *more = answer
    found = _read(pairs, response=True)
    if more or name != NAME or found is None:
        raise ValueError("the server answered with an extension that was not offered")
    # Without client_max_window_bits the server takes any window (7.1.2.2): the client keeps to its own offer.
    agreed = Parameters(**{"client_max_window_bits": offered.client_max_window_bits, **found})
    if offered.server_no_context_takeover and not agreed.server_no_context_takeover:
        raise ValueError("the server did not accept server_no_context_takeover")
    if agreed.server_max_window_bits > offered.server_max_window_bits:
        raise ValueError("the server's window is larger than offered")
    if agreed.client_max_window_bits == 8 or agreed.client_max_window_bits > offered.client_max_window_bits:
        raise ValueError("the server wants a window that this client cannot compress with")
    return agreed


class Deflate:
    """Compresses and inflates the messages of one connection, on the side that ``client`` names."""

    __slots__ = (
        "_begun",
        "_bits",
        "_compressor",
        "_fed",
        "_final_blocks",
        "_inflate_bits",
        "_inflater",
        "_keep",
        "_shared",
        "threshold",
    )

    def __init__(self, parameters: Parameters, client: bool = False) -> None:
        server_side = parameters.server_no_context_takeover, parameters.server_max_window_bits
        client_side = parameters.client_no_context_takeover, parameters.client_max_window_bits
        ours, theirs = (client_side, server_side) if client else (server_side, client_side)
        self._shared, self._bits = ours
        self._keep, self._inflate_bits = not theirs[0], max(theirs[1], 9)
        self._compressor: Any = None
        self._inflater: Any = None
        self._begun = False
        self._final_blocks = self._fed = 0
        self.threshold = SHARED_FROM if self._shared else 1
        """Bytes from which a message is worth compressing."""

    def compress(self, payload: bytes) -> bytes:
        """One whole message, compressed (RFC 7692 7.2.1)."""
        if self._shared:
            return _shared_compressor(self._bits).compress(payload)
        compressor, self._compressor = self._compressor, None
        if compressor is None:
            compressor = zlib.compressobj(6, zlib.DEFLATED, -self._bits, DEDICATED_LEVEL)
        data = _deflate(compressor, payload, zlib.Z_SYNC_FLUSH)
        # Only now: one that an exception has cut off holds what was never sent. A new one refers to nothing before it.
        self._compressor = compressor
        return data

    @property
    def shared_bits(self) -> int | None:
        """The window of the compressor that this connection shares with others; None where it has its own."""
        return self._bits if self._shared else None

    def inflate(self, piece: bytes, room: int, last: bool) -> bytes:
        """The next piece of a message, inflated; InflateError as soon as it is broken or longer than ``room`` bytes."""
        if not piece and not (last and self._begun):
            return piece  # 7.2.3.6: an empty message is one byte; with none, the tail alone would inflate to garbage
        self._begun = not last
        if self._inflater is None:
            self._inflater = zlib.decompressobj(-self._inflate_bits)
        try:
            out = self._inflate(piece + TAIL if last else piece, room)
        except zlib.error:
            raise InflateError(too_big=False) from None
        if last:
            self._final_blocks = self._fed = 0
            if not self._keep:
                self._inflater = None
        return out

    def _inflate(self, piece: bytes, room: int) -> bytes:
        """Never makes more than ``room`` + 1 bytes: that one more is the proof (zip bombs)."""
        self._fed += len(piece)
        out: bytes = self._inflater.decompress(piece, room + 1)
        while self._inflater.eof and len(out) <= room:
            # A final block ends the zlib stream but not the message (7.2.3.4).
            rest = self._inflater.unused_data
            self._inflater = None
            self._final_blocks += 1
            allowed = 1 + (self._fed - len(rest)) // FINAL_BLOCK_BYTES
            if self._final_blocks > min(allowed, MAX_FINAL_BLOCKS):
                raise InflateError(too_big=False)
            if rest in _NOTHING:
                break
            self._inflater = zlib.decompressobj(-self._inflate_bits)
            out += self._inflater.decompress(rest, room + 1 - len(out))
        if len(out) > room:
            raise InflateError(too_big=True)
        return out


def _deflate(compressor: Any, payload: bytes, flush: int) -> bytes:
    data: bytes = compressor.compress(payload) + compressor.flush(flush)
    return data[: -len(TAIL)]


class _SharedCompressor:
    """Serves all connections that agreed on the same window.

    There is one compressor, and one more for each thread that compresses at the same moment. Each is taken out of the
    list while it is used: one that an exception has cut off (a timeout, a signal handler, no memory) still holds a
    message of that connection, and does not come back.
    """

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._idle: list[Any] = []

    def compress(self, payload: bytes) -> bytes:
        try:
            compressor = self._idle.pop()
        except IndexError:
            compressor = zlib.compressobj(6, zlib.DEFLATED, -self._bits)
        data = _deflate(compressor, payload, zlib.Z_FULL_FLUSH)
        self._idle.append(compressor)
        return data


_shared: dict[int, _SharedCompressor] = {}


def _shared_compressor(bits: int) -> _SharedCompressor:
    compressor = _shared.get(bits)
    if compressor is None:
        compressor = _shared.setdefault(bits, _SharedCompressor(bits))
    return compressor
