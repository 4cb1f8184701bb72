"""Handshakes that never become whole (row 3).

The deadline is gunicorn's: its gevent worker gives a client ``--keep-alive`` seconds (2 by default, no end
where that is 0) for all of a request's head, however many bytes come in that time. It is the same for the next request
on a connection, and over once the head is complete: a body and an open WebSocket are not concerned.
"""

from __future__ import annotations

import select
import time
from contextlib import ExitStack

import pytest

from ..support.rawclient import TEXT, Frame, RawClient, upgrade_request
from ..support.servers import Server
from ..support.waiting import SPARE, agrees
from .watch import KEEP_ALIVE, Memory

PACE = 0.01
MIB = 2**20

SECOND = upgrade_request("/second?id={token}", ("X-Padding", "x" * 4000))
HEADS = {
    "nothing": b"",
    "the first byte": SECOND[:1],
    "a request line without an end": b"GET /second?id={token}" + b"&" * 4000,
    "a header without an end": SECOND[: SECOND.index(b"X-Padding")] + b"X-Padding: " + b"x" * 4000,
    "a handshake": SECOND,
    "headers without an end": SECOND[: SECOND.index(b"X-Padding")] + b"X: y\r\n" * 1000,
}


def until_cut(client: RawClient, data: bytes) -> float:
    """Seconds until the server closes the connection, to which ``data`` goes a byte at a time."""
    start = time.monotonic()
    rest = iter(data)
    while time.monotonic() < start + KEEP_ALIVE + SPARE:
        if select.select([client.sock], [], [], PACE)[0]:
            break
        byte = next(rest, None)
        if byte is not None:
            client.send(bytes([byte]))
    return time.monotonic() - start


@pytest.mark.parametrize("follows", [False, True], ids=["at once", "after another request"])
@pytest.mark.parametrize("head", HEADS)
def test_dribbled_head_is_cut(worker: Server, token: str, head: str, follows: bool) -> None:
    """When gunicorn's deadline for the head has passed, however lively the peer is; without a byte of an answer."""
    data = HEADS[head].replace(b"{token}", token.encode())
    with worker.connect() as client:
        if follows:
            assert client.get("/").status == 200
        waited = until_cut(client, data)
        rest = client.read_until_eof()
    assert (rest, worker.events(token)) == (b"", [])
    assert agrees(waited, KEEP_ALIVE)


def test_dribblers_cost_their_bytes(worker: Server, memory: Memory) -> None:
    """Two hundred at once: none holds more than what it has sent, and all are closed when the deadline has passed."""
    before = worker.status()
    with ExitStack() as stack, memory.grows_by_less_than(8 * MIB):
        clients = [stack.enter_context(worker.connect()) for _ in range(200)]
        for client in clients:
            client.send(upgrade_request("/echo", ("X-Padding", "x" * 4000))[:-1])
        assert [client.read_until_eof() for client in clients] == [b""] * 200
    assert worker.settled(fds=before["fds"], greenlets=before["greenlets"])["websockets"] == before["websockets"]


def test_handshake_in_single_bytes_is_accepted(worker: Server) -> None:
    """A peer that is merely odd, and done in time."""
    with worker.connect() as client:
        for byte in upgrade_request("/echo"):
            client.send(bytes([byte]))
        response = client.read_response()
        client.text("x")
        received = client.read_frame()
    assert (response.status, received) == (101, Frame(TEXT, b"x"))


@pytest.mark.parametrize("path", ["/echo", "/obedient"])
def test_open_websocket_has_no_such_deadline(worker: Server, path: str) -> None:
    """It may be silent for longer than the head of a request."""
    with worker.connect() as client:
        client.upgrade(path)
        assert until_cut(client, b"") >= KEEP_ALIVE + SPARE
        client.text("x")
        received = client.read_frame()
    assert received == Frame(TEXT, b"x")
