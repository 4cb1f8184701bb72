"""What travels through a backend: a message in its envelope, and the names of groups.

The envelope is bytes: version, kind, lengths, the sender's connection, facts about the sender as JSON, the message.
JSON stays as the publisher has encoded it: it is copied into frames, and decoded only where it is read. Rule: nothing
here is ever executed or unpickled.
"""

from __future__ import annotations

import re
import struct
from functools import cached_property
from typing import Any, NamedTuple

from ..connection import jsontext
from .errors import GroupsError
from .position import Entry, Position

__all__ = [
    "BINARY",
    "CONTROL",
    "JSON",
    "MAX_SIZE",
    "RESERVED",
    "TEXT",
    "Envelope",
    "Publication",
    "check_name",
    "encode",
    "prefix_of",
]

JSON, TEXT, BINARY, CONTROL = range(4)
"""Kinds of a message; CONTROL is for workers, not for members."""
MAX_SIZE = 2**24
"""Bytes of one message."""
RESERVED = "gws."
"""What the names of groups of our own begin with."""

_VERSION = 1
_HEAD = struct.Struct("!BBHI")
_NAME = re.compile(r"[A-Za-z0-9_.:@-]{1,200}", re.ASCII)


def check_name(name: str) -> None:
    """Check the name of a group.

    Raises:
        TypeError: It is not a ``str``.
        ValueError: It has other characters or another length than it may have.

    """
    if type(name) is not str:
        raise TypeError(f"the name of a group is a str, not {type(name).__name__}")
    if _NAME.fullmatch(name) is None:
        raise ValueError(
            f"{name[:50]!r} cannot be the name of a group: wanted are 1 to 200 of the characters A-Z a-z 0-9 _ . : @ -"
        )
    if name.startswith(RESERVED):
        raise ValueError(f"{name!r} cannot be the name of a group: {RESERVED!r} begins the names of this package")


def prefix_of(name: str) -> str:
    """What precedes the first dot: settings are made for it."""
    return name.partition(".")[0]


class Envelope(NamedTuple):
    """A message, and what is known of its sender."""

    kind: int
    data: bytes
    sender: str = ""
    """The connection that gets no copy; empty where all members do."""
    info: bytes = b""
    """JSON; empty for none."""

    def pack(self) -> bytes:
        """The bytes for a backend."""
        sender = self.sender.encode("ascii")
        return _HEAD.pack(_VERSION, self.kind, len(sender), len(self.info)) + sender + self.info + self.data

    @classmethod
    def unpack(cls, payload: bytes) -> Envelope:
        """The envelope of ``pack()``.

        Raises:
            GroupsError: The bytes are not one, or one of another version.

        """
        try:
            version, kind, length, info_length = _HEAD.unpack_from(payload)
        except struct.error:
            raise GroupsError(f"the backend has bytes that are no message: {payload[:20]!r}") from None
        if version != _VERSION:
            raise GroupsError(f"the backend has a message of version {version}, and this is version {_VERSION}")
        sender_end = _HEAD.size + length
        info_end = sender_end + info_length
        if kind > CONTROL or info_end > len(payload) or not payload[_HEAD.size : sender_end].isascii():
            raise GroupsError(f"the backend has bytes that are no message: {payload[:20]!r}")
        return cls(kind, payload[info_end:], payload[_HEAD.size : sender_end].decode(), payload[sender_end:info_end])


def encode(message: Any) -> tuple[int, bytes]:
    """Kind and bytes of a message: ``str`` is text, bytes are binary, everything else is JSON.

    Raises:
        TypeError: It has no JSON.
        ValueError: It is, or has in it, NaN or an infinity; it is text that cannot be encoded, or too large.

    """
    if isinstance(message, str):
        kind, data = TEXT, message.encode()
    elif isinstance(message, bytes | bytearray | memoryview):
        kind, data = BINARY, bytes(message)
    else:
        kind, data = JSON, jsontext.dumps(message).encode()
    if len(data) > MAX_SIZE:
        raise ValueError(f"the message has {len(data):,} bytes, and a group takes {MAX_SIZE:,} at most")
    return kind, data


class Publication:
    """What was sent to a group.

    Two are equal when they are the same message.
    """

    def __init__(self, entry: Entry, envelope: Envelope) -> None:
        self._entry, self._envelope = entry, envelope

    def __repr__(self) -> str:
        where = f" {self.position}" if self.position else ""
        return f"<Publication {self.group}{where} {self._envelope.data[:50]!r}>"

    def __eq__(self, other: object) -> bool:
        return self._entry == other._entry if isinstance(other, Publication) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._entry)

    @property
    def group(self) -> str:
        """The group's name."""
        return self._entry.group

    @property
    def position(self) -> Position | None:
        """The position after this message; None in a group without history."""
        return Position(self._entry.epoch, self._entry.offset) if self._entry.offset else None

    @property
    def epoch(self) -> str:
        """The epoch; empty in a group without history."""
        return self._entry.epoch

    @property
    def offset(self) -> int:
        """The number of this message in its epoch; 0 in a group without history."""
        return self._entry.offset

    @property
    def kind(self) -> str:
        """``"json"``, ``"text"`` or ``"binary"``."""
        return ("json", "text", "binary", "control")[self._envelope.kind]

    @cached_property
    def data(self) -> Any:
        """What was sent: ``str``, ``bytes``, or the value of the JSON, which is decoded when this is first read."""
        kind, data = self._envelope.kind, self._envelope.data
        return data.decode() if kind == TEXT else data if kind == BINARY else jsontext.loads(data)

    @property
    def message(self) -> str | bytes:
        """What members get where nothing else was asked for: text (JSON too) as ``str``, binary as ``bytes``."""
        return self._envelope.data if self._envelope.kind == BINARY else self._envelope.data.decode()

    @property
    def sender(self) -> str:
        """The connection that gets no copy; empty where all members do."""
        return self._envelope.sender

    @cached_property
    def info(self) -> Any:
        """Facts about the sender, as ``send(info=…)`` had them; None for none."""
        return jsontext.loads(self._envelope.info) if self._envelope.info else None
