"""``utf8``: long texts in steps, and texts that come in pieces."""

from __future__ import annotations

import random

import pytest

from gws_middleware.protocol.utf8 import STEP, Checker, decode, encode
from tests.protocol.measuring import measured

ALPHABETS = {"ASCII": "abc", "Latin": "aé", "Cyrillic and Chinese": "Жизнь世界", "emoji": "a😀é世"}


def text_of(alphabet: str, length: int) -> str:
    """So many characters, in an order that is the same in every run."""
    return "".join(random.Random(length).choices(ALPHABETS[alphabet], k=length))


@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize("length", [0, 1, STEP - 1, STEP, STEP + 1, 3 * STEP, 3 * STEP + 5])
def test_steps_come_to_the_same(alphabet: str, length: int) -> None:
    """Characters of two, three and four bytes lie across the ends of steps."""
    text = text_of(alphabet, length)
    assert encode(text) == text.encode()
    for begun in range(4):  # each byte of a character is once the first one of a step
        shifted = "x" * begun + text
        assert decode(shifted.encode()) == shifted


@pytest.mark.parametrize("place", [0, STEP - 1, STEP, 3 * STEP - 1])
def test_lone_surrogate_has_no_utf8(place: int) -> None:
    """Wherever it is."""
    text = text_of("Latin", 3 * STEP)
    with pytest.raises(UnicodeEncodeError):
        encode(text[:place] + "\ud800" + text[place + 1 :])


WRONG = [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe4\xb8"]


@pytest.mark.parametrize("wrong", WRONG, ids=bytes.hex)
@pytest.mark.parametrize("before", [0, 1, STEP - 2, STEP - 1, STEP, 2 * STEP])
def test_what_is_not_utf8_is_an_error(wrong: bytes, before: int) -> None:
    """Inside of a step, across two of them, and at the end of all."""
    for after in (b"", b"x", "é".encode() * STEP):
        with pytest.raises(UnicodeDecodeError):
            decode("é".encode() * (before // 2) + b"x" * (before % 2) + wrong + after)


@pytest.mark.parametrize("alphabet", ["Cyrillic and Chinese", "emoji"])
def test_decoding_reserves_little_more_than_the_result(alphabet: str) -> None:
    """The steps and the whole; at once it is up to four times as much."""
    data = text_of(alphabet, 32 * STEP).encode()
    with measured() as memory:
        text = decode(data)
    assert memory.peak < 2.1 * memory.held
    assert len(text) == 32 * STEP


class TestChecker:
    @pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
    def test_text_may_come_in_any_pieces(self, size: int) -> None:
        """They may end inside of a character."""
        checker, data = Checker(), text_of("emoji", 2000).encode()
        for start in range(0, len(data), size):
            checker.check(data[start : start + size])
        with pytest.raises(UnicodeDecodeError):
            checker.check(b"\xff")

    @pytest.mark.parametrize("wrong", [b"\xff", b"\xc0", b"\xed\xa0", b"\xf4\x90", b"\xe4x", b"\xf5"], ids=bytes.hex)
    def test_fails_as_soon_as_it_is_certain(self, wrong: bytes) -> None:
        """With the first byte after which no text is possible, and not before."""
        checker = Checker()
        checker.check("é😀".encode())
        for byte in wrong[:-1]:
            checker.check(bytes([byte]))
        with pytest.raises(UnicodeDecodeError):
            checker.check(wrong[-1:])
