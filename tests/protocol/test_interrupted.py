"""What several connections share, when an exception comes in the middle: a timeout, a signal handler's, too little
memory. It is raised at each line in turn.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gws_middleware.protocol import connection, deflate
from gws_middleware.protocol.connection import Connection, prepare
from gws_middleware.protocol.deflate import Deflate, Parameters
from tests.support.interrupting import raised_at_line
from tests.support.seam import forget_shared_compressors

RESET = Parameters(server_no_context_takeover=True, client_no_context_takeover=True)
TAKEOVER = Parameters(server_max_window_bits=12, client_max_window_bits=12)
SECRET = "another connection's secret " * 100


def interrupted_at_each_line(call: Callable[[], object]) -> Iterator[bool]:
    """Run ``call`` again and again, with an exception at its first line of ours, its second, and so on; whether one was
    raised. The last run is whole.
    """
    line, cut = 0, True
    while cut:
        line += 1
        cut = raised_at_line(line, call, deflate.__file__, connection.__file__)
        yield cut


def inflated(frames: bytes, parameters: Parameters) -> list[str | bytes]:
    """What a peer that has just connected reads."""
    return Connection(client=True, deflate=Deflate(parameters, client=True)).feed(frames)


def test_next_connection_gets_nothing_of_another_ones_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compressor that all connections share is replaced, at whatever line the exception came."""
    forget_shared_compressors(monkeypatch)
    victim = Connection(deflate=Deflate(RESET))
    cuts = 0
    for cut in interrupted_at_each_line(lambda: victim.encode(SECRET)):
        cuts += cut
        frame = Connection(deflate=Deflate(RESET)).encode("harmless " * 200)
        assert isinstance(frame, bytes)
        assert inflated(frame, RESET) == ["harmless " * 200]
    assert cuts > 5


def test_connection_with_a_context_of_its_own_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its compressor is replaced too: the peer never misses what was not sent."""
    sender, receiver = Connection(deflate=Deflate(TAKEOVER)), Connection(client=True, deflate=Deflate(TAKEOVER, True))
    cuts = 0
    for cut in interrupted_at_each_line(lambda: sender.encode(SECRET)):
        if not cut:
            break  # that one was compressed, and the peer would have been sent it
        cuts += 1
        frame = sender.encode("next " * 50)
        assert isinstance(frame, bytes)
        assert receiver.feed(frame) == ["next " * 50]
    assert cuts > 5


def test_prepared_message_is_whole_for_the_next_connection() -> None:
    """Its compressed form is kept when it is complete."""
    prepared = [prepare(SECRET)]

    def encode() -> object:
        return Connection(deflate=Deflate(RESET)).encode(prepared[-1])

    cuts = 0
    for cut in interrupted_at_each_line(encode):
        cuts += cut
        frame = encode()
        assert isinstance(frame, bytes)
        assert inflated(frame, RESET) == [SECRET]
        prepared.append(prepare(SECRET))
    assert cuts > 5


def test_too_little_memory_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library itself may raise, between the two halves of a message."""

    class Failing:
        def __init__(self, *arguments: Any) -> None:
            self.zlib = compressobj(*arguments)

        def compress(self, data: bytes) -> bytes:
            return self.zlib.compress(data)

        def flush(self, mode: int) -> bytes:
            raise MemoryError

    compressobj = zlib.compressobj
    forget_shared_compressors(monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(deflate.zlib, "compressobj", Failing)
        with pytest.raises(MemoryError):
            Connection(deflate=Deflate(RESET)).encode(SECRET)
    frame = Connection(deflate=Deflate(RESET)).encode("harmless " * 200)
    assert isinstance(frame, bytes)
    assert inflated(frame, RESET) == ["harmless " * 200]
