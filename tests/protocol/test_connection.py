"""The engine, section by section of RFC 6455; then RFC 7692, the limits, memory, and pairs of engines.

Every input goes through ``reading.read()``: whole, byte by byte, in halves, with a tail, in C and in pure Python.
"""

# ruff: noqa: N801 - the classes carry the numbers of the sections

from __future__ import annotations

import itertools
import random
import re
import zlib
from collections.abc import Callable

import pytest

from gws_middleware.codes import CloseCode
from gws_middleware.protocol import connection
from gws_middleware.protocol.connection import (
    CHECKED_AT_ONCE,
    FRAMES_AT_ONCE,
    MAX_CONTROL,
    MAX_PONGS,
    SPLIT_FROM,
    Connection,
    State,
    prepare,
)
from gws_middleware.protocol.deflate import Deflate, Parameters
from gws_middleware.protocol.masking import speedups
from tests.protocol.measuring import bomb, measured
from tests.protocol.reading import (
    End,
    Message,
    Outcome,
    drained,
    frames_of,
    joined,
    outcome_of,
    read,
    using,
)
from tests.support.implementations import NAMES
from tests.support.rawclient import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, frame

SERVER, CLIENT = End(client=False), End(client=True)
DATA, CONTROL = [TEXT, BINARY], [CLOSE, PING, PONG]
RESERVED = [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF]
SIZES = [0, 1, 125, 126, 127, 65535, 65536, 65537]
BOUNDARIES = [0x00, 0x7F, 0x80, 0xD7FF, 0xE000, 0xFFFF]
PLANES = [chr(plane << 16 | point) for plane in range(17) for point in BOUNDARIES]


@pytest.fixture(params=[SERVER, CLIENT], ids=["server", "client"])
def end(request: pytest.FixtureRequest) -> End:
    """The end under test: what holds for both is tested for both."""
    found: End = request.param
    return found


def code(number: int, reason: bytes = b"") -> bytes:
    """The payload of a close frame (5.5.1)."""
    return number.to_bytes(2, "big") + reason


def only_failure(outcome: Outcome) -> tuple[int, str]:
    """Code and reason of a failure that was sent in one close frame and is all that came of the input."""
    assert outcome.failure is not None, outcome
    number, reason = outcome.failure
    assert outcome == Outcome(
        [], State.FAILED, None, (number, reason), [Frame(CLOSE, code(number, reason.encode()))], []
    )
    return outcome.failure


def header_of(end: End, opcode: int, length: int, **options: object) -> bytes:
    """A frame's header without its payload."""
    return end.frame(opcode, b"", length=length, **options)


class TestSection1_4:
    """Once the closing handshake is done, or has begun on our side, nothing more is taken."""

    @pytest.mark.parametrize(
        "after", [b"\xff" * 50, b"GET / HTTP/1.1\r\n\r\n", frame(TEXT, b"x"), frame(CLOSE), b"\x81"]
    )
    def test_bytes_after_the_close_frame(self, end: End, after: bytes) -> None:
        """What comes after the peer's close frame is ignored (5.5.1; attack 13)."""
        outcome = end.read(end.close(code(1000)), after)
        assert outcome == Outcome([], State.CLOSED, (1000, ""), (1000, ""), [Frame(CLOSE, code(1000))], [])

    @pytest.mark.parametrize("after", [b"\xff" * 50, frame(TEXT, b"x"), frame(CLOSE, code(1000))])
    def test_bytes_after_a_failure(self, end: End, after: bytes) -> None:
        """What comes after a broken rule is ignored (7.1.7)."""
        assert only_failure(end.read(end.frame(3), after)) == (1002, "opcode 0x3 is reserved")

    def test_messages_after_our_close_frame(self, end: End) -> None:
        """Messages that were under way when our close frame was sent are skipped, fragments, pings and all; the close
        frame after them is read.
        """
        parts = [end.frame(TEXT, b"late"), *end.fragments(BINARY, b"a", b"", b"b" * 70000), end.ping(b"p")]
        outcome = end.read(*parts, end.close(code(1001)), before=lambda engine: engine.close(1000, "done"))
        assert outcome == Outcome([], State.CLOSED, (1001, ""), (1000, "done"), [Frame(CLOSE, code(1000, b"done"))], [])

    def test_message_cut_by_our_close_frame(self, end: End) -> None:
        """A message of which a part came before our close frame is skipped to its end."""
        first, second = end.fragments(TEXT, "é".encode()[:1], "é".encode()[1:] + b" and more")
        for cut in range(1, len(first)):
            engine = Connection(client=end.client)
            engine.feed(first[:cut])
            engine.close()
            messages = engine.feed(first[cut:] + second + end.frame(TEXT, b"x") + end.close(code(1000)))
            assert (messages, engine.state) == ([], State.CLOSED)

    def test_late_messages_are_not_inflated(self, end: End) -> None:
        """What comes after our close frame is not inflated and cannot break a rule of compression."""
        outcome = end.read(
            end.frame(TEXT, b"\xff broken", rsv=4), deflate=Parameters(), before=lambda engine: engine.close()
        )
        assert (outcome.messages, outcome.state) == ([], State.CLOSING)


class TestSection5_1:
    """Masked from the client, unmasked from the server."""

    @pytest.mark.parametrize("opcode", [*DATA, *CONTROL])
    @pytest.mark.parametrize("payload", [b"", b"\x03\xe8"])
    def test_unmasked_frame_of_a_client(self, opcode: int, payload: bytes) -> None:
        """A server fails on an unmasked frame of any kind (MUST; attack 5)."""
        assert only_failure(read(frame(opcode, payload, mask=None))) == (1002, "a client's frame is not masked")

    @pytest.mark.parametrize("opcode", [*DATA, *CONTROL])
    @pytest.mark.parametrize("payload", [b"", b"\x03\xe8"])
    def test_masked_frame_of_a_server(self, opcode: int, payload: bytes) -> None:
        """A client fails on a masked frame of any kind (MUST)."""
        assert only_failure(read(frame(opcode, payload), client=True)) == (1002, "a server's frame is masked")

    @pytest.mark.parametrize("masked_first", [True, False])
    def test_every_fragment_is_judged(self, end: End, masked_first: bool) -> None:
        """The rule holds for each frame of a message, not for the first alone."""
        wrong = frame(CONTINUATION, b"b", mask=b"\1\2\3\4" if end.client else None)
        assert only_failure(end.read(end.frame(TEXT, b"a", fin=False), wrong))[0] == 1002


class TestSection5_2:
    """Base framing."""

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("opcode", DATA)
    def test_length_in_its_fewest_bytes(self, end: End, opcode: int, size: int) -> None:
        """Payloads at the edges of the three encodings come through."""
        payload = b"x" * size
        expected = payload.decode() if opcode == TEXT else payload
        assert end.read(end.frame(opcode, payload)) == Outcome([expected], State.OPEN, None, None, [], [])

    @pytest.mark.parametrize(("length", "width"), [(0, 2), (1, 2), (125, 2), (0, 8), (125, 8), (126, 8), (65535, 8)])
    @pytest.mark.parametrize("opcode", DATA)
    def test_length_in_more_bytes(self, end: End, opcode: int, length: int, width: int) -> None:
        """A length that is not minimal is refused (MUST; attack 6), as soon as the header is there."""
        outcome = end.read(end.frame(opcode, b"x" * length, length_bytes=width))
        assert only_failure(outcome) == (1002, "a frame's length is not encoded in the fewest bytes")

    @pytest.mark.parametrize("length", [2**63, 2**63 + 1, 2**64 - 1])
    @pytest.mark.parametrize("opcode", DATA)
    def test_top_bit_of_the_length(self, end: End, opcode: int, length: int) -> None:
        """The most significant bit of a length is 0 (MUST; attack 6)."""
        assert only_failure(end.read(header_of(end, opcode, length))) == (
            1002,
            "the top bit of a frame's length is set",
        )

    @pytest.mark.parametrize("rsv", range(1, 8))
    @pytest.mark.parametrize("opcode", [*DATA, *CONTROL])
    def test_reserved_bit(self, end: End, opcode: int, rsv: int) -> None:
        """A reserved bit that no extension defined fails the connection (MUST; attack 14)."""
        assert only_failure(end.read(end.frame(opcode, b"", rsv=rsv))) == (1002, "a reserved bit is set")

    @pytest.mark.parametrize("rsv", [2, 1, 6, 3])
    @pytest.mark.parametrize("opcode", [*DATA, *CONTROL])
    def test_reserved_bit_beside_compression(self, end: End, opcode: int, rsv: int) -> None:
        """Compression defines RSV1 alone."""
        outcome = end.read(end.frame(opcode, b"", rsv=rsv), deflate=Parameters())
        assert only_failure(outcome) == (1002, "a reserved bit is set")

    @pytest.mark.parametrize("rsv", range(1, 8))
    def test_reserved_bit_of_a_continuation(self, end: End, rsv: int) -> None:
        """The bits are judged in every frame of a message."""
        outcome = end.read(end.frame(TEXT, b"a", fin=False), end.frame(CONTINUATION, b"b", rsv=rsv))
        assert only_failure(outcome) == (1002, "a reserved bit is set")

    @pytest.mark.parametrize("opcode", RESERVED)
    @pytest.mark.parametrize("fin", [True, False])
    def test_reserved_opcode(self, end: End, opcode: int, fin: bool) -> None:
        """An opcode that is reserved fails the connection (MUST; attack 14)."""
        assert only_failure(end.read(end.frame(opcode, b"", fin=fin))) == (1002, f"opcode {opcode:#x} is reserved")

    @pytest.mark.parametrize("opcode", RESERVED)
    def test_reserved_opcode_inside_a_message(self, end: End, opcode: int) -> None:
        """A reserved opcode between two fragments fails the connection too."""
        outcome = end.read(end.frame(TEXT, b"a", fin=False), end.frame(opcode))
        assert only_failure(outcome) == (1002, f"opcode {opcode:#x} is reserved")

    def test_header_is_judged_from_its_first_two_bytes(self, end: End) -> None:
        """No byte of a forbidden frame is waited for beyond the two that forbid it."""
        engine = Connection(client=end.client)
        engine.feed(end.frame(PING, b"", fin=False)[:2])
        assert engine.state is State.FAILED

    def test_many_messages_in_one_read(self, end: End) -> None:
        """Messages of one read come out in order, each with its type."""
        messages: list[Message] = ["a", b"b", "", b"", "ü", b"\xff" * 200]
        parts = [end.frame(TEXT, m.encode()) if isinstance(m, str) else end.frame(BINARY, m) for m in messages]
        assert end.read(*parts).messages == messages

    def test_random_messages_cut_at_random(self, end: End) -> None:
        """Wherever the reads cut the stream, the same messages come out."""
        rng = random.Random(17)
        sizes = [rng.choice([0, 1, 5, 124, 126, 300, 66000]) for _ in range(60)]
        messages = [rng.randbytes(size) for size in sizes]
        stream = b"".join(end.frame(BINARY, message) for message in messages)
        for _ in range(20):
            cuts = sorted(rng.randrange(len(stream)) for _ in range(rng.randrange(200)))
            engine, found = Connection(client=end.client), []
            for a, b in itertools.pairwise([0, *cuts, len(stream)]):
                found += engine.feed(stream[a:b])
            assert found == messages


class TestSection5_3:
    """Masking."""

    @pytest.mark.parametrize("mask", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x37\xfa\x21\x3d", b"\0\0\0\1", b"\1\0\0\0"])
    def test_key_goes_on_where_a_read_stopped(self, mask: bytes) -> None:
        """Octet i is masked with octet i mod 4 of the key, however the payload was cut."""
        payload = bytes(range(256)) * 2
        engines = [(cut, Connection()) for cut in range(6, len(payload) + 8)]
        data = frame(BINARY, payload, mask=mask)
        found = [engine.feed(data[:cut]) + engine.feed(data[cut:]) for cut, engine in engines]
        assert found == [[payload]] * len(engines)

    def test_key_turns_by_every_amount(self) -> None:
        """Pieces of all lengths from 0 to 9, one after the other, keep the key in step."""
        payload = random.Random(3).randbytes(4000)
        data, engine, found = frame(BINARY, payload), Connection(), []
        sizes = itertools.cycle(range(10))
        while data:
            size = next(sizes)
            found += engine.feed(data[:size])
            data = data[size:]
        assert found == [payload]

    def test_each_frame_has_its_own_key(self) -> None:
        """A fragmented message may change the key with each frame."""
        parts = [
            frame(TEXT, b"Hel", fin=False, mask=b"abcd"),
            frame(CONTINUATION, b"lo, ", fin=False, mask=b"\0\0\0\0"),
            frame(CONTINUATION, b"world", mask=b"\xff\0\xff\0"),
        ]
        assert read(b"".join(parts)).messages == ["Hello, world"]

    def test_client_takes_a_fresh_key_for_each_frame(self) -> None:
        """A client's keys are new for each frame, control frames too (MUST)."""
        engine = Connection(client=True)
        sent = [engine.encode("x") for _ in range(50)] + [engine.ping(b"x") for _ in range(50)]
        engine.close()
        sent.append(engine.take_replies())
        keys = [bytes(data[2:6]) for data in sent]  # type: ignore[arg-type]
        assert len(set(keys)) == len(keys) == 101 and all(data[1] & 0x80 for data in sent)  # type: ignore[operator]

    @pytest.mark.parametrize("size", SIZES)
    def test_client_masks_what_it_sends(self, size: int) -> None:
        """What a client sends is masked and in one piece; unmasked it is the message."""
        data = Connection(client=True).encode(b"\xa5" * size)
        assert isinstance(data, bytes) and data[1] & 0x80 and frames_of(data) == [Frame(BINARY, b"\xa5" * size)]

    @pytest.mark.parametrize("size", SIZES)
    def test_server_masks_nothing(self, size: int) -> None:
        """What a server sends is not masked (5.1 MUST NOT)."""
        data = joined(Connection().encode(b"\xa5" * size))
        assert not data[1] & 0x80 and data.endswith(b"\xa5" * size)


class TestSection5_4:
    """Fragmentation."""

    @pytest.mark.parametrize(
        "payloads",
        [
            [b"Hello"],
            [b"Hel", b"lo"],
            [b"H", b"e", b"l", b"l", b"o"],
            [b"", b"Hello"],
            [b"Hello", b""],
            [b"", b"", b"", b"Hel", b"", b"", b"lo", b"", b""],
            [b"Hel" * 50, b"lo" * 40000],
            [b"x" * 5000] * 5,
        ],
    )
    @pytest.mark.parametrize("opcode", DATA)
    def test_message_in_fragments(self, end: End, opcode: int, payloads: list[bytes]) -> None:
        """Fragments, empty ones too, are joined to one message of the first one's type."""
        whole = b"".join(payloads)
        outcome = end.read(*end.fragments(opcode, *payloads))
        assert outcome.messages == [whole.decode() if opcode == TEXT else whole]

    @pytest.mark.parametrize("count", [1, 2, 5])
    @pytest.mark.parametrize("opcode", DATA)
    def test_empty_message_in_fragments(self, end: End, opcode: int, count: int) -> None:
        """A message of empty fragments is an empty message."""
        assert end.read(*end.fragments(opcode, *[b""] * count)).messages == ["" if opcode == TEXT else b""]

    def test_message_of_every_split(self, end: End) -> None:
        """A text may be split between any two bytes, inside of a character too."""
        text = "aé漢😀z"
        data = text.encode()
        splits = itertools.combinations_with_replacement(range(len(data) + 1), 2)
        found = [end.read(*end.fragments(TEXT, data[:a], data[a:b], data[b:])).messages for a, b in splits]
        assert found == [[text]] * len(found)

    def test_control_frames_between_fragments(self, end: End) -> None:
        """Control frames may stand between fragments (MUST be able to handle) and are answered (attack 9)."""
        first, second, third = end.fragments(TEXT, "é".encode()[:1], "é".encode()[1:], b"!")
        outcome = end.read(first, end.ping(b"1"), second, end.frame(PONG, b"2"), end.ping(b"3"), third)
        assert outcome == Outcome(["é!"], State.OPEN, None, None, [Frame(PONG, b"1"), Frame(PONG, b"3")], [b"2"])

    def test_ping_inside_a_message_is_answered_at_once(self, end: End) -> None:
        """The pong does not wait for the message to be complete."""
        engine = Connection(client=end.client)
        engine.feed(end.frame(TEXT, b"a", fin=False) + end.ping(b"p"))
        assert frames_of(engine.take_replies()) == [Frame(PONG, b"p")]

    @pytest.mark.parametrize("opcode", DATA)
    def test_whole_messages_after_a_fragmented_one(self, end: End, opcode: int) -> None:
        """The fast path is taken again once a message is complete."""
        parts = [*end.fragments(opcode, b"a", b"b"), end.frame(BINARY, b"c"), *end.fragments(BINARY, b"d", b"e")]
        assert end.read(*parts).messages[1:] == [b"c", b"de"]

    @pytest.mark.parametrize("fin", [True, False])
    def test_continuation_of_nothing(self, end: End, fin: bool) -> None:
        """A continuation frame needs a message to continue."""
        outcome = end.read(end.frame(CONTINUATION, b"a", fin=fin))
        assert only_failure(outcome) == (1002, "a continuation frame continues nothing")

    @pytest.mark.parametrize("before", [[b"a"], [b"a", b"b"]])
    def test_continuation_of_a_complete_message(self, end: End, before: list[bytes]) -> None:
        """A complete message cannot be continued; it comes out all the same."""
        outcome = end.read(*end.fragments(BINARY, *before), end.frame(CONTINUATION, b"c"))
        assert (outcome.messages, outcome.failure) == (
            [b"".join(before)],
            (1002, "a continuation frame continues nothing"),
        )

    @pytest.mark.parametrize("opcode", DATA)
    @pytest.mark.parametrize("fin", [True, False])
    def test_message_inside_a_message(self, end: End, opcode: int, fin: bool) -> None:
        """Fragments of two messages do not interleave (MUST NOT)."""
        outcome = end.read(end.frame(TEXT, b"a", fin=False), end.frame(opcode, b"b", fin=fin))
        assert only_failure(outcome) == (1002, "a new message begins inside a fragmented one")


class TestSection5_5:
    """Control frames."""

    @pytest.mark.parametrize("opcode", CONTROL)
    def test_fragmented(self, end: End, opcode: int) -> None:
        """A control frame is never fragmented (MUST NOT; attack 9)."""
        assert only_failure(end.read(end.frame(opcode, b"", fin=False))) == (1002, "a control frame is fragmented")

    @pytest.mark.parametrize("opcode", CONTROL)
    @pytest.mark.parametrize("length", [126, 127, 65535, 65536, 2**62, 2**63])
    def test_longer_than_125_bytes(self, end: End, opcode: int, length: int) -> None:
        """A control frame has at most 125 bytes (MUST; attack 9), and is refused before they come."""
        outcome = end.read(header_of(end, opcode, length))
        assert only_failure(outcome) == (1002, "a control frame has more than 125 bytes")

    @pytest.mark.parametrize("opcode", CONTROL)
    @pytest.mark.parametrize("width", [2, 8])
    def test_length_in_more_bytes(self, end: End, opcode: int, width: int) -> None:
        """A control frame has no extended length at all."""
        outcome = end.read(end.frame(opcode, b"", length_bytes=width))
        assert only_failure(outcome) == (1002, "a control frame has more than 125 bytes")

    @pytest.mark.parametrize("size", [0, 1, 124, 125])
    def test_up_to_125_bytes(self, end: End, size: int) -> None:
        """Pings and pongs up to 125 bytes pass."""
        payload = b"\xff" * size
        outcome = end.read(end.ping(payload), end.frame(PONG, payload))
        assert outcome == Outcome([], State.OPEN, None, None, [Frame(PONG, payload)], [payload])


class TestSection5_5_1:
    """The close frame."""

    @pytest.mark.parametrize("reason", ["", "bye", "größer 😀", "x" * 123])
    def test_code_is_echoed_without_the_reason(self, end: End, reason: str) -> None:
        """A close frame is answered with its own code (SHOULD); code and reason can be asked for."""
        outcome = end.read(end.close(code(1001, reason.encode())))
        assert outcome == Outcome([], State.CLOSED, (1001, reason), (1001, ""), [Frame(CLOSE, code(1001))], [])

    def test_empty_one_is_answered_with_an_empty_one(self, end: End) -> None:
        """A close frame without a code stands for 1005, which never travels (7.1.5)."""
        assert end.read(end.close()) == Outcome([], State.CLOSED, (1005, ""), (1005, ""), [Frame(CLOSE, b"")], [])

    @pytest.mark.parametrize("byte", [b"\x03", b"\x00", b"\xff"])
    def test_payload_of_one_byte(self, end: End, byte: bytes) -> None:
        """A payload has no code or a whole one (MUST; attack 14)."""
        assert only_failure(end.read(end.close(byte))) == (1002, "a close frame has a payload of one byte")

    @pytest.mark.parametrize(
        "reason", [b"\xff", b"\xc3", b"bye \xed\xa0\x80", b"\xf4\x90\x80\x80", b"x" * 122 + b"\xc3"]
    )
    def test_reason_that_is_not_utf8(self, end: End, reason: bytes) -> None:
        """The reason is UTF-8 (MUST; attack 14)."""
        assert only_failure(end.read(end.close(code(1000, reason)))) == (1007, "a close reason is not UTF-8")

    def test_close_frame_inside_a_message(self, end: End) -> None:
        """The peer may send its close frame in the middle of a message, which is lost then."""
        outcome = end.read(end.frame(TEXT, b"a", fin=False), end.close(code(1000)), end.frame(CONTINUATION, b"b"))
        assert (outcome.messages, outcome.state, outcome.received) == ([], State.CLOSED, (1000, ""))

    def test_messages_before_it_come_out(self, end: End) -> None:
        """What came before the close frame is delivered."""
        outcome = end.read(end.frame(TEXT, b"a"), *end.fragments(TEXT, b"b", b"c"), end.close(code(1000)))
        assert (outcome.messages, outcome.state) == (["a", "bc"], State.CLOSED)

    def test_half_a_message_is_not_kept(self, end: End) -> None:
        """What a message had brought when the peer closed is set free."""
        engine = Connection(client=end.client)
        with measured() as memory:
            engine.feed(end.frame(BINARY, bytes(500_000), fin=False))
            engine.feed(end.close(code(1000)))
        assert memory.held < 20_000

    def test_answer_to_our_own_close_frame_is_not_answered(self, end: End) -> None:
        """Two close frames are enough (MUST NOT send more)."""
        outcome = end.read(
            end.close(code(1000)), before=lambda engine: (engine.close(4000, "x"), engine.take_replies())
        )
        assert outcome == Outcome([], State.CLOSED, (1000, ""), (4000, "x"), [], [])

    def test_pong_that_was_due_is_dropped(self, end: End) -> None:
        """Nothing is sent after or beside the answer to a close frame (5.5.2: unless it already received one)."""
        assert end.read(end.ping(b"p"), end.close(code(1000))).replies == [Frame(CLOSE, code(1000))]


class TestSection5_5_2:
    """Pings and pongs (5.5.2, 5.5.3)."""

    @pytest.mark.parametrize("payload", [b"", b"Hello", bytes(range(125))])
    def test_ping_is_answered_with_its_payload(self, end: End, payload: bytes) -> None:
        """A pong has the very payload of its ping (MUST), the empty one too."""
        assert end.read(end.ping(payload)).replies == [Frame(PONG, payload)]

    @pytest.mark.parametrize("count", [1, 2, MAX_PONGS, MAX_PONGS + 1, 1000])
    def test_latest_pings_are_answered(self, end: End, count: int) -> None:
        """A few pings are answered one by one, in order; of a flood the most recent ones (5.5.3; attack 10)."""
        pings = [b"%d" % number for number in range(count)]
        assert end.read(*map(end.ping, pings)).replies == [Frame(PONG, payload) for payload in pings[-MAX_PONGS:]]

    def test_ping_flood_holds_a_few_payloads(self, end: End) -> None:
        """However many pings come before the shell can send, a few pongs are due and nothing grows."""
        engine, pings = Connection(client=end.client), end.ping(bytes(125)) * 100
        with measured() as memory:
            for _ in range(20):
                drained(engine, engine.feed(pings))
        assert (memory.held < 2**14, len(frames_of(engine.take_replies()))) == (True, MAX_PONGS)

    def test_each_ping_is_answered_if_asked_in_between(self, end: End) -> None:
        """A shell that sends at once answers each ping."""
        engine, replies = Connection(client=end.client), []
        for number in range(3):
            engine.feed(end.ping(b"%d" % number))
            replies += frames_of(engine.take_replies())
        assert replies == [Frame(PONG, b"0"), Frame(PONG, b"1"), Frame(PONG, b"2")]

    def test_pongs_can_be_taken_alone(self, end: End) -> None:
        """A shell may send the pongs and keep the close frame back until what came before is answered."""
        engine = Connection(client=end.client)
        engine.feed(end.ping(b"p"))
        pongs = engine.pongs_due, frames_of(engine.take_pongs()), engine.pongs_due
        engine.feed(end.ping(b"q") + end.close(code(1000)))
        assert pongs == (True, [Frame(PONG, b"p")], False)
        assert (engine.pongs_due, engine.take_pongs(), engine.has_replies) == (False, b"", True)

    def test_replies_are_taken_once(self, end: End) -> None:
        """What was taken is not due any more."""
        engine = Connection(client=end.client)
        engine.feed(end.ping())
        due = [engine.has_replies, bool(engine.take_replies()), engine.has_replies, engine.take_replies()]
        assert due == [True, True, False, b""]

    def test_ping_after_our_close_frame(self, end: End) -> None:
        """No pong follows our close frame."""
        outcome = end.read(end.ping(b"p"), before=lambda engine: (engine.close(), engine.take_replies()))
        assert (outcome.replies, outcome.state) == ([], State.CLOSING)

    def test_pong_due_when_we_close(self, end: End) -> None:
        """Our close frame is the last that we send: a pong that was due is dropped."""
        engine = Connection(client=end.client)
        engine.feed(end.ping(b"p"))
        engine.close()
        due = engine.pongs_due
        assert (due, frames_of(engine.take_replies())) == (False, [Frame(CLOSE, code(1000))])

    def test_pong_is_not_answered(self, end: End) -> None:
        """A pong, asked for or not, needs no answer; its payload can be taken out (5.5.3)."""
        outcome = end.read(end.frame(PONG, b"a"), end.frame(PONG), end.frame(TEXT, b"x"), end.frame(PONG, b"b"))
        assert outcome == Outcome(["x"], State.OPEN, None, None, [], [b"a", b"", b"b"])

    @pytest.mark.parametrize("payload", [b"", b"Hello", bytes(125)])
    def test_ping_that_we_send(self, end: End, payload: bytes) -> None:
        """A ping carries what it is given."""
        assert frames_of(Connection(client=end.client).ping(payload)) == [Frame(PING, payload)]

    @pytest.mark.parametrize("size", [126, 1000])
    def test_ping_that_is_too_long(self, end: End, size: int) -> None:
        """Our own pings keep to 125 bytes (5.5 MUST)."""
        with pytest.raises(ValueError, match=f"^a ping carries 125 bytes at the most, not {size}$"):
            Connection(client=end.client).ping(bytes(size))

    @pytest.mark.parametrize("payload", ["", "é", 5, None])
    def test_ping_of_the_wrong_type(self, end: End, payload: bytes) -> None:
        """A ping carries bytes: the length of a str is another one in UTF-8, so the limit would not be clear."""
        with pytest.raises(TypeError):
            Connection(client=end.client).ping(payload)


class TestSection5_6:
    """Data frames."""

    @pytest.mark.parametrize("payload", [b"", b"a", b"\x00\xff", "é".encode()])
    def test_binary_is_bytes(self, end: End, payload: bytes) -> None:
        """A binary message comes out as bytes, whatever it contains."""
        assert end.read(end.frame(BINARY, payload)).messages == [payload]

    @pytest.mark.parametrize("text", ["", "a", "\0", "é", "漢字", "😀"])
    def test_text_is_str(self, end: End, text: str) -> None:
        """A text message comes out as str."""
        assert end.read(end.frame(TEXT, text.encode())).messages == [text]


class TestSection5_7:
    """The RFC's own examples, byte for byte."""

    @pytest.mark.parametrize(
        ("client", "data", "outcome"),
        [
            (True, "810548656c6c6f", ["Hello"]),
            (False, "818537fa213d7f9f4d5158", ["Hello"]),
            (True, "010348656c80026c6f", ["Hello"]),
            (True, "827e0100" + "5a" * 256, [b"Z" * 256]),
            (True, "827f0000000000010000" + "5a" * 65536, [b"Z" * 65536]),
        ],
    )
    def test_message(self, client: bool, data: str, outcome: list[Message]) -> None:
        """What the RFC shows is read as it says."""
        assert read(bytes.fromhex(data), client=client).messages == outcome

    def test_ping_and_pong(self) -> None:
        """The unmasked ping is answered with the same bytes in a masked pong; so is it read."""
        ping = read(bytes.fromhex("890548656c6c6f"), client=True)
        pong = read(bytes.fromhex("8a8537fa213d7f9f4d5158"))
        assert (ping.replies, pong.pongs) == ([Frame(PONG, b"Hello")], [b"Hello"])

    def test_what_a_server_sends(self) -> None:
        """Our server's frames are the RFC's."""
        server = Connection()
        sent = [server.encode("Hello"), server.ping(b"Hello"), server.encode(b"Z" * 256)]
        assert sent == [
            bytes.fromhex("810548656c6c6f"),
            bytes.fromhex("890548656c6c6f"),
            bytes.fromhex("827e0100" + "5a" * 256),
        ]


class TestSection6_1:
    """Sending data."""

    @pytest.mark.parametrize(
        ("message", "binary", "opcode", "payload"),
        [
            ("é", None, TEXT, "é".encode()),
            (b"\xff", None, BINARY, b"\xff"),
            (bytearray(b"\xff"), None, BINARY, b"\xff"),
            (memoryview(b"\xff"), None, BINARY, b"\xff"),
            (memoryview(b"abcdef")[::2], None, BINARY, b"ace"),
            ("é", True, BINARY, "é".encode()),
            ("é", False, TEXT, "é".encode()),
            (b"\xc3\xa9", False, TEXT, b"\xc3\xa9"),
            (bytearray(b"\xc3\xa9"), False, TEXT, b"\xc3\xa9"),
            (b"\xff", True, BINARY, b"\xff"),
            ("", None, TEXT, b""),
            (b"", None, BINARY, b""),
            (b"", False, TEXT, b""),
            (type("S", (str,), {})("é"), None, TEXT, "é".encode()),
            (type("B", (bytes,), {})(b"\xff"), None, BINARY, b"\xff"),
        ],
    )
    @pytest.mark.parametrize("implementation", NAMES)
    def test_type_of_a_message(
        self, end: End, implementation: str, message: Message, binary: bool | None, opcode: int, payload: bytes
    ) -> None:
        """Text is text and bytes are binary unless ``binary`` says otherwise."""
        with using(implementation):
            sent = Connection(client=end.client).encode(message, binary)
        assert frames_of(joined(sent)) == [Frame(opcode, payload)]

    @pytest.mark.parametrize("implementation", NAMES)
    @pytest.mark.parametrize("message", ["", "é", b"", b"\xff", bytearray(b"a"), "漢" * 30_000, bytes(200_000)])
    @pytest.mark.parametrize("binary", [None, True])
    def test_ready_frame(self, implementation: str, message: Message, binary: bool | None) -> None:
        """A frame that is built once for many connections is what a server without compression sends."""
        with using(implementation):
            assert prepare(message, binary).frame == joined(Connection().encode(message, binary))

    def test_prepared_message_cannot_be_changed(self) -> None:
        """Many connections share it."""
        prepared = prepare("x")
        for change in (lambda: setattr(prepared, "frame", b""), lambda: delattr(prepared, "frame")):
            with pytest.raises(AttributeError, match=r"^a PreparedMessage cannot be changed: frame$"):
                change()
        assert (prepared.frame, repr(prepared)) == (b"\x81\x01x", "<PreparedMessage of 1 bytes>")
        assert prepare(prepared) is prepared

    @pytest.mark.parametrize("message", [b"\xff", "a\ud800", None])
    def test_ready_frame_of_no_message(self, message: Message) -> None:
        """What is no message raises at the call here too."""
        with pytest.raises((TypeError, ValueError)) as caught:
            prepare(message, False)
        with pytest.raises(type(caught.value), match=f"^{re.escape(str(caught.value))}$"):
            Connection().encode(message, False)

    @pytest.mark.parametrize("size", [*SIZES, 21845, 21846, 16383, 16384, 200_000])
    @pytest.mark.parametrize("character", ["a", "é", "漢", "😀"])
    def test_text_of_any_size(self, end: End, character: str, size: int) -> None:
        """The length counts bytes of UTF-8, not characters."""
        sent = joined(Connection(client=end.client).encode(character * size))
        assert frames_of(sent) == [Frame(TEXT, character.encode() * size)]

    def test_big_message_is_not_copied(self) -> None:
        """A server's big message goes out beside its header; the payload is the object that was given."""
        message = bytes(SPLIT_FROM)
        sent = Connection().encode(message)
        assert isinstance(sent, tuple) and sent[1] is message

    def test_buffer_may_be_reused_after_the_call(self) -> None:
        """A mutable buffer is copied: what the caller does to it later changes nothing."""
        message = bytearray(b"a" * SPLIT_FROM)
        sent = Connection().encode(message)
        message[:] = b"b" * SPLIT_FROM
        assert joined(sent).endswith(b"a" * SPLIT_FROM)

    @pytest.mark.parametrize("binary", [None, True, False])
    @pytest.mark.parametrize("message", [None, True, 1j, ["a"], ("a",), {"a": 1}, object])
    def test_wrong_type(self, end: End, message: object, binary: bool | None) -> None:
        """What is no message is the caller's fault and raises at the call."""
        name = type(message).__name__
        with pytest.raises(TypeError, match=rf"^a message is str, .* or what prepare\(\) returns, not {name}$"):
            Connection(client=end.client).encode(message, binary)

    @pytest.mark.parametrize("message", [b"\xff", b"\xed\xa0\x80", bytearray(b"a\xc3"), memoryview(b"\x80")])
    def test_bytes_that_are_no_text(self, end: End, message: bytes) -> None:
        """Bytes sent as text must be UTF-8 (5.6): it raises at the call."""
        with pytest.raises(ValueError, match=r"^the bytes to be sent as text are not UTF-8$"):
            Connection(client=end.client).encode(message, False)

    @pytest.mark.parametrize("binary", [None, True, False])
    @pytest.mark.parametrize("implementation", NAMES)
    def test_lone_surrogate(self, end: End, implementation: str, binary: bool | None) -> None:
        """A str that has no UTF-8 is the caller's fault and raises at the call."""
        with using(implementation), pytest.raises(ValueError, match="surrogate"):
            Connection(client=end.client).encode("a\ud800", binary)

    def test_wrong_call_leaves_the_connection_alone(self, end: End) -> None:
        """After a wrong call the connection is as it was."""
        engine = Connection(client=end.client, deflate=Deflate(Parameters(), end.client))
        with pytest.raises(TypeError):
            engine.encode(None)
        assert (engine.state, engine.has_replies) == (State.OPEN, False)


class TestSection7:
    """Closing, and the state table in the docstring of ``connection``."""

    REACHED: dict[str, Callable[[End], Callable[[Connection], object]]] = {  # noqa: RUF012
        "OPEN": lambda end: lambda engine: None,
        "CLOSING": lambda end: lambda engine: engine.close(),
        "CLOSED": lambda end: lambda engine: engine.feed(end.close(code(1000))),
        "FAILED": lambda end: lambda engine: engine.feed(end.frame(3)),
    }

    @staticmethod
    def rows() -> dict[str, tuple[str, str]]:
        """The table: state to its two cells."""
        table = (connection.__doc__ or "").split("=\n", 2)[2]
        lines = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines() if line[:1].isupper()]
        return {state: (ours, theirs) for state, ours, theirs in lines}

    @pytest.mark.parametrize("state", REACHED)
    def test_over(self, end: End, state: str) -> None:
        """The engine says when nothing more can come out of it."""
        engine = Connection(client=end.client)
        self.REACHED[state](end)(engine)
        assert engine.over is (state in ("CLOSED", "FAILED"))

    def test_table_has_every_state(self) -> None:
        """There is a row for each state, and no other."""
        assert list(self.rows()) == list(self.REACHED) == [state.name for state in State]

    @pytest.mark.parametrize("state", REACHED)
    def test_our_close(self, end: End, state: str) -> None:
        """What close() does in each state is what the table says; a frame goes out from OPEN alone."""
        expected, _, remark = self.rows()[state][0].partition(" ")
        engine = Connection(client=end.client)
        self.REACHED[state](end)(engine)
        engine.take_replies()
        before = engine.sent_close
        engine.close(4000, "why")
        silent = remark == "(nothing is sent)" or state in ("CLOSED", "FAILED")
        assert (engine.state.name, engine.has_replies) == (expected, not silent)
        assert engine.sent_close == (before if silent else (4000, "why"))

    @pytest.mark.parametrize("event", ["close frame", "violation"])
    @pytest.mark.parametrize("state", REACHED)
    def test_what_the_peer_sends(self, end: End, state: str, event: str) -> None:
        """What a close frame and a broken rule do in each state is what the table says."""
        cell = self.rows()[state][1]
        expected = dict(part.split(": ") for part in cell.split("; ")).get(event) if ":" in cell else None
        if expected is None:
            expected, _, remark = cell.partition(" ")
            assert remark == "(ignored)"
        data = end.close(code(4001)) if event == "close frame" else end.frame(7)
        reached = self.REACHED[state](end)
        outcome = end.read(data, before=lambda engine: (reached(engine), engine.take_replies()))
        assert outcome.state.name == expected
        assert bool(outcome.replies) is (state == "OPEN")

    @pytest.mark.parametrize("state", REACHED)
    def test_anything_else_leaves_the_state(self, end: End, state: str) -> None:
        """Messages, pings, pongs and nothing at all change no state; messages come out while it is OPEN alone."""
        parts = [end.frame(TEXT, b"x"), end.ping(), end.frame(PONG), *end.fragments(BINARY, b"a", b"b"), b""]
        outcome = end.read(*parts, before=self.REACHED[state](end))
        assert (outcome.state.name, outcome.messages) == (state, ["x", b"ab"] if state == "OPEN" else [])

    @pytest.mark.parametrize(("number", "reason"), [(1000, ""), (1001, "bye"), (4999, "größer"), (3000, "x" * 123)])
    def test_our_close_frame(self, end: End, number: int, reason: str) -> None:
        """Our close frame carries code and reason; it is kept as ours."""
        engine = Connection(client=end.client)
        engine.close(number, reason)
        assert frames_of(engine.take_replies()) == [Frame(CLOSE, code(number, reason.encode()))]
        assert (engine.sent_close, engine.received_close) == ((number, reason), None)

    def test_our_close_frame_without_a_code(self, end: End) -> None:
        """Without a code the frame is empty and 1005 stands for it."""
        engine = Connection(client=end.client)
        engine.close(None)
        assert (frames_of(engine.take_replies()), engine.sent_close) == ([Frame(CLOSE, b"")], (1005, ""))

    def test_close_by_default(self, end: End) -> None:
        """Without arguments it is 1000."""
        engine = Connection(client=end.client)
        engine.close()
        assert engine.sent_close == (1000, "")

    def test_only_the_first_close_counts(self, end: End) -> None:
        """Later calls send nothing and change nothing."""
        engine = Connection(client=end.client)
        engine.close(1001, "first")
        engine.close(1011, "second")
        assert frames_of(engine.take_replies()) == [Frame(CLOSE, code(1001, b"first"))]
        assert engine.sent_close == (1001, "first")

    @pytest.mark.parametrize("state", REACHED)
    @pytest.mark.parametrize(
        ("number", "reason", "sentence"),
        [
            (999, "", "close code 999 may not be sent: wanted 1000-1003, 1007-1014 or 3000-4999"),
            (1005, "", "close code 1005 may not be sent: wanted 1000-1003, 1007-1014 or 3000-4999"),
            (1006, "x", "close code 1006 may not be sent: wanted 1000-1003, 1007-1014 or 3000-4999"),
            (1000, "x" * 124, "the close reason has 124 bytes of UTF-8: wanted 123 at the most"),
            (1000, "é" * 62, "the close reason has 124 bytes of UTF-8: wanted 123 at the most"),
            (None, "x", "a close frame without a code carries no reason"),
        ],
    )
    def test_wrong_close(self, end: End, state: str, number: int | None, reason: str, sentence: str) -> None:
        """A wrong close() raises in every state and changes nothing."""
        engine = Connection(client=end.client)
        self.REACHED[state](end)(engine)
        engine.take_replies()
        before = (engine.state, engine.sent_close, engine.received_close)
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            engine.close(number, reason)
        assert (engine.state, engine.sent_close, engine.received_close, engine.has_replies) == (*before, False)

    def test_failure_after_our_close_frame(self, end: End) -> None:
        """A broken rule after our close frame ends the connection without a second close frame (7.1.7)."""
        outcome = end.read(end.frame(3), before=lambda engine: (engine.close(1001), engine.take_replies()))
        assert outcome == Outcome([], State.FAILED, None, (1001, ""), [], [])

    def test_broken_close_frame_as_the_answer(self, end: End) -> None:
        """An answer to our close frame that breaks a rule is no answer: FAILED, and no code is kept."""
        outcome = end.read(end.close(b"\x03"), before=lambda engine: (engine.close(1001), engine.take_replies()))
        assert outcome == Outcome([], State.FAILED, None, (1001, ""), [], [])

    def test_failure_drops_what_was_due(self, end: End) -> None:
        """A failure is sent in one close frame; a pong that was due is dropped."""
        assert only_failure(end.read(end.ping(b"p"), end.frame(3))) == (1002, "opcode 0x3 is reserved")

    def test_failure_sets_free_what_was_kept(self, end: End) -> None:
        """A failed connection holds nothing of a message that will never be complete."""
        engine = Connection(client=end.client)
        with measured() as memory:
            engine.feed(end.frame(BINARY, bytes(500_000), fin=False))
            engine.feed(end.frame(3))
        assert memory.held < 20_000

    def test_reason_of_every_failure_fits(self) -> None:
        """The longest sentences fit into a close frame."""
        outcome = SERVER.read(*SERVER.fragments(TEXT, *[b""] * 3), max_fragments=2)
        assert outcome.failure == (1008, "more than 2 fragments in a message")
        assert len(f"more than {10**18} fragments in a message") + 2 < MAX_CONTROL


class TestSection7_4:
    """Status codes."""

    @staticmethod
    def may_travel(number: int) -> bool:
        """7.4.1, 7.4.2 and the IANA registry, written down a second time."""
        return number in (1000, 1001, 1002, 1003, *range(1007, 1015)) or 3000 <= number <= 4999

    @pytest.mark.parametrize("first", range(0, 5000, 500))
    def test_codes_received(self, first: int) -> None:
        """Each code from 0 to 5000 that may travel is echoed; each that may not fails the connection (attack 14)."""
        for number in range(first, first + 501):
            outcome = SERVER.read(SERVER.close(code(number, b"x")))
            if self.may_travel(number):
                assert (outcome.state, outcome.received) == (State.CLOSED, (number, "x"))
                assert outcome.replies == [Frame(CLOSE, code(number))]
            else:
                assert only_failure(outcome) == (1002, f"close code {number} may not be sent")

    @pytest.mark.parametrize("number", [5001, 10000, 32767, 32768, 65535])
    def test_codes_beyond(self, end: End, number: int) -> None:
        """Nor may a code beyond 4999 travel."""
        assert only_failure(end.read(end.close(code(number)))) == (1002, f"close code {number} may not be sent")

    def test_codes_sent(self, end: End) -> None:
        """Of the codes from -1 to 5001 exactly those that may travel can be sent."""
        sent = []
        for number in range(-1, 5002):
            engine = Connection(client=end.client)
            try:
                engine.close(number)
            except ValueError:
                assert (engine.state, engine.has_replies) == (State.OPEN, False)
            else:
                assert frames_of(engine.take_replies()) == [Frame(CLOSE, code(number))]
                sent.append(number)
        assert sent == [number for number in range(5001) if self.may_travel(number)]


CONTINUATIONS = {0xE0: (0xA0, 0xBF), 0xED: (0x80, 0x9F), 0xF0: (0x90, 0xBF), 0xF4: (0x80, 0x8F)}
"""Where the second byte of a character is not any from 0x80 to 0xBF (RFC 3629 4)."""


def utf8_state(data: bytes) -> str:
    """Whether ``data`` is "whole", "unfinished" or already "wrong" by the grammar of RFC 3629 4."""
    wanted, low, high = 0, 0x80, 0xBF
    for byte in data:
        if wanted:
            if not low <= byte <= high:
                return "wrong"
            wanted, low, high = wanted - 1, 0x80, 0xBF
        elif byte >= 0x80:
            wanted = 1 if 0xC2 <= byte <= 0xDF else 2 if 0xE0 <= byte <= 0xEF else 3 if 0xF0 <= byte <= 0xF4 else -1
            if wanted < 0:
                return "wrong"
            low, high = CONTINUATIONS.get(byte, (0x80, 0xBF))
    return "unfinished" if wanted else "whole"


NOT_UTF8 = (1007, "a text message is not UTF-8")
SECONDS = [0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xE0, 0xFF]
HEADS = [bytes([a, b]) for a in range(0x80, 0x100) for b in SECONDS] + [
    bytes([a, b, c])
    for a in (0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF1, 0xF4)
    for b in (0x80, 0x8F, 0x90, 0xA0)
    for c in SECONDS
]


class TestSection8_1:
    """UTF-8."""

    @pytest.mark.parametrize("text", ["".join(PLANES), *PLANES, "\0", "\ufeff", "\ufffe", "e\u0301"])
    def test_every_plane(self, end: End, text: str) -> None:
        """The borders of all planes come through, noncharacters too."""
        assert end.read(end.frame(TEXT, text.encode())).messages == [text]

    @pytest.mark.parametrize("how", ["whole", "fragmented", "compressed"])
    def test_head_of_a_text(self, how: str) -> None:
        """Whatever two or three bytes a text begins with, it fails at the first that cannot be UTF-8, in a frame
        that is far from complete, and not before (attack 14).
        """
        for head in HEADS:
            for end_of_head in range(1, len(head) + 1):
                data = head[:end_of_head]
                engine = self.fed(how, b"ok" + data)
                expected = State.FAILED if utf8_state(data) == "wrong" else State.OPEN
                assert engine.state is expected, data
                assert engine.sent_close == (NOT_UTF8 if expected is State.FAILED else None), data

    @staticmethod
    def fed(how: str, data: bytes) -> Connection:
        """An engine that read the beginning of a text message."""
        if how == "compressed":
            engine = Connection(deflate=Deflate(Parameters()))
            compressor = zlib.compressobj(1, zlib.DEFLATED, -15)
            packed = compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
            engine.feed(frame(TEXT, packed + bytes(100), rsv=4)[: 6 + len(packed)])
        elif how == "fragmented":
            engine = Connection()
            engine.feed(
                b"".join(frame(TEXT if i == 0 else CONTINUATION, data[i : i + 1], fin=False) for i in range(len(data)))
            )
        else:
            engine = Connection()
            engine.feed(frame(TEXT, data + b"x" * 100)[: 6 + len(data)])
        return engine

    @pytest.mark.parametrize("wrong_at", ["the beginning", "the end"])
    def test_large_frame_is_checked_at_its_end(self, end: End, wrong_at: str) -> None:
        """Not each time that a piece of it comes; a text in one frame would be decoded twice."""
        text = b"ok" * (CHECKED_AT_ONCE // 2)
        data = b"\xff" + text if wrong_at == "the beginning" else text + b"\xff"
        engine = Connection(client=end.client)
        engine.feed(end.frame(TEXT, "é".encode(), fin=False))
        large = end.frame(CONTINUATION, data, fin=False)
        engine.feed(large[:-1])
        assert engine.state is State.OPEN
        engine.feed(large[-1:])
        assert (engine.state, engine.sent_close) == (State.FAILED, NOT_UTF8)

    def test_frame_that_is_not_large_is_checked_at_once(self, end: End) -> None:
        """Up to the size at which it counts as large."""
        engine = Connection(client=end.client)
        engine.feed(end.frame(TEXT, b"\xff" + bytes(CHECKED_AT_ONCE - 1))[:100])
        assert (engine.state, engine.sent_close) == (State.FAILED, NOT_UTF8)

    def test_text_that_ends(self) -> None:
        """A text is judged to its end: what is unfinished there is not UTF-8."""
        for head in HEADS:
            outcome = SERVER.read(SERVER.frame(TEXT, head))
            if utf8_state(head) == "whole":
                assert outcome.messages == [head.decode()]
            else:
                assert only_failure(outcome) == NOT_UTF8

    @pytest.mark.parametrize("cut", [1, 2, 3])
    @pytest.mark.parametrize("character", ["é", "漢", "😀"])
    def test_character_cut_by_the_end(self, end: End, character: str, cut: int) -> None:
        """A character that the last fragment leaves unfinished fails the message, with an empty last one too."""
        data = character.encode()[:cut]
        whole = utf8_state(data) == "whole"
        for parts in ([data], [b"", data], [data, b""], [data[:1], data[1:], b""]):
            outcome = end.read(*end.fragments(TEXT, *parts))
            assert outcome.messages == ([character] if whole else [])
            assert outcome.failure == (None if whole else NOT_UTF8)

    def test_messages_before_it_come_out(self, end: End) -> None:
        """What was complete before a broken text is delivered."""
        outcome = end.read(end.frame(TEXT, b"a"), end.frame(BINARY, b"b"), end.frame(TEXT, b"\xff"))
        assert (outcome.messages, outcome.failure) == (["a", b"b"], NOT_UTF8)

    def test_next_text_begins_afresh(self, end: End) -> None:
        """Nothing of one text reaches into the next."""
        outcome = end.read(*end.fragments(TEXT, b"\xc3", b"\xa9"), end.frame(TEXT, b"\xa9"))
        assert (outcome.messages, outcome.failure) == (["é"], NOT_UTF8)

    def test_binary_is_not_judged(self, end: End) -> None:
        """Binary messages may have any bytes, in fragments too."""
        outcome = end.read(*end.fragments(BINARY, b"\xff", b"\xc3"), end.frame(BINARY, bytes(range(256))))
        assert outcome.messages == [b"\xff\xc3", bytes(range(256))]


class TestSection10_4:
    """Limits of the implementation."""

    TOO_BIG = (1009, "a message has more than 1000 bytes")

    @pytest.mark.parametrize("opcode", DATA)
    @pytest.mark.parametrize("sizes", [[1000], [0, 1000], [1000, 0], [500, 500], [1, 998, 1], [999, 1, 0]])
    def test_message_as_long_as_the_limit(self, end: End, opcode: int, sizes: list[int]) -> None:
        """A message of exactly the limit passes, in one frame or many."""
        outcome = end.read(*end.fragments(opcode, *[b"x" * size for size in sizes]), max_message_size=1000)
        assert [len(message) for message in outcome.messages] == [1000]

    @pytest.mark.parametrize("opcode", DATA)
    @pytest.mark.parametrize("sizes", [[1001], [0, 1001], [1000, 1], [500, 501], [1, 998, 2], [1000, 0, 1]])
    def test_message_longer_than_the_limit(self, end: End, opcode: int, sizes: list[int]) -> None:
        """One byte more is 1009 (7.4.1)."""
        outcome = end.read(*end.fragments(opcode, *[b"x" * size for size in sizes]), max_message_size=1000)
        assert only_failure(outcome) == self.TOO_BIG

    @pytest.mark.parametrize("length", [1001, 65535, 65536, 2**31, 2**32, 2**62, 2**63 - 1])
    @pytest.mark.parametrize("opcode", DATA)
    def test_announced_length(self, end: End, opcode: int, length: int) -> None:
        """The length counts when the header is there, before any byte of the payload (attacks 6 and 7)."""
        outcome = end.read(header_of(end, opcode, length), max_message_size=1000)
        assert only_failure(outcome) == self.TOO_BIG

    @pytest.mark.parametrize("length", [401, 2**63 - 1])
    def test_announced_length_of_a_fragment(self, end: End, length: int) -> None:
        """So it does in the later frames of a message, together with what came before; no sum of them overflows."""
        outcome = end.read(
            end.frame(BINARY, bytes(600), fin=False), header_of(end, CONTINUATION, length), max_message_size=1000
        )
        assert only_failure(outcome) == self.TOO_BIG

    def test_text_is_counted_in_bytes(self, end: End) -> None:
        """The limit counts bytes of UTF-8, not characters."""
        outcomes = [end.read(end.frame(TEXT, text.encode()), max_message_size=1000) for text in ("é" * 500, "é" * 501)]
        assert [outcome.failure for outcome in outcomes] == [None, self.TOO_BIG]

    def test_size_begins_afresh(self, end: End) -> None:
        """Each message has the whole limit for itself."""
        outcome = end.read(*[*end.fragments(BINARY, bytes(500), bytes(500))] * 5, max_message_size=1000)
        assert len(outcome.messages) == 5

    @pytest.mark.parametrize("payload", [b"", b"x"])
    @pytest.mark.parametrize("opcode", DATA)
    def test_fragments_as_many_as_the_limit(self, end: End, opcode: int, payload: bytes) -> None:
        """As many fragments as the limit says pass, in each message anew; control frames do not count."""
        message = [part + end.ping() for part in end.fragments(opcode, *[payload] * 8)]
        outcome = end.read(*message * 3, max_fragments=8)
        assert (len(outcome.messages), outcome.state) == (3, State.OPEN)

    @pytest.mark.parametrize("payload", [b"", b"x"])
    @pytest.mark.parametrize("opcode", DATA)
    def test_more_fragments_than_the_limit(self, end: End, opcode: int, payload: bytes) -> None:
        """One more is 1008, and empty fragments count as well (attack 8)."""
        parts = end.fragments(opcode, *[payload] * 9)
        outcome = end.read(*parts, max_fragments=8)
        assert only_failure(outcome) == (1008, "more than 8 fragments in a message")

    def test_unfinished_message_of_too_many_fragments(self, end: End) -> None:
        """The flood is cut while it lasts, not when its message ends."""
        parts = [end.frame(TEXT, b"", fin=False), *[end.frame(CONTINUATION, b"", fin=False)] * 8]
        assert only_failure(end.read(*parts, max_fragments=8))[0] == 1008

    def test_one_fragment_allowed(self, end: End) -> None:
        """A limit of one leaves whole messages alone."""
        outcome = end.read(
            end.frame(TEXT, b"a"), end.frame(TEXT, b"b", fin=False), end.frame(CONTINUATION), max_fragments=1
        )
        assert (outcome.messages, outcome.failure) == (["a"], (1008, "more than 1 fragments in a message"))

    def test_defaults(self) -> None:
        """Without arguments a message has at most 1 MiB and 131072 fragments."""
        too_big = Connection()
        too_big.feed(header_of(SERVER, BINARY, 2**20 + 1))
        engine = Connection()
        drained(engine, engine.feed(frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * (2**17 - 1)))
        within = engine.state
        engine.feed(frame(CONTINUATION))
        assert (too_big.sent_close, within, engine.sent_close) == (
            (1009, "a message has more than 1048576 bytes"),
            State.OPEN,
            (1008, "more than 131072 fragments in a message"),
        )


def packed(payload: bytes, level: int = 6) -> bytes:
    """A message as RFC 7692 7.2.1 compresses it."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


RESET = Parameters(server_no_context_takeover=True, client_no_context_takeover=True)
RSV1 = 4


class TestRFC7692:
    """Compressed messages (RFC 7692 6 and 7)."""

    LONG = b"Hello, Hello, Hello! " * 50

    @pytest.mark.parametrize("opcode", DATA)
    def test_compressed_message(self, end: End, opcode: int) -> None:
        """RSV1 on its first frame says that a message is compressed (6)."""
        outcome = end.read(end.frame(opcode, packed(self.LONG), rsv=RSV1), deflate=RESET)
        assert outcome.messages == [self.LONG.decode() if opcode == TEXT else self.LONG]

    @pytest.mark.parametrize("opcode", DATA)
    @pytest.mark.parametrize("size", [1, 2, 7, 1000])
    def test_compressed_message_in_fragments(self, end: End, opcode: int, size: int) -> None:
        """The payloads of all frames make one compressed message (6.2); RSV1 stands on the first alone (6)."""
        data = packed(self.LONG)
        pieces = [data[i : i + size] for i in range(0, len(data), size)] + [b""]
        first, *rest = pieces
        parts = [end.frame(opcode, first, rsv=RSV1, fin=False), *(end.frame(CONTINUATION, p, fin=False) for p in rest)]
        outcome = end.read(*parts, end.ping(), end.frame(CONTINUATION), end.frame(TEXT, b"next"), deflate=RESET)
        assert outcome.messages == [self.LONG.decode() if opcode == TEXT else self.LONG, "next"]

    def test_compressed_and_plain_messages(self, end: End) -> None:
        """A peer may leave any message uncompressed (6.1); that changes nothing for the next compressed one."""
        compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
        sent = [compressor.compress(self.LONG) + compressor.flush(zlib.Z_SYNC_FLUSH) for _ in range(2)]
        parts = [
            end.frame(BINARY, sent[0][:-4], rsv=RSV1),
            end.frame(BINARY, b"plain"),
            *end.fragments(BINARY, b"pl", b"ain"),
            end.frame(BINARY, sent[1][:-4], rsv=RSV1),
        ]
        assert end.read(*parts, deflate=Parameters()).messages == [self.LONG, b"plain", b"plain", self.LONG]

    @pytest.mark.parametrize("data", [b"\0", b""])
    @pytest.mark.parametrize("deflate", [RESET, Parameters()])
    def test_empty_compressed_message(self, end: End, deflate: Parameters, data: bytes) -> None:
        """The empty message is one byte (7.2.3.6); one without any is taken as empty too. Neither harms the next."""
        parts = [
            end.frame(TEXT, data, rsv=RSV1),
            *[end.frame(TEXT, data, rsv=RSV1, fin=False), end.frame(CONTINUATION)],
        ]
        outcome = end.read(*parts * 2, end.frame(TEXT, packed(self.LONG), rsv=RSV1), deflate=deflate)
        assert outcome.messages == ["", "", "", "", self.LONG.decode()]

    def test_rsv1_on_a_continuation(self, end: End) -> None:
        """Only the first frame may carry it (6 MUST NOT)."""
        parts = [end.frame(TEXT, packed(self.LONG), rsv=RSV1, fin=False), end.frame(CONTINUATION, b"", rsv=RSV1)]
        assert only_failure(end.read(*parts, deflate=RESET)) == (1002, "a reserved bit is set")

    @pytest.mark.parametrize("opcode", CONTROL)
    def test_rsv1_on_a_control_frame(self, end: End, opcode: int) -> None:
        """Control frames are never compressed (6.1 MUST NOT)."""
        assert only_failure(end.read(end.frame(opcode, rsv=RSV1), deflate=RESET)) == (1002, "a reserved bit is set")

    @pytest.mark.parametrize("opcode", RESERVED)
    def test_rsv1_on_a_reserved_opcode(self, end: End, opcode: int) -> None:
        """Nor do reserved opcodes become legal by it."""
        assert only_failure(end.read(end.frame(opcode, rsv=RSV1), deflate=RESET))[0] == 1002

    @pytest.mark.parametrize("data", [b"\xff", b"\x06\x00", b"\xff" * 100])
    @pytest.mark.parametrize("opcode", DATA)
    def test_broken_data(self, end: End, opcode: int, data: bytes) -> None:
        """What does not inflate is 1007 (RFC 6455 7.4.1), as soon as it is certain."""
        outcome = end.read(end.frame(opcode, data, rsv=RSV1), deflate=RESET)
        assert only_failure(outcome) == (1007, "a compressed message is broken")

    def test_context_that_was_not_agreed_on(self, end: End) -> None:
        """A peer that agreed to forget and refers back all the same has sent broken data (7.1.1)."""
        compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
        sent = [compressor.compress(self.LONG) + compressor.flush(zlib.Z_SYNC_FLUSH) for _ in range(2)]
        outcome = end.read(*[end.frame(BINARY, data[:-4], rsv=RSV1) for data in sent], deflate=RESET)
        assert (outcome.messages, outcome.failure) == ([self.LONG], (1007, "a compressed message is broken"))

    def test_text_that_is_not_utf8(self, end: End) -> None:
        """A compressed text is judged as any other."""
        outcome = end.read(end.frame(TEXT, packed(b"a" * 2000 + b"\xff"), rsv=RSV1), deflate=RESET)
        assert only_failure(outcome) == NOT_UTF8

    @pytest.mark.parametrize("level", [0, 1, 6])
    @pytest.mark.parametrize("fragment", [None, 1, 300])
    def test_limit_counts_what_was_inflated(self, end: End, level: int, fragment: int | None) -> None:
        """A message of exactly the limit passes however badly it compresses; one byte more is 1009 (attack 2)."""
        rng = random.Random(5)
        for size, failure in ((1000, None), (1001, (1009, "a message has more than 1000 bytes"))):
            for payload in (bytes(size), rng.randbytes(size)):
                data = packed(payload, level)
                step = fragment or len(data)
                pieces = [data[i : i + step] for i in range(0, len(data), step)]
                parts = [
                    end.frame(CONTINUATION if i else BINARY, piece, rsv=0 if i else RSV1, fin=i == len(pieces) - 1)
                    for i, piece in enumerate(pieces)
                ]
                outcome = end.read(*parts, deflate=RESET, max_message_size=1000)
                assert outcome.failure == failure

    def test_huffman_codes_longer_than_bytes(self, end: End) -> None:
        """Fixed codes make nine bits of a byte: a message of the limit passes even so."""
        payload = bytes(range(144, 256)) * 26
        # RFC 1951 3.2.6: the codes of these literals; then the end of the block, and an empty stored one.
        bits = "010" + "".join(f"{byte - 144 + 0b110010000:09b}" for byte in payload) + "0000000" + "000"
        # A first bit is a lowest one; the two bits of the block type stand the other way round.
        data = bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))
        assert zlib.decompressobj(-15).decompress(data + b"\0\0\xff\xff") == payload
        outcome = end.read(end.frame(BINARY, data, rsv=RSV1), deflate=RESET, max_message_size=len(payload))
        assert outcome.messages == [payload]

    @pytest.mark.parametrize("length", [2**20, 2**62])
    def test_announced_length(self, end: End, length: int) -> None:
        """A compressed frame that cannot fit even so is refused at its header (attack 7)."""
        outcome = end.read(header_of(end, BINARY, length, rsv=RSV1), deflate=RESET, max_message_size=3000)
        assert only_failure(outcome) == (1009, "a message has more than 3000 bytes")

    def test_fragments_are_counted(self, end: End) -> None:
        """Compressed fragments that inflate to nothing count as any other (attack 8)."""
        parts = [end.frame(BINARY, b"", rsv=RSV1, fin=False), *[end.frame(CONTINUATION, b"", fin=False)] * 8]
        assert only_failure(end.read(*parts, deflate=RESET, max_fragments=8))[0] == 1008

    @pytest.mark.parametrize(
        ("parameters", "sizes"),
        [(RESET, {0: False, 1: False, 1023: False, 1024: True}), (Parameters(), {0: False, 1: True, 1024: True})],
    )
    def test_which_messages_are_compressed(self, end: End, parameters: Parameters, sizes: dict[int, bool]) -> None:
        """Short messages go out plain where no context is kept; the empty one always does."""
        for size, compressed in sizes.items():
            engine = Connection(client=end.client, deflate=Deflate(parameters, end.client))
            (sent,) = frames_of(joined(engine.encode(b"x" * size)))
            assert (sent.rsv == RSV1) is compressed, size

    @pytest.mark.parametrize(
        "message", ["é" * 100_000, "é" * 1000, b"\xff" * 1024, random.Random(7).randbytes(200_000)]
    )
    def test_what_is_sent(self, end: End, message: Message) -> None:
        """What goes out inflates to the message; the length in the header is the compressed one."""
        engine = Connection(client=end.client, deflate=Deflate(RESET, end.client))
        (sent,) = frames_of(joined(engine.encode(message)))
        payload = zlib.decompressobj(-15).decompress(sent.payload + b"\0\0\xff\xff")
        assert (sent.opcode, sent.rsv) == (TEXT if isinstance(message, str) else BINARY, RSV1)
        assert payload == (message.encode() if isinstance(message, str) else message)

    def test_control_frames_go_out_plain(self, end: End) -> None:
        """Pings, pongs and close frames are never compressed (6.1)."""
        engine = Connection(client=end.client, deflate=Deflate(Parameters(), end.client))
        engine.feed(end.ping(b"x" * 125))
        sent = frames_of(engine.take_replies()) + frames_of(engine.ping(b"x" * 125))
        engine.close(1000, "x" * 123)
        sent += frames_of(engine.take_replies())
        assert [f.rsv for f in sent] == [0, 0, 0]


class TestStalled:
    """Small compressed frames that inflate to many large messages are given out one feed at a time (attack 2)."""

    LIMIT = 10_000

    def bombs(self, end: End, count: int) -> bytes:
        return end.frame(BINARY, packed(bytes(self.LIMIT)), rsv=RSV1) * count

    def engine(self, end: End) -> Connection:
        return Connection(client=end.client, max_message_size=self.LIMIT, deflate=Deflate(RESET, end.client))

    def test_one_at_a_time(self, end: End) -> None:
        """A feed stops when the messages that it gives out are as large as one message may be; none is lost."""
        engine = self.engine(end)
        given = [len(engine.feed(self.bombs(end, 5)))]
        stalls = [engine.stalled]
        while engine.stalled:
            given.append(len(engine.feed(b"")))
            stalls.append(engine.stalled)
        assert (given, stalls) == ([1, 1, 1, 1, 1], [True, True, True, True, False])

    def test_small_ones_together(self, end: End) -> None:
        """Messages that are small once inflated are not held back, up to what one call does."""
        engine, data = self.engine(end), end.frame(BINARY, packed(b"x" * 100), rsv=RSV1)
        assert (len(engine.feed(data * FRAMES_AT_ONCE)), engine.stalled) == (FRAMES_AT_ONCE, False)

    def test_bytes_that_come_while_it_is_stalled(self, end: End) -> None:
        """What is fed meanwhile waits its turn."""
        engine = self.engine(end)
        messages = engine.feed(self.bombs(end, 2)) + engine.feed(end.frame(BINARY, b"next"))
        while engine.stalled:
            messages += engine.feed(b"")
        assert [len(message) for message in messages] == [self.LIMIT, self.LIMIT, 4]

    def test_closing_while_it_is_stalled(self, end: End) -> None:
        """After our close frame the messages that wait are skipped; a close frame after them is read."""
        engine = self.engine(end)
        engine.feed(self.bombs(end, 3) + end.close(code(1000)))
        engine.close()
        assert (engine.feed(b""), engine.state, engine.stalled) == ([], State.CLOSED, False)

    def test_close_frame_after_them(self, end: End) -> None:
        """A close frame takes its turn after the messages."""
        outcome = end.read(self.bombs(end, 3), end.close(code(1000)), deflate=RESET, max_message_size=self.LIMIT)
        assert (len(outcome.messages), outcome.state) == (3, State.CLOSED)


class TestShell:
    """What the shell relies on beside messages and states."""

    def test_eventful(self, end: End) -> None:
        """Whole messages alone are uneventful; anything else, half a message too, makes the shell look."""
        cases = [
            (end.frame(TEXT, b"a") + end.frame(BINARY, b"b"), False),
            (b"", False),
            (end.ping(), True),
            (end.frame(PONG), True),
            (end.close(), True),
            (end.frame(TEXT, b"a")[:-1], True),
            (end.frame(TEXT, b"a", fin=False), True),
            (end.frame(3), True),
        ]
        found = []
        for data, _ in cases:
            engine = Connection(client=end.client)
            engine.feed(data)
            found.append(engine.eventful)
        assert found == [eventful for _, eventful in cases]

    def test_uneventful_again(self, end: End) -> None:
        """Between two messages the engine is on the fast path again."""
        engine = Connection(client=end.client)
        engine.feed(b"".join(end.fragments(TEXT, b"a", b"b")) + end.ping())
        engine.take_replies()
        engine.eventful = False
        assert (engine.feed(end.frame(TEXT, b"c")), engine.eventful) == (["c"], False)

    def test_end_of_the_data(self, end: End) -> None:
        """Only ``data[:end]`` is read."""
        data = bytearray(end.frame(TEXT, b"a") + end.frame(TEXT, b"b"))
        assert Connection(client=end.client).feed(data, len(data) // 2) == ["a"]

    @pytest.mark.parametrize("kind", [bytes, bytearray])
    def test_kinds_of_buffer(self, end: End, kind: Callable[[bytes], bytes]) -> None:
        """Bytes and bytearrays are read alike."""
        data = kind(end.frame(TEXT, b"a") + b"".join(end.fragments(TEXT, b"b", b"c")))
        assert Connection(client=end.client).feed(data) == ["a", "bc"]

    def test_in_a_message(self, end: End) -> None:
        """Whether a part of a message has come, or of a frame: of each header, payload and fragment."""
        first, middle, last = end.fragments(TEXT, b"a" * 200, b"", b"c")
        engine, found = Connection(client=end.client), []
        pieces = [b"", end.frame(TEXT, b"whole"), first[:1], first[1:5], first[5:], middle, end.ping(), last[:-1]]
        pieces += [last[-1:], end.ping(), end.frame(BINARY, b"x" * 200)[:50]]
        for piece in pieces:
            engine.feed(piece)
            found.append(engine.in_a_message)
        assert found == [False, False, True, True, True, True, True, True, False, False, True]

    def test_fail(self, end: End) -> None:
        """A limit that the shell keeps ends the connection as a broken rule does."""
        engine = Connection(client=end.client)
        engine.feed(end.frame(TEXT, b"half", fin=False) + end.ping() + end.frame(CONTINUATION, b"x")[:3])
        engine.fail(CloseCode.POLICY_VIOLATION, "too much")
        messages = engine.feed(end.frame(CONTINUATION, b"x") + end.frame(TEXT, b"late") + end.close())
        assert (messages, engine.state, engine.over) == ([], State.FAILED, True)
        assert (engine.sent_close, engine.received_close) == ((1008, "too much"), None)
        assert frames_of(engine.take_replies()) == [Frame(CLOSE, code(1008, b"too much"))]
        assert not engine.has_replies

    def test_fail_between_messages(self, end: End) -> None:
        """Whole messages that still come are no messages any more."""
        engine = Connection(client=end.client)
        given = [engine.feed(end.frame(TEXT, b"in time"))]
        engine.fail(CloseCode.POLICY_VIOLATION, "too many")
        given.append(engine.feed(end.frame(TEXT, b"late")))
        assert given == [["in time"], []]

    def test_fail_after_our_close_frame(self, end: End) -> None:
        """Our close frame has been sent: there is no second one."""
        engine = Connection(client=end.client)
        engine.close(1000, "done")
        engine.take_replies()
        engine.fail(CloseCode.POLICY_VIOLATION, "too much")
        assert (engine.state, engine.sent_close, engine.take_replies()) == (State.FAILED, (1000, "done"), b"")

    def test_pings_dropped(self, end: End) -> None:
        """Pings beyond those that are kept are counted, in all: an honest peer has few."""
        engine = Connection(client=end.client)
        counts = []
        for number in (MAX_PONGS, 1, 4):
            engine.feed(end.ping() * number)
            counts.append(engine.pings_dropped)
        engine.take_pongs()
        counts.append(engine.pings_dropped)
        assert counts == [0, 1, 5, 5]

    def test_plain(self, end: End) -> None:
        """An engine that neither masks nor compresses says so."""
        compressing = Connection(client=end.client, deflate=Deflate(RESET, end.client))
        assert (Connection(client=end.client).plain, compressing.plain) == (not end.client, False)


def dribble(engine: Connection, data: bytes, size: int) -> list[Message]:
    """Feed through one buffer of ``size`` bytes, as a transport does."""
    buffer, messages = bytearray(size), []
    for start in range(0, len(data), size):
        piece = data[start : start + size]
        buffer[: len(piece)] = piece
        messages += drained(engine, engine.feed(buffer, len(piece)))
    return messages


@pytest.mark.slow
class TestMemory:
    """Memory grows with the bytes that came, and stays within the limit however they come."""

    @pytest.mark.parametrize(("total", "size"), [(2**24, 5000), (2**24, 65536), (2**22, 1400), (2**14, 7), (4000, 1)])
    @pytest.mark.parametrize("opcode", DATA)
    def test_dribbled_message(self, end: End, opcode: int, total: int, size: int) -> None:
        """A message that is dribbled costs little more than its bytes while it grows (attack 7)."""
        engine = Connection(client=end.client, max_message_size=total)
        data = end.frame(opcode, b"x" * total)[:-1]
        with measured() as memory:
            dribble(engine, data, size)
        assert memory.peak < 1.1 * total + 2**13 + 2 * size

    @pytest.mark.parametrize("opcode", DATA)
    def test_last_byte(self, end: End, opcode: int) -> None:
        """With its last byte a text is decoded: then, and only then, its bytes are there twice."""
        total = 2**22
        engine = Connection(client=end.client, max_message_size=total)
        data = end.frame(opcode, b"x" * total)
        with measured() as memory:
            messages = dribble(engine, data, 1400)
        most = 1.1 if opcode == BINARY and speedups is not None else 2.1  # in Python the bytes are copied
        assert (len(messages[0]), memory.peak < most * total, memory.held < 1.01 * total + 2**12) == (total, True, True)

    @pytest.mark.parametrize("size", [1, 3, 100])
    def test_message_in_small_fragments(self, end: End, size: int) -> None:
        """Fragments cost no object each."""
        fragments = 4000
        engine = Connection(client=end.client)
        data = b"".join(end.fragments(BINARY, *[b"x" * size] * fragments))[:-1]
        with measured() as memory:
            dribble(engine, data, 4096)
        assert memory.held < 1.1 * size * fragments + 2**13

    def test_header_alone(self, end: End) -> None:
        """A big frame that is announced costs nothing before it comes (attack 7)."""
        engine = Connection(client=end.client, max_message_size=2**40)
        with measured() as memory:
            engine.feed(header_of(end, BINARY, 2**40))
        assert memory.peak < 10_000

    @pytest.mark.parametrize("character", ["é", "漢", "😀"])
    def test_unfinished_text_costs_its_bytes(self, end: End, character: str) -> None:
        """Text is kept as it came until it is whole: as a str one emoji makes four bytes of each character."""
        count = 2**18
        engine = Connection(client=end.client, max_message_size=2**24)
        data = end.frame(TEXT, ("😀" + character * count).encode())[:-4]
        with measured() as memory:
            dribble(engine, data, 1400)
        assert memory.peak < 1.1 * len(data) + 2**16

    LIMIT = 2**20

    def bomb_engine(self, end: End, parameters: Parameters = RESET) -> Connection:
        return Connection(client=end.client, max_message_size=self.LIMIT, deflate=Deflate(parameters, end.client))

    @pytest.mark.parametrize("opcode", DATA)
    def test_bomb_in_one_frame(self, end: End, opcode: int) -> None:
        """A frame that would inflate to 64 MiB costs the limit, twice while zlib joins its blocks (attack 2)."""
        engine, data = self.bomb_engine(end), end.frame(opcode, bomb(), rsv=RSV1)
        with measured() as memory:
            engine.feed(data)
        assert engine.sent_close == (1009, f"a message has more than {self.LIMIT} bytes")
        assert memory.peak < 2 * self.LIMIT + len(data) + 2**18 and memory.held < 2**17

    @pytest.mark.parametrize("size", [100, 1000])
    def test_bomb_in_fragments(self, end: End, size: int) -> None:
        """In fragments it is stopped at the same place (attack 2)."""
        engine, data = self.bomb_engine(end), bomb()
        pieces = [data[i : i + size] for i in range(0, len(data), size)]
        with measured() as memory:
            engine.feed(end.frame(BINARY, pieces[0], rsv=RSV1, fin=False))
            for piece in pieces[1:]:
                engine.feed(end.frame(CONTINUATION, piece, fin=False))
        assert engine.sent_close == (1009, f"a message has more than {self.LIMIT} bytes")
        assert memory.peak < 2 * self.LIMIT + 2**18 and memory.held < 2**16

    def test_bombs_in_many_messages(self, end: End) -> None:
        """Messages that all inflate to the limit come out one by one: never more than one waits inside (attack 2)."""
        engine = self.bomb_engine(end)
        data = end.frame(BINARY, packed(bytes(self.LIMIT)), rsv=RSV1) * 50
        count = 0
        with measured() as memory:
            messages = engine.feed(data)
            count += len(messages)
            while engine.stalled:
                del messages
                messages = engine.feed(b"")
                count += len(messages)
            del messages
        assert count == 50
        assert memory.peak < 2 * self.LIMIT + 3 * len(data) + 2**18

    @pytest.mark.parametrize("finish", [zlib.Z_SYNC_FLUSH, zlib.Z_FINISH])
    def test_blocks_without_content(self, end: End, finish: int) -> None:
        """Compressed data that inflates to nothing costs nothing, and many final blocks end in 1007."""
        engine = self.bomb_engine(end)
        compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
        block = compressor.compress(b"") + compressor.flush(finish)
        data = end.frame(BINARY, block * 20_000, rsv=RSV1, fin=False)
        with measured() as memory:
            dribble(engine, data, 1400)
        assert engine.state is (State.OPEN if finish == zlib.Z_SYNC_FLUSH else State.FAILED)
        assert memory.peak < 2**17

    def test_idle_engine(self) -> None:
        """An idle engine costs a few hundred bytes."""
        with measured() as memory:
            engines = [Connection() for _ in range(100)]
        assert memory.held / len(engines) < 500


class Pair:
    """A client's engine and a server's, joined without a wire."""

    def __init__(self, parameters: Parameters | None = None) -> None:
        codecs = [None if parameters is None else Deflate(parameters, client) for client in (True, False)]
        self.client = Connection(client=True, deflate=codecs[0])
        self.server = Connection(deflate=codecs[1])
        self.got: dict[Connection, list[Message]] = {self.client: [], self.server: []}

    def other(self, engine: Connection) -> Connection:
        return self.server if engine is self.client else self.client

    def pass_on(self, sender: Connection, data: bytes) -> None:
        """Deliver bytes, and all replies that follow from them."""
        receiver = self.other(sender)
        self.got[receiver] += receiver.feed(data)
        while receiver.stalled:
            self.got[receiver] += receiver.feed(b"")
        if receiver.has_replies:
            self.pass_on(receiver, receiver.take_replies())

    def close(self, engine: Connection, number: int | None = 1000, reason: str = "") -> None:
        engine.close(number, reason)
        self.pass_on(engine, engine.take_replies())


SHAPES = [
    None,
    RESET,
    Parameters(),
    Parameters(True, False, 9, 9),
    Parameters(False, True, 15, 9),
    Parameters(False, False, 12, 12),
]


class TestPairs:
    """Our client and our server (habit 13)."""

    @pytest.mark.parametrize("parameters", SHAPES)
    @pytest.mark.parametrize("implementation", NAMES)
    def test_conversation(self, implementation: str, parameters: Parameters | None) -> None:
        """What one side sends the other receives, in both directions, in every shape of compression."""
        rng = random.Random(11)
        pair = Pair(parameters)
        sent: dict[Connection, list[Message]] = {pair.client: [], pair.server: []}
        sizes = [0, 1, 100, 125, 126, 1023, 1024, 5000, 65535, 65536, 70000]
        with using(implementation):
            for size in sizes * 3:
                sender = rng.choice([pair.client, pair.server])
                message: Message = rng.choice([rng.randbytes(size), "aé漢😀"[rng.randrange(4)] * size, bytes(size)])
                sent[pair.other(sender)].append(message)
                pair.pass_on(sender, joined(sender.encode(message)))
        assert pair.got == sent

    @pytest.mark.parametrize("parameters", SHAPES)
    def test_stream_cut_at_random(self, parameters: Parameters | None) -> None:
        """A stream of many messages may be cut anywhere."""
        rng = random.Random(12)
        for _ in range(10):
            pair = Pair(parameters)
            messages: list[Message] = [rng.choice([rng.randbytes(n), "é" * n]) for n in rng.choices(range(3000), k=20)]
            stream = b"".join(joined(pair.client.encode(message)) for message in messages)
            while stream:
                size = rng.randrange(1, 4000)
                pair.pass_on(pair.client, stream[:size])
                stream = stream[size:]
            assert pair.got[pair.server] == messages

    @pytest.mark.parametrize("first", ["client", "server"])
    @pytest.mark.parametrize(("number", "reason"), [(1000, ""), (4001, "grüße"), (None, "")])
    def test_closing_handshake(self, first: str, number: int | None, reason: str) -> None:
        """Either side may send its close frame first; both end CLOSED and know both codes (7.1.4, 7.1.5)."""
        pair = Pair()
        closer = getattr(pair, first)
        other = pair.other(closer)
        pair.close(closer, number, reason)
        kept = 1005 if number is None else number
        assert [engine.state for engine in (closer, other)] == [State.CLOSED, State.CLOSED]
        assert (closer.sent_close, other.received_close) == ((kept, reason), (kept, reason))
        assert (other.sent_close, closer.received_close) == ((kept, ""), (kept, ""))

    def test_both_close_at_once(self) -> None:
        """Close frames that cross end the connection on both sides, and neither is answered (7.1.4)."""
        pair = Pair()
        pair.client.close(1000, "a")
        pair.server.close(1001, "b")
        from_client, from_server = pair.client.take_replies(), pair.server.take_replies()
        pair.server.feed(from_client)
        pair.client.feed(from_server)
        assert (pair.client.received_close, pair.server.received_close) == ((1001, "b"), (1000, "a"))
        assert not (pair.client.has_replies or pair.server.has_replies)
        assert (pair.client.state, pair.server.state) == (State.CLOSED, State.CLOSED)

    @pytest.mark.parametrize("first", ["client", "server"])
    def test_ping_and_pong(self, first: str) -> None:
        """A ping comes back as a pong with its payload."""
        pair = Pair()
        pinger = getattr(pair, first)
        for payload in (b"", b"1", b"\xff" * 125):
            pair.pass_on(pinger, pinger.ping(payload))
        assert list(pinger.pongs) == [b"", b"1", b"\xff" * 125]

    @pytest.mark.parametrize("first", ["client", "server"])
    def test_failure_is_sent_to_the_peer(self, first: str) -> None:
        """The close frame of a failure is one that the peer understands; its answer is ignored."""
        pair = Pair()
        breaker = getattr(pair, first)
        pair.pass_on(breaker, b"\xb1\x80")
        failed = pair.other(breaker)
        assert (failed.state, breaker.state, breaker.received_close) == (State.FAILED, State.CLOSED, failed.sent_close)

    def test_code_travels_as_a_number(self) -> None:
        """Members of CloseCode may be given; what is kept are plain numbers."""
        pair = Pair()
        pair.close(pair.server, CloseCode.GOING_AWAY, "bye")
        assert pair.server.sent_close is not None and type(pair.server.sent_close[0]) is int
        assert outcome_of(pair.client, []).received == (1001, "bye")
