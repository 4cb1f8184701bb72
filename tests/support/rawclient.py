"""A raw-socket HTTP and WebSocket client for tests: it sends any byte, right or wrong, and sees every byte that comes.

It shares no code with the engine under test, so what it reads is a second opinion. It blocks; each wait has a deadline
(``timeout``, seconds) and ends with TimeoutError.

::

    with RawClient(address) as client:
        client.send(upgrade_request("/echo") + frame(TEXT, b"pipelined"))
        assert client.read_response().status == 101
        assert client.read_frame() == Frame(TEXT, b"pipelined")
"""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import ssl
import struct
import zlib
from collections.abc import Iterable
from types import TracebackType
from typing import NamedTuple

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "DEFLATE",
    "PING",
    "PONG",
    "TEXT",
    "Address",
    "Frame",
    "RawClient",
    "Response",
    "close_frame",
    "deflated",
    "frame",
    "request",
    "upgrade_request",
]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # the sample nonce of RFC 6455 1.3
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # and its answer
DEFLATE = ("Sec-WebSocket-Extensions", "permessage-deflate")
"""The header that offers compression."""

Address = tuple[str, int] | str
"""Of a TCP socket, or the path of a unix one."""

Headers = Iterable[tuple[str, str]]


class Frame(NamedTuple):
    """One frame as it came."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0

    @property
    def code(self) -> int | None:
        """The code of a close frame, None if it has none."""
        assert self.opcode == CLOSE, self
        return int.from_bytes(self.payload[:2], "big") if self.payload else None

    @property
    def reason(self) -> str:
        """The reason of a close frame."""
        assert self.opcode == CLOSE, self
        return self.payload[2:].decode()


class Response(NamedTuple):
    """An HTTP response as it came."""

    status: int
    reason: str
    headers: dict[str, str]
    """Names in lower case; several values of one name are joined with ", "."""
    body: bytes


# --- bytes to send -------------------------------------------------------------------------------------------------


def request(path: str = "/", *headers: tuple[str, str], method: str = "GET", host: str | None = "test") -> bytes:
    """An HTTP/1.1 request without a body."""
    fields = [] if host is None else [("Host", host)]
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in [*fields, *headers])]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def upgrade_request(
    path: str = "/", *headers: tuple[str, str], without: Iterable[str] = (), method: str = "GET"
) -> bytes:
    """A handshake (RFC 6455 4.1). ``headers`` replace those of the same name; ``without`` names some to leave out."""
    fields = {
        "Host": "test",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    dropped = {name.lower() for name in without} | {name.lower() for name, _ in headers}
    kept = [(name, value) for name, value in fields.items() if name.lower() not in dropped]
    return request(path, *kept, *headers, method=method, host=None)


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = b"\x12\x34\x56\x78",
    length: int | None = None,
    length_bytes: int | None = None,
) -> bytes:
    """A client's frame (RFC 6455 5.2). ``mask=None`` leaves it unmasked; ``length`` is what is announced instead of
    the true length, ``length_bytes`` (0, 2 or 8) is how many bytes of extended length carry it.
    """
    announced = len(payload) if length is None else length
    if length_bytes is None:
        length_bytes = 0 if announced < 126 else 2 if announced < 65536 else 8
    short = {0: announced, 2: 126, 8: 127}[length_bytes]
    head = bytes([fin << 7 | rsv << 4 | opcode, (mask is not None) << 7 | short])
    if length_bytes:
        head += announced.to_bytes(length_bytes, "big")
    return head + (payload if mask is None else mask + _xor(payload, mask))


def close_frame(code: int | None = 1000, reason: str = "", **options: object) -> bytes:
    """A client's close frame; ``code=None`` sends an empty one. ``options`` are those of ``frame``."""
    payload = b"" if code is None else struct.pack("!H", code) + reason.encode()
    return frame(CLOSE, payload, **options)  # type: ignore[arg-type]


def deflated(payload: bytes) -> bytes:
    """The payload of a message under permessage-deflate (RFC 7692 7.2.1)."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def _xor(payload: bytes, mask: bytes) -> bytes:
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(len(payload), "big")


# --- the client ----------------------------------------------------------------------------------------------------


class RawClient:
    """One connection to a server."""

    def __init__(
        self,
        address: Address,
        *,
        tls: ssl.SSLContext | None = None,
        server_hostname: str = "localhost",
        timeout: float = 10.0,
        receive_buffer: int | None = None,
    ) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.sock: socket.socket = socket.socket(family, socket.SOCK_STREAM)
        self.buffer = bytearray()
        """What has come and was not read yet."""
        try:
            self.sock.settimeout(timeout)
            if receive_buffer is not None:  # a slow reader's: before connect(), so that the window is small
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self.sock.connect(address)
            if family == socket.AF_INET:
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                self.sock = tls.wrap_socket(self.sock, server_hostname=server_hostname)
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket, without a close frame."""
        self.sock.close()

    def reset(self) -> None:
        """Disconnect with a RST (TCP only)."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    # --- sending ---------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Put bytes on the wire."""
        self.sock.sendall(data)

    def text(self, payload: str) -> None:
        """Send a text message."""
        self.send(frame(TEXT, payload.encode()))

    def binary(self, payload: bytes) -> None:
        """Send a binary message."""
        self.send(frame(BINARY, payload))

    # --- receiving -------------------------------------------------------------------------------------------------

    def _more(self) -> bool:
        """Read once; False at the end of the stream, which a reset also is."""
        try:
            data = self.sock.recv(262144)
        except (ConnectionError, ssl.SSLError):
            return False
        self.buffer += data
        return bool(data)

    def read_exactly(self, size: int) -> bytes:
        """The next ``size`` bytes; EOFError if the stream ends before."""
        while len(self.buffer) < size:
            if not self._more():
                raise EOFError(f"{size} bytes were wanted, the stream ended after {bytes(self.buffer)!r}")
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def read_until(self, mark: bytes) -> bytes:
        """The bytes up to ``mark`` and ``mark`` itself; EOFError if the stream ends before."""
        while (index := self.buffer.find(mark)) < 0:
            if not self._more():
                raise EOFError(f"{mark!r} was wanted, the stream ended after {bytes(self.buffer)!r}")
        return self.read_exactly(index + len(mark))

    def read_until_eof(self) -> bytes:
        """Everything until the server closes."""
        while self._more():
            pass
        return self.read_exactly(len(self.buffer))

    def read_response(self) -> Response:
        """An HTTP response, with its body if it has one."""
        first, _, rest = self.read_until(b"\r\n\r\n").decode("latin-1").partition("\r\n")
        protocol, _, tail = first.partition(" ")
        assert protocol in ("HTTP/1.1", "HTTP/1.0"), f"not an HTTP response: {first!r}"
        headers: dict[str, str] = {}
        for line in rest.split("\r\n")[:-2]:
            name, _, value = line.partition(":")
            name, value = name.lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        status, _, reason = tail.partition(" ")
        return Response(int(status), reason, headers, self._read_body(int(status), headers))

    def _read_body(self, status: int, headers: dict[str, str]) -> bytes:
        if status < 200 or status in (204, 304):
            return b""
        if "content-length" in headers:
            return self.read_exactly(int(headers["content-length"]))
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return self.read_until_eof()
        body = b""
        while size := int(self.read_until(b"\r\n"), 16):
            body += self.read_exactly(size + 2)[:-2]
        self.read_exactly(2)
        return body

    def read_frame(self) -> Frame:
        """The server's next frame. It must be unmasked (RFC 6455 5.1) and of minimal length (5.2)."""
        first, second = self.read_exactly(2)
        size = second & 0x7F
        assert not second & 0x80, "a server's frame is masked"
        if size == 126:
            size = int.from_bytes(self.read_exactly(2), "big")
            assert size > 125, "the length is not minimal"
        elif size == 127:
            size = int.from_bytes(self.read_exactly(8), "big")
            assert size > 65535, "the length is not minimal"
        return Frame(first & 0x0F, self.read_exactly(size), bool(first & 0x80), first >> 4 & 7)

    def read_frames_until_eof(self) -> list[Frame]:
        """The frames until the server closes: any other byte fails."""
        frames = []
        while self.buffer or self._more():
            frames.append(self.read_frame())
        return frames

    # --- whole steps -----------------------------------------------------------------------------------------------

    def upgrade(self, path: str = "/", *headers: tuple[str, str], then: bytes = b"") -> Response:
        """Send a handshake, and ``then`` in the same write after it; the answer must be a right 101 (RFC 6455 4.1)."""
        self.send(upgrade_request(path, *headers) + then)
        response = self.read_response()
        assert response.status == 101, response
        assert response.headers["upgrade"].lower() == "websocket", response
        assert response.headers["connection"].lower() == "upgrade", response
        assert response.headers["sec-websocket-accept"] == ACCEPT, response
        assert not {"content-length", "transfer-encoding"} & set(response.headers), response  # RFC 9110 8.6, 9112 6.1
        return response

    def get(self, path: str = "/", *headers: tuple[str, str]) -> Response:
        """Send a GET request and read the response."""
        self.send(request(path, *headers))
        return self.read_response()

    def close_handshake(self, code: int | None = 1000, reason: str = "") -> list[Frame]:
        """Send a close frame; the frames that come until the server closes the connection."""
        self.send(close_frame(code, reason))
        return self.read_frames_until_eof()


def random_key() -> str:
    """A fresh Sec-WebSocket-Key."""
    return base64.b64encode(os.urandom(16)).decode()


def accept_of(key: str) -> str:
    """The Sec-WebSocket-Accept that answers ``key``."""
    return base64.b64encode(hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()
