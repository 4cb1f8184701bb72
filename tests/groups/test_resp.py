"""The protocol of Redis: what is sent, and what is read, in whatever pieces it comes."""

from __future__ import annotations

import pytest

from gws_middleware.groups.backends.resp import Command, RefusedError, Replies, pack

STREAM = (
    b"+OK\r\n:-12\r\n$5\r\na\r\nbc\r\n$0\r\n\r\n$-1\r\n*-1\r\n*0\r\n"
    b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\n\r\n\r\n*2\r\n*1\r\n:1\r\n*1\r\n*1\r\n$1\r\nx\r\n"
)
REPLIES = [b"OK", -12, b"a\r\nbc", b"", None, None, [], [b"message", b"c", b"\r\n"], [[1], [[b"x"]]]]


@pytest.mark.parametrize(
    ("commands", "packed"),
    [
        ([], b""),
        ([("PING",)], b"*1\r\n$4\r\nPING\r\n"),
        (
            [("SET", "é", 12), ("GET", b"\r\n")],
            b"*3\r\n$3\r\nSET\r\n$2\r\n\xc3\xa9\r\n$2\r\n12\r\n*2\r\n$3\r\nGET\r\n$2\r\n\r\n\r\n",
        ),
    ],
)
def test_commands_are_arrays_of_bulk_strings(commands: list[Command], packed: bytes) -> None:
    """Lengths are those of the bytes."""
    assert pack(commands) == packed


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(STREAM)])
def test_replies_are_read_in_whatever_pieces_they_come(size: int) -> None:
    """Each once, in order, as soon as it is complete."""
    replies, found = Replies(), []
    for begin in range(0, len(STREAM), size):
        found += replies.take(STREAM[begin : begin + size])
    assert found == REPLIES


@pytest.mark.parametrize(
    ("line", "text"),
    [(b"ERR no such command", "no such command"), (b"OOM command not allowed", "OOM command not allowed")],
)
def test_error_is_a_reply(line: bytes, text: str) -> None:
    """Also in an array; what comes after it is read."""
    alone, [inside, one], two = Replies().take(b"-" + line + b"\r\n*2\r\n-" + line + b"\r\n:1\r\n:2\r\n")
    assert [str(alone), str(inside), one, two] == [text, text, 1, 2]
    assert isinstance(alone, RefusedError) and isinstance(inside, RefusedError)


@pytest.mark.parametrize("data", [b"HTTP/1.1 400 Bad Request\r\n", b"$x\r\n", b":1x\r\n"])
def test_other_protocol_is_refused(data: bytes) -> None:
    """It is not waited for."""
    with pytest.raises(ValueError, match=r"HTTP|invalid literal"):
        Replies().take(data)
