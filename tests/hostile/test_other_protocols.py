"""Other protocols on an upgraded connection, and frames that come with the handshake (row 19).

``tests/servers/test_servers.py`` has the plain cases on every server. Here: what else a scanner or a smuggler sends,
and connections whose view has returned, on which the server could take up its work again.
"""

from __future__ import annotations

import pytest

from ..support.rawclient import PING, PONG, TEXT, Frame, frame, request, upgrade_request
from ..support.servers import Server

FOREIGN = {
    "request": request("/second?id={token}"),
    "pipelined requests": request("/second?id={token}") * 5,
    "another handshake": upgrade_request("/second?id={token}"),
    "request of HTTP/1.0": b"GET /second?id={token} HTTP/1.0\r\n\r\n",
    "line breaks and a request": b"\r\n\r\n" + request("/second?id={token}"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "PROXY protocol": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + request("/second?id={token}"),
    "response": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "SSH": b"SSH-2.0-x\r\n",
    "nothing but zeros": bytes(1000),
}
VIEWS = ["/echo", "/detached", "/idle"]


@pytest.mark.parametrize("pipelined", [True, False], ids=["with the handshake", "later"])
@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("path", VIEWS)
def test_other_protocol_is_a_broken_frame(worker: Server, token: str, path: str, foreign: str, pipelined: bool) -> None:
    """1002 and the end; not a byte of an answer, and no request is served, whether the view runs or has returned."""
    sent = FOREIGN[foreign].replace(b"{token}", token.encode())
    with worker.connect() as client:
        client.upgrade(f"{path}?id={token}&nap=0.1", then=sent if pipelined else b"")
        if not pipelined:
            client.send(frame(PING))
            while client.read_frame() != Frame(PONG, b""):
                pass
            client.send(sent)
        frames = client.read_frames_until_eof()
    assert [one.code for one in frames if one.opcode != TEXT] == [1002]
    assert "second" not in worker.events(token)


@pytest.mark.parametrize("path", ["/echo", "/obedient"])
def test_request_inside_a_frame_is_a_message(worker: Server, token: str, path: str) -> None:
    """Masked with zeros it crosses the wire as it is, and goes no further than the view."""
    smuggled = request(f"/second?id={token}")
    with worker.connect() as client:
        client.upgrade(path, then=frame(TEXT, smuggled, mask=bytes(4)))
        first = client.read_frame()
        client.send(frame(TEXT, smuggled, mask=bytes(4)))
        second = client.read_frame()
    assert [first, second] == [Frame(TEXT, smuggled)] * 2
    assert worker.events(token) == []


@pytest.mark.parametrize("path", ["/echo", "/obedient"])
def test_frames_cut_by_the_end_of_the_handshake_are_whole(worker: Server, path: str) -> None:
    """The server has read the first bytes of a frame with the request, wherever they end."""
    frames = frame(TEXT, b"first") + frame(PING, b"ping") + frame(TEXT, b"x" * 300)
    for cut in range(1, 40):
        with worker.connect() as client:
            client.upgrade(path, then=frames[:cut])
            client.send(frames[cut:])
            received = [client.read_frame() for _ in range(3)]
        assert sorted(received) == sorted([Frame(TEXT, b"first"), Frame(PONG, b"ping"), Frame(TEXT, b"x" * 300)])
