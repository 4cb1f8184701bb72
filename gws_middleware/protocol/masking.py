"""Masking (RFC 6455 5.3). ``mask`` exists twice: here, and in ``_speedups.c``, which is used where it is built.

Rule: both do the same for every call; ``tests/test_parity.py`` compares them.
"""

from __future__ import annotations

from typing import TypeAlias

from ..native import load

__all__ = ["BytesLike", "mask"]

BytesLike: TypeAlias = "bytes | bytearray | memoryview"

speedups = load("gws_middleware.protocol._speedups")
"""The module in C, or None."""


def byte_view(data: BytesLike) -> memoryview:
    """``data`` as a flat view of single bytes, whatever its items are.

    Raises:
        TypeError: ``data`` is no buffer.
        BufferError: The buffer is not C-contiguous.

    """
    view = memoryview(data)
    if not view.c_contiguous:
        raise BufferError("the buffer is not C-contiguous")
    return view if view.format == "B" and view.ndim == 1 else memoryview(view.tobytes())


_from_bytes = int.from_bytes  # Looked up once: that is a fifth of the time for a short message.

# Row b is the table with which bytes.translate() XORs every byte with b.
_EACH_BYTE = _from_bytes(bytes(range(256)), "little")
_XOR_TABLES = tuple((_EACH_BYTE ^ _from_bytes(bytes((b,)) * 256, "little")).to_bytes(256, "little") for b in range(256))

# Up to this length one XOR of long integers is faster; above it, four translations, each of every fourth byte:
# 0.5 against 1.1 µs for 64 bytes, 68 against 43 µs for 16 KiB (CPython 3.11).
_AS_INTEGERS_UP_TO = 512


def xor_key(data: BytesLike, key: bytes) -> bytes:
    """``mask()`` without its checks: ``data`` has items of one byte, ``key`` has four bytes."""
    length = len(data)
    if length <= _AS_INTEGERS_UP_TO:
        repeated = (key * ((length >> 2) + 1))[:length]
        return (_from_bytes(data, "little") ^ _from_bytes(repeated, "little")).to_bytes(length, "little")
    result = bytearray(data)
    for lane, byte in enumerate(key):
        result[lane::4] = result[lane::4].translate(_XOR_TABLES[byte])
    return bytes(result)


def checked_key(key: BytesLike) -> bytes:
    """``key`` as bytes.

    Raises:
        ValueError: It does not have four bytes.

    """
    if type(key) is not bytes:
        key = bytes(byte_view(key))
    if len(key) != 4:
        raise ValueError(f"a masking key has 4 bytes, this one has {len(key)}")
    return key


def mask(data: BytesLike, key: BytesLike, /) -> bytes:
    """Mask the bytes of a payload, or unmask them: XOR with the repeated key (RFC 6455 5.3).

    Args:
        data: Any contiguous buffer.
        key: A buffer of four bytes.

    Returns:
        As many bytes as ``data`` has.

    Raises:
        TypeError: An argument is no buffer.
        ValueError: The key does not have four bytes.
        BufferError: A buffer is not contiguous.

    """
    checked = checked_key(key)
    return xor_key(data if type(data) is bytes else byte_view(data), checked)


if speedups is not None:
    mask = speedups.mask
