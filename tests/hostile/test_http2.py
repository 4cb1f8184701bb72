"""WebSocket handshakes inside of HTTP/2 (row 20): the connection carries other people's requests, and is never taken.

A new gunicorn speaks HTTP/2 where the package ``h2`` is installed. The client is made of bytes: a proper library would
refuse to send what these tests do.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from ..support.notices import gunicorn_speaks_http2
from ..support.rawclient import KEY, RawClient
from ..support.servers import Certificate, Server, launch

pytestmark = pytest.mark.skipif(
    not gunicorn_speaks_http2(), reason="gunicorn's HTTP/2: h2 is not installed, or gunicorn is too old"
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0x0, 0x1, 0x3, 0x4, 0x7
END_STREAM, END_HEADERS = 0x1, 0x4

Fields = list[tuple[str, str]]
KEY_AND_VERSION = [("sec-websocket-key", KEY), ("sec-websocket-version", "13")]


class Frame2(NamedTuple):
    """One frame of HTTP/2 (RFC 9113 4.1)."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame2(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Its bytes."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def headers(stream: int, fields: Fields) -> bytes:
    """A request, each field a literal (RFC 7541 6.2.2) and below 127 bytes."""
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in fields
    )
    return frame2(HEADERS, END_HEADERS | END_STREAM, stream, block)


def asked(path: str, *more: tuple[str, str], method: str = "GET") -> Fields:
    """The fields of a request."""
    pseudo = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
    return [*pseudo, *more]


class Client2:
    """One connection of HTTP/2."""

    def __init__(self, server: Server) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        self.raw = RawClient(server.address, tls=context)
        assert isinstance(self.raw.sock, ssl.SSLSocket)
        assert self.raw.sock.selected_alpn_protocol() == "h2"
        self.raw.send(PREFACE + frame2(SETTINGS, 0, 0))

    def __enter__(self) -> Client2:
        return self

    def __exit__(self, *error: object) -> None:
        self.raw.close()

    def read(self) -> Frame2 | None:
        """The next frame, or None at the end."""
        try:
            head = self.raw.read_exactly(9)
            payload = self.raw.read_exactly(int.from_bytes(head[:3], "big"))
        except EOFError:
            return None
        return Frame2(head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF, payload)

    def answer(self, stream: int) -> list[Frame2]:
        """The frames of this stream until it ends, or the connection does."""
        frames = []
        while (one := self.read()) is not None and one.kind != GOAWAY:
            if one.stream == stream:
                frames.append(one)
                if one.kind == RST_STREAM or (one.kind in (DATA, HEADERS) and one.flags & END_STREAM):
                    break
        return frames

    def body(self, stream: int) -> bytes:
        """The same, and its body alone."""
        return b"".join(one.payload for one in self.answer(stream) if one.kind == DATA)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Server]:
    """Our worker with HTTP/2 over TLS."""
    directory, options = tmp_path_factory.mktemp("http2"), ["--http-protocols", "h2,h1"]
    with launch("worker", directory, certificate=certificate, options=options) as server:
        yield server


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    """The same; its log is checked after each test."""
    yield running
    running.log.check()


def test_plain_request_is_served(server: Server) -> None:
    """Over HTTP/2, and without a WebSocket in its environ: so the tests below do test something."""
    with Client2(server) as client:
        client.raw.send(headers(1, asked("/plain")) + headers(3, asked("/plain", *KEY_AND_VERSION[1:])))
        bodies = [client.body(1), client.body(3)]
    assert bodies == [b"no websocket"] * 2


def test_handshake_without_an_upgrade_is_answered_in_its_stream(server: Server) -> None:
    """A key alone gets the sentence about a proxy that has dropped the upgrade; the other streams go on."""
    with Client2(server) as client:
        client.raw.send(headers(1, asked("/plain", *KEY_AND_VERSION)))
        bodies = [client.body(1)]
        client.raw.send(headers(3, asked("/plain")))
        bodies.append(client.body(3))
    assert bodies[0].startswith(b"The request has a Sec-WebSocket-Key, but no Upgrade header.")
    assert bodies[1] == b"no websocket"


UPGRADES: dict[str, Fields] = {
    "an upgrade": [("upgrade", "websocket"), ("connection", "Upgrade"), *KEY_AND_VERSION],
    "an upgrade without a connection": [("upgrade", "websocket"), *KEY_AND_VERSION],
    "an upgrade in other letters": [("Upgrade", "websocket"), ("Connection", "Upgrade"), *KEY_AND_VERSION],
}


@pytest.mark.parametrize("case", UPGRADES)
def test_upgrade_in_a_stream_is_refused(server: Server, token: str, case: str) -> None:
    """No 101, no view: the connection's error, or this stream's; and nothing but frames of HTTP/2 comes."""
    with Client2(server) as client:
        client.raw.send(headers(1, asked(f"/second?id={token}", *UPGRADES[case])))
        frames = client.answer(1)
    assert [one for one in frames if one.kind == DATA and b"SMUGGLED" in one.payload] == []
    assert server.events(token) == []


def test_extended_connect_opens_no_websocket(server: Server) -> None:
    """RFC 8441 is for servers that have offered it: to the application it is a request as any, and so are the next."""
    fields = [*asked("/plain", method="CONNECT"), (":protocol", "websocket"), *KEY_AND_VERSION[1:]]
    with Client2(server) as client:
        client.raw.send(headers(1, fields))
        bodies = [client.body(1)]
        client.raw.send(headers(3, asked("/plain")))
        bodies.append(client.body(3))
    assert bodies == [b"no websocket"] * 2


def test_websocket_beside_http2_works(server: Server) -> None:
    """Who offers both gets its WebSocket over HTTP/1.1, on the same port."""
    with server.connect() as client:
        client.upgrade("/echo")
        client.text("x")
        assert client.read_frame().payload == b"x"
