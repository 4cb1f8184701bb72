"""The grammar of the Sec-WebSocket-* header fields: RFC 6455 4.3 and 9.1, RFC 9110 5.6."""

from __future__ import annotations

import re
import string
import time
from collections.abc import Callable

import pytest

from gws_middleware.protocol import headers
from gws_middleware.protocol.headers import (
    MAX_ITEMS,
    check_field,
    check_token,
    parse_extensions,
    parse_list,
    parse_subprotocols,
)

TOKEN_CHARACTERS = string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~"
"""RFC 9110 5.6.2."""
EVERY_CHARACTER = [chr(number) for number in range(256)]


# check_token


@pytest.mark.parametrize("character", EVERY_CHARACTER)
def test_token_character(character: str) -> None:
    """A token has the 77 characters of RFC 9110 5.6.2 and no other one of latin-1."""
    accepted = True
    try:
        check_token(f"a{character}b", "it")
    except ValueError:
        accepted = False
    assert accepted is (character in TOKEN_CHARACTERS)


@pytest.mark.parametrize("text", ["", "a b", "chat\r\nX: y", "chat\n", "é", "a,b", "\u0661", None, b"chat", 5])
def test_token_refused(text: str) -> None:
    """What is no token is refused with a sentence that shows it (attack 15: CR, LF and NUL cannot pass)."""
    sentence = f"the subprotocol is {text!r}: wanted a token (letters, digits and !#$%&'*+-.^_`|~)"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        check_token(text, "the subprotocol")


def test_token_is_returned() -> None:
    """A token comes back as it is."""
    assert check_token("graphql-transport-ws", "it") == "graphql-transport-ws"


# check_field


@pytest.mark.parametrize("character", EVERY_CHARACTER)
def test_field_value_character(character: str) -> None:
    """A field value has tabs and the visible characters of latin-1; no CR, LF, NUL or other control (RFC 9110 5.5)."""
    accepted = True
    try:
        check_field("X-A", f"a{character}b")
    except ValueError:
        accepted = False
    number = ord(character)
    assert accepted is (character == "\t" or 0x20 <= number <= 0x7E or number >= 0x80)


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\n", "\x00", "\u0100", "\u2028", None, b"a", 5])
def test_field_value_refused(value: str) -> None:
    """A value that may not be sent is refused with a sentence that shows it."""
    sentence = f"the value of header X-A is {value!r}: wanted latin-1 text without control characters"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        check_field("X-A", value)


@pytest.mark.parametrize("name", ["", "X A", "X-A:", "X\r\nY", "Ä", None])
def test_field_name_refused(name: str) -> None:
    """A name that is no token is refused."""
    with pytest.raises(ValueError, match=r"^the header name is .*: wanted a token"):
        check_field(name, "a")


@pytest.mark.parametrize("value", ["", "a", "grüße", "a\tb", '"a, b"; c=d'])
def test_field_is_returned(value: str) -> None:
    """A field that may be sent comes back as it is."""
    assert check_field("X-A", value) == ("X-A", value)


# parse_list


@pytest.mark.parametrize(
    ("value", "items"),
    [
        ("Upgrade", ["upgrade"]),
        ("keep-alive, Upgrade", ["keep-alive", "upgrade"]),
        ("keep-alive,Upgrade", ["keep-alive", "upgrade"]),
        (" \tUpgrade\t ,\t, close ", ["upgrade", "close"]),
        ("", []),
        (", ,\t,", []),
        ("a b", ["a b"]),
        ("upgrade\xa0", ["upgrade\xa0"]),
    ],
)
def test_list_items(value: str, items: list[str]) -> None:
    """Items are lower-cased, spaces and tabs around them and empty items are left out (RFC 9110 5.6.1)."""
    assert parse_list(value) == items


# parse_subprotocols


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        ("chat", ("chat",)),
        ("chat, superchat", ("chat", "superchat")),
        ("chat,superchat", ("chat", "superchat")),
        ("\tchat\t,  v1.soap ", ("chat", "v1.soap")),
        ("Chat, chat", ("Chat", "chat")),
        ("chat, , superchat,", ("chat", "superchat")),
        (",chat", ("chat",)),
        ("", ()),
        (" \t", ()),
        (", ,", ()),
    ],
)
def test_subprotocols_in_order(value: str, tokens: tuple[str, ...]) -> None:
    """Subprotocols keep the client's order and case; empty items do not count (RFC 6455 4.1, RFC 9110 5.6.1.2)."""
    assert parse_subprotocols(value) == tokens


@pytest.mark.parametrize("value", ["a b", "a;b", 'a, "b"', "grün", "a\x00", "a/b", "a, b\x0bc", "a\xa0", "\x1ca"])
def test_subprotocols_not_tokens(value: str) -> None:
    """A list with an item that is no token is refused (RFC 6455 4.3)."""
    with pytest.raises(ValueError, match=r"^Sec-WebSocket-Protocol is not a list of tokens$"):
        parse_subprotocols(value)


@pytest.mark.parametrize("value", ["a, a", "a,b,a", "a, ,a"])
def test_subprotocols_doubled(value: str) -> None:
    """A subprotocol offered twice is refused (RFC 6455 4.1, item 10: all differ)."""
    with pytest.raises(ValueError, match=r"^Sec-WebSocket-Protocol offers a subprotocol twice$"):
        parse_subprotocols(value)


def test_subprotocols_at_the_limit() -> None:
    """As many subprotocols as the limit says pass."""
    names = [f"p{i}" for i in range(MAX_ITEMS)]
    assert parse_subprotocols(", ".join(names)) == tuple(names)


@pytest.mark.parametrize("value", [",".join(f"p{i}" for i in range(MAX_ITEMS + 1)), "," * MAX_ITEMS, "a," * 5000])
def test_subprotocols_too_many(value: str) -> None:
    """More items than the limit are refused, empty ones counted (attack 4)."""
    with pytest.raises(ValueError, match=rf"^Sec-WebSocket-Protocol offers more than {MAX_ITEMS} subprotocols$"):
        parse_subprotocols(value)


# parse_extensions


@pytest.mark.parametrize(
    ("value", "extensions"),
    [
        ("foo", [("foo", ())]),
        ("foo, bar", [("foo", ()), ("bar", ())]),
        ("foo;bar", [("foo", (("bar", None),))]),
        ("foo; bar; baz=2", [("foo", (("bar", None), ("baz", "2")))]),
        ("foo ; bar = 2 ,\tbaz\t", [("foo", (("bar", "2"),)), ("baz", ())]),
        ('foo; bar="2"', [("foo", (("bar", "2"),))]),
        ('foo; bar = "2" ; baz', [("foo", (("bar", "2"), ("baz", None)))]),
        (r'foo; bar="\2\3"', [("foo", (("bar", "23"),))]),
        ("foo; a; a=1; a", [("foo", (("a", None), ("a", "1"), ("a", None)))]),
        ("foo, foo", [("foo", ()), ("foo", ())]),
        ("foo, , bar,", [("foo", ()), ("bar", ())]),
        (" ,foo", [("foo", ())]),
        ("", []),
        (" \t", []),
        (" , ,", []),
        (
            "permessage-deflate; client_max_window_bits, permessage-deflate",
            [("permessage-deflate", (("client_max_window_bits", None),)), ("permessage-deflate", ())],
        ),
    ],
)
def test_extensions_in_order(value: str, extensions: list[headers.Extension]) -> None:
    """Extensions and parameters keep their order; quoted values are unquoted (RFC 6455 9.1)."""
    assert parse_extensions(value) == extensions


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (";a", "Sec-WebSocket-Extensions is malformed at character 0: wanted a token"),
        ("a;", "Sec-WebSocket-Extensions is malformed at character 2: wanted a token"),
        ("a; ,b", "Sec-WebSocket-Extensions is malformed at character 3: wanted a token"),
        ("a;b=", "Sec-WebSocket-Extensions is malformed at character 4: wanted a token"),
        ("a;b=,c", "Sec-WebSocket-Extensions is malformed at character 4: wanted a token"),
        ("a b", "Sec-WebSocket-Extensions is malformed at character 2"),
        ("a=1", "Sec-WebSocket-Extensions is malformed at character 1"),
        ("a;b=1=2", "Sec-WebSocket-Extensions is malformed at character 5"),
        ('a;b="1', "Sec-WebSocket-Extensions is malformed at character 4: wanted a token"),
        ('a;b="1"2', "Sec-WebSocket-Extensions is malformed at character 7"),
        ('"a"', "Sec-WebSocket-Extensions is malformed at character 0: wanted a token"),
        ('a;"b"', "Sec-WebSocket-Extensions is malformed at character 2: wanted a token"),
        ('a;b="\\', "Sec-WebSocket-Extensions is malformed at character 4: wanted a token"),
        ('a;b="\\"', "Sec-WebSocket-Extensions is malformed at character 4: wanted a token"),
        ('a;b="é"', "Sec-WebSocket-Extensions is malformed at character 4: wanted a token"),
        ('a;b="\x00"', "Sec-WebSocket-Extensions is malformed at character 4: wanted a token"),
        ('a;b="\\é"', "Sec-WebSocket-Extensions is malformed at character 4: wanted a token"),
        ("grün", "Sec-WebSocket-Extensions is malformed at character 2"),
        ("a\xa0", "Sec-WebSocket-Extensions is malformed at character 1"),
        ("a\n", "Sec-WebSocket-Extensions is malformed at character 1"),
        ('a;b=""', "Sec-WebSocket-Extensions has a quoted parameter that is not a token"),
        ('a;b="1 2"', "Sec-WebSocket-Extensions has a quoted parameter that is not a token"),
        (r'a;b="\""', "Sec-WebSocket-Extensions has a quoted parameter that is not a token"),
    ],
)
def test_extensions_malformed(value: str, sentence: str) -> None:
    """What the grammar does not know is refused, and the sentence says where (RFC 6455 9.1 MUST)."""
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        parse_extensions(value)


def test_extensions_at_the_limits() -> None:
    """As many extensions and parameters as the limits say pass."""
    one = "a" + ";b" * MAX_ITEMS
    assert parse_extensions(",".join([one] * MAX_ITEMS)) == [("a", (("b", None),) * MAX_ITEMS)] * MAX_ITEMS


@pytest.mark.parametrize("value", [",".join(["a"] * (MAX_ITEMS + 1)), "a," * 5000, "a" + "," * 5000, "," * 5000 + "a"])
def test_extensions_too_many(value: str) -> None:
    """More extensions than the limit are refused, empty items counted (attack 4)."""
    with pytest.raises(ValueError, match=rf"^Sec-WebSocket-Extensions offers more than {MAX_ITEMS} extensions$"):
        parse_extensions(value)


@pytest.mark.parametrize("parameter", [";b", ";b=1", ';b="1"'])
def test_extension_with_too_many_parameters(parameter: str) -> None:
    """More parameters than the limit are refused (attack 4)."""
    sentence = rf"^Sec-WebSocket-Extensions has an offer with more than {MAX_ITEMS} parameters$"
    with pytest.raises(ValueError, match=sentence):
        parse_extensions("a" + parameter * (MAX_ITEMS + 1))


# Bounds


def seconds(parse: Callable[[str], object], value: str) -> float:
    """The least processor time of several calls, so that a busy machine does not count."""
    times = []
    for _ in range(7):
        begin = time.thread_time()
        try:
            parse(value)
        except ValueError:
            pass
        times.append(time.thread_time() - begin)
    return min(times)


@pytest.mark.parametrize(
    "build",
    [
        lambda n: "a" * n,
        lambda n: "a," * n,
        lambda n: "," * n,
        lambda n: " " * n,
        lambda n: "a" + " " * n + "b",
        lambda n: "a;b" * n,
        lambda n: "a" + ";" * n,
        lambda n: '"' * n,
        lambda n: 'a;b="' + "c" * n,
        lambda n: 'a;b="' + "c" * n + '"',
        lambda n: 'a;b="' + "\\" * n,
        lambda n: 'a;b="' + "\\c" * n + '"',
        lambda n: 'a;b="' + "\\c" * n,
        lambda n: "\xff" * n,
    ],
)
@pytest.mark.parametrize("parse", [parse_list, parse_subprotocols, parse_extensions])
def test_parsing_is_linear(parse: Callable[[str], object], build: Callable[[int], str]) -> None:
    """Sixteen times the length costs at most about sixteen times the time, whatever it consists of (attack 4)."""
    short, long = build(4_000), build(64_000)
    # Quadratic would be 256 times; the constant lets what takes no time at all be measured.
    assert seconds(parse, long) < 80 * seconds(parse, short) + 0.002
