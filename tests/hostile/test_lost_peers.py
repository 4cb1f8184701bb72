"""Peers that have disconnected, with a RST, in the middle of something (row 24).

The view sees the end and everything is freed: after this module, as after each of this package, descriptors,
greenlets and watchers are back at their start, and the log is clean after each test.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from ..support.rawclient import BINARY, CLOSE, CONTINUATION, PING, TEXT, Frame, close_frame, frame, upgrade_request
from ..support.servers import Server
from ..support.waiting import eventually

CROWD = 20
"""Peers that disconnect at once."""

MOMENTS = {  # what the peer has sent last, before a view that waits in receive()
    "idle": b"",
    "in a header": frame(BINARY, b"x" * 300)[:3],
    "in a mask": frame(TEXT, b"x")[:4],
    "in a payload": frame(TEXT, b"x" * 100)[:50],
    "after a big announcement": frame(BINARY, length=2**20),
    "between fragments": frame(TEXT, b"x", fin=False),
    "in a second fragment": frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x" * 100)[:50],
    "in a ping": frame(PING, b"x" * 100)[:50],
    "after pings": frame(PING, b"x" * 100) * 50,
    "in a close frame": close_frame(1000, "x" * 50)[:20],
    "after a close frame": close_frame(),
    "after a violation": frame(TEXT, b"\xff"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_lost_peer_ends_the_view_that_receives(worker: Server, token: str, moment: str) -> None:
    """Whatever it was in the middle of."""
    for _ in range(CROWD):
        client = worker.connect()
        client.upgrade(f"/echo?id={token}", then=MOMENTS[moment])
        client.reset()
    eventually(lambda: len(worker.events(token, "ended")) == CROWD, "the end of every view")
    assert set(worker.events(token)) == {"ended"}


@pytest.mark.parametrize("moment", MOMENTS)
def test_lost_peer_ends_a_detached_connection(worker: Server, token: str, moment: str) -> None:
    """``on_close`` is called once for each."""
    for _ in range(CROWD):
        client = worker.connect()
        client.upgrade(f"/detached?id={token}", then=MOMENTS[moment])
        client.reset()

    def left() -> list[str]:
        return [event for event in worker.events(token) if event.startswith("left after ")]

    eventually(lambda: len(left()) >= CROWD, "on_close of every connection")
    assert len(left()) == CROWD


@pytest.mark.parametrize("reads", [0, 10], ids=["at once", "while it is served"])
def test_lost_peer_ends_the_view_that_sends(worker: Server, token: str, reads: int) -> None:
    """``send`` raises ConnectionClosed, be it waiting for room or not; the log has no error for it."""
    for _ in range(CROWD):
        client = worker.connect(receive_buffer=65536)
        client.upgrade(f"/flooding?id={token}")
        for _ in range(reads):
            assert client.read_frame() == Frame(BINARY, b"x" * 16384)
        client.reset()
    eventually(lambda: len(worker.events(token)) == CROWD, "the end of every view")
    assert set(worker.events(token)) == {"left by ConnectionClosed"}


def test_lost_members_leave_a_broadcast_to_the_others(worker: Server, token: str) -> None:
    """Every message reaches the open connections, while others are lost in the middle of it."""
    with ExitStack() as stack:
        speaker, reader = (stack.enter_context(worker.connect()) for _ in range(2))
        reader.upgrade(f"/waiting?id={token}")
        assert reader.read_frame() == Frame(TEXT, b"ready")
        speaker.upgrade(f"/broadcasting?id={token}")
        members = []
        for _ in range(CROWD):
            member = stack.enter_context(worker.connect(receive_buffer=4096))
            member.upgrade(f"/waiting?id={token}")
            members.append(member)
        for number in range(2 * CROWD):
            message = b"%d" % number * 20_000
            speaker.binary(message)
            if number % 2:
                members.pop().reset()
            assert [one.read_frame() for one in (speaker, reader)] == [Frame(BINARY, message)] * 2
        assert [one.close_handshake()[-1].code for one in (speaker, reader)] == [1000, 1000]


@pytest.mark.parametrize("path", ["/after/nothing", "/after/list", "/idle"])
@pytest.mark.parametrize("answers", [False, True])
def test_peer_lost_during_our_close_is_no_error(worker: Server, path: str, answers: bool) -> None:
    """Between our close frame and its answer, or after that; ``close_timeout`` is not waited for."""
    there = worker.status()["websockets"]
    for _ in range(CROWD):
        client = worker.connect()
        client.upgrade(path)
        while client.read_frame().opcode != CLOSE:
            pass
        if answers:
            client.send(close_frame())
        client.reset()
    assert worker.settled(websockets=there)["websockets"] == there


def test_peer_lost_before_the_101_is_no_error(worker: Server) -> None:
    """The handshake has been sent, the answer is not awaited."""
    there = worker.status()["websockets"]
    for _ in range(CROWD):
        client = worker.connect()
        client.send(upgrade_request("/flooding") + frame(TEXT, b"x"))
        client.reset()
    assert worker.settled(websockets=there)["websockets"] == there
