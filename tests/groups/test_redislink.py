"""Connections to Redis: replies in whatever pieces they come, errors, and bytes that are no reply."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from gws_middleware.groups import Groups
from gws_middleware.groups.backends.redislink import Link, LinkError, RefusedError

STREAM = (
    b"+OK\r\n:-12\r\n:0\r\n$5\r\na\r\nbc\r\n$0\r\n\r\n$-1\r\n*-1\r\n*0\r\n"
    b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\n\r\n\r\n*2\r\n*1\r\n:1\r\n*1\r\n*1\r\n$1\r\nx\r\n"
)
REPLIES = [b"OK", -12, 0, b"a\r\nbc", b"", None, None, [], [b"message", b"c", b"\r\n"], [[1], [[b"x"]]]]


class Ends:
    """A link, and what stands for the server: it sends what the test says."""

    def __init__(self) -> None:
        ours, self.server = socket.socketpair()
        self.link = Link(SimpleNamespace(_sock=ours, disconnect=ours.close), "run")

    def replies(self, count: int) -> list[object]:
        """So many replies."""
        return [self.link.read(time.monotonic() + 5) for _ in range(count)]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Both ends of one connection."""
    both = Ends()
    yield both
    both.link.close()
    both.server.close()


def test_commands_are_arrays_of_bulk_strings(ends: Ends) -> None:
    """Lengths are those of the bytes."""
    ends.link.send([("SET", "é", 12), ("GET", b"\r\n")])
    packed = b"*3\r\n$3\r\nSET\r\n$2\r\n\xc3\xa9\r\n$2\r\n12\r\n*2\r\n$3\r\nGET\r\n$2\r\n\r\n\r\n"
    assert ends.server.recv(1000) == packed


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(STREAM)])
def test_replies_are_read_in_whatever_pieces_they_come(ends: Ends, size: int) -> None:
    """Each once, in order, as soon as it is complete."""
    found = []
    for begin in range(0, len(STREAM), size):
        ends.server.sendall(STREAM[begin : begin + size])
        found += ends.link.received(100)
    assert found == REPLIES


def test_replies_that_are_read_one_by_one(ends: Ends) -> None:
    """Also where all of them have come at once."""
    ends.server.sendall(STREAM)
    assert ends.replies(len(REPLIES)) == REPLIES


@pytest.mark.parametrize(
    ("line", "text"),
    [(b"ERR no such command", "no such command"), (b"OOM command not allowed", "OOM command not allowed")],
)
def test_error_is_a_reply(ends: Ends, line: bytes, text: str) -> None:
    """Also in an array; what comes after it is read."""
    ends.server.sendall(b"-" + line + b"\r\n*2\r\n-" + line + b"\r\n:1\r\n:2\r\n")
    alone, [inside, one], two = ends.replies(3)  # type: ignore[misc]
    assert [str(alone), str(inside), one, two] == [text, text, 1, 2]
    assert isinstance(alone, RefusedError) and isinstance(inside, RefusedError)


@pytest.mark.parametrize("data", [b"HTTP/1.1 400 Bad Request\r\n", b"$x\r\n", b":1x\r\n"])
def test_other_protocol_ends_the_connection(ends: Ends, data: bytes) -> None:
    """It is not waited for."""
    ends.server.sendall(data)
    with pytest.raises(LinkError, match=r"Protocol error|Bad bulk string|Bad integer"):
        ends.replies(1)
    assert ends.server.recv(1) == b""


def test_reply_that_has_come_counts_after_the_deadline(ends: Ends) -> None:
    """The process may have been stopped meanwhile. One that has not come ends the connection."""
    ends.server.sendall(b":1\r\n")
    assert ends.link.read(time.monotonic() - 1) == 1
    with pytest.raises(LinkError, match="no answer in time"):
        ends.link.read(time.monotonic() - 1)
    assert ends.server.recv(1) == b""


@pytest.mark.parametrize("seconds", [0.0, 0.1])
def test_reply_that_does_not_come(ends: Ends, seconds: float) -> None:
    """It is waited for, and no longer."""
    began = time.monotonic()
    with pytest.raises(LinkError, match="no answer in time"):
        ends.link.read(began + seconds)
    assert time.monotonic() - began >= seconds


@pytest.mark.parametrize("missing", ["redis", "hiredis"])
def test_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """The error says which, and what installs it; it comes when the groups are made."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"pip install 'gws_middleware\[redis\]' \(.*{missing}"):
        Groups("redis://127.0.0.1")
