"""The protocol of Redis, RESP2: commands as bytes, and bytes as replies.

Rule: nothing here waits or does I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["Command", "RefusedError", "Replies", "pack"]

Command = tuple[str | bytes | int, ...]

_STRING, _ERROR, _INTEGER, _BULK, _ARRAY = b"+-:$*"


class RefusedError(Exception):
    """The server's reply is an error."""


def pack(commands: Sequence[Command]) -> bytes:
    """What is sent for some commands."""
    parts: list[bytes] = []
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for word in command:
            if type(word) is not bytes:
                word = str(word).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(word), word))
    return b"".join(parts)


class Replies:
    """The replies in a stream of bytes.

    A simple or a bulk string is ``bytes``, an array is a list, nothing is None. An error is a ``RefusedError``, which
    is not raised.
    """

    __slots__ = ("_open", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._open: list[tuple[list[Any], int]] = []
        """Arrays that are not complete, and how many items each has to have; the innermost is the last."""

    def take(self, data: bytes) -> list[Any]:
        """The replies that are complete by what was read, each once and in order.

        Raises:
            ValueError: This is not the protocol.

        """
        if self._rest:
            data = self._rest + data
        at, incomplete = 0, self._open
        found: list[Any] = []
        while (end := data.find(b"\r\n", at)) >= 0:
            kind, line = data[at], data[at + 1 : end]
            following = end + 2
            value: Any
            if kind == _BULK:
                if (size := int(line)) < 0:
                    value = None
                else:
                    end = following + size
                    if len(data) < end + 2:
                        break
                    value, following = data[following:end], end + 2
            elif kind == _ARRAY:
                if (size := int(line)) > 0:
                    incomplete.append(([], size))
                    at = following
                    continue
                value = [] if size == 0 else None
            elif kind == _INTEGER:
                value = int(line)
            elif kind == _STRING:
                value = line
            elif kind == _ERROR:
                value = RefusedError(str(line, "utf-8", "replace").removeprefix("ERR "))
            else:
                raise ValueError(f"a reply of Redis begins with {data[at : at + 20]!r}")
            at = following
            while incomplete:
                items, size = incomplete[-1]
                items.append(value)
                if len(items) < size:
                    break
                incomplete.pop()
                value = items
            else:
                found.append(value)
        self._rest = data[at:]
        return found
