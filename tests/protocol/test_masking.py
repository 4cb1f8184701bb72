"""RFC 6455 5.3. Each test of ``mask`` runs on both implementations."""

from __future__ import annotations

import array
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.support.implementations import NAMES, implementation

Mask = Callable[..., bytes]

KEY = b"\x37\xfa\x21\x3d"
# Around the words and vectors of the C loop, the switch of methods in pure Python, and beyond.
LENGTHS = [*range(70), 125, 126, 127, *range(509, 518), 4095, 4096, 4097, 65535, 65536, 65537, 1 << 20]


@pytest.fixture(params=NAMES)
def mask(request: pytest.FixtureRequest) -> Mask:
    return implementation(request.param).masking.mask


def one_by_one(data: bytes, key: bytes) -> bytes:
    """The definition in 5.3, byte by byte."""
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(data))


def test_mask_example_of_the_rfc(mask: Mask) -> None:
    """The masked "Hello" of 5.7 unmasks to "Hello"."""
    assert mask(b"\x7f\x9f\x4d\x51\x58", KEY) == b"Hello"


def test_mask_every_length(mask: Mask) -> None:
    """Every length gives what the RFC's definition gives."""
    data = random.Random(1).randbytes(max(LENGTHS))
    expected = one_by_one(data, KEY)
    assert [n for n in LENGTHS if mask(data[:n], KEY) != expected[:n]] == []


def test_mask_every_key_byte(mask: Mask) -> None:
    """Each of the 256 values in each of the four places masks, in short data and long."""
    data = random.Random(2).randbytes(600)
    wrong = []
    for value, lane in itertools.product(range(256), range(4)):
        key = bytes(value if i == lane else 0x55 for i in range(4))
        expected = one_by_one(data, key)
        if mask(data, key) != expected or mask(data[:11], key) != expected[:11]:
            wrong.append(key)
    assert wrong == []


@pytest.mark.parametrize("length", [0, 5, 700])
def test_mask_twice(mask: Mask, length: int) -> None:
    """Masking twice with one key gives the data back."""
    data = random.Random(3).randbytes(length)
    assert mask(mask(data, KEY), KEY) == data


@pytest.mark.parametrize("length", [0, 1, 7, 64, 700])
@pytest.mark.parametrize("offset", range(4))
def test_mask_any_buffer(mask: Mask, length: int, offset: int) -> None:
    """bytes, bytearray, and views of either at any offset give the same bytes object."""
    data = random.Random(4).randbytes(offset + length)
    part = data[offset:]
    buffers = [
        part,
        bytearray(part),
        memoryview(data)[offset:],
        memoryview(bytearray(data))[offset:],
        memoryview(part).cast("c"),
    ]
    results = [mask(buffer, KEY) for buffer in buffers]
    assert [type(result) for result in results] == [bytes] * 5
    assert results == [one_by_one(part, KEY)] * 5


@pytest.mark.parametrize("count", [3, 300])
def test_mask_wide_items(mask: Mask, count: int) -> None:
    """A view of items wider than a byte is masked as the bytes that it consists of."""
    items = array.array("I", range(count))
    assert mask(memoryview(items), KEY) == one_by_one(items.tobytes(), KEY)


@pytest.mark.parametrize("length", [6, 600])
def test_mask_two_dimensions(mask: Mask, length: int) -> None:
    """A contiguous view of several dimensions is masked in the order of its bytes."""
    data = random.Random(5).randbytes(length)
    assert mask(memoryview(data).cast("B", (2, length // 2)), KEY) == one_by_one(data, KEY)


def test_mask_leaves_arguments_alone(mask: Mask) -> None:
    """Neither the data nor the key changes, and no export of theirs is kept."""
    data, key = bytearray(b"x" * 600), bytearray(KEY)
    mask(data, key)
    data.append(1)
    key.append(1)
    assert [data, key] == [b"x" * 600 + b"\x01", KEY + b"\x01"]


def test_mask_key_of_other_types(mask: Mask) -> None:
    """The key may be any buffer of four bytes."""
    keys = [bytearray(KEY), memoryview(KEY), memoryview(b"?" + KEY)[1:], array.array("I", KEY)]
    assert [mask(b"Hello", key) for key in keys] == [b"\x7f\x9f\x4d\x51\x58"] * 4


@pytest.mark.parametrize("key", [b"", b"abc", b"abcde", bytearray(b"abc"), memoryview(b"abcdefgh")])
@pytest.mark.parametrize("data", [b"", b"data"])
def test_mask_key_of_wrong_size(mask: Mask, data: bytes, key: bytes) -> None:
    """A key that has not four bytes is refused, also where there is nothing to mask."""
    with pytest.raises(ValueError, match=rf"^a masking key has 4 bytes, this one has {len(key)}$"):
        mask(data, key)


def test_mask_strided_view(mask: Mask) -> None:
    """A buffer that is not contiguous is refused."""
    with pytest.raises(BufferError):
        mask(memoryview(b"abcdefgh")[::2], KEY)


@pytest.mark.parametrize("arguments", [("text", KEY), (b"data", "abcd"), (5, KEY), (b"data", 4), (None, None)])
def test_mask_wrong_types(mask: Mask, arguments: tuple[object, object]) -> None:
    """What is no buffer of bytes is a TypeError."""
    with pytest.raises(TypeError):
        mask(*arguments)


@pytest.mark.parametrize("arguments", [(), (b"data",), (b"data", KEY, KEY)])
def test_mask_wrong_number_of_arguments(mask: Mask, arguments: tuple[bytes, ...]) -> None:
    """It takes two arguments, no more and no fewer."""
    with pytest.raises(TypeError):
        mask(*arguments)


def test_mask_c_against_python() -> None:
    """C and pure Python agree on random data, keys and lengths."""
    if "c" not in NAMES:
        pytest.skip("the C extension is not built")
    in_c, python = (implementation(name).masking.mask for name in ("c", "python"))
    rng = random.Random(6)
    cases = [(rng.randbytes(rng.randrange(1 << rng.randrange(13))), rng.randbytes(4)) for _ in range(2000)]
    assert [case for case in cases if in_c(*case) != python(*case)] == []


def test_speedups_pure_python_in_a_process() -> None:
    """With GWS_SPEEDUPS=0 in the environment every function is the pure one."""
    program = (
        "from gws_middleware.protocol import frames, masking\n"
        "assert masking.speedups is None\n"
        "functions = masking.mask, frames.encode_frame, frames.parse_messages, frames.FastEngine.feed\n"
        "assert [type(function).__name__ for function in functions] == ['function'] * 4, functions\n"
    )
    environ = {**os.environ, "GWS_SPEEDUPS": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
