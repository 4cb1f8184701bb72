"""``jsontext``: JSON as RFC 8259 has it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gws_middleware.connection.jsontext import dumps, loads

NOT_JSON: list[str | bytes] = [
    *("{", "", b"\xff", "1" * 5000, "NaN", "[Infinity]", '{"a": -Infinity}', "1e999", "[-1e999]"),
    *('"a"'.encode("utf-16"), b'"\xed\xa0\x80"', "\ufeff1", "{'a': 1}", "nan", "01", "[1,]"),
]


@pytest.mark.parametrize(
    ("message", "value"),
    [
        ('{"a": [1, null]}', {"a": [1, None]}),
        (b'"\xc3\xa9"', "\u00e9"),
        (' "\\ud83d" ', "\ud83d"),
        ("1e-400", 0.0),
        ("1" * 4000, int("1" * 4000)),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_loads_takes_text_and_binary(message: str | bytes, value: Any) -> None:
    """JSON may travel as either; binary is UTF-8 (RFC 8259 8.1)."""
    assert loads(message) == value


@pytest.mark.parametrize("message", NOT_JSON, ids=lambda text: repr(text[:9]))
def test_loads_refuses_what_is_not_json(message: str | bytes) -> None:
    """What Python's ``json`` takes beyond RFC 8259 too: NaN, infinity, a number that becomes it, other encodings."""
    with pytest.raises(ValueError):  # noqa: PT011 - the sentence is Python's own
        loads(message)


def test_loads_refuses_what_is_nested_too_deeply() -> None:
    """RFC 8259 9 allows a limit."""
    with pytest.raises(RecursionError):
        loads("[" * 100_000)


def test_dumps_makes_compact_text() -> None:
    """As few bytes as JSON allows, and no escapes where UTF-8 suffices."""
    assert dumps({"a": ["\u00e9", None, 1.5]}) == '{"a":["\u00e9",null,1.5]}'


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": -float("inf")}, {float("nan"): 1}])
def test_dumps_refuses_numbers_that_have_no_json(value: Any) -> None:
    """NaN and infinity (RFC 8259 6): no parser of a browser would take them."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps(value)


def test_dumps_refuses_values_that_have_no_json() -> None:
    """As ``json`` does."""
    with pytest.raises(TypeError):
        dumps(object())


@pytest.mark.parametrize("text", ['["\\ud83d"]', '"\u00e9\\ud83d\\ude00"', "[1.5e300,-0.0,1e-400]", "1" * 4000])
def test_what_was_loaded_can_be_dumped(text: str) -> None:
    """As UTF-8: half of a surrogate pair, which a browser sends for a text that was cut inside of an emoji, too."""
    value = loads(text)
    assert json.loads(dumps(value).encode()) == value
