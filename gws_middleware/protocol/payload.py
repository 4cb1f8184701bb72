"""The payload of a message that comes in pieces. ``Payload`` exists twice: here, and in ``_speedups.c``, which is used
where it is built.

Rule: both do the same for every call; ``tests/test_parity.py`` compares them.
"""

from __future__ import annotations

from operator import index

from .masking import BytesLike, byte_view, checked_key, speedups, xor_key

__all__ = ["Payload"]


class Payload:
    """Bytes that are put together as they come. They are kept as bytes: as text CPython could need four times as much.

    The memory that is reserved is at most 17 times what has come, and that is used grows with what comes.
    """

    __slots__ = ("_data",)

    _data: bytearray | bytes

    def __init__(self) -> None:
        self._data = b""

    def __len__(self) -> int:
        return len(self._data)

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
        if not self._data:
            self._data = data
        elif type(self._data) is bytearray:
            self._data += data
        else:
            self._data = bytearray(self._data + data)
        return data.isascii()

    def part(self, start: int, end: int, /) -> bytes:
        """The bytes from one offset to another; as many of them as there are."""
        return bytes(self._data[max(0, index(start)) : max(0, index(end))])

    def take(self) -> bytes:
        """All of it, after which nothing is left here."""
        data, self._data = self._data, b""
        return bytes(data)


if speedups is not None:
    Payload = speedups.Payload  # type: ignore[misc]
