"""``payload``: a message that is put together from its pieces. ``tests/test_parity.py`` compares C and Python."""

from __future__ import annotations

import random
from typing import Any

import pytest

from gws_middleware.protocol.masking import mask
from tests.protocol.measuring import measured
from tests.support.implementations import NAMES, implementation

KEY = b"\x01\x82\x03\x84"
both = pytest.mark.parametrize("payload", NAMES, indirect=True)


@pytest.fixture
def payload(request: pytest.FixtureRequest) -> Any:
    """An empty one of C or of Python."""
    return implementation(request.param).payload.Payload()


@both
@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("announced", [False, True])
def test_pieces_come_to_one_payload(payload: Any, key: bytes | None, announced: bool) -> None:
    """Of any size, whether or not it was announced how much follows."""
    chance = random.Random(7)
    pieces = [chance.randbytes(chance.choice((0, 1, 3, 100, 5000, 32_768, 70_000))) for _ in range(40)]
    whole = b"".join(pieces)
    left = len(whole)
    for piece in pieces:
        left -= len(piece)
        is_ascii = payload.add(memoryview(piece if key is None else mask(piece, key)), key, left if announced else 0)
        assert is_ascii is piece.isascii()
    ends = [-1, 0, 10, 200, len(whole) - 5, len(whole), 2**63, *(chance.randrange(len(whole)) for _ in range(200))]
    for start, end in zip(ends, reversed(ends), strict=True):
        assert payload.part(start, end) == whole[max(0, start) : max(0, end)]
    assert len(payload) == len(whole)
    assert (payload.take(), len(payload), payload.take()) == (whole, 0, b"")


@both
@pytest.mark.parametrize("size", [1, 1400, 65_522])
def test_memory_is_reserved_for_what_is_announced(payload: Any, size: int) -> None:
    """At most 17 times what has come; what was announced at the most."""
    with measured() as memory:
        payload.add(bytes(size), KEY, 2**20 - size)
    assert size <= memory.held < min(17 * size, 2**20) + 2**10


@pytest.mark.skipif("c" not in NAMES, reason="the C modules are not built: Python copies")
def test_payload_that_was_announced_is_not_copied() -> None:
    """Not when pieces come, and not when it is taken."""
    payload = implementation("c").payload.Payload()
    size = 2**20
    with measured() as memory:
        for start in range(0, size, 2**16):
            payload.add(bytes(2**16), KEY, size - start - 2**16)
        whole = payload.take()
    assert (len(whole), memory.peak < 1.1 * size) == (size, True)


@both
def test_many_pieces_take_little_more_than_their_bytes(payload: Any) -> None:
    """An eighth, where nothing is announced."""
    with measured() as memory:
        for _ in range(100_000):
            payload.add(b"x", KEY, 0)
    assert 100_000 <= memory.held < 1.13 * 100_000 + 2**10


@pytest.mark.parametrize("size", [1, 900, 1400, 2100, 5000])
def test_room_after_pieces_is_returned_in_python(size: int) -> None:
    """A bytearray for all of them would have up to an eighth of room."""
    payload, total = implementation("python").payload.Payload(), 2**18
    with measured() as memory:
        for _ in range(0, total, size):
            payload.add(b"x" * size, KEY, 0)
    assert total <= memory.held < 1.02 * total + 2**12
