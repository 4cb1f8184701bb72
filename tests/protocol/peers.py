"""The engines of ``websockets`` and ``wsproto`` with one interface: the oracles of ``test_oracles``.

Both do no I/O: a conversation is bytes passed from one object to the other.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import wsproto
import wsproto.events
import wsproto.extensions
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from tests.protocol.reading import Message

__all__ = ["HOST", "Peer", "WebsocketsClient", "WebsocketsServer", "WsprotoClient", "WsprotoServer", "cut"]

HOST = "server.example"


def cut(data: Any, rng: random.Random) -> list[Any]:
    """``data`` in random pieces, some of them empty; one piece as often as not."""
    if rng.random() < 0.5:
        return [data]
    edges = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 6)))
    return [data[a:b] for a, b in zip([0, *edges], [*edges, len(data)], strict=True)]


class Peer:
    """The other end of a conversation."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.pongs: list[bytes] = []
        self.closed: tuple[int, str] | None = None
        """Code and reason that came."""

    def send(self, message: Message, rng: random.Random) -> bytes:
        """The frames of ``message``, fragmented at random, some with a ping between two fragments."""
        raise NotImplementedError

    def ping(self, payload: bytes) -> bytes:
        raise NotImplementedError

    def close(self, code: int, reason: str) -> bytes:
        raise NotImplementedError

    def receive(self, data: bytes) -> bytes:
        """Read ``data``; what this end says to it by itself."""
        raise NotImplementedError


class _Websockets(Peer):
    engine: ClientProtocol | ServerProtocol

    def __init__(self) -> None:
        super().__init__()
        self._opcode: Opcode | None = None
        self._pieces: list[bytes] = []

    def _out(self) -> bytes:
        return b"".join(self.engine.data_to_send())

    def fragments(self, opcode: Opcode, pieces: Sequence[bytes], between: Callable[[], None] = lambda: None) -> bytes:
        """A message in exactly these pieces."""
        first, *rest = pieces
        start = self.engine.send_text if opcode is Opcode.TEXT else self.engine.send_binary
        start(first, fin=not rest)
        for index, piece in enumerate(rest):
            between()
            self.engine.send_continuation(piece, fin=index == len(rest) - 1)
        return self._out()

    def send(self, message: Message, rng: random.Random) -> bytes:
        text = isinstance(message, str)
        data = message.encode() if isinstance(message, str) else message

        def between() -> None:
            if rng.random() < 0.2:
                self.engine.send_ping(b"between")

        return self.fragments(Opcode.TEXT if text else Opcode.BINARY, cut(data, rng), between)

    def ping(self, payload: bytes) -> bytes:
        self.engine.send_ping(payload)
        return self._out()

    def close(self, code: int, reason: str) -> bytes:
        self.engine.send_close(code, reason)
        return self._out()

    def receive(self, data: bytes) -> bytes:
        self.engine.receive_data(data)
        for frame in self.engine.events_received():
            assert isinstance(frame, Frame), frame
            self._take(frame)
        assert self.engine.parser_exc is None, self.engine.parser_exc
        return self._out()

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PONG:
            self.pongs.append(bytes(frame.data))
        elif frame.opcode is Opcode.CLOSE:
            received = self.engine.close_rcvd
            assert received is not None
            self.closed = int(received.code), received.reason
        elif frame.opcode is not Opcode.PING:
            self._opcode = self._opcode or frame.opcode
            self._pieces.append(bytes(frame.data))
            if frame.fin:
                whole = b"".join(self._pieces)
                self.messages.append(whole.decode() if self._opcode is Opcode.TEXT else whole)
                self._opcode, self._pieces = None, []


class WebsocketsClient(_Websockets):
    """``websockets`` as a client."""

    engine: ClientProtocol

    def __init__(
        self, deflate: ClientPerMessageDeflateFactory | None = None, subprotocols: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        names: Any = subprotocols
        uri = parse_uri(f"ws://{HOST}/chat")
        extensions = None if deflate is None else [deflate]
        self.engine = ClientProtocol(uri, extensions=extensions, subprotocols=names, max_size=2**23)

    def request(self) -> bytes:
        self.engine.send_request(self.engine.connect())
        return self._out()

    def response(self, data: bytes) -> None:
        """Read the server's 101; an exception if it is not one that this library takes."""
        self.engine.receive_data(data)
        if self.engine.handshake_exc is not None:
            raise self.engine.handshake_exc
        self.engine.events_received()

    @property
    def subprotocol(self) -> str | None:
        return self.engine.subprotocol


class WebsocketsServer(_Websockets):
    """``websockets`` as a server."""

    engine: ServerProtocol

    def __init__(
        self, deflate: ServerPerMessageDeflateFactory | None = None, subprotocols: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        names: Any = subprotocols
        extensions = None if deflate is None else [deflate]
        self.engine = ServerProtocol(extensions=extensions, subprotocols=names, max_size=2**23)

    def respond(self, request: bytes) -> bytes:
        """The answer to a handshake."""
        self.engine.receive_data(request)
        (event,) = self.engine.events_received()
        assert isinstance(event, Request)
        self.engine.send_response(self.engine.accept(event))
        return self._out()


class _Wsproto(Peer):
    def __init__(self, client: bool) -> None:
        super().__init__()
        kind = wsproto.ConnectionType.CLIENT if client else wsproto.ConnectionType.SERVER
        self.engine = wsproto.WSConnection(kind)
        self._pieces: list[Any] = []

    def send(self, message: Message, rng: random.Random) -> bytes:
        kind: Any = wsproto.events.TextMessage if isinstance(message, str) else wsproto.events.BytesMessage
        pieces = cut(message, rng)
        out = b""
        for index, piece in enumerate(pieces):
            if index and rng.random() < 0.2:
                out += self.ping(b"between")
            out += self.engine.send(kind(data=piece, message_finished=index == len(pieces) - 1))
        return out

    def ping(self, payload: bytes) -> bytes:
        return self.engine.send(wsproto.events.Ping(payload=payload))

    def close(self, code: int, reason: str) -> bytes:
        return self.engine.send(wsproto.events.CloseConnection(code=code, reason=reason))

    def receive(self, data: bytes) -> bytes:
        self.engine.receive_data(data)
        out = b""
        for event in self.engine.events():
            if isinstance(event, wsproto.events.Ping):
                out += self.engine.send(event.response())
            elif isinstance(event, wsproto.events.Pong):
                self.pongs.append(bytes(event.payload))
            elif isinstance(event, wsproto.events.CloseConnection):
                self.closed = int(event.code), event.reason or ""
                if self.engine.state is wsproto.connection.ConnectionState.REMOTE_CLOSING:
                    out += self.engine.send(event.response())
            else:
                assert isinstance(event, (wsproto.events.TextMessage, wsproto.events.BytesMessage)), event
                text = isinstance(event, wsproto.events.TextMessage)
                self._pieces.append(event.data if text else bytes(event.data))
                if event.message_finished:
                    self.messages.append("".join(self._pieces) if text else b"".join(self._pieces))
                    self._pieces = []
        return out


class WsprotoClient(_Wsproto):
    """``wsproto`` as a client."""

    def __init__(
        self, deflate: wsproto.extensions.PerMessageDeflate | None = None, subprotocols: Sequence[str] | None = None
    ) -> None:
        super().__init__(client=True)
        self._extensions: list[Any] = [] if deflate is None else [deflate]
        self._subprotocols = list(subprotocols or ())
        self.subprotocol: str | None = None

    def request(self) -> bytes:
        event = wsproto.events.Request(
            host=HOST, target="/chat", extensions=self._extensions, subprotocols=self._subprotocols
        )
        return self.engine.send(event)

    def response(self, data: bytes) -> None:
        """Read the server's 101; an exception if it is not one that this library takes."""
        self.engine.receive_data(data)
        (event,) = self.engine.events()
        assert isinstance(event, wsproto.events.AcceptConnection), event
        self.subprotocol = event.subprotocol


class WsprotoServer(_Wsproto):
    """``wsproto`` as a server."""

    def __init__(
        self, deflate: wsproto.extensions.PerMessageDeflate | None = None, subprotocols: Sequence[str] | None = None
    ) -> None:
        super().__init__(client=False)
        self._extensions: list[Any] = [] if deflate is None else [deflate]
        self._subprotocols = list(subprotocols or ())

    def respond(self, request: bytes) -> bytes:
        """The answer to a handshake."""
        self.engine.receive_data(request)
        (event,) = self.engine.events()
        assert isinstance(event, wsproto.events.Request), event
        common = [name for name in event.subprotocols if name in self._subprotocols]
        return self.engine.send(
            wsproto.events.AcceptConnection(subprotocol=common[0] if common else None, extensions=self._extensions)
        )
