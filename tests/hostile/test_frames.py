"""Frames that break a rule: the connection fails with the right code, before anything is stored (rows 5, 6, 9, 14).

``tests/protocol/test_connection.py`` has every rule with every frame that breaks it. Here is what a server makes of it.
"""

from __future__ import annotations

import pytest

from ..support.rawclient import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, close_frame, frame
from ..support.servers import Server
from .watch import SETTINGS, Memory

MIB = 2**20
MAX_MESSAGE_SIZE = SETTINGS["max_message_size"]
OPEN_TEXT = frame(TEXT, b"begun", fin=False)

AT_ONCE = {  # what is certain before the frame, or the message, is complete; the code
    "unmasked text": (frame(TEXT, b"x", mask=None), 1002),
    "unmasked close with a code": (close_frame(mask=None), 1002),
    "unmasked fragment": (OPEN_TEXT + frame(CONTINUATION, b"x", mask=None), 1002),
    "top bit of the length": (frame(BINARY, length=2**63), 1002),
    "125 in eight bytes": (frame(BINARY, length=125, length_bytes=8), 1002),
    "2^63 - 1": (frame(BINARY, length=2**63 - 1), 1009),
    "one more than the limit": (frame(BINARY, length=MAX_MESSAGE_SIZE + 1), 1009),
    "second fragment beyond the limit": (
        frame(BINARY, b"x", fin=False) + frame(CONTINUATION, length=MAX_MESSAGE_SIZE),
        1009,
    ),
    "fragmented ping": (frame(PING, b"x", fin=False), 1002),
    "ping that announces 2^62 bytes": (frame(PING, length=2**62), 1002),
    "surrogate in a frame": (frame(TEXT, b"\xed\xa0", length=1000), 1007),
    "surrogate in a fragment": (frame(TEXT, b"\xed\xa0", fin=False), 1007),
}
WHOLE = {  # the other rules
    "opcode 3": (frame(3, b"x"), 1002),
    "RSV 1 without compression": (frame(TEXT, b"x", rsv=4), 1002),
    "continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "text inside a text": (OPEN_TEXT + frame(TEXT, b"x"), 1002),
    "close code 1005": (close_frame(1005), 1002),
    "close payload of one byte": (frame(CLOSE, b"\x03"), 1002),
    "reason that is not UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "text that ends inside a character": (frame(TEXT, b"ok\xe2\x82"), 1007),
}


@pytest.mark.parametrize(("sent", "code"), [*AT_ONCE.values(), *WHOLE.values()], ids=[*AT_ONCE, *WHOLE])
@pytest.mark.parametrize("path", ["/echo", "/obedient"])
def test_broken_frame_ends_the_connection(worker: Server, path: str, sent: bytes, code: int) -> None:
    """The message before it is answered, it is refused with its code, and what follows is ignored."""
    with worker.connect() as client:
        client.upgrade(path)
        client.send(frame(TEXT, b"before") + sent + frame(TEXT, b"after"))
        frames = client.read_frames_until_eof()
    assert [one.code if one.opcode == CLOSE else one for one in frames] == [Frame(TEXT, b"before"), code]


@pytest.mark.parametrize(("sent", "code"), AT_ONCE.values(), ids=AT_ONCE)
def test_broken_frame_is_refused_as_soon_as_it_is_certain(
    worker: Server, memory: Memory, sent: bytes, code: int
) -> None:
    """Nothing that comes later is waited for, and no memory is allocated for it."""
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
