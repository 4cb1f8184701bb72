"""A short seeded fuzz of all of ``protocol``; the invariants stand in ``invariants``, the long runs in ``fuzz/``.

Mutations of valid input, because random bytes do not get past the first rule; random bytes too.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter

import pytest

from gws_middleware.protocol import connection, headers
from gws_middleware.protocol.connection import Connection, State
from gws_middleware.protocol.deflate import Deflate, Parameters
from gws_middleware.protocol.handshake import Handshake, Request
from tests.protocol.invariants import (
    PROFILES,
    SHAPES,
    Profile,
    check_engine,
    check_handshake,
    check_headers,
    check_inflate,
    check_memory,
    mutated,
    valid_stream,
)

pytestmark = pytest.mark.slow  # seconds of computing: too many for every save


KEY = "dGhlIHNhbXBsZSBub25jZQ=="
IDS = [
    f"{'client' if p.client else 'server'}-{SHAPES.index(p.deflate)}{'-closing' if p.closing else ''}" for p in PROFILES
]
ROUNDS = 45


@pytest.mark.parametrize("profile", PROFILES, ids=IDS)
def test_valid_streams(profile: Profile) -> None:
    """A peer that keeps to the rules gets every message through; nothing of its stream fails the connection."""
    rng = random.Random(101)
    for _ in range(ROUNDS // 2):
        data, messages = valid_stream(rng, profile)
        outcome = check_engine(data, profile)
        assert outcome.state is not State.FAILED, outcome
        assert outcome.messages == ([] if profile.closing else messages)


@pytest.mark.parametrize("profile", PROFILES, ids=IDS)
def test_mutated_streams(profile: Profile) -> None:
    """Any bytes end in messages or in a close, nothing escapes; the same however they are cut, in C and in Python."""
    rng = random.Random(102)
    states: Counter[State] = Counter()
    codes: Counter[int] = Counter()
    for _ in range(ROUNDS):
        outcome = check_engine(mutated(rng, valid_stream(rng, profile)[0]), profile)
        states[outcome.state] += 1
        if outcome.failure is not None:
            codes[outcome.failure[0]] += 1
    # The fuzz is worth something only if it reaches more than one end.
    assert {State.FAILED, State.CLOSING if profile.closing else State.OPEN} <= set(states)
    assert profile.closing or {1002, 1007} <= set(codes) <= {1002, 1007, 1008, 1009}


@pytest.mark.parametrize("profile", PROFILES, ids=IDS)
def test_random_bytes(profile: Profile) -> None:
    """Random bytes end in a close sooner or later, and nothing escapes."""
    rng = random.Random(103)
    for _ in range(ROUNDS):
        check_engine(rng.randbytes(rng.choice([1, 2, 3, 8, 40])), profile)
    assert check_engine(b"\xff" * 20, profile).state is State.FAILED


@pytest.mark.parametrize("first", range(0, 256, 16))
def test_every_first_two_bytes(first: int) -> None:
    """All headers, followed by anything, end in messages or in a close."""
    profile = PROFILES[2]
    assert profile.deflate is not None and not profile.client
    after = b"\0\0\0\0\0\0\0\0\0\0\0\0"
    for a in range(first, first + 16):
        for b in range(first % 32 // 16, 256, 5):
            check_engine(bytes([a, b]) + after, profile)
    assert check_engine(bytes([first, 0]) + after, profile).state is State.FAILED


@pytest.mark.parametrize("profile", PROFILES, ids=IDS)
def test_memory(profile: Profile) -> None:
    """Memory stays under one message of the limit, one read and a constant, whatever comes and however long."""
    rng = random.Random(104)
    data = b"".join(valid_stream(rng, profile)[0] for _ in range(20))
    most = [check_memory(data, profile), *(check_memory(mutated(rng, data), profile) for _ in range(30))]
    assert max(most) > 0


@pytest.mark.parametrize("profile", PROFILES, ids=IDS)
def test_memory_of_floods(profile: Profile) -> None:
    """Endless pings, pongs, empty fragments, half frames and bombs hold no more than anything else."""
    bit = 0 if profile.client else 0x80
    key = b"" if profile.client else b"\0\0\0\0"
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = bomb.compress(bytes(600)) + bomb.flush(zlib.Z_FULL_FLUSH)
    floods = [
        bytes([0x89, bit | 5]) + key + b"Hello",
        bytes([0x8A, bit]) + key,
        bytes([0x00, bit]) + key,
        bytes([0x02, bit | 1]) + key + b"x",
        bytes([0x82, bit | 100]) + key,
        bytes([0x81, bit | 4]) + key + "😀".encode(),
        bytes([0xC2, bit | len(packed) - 4]) + key + packed[:-4],
    ]
    most = [check_memory(b"\x02" + bytes([bit]) + key + flood * 3000, profile) for flood in floods]
    most += [check_memory(flood * 3000, profile) for flood in floods]
    assert len(most) == 14


@pytest.mark.parametrize("parameters", [shape for shape in SHAPES if shape is not None])
def test_inflate(parameters: Parameters) -> None:
    """Any bytes inflate to at most the room there is or raise InflateError; the same however they are cut."""
    rng = random.Random(105)
    results: Counter[bool] = Counter()
    for _ in range(ROUNDS * 5):
        payload = rng.choice([rng.randbytes(rng.randrange(200)), b"Hello! " * rng.randrange(60)])
        compressor = zlib.compressobj(rng.randrange(10), zlib.DEFLATED, -max(9, parameters.client_max_window_bits))
        flush = rng.choice([zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_FINISH])
        data = mutated(rng, compressor.compress(payload) + compressor.flush(flush))
        results[check_inflate(data, rng.choice([0, 1, 100, 1000]), parameters) is None] += 1
    assert min(results.values()) > 20 and len(results) == 2


OFFERS = [
    "permessage-deflate; client_max_window_bits",
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=10",
    'permessage-deflate; client_max_window_bits="9", permessage-deflate',
    "permessage-deflate; server_max_window_bits=15",
    "foo; bar=1, permessage-deflate",
    "chat, superchat",
    'a; b="\\c", d',
    "",
]


def test_header_values() -> None:
    """Any text is parsed or refused with ValueError; what comes out is bounded and can be written down again."""
    rng = random.Random(106)
    taken: Counter[int] = Counter()
    for _ in range(ROUNDS * 40):
        text = mutated(rng, rng.choice(OFFERS).encode()).decode("latin-1")
        taken[check_headers(text)] += 1
    assert min(taken[0], taken[1], taken[2]) > 100


def requests(rng: random.Random) -> Request:
    """A good request with one to four values mutated, doubled or left out."""
    good: list[str | None] = [
        "GET",
        "HTTP/1.1",
        "server.example.com",
        "websocket",
        "keep-alive, Upgrade",
        KEY,
        "13",
        rng.choice([None, "chat, superchat"]),
        rng.choice([None, *OFFERS]),
        rng.choice([None, "http://server.example.com", "https://a.example.com", "null"]),
        None,
        None,
    ]
    for _ in range(rng.choice([0, 1, 1, 4])):
        index = rng.randrange(len(good))
        value = good[index] or rng.choice(["0", "1", "x"])
        changed = mutated(rng, value.encode("latin-1")).decode("latin-1")
        good[index] = rng.choice([changed, f"{value}, {value}", None])
    return Request(*good)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["off", "shared", "dedicated"])
def test_handshakes(mode: str) -> None:
    """Any request ends in a handshake that our client takes or in a refusal that may be sent."""
    rng = random.Random(107)
    statuses: Counter[str] = Counter()
    for _ in range(ROUNDS * 20):
        verdict = check_handshake(requests(rng), mode)
        statuses["101" if isinstance(verdict, Handshake) else verdict.status[:3]] += 1
    assert set(statuses) == {"101", "400", "403", "405", "426"}


# The invariants can fail


def test_invariant_sees_what_depends_on_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that forgets half a frame between two reads is found."""
    feed = Connection.feed

    def forgetful(self: Connection, data: bytes, end: int | None = None) -> list[str | bytes]:
        messages = feed(self, data, end)
        self._rest = None
        return messages

    monkeypatch.setattr(Connection, "feed", forgetful)
    with pytest.raises(AssertionError):
        check_engine(valid_stream(random.Random(1), PROFILES[0])[0], PROFILES[0])


def test_invariant_sees_a_message_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that does not count what it inflates is found."""
    inflate = Deflate.inflate
    monkeypatch.setattr(Deflate, "inflate", lambda self, piece, room, last: inflate(self, piece, 2**20, last))
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = (bomb.compress(bytes(5000)) + bomb.flush(zlib.Z_SYNC_FLUSH))[:-4]
    with pytest.raises(AssertionError):
        check_engine(bytes([0xC2, 0x80 | len(packed), 0, 0, 0, 0]) + packed, PROFILES[2])


def test_invariant_sees_memory_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that keeps an object for each byte is found."""

    class Pieces(list[bytes]):
        def add(self, piece: memoryview, key: bytes, to_come: int) -> bool:
            self.append(bytes(piece))
            return True

    monkeypatch.setattr(connection, "Payload", Pieces)
    profile = PROFILES[0]._replace(max_fragments=10**6)
    with pytest.raises(AssertionError):
        check_memory(bytes([0x02, 0x80, 0, 0, 0, 0]) + bytes([0x00, 0x80, 0, 0, 0, 0]) * 3000, profile)


def test_invariant_sees_a_parser_without_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser that counts nothing is found."""
    monkeypatch.setattr(headers, "MAX_ITEMS", 10**6)
    with pytest.raises(AssertionError):
        check_headers(",".join(f"p{i}" for i in range(1000)))
