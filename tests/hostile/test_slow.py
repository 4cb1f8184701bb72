"""Peers that do not read, and peers that do not answer our close frame (rows 11, 13)."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import pytest

from ..support.rawclient import BINARY, PING, TEXT, Frame, RawClient, frame
from ..support.servers import Server
from ..support.waiting import SPARE, agrees
from .watch import SETTINGS, Memory

KIB, MIB = 2**10, 2**20
SEND_LIMIT, SEND_TIMEOUT, CLOSE_TIMEOUT = (SETTINGS[name] for name in ("send_limit", "send_timeout", "close_timeout"))


def test_peer_that_reads_nothing_ends_the_view_that_sends(worker: Server, memory: Memory, token: str) -> None:
    """``send`` waits at the high-water mark, so memory stays flat; then its deadline cuts the connection."""
    with memory.grows_by_less_than(MIB), worker.connect(receive_buffer=4096) as client:
        start = time.monotonic()
        client.upgrade(f"/flooding?id={token}")
        assert worker.events(token, "left by ConnectionClosed") == ["left by ConnectionClosed"]
        waited = time.monotonic() - start
    assert agrees(waited, SEND_TIMEOUT)


def test_peer_that_reads_slowly_is_served(worker: Server, memory: Memory, token: str) -> None:
    """As long as it reads at all it gets everything in order, at its own pace and at no cost in memory."""
    with memory.grows_by_less_than(MIB), worker.connect(receive_buffer=4096) as client:
        client.upgrade(f"/flooding?id={token}")
        until = time.monotonic() + 2 * SEND_TIMEOUT
        while time.monotonic() < until:
            assert client.read_frame() == Frame(BINARY, b"x" * 16384)
            time.sleep(0.001)  # this peer is slow
        recorded = worker.events(token)
        client.reset()
    assert recorded == []
    worker.events(token, "left by ConnectionClosed")


def test_stuck_members_of_a_broadcast_are_closed(worker: Server, memory: Memory, token: str) -> None:
    """They are not waited for: the others get every message while memory is bounded by ``send_limit`` for each."""
    message, count, number = b"x" * 64 * KIB, 200, 3
    with ExitStack() as stack:
        speaker, reader, *stuck = [stack.enter_context(worker.connect()) for _ in range(2)] + [
            stack.enter_context(worker.connect(receive_buffer=4096)) for _ in range(number)
        ]
        for client in [reader, *stuck]:
            client.upgrade(f"/waiting?id={token}")
            assert client.read_frame() == Frame(TEXT, b"ready")
        speaker.upgrade(f"/broadcasting?id={token}")
        there = worker.status()["websockets"]
        with memory.grows_by_less_than(number * SEND_LIMIT + 2 * MIB):
            for _ in range(count):
                speaker.binary(message)
                assert [one.read_frame() for one in (speaker, reader)] == [Frame(BINARY, message)] * 2
        worker.settled(websockets=there - number)
        assert [one.close_handshake()[-1].code for one in (speaker, reader)] == [1000, 1000]


def silent(client: RawClient) -> None:
    """Sends nothing."""
    client.read_until_eof()


def talking(client: RawClient) -> None:
    """Sends messages as if nothing had been sent."""
    while True:
        client.send(frame(TEXT, b"x" * 1000))
        time.sleep(0.0001)


def pinging(client: RawClient) -> None:
    """Sends pings."""
    while True:
        client.send(frame(PING, b"x"))
        time.sleep(0.001)


def until_cut(peer: Callable[[RawClient], None], client: RawClient) -> None:
    """Let the peer go on until the connection ends."""
    with suppress(ConnectionError):
        peer(client)


@pytest.mark.parametrize("path", ["/after/nothing", "/idle"])
@pytest.mark.parametrize("peer", [silent, talking, pinging])
def test_peer_that_never_answers_our_close_is_cut(worker: Server, path: str, peer: Callable[[RawClient], None]) -> None:
    """``close_timeout`` seconds after our close frame, whatever it sends meanwhile; it gets no answer to that."""
    with worker.connect(timeout=CLOSE_TIMEOUT + SPARE) as client:
        start = time.monotonic()
        client.upgrade(path)
        assert [client.read_frame(), client.read_frame().code] == [Frame(TEXT, b"ready"), 1000]
        until_cut(peer, client)
        waited = time.monotonic() - start
        rest = client.read_until_eof()
    assert rest == b""
    assert agrees(waited, CLOSE_TIMEOUT)


def test_peer_that_stays_after_a_violation_is_cut(worker: Server) -> None:
    """The same where we close because a rule was broken."""
    with worker.connect(timeout=CLOSE_TIMEOUT + SPARE) as client:
        start = time.monotonic()
        client.upgrade("/echo")
        client.send(frame(TEXT, b"\xff"))
        assert client.read_frame().code == 1007
        until_cut(pinging, client)
        waited = time.monotonic() - start
    assert agrees(waited, CLOSE_TIMEOUT)


def flooding(client: RawClient) -> None:
    """Sends as much as it can, up to an end that must not be reached."""
    for _ in range(256):
        client.send(b"x" * MIB)


def test_peer_that_floods_after_a_violation_is_cut(worker: Server) -> None:
    """What it sends is dropped, and not without end: it is cut long before the deadline."""
    with worker.connect(timeout=CLOSE_TIMEOUT + SPARE) as client:
        client.upgrade("/echo")
        client.send(frame(TEXT, b"\xff"))
        with pytest.raises(ConnectionError):
            flooding(client)
