"""RFC 6455 5.2: building frames, and the fast path of reading. Each test runs on both implementations."""

from __future__ import annotations

import array
import itertools
import random
import struct
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from gws_middleware.protocol import frames
from gws_middleware.protocol.frames import FIN, LENGTH, MASKED, OPCODE, RSV1, RSV2, RSV3
from gws_middleware.protocol.masking import mask
from tests.support.implementations import NAMES, implementation

Encode = Callable[..., bytes]
Parse = Callable[..., int]
Message = str | bytes

KEY = b"\x37\xfa\x21\x3d"
TEXT, BINARY = 0x81, 0x82
NO_LIMIT = sys.maxsize
BOUNDARIES = [0, 1, 125, 126, 127, 65535, 65536, 65537]

PLANES = [chr(plane << 16 | point) for plane in range(17) for point in (0x0000, 0x0041, 0xD7FF, 0xE000, 0xFFFF)]
TEXTS = ["", "a", "x" * 64, "é", "Größe", "мир", "漢字", "😀", "a\0b", "\x7f\x80", "\u07ff\u0800", *PLANES]

# Overlong forms, surrogates, beyond U+10FFFF, stray and missing continuation bytes (RFC 3629 3, 4, 10).
NOT_UTF8 = [
    b"\x80",
    b"\xbf",
    b"\xc0\x80",
    b"\xc1\xbf",
    b"\xc2",
    b"\xc2a",
    b"\xc2\xc0",
    b"\xe0\x80\x80",
    b"\xe0\x9f\xbf",
    b"\xe1\x80",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xed\xa0\xbd\xed\xb8\x80",
    b"\xf0\x80\x80\x80",
    b"\xf0\x8f\xbf\xbf",
    b"\xf0\x9f\x98",
    b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\xfe",
    b"\xff",
]


@pytest.fixture(params=NAMES)
def encode(request: pytest.FixtureRequest) -> Encode:
    return implementation(request.param).frames.encode_frame


@pytest.fixture(params=NAMES)
def parse(request: pytest.FixtureRequest) -> Parse:
    return implementation(request.param).frames.parse_messages


def both(name: str) -> tuple[Any, Any]:
    """The function of ``frames`` in C and in Python; the test is skipped where C is not built."""
    if "c" not in NAMES:
        pytest.skip("the C extension is not built")
    return getattr(implementation("c").frames, name), getattr(implementation("python").frames, name)


def build(first_byte: int, payload: bytes, key: bytes | None = KEY, width: int | None = None) -> bytes:
    """A frame by the diagram in 5.2; a ``width`` of 0, 2 or 8 bytes for the length, minimal or not."""
    length = len(payload)
    if width is None:
        width = 0 if length < 126 else 2 if length < 65536 else 8
    bit = 0x80 if key is not None else 0
    code = {0: length, 2: 126, 8: 127}[width]
    header = bytes([first_byte, bit | code]) + (length.to_bytes(width, "big") if width else b"")
    return header + payload if key is None else header + key + mask(payload, key)


def read(
    parse: Parse, data: bytes, masked: bool = True, max_size: int = NO_LIMIT, start: int = 0
) -> tuple[int, list[Message]]:
    """What ``parse`` makes of ``data``: the same in every kind of buffer, whatever stands after the end."""
    answers = []
    longer = data + b"\x82\x80\x00\x00\x00\x00\x82\x00" * 40
    for buffer in (data, bytearray(data), memoryview(data), longer, memoryview(bytearray(longer))):
        messages: list[Message] = []
        answers.append((parse(buffer, start, len(data), max_size, masked, messages), messages))
    assert all(answer == answers[0] for answer in answers)
    assert all(type(a) is type(b) for answer in answers for a, b in zip(answer[1], answers[0][1], strict=True))
    return answers[0]


# The bits


def test_bits_of_the_first_byte() -> None:
    """FIN, RSV1-3 and the opcode share the first byte out among them (5.2)."""
    assert [FIN, RSV1, RSV2, RSV3, OPCODE] == [0b10000000, 0b01000000, 0b00100000, 0b00010000, 0b00001111]


def test_bits_of_the_second_byte() -> None:
    """The mask bit and the length share the second byte out between them (5.2)."""
    assert [MASKED, LENGTH] == [0b10000000, 0b01111111]


# encode_header


@pytest.mark.parametrize(
    ("length", "header"),
    [
        (0, "8200"),
        (1, "8201"),
        (125, "827d"),
        (126, "827e007e"),
        (65535, "827effff"),
        (65536, "827f0000000000010000"),
        (2**63 - 1, "827f7fffffffffffffff"),
    ],
)
def test_encode_header_length(length: int, header: str) -> None:
    """A length takes the fewest bytes (5.2 MUST)."""
    assert frames.encode_header(BINARY, length).hex() == header


@pytest.mark.parametrize(("length", "size"), [(0, 6), (125, 6), (126, 8), (65535, 8), (65536, 14)])
def test_encode_header_key(length: int, size: int) -> None:
    """With a key the mask bit is set and the key ends the header."""
    plain, masked = frames.encode_header(TEXT, length), frames.encode_header(TEXT, length, KEY)
    assert (len(masked), masked) == (size, bytes([TEXT, plain[1] | MASKED]) + plain[2:] + KEY)


@pytest.mark.parametrize("length", [-1, 2**63, 2**64])
def test_encode_header_impossible_length(length: int) -> None:
    """A length that no frame can have is refused."""
    with pytest.raises(ValueError, match=rf"^the length of a payload is 0 to 2\*\*63 - 1, not {length}$"):
        frames.encode_header(BINARY, length)


@pytest.mark.parametrize("first_byte", [-1, 256])
def test_encode_header_impossible_first_byte(first_byte: int) -> None:
    """A first byte that is none is refused."""
    with pytest.raises(ValueError, match=rf"^the first byte of a frame is 0 to 255, not {first_byte}$"):
        frames.encode_header(first_byte, 0)


def test_encode_header_key_of_wrong_size() -> None:
    """A key that has not four bytes is refused."""
    with pytest.raises(ValueError, match=r"^a masking key has 4 bytes, this one has 3$"):
        frames.encode_header(BINARY, 0, b"abc")


# encode_frame


@pytest.mark.parametrize(
    ("arguments", "frame"),
    [
        ((0x81, "Hello"), "810548656c6c6f"),
        ((0x81, "Hello", KEY), "818537fa213d7f9f4d5158"),
        ((0x01, "Hel"), "010348656c"),
        ((0x80, "lo"), "80026c6f"),
        ((0x89, b"Hello"), "890548656c6c6f"),
        ((0x8A, b"Hello", KEY), "8a8537fa213d7f9f4d5158"),
    ],
)
def test_encode_frame_examples_of_the_rfc(encode: Encode, arguments: tuple[Any, ...], frame: str) -> None:
    """The frames printed in 5.7 are built byte for byte."""
    assert encode(*arguments).hex() == frame


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "masked"])
@pytest.mark.parametrize("length", BOUNDARIES)
def test_encode_frame_length(encode: Encode, length: int, key: bytes | None) -> None:
    """At each boundary of the length a payload of any type makes the minimal frame."""
    payload = (b"payload " * 8193)[:length]
    payloads = [
        payload,
        bytearray(payload),
        memoryview(payload),
        memoryview(bytearray(payload)),
        payload.decode(),
    ]
    assert [encode(BINARY, each, key) for each in payloads] == [build(BINARY, payload, key)] * 5


def test_encode_frame_first_byte(encode: Encode) -> None:
    """Each first byte goes out as it is."""
    assert [encode(first, b"")[0] for first in range(256)] == list(range(256))


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "masked"])
@pytest.mark.parametrize("repeat", [1, 200])
def test_encode_frame_text(encode: Encode, repeat: int, key: bytes | None) -> None:
    """Text of every plane and width goes out as UTF-8, its length counted in bytes."""
    texts = [text * repeat for text in TEXTS]
    expected = [build(TEXT, text.encode(), key) for text in texts]
    assert [encode(TEXT, text, key) for text in texts] == expected


def test_encode_frame_leaves_no_utf8_in_text(encode: Encode) -> None:
    """A text that was sent is no larger than before: no second copy of it stays."""
    text = "мир" * 1000
    before = sys.getsizeof(text)
    encode(TEXT, text)
    assert sys.getsizeof(text) == before


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "masked"])
@pytest.mark.parametrize("text", ["\ud800", "a\udfff", "é\ud83d", "\udc00" * 200, "😀\ud800"])
def test_encode_frame_surrogate(encode: Encode, text: str, key: bytes | None) -> None:
    """A surrogate is the error that str.encode makes of it."""
    with pytest.raises(UnicodeEncodeError) as expected:
        text.encode()
    with pytest.raises(UnicodeEncodeError) as caught:
        encode(TEXT, text, key)
    assert caught.value.args == expected.value.args


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "masked"])
@pytest.mark.parametrize("count", [0, 3, 40, 300])
def test_encode_frame_wide_items(encode: Encode, count: int, key: bytes | None) -> None:
    """The length of a view counts bytes, not items."""
    items = array.array("I", range(count))
    assert encode(BINARY, memoryview(items), key) == build(BINARY, items.tobytes(), key)


def test_encode_frame_two_dimensions(encode: Encode) -> None:
    """A contiguous view of several dimensions goes out whole."""
    assert encode(BINARY, memoryview(bytes(range(200))).cast("B", (2, 100))) == build(BINARY, bytes(range(200)), None)


def test_encode_frame_strided_view(encode: Encode) -> None:
    """A view that is not contiguous is refused."""
    with pytest.raises(BufferError):
        encode(BINARY, memoryview(b"abcdefgh")[::2])


def test_encode_frame_subclasses(encode: Encode) -> None:
    """Subclasses of str, bytes and int serve as what they are."""

    class Text(str):
        __slots__ = ()

    class Data(bytes):
        pass

    built = [encode(True, Text("мир")), encode(BINARY, Data(b"x"))]
    assert built == [build(1, "мир".encode(), None), build(BINARY, b"x", None)]


def test_encode_frame_key_by_name(encode: Encode) -> None:
    """The key may be named, and None is no key."""
    built = [encode(TEXT, "Hello", key=KEY), encode(TEXT, "Hello", key=None)]
    assert built == [encode(TEXT, "Hello", KEY), encode(TEXT, "Hello")]


@pytest.mark.parametrize("key", [bytearray(KEY), memoryview(KEY)], ids=["bytearray", "memoryview"])
def test_encode_frame_key_of_other_types(encode: Encode, key: Any) -> None:
    """The key may be any buffer of four bytes."""
    assert encode(TEXT, "Hello", key) == build(TEXT, b"Hello", KEY)


@pytest.mark.parametrize("key", [b"", b"abc", b"abcde", memoryview(b"abcdefgh")])
def test_encode_frame_key_of_wrong_size(encode: Encode, key: bytes) -> None:
    """A key that has not four bytes is refused."""
    with pytest.raises(ValueError, match=rf"^a masking key has 4 bytes, this one has {len(key)}$"):
        encode(BINARY, b"data", key)


@pytest.mark.parametrize("first_byte", [-1, 256, -(2**70), 2**70])
def test_encode_frame_impossible_first_byte(encode: Encode, first_byte: int) -> None:
    """A first byte that is none is refused."""
    with pytest.raises(ValueError, match=rf"^the first byte of a frame is 0 to 255, not {first_byte}$"):
        encode(first_byte, b"data")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (BINARY,),
        (BINARY, b"", KEY, KEY),
        (BINARY, 5),
        (BINARY, None),
        (BINARY, [1]),
        ("a", b""),
        (1.0, b""),
        (None, b""),
        (BINARY, b"", "abcd"),
        (BINARY, b"", 4),
    ],
)
def test_encode_frame_wrong_arguments(encode: Encode, arguments: tuple[Any, ...]) -> None:
    """A wrong number or type of arguments is a TypeError."""
    with pytest.raises(TypeError):
        encode(*arguments)


@pytest.mark.parametrize("names", [{"mask": KEY}, {"payload": b""}, {"key": KEY, "other": 1}])
def test_encode_frame_wrong_keyword(encode: Encode, names: dict[str, Any]) -> None:
    """No other argument than the key can be named."""
    with pytest.raises(TypeError):
        encode(BINARY, b"", **names)


def test_encode_frame_c_against_python() -> None:
    """C and pure Python build the same frames of random payloads and texts."""
    encode, python_encode = both("encode_frame")
    rng = random.Random(1)
    cases: list[tuple[int, Message, bytes | None]] = []
    for _ in range(1500):
        size = rng.randrange(1 << rng.randrange(12))
        alphabet = rng.choice(["ab", "aé", "aп漢", "aé漢😀"])
        text = "".join(rng.choices(alphabet, k=size))
        payload = text if rng.random() < 0.5 else rng.randbytes(size)
        cases.append((rng.randrange(256), payload, rng.choice([None, rng.randbytes(4)])))
    assert [case for case in cases if encode(*case) != python_encode(*case)] == []


# parse_messages: what it takes


def test_parse_messages_nothing(parse: Parse) -> None:
    """No bytes are no messages."""
    assert read(parse, b"") == (0, [])


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("length", BOUNDARIES)
def test_parse_messages_length(parse: Parse, length: int, masked: bool) -> None:
    """At each boundary of the length a text and a binary message are taken."""
    payload, key = (b"payload " * 8193)[:length], KEY if masked else None
    data = build(TEXT, payload, key) + build(BINARY, payload, key)
    assert read(parse, data, masked) == (len(data), [payload.decode(), payload])


@pytest.mark.parametrize("masked", [True, False])
def test_parse_messages_short_lengths(parse: Parse, masked: bool) -> None:
    """Every short length is unmasked right, to its last byte."""
    key = KEY if masked else None
    payloads = [bytes(range(n % 128, n % 128 + 1)) * n for n in range(100)]
    data = b"".join(build(TEXT, payload, key) for payload in payloads)
    assert read(parse, data, masked) == (len(data), [payload.decode() for payload in payloads])


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("repeat", [1, 50, 3000])
def test_parse_messages_text(parse: Parse, repeat: int, masked: bool) -> None:
    """Text of every plane and width arrives as it was."""
    texts = [text * repeat for text in (TEXTS[:12] if repeat == 3000 else TEXTS)]
    data = b"".join(build(TEXT, text.encode(), KEY if masked else None) for text in texts)
    assert read(parse, data, masked) == (len(data), texts)


def test_parse_messages_one_late_character(parse: Parse) -> None:
    """A single character that is not ASCII is seen wherever it stands."""
    texts = ["x" * n + "é" + "x" * rest for n in range(70) for rest in (0, 1, 9)]
    data = b"".join(build(TEXT, text.encode()) for text in texts)
    assert read(parse, data) == (len(data), texts)


def test_parse_messages_start(parse: Parse) -> None:
    """Reading begins at start, and offsets count from the beginning of the data."""
    data = b"junk!" + build(TEXT, b"one") + build(BINARY, b"two")
    assert read(parse, data, start=5) == (len(data), ["one", b"two"])


def test_parse_messages_appends(parse: Parse) -> None:
    """What the list held before stays before the new messages."""
    messages: list[Message] = ["old"]
    parse(build(TEXT, b"new"), 0, 9, NO_LIMIT, True, messages)
    assert messages == ["old", "new"]


def test_parse_messages_keeps_no_buffer(parse: Parse) -> None:
    """The data may be reused as soon as the call has ended; messages are copies."""
    data = bytearray(build(BINARY, b"one", None) + build(TEXT, b"two", None))
    messages: list[Message] = []
    parse(data, 0, len(data), NO_LIMIT, False, messages)
    data[:] = b"?"
    assert messages == [b"one", "two"]


def test_parse_messages_wide_items(parse: Parse) -> None:
    """Offsets into a view of wide items count bytes."""
    items = array.array("I", build(BINARY, b"ab" * 5))
    messages: list[Message] = []
    assert (parse(memoryview(items), 0, 16, NO_LIMIT, True, messages), messages) == (16, [b"ab" * 5])


# parse_messages: where it stops


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("length", [0, 1, 5, 126, 300])
@pytest.mark.parametrize("first_byte", [TEXT, BINARY])
def test_parse_messages_truncated(parse: Parse, first_byte: int, length: int, masked: bool) -> None:
    """A frame cut at any byte is left whole, and the bytes beyond ``end`` are not read."""
    key = KEY if masked else None
    before, frame = build(BINARY, b"before", key), build(first_byte, b"p" * length, key)
    stops = {read(parse, before + frame[:cut], masked) == (len(before), [b"before"]) for cut in range(len(frame))}
    assert stops == {True}


@pytest.mark.parametrize("masked", [True, False])
def test_parse_messages_truncated_64_bit(parse: Parse, masked: bool) -> None:
    """A frame with a 64-bit length is left when it is cut in its header, or by one byte."""
    frame = build(BINARY, b"p" * 65536, KEY if masked else None)
    answers = [read(parse, frame[:cut], masked) for cut in (*range(20), len(frame) - 1)]
    assert answers == [(0, [])] * 21


@pytest.mark.parametrize("tail", [b"", b"\x81", b"\x81\x85", b"\x88\x80abcd", b"\xff\xff\xff", b"GET / HTTP/1.1"])
def test_parse_messages_tail(parse: Parse, tail: bytes) -> None:
    """Messages before a tail of any kind are taken, the tail is not."""
    whole = build(TEXT, b"one") + build(BINARY, b"two")
    assert read(parse, whole + tail) == (len(whole), ["one", b"two"])


@pytest.mark.parametrize("masked", [True, False])
def test_parse_messages_first_byte(parse: Parse, masked: bool) -> None:
    """Of all first bytes only two are taken: no control frame, fragment, RSV bit or other opcode."""
    key = KEY if masked else None
    taken = [first for first in range(256) if read(parse, build(first, b"data", key), masked)[0]]
    assert taken == [TEXT, BINARY]


@pytest.mark.parametrize("first_byte", [TEXT, BINARY])
@pytest.mark.parametrize("masked", [True, False])
def test_parse_messages_wrong_mask_bit(parse: Parse, masked: bool, first_byte: int) -> None:
    """A frame whose mask bit is not the expected one is left (5.1)."""
    data = build(first_byte, b"data data", None if masked else KEY)
    assert read(parse, data, masked) == (0, [])


@pytest.mark.parametrize(("length", "width"), [(0, 2), (1, 2), (125, 2), (0, 8), (125, 8), (126, 8), (65535, 8)])
@pytest.mark.parametrize("masked", [True, False])
def test_parse_messages_length_not_minimal(parse: Parse, masked: bool, length: int, width: int) -> None:
    """A length in more bytes than it needs is left (5.2 MUST)."""
    assert read(parse, build(BINARY, b"x" * length, KEY if masked else None, width), masked) == (0, [])


@pytest.mark.parametrize("length", [2**62, 2**63 - 15, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 14, 2**64 - 1])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("max_size", [sys.maxsize, 2**64])
def test_parse_messages_enormous_length(parse: Parse, length: int, masked: bool, max_size: int) -> None:
    """A length at which additions would overflow, or with its top bit set (5.2 MUST), is left."""
    data = struct.pack("!BBQ", BINARY, 0xFF if masked else 0x7F, length) + KEY + b"x" * 64
    assert read(parse, data, masked, max_size) == (0, [])


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_parse_messages_max_size(parse: Parse, size: int) -> None:
    """A payload of exactly max_size is taken, one byte more is not."""
    fits, exceeds = build(BINARY, b"x" * size), build(BINARY, b"x" * (size + 1))
    assert read(parse, fits + exceeds, max_size=size) == (len(fits), [b"x" * size])


def test_parse_messages_max_size_negative(parse: Parse) -> None:
    """Nothing is as small as a negative limit."""
    assert read(parse, build(BINARY, b""), max_size=-1) == (0, [])


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("payload", NOT_UTF8, ids=bytes.hex)
def test_parse_messages_not_utf8(parse: Parse, payload: bytes, masked: bool) -> None:
    """A text that is not UTF-8 is left (8.1), wherever the fault stands; as binary the bytes are taken."""
    key = KEY if masked else None
    before = build(BINARY, payload, key)
    faults = [payload, b"a" * 63 + payload, payload + b"a" * 64, "é".encode() * 40 + payload]
    answers = [read(parse, before + build(TEXT, fault, key) + before, masked) for fault in faults]
    assert answers == [(len(before), [payload])] * 4


def test_parse_messages_leaves_no_error(parse: Parse) -> None:
    """The call that met a text that is not UTF-8 ends with no exception set."""
    parse(build(TEXT, b"\xff"), 0, 7, NO_LIMIT, True, [])
    assert sys.exc_info() == (None, None, None)


# parse_messages: the caller's faults


@pytest.mark.parametrize(
    ("start", "end"), [(-1, 3), (0, -1), (3, 2), (0, 11), (11, 11), (-(2**70), 3), (0, 2**70), (2**70, 2**70)]
)
def test_parse_messages_bad_bounds(parse: Parse, start: int, end: int) -> None:
    """Bounds that do not lie in order within the data are refused."""
    with pytest.raises(ValueError, match=rf"^start {start} and end {end} do not lie in order within 10 bytes$"):
        parse(b"0123456789", start, end, NO_LIMIT, True, [])


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (b"", 0, 0, 0, True),
        (b"", 0, 0, 0, True, [], 0),
        ("", 0, 0, 0, True, []),
        (None, 0, 0, 0, True, []),
        (b"", "0", 0, 0, True, []),
        (b"", 0, None, 0, True, []),
    ],
)
def test_parse_messages_wrong_arguments(parse: Parse, arguments: tuple[Any, ...]) -> None:
    """A wrong number or type of arguments is a TypeError."""
    with pytest.raises(TypeError):
        parse(*arguments)


def test_parse_messages_strided_view(parse: Parse) -> None:
    """A view that is not contiguous is refused."""
    with pytest.raises(BufferError):
        parse(memoryview(b"abcdefgh")[::2], 0, 4, NO_LIMIT, True, [])


# Both against each other


def mutated(rng: random.Random, masked: bool) -> bytes:
    """A few frames, mostly good ones, with some bytes changed, lost or added."""
    data = bytearray()
    for _ in range(rng.randrange(1, 5)):
        size = rng.choice([0, 1, 7, 8, 31, 64, 125, 126, 127, 600])
        text = "".join(rng.choices("abcé漢😀", k=size)).encode()
        payload = rng.choice([b"a" * size, text, rng.randbytes(size)])
        first = rng.choice([TEXT, TEXT, TEXT, BINARY, BINARY, rng.randrange(256)])
        key = rng.randbytes(4) if masked is (rng.random() < 0.95) else None
        width = rng.choice([2, 8]) if rng.random() < 0.05 else None
        data += build(first, payload, key, width)
    for _ in range(rng.choice([0, 0, 1, 3])):
        at = rng.randrange(len(data)) if data else 0
        data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    return bytes(data)


def test_parse_messages_c_against_python() -> None:
    """On mutated frames C and pure Python take the same messages and stop at the same byte."""
    in_c_parse, python_parse = both("parse_messages")
    rng = random.Random(2)
    different = []
    for _ in range(3000):
        masked, max_size = rng.random() < 0.7, rng.choice([NO_LIMIT, 64, 126])
        data = mutated(rng, masked)
        end = rng.choice([len(data), rng.randint(0, len(data))])
        start = rng.choice([0, 0, rng.randint(0, end)])
        one: list[Message] = []
        other: list[Message] = []
        offsets = {
            in_c_parse(data, start, end, max_size, masked, one),
            python_parse(data, start, end, max_size, masked, other),
        }
        if len(offsets) != 1 or one != other or [*map(type, one)] != [*map(type, other)]:
            different.append((data, start, end, max_size, masked))
    assert different == []


@pytest.mark.parametrize("length", BOUNDARIES)
def test_parse_messages_of_encode_frame(encode: Encode, parse: Parse, length: int) -> None:
    """What is built is read back, whichever implementation does which."""
    payloads: list[Message] = ["x" * length, b"x" * length, ("é" * length)[: length // 2]]
    firsts = [TEXT, BINARY, TEXT]
    keys = itertools.cycle([KEY, b"\0\0\0\0", b"\xff\xff\xff\xff"])
    data = b"".join(encode(*each) for each in zip(firsts, payloads, keys, strict=False))
    assert read(parse, data) == (len(data), payloads)


def test_frames_keep_no_memory(encode: Encode, parse: Parse) -> None:
    """Thousands of calls, refused ones too, leak no memory."""
    good = encode(TEXT, "ascii", KEY) + encode(TEXT, "мир", KEY) + encode(BINARY, b"data", KEY)
    bad = encode(BINARY, b"before", KEY) + build(TEXT, b"\xff" * 50)

    def many(times: int) -> None:
        for _ in range(times):
            parse(good, 0, len(good), NO_LIMIT, True, [])
            parse(bad, 0, len(bad), NO_LIMIT, True, [])
            for payload, key in (("\ud800", None), (b"", b"123"), (5, None)):
                try:
                    encode(TEXT, payload, key)
                except (TypeError, ValueError):
                    pass

    def growth() -> int:
        before, _ = tracemalloc.get_traced_memory()
        many(500)
        return tracemalloc.get_traced_memory()[0] - before

    many(50)
    tracemalloc.start()
    try:
        many(50)
        # What is kept shows each time; what another thread of the process allocates meanwhile does not.
        least = min(growth() for _ in range(3))
    finally:
        tracemalloc.stop()
    assert least < 2000
