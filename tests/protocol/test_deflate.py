"""permessage-deflate: the negotiation of RFC 7692 7.1 and the codec of 7.2, against zlib itself."""

# ruff: noqa: N801 - the classes carry the numbers of the sections

from __future__ import annotations

import itertools
import os
import random
import re
import sys
import threading
import zlib
from typing import Any

import pytest

from gws_middleware.protocol.deflate import (
    DEDICATED_BITS,
    MAX_FINAL_BLOCKS,
    NAME,
    SHARED_FROM,
    TAIL,
    Deflate,
    InflateError,
    Parameters,
    agree,
    answer,
    format_parameters,
    negotiate,
    offer,
)
from gws_middleware.protocol.headers import parse_extensions
from tests.protocol.measuring import bomb, measured

MODES = ["shared", "dedicated"]
FLAGS = list(itertools.product([False, True], repeat=2))
NO_LIMIT = 2**30
TEXT = b"So long, and thanks for all the fish. " * 40


def negotiated(header: str, mode: str) -> Parameters | None:
    return negotiate(parse_extensions(header), mode)


def raw(payload: bytes, bits: int = 15, finish: int = zlib.Z_SYNC_FLUSH) -> bytes:
    """One message by plain zlib: what 7.2.1 describes."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, -bits)
    data = compressor.compress(payload) + compressor.flush(finish)
    return data[: -len(TAIL)] if finish == zlib.Z_SYNC_FLUSH else data


def _judge_answer(header: str, mode: str, server_bits: int | None, client_bits: int | None) -> None:
    """The answer to the offer in ``header`` is one that RFC 7692 allows; None stands for bits that are not named."""
    agreed = negotiated(header, mode)
    assert agreed is not None, header
    ((name, pairs),) = parse_extensions(answer(agreed))
    named = dict(pairs)
    assert name == NAME and len(named) == len(pairs), header
    # 7.1.1.1: an offer with server_no_context_takeover is accepted by naming it.
    assert agreed.server_no_context_takeover is ("server_no_context_takeover" in named), header
    assert agreed.server_no_context_takeover or "server_no_context_takeover" not in header, header
    assert agreed.client_no_context_takeover is ("client_no_context_takeover" in named), header
    # 7.1.2.1: an offer with server_max_window_bits is accepted by naming it with the same or a smaller value.
    assert agreed.server_max_window_bits == int(named["server_max_window_bits"] or 0), header
    assert 9 <= agreed.server_max_window_bits <= (server_bits or 15), header
    # 7.1.2.2: only a client that named client_max_window_bits may be given it, with the same or a smaller value.
    assert agreed.client_max_window_bits == int(named.get("client_max_window_bits") or 15), header
    assert 8 <= agreed.client_max_window_bits <= (client_bits or 15), header
    assert client_bits is not None or "client_max_window_bits" not in named, header
    # What the mode promises.
    if mode == "shared":
        assert agreed.server_no_context_takeover and agreed.client_no_context_takeover, header
    else:
        assert agreed.server_max_window_bits <= DEDICATED_BITS, header
        assert client_bits is None or agreed.client_max_window_bits <= DEDICATED_BITS, header


class TestSection7_1:
    """What is offered and what is answered."""

    def test_off_declines_everything(self) -> None:
        """With compression off no offer is accepted."""
        assert negotiated(NAME, "off") is None

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize(
        "header",
        [
            "foo",
            "x-webkit-deflate-frame",
            "PERMESSAGE-DEFLATE",
            f"{NAME}; foo",
            f"{NAME}; foo=1",
            f"{NAME}; server_no_context_takeover=1",
            f"{NAME}; client_no_context_takeover=true",
            f"{NAME}; server_max_window_bits",
            f"{NAME}; server_max_window_bits=7",
            f"{NAME}; server_max_window_bits=8",
            f"{NAME}; server_max_window_bits=16",
            f"{NAME}; server_max_window_bits=010",
            f"{NAME}; server_max_window_bits=+9",
            f"{NAME}; server_max_window_bits=9.0",
            f"{NAME}; client_max_window_bits=7",
            f"{NAME}; client_max_window_bits=16",
            f"{NAME}; client_max_window_bits=09",
            f"{NAME}; client_max_window_bits=a",
            f"{NAME}; server_no_context_takeover; server_no_context_takeover",
            f"{NAME}; client_no_context_takeover; client_no_context_takeover",
            f"{NAME}; server_max_window_bits=10; server_max_window_bits=10",
            f"{NAME}; client_max_window_bits; client_max_window_bits",
            f"{NAME}; client_max_window_bits; client_max_window_bits=10",
        ],
    )
    def test_offer_is_declined(self, header: str, mode: str) -> None:
        """An offer with an unknown or doubled parameter or a wrong value MUST be declined (7.1), and one that zlib
        cannot serve is: it makes no raw stream with a window of 256 bytes.
        """
        assert negotiated(header, mode) is None

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize(
        ("header", "accepted"),
        [
            (f"foo, {NAME}; server_max_window_bits=10", f"{NAME}; server_max_window_bits=10"),
            (f"{NAME}; foo, {NAME}; server_max_window_bits=10", f"{NAME}; server_max_window_bits=10"),
            (f"{NAME}; server_max_window_bits=8, {NAME}", NAME),
            (f"{NAME}; server_max_window_bits=9, {NAME}", f"{NAME}; server_max_window_bits=9"),
        ],
    )
    def test_first_offer_that_can_be_served(self, header: str, accepted: str, mode: str) -> None:
        """The client lists its offers by preference (5.1): the first that can be served is answered."""
        assert negotiated(header, mode) == negotiated(accepted, mode) is not None

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("server_bits", [None, *range(9, 16)])
    @pytest.mark.parametrize(("server_reset", "client_reset"), FLAGS)
    def test_every_shape(self, mode: str, server_bits: int | None, server_reset: bool, client_reset: bool) -> None:
        """Every offer gets an answer that 7.1.1 and 7.1.2 allow, and that means what the server uses."""
        header = NAME
        header += "; server_no_context_takeover" if server_reset else ""
        header += "; client_no_context_takeover" if client_reset else ""
        header += "" if server_bits is None else f"; server_max_window_bits={server_bits}"
        _judge_answer(header, mode, server_bits, None)
        _judge_answer(f"{header}; client_max_window_bits", mode, server_bits, 15)
        for client_bits in range(8, 16):
            _judge_answer(f"{header}; client_max_window_bits={client_bits}", mode, server_bits, client_bits)

    def test_shared_answer_to_a_bare_offer(self) -> None:
        """Neither end keeps a context in "shared"."""
        agreed = negotiated(NAME, "shared")
        assert agreed is not None
        assert answer(agreed) == (
            f"{NAME}; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15"
        )

    def test_dedicated_answer_to_a_browser(self) -> None:
        """Both sides keep windows of 4 KiB in "dedicated"."""
        agreed = negotiated(f"{NAME}; client_max_window_bits", "dedicated")
        assert agreed is not None
        assert answer(agreed) == f"{NAME}; server_max_window_bits=12; client_max_window_bits=12"

    def test_quoted_value_counts(self) -> None:
        """A value may stand in quotes (RFC 6455 9.1)."""
        agreed = Parameters(client_no_context_takeover=True, server_max_window_bits=10)
        assert negotiated(f'{NAME}; server_max_window_bits="10"', "dedicated") == agreed

    @pytest.mark.parametrize(
        ("wanted", "header"),
        [
            (Parameters(), "client_max_window_bits"),
            (
                Parameters(True, True),
                "server_no_context_takeover; client_no_context_takeover; client_max_window_bits",
            ),
            (
                Parameters(False, True, 10, 11),
                "client_no_context_takeover; server_max_window_bits=10; client_max_window_bits=11",
            ),
            (Parameters(server_max_window_bits=9), "server_max_window_bits=9; client_max_window_bits"),
        ],
    )
    def test_offer_names_what_is_wanted(self, wanted: Parameters, header: str) -> None:
        """Our client's offer names what is not the default, and that it knows client_max_window_bits (7.1.2.2)."""
        assert offer(wanted) == f"{NAME}; {header}"

    def test_format_leaves_defaults_out(self) -> None:
        """A header names what differs from the defaults alone."""
        assert [format_parameters(Parameters()), format_parameters(Parameters(True, False, 8, 14))] == [
            NAME,
            f"{NAME}; server_no_context_takeover; server_max_window_bits=8; client_max_window_bits=14",
        ]

    @pytest.mark.parametrize(
        ("offered", "answered", "agreed"),
        [
            (Parameters(), "", Parameters()),
            (Parameters(), "; server_no_context_takeover", Parameters(server_no_context_takeover=True)),
            (Parameters(), "; client_no_context_takeover", Parameters(client_no_context_takeover=True)),
            (Parameters(), "; server_max_window_bits=8", Parameters(server_max_window_bits=8)),
            (Parameters(), "; server_max_window_bits=15", Parameters()),
            (Parameters(), "; client_max_window_bits=9", Parameters(client_max_window_bits=9)),
            (Parameters(), '; client_max_window_bits="9"', Parameters(client_max_window_bits=9)),
            (Parameters(True), "; server_no_context_takeover", Parameters(True)),
            (Parameters(False, True), "", Parameters()),
            (Parameters(server_max_window_bits=10), "; server_max_window_bits=10", Parameters(False, False, 10)),
            (Parameters(server_max_window_bits=10), "; server_max_window_bits=9", Parameters(False, False, 9)),
            (Parameters(client_max_window_bits=10), "; client_max_window_bits=10", Parameters(False, False, 15, 10)),
            (Parameters(client_max_window_bits=10), "; client_max_window_bits=9", Parameters(False, False, 15, 9)),
            # 7.1.2.2: without the parameter the server takes any window, the offered one too.
            (Parameters(client_max_window_bits=10), "", Parameters(False, False, 15, 10)),
        ],
    )
    def test_agree_to_what_was_offered(self, offered: Parameters, answered: str, agreed: Parameters) -> None:
        """The client uses what the server answered, within its offer."""
        assert agree(parse_extensions(NAME + answered), offered) == agreed

    @pytest.mark.parametrize(
        "header",
        [
            "foo",
            f"{NAME}, {NAME}",
            f"{NAME}, foo",
            f"{NAME}; foo",
            f"{NAME}; client_max_window_bits",
            f"{NAME}; client_max_window_bits=16",
            f"{NAME}; server_max_window_bits",
            f"{NAME}; server_max_window_bits=7",
            f"{NAME}; server_no_context_takeover=1",
            f"{NAME}; client_no_context_takeover; client_no_context_takeover",
        ],
    )
    def test_agree_to_nothing_else(self, header: str) -> None:
        """Any other extension or parameter fails the connection (RFC 6455 4.1, item 5; RFC 7692 7.1 MUST)."""
        with pytest.raises(ValueError, match=r"^the server answered with an extension that was not offered$"):
            agree(parse_extensions(header), Parameters())

    @pytest.mark.parametrize(
        ("offered", "answered", "sentence"),
        [
            (Parameters(True), "", "the server did not accept server_no_context_takeover"),
            (Parameters(False, False, 10), "", "the server's window is larger than offered"),
            (
                Parameters(False, False, 10),
                "; server_max_window_bits=11",
                "the server's window is larger than offered",
            ),
            (
                Parameters(),
                "; client_max_window_bits=8",
                "the server wants a window that this client cannot compress with",
            ),
            (
                Parameters(client_max_window_bits=10),
                "; client_max_window_bits=11",
                "the server wants a window that this client cannot compress with",
            ),
        ],
    )
    def test_agree_within_the_offer(self, offered: Parameters, answered: str, sentence: str) -> None:
        """An answer beyond what was offered fails the connection (7.1.1.1, 7.1.2)."""
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            agree(parse_extensions(NAME + answered), offered)

    def test_agree_to_no_extension(self) -> None:
        """An answer without extensions leaves compression off."""
        assert agree([], Parameters()) is None

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("server_bits", range(9, 16))
    def test_both_sides_agree(self, mode: str, server_bits: int) -> None:
        """Our client understands our server: both go by the same parameters."""
        offers = [Parameters(*flags, server_bits, bits) for flags in FLAGS for bits in range(9, 16)]
        agreed = [negotiated(offer(wanted), mode) for wanted in offers]
        answers = [parse_extensions(answer(parameters)) for parameters in agreed if parameters is not None]
        assert [agree(header, wanted) for header, wanted in zip(answers, offers, strict=True)] == agreed


class TestSection7_2:
    """How messages are compressed and inflated."""

    @pytest.mark.parametrize("bits", range(9, 16))
    @pytest.mark.parametrize("reset", [False, True])
    @pytest.mark.parametrize("client", [False, True])
    def test_messages_come_back(self, client: bool, reset: bool, bits: int) -> None:
        """What one side compresses the other inflates, many messages long, in every window."""
        parameters = Parameters(reset, reset, bits, bits)
        sender, receiver = Deflate(parameters, client), Deflate(parameters, not client)
        rng = random.Random(bits)
        messages = [TEXT, b"x", rng.randbytes(5000), TEXT * 30, b"\0" * 70000, TEXT, rng.randbytes(1)]
        assert [receiver.inflate(sender.compress(m), NO_LIMIT, True) for m in messages] == messages

    @pytest.mark.parametrize(("server_bits", "client_bits"), [(9, 15), (15, 9)])
    @pytest.mark.parametrize("client", [False, True])
    def test_windows_belong_to_the_side_that_compresses(self, client: bool, server_bits: int, client_bits: int) -> None:
        """A sender keeps to its own window: nothing that it sends refers to what is farther back (7.1.2)."""
        codec = Deflate(Parameters(False, False, server_bits, client_bits), client)
        own = client_bits if client else server_bits
        distant = random.Random(1).randbytes(2600)
        data = codec.compress(distant + distant[:600]) + TAIL
        inflater, message = zlib.decompressobj(-9), b""
        try:
            for byte in data:  # one by one: within one call zlib sees more than its window
                message += inflater.decompress(bytes([byte]))
        except zlib.error:
            pass
        assert (message == distant + distant[:600]) is (own == 9)

    def test_no_context_takeover_refers_to_nothing_before(self) -> None:
        """Each message of a sender without context takeover inflates alone (7.1.1)."""
        sender = Deflate(Parameters(server_no_context_takeover=True))
        sender.compress(TEXT)
        data = sender.compress(TEXT)
        assert zlib.decompressobj(-15).decompress(data + TAIL) == TEXT

    def test_context_takeover_shrinks_what_came_before(self) -> None:
        """With context takeover a message that repeats another is almost free."""
        sender = Deflate(Parameters(server_max_window_bits=12))
        noise = random.Random(2).randbytes(500)
        assert (len(sender.compress(noise)) > 500, len(sender.compress(noise)) < 30) == (True, True)

    def test_receiver_forgets_without_context_takeover(self) -> None:
        """A peer that agreed to forget and yet refers back sends broken data."""
        peer = zlib.compressobj(6, zlib.DEFLATED, -15)
        first, second = (peer.compress(TEXT) + peer.flush(zlib.Z_SYNC_FLUSH) for _ in range(2))
        receiver = Deflate(Parameters(client_no_context_takeover=True))
        assert receiver.inflate(first[:-4], NO_LIMIT, True) == TEXT
        with pytest.raises(InflateError) as caught:
            receiver.inflate(second[:-4], NO_LIMIT, True)
        assert not caught.value.too_big

    def test_tail_is_taken_off(self) -> None:
        """The four bytes at the end of a flush do not travel (7.2.1)."""
        for parameters in (Parameters(), Parameters(True, True)):
            assert not Deflate(parameters).compress(TEXT).endswith(TAIL)

    @pytest.mark.parametrize(("reset", "threshold"), [(True, SHARED_FROM), (False, 1)])
    @pytest.mark.parametrize("client", [False, True])
    def test_threshold(self, client: bool, reset: bool, threshold: int) -> None:
        """Without context a short message is not worth compressing; with it all but the empty one are."""
        assert Deflate(Parameters(reset and not client, reset and client), client).threshold == threshold

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ("f248cdc9c90700", b"Hello"),  # 7.2.3.1: one compressed block
            ("000500faff48656c6c6f00", b"Hello"),  # 7.2.3.3: a block without compression
            ("f348cdc9c9070000", b"Hello"),  # 7.2.3.4: BFINAL is set
            ("f24805000000ffffcac9c90700", b"Hello"),  # 7.2.3.5: two blocks
            ("00", b""),  # 7.2.3.6: the empty message
            ("", b""),  # not even that byte
        ],
    )
    def test_examples(self, data: str, message: bytes) -> None:
        """The examples of 7.2.3 inflate as it says, whole and byte by byte, time and again."""
        codec, compressed = Deflate(Parameters()), bytes.fromhex(data)
        pieces = [bytes([byte]) for byte in compressed]
        for _ in range(3):
            assert codec.inflate(compressed, 10, True) == message
            assert (
                b"".join(codec.inflate(piece, 10, False) for piece in pieces) + codec.inflate(b"", 10, True) == message
            )
        assert codec.inflate(raw(TEXT), NO_LIMIT, True) == TEXT

    def test_example_of_context_takeover(self) -> None:
        """7.2.3.2: the second "Hello" refers to the first one."""
        codec = Deflate(Parameters())
        hellos = [codec.inflate(bytes.fromhex(data), 10, True) for data in ("f248cdc9c90700", "f200110000")]
        assert hellos == [b"Hello", b"Hello"]

    @pytest.mark.parametrize("level", range(10))
    @pytest.mark.parametrize("strategy", [zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_FIXED, zlib.Z_RLE])
    @pytest.mark.parametrize("finish", [zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_FINISH])
    def test_every_way_to_compress(self, level: int, strategy: int, finish: int) -> None:
        """Whatever level, strategy and flush the peer uses, its messages inflate: whole and in pieces of any size."""
        codec, rng = Deflate(Parameters()), random.Random(level)
        for size in (1, 7, 1000, 1, 70000):
            message = (rng.randbytes(size // 2) + TEXT * (size // len(TEXT) + 1))[:size]
            compressor = zlib.compressobj(level, zlib.DEFLATED, -15, 8, strategy)
            data = compressor.compress(message) + compressor.flush(finish)
            data = data + b"\0" if finish == zlib.Z_FINISH else data[:-4]
            cuts = sorted(rng.randrange(len(data) + 1) for _ in range(5))
            edges = itertools.pairwise([0, *cuts, len(data)])
            parts = [data[a:b] for a, b in edges]
            whole = [codec.inflate(part, NO_LIMIT, i == len(parts) - 1) for i, part in enumerate(parts)]
            assert b"".join(whole) == message

    @pytest.mark.parametrize("data", ["ff", "06", "0005000000", "ffffffffffff"])
    @pytest.mark.parametrize("later", [False, True])
    def test_broken_data(self, data: str, later: bool) -> None:
        """What is no deflate data is reported as broken, in the first message and in a later one."""
        codec = Deflate(Parameters())
        if later:
            codec.inflate(raw(TEXT), NO_LIMIT, True)
        with pytest.raises(InflateError) as caught:
            codec.inflate(bytes.fromhex(data), NO_LIMIT, True)
        assert not caught.value.too_big

    @pytest.mark.parametrize("bits", range(8, 16))
    def test_every_window_can_be_read(self, bits: int) -> None:
        """Windows that zlib cannot write (7.1.2) can be read all the same; a peer's zlib may make 512 bytes of 256."""
        noise = random.Random(8).randbytes(2 ** max(bits, 9) - 300)
        data, codec = raw(noise + noise[:100], max(bits, 9)), Deflate(Parameters(client_max_window_bits=bits))
        inflated = b"".join(codec.inflate(bytes([byte]), NO_LIMIT, False) for byte in data)
        assert inflated + codec.inflate(b"", NO_LIMIT, True) == noise + noise[:100]

    @pytest.mark.parametrize("bits", range(9, 16))
    def test_window_costs_what_was_agreed_on(self, bits: int) -> None:
        """An inflater keeps no larger window than the peer's: that is what a dedicated connection saves."""
        data, codec = raw(TEXT * 50, bits), Deflate(Parameters(client_max_window_bits=bits))
        with measured() as memory:
            codec.inflate(data, NO_LIMIT, True)
        assert memory.held < 2**bits + 12_000


LETTERS = b"0123456789abcdef"
BLOCK = raw(LETTERS, finish=zlib.Z_FINISH)
"""A final block of 18 bytes."""


class TestFinalBlocks:
    """7.2.3.4: BFINAL ends the deflate stream, not the message."""

    def test_several_in_a_message(self) -> None:
        """The blocks after a final one belong to the message."""
        codec = Deflate(Parameters())
        words = (b"the first of three, ", b"the second of three, ", b"the third of three")
        data = b"".join(raw(part, finish=zlib.Z_FINISH) for part in words) + b"\0"
        assert [codec.inflate(data, 100, True) for _ in range(2)] == [b"".join(words)] * 2

    def test_at_the_limit(self) -> None:
        """As many final blocks as the limits say pass, in each message anew, however they are cut."""
        codec, data = Deflate(Parameters()), BLOCK * MAX_FINAL_BLOCKS + b"\0"
        for _ in range(3):
            assert codec.inflate(data, 2000, True) == LETTERS * MAX_FINAL_BLOCKS
        pieces = [bytes([byte]) for byte in data]
        parts = [codec.inflate(piece, 2000, False) for piece in pieces] + [codec.inflate(b"", 2000, True)]
        assert b"".join(parts) == LETTERS * MAX_FINAL_BLOCKS

    @pytest.mark.parametrize(
        ("block", "most"),
        [(BLOCK, MAX_FINAL_BLOCKS), (raw(b"", finish=zlib.Z_FINISH), 1), (raw(b"four", finish=zlib.Z_FINISH), 1)],
    )
    @pytest.mark.parametrize("cut", [False, True])
    def test_too_many(self, cut: bool, block: bytes, most: int) -> None:
        """One more is broken data, since each of them makes zlib start anew: 64 in a message, and one for 16 bytes."""
        codec = Deflate(Parameters())
        if cut:
            for _ in range(most):
                codec.inflate(block, 2000, False)
        with pytest.raises(InflateError) as caught:
            codec.inflate(block if cut else block * (most + 1), 2000, False)
        assert not caught.value.too_big

    @pytest.mark.parametrize("takeover", [True, False])
    @pytest.mark.parametrize("blocks", [1, 2, 3, 8, MAX_FINAL_BLOCKS])
    @pytest.mark.parametrize("filling", [0, 20])
    def test_work_is_bounded_by_the_bytes_of_a_read(
        self, monkeypatch: pytest.MonkeyPatch, takeover: bool, blocks: int, filling: int
    ) -> None:
        """A read of 64 KiB starts zlib no more often than for messages without final blocks, however small the
        messages and however many final blocks they have.
        """
        made: list[int] = []
        make = zlib.decompressobj

        def counted(bits: int) -> Any:
            made.append(bits)
            return make(bits)

        monkeypatch.setattr(zlib, "decompressobj", counted)
        message = raw(TEXT[:filling], finish=zlib.Z_FINISH) * blocks + b"\0"
        codec = Deflate(Parameters(client_no_context_takeover=not takeover))
        for _ in range(65536 // (6 + len(message))):
            try:
                codec.inflate(message, 10_000, True)
            except InflateError:
                break
        assert len(made) <= 65536 // (6 + 1)

    @pytest.mark.parametrize("room", [*range(0, 48, 5), 47])
    def test_limit_across_final_blocks(self, room: int) -> None:
        """The limit counts what all blocks of a message make together."""
        data = BLOCK * 3 + b"\0"
        with pytest.raises(InflateError) as caught:
            Deflate(Parameters()).inflate(data, room, True)
        assert caught.value.too_big


class TestLimit:
    """Attack 2: zip bombs."""

    @pytest.mark.parametrize("size", [1, 2, 1000, 70000])
    @pytest.mark.parametrize("finish", [zlib.Z_SYNC_FLUSH, zlib.Z_FINISH])
    def test_exact(self, size: int, finish: int) -> None:
        """A message as long as the limit passes; one byte more does not."""
        data = raw(b"\0" * size, finish=finish) + (b"\0" if finish == zlib.Z_FINISH else b"")
        assert len(Deflate(Parameters()).inflate(data, size, True)) == size
        with pytest.raises(InflateError) as caught:
            Deflate(Parameters()).inflate(data, size - 1, True)
        assert caught.value.too_big

    def test_no_room_left(self) -> None:
        """With no room left the empty rest of a message still passes."""
        codec = Deflate(Parameters())
        data = raw(b"full")
        assert (codec.inflate(data, 4, False), codec.inflate(b"", 0, True)) == (b"full", b"")

    def test_bomb_makes_no_more_than_the_limit(self) -> None:
        """A message that would inflate to 64 MiB costs what the limit allows, twice while zlib joins its blocks."""
        data, limit = bomb(), 2**20
        codec = Deflate(Parameters())
        with measured() as memory, pytest.raises(InflateError) as caught:
            codec.inflate(data, limit, True)
        assert caught.value.too_big and memory.peak < 2 * limit + len(data) + 2**18

    def test_bomb_after_a_final_block(self) -> None:
        """The limit holds after a final block too."""
        data, limit = raw(b"x", finish=zlib.Z_FINISH) + bomb(), 2**20
        codec = Deflate(Parameters())
        with measured() as memory, pytest.raises(InflateError):
            codec.inflate(data, limit, True)
        assert memory.peak < 3 * limit + 3 * len(data) + 2**18

    def test_errors_say_which(self) -> None:
        """Too big and broken can be distinguished."""
        assert [InflateError(flag).too_big for flag in (True, False)] == [True, False]


class TestSharing:
    """In "shared" one compressor serves all connections."""

    def test_connections_without_context_share(self) -> None:
        """Interleaved messages of many connections inflate, each for itself."""
        parameters = Parameters(True, True)
        pairs = [(Deflate(parameters), Deflate(parameters, client=True)) for _ in range(20)]
        messages = [os.urandom(20) * 100 for _ in pairs]
        sent = [server.compress(message) for (server, _), message in zip(pairs, messages, strict=True)]
        assert [client.inflate(d, NO_LIMIT, True) for (_, client), d in zip(pairs, sent, strict=True)] == messages

    @pytest.mark.parametrize("bits", range(9, 16))
    def test_connection_without_context_costs_nothing(self, bits: int) -> None:
        """Connections that agreed on the same window share one compressor; between two messages none of them holds a
        compressor or an inflater.
        """
        parameters, data = Parameters(True, True, bits), raw(TEXT)
        Deflate(parameters).compress(TEXT)  # the shared compressor exists from now on
        with measured() as memory:
            codecs = [Deflate(parameters) for _ in range(10)]
            for codec in codecs:
                codec.compress(TEXT)
                codec.inflate(data, NO_LIMIT, True)
        assert memory.held < 500 * len(codecs)

    def test_threads_share(self) -> None:
        """Threads, each of which may run a gevent hub, do not tear each other's messages."""
        failures: list[bytes] = []

        def talk(seed: int) -> None:
            codec, rng = Deflate(Parameters(True, True)), random.Random(seed)
            for _ in range(100):
                message = rng.randbytes(50) * rng.randrange(30, 300)
                data = codec.compress(message)
                try:
                    torn = zlib.decompressobj(-15).decompress(data + TAIL) != message
                except zlib.error:
                    torn = True
                if torn:
                    failures.append(message)

        threads = [threading.Thread(target=talk, args=(seed,)) for seed in range(8)]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
        assert not failures

    @pytest.mark.parametrize("bits", range(9, 15))
    def test_each_window_has_a_compressor_of_its_own(self, bits: int) -> None:
        """A compressor with a larger window would refer further back than the peer can read."""
        Deflate(Parameters(True, True, 15)).compress(TEXT)
        noise = random.Random(9).randbytes(2**bits + 100)  # further back than the window
        data, inflater = Deflate(Parameters(True, True, bits)).compress(noise * 2), zlib.decompressobj(-bits)
        inflated = b"".join(inflater.decompress(bytes([byte])) for byte in data)
        assert inflated == noise * 2
