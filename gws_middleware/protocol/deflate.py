"""permessage-deflate (RFC 7692): the negotiation, and a codec for one connection.

Rule: nothing that one connection has sent can appear in what another one sends, although they share a compressor.

===============  ================  ==========  ============================================================
mode             context takeover  compressor  cost
===============  ================  ==========  ============================================================
``"off"``        (none)            (none)      (none)
``"shared"``     no                shared      no memory for a connection; small messages are not compressed
``"dedicated"``  yes, 4 KiB        its own     about 51 KB for a connection; small similar messages shrink
===============  ================  ==========  ============================================================

The shared compressor makes a full flush after each message, so that the next message cannot refer to it.
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
"""What a sender removes from the end of a message (RFC 7692 7.2.1) and a receiver appends again (7.2.2)."""

LEVEL = 5
"""zlib's level of both modes. Against 6, its default, it takes 7 to 18 % less time for JSON, HTML and source code, and
less than half for a text that repeats short parts; the messages are 0 to 6 % larger.
"""
SHARED_FROM = 1024
"""Bytes from which "shared" compresses: a shorter message without context hardly shrinks."""
DEDICATED_BITS = 12
"""The window of "dedicated" is 2**12 bytes."""
DEDICATED_MEMORY_LEVEL = 5
"""zlib's memLevel for it: 16 KiB of hash tables. With 4 KiB (level 3) it searches half as long again."""
MAX_FINAL_BLOCKS = 64
"""Final blocks (RFC 7692 7.2.3.4) in one message at most: the data after each of them is copied."""
FINAL_BLOCK_BYTES = 16
"""Bytes of a message for each final block after its first at least. Each one makes zlib start again, which costs as
much as a message, and the peer sends two bytes for it.
"""

_NOTHING = (b"", b"\0" + TAIL)
"""What may follow the last final block of a message: no data, or an empty block."""

_BITS = {str(bits): bits for bits in range(8, 16)}


class InflateError(Exception):
    """The peer's data cannot be inflated.

    Args:
        too_big: It inflates to more than the limit; False: it is no valid stream.

    """

    def __init__(self, too_big: bool) -> None:
        super().__init__(too_big)
        self.too_big = too_big


class Parameters(NamedTuple):
    """What both ends have agreed on (RFC 7692 7.1). "server" and "client" name the end that compresses."""

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int = 15
    client_max_window_bits: int = 15


def format_parameters(parameters: Parameters) -> str:
    """The extension as a header value; parameters that have their default are omitted."""
    parts = [NAME]
    parts += [name for name, value in zip(parameters._fields, parameters, strict=True) if value is True]
    parts += [f"{n}={v}" for n, v in zip(parameters._fields, parameters, strict=True) if v is not True and 8 <= v < 15]
    return "; ".join(parts)


def _read(pairs: Sequence[tuple[str, str | None]], *, response: bool) -> dict[str, Any] | None:
    """The parameters by name; None where one is unknown, repeated or has a wrong value.

    7.1: an offer with such a parameter MUST be declined, a response with one MUST fail the connection.
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            return None
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            if value is not None:
                return None
            found[name] = True
        elif name == "client_max_window_bits" and value is None and not response:
            found[name] = 15  # 7.1.2.2: without a value the client only announces that it supports the parameter
        elif name in ("server_max_window_bits", "client_max_window_bits") and value in _BITS:
            found[name] = _BITS[value]
        else:
            return None
    return found


def negotiate(offers: Sequence[Extension], mode: str) -> Parameters | None:
    """Choose the parameters for a client's offers (RFC 7692 5.1).

    Args:
        offers: What ``parse_extensions()`` returns, in the client's order of preference.
        mode: ``"off"``, ``"shared"`` or ``"dedicated"``.

    Returns:
        The parameters for the first offer that the mode can serve; None to go on without compression.

    """
    if mode == "off":
        return None
    shared = mode == "shared"
    for name, pairs in offers:
        wanted = _read(pairs, response=False) if name == NAME else None
        # zlib makes no raw stream with a window of 256 bytes, so an offer that demands one is declined.
        if wanted is None or wanted.get("server_max_window_bits") == 8:
            continue
        most = 15 if shared else DEDICATED_BITS
        limited = "client_max_window_bits" in wanted
        return Parameters(
            shared or "server_no_context_takeover" in wanted,
            # 7.1.2.2: client_max_window_bits MUST NOT be in the answer unless the offer has it. Without that limit the
            # client is asked to keep no context (7.1.1.2); else 32 KiB would be held for its window all the time.
            shared or not limited or "client_no_context_takeover" in wanted,
            min(most, wanted.get("server_max_window_bits", 15)),
            min(most, wanted["client_max_window_bits"]) if limited else 15,
        )
    return None


def answer(agreed: Parameters) -> str:
    """The server's answer as a header value. It always has server_max_window_bits, because an offer that has it is
    accepted by an answer that has it (7.1.2.1).
    """
    text = format_parameters(agreed)
    return text if "server_max_window_bits" in text else text + "; server_max_window_bits=15"


def offer(wanted: Parameters) -> str:
    """The client's offer as a header value. It always announces client_max_window_bits (7.1.2.2)."""
    text = format_parameters(wanted)
    return text if "client_max_window_bits" in text else text + "; client_max_window_bits"


def agree(answer: Sequence[Extension], offered: Parameters) -> Parameters | None:
    """Check the server's answer, on the client (RFC 7692 5.1).

    Args:
        answer: What ``parse_extensions()`` returns for it.
        offered: What the client has offered.

    Returns:
        What both ends have agreed on; None for no compression.

    Raises:
        ValueError: The answer does not fit the offer. The client MUST fail the connection.

    """
    if not answer:
        return None
    (name, pairs), *more = answer
    found = _read(pairs, response=True)
    if more or name != NAME or found is None:
        raise ValueError("the server answered with an extension that was not offered")
    # 7.1.2.2: without client_max_window_bits in the answer the server accepts any window, so that of the offer is used.
    agreed = Parameters(**{"client_max_window_bits": offered.client_max_window_bits, **found})
    if offered.server_no_context_takeover and not agreed.server_no_context_takeover:
        raise ValueError("the server did not accept server_no_context_takeover")
    if agreed.server_max_window_bits > offered.server_max_window_bits:
        raise ValueError("the server's window is larger than offered")
    if agreed.client_max_window_bits == 8 or agreed.client_max_window_bits > offered.client_max_window_bits:
        raise ValueError("the server wants a window that this client cannot compress with")
    return agreed


class Deflate:
    """Compresses and inflates the messages of one connection.

    Args:
        parameters: What both ends have agreed on.
        client: Whether this is the client's end.

    """

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
        """Bytes from which a message is compressed."""

    def compress(self, payload: bytes) -> bytes:
        """Compress one whole message (RFC 7692 7.2.1)."""
        if self._shared:
            return _shared_compressor(self._bits).compress(payload)
        compressor, self._compressor = self._compressor, None
        if compressor is None:
            compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -self._bits, DEDICATED_MEMORY_LEVEL)
        data = _deflate(compressor, payload, zlib.Z_SYNC_FLUSH)
        # Only now: a compressor that an exception has interrupted holds data that was never sent. A new one refers to
        # no earlier message, so the peer can inflate what it makes.
        self._compressor = compressor
        return data

    @property
    def shared_bits(self) -> int | None:
        """The window bits of the compressor that this connection shares; None where it has its own."""
        return self._bits if self._shared else None

    def inflate(self, piece: bytes, room: int, last: bool) -> bytes:
        """Inflate the next piece of a message (RFC 7692 7.2.2).

        Args:
            piece: Payload of the message.
            room: Bytes that the piece may inflate to.
            last: Whether the message ends with this piece.

        Raises:
            InflateError: The stream is broken, or longer than ``room``.

        """
        if not piece and not (last and self._begun):
            return piece  # 7.2.3.6: an empty message has one byte. Of none, the appended tail alone would be inflated
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
        """Inflate at most ``room`` + 1 bytes, however large the message is (zip bombs): one more shows that it is."""
        self._fed += len(piece)
        out: bytes = self._inflater.decompress(piece, room + 1)
        while self._inflater.eof and len(out) <= room:
            # 7.2.3.4: a block with BFINAL set ends the zlib stream, but not the message.
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
    """The compressor of all connections with the same window.

    There is one object of zlib, and one more for each thread that compresses at the same moment. It is taken out of the
    list while it is used. If an exception interrupts that (a timeout, a signal handler, no memory), it still holds a
    message of the connection, and is dropped.
    """

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._idle: list[Any] = []

    def compress(self, payload: bytes) -> bytes:
        try:
            compressor = self._idle.pop()
        except IndexError:
            compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -self._bits)
        data = _deflate(compressor, payload, zlib.Z_FULL_FLUSH)
        self._idle.append(compressor)
        return data


_shared: dict[int, _SharedCompressor] = {}


def _shared_compressor(bits: int) -> _SharedCompressor:
    compressor = _shared.get(bits)
    if compressor is None:
        compressor = _shared.setdefault(bits, _SharedCompressor(bits))
    return compressor
