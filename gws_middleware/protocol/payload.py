"""The payload of a message that comes in pieces. ``Payload`` exists twice: here, and in ``_speedups.c``, which is used
where it is built.

Rule: both do the same for every call; ``tests/test_parity.py`` compares them.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import index

from .masking import BytesLike, byte_view, checked_key, speedups, xor_key

__all__ = ["Payload"]


BLOCK = 32768
"""Bytes from which on a block gets no more."""


class Payload:
    """Bytes that are put together as they come. They are kept as bytes: as text CPython could need four times as much.

    The memory that is reserved is at most 17 times what has come, and that is used grows with what comes.
    """

    # Blocks, because one bytearray would have an eighth of room at its end, which is 2 MiB of 16.
    __slots__ = ("_blocks", "_starts")

    def __init__(self) -> None:
        self._blocks: list[bytes | bytearray] = []
        """The last one alone grows, and alone may be a bytearray or empty."""
        self._starts: list[int] = []
        """The offset of each block."""

    def __len__(self) -> int:
        return self._starts[-1] + len(self._blocks[-1]) if self._blocks else 0

    def add(self, piece: BytesLike, key: BytesLike | None, to_come: int, /) -> bool:
        """Append a piece.

        Args:
            piece: Any contiguous buffer; it is not kept.
            key: The key to unmask it with (RFC 6455 5.3), turned to its first byte; None where it is not masked.
            to_come: How many bytes are announced to follow.

        Returns:
            Whether it is ASCII.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: The key does not have four bytes, or ``to_come`` is negative.
            BufferError: A buffer is not contiguous.

        """
        view = piece if type(piece) is bytes else byte_view(piece)
        data = bytes(view) if key is None else xor_key(view, checked_key(key))
        if index(to_come) < 0:
            raise ValueError(f"a number of bytes to come is not negative, as {to_come} is")
        blocks = self._blocks
        last = blocks[-1] if blocks else None
        if last is None or len(last) >= BLOCK:
            self._starts.append(len(self))
            if last is not None:
                blocks[-1] = bytes(last)  # without the room at its end
            blocks.append(data)
        elif type(last) is bytearray:
            last += data
        else:
            blocks[-1] = bytearray(last + data) if last else data
        return data.isascii()

    def part(self, start: int, end: int, /) -> bytes:
        """The bytes from one offset to another; as many of them as there are."""
        start, end = max(0, index(start)), min(index(end), len(self))
        number = bisect_right(self._starts, start) - 1
        pieces = []
        while start < end:
            offset = start - self._starts[number]
            piece = self._blocks[number][offset : offset + end - start]
            pieces.append(piece)
            start += len(piece)
            number += 1
        return b"".join(pieces)

    def take(self) -> bytes:
        """All of it, after which nothing is left here."""
        whole = b"".join(self._blocks)
        self._blocks, self._starts = [], []
        return whole


if speedups is not None:
    Payload = speedups.Payload  # type: ignore[misc]
