"""UTF-8 (RFC 3629) of texts that are long, or come in pieces.

Rule: a long text is encoded and decoded in steps. At once CPython reserves up to four times what the result takes, in
one piece, which the allocator gives back to the system: to map and clear its pages again is a third of the time that a
text of 1 MiB takes.
"""

from __future__ import annotations

import codecs

__all__ = ["STEP", "Checker", "decode", "encode"]

STEP = 32768
"""Characters, or bytes, of one step."""

_new_decoder = codecs.getincrementaldecoder("utf-8")


def encode(text: str) -> bytes:
    """The bytes of a text.

    Raises:
        UnicodeEncodeError: It has a lone surrogate.

    """
    if type(text) is not str or len(text) <= STEP or text.isascii():
        return str.encode(text)  # not the method of a subclass
    return b"".join([text[start : start + STEP].encode() for start in range(0, len(text), STEP)])


def decode(data: bytes) -> str:
    """The text of bytes.

    Raises:
        UnicodeDecodeError: They are not UTF-8.

    """
    if len(data) <= STEP or data.isascii():
        return data.decode()
    decoder = _new_decoder()
    steps = [decoder.decode(data[start : start + STEP]) for start in range(0, len(data), STEP)]
    decoder.decode(b"", True)  # raises where the last character is not complete
    return "".join(steps)


class Checker:
    """Checks a text that comes in pieces, and fails as soon as it is certain that it is not UTF-8."""

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder = _new_decoder()

    def check(self, piece: bytes) -> None:
        """Take the next piece.

        Raises:
            UnicodeDecodeError: The text is not UTF-8, whatever follows.

        """
        self._decoder.decode(piece)
        if b"\xed\xa0" <= self._decoder.getstate()[0] < b"\xee":
            self._decoder.decode(b"", True)  # raises: CPython awaits the third byte of a surrogate, none is valid
