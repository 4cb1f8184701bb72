"""permessage-deflate (RFC 7692) of the load generator: what it offers, sends and expects.

Messages are compressed before time is measured. Each reply is inflated, and its text is compared as a whole: two
servers may compress the same text to different bytes.
"""

from __future__ import annotations

import json
import random
import re
import socket
import struct
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from .frames import TEXT, WrongReplyError, client_frame, take_pings
from .lanes import Lane

__all__ = ["OFFER", "Agreed", "DeflateLane", "agreed", "client_frames", "documents"]

OFFER = "permessage-deflate; client_max_window_bits"
"""What browsers send."""
RSV1 = 0x40
"""RFC 7692 6: the bit of a compressed message."""
_TAIL = b"\x00\x00\xff\xff"
"""RFC 7692 7.2.1: what a sender removes from the end of a message, and a receiver appends again."""
_TOGETHER = 64 * 1024
"""Bytes of all documents of one size; a window has 32 KiB at most."""


class Agreed(NamedTuple):
    """What the server's answer asks of the client (RFC 7692 7.1)."""

    bits: int
    """Of the window with which the client compresses."""
    takeover: bool
    """Whether a message may refer to those before it."""


def agreed(head: bytes) -> Agreed:
    """Read the answer to ``OFFER``: the head of a 101."""
    [extension] = re.findall(rb"(?im)^sec-websocket-extensions: *(permessage-deflate.*)$", head)
    bits = re.search(rb'client_max_window_bits="?(\d+)', extension)
    return Agreed(int(bits[1]) if bits else 15, b"client_no_context_takeover" not in extension)


@lru_cache
def documents(size: int) -> list[bytes]:
    """Different documents of JSON, each of exactly ``size`` bytes, the same in every run."""
    source = random.Random(7692)
    return [_document(source, size) for _ in range(_TOGETHER // size)]


def _document(source: random.Random, size: int) -> bytes:
    """Rows as an API sends them, and spaces for what is missing."""
    rows: list[dict[str, object]] = []
    while len(_json(rows)) <= size:
        row = {
            "id": source.randrange(10**6),
            "user": source.choice(("anna", "björn", "chen", "dmitri", "eva", "farid")),
            "state": source.choice(("open", "closed", "waiting")),
            "price": source.randrange(10**5) / 100,
            "changed": f"2026-{source.randint(1, 12):02}-{source.randint(1, 28):02}T12:{source.randint(0, 59):02}:00Z",
        }
        rows.append(row)
    return _json(rows[:-1]).ljust(size)


def _json(rows: Sequence[dict[str, object]]) -> bytes:
    return json.dumps(rows, ensure_ascii=False).encode()


@lru_cache
def client_frames(size: int, agreement: Agreed) -> tuple[list[bytes], list[bytes]]:
    """The documents as frames of a client: those that are sent first, and those that are sent again and again after.

    With context takeover a message refers to those before it. All documents are more than a window: so from the second
    time on the window has the same bytes before each of them, and a frame that was right once is right again.
    """
    compressor = None
    passes: list[list[bytes]] = []
    for _ in range(2):
        passes.append([])
        for text in documents(size):
            if compressor is None or not agreement.takeover:
                compressor = zlib.compressobj(wbits=-agreement.bits)
            data = compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)
            passes[-1].append(client_frame(TEXT | RSV1, data.removesuffix(_TAIL)))
    first, later = passes
    return first, later


class DeflateLane(Lane):
    """Sends the documents one after the other; the reply to each must be a compressed message with the same text."""

    __slots__ = ("_first", "_inflater", "_later", "_number", "_received", "_texts", "compressed")

    def __init__(self, sock: socket.socket, size: int, agreement: Agreed) -> None:
        super().__init__(sock, b"", b"")
        self._texts = documents(size)
        self._first, self._later = client_frames(size, agreement)
        self._inflater = zlib.decompressobj(-15)  # right for smaller windows, and without context takeover, too
        self._number = 0
        self._received = b""
        self.compressed = 0
        """Bytes of all replies, before they were inflated."""

    def send(self) -> bool:
        frames = self._first if self._number < len(self._texts) else self._later
        self._unsent = memoryview(frames[self._number % len(frames)])
        return self.flush()

    def receive(self) -> bool:
        data = self.sock.recv(65536)
        if not data:
            raise WrongReplyError("the server closed the connection instead of replying")
        self._received += data
        try:
            payload = _payload(self._received)
        except WrongReplyError:
            self._received, pongs = take_pings(self._received)
            if not pongs:
                raise
            self.sock.sendall(pongs)
            payload = _payload(self._received)
        if payload is None:
            return False
        expected = self._texts[self._number % len(self._texts)]
        try:
            text = self._inflater.decompress(payload + _TAIL)
        except zlib.error as error:
            raise WrongReplyError(f"the reply cannot be inflated: {error}") from None
        if text != expected:
            raise WrongReplyError(f"wrong reply: {text[:80]!r}, not {expected[:80]!r}")
        self._number += 1
        self._received = b""
        self.compressed += len(payload)
        return True


def _payload(received: bytes) -> bytes | None:
    """That of a frame with a whole compressed text, alone; None while a part of it is missing."""
    if received and received[0] != 0x80 | RSV1 | TEXT:
        raise WrongReplyError(f"no compressed text: {received[:80]!r}")
    if len(received) < 4:
        return None
    head, size = (4, struct.unpack("!H", received[2:4])[0]) if received[1] == 126 else (2, received[1])
    if len(received) > head + size:
        raise WrongReplyError(f"{len(received) - head - size} bytes more than the reply")
    return received[head:] if len(received) == head + size else None
