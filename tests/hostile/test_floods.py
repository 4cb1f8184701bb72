"""Peers that send very much, or very little at a time (rows 2, 7, 8, 10)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ..support.rawclient import BINARY, CONTINUATION, DEFLATE, PING, PONG, TEXT, Frame, RawClient, deflated, frame
from ..support.servers import Server
from ..support.waiting import eventually
from .watch import SETTINGS, Memory

KIB, MIB = 2**10, 2**20
MAX_MESSAGE_SIZE, MAX_FRAGMENTS = SETTINGS["max_message_size"], SETTINGS["max_fragments"]
PEERS = 20
BASE = 2 * MIB
"""What twenty connections with their views hold, and an allocator that takes memory by the piece."""


@pytest.fixture
def peers(worker: Server) -> Iterator[list[RawClient]]:
    """Connections to ``/echo``."""
    with ExitStack() as stack:
        clients = [stack.enter_context(worker.connect()) for _ in range(PEERS)]
        for client in clients:
            client.upgrade("/echo")
        yield clients
        for client in clients:
            client.close()


def answered(client: RawClient) -> None:
    """The server has taken everything that was sent so far."""
    client.send(frame(PING, b"?"))
    assert client.read_frame() == Frame(PONG, b"?")


def unread(client: RawClient) -> int:
    """Bytes of this client that the kernel has, and that the server has not read."""
    ports = [f"{sock[1]:04X}" for sock in (client.sock.getpeername(), client.sock.getsockname())]
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    [queues] = [line[4] for line in lines if [address.partition(":")[2] for address in line[1:3]] == ports]
    return int(queues.partition(":")[2], 16)


def bytes_taken(worker: Server, clients: Iterable[RawClient]) -> None:
    """Return when the server has taken what was sent, also inside of frames, where no ping can ask."""
    eventually(lambda: not any(map(unread, clients)), "the server has read all")
    worker.get("/")  # the turn of the event loop in which it has read the last of it is over


# --- announced and dribbled (row 7) --------------------------------------------------------------------------------


def test_announced_message_holds_the_bytes_that_came(worker: Server, peers: list[RawClient], memory: Memory) -> None:
    """Twenty peers announce a mebibyte each, which are never sent: no memory is set aside for it."""
    with memory.grows_by_less_than(BASE):
        for client in peers:
            client.send(frame(BINARY, b"x" * KIB, length=MAX_MESSAGE_SIZE - 1, fin=False))
        bytes_taken(worker, peers)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_dribbled_message_holds_its_bytes(worker: Server, peers: list[RawClient], memory: Memory, opcode: int) -> None:
    """A message that comes two bytes at a time is whole at the end, and holds its bytes and little more."""
    pieces, few = 10_000, peers[:8]
    with memory.grows_by_less_than(MIB):
        for client in few:
            client.send(frame(opcode, length=2 * pieces, mask=bytes(4)))
        for _ in range(pieces - 1):
            for client in few:
                client.send(b"ab")
        bytes_taken(worker, few)
    for client in few:
        client.send(b"ab")
    assert all(client.read_frame() == Frame(opcode, b"ab" * pieces) for client in few)


# --- fragments (row 8) ---------------------------------------------------------------------------------------------


def fragments(count: int, payload: bytes, *, end: bool) -> bytes:
    """A message in ``count`` frames; ``end``: with its last one among them."""
    middle = frame(CONTINUATION, payload, fin=False)
    last = frame(CONTINUATION, payload) if end else middle
    return frame(BINARY, payload, fin=False) + middle * (count - 2) + last


@pytest.mark.parametrize("payload", [b"", b"x"], ids=["empty", "one byte"])
def test_fragments_are_counted(worker: Server, payload: bytes) -> None:
    """One more than ``max_fragments`` ends the connection with 1008, empty ones counted, the end not awaited."""
    with worker.connect() as client:
        client.upgrade("/echo")
        client.send(fragments(MAX_FRAGMENTS, payload, end=False))
        answered(client)
        client.send(frame(CONTINUATION, payload, fin=False))
        frames = client.read_frames_until_eof()
    assert [one.code for one in frames] == [1008]


@pytest.mark.parametrize("payload", [b"", b"x"], ids=["empty", "one byte"])
def test_fragments_are_counted_for_each_message(worker: Server, payload: bytes) -> None:
    """The count begins afresh: messages of exactly ``max_fragments`` pass one after the other."""
    with worker.connect() as client:
        client.upgrade("/echo")
        for _ in range(3):
            client.send(fragments(MAX_FRAGMENTS, payload, end=True))
            assert client.read_frame() == Frame(BINARY, payload * MAX_FRAGMENTS)


@pytest.mark.parametrize("payload", [b"", b"x", b"ab"], ids=["empty", "one byte", "two bytes"])
def test_fragment_flood_leaves_memory_flat(peers: list[RawClient], memory: Memory, payload: bytes) -> None:
    """Twenty peers that hold as many fragments open as they may cost their bytes, not an object for each."""
    with memory.grows_by_less_than(BASE):
        for client in peers:
            client.send(fragments(MAX_FRAGMENTS, payload, end=False))
        for client in peers:
            answered(client)


# --- bombs (row 2) -------------------------------------------------------------------------------------------------


def in_one_frame(data: bytes) -> bytes:
    return frame(BINARY, data, rsv=4)


def in_fragments(data: bytes) -> bytes:
    parts = [data[start : start + 50] for start in range(0, len(data), 50)]
    middle = b"".join(frame(CONTINUATION, part, fin=False) for part in parts[1:])
    return frame(BINARY, parts[0], fin=False, rsv=4) + middle + frame(CONTINUATION, b"")


@pytest.mark.parametrize("shape", [in_one_frame, in_fragments])
@pytest.mark.parametrize("size", [MAX_MESSAGE_SIZE + 1, 64 * MIB])
def test_bomb_is_inflated_up_to_the_limit(
    worker: Server, memory: Memory, shape: Callable[[bytes], bytes], size: int
) -> None:
    """1009, and memory grows by the limit and the pieces it takes to get there, not by what it would inflate to."""
    bomb = shape(deflated(b"\0" * size))
    with memory.grows_by_less_than(2 * MAX_MESSAGE_SIZE + MIB), worker.connect() as client:
        client.upgrade("/echo", DEFLATE)
        client.send(bomb)
        frames = client.read_frames_until_eof()
    assert [one.code for one in frames] == [1009]


def test_many_messages_that_inflate_much_come_one_by_one(worker: Server, memory: Memory) -> None:
    """Two hundred messages of the largest size in one write, to a view that does not receive: a few are inflated."""
    message = in_one_frame(deflated(b"\0" * MAX_MESSAGE_SIZE))
    with memory.grows_by_less_than(8 * MAX_MESSAGE_SIZE), worker.connect() as client:
        client.upgrade("/idle?nap=0.3", DEFLATE)
        client.send(message * 200)
        received = [client.read_frame(), client.read_frame()]
    assert [received[0], received[1].code] == [Frame(TEXT, b"ready"), 1000]


# --- pings (row 10) ------------------------------------------------------------------------------------------------

PINGS = frame(PING, b"p" * 125) * 1000


def test_ping_flood_of_a_peer_that_reads_is_answered(worker: Server) -> None:
    """The latest pings of each burst at least (RFC 6455 5.5.3), in order, and the connection goes on."""
    with worker.connect() as client:
        client.upgrade("/echo")
        for number in range(50):
            client.send(frame(PING, b"flood") * 1000 + frame(PING, b"last %d" % number))
            while client.read_frame() != Frame(PONG, b"last %d" % number):
                pass
        client.text("still here")
        received = client.read_frame()
    assert received == Frame(TEXT, b"still here")


def test_ping_flood_of_a_peer_that_does_not_read_leaves_memory_flat(worker: Server, memory: Memory) -> None:
    """Twelve megabytes of pings, and as many of pongs if each were kept: they are coalesced, and the latest arrives."""
    times = 90  # more would be a flood that ends the connection
    with memory.grows_by_less_than(MIB), worker.connect(receive_buffer=4096, timeout=30) as client:
        client.upgrade("/echo")
        for _ in range(times):
            client.send(PINGS)
        client.send(frame(PING, b"last"))
        bytes_taken(worker, [client])  # else the pongs to some are read as they are sent
        pongs = 1
        while client.read_frame() != Frame(PONG, b"last"):
            pongs += 1
    assert pongs < times * 1000 // 2
