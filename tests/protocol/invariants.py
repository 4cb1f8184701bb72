"""What holds for any bytes whatever: the functions that the short fuzz of the suite and ``fuzz/`` share.

Each takes bytes or text of an untrusted peer, and fails with AssertionError if its invariant does not hold; any
other exception that comes out of it is a finding too. What each returns shows the tests that they reach both sides.
"""

from __future__ import annotations

import random
import struct
import sys
import zlib
from typing import NamedTuple

from gws_middleware.codes import may_travel
from gws_middleware.protocol.connection import MAX_PONGS, Connection, State
from gws_middleware.protocol.deflate import Deflate, InflateError, Parameters, agree, answer, negotiate, offer
from gws_middleware.protocol.handshake import Handshake, Refusal, Request, accept_headers, check_response, judge
from gws_middleware.protocol.headers import (
    MAX_ITEMS,
    check_field,
    check_token,
    parse_extensions,
    parse_list,
    parse_subprotocols,
)
from tests.protocol.reading import Message, Outcome, read
from tests.support.rawclient import CLOSE, PONG

__all__ = [
    "PROFILES",
    "Profile",
    "check_engine",
    "check_handshake",
    "check_headers",
    "check_inflate",
    "check_memory",
    "mutated",
    "valid_stream",
]


class Profile(NamedTuple):
    """An engine to be fuzzed."""

    client: bool
    deflate: Parameters | None
    closing: bool = False
    max_message_size: int = 700
    max_fragments: int = 6

    def before(self, engine: Connection) -> None:
        """Put the engine into the state in which it reads."""
        if self.closing:
            engine.close(1001, "bye")
            engine.take_replies()


SHAPES = [None, Parameters(), Parameters(True, True), Parameters(False, False, 9, 9)]
PROFILES = [
    Profile(client, shape, closing) for client in (False, True) for shape in SHAPES for closing in (False, True)
]


# --- the engine ----------------------------------------------------------------------------------------------------


def check_engine(data: bytes, profile: Profile) -> Outcome:
    """Any bytes end in messages or in a close; nothing escapes.

    The same messages, state and replies come of them however they are cut, in C and in pure Python (``read``). No
    message is longer than the limit. A few pongs or one close frame answer them, and none after our close frame. A
    close frame that is sent or reported carries a code that may travel.
    """
    outcome = read(
        data,
        client=profile.client,
        deflate=profile.deflate,
        before=profile.before,
        max_message_size=profile.max_message_size,
        max_fragments=profile.max_fragments,
        same_fault=profile.deflate is None,
    )
    for message in outcome.messages:
        size = len(message.encode() if isinstance(message, str) else message)
        assert size <= profile.max_message_size, size
    if outcome.received is not None:
        code, reason = outcome.received
        assert (may_travel(code) or (code == 1005 and not reason)) and len(reason.encode()) <= 123, outcome.received
    assert (outcome.state is State.CLOSED) is (outcome.received is not None), outcome
    if profile.closing:
        assert outcome.sent == (1001, "bye") and not outcome.replies and not outcome.messages, outcome
        assert outcome.state is not State.OPEN
    else:
        assert outcome.state is not State.CLOSING
        assert (outcome.sent is None) is (outcome.state is State.OPEN), outcome
        _check_replies(outcome)
    return outcome


def _check_replies(outcome: Outcome) -> None:
    if outcome.state is State.OPEN:
        assert [frame.opcode for frame in outcome.replies] == [PONG] * len(outcome.replies), outcome.replies
        assert len(outcome.replies) <= MAX_PONGS
    else:
        (frame,) = outcome.replies
        assert outcome.sent is not None and frame.opcode == CLOSE
        code, reason = outcome.sent
        assert frame.payload == (b"" if code == 1005 else struct.pack("!H", code) + reason.encode()), outcome
        assert code == 1005 or may_travel(code), outcome
    assert all(len(frame.payload) <= 125 and frame.fin and not frame.rsv for frame in outcome.replies)


def held(thing: object) -> int:
    """Bytes of the buffers, texts and lists that are reachable from an engine; zlib's own state is left out."""
    if isinstance(thing, (bytes, bytearray, str)):
        return sys.getsizeof(thing)
    if isinstance(thing, (list, tuple)):
        return sys.getsizeof(thing) + sum(map(held, thing))
    if type(thing).__module__.startswith("gws_middleware.protocol"):
        names = getattr(type(thing), "__slots__", ())
        return sum(held(getattr(thing, name, None)) for name in names)
    return 0


def check_memory(data: bytes, profile: Profile, size: int = 512) -> int:
    """Whatever comes, in reads of ``size`` bytes, between two reads an engine holds no more than one message of the
    limit (each character of a text may take four bytes), one read, and a constant, once the pongs have been taken out.
    Returns the most that it held.
    """
    codec = None if profile.deflate is None else Deflate(profile.deflate, profile.client)
    engine = Connection(
        client=profile.client,
        max_message_size=profile.max_message_size,
        max_fragments=profile.max_fragments,
        deflate=codec,
    )
    profile.before(engine)
    most = 0
    limit = 4 * profile.max_message_size + 2 * size + 3000
    for start in range(0, len(data), size):
        messages = engine.feed(data[start : start + size])
        engine.pongs = ()
        most = max(most, held(engine))
        assert most <= limit, (most, limit)
        while engine.stalled:
            messages = engine.feed(b"")
            engine.pongs = ()
            assert sum(len(m) for m in messages if isinstance(m, bytes)) < 2 * profile.max_message_size + 2 * size
            assert held(engine) <= limit
    return most


# --- deflate -------------------------------------------------------------------------------------------------------


def check_inflate(data: bytes, room: int, parameters: Parameters) -> bytes | None:
    """Any bytes inflate to at most ``room`` bytes or raise InflateError; the same however they are cut. None where
    they do not inflate.
    """
    found = [_inflated(data, room, parameters, size) for size in (len(data) or 1, 1, 7)]
    assert all(result == found[0] for result in found), found
    assert found[0] is None or len(found[0]) <= room
    return found[0]


def _inflated(data: bytes, room: int, parameters: Parameters, size: int) -> bytes | None:
    codec, out = Deflate(parameters), b""
    try:
        for start in range(0, len(data), size):
            out += codec.inflate(data[start : start + size], room - len(out), last=False)
            assert len(out) <= room
        return out + codec.inflate(b"", room - len(out), last=True)
    except InflateError:
        return None


# --- the handshake -------------------------------------------------------------------------------------------------


STATUSES = {"400 Bad Request", "403 Forbidden", "405 Method Not Allowed", "426 Upgrade Required"}
ORIGINS = ("same-origin", "https://*.example.com", "null")


def check_handshake(request: Request, mode: str) -> Handshake | Refusal:
    """Any request ends in a handshake or a refusal; nothing escapes.

    A refusal has one of four statuses, a sentence of bounded length, and headers that may be sent. The 101 of a
    handshake has headers that may be sent, and our own client takes it if it offered the same.
    """
    verdict = judge(request, ORIGINS, mode)
    if isinstance(verdict, Refusal):
        assert verdict.status in STATUSES and verdict.sentence.endswith("."), verdict
        assert verdict.sentence.isprintable() and len(verdict.sentence) < 2400 + len(request.protocol or ""), verdict
        for name, value in verdict.headers:
            check_field(name, value)
        return verdict
    assert len(verdict.subprotocols) <= MAX_ITEMS
    for chosen in (None, *verdict.subprotocols):
        headers = accept_headers(verdict, chosen)
        for name, value in headers:
            check_field(name, value)
        lower = {name.lower(): value for name, value in headers}
        lower.pop("sec-websocket-extensions", None)
        assert check_response(101, lower, verdict.key, verdict.subprotocols) == (chosen, None)
    return verdict


def check_headers(text: str) -> int:
    """Any text is parsed or refused with ValueError; what comes out is made of tokens and bounded in number, and can
    be written down again to the same effect. An answer to an offer keeps to RFC 7692 7.1. Returns how many parsers
    took the text.
    """
    parse_list(text)
    taken = 0
    try:
        tokens = parse_subprotocols(text)
    except ValueError:
        pass
    else:
        taken += 1
        assert len(tokens) <= MAX_ITEMS and parse_subprotocols(",".join(tokens)) == tokens
        assert all(check_token(token, "it") for token in tokens)
    try:
        extensions = parse_extensions(text)
    except ValueError:
        return taken
    assert len(extensions) <= MAX_ITEMS
    written = []
    for name, pairs in extensions:
        assert len(pairs) <= MAX_ITEMS
        written.append("; ".join([name, *(key if value is None else f'{key}="{value}"' for key, value in pairs)]))
    assert parse_extensions(", ".join(written)) == extensions
    for mode in ("off", "shared", "dedicated"):
        agreed = negotiate(extensions, mode)
        assert agreed is None or mode != "off"
        if agreed is not None:
            assert 9 <= agreed.server_max_window_bits <= 15 and 8 <= agreed.client_max_window_bits <= 15
            assert parse_extensions(answer(agreed))
    for mine in (Parameters(), Parameters(True, False, 10, 11)):
        assert parse_extensions(offer(mine))
        try:
            understood = agree(extensions, mine)
        except ValueError:
            pass
        else:
            assert (understood is None) is (not extensions), extensions
            if understood is None:
                continue
            assert understood.server_max_window_bits <= mine.server_max_window_bits
            assert 9 <= understood.client_max_window_bits <= mine.client_max_window_bits
    return taken + 1


# --- inputs --------------------------------------------------------------------------------------------------------

TEXTS = ["", "a", "é", "漢字", "😀", "Hello, Hello, Hello! " * 8, "\x00\x7f", "z" * 126, "ü" * 340]
LENGTHS = [0, 0, 1, 2, 7, 100, 125, 126, 127, 300, 700]


def valid_stream(rng: random.Random, profile: Profile) -> tuple[bytes, list[Message]]:
    """Frames of a peer that keeps to every rule, and the messages in them."""
    compressor = None
    if profile.deflate is not None:
        bits = profile.deflate[2 if profile.client else 3]
        compressor = zlib.compressobj(rng.randrange(10), zlib.DEFLATED, -bits)
    resets = profile.deflate is not None and profile.deflate[0 if profile.client else 1]
    out, messages = [], []
    for _ in range(rng.randrange(1, 8)):
        message: Message = rng.choice([rng.choice(TEXTS), rng.randbytes(rng.choice(LENGTHS))])
        payload = message.encode() if isinstance(message, str) else message
        first = 1 if isinstance(message, str) else 2
        if compressor is not None and rng.random() < 0.6:
            flush = zlib.Z_FULL_FLUSH if resets else zlib.Z_SYNC_FLUSH
            payload = (compressor.compress(payload) + compressor.flush(flush))[:-4]
            first |= 0x40
        out.append(_fragmented(rng, profile, first, payload))
        messages.append(message)
    if rng.random() < 0.3:
        payload = rng.choice([b"", struct.pack("!H", rng.choice([1000, 1001, 1011, 3000, 4999])) + b"\xc3\xa9"])
        out.append(_frame(rng, profile, 0x88, payload))
    return b"".join(out), messages


def _fragmented(rng: random.Random, profile: Profile, first: int, payload: bytes) -> bytes:
    cuts = sorted(rng.randrange(len(payload) + 1) for _ in range(rng.choice([0, 0, 0, 1, 2, 4])))
    pieces = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
    out = []
    for index, piece in enumerate(pieces):
        while rng.random() < 0.15:
            out.append(_frame(rng, profile, rng.choice([0x89, 0x8A]), rng.randbytes(rng.choice([0, 1, 125]))))
        fin = 0x80 if index == len(pieces) - 1 else 0
        out.append(_frame(rng, profile, (0 if index else first) | fin, piece))
    return b"".join(out)


def _frame(rng: random.Random, profile: Profile, first: int, payload: bytes) -> bytes:
    length = len(payload)
    bit = 0 if profile.client else 0x80
    if length < 126:
        header = bytes([first, bit | length])
    elif length < 65536:
        header = struct.pack("!BBH", first, bit | 126, length)
    else:
        header = struct.pack("!BBQ", first, bit | 127, length)
    if profile.client:
        return header + payload
    # Half of the keys are zero, so that a mutation of the payload is one of the text and not of noise.
    key = rng.choice([b"\0\0\0\0", rng.randbytes(4)])
    return header + key + bytes(byte ^ key[i & 3] for i, byte in enumerate(payload))


INTERESTING = [
    b"\x00",
    b"\x01",
    b"\x7e",
    b"\x7f",
    b"\x80",
    b"\x81",
    b"\x88\x80",
    b"\xc1",
    b"\xed\xa0",
    b"\xff" * 9,
]


def mutated(rng: random.Random, data: bytes) -> bytes:
    """``data`` with a few bytes changed, lost, doubled, moved or put in."""
    result = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        start = rng.randrange(len(result) + 1)
        end = min(len(result), start + rng.choice([1, 1, 2, 4, 30]))
        how = rng.randrange(6)
        if how == 0:
            for index in range(start, end):
                result[index] ^= 1 << rng.randrange(8)
        elif how == 1:
            del result[start:end]
        elif how == 2:
            result[start:end] = result[start:end] * 2
        elif how == 3:
            result[start:start] = rng.choice(INTERESTING)
        elif how == 4:
            result[start:end] = rng.randbytes(end - start)
        else:
            del result[start:]
            result += data[rng.randrange(len(data) + 1) :]
    return bytes(result)
