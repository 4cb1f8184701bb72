"""JSON as RFC 8259 has it, where Python's ``json`` takes and makes more: no NaN and no Infinity, and bytes in UTF-8."""

from __future__ import annotations

import json
from typing import Any

from ..typing import Message

__all__ = ["dumps", "loads"]


def dumps(value: Any) -> str:
    """Compact JSON text. TypeError for a value that has no JSON, ValueError for NaN, infinity and a cycle."""
    text = _encode(value)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can escape and UTF-8 cannot carry
        return _encode_ascii(value)
    return text


def loads(message: Message) -> Any:
    """The value of a message. ValueError for what is not JSON, and for a number that Python takes for infinity;
    RecursionError for what is nested too deeply.
    """
    return _decode(message if isinstance(message, str) else str(message, "utf-8"))


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise ValueError(f"the number {text} is out of range")
    return number


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_encode_ascii = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_decode = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant).decode
