"""What travels through a backend: envelopes, and the messages in them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gws_middleware.groups import GroupsError, Publication
from gws_middleware.groups.message import BINARY, CONTROL, JSON, TEXT, Envelope, encode
from gws_middleware.groups.position import Entry


def publication(message: Any, *, offset: int = 0, info: bytes = b"") -> Publication:
    envelope = Envelope(*encode(message), info=info)
    return Publication(Entry("room", "a" if offset else "", offset, envelope.pack()), Envelope.unpack(envelope.pack()))


@given(
    st.sampled_from([JSON, TEXT, BINARY, CONTROL]),
    st.binary(max_size=300),
    st.text("0123456789abcdef", max_size=50),
    st.binary(max_size=300),
)
def test_envelope_is_what_was_packed(kind: int, data: bytes, sender: str, info: bytes) -> None:
    """Byte for byte."""
    envelope = Envelope(kind, data, sender, info)
    assert Envelope.unpack(envelope.pack()) == envelope


@given(st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(lambda rest: b"\x01" + rest)))
def test_envelope_of_any_bytes(payload: bytes) -> None:
    """An envelope that gives the same bytes, or GroupsError."""
    try:
        envelope = Envelope.unpack(payload)
    except GroupsError:
        return
    assert envelope.pack() == payload
    assert envelope.kind in (JSON, TEXT, BINARY, CONTROL)


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        (b"", "the backend has bytes that are no message: b''"),
        (b"\x01\x00", "the backend has bytes that are no message: b'\\x01\\x00'"),
        (b"\x01\x04" + bytes(6), "the backend has bytes that are no message: b'\\x01\\x04" + "\\x00" * 6 + "'"),
        (
            b"\x01\x00\x00\x01" + bytes(4),
            "the backend has bytes that are no message: b'\\x01\\x00\\x00\\x01" + "\\x00" * 4 + "'",
        ),
        (b"\x02" + bytes(7), "the backend has a message of version 2, and this is version 1"),
    ],
)
def test_envelope_of_wrong_bytes(payload: bytes, sentence: str) -> None:
    """The error has what was found."""
    with pytest.raises(GroupsError) as raised:
        Envelope.unpack(payload)
    assert str(raised.value) == sentence


@pytest.mark.parametrize(
    ("message", "kind", "data", "sent"),
    [
        ("é", "text", "é", "é"),
        (b"\xff", "binary", b"\xff", b"\xff"),
        (bytearray(b"x"), "binary", b"x", b"x"),
        (memoryview(b"xyz")[::2], "binary", b"xz", b"xz"),
        ({"é": [1.5, None]}, "json", {"é": [1.5, None]}, '{"é":[1.5,null]}'),
        ("", "text", "", ""),
    ],
)
def test_publication_has_what_was_sent(message: Any, kind: str, data: Any, sent: str | bytes) -> None:
    """``data`` is decoded, ``message`` is what members get."""
    one = publication(message)
    assert (one.kind, one.data, one.message, one.info, one.position) == (kind, data, sent, None, None)


def test_publication_has_position_and_info() -> None:
    """In a group with history, and where the sender has given facts."""
    one = publication("x", offset=3, info=b'{"a":1}')
    assert (one.position, one.epoch, one.offset, one.info) == (("a", 3), "a", 3, {"a": 1})
    assert repr(one) == "<Publication room a.3 b'x'>"


def test_publications_of_the_same_entry_are_equal() -> None:
    """Also as keys."""
    assert {publication("x", offset=1), publication("x", offset=1), publication("x", offset=2)} == {
        publication("x", offset=1),
        publication("x", offset=2),
    }
    assert publication("x") != "x"
