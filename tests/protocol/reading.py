"""How the tests read: every input of the engine is read whole, byte by byte and with a tail, in C and in pure Python.

``read()`` is the one helper for that. It says what the input comes to, and fails if that depends on how it came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from gws_middleware.protocol import connection
from gws_middleware.protocol.connection import Connection, State
from gws_middleware.protocol.deflate import Deflate, Parameters
from tests.support.implementations import NAMES, implementation
from tests.support.rawclient import CLOSE, CONTINUATION, PING, PONG, Frame, frame

__all__ = ["End", "Message", "Outcome", "frames_of", "joined", "outcome_of", "read", "using"]

Message = str | bytes
Close = tuple[int, str]

TAIL = b"tail"
LONG = 300
"""Bytes at each end of an input that are fed one by one; the middle goes in ``PIECES`` pieces, to stay quick."""
PIECES = 200


class Outcome(NamedTuple):
    """What reading came to."""

    messages: list[Message]
    state: State
    received: Close | None
    sent: Close | None
    replies: list[Frame]
    pongs: list[bytes]

    @property
    def failure(self) -> Close | None:
        """Code and reason of the close frame that says why the connection failed; None unless it did."""
        return self.sent if self.state is State.FAILED else None


# --- the implementations -------------------------------------------------------------------------------------------


@contextmanager
def using(name: str) -> Iterator[None]:
    """The engine with the functions of one implementation, a name of ``NAMES``."""
    chosen = implementation(name)
    functions = {
        "parse_messages": chosen.frames.parse_messages,
        "encode_frame": chosen.frames.encode_frame,
        "mask": chosen.masking.mask,
    }
    kept = {attribute: getattr(connection, attribute) for attribute in functions}
    vars(connection).update(functions)
    try:
        yield
    finally:
        vars(connection).update(kept)


# --- taking bytes apart --------------------------------------------------------------------------------------------


def split(data: bytes) -> tuple[list[Frame], bytes]:
    """The whole frames at the head of ``data``, unmasked, and the bytes left; no rule of the RFC is checked."""
    found: list[Frame] = []
    start = 0
    while len(data) - start >= 2:
        first, second = data[start], data[start + 1]
        position, length = start + 2, second & 0x7F
        if length >= 126:
            width = 2 if length == 126 else 8
            length = int.from_bytes(data[position : position + width], "big")
            position += width
        key = data[position : position + 4] if second & 0x80 else b""
        position += len(key)
        if position + length > len(data) or (second & 0x80 and len(key) < 4):
            break
        payload = data[position : position + length]
        if key:
            stream = (key * (length // 4 + 1))[:length]
            payload = (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(length, "big")
        found.append(Frame(first & 0x0F, payload, bool(first & 0x80), first >> 4 & 7))
        start = position + length
    return found, data[start:]


def joined(data: bytes | tuple[bytes, bytes]) -> bytes:
    """What ``encode()`` gave, in one piece."""
    return data if isinstance(data, bytes) else data[0] + data[1]


def frames_of(data: bytes) -> list[Frame]:
    """The frames that ``data`` consists of."""
    found, rest = split(data)
    assert not rest, f"{rest!r} is no whole frame"
    return found


def outcome_of(engine: Connection, messages: list[Message]) -> Outcome:
    """Where ``engine`` stands after it gave out ``messages``; takes its replies and pongs."""
    replies = frames_of(engine.take_replies())
    assert not engine.has_replies
    pongs, engine.pongs = list(engine.pongs), ()
    return Outcome(messages, engine.state, engine.received_close, engine.sent_close, replies, pongs)


def drained(engine: Connection, messages: list[Message]) -> list[Message]:
    """``messages``, which one feed gave out, and what is still inside of it: a shell goes on before it reads more."""
    while engine.stalled:
        messages += engine.feed(b"")
    return messages


# --- the ways to read ----------------------------------------------------------------------------------------------


def _feed(engine: Connection, data: bytes) -> list[Message]:
    """Feed from a buffer with other bytes after the end, which its owner overwrites and resizes afterwards."""
    buffer = bytearray(data + b"\x88\x82\x00\x00\x00\x00\x03\xe8")
    messages = engine.feed(buffer, len(data))
    buffer[:] = b"\xff" * len(buffer)
    del buffer[:]  # BufferError if the engine kept a view of it
    return drained(engine, messages)


def _whole(engine: Connection, data: bytes) -> list[Message]:
    return _feed(engine, data)


def _bytewise(engine: Connection, data: bytes) -> list[Message]:
    messages: list[Message] = []
    middle = range(LONG, len(data) - LONG)
    piece = len(middle) // PIECES | 1
    start = 0
    while start < len(data):
        size = piece if start in middle else 1
        messages += _feed(engine, data[start : start + size])
        start += size
    return messages


def _in_halves(engine: Connection, data: bytes) -> list[Message]:
    return _feed(engine, data[: len(data) // 2]) + _feed(engine, data[len(data) // 2 :])


def read(
    data: bytes,
    *,
    client: bool = False,
    deflate: Parameters | None = None,
    before: Callable[[Connection], object] | None = None,
    max_message_size: int = 2**20,
    max_fragments: int = 4096,
    same_fault: bool = True,
) -> Outcome:
    """What an engine makes of ``data``: the same whole, byte by byte, in two halves, with a pong after it, in C and
    in pure Python. ``before`` puts the engine into the state in which it reads.

    A compressed message with two faults (it inflates to broken text and then to too much) is reported for the one that
    a piece of it shows first: with ``same_fault`` False that may depend on the cut.
    """

    def engine() -> Connection:
        codec = None if deflate is None else Deflate(deflate, client)
        made = Connection(client=client, max_message_size=max_message_size, max_fragments=max_fragments, deflate=codec)
        if before is not None:
            before(made)
        return made

    outcomes: dict[tuple[str, str], Outcome] = {}
    at_boundary = not split(data)[1]
    tail = frame(PONG, TAIL, mask=None if client else b"\xa5\x5a\x00\xff")
    for name in NAMES:
        with using(name):
            for way in (_whole, _bytewise, _in_halves):
                reader = engine()
                outcomes[name, way.__name__] = outcome_of(reader, way(reader, data))
            reader = engine()
            outcome = outcome_of(reader, _feed(reader, data + tail)) if at_boundary else outcomes[name, "_whole"]
            if at_boundary and outcome.state in (State.OPEN, State.CLOSING):
                assert outcome.pongs.pop() == TAIL
            outcomes[name, "with a tail"] = outcome
    expected = outcomes["python", "_whole"]
    for way_of_reading, outcome in outcomes.items():
        if same_fault or outcome.failure is None or outcome.failure[0] == 1002:
            assert outcome == expected, way_of_reading
        else:
            assert outcome._replace(sent=None, replies=[]) == expected._replace(sent=None, replies=[]), way_of_reading
        assert [type(m) for m in outcome.messages] == [type(m) for m in expected.messages], way_of_reading
    assert {type(message) for message in expected.messages} <= {str, bytes}
    return expected


# --- the two ends --------------------------------------------------------------------------------------------------


class End(NamedTuple):
    """The end under test, and its peer's way to speak."""

    client: bool

    def frame(self, opcode: int, payload: bytes = b"", **options: object) -> bytes:
        """A frame of the peer's; ``options`` are those of ``rawclient.frame``."""
        return frame(opcode, payload, **({"mask": None} if self.client else {}), **options)  # type: ignore[arg-type]

    def fragments(self, opcode: int, *payloads: bytes) -> list[bytes]:
        """A message of the peer's in as many frames as there are payloads (RFC 6455 5.4)."""
        last = len(payloads) - 1
        opcodes = [opcode] + [CONTINUATION] * last
        pairs = zip(opcodes, payloads, strict=True)
        return [self.frame(code, payload, fin=i == last) for i, (code, payload) in enumerate(pairs)]

    def close(self, payload: bytes = b"") -> bytes:
        """A close frame of the peer's with any payload."""
        return self.frame(CLOSE, payload)

    def ping(self, payload: bytes = b"") -> bytes:
        """A ping of the peer's."""
        return self.frame(PING, payload)

    def read(self, *parts: bytes, **options: object) -> Outcome:
        """What this end makes of what the peer sends; ``options`` are those of ``read``."""
        return read(b"".join(parts), client=self.client, **options)  # type: ignore[arg-type]
