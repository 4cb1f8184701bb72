"""The echo of picows on uvloop: its listener API, which is its fastest, on its own transport (aiofastnet).

A listener gets frames, not messages: what the other servers do for their applications is done here, no more.
Text becomes ``str`` and binary ``bytes``, fragments are put together, a close is answered; picows answers
pings by itself and sets TCP_NODELAY.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import sys

import uvloop
from picows import (
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_create_server,
)

TEXT = WSMsgType.TEXT
BINARY = WSMsgType.BINARY
CLOSE = WSMsgType.CLOSE
CONTINUATION = WSMsgType.CONTINUATION

MEMBERS: set[WSTransport] = set()


class Echo(WSListener):
    """Whole messages in ``on_text`` and ``on_binary``; both send back what they get."""

    def __init__(self) -> None:
        self.fragments: list[bytes] = []
        self.opcode = TEXT

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind is TEXT and frame.fin:
            self.on_text(transport, frame.get_payload_as_utf8_text())
        elif kind is BINARY and frame.fin:
            self.on_binary(transport, frame.get_payload_as_bytes())
        elif kind is CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif kind in (TEXT, BINARY, CONTINUATION):
            self.on_fragment(transport, frame, kind)

    def on_fragment(self, transport: WSTransport, frame: WSFrame, kind: WSMsgType) -> None:
        if kind is not CONTINUATION:
            self.opcode = kind
        self.fragments.append(frame.get_payload_as_bytes())
        if not frame.fin:
            return
        message = b"".join(self.fragments)
        self.fragments.clear()
        if self.opcode is TEXT:
            self.on_text(transport, message.decode())
        else:
            self.on_binary(transport, message)

    def on_text(self, transport: WSTransport, text: str) -> None:
        transport.send(TEXT, text.encode())

    def on_binary(self, transport: WSTransport, data: bytes) -> None:
        transport.send(BINARY, data)


class Fanout(Echo):
    """Text is sent to all connections of this path."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        MEMBERS.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        MEMBERS.discard(transport)

    def on_text(self, transport: WSTransport, text: str) -> None:
        payload = text.encode()
        for member in MEMBERS:
            member.send(TEXT, payload)


class Pid(Echo):
    """Any text is answered with the number of this process."""

    def on_text(self, transport: WSTransport, text: str) -> None:
        transport.send(TEXT, str(os.getpid()).encode())


PATHS: dict[str, type[Echo]] = {"/echo": Echo, "/fanout": Fanout, "/pid": Pid}


def listener(request: WSUpgradeRequest) -> WSListener | WSUpgradeResponseWithListener:
    if request.path == b"/plain":
        return WSUpgradeResponseWithListener(WSUpgradeResponse.create_ok_response(b"ok"), None)
    return PATHS[request.path.decode()]()


def tls() -> ssl.SSLContext | None:
    if (certificate := os.environ.get("BENCHMARK_CERTIFICATE")) is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


async def serve(fd: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    listening = socket.socket(fileno=fd)
    server = await ws_create_server(listener, sock=listening, max_frame_size=2**24, ssl=tls(), backlog=4096)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
