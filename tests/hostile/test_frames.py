"""Frames that break a rule: the connection fails with the right code, before anything is stored (rows 5, 6, 9, 14)."""

from __future__ import annotations

from itertools import chain, repeat

import pytest

from ..support.rawclient import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, close_frame, frame
from ..support.servers import Server
from .watch import SETTINGS, Memory

MIB = 2**20
MAX_MESSAGE_SIZE = SETTINGS["max_message_size"]
OPEN_TEXT = frame(TEXT, b"begun", fin=False)


def table(code: int, cases: dict[str, bytes]) -> list[object]:
    """Parameters: what is sent, the code of the answer."""
    return [pytest.param(sent, code, id=name) for name, sent in cases.items()]


OPCODES = {"continuation": CONTINUATION, "text": TEXT, "binary": BINARY, "close": CLOSE, "ping": PING, "pong": PONG}
UNMASKED = table(
    1002,
    {f"unmasked {name}": frame(opcode, mask=None) for name, opcode in OPCODES.items()}
    | {
        "unmasked text with a payload": frame(TEXT, b"x", mask=None),
        "unmasked fragment": OPEN_TEXT + frame(CONTINUATION, b"x", mask=None),
        "unmasked close with a code": close_frame(mask=None),
    },
)
LENGTHS = table(
    1002,
    {
        "top bit": frame(BINARY, length=2**63),
        "every bit": frame(BINARY, length=2**64 - 1),
        "top bit alone of a small length": frame(BINARY, length=2**63 + 1),
        "0 in two bytes": frame(BINARY, length=0, length_bytes=2),
        "125 in two bytes": frame(BINARY, length=125, length_bytes=2),
        "0 in eight bytes": frame(BINARY, length=0, length_bytes=8),
        "125 in eight bytes": frame(BINARY, length=125, length_bytes=8),
        "65535 in eight bytes": frame(BINARY, length=65535, length_bytes=8),
        "small length of a text in eight bytes": frame(TEXT, b"x" * 5, length_bytes=8),
        "small length of a ping in two bytes": frame(PING, b"x" * 5, length_bytes=2),
        "small length of a ping in eight bytes": frame(PING, b"x" * 5, length_bytes=8),
    },
)
TOO_BIG = table(
    1009,
    {
        "2^62": frame(BINARY, length=2**62),
        "2^63 - 1": frame(BINARY, length=2**63 - 1),
        "2^32": frame(TEXT, length=2**32),
        "one more than the limit": frame(BINARY, length=MAX_MESSAGE_SIZE + 1),
        "fragment of 2^62": frame(BINARY, fin=False, length=2**62),
        "two fragments that overflow 64 bits together": frame(BINARY, b"x" * 100, fin=False)
        + frame(CONTINUATION, length=2**63 - 1),
        "second fragment beyond the limit": frame(BINARY, b"x", fin=False)
        + frame(CONTINUATION, length=MAX_MESSAGE_SIZE),
    },
)
CONTROL = table(
    1002,
    {f"fragmented {name}": frame(opcode, b"\x03\xe8", fin=False) for name, opcode in OPCODES.items() if opcode >= CLOSE}
    | {
        f"{name} of {size} bytes": frame(opcode, b"\x03\xe8" + b"x" * (size - 2))
        for name, opcode in OPCODES.items()
        if opcode >= CLOSE
        for size in (126, 70_000)
    }
    | {"ping that announces 2^62 bytes": frame(PING, length=2**62)},
)
RESERVED = table(
    1002,
    {
        f"opcode {opcode:#x}{'' if fin else ' fragmented'}": frame(opcode, b"\x03\xe8", fin=fin)
        for opcode in chain(range(3, 8), range(11, 16))
        for fin in (True, False)
    }
    | {f"RSV {rsv} of a text": frame(TEXT, b"x", rsv=rsv) for rsv in range(1, 8)}
    | {f"RSV {rsv} of a ping": frame(PING, b"x", rsv=rsv) for rsv in (1, 2, 4)}
    | {f"RSV {rsv} of a continuation": OPEN_TEXT + frame(CONTINUATION, b"x", rsv=rsv) for rsv in (1, 2, 4)},
)
SEQUENCE = table(
    1002,
    {
        "continuation of nothing": frame(CONTINUATION, b"x"),
        "unfinished continuation of nothing": frame(CONTINUATION, b"x", fin=False),
        "text inside a text": OPEN_TEXT + frame(TEXT, b"x"),
        "binary inside a text": OPEN_TEXT + frame(BINARY, b"x", fin=False),
    },
)
BAD_CODES = [*range(3), 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]
CLOSING = table(
    1002,
    {f"close code {code}": close_frame(code) for code in BAD_CODES}
    | {"close payload of one byte": frame(CLOSE, b"\x03"), "close code in the wrong order": frame(CLOSE, b"\xe8\x03")},
)
BAD_UTF8 = {
    "a byte that never occurs": b"\xff",
    "lone continuation byte": b"ab\x80",
    "overlong slash": b"\xc0\xaf",
    "surrogate": b"\xed\xa0\x80",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "CESU-8": b"\xed\xa0\xbd\xed\xb8\x80",
    "a sequence that another begins": b"\xe2\x82A",
}
UTF8 = table(
    1007,
    {f"text: {name}": frame(TEXT, payload) for name, payload in BAD_UTF8.items()}
    | {f"reason: {name}": frame(CLOSE, b"\x03\xe8" + payload) for name, payload in BAD_UTF8.items()}
    | {f"ends inside a character of {len(cut) + 1} bytes": frame(TEXT, b"ok" + cut) for cut in (b"\xc3", b"\xe2\x82")}
    | {
        "reason that ends inside a character": frame(CLOSE, b"\x03\xe8\xe2\x82"),
        "last fragment ends inside a character": OPEN_TEXT + frame(CONTINUATION, b"\xf0\x9f\x98"),
    },
)
CERTAIN_EARLY = table(  # certain before the frame or the message is complete: the rest is never sent
    1007,
    {f"frame: {name}": frame(TEXT, payload, length=1000) for name, payload in BAD_UTF8.items()}
    | {f"fragment: {name}": frame(TEXT, payload, fin=False) for name, payload in BAD_UTF8.items()}
    | {
        "half a surrogate": frame(TEXT, b"\xed\xa0", fin=False),
        "half a character beyond U+10FFFF": frame(TEXT, b"\xf4\x90", fin=False),
        "character cut by a fragment and not continued": frame(TEXT, b"\xe2\x82", fin=False)
        + frame(CONTINUATION, b"A", fin=False),
    },
)
FAULTS = [*UNMASKED, *LENGTHS, *TOO_BIG, *CONTROL, *RESERVED, *SEQUENCE, *CLOSING, *UTF8, *CERTAIN_EARLY]


@pytest.mark.parametrize(("sent", "code"), FAULTS)
@pytest.mark.parametrize("path", ["/echo", "/obedient"])
def test_broken_frame_ends_the_connection(worker: Server, path: str, sent: bytes, code: int) -> None:
    """The message before it is answered, it is refused with its code, and what follows is ignored."""
    with worker.connect() as client:
        client.upgrade(path)
        client.send(frame(TEXT, b"before") + sent + frame(TEXT, b"after"))
        frames = client.read_frames_until_eof()
    assert [one.code if one.opcode == CLOSE else one for one in frames] == [Frame(TEXT, b"before"), code]


@pytest.mark.parametrize(("sent", "code"), [*UNMASKED, *LENGTHS, *TOO_BIG, *CONTROL, *CERTAIN_EARLY])
def test_broken_frame_is_refused_as_soon_as_it_is_certain(worker: Server, sent: bytes, code: int) -> None:
    """Nothing that comes later is waited for: a header is judged without its payload."""
    with worker.connect() as client:
        client.upgrade("/echo")
        client.send(sent)
        received = client.read_frame()
    assert received.code == code


@pytest.mark.parametrize(("sent", "code"), [*LENGTHS, *TOO_BIG])
def test_announced_length_allocates_nothing(worker: Server, memory: Memory, sent: bytes, code: int) -> None:
    """A frame that is too long costs the connection, not memory."""
    with memory.grows_by_less_than(MIB):
        for _ in range(3):
            with worker.connect() as client:
                client.upgrade("/echo")
                client.send(sent)
                received = client.read_frame()
    assert received.code == code


@pytest.mark.parametrize("size", [0, 1, 125])
def test_control_frames_inside_a_message_are_answered(worker: Server, size: int) -> None:
    """A ping between two fragments is answered before the message is complete; a pong is taken."""
    payload = b"x" * size
    with worker.connect() as client:
        client.upgrade("/echo")
        client.send(OPEN_TEXT + frame(PONG, payload) + frame(PING, payload))
        between = client.read_frame()
        client.send(frame(CONTINUATION, b", ", fin=False) + frame(PING, payload) + frame(CONTINUATION, b"done"))
        answers = [client.read_frame(), client.read_frame()]
    assert between == Frame(PONG, payload)
    assert sorted(answers) == [Frame(TEXT, b"begun, done"), Frame(PONG, payload)]


def test_close_frame_inside_a_message_is_answered(worker: Server) -> None:
    """It ends the connection as any other; the half message is dropped."""
    with worker.connect() as client:
        client.upgrade("/echo")
        client.send(OPEN_TEXT)
        frames = client.close_handshake(3000)
    assert [one.code for one in frames] == [3000]


@pytest.mark.parametrize("dribbled", [False, True], ids=["in one write", "byte by byte"])
def test_text_split_inside_its_characters_is_whole(worker: Server, dribbled: bool) -> None:
    """Fragments of one byte each may cut every character (RFC 6455 5.6)."""
    text = "κόσμε 😀 \U0010ffff"
    pieces = [bytes([byte]) for byte in text.encode()]
    opcodes = chain([TEXT], repeat(CONTINUATION))
    sent = b"".join(frame(opcode, piece, fin=False) for opcode, piece in zip(opcodes, pieces, strict=False))
    with worker.connect() as client:
        client.upgrade("/echo")
        for part in [bytes([byte]) for byte in sent] if dribbled else [sent]:
            client.send(part)
        client.send(frame(CONTINUATION))
        received = client.read_frame()
    assert received == Frame(TEXT, text.encode())


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999])
def test_good_close_code_is_echoed(worker: Server, code: int) -> None:
    """Codes that may travel are no fault."""
    with worker.connect() as client:
        client.upgrade("/echo")
        frames = client.close_handshake(code, "grüße")
    assert [one.code for one in frames] == [code]
