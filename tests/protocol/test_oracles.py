"""Outside oracles: ``websockets`` and ``wsproto`` as clients of our server engine and as servers of our client engine.

The handshake is the real one on both sides, in every shape of permessage-deflate that either library can negotiate.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory
from websockets.frames import Opcode
from wsproto.extensions import PerMessageDeflate

from gws_middleware.protocol import deflate
from gws_middleware.protocol.connection import Connection, State
from gws_middleware.protocol.deflate import Deflate, Parameters
from gws_middleware.protocol.handshake import Handshake, Request, accept_headers, check_response, judge
from tests.protocol.peers import (
    HOST,
    Peer,
    WebsocketsClient,
    WebsocketsServer,
    WsprotoClient,
    WsprotoServer,
    cut,
)
from tests.protocol.reading import Message, frames_of, joined
from tests.support.rawclient import KEY, upgrade_request

pytestmark = pytest.mark.slow  # seconds of computing: too many for every save


LIMIT = 2**23
MODES = ["shared", "dedicated"]
FLAGS = list(itertools.product([False, True], repeat=2))
BITS = list(range(9, 16))
SIZES = [0, 1, 125, 126, 65535, 65536, 2**22]
PLANES = "".join(chr(plane << 16 | point) for plane in range(17) for point in (0x20, 0xD7FF, 0xE000, 0xFFFF))


# The handshake, both ways


def fields_of(head: bytes) -> tuple[str, dict[str, str]]:
    """The first line of an HTTP head and its fields by lower-case name."""
    first, *lines = head.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")
    return first, {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def judged(head: bytes, mode: str) -> Handshake:
    """Their request through our rules."""
    first, fields = fields_of(head)
    method, _, protocol = first.split(" ")
    answer = judge(
        Request(
            method,
            protocol,
            fields.get("host"),
            fields.get("upgrade"),
            fields.get("connection"),
            fields.get("sec-websocket-key"),
            fields.get("sec-websocket-version"),
            fields.get("sec-websocket-protocol"),
            fields.get("sec-websocket-extensions"),
            fields.get("origin"),
            fields.get("content-length"),
            fields.get("transfer-encoding"),
        ),
        ["same-origin"],
        mode,
    )
    assert isinstance(answer, Handshake), answer
    return answer


def serve(client: WebsocketsClient | WsprotoClient, mode: str, subprotocol: str | None = None) -> Connection:
    """Our server's engine after their client's handshake."""
    handshake = judged(client.request(), mode)
    headers = "".join(f"{name}: {value}\r\n" for name, value in accept_headers(handshake, subprotocol))
    client.response(f"HTTP/1.1 101 Switching Protocols\r\n{headers}\r\n".encode("latin-1"))
    agreed = handshake.compression
    return Connection(max_message_size=LIMIT, deflate=None if agreed is None else Deflate(agreed))


def connect(
    server: WebsocketsServer | WsprotoServer, offered: Parameters | None, names: Sequence[str] = ()
) -> Connection:
    """Our client's engine after their server's answer."""
    fields = []
    if offered is not None:
        fields.append(("Sec-WebSocket-Extensions", deflate.offer(offered)))
    if names:
        fields.append(("Sec-WebSocket-Protocol", ", ".join(names)))
    first, headers = fields_of(server.respond(upgrade_request("/chat", *fields)))
    agreed = check_response(int(first.split(" ")[1]), headers, KEY, names, offered)[1]
    return Connection(
        client=True, max_message_size=LIMIT, deflate=None if agreed is None else Deflate(agreed, client=True)
    )


# The conversation


class Talk:
    """A conversation of our engine with one of theirs."""

    def __init__(self, ours: Connection, theirs: Peer, seed: int = 0) -> None:
        self.ours, self.theirs = ours, theirs
        self.rng = random.Random(seed)
        self.got: list[Message] = []

    def to_us(self, data: bytes) -> None:
        """Deliver their bytes in pieces, and our replies."""
        for piece in cut(data, self.rng):
            self.got += self.ours.feed(piece)
            while self.ours.stalled:
                self.got += self.ours.feed(b"")
        if self.ours.has_replies:
            self.to_them(self.ours.take_replies())

    def to_them(self, data: bytes) -> None:
        """Deliver our bytes, and their replies."""
        replies = self.theirs.receive(data)
        if replies:
            self.to_us(replies)

    def exchange(self, messages: Sequence[Message]) -> None:
        """Each message both ways, with pings in between: what comes out is what went in."""
        for message in messages:
            self.to_us(self.theirs.send(message, self.rng))
            self.to_them(joined(self.ours.encode(message)))
            if self.rng.random() < 0.3:
                self.to_them(self.ours.ping(b"from us"))
        assert self.got == list(messages)
        assert self.theirs.messages == list(messages)
        assert self.ours.state is State.OPEN
        assert set(self.ours.pongs) <= {b"from us"} and set(self.theirs.pongs) <= {b"between"}

    def close_ours(self, code: int = 1000, reason: str = "bye") -> None:
        """We send a close frame; they answer with the same code."""
        self.ours.close(code, reason)
        self.to_them(self.ours.take_replies())
        assert self.theirs.closed == (code, reason)
        assert self.ours.state is State.CLOSED
        assert self.ours.received_close is not None and self.ours.received_close[0] == code

    def close_theirs(self, code: int = 1001, reason: str = "grüße") -> None:
        """They send a close frame; we answer with the same code."""
        self.to_us(self.theirs.close(code, reason))
        assert (self.ours.state, self.ours.received_close) == (State.CLOSED, (code, reason))
        assert self.theirs.closed == (code, "")

    def close(self) -> None:
        """One of the two."""
        self.rng.choice([self.close_ours, self.close_theirs])()


def messages_for(seed: int) -> list[Message]:
    """Messages that compress well, badly and not at all, short and long, some sent twice, to use the context."""
    rng = random.Random(seed)
    noise = rng.randbytes(1100)
    text = "".join(rng.choice("aé漢😀 ") for _ in range(500))
    return [text, noise, "", noise, b"", b"x", "ü" * 700, noise[:100] * 15, text]


def test_talk_notices_a_difference() -> None:
    """The oracle fails when a message does not come out as it went in."""
    client = WebsocketsClient()
    talk = Talk(serve(client, "off"), client)
    talk.got.append("not sent")
    with pytest.raises(AssertionError):
        talk.exchange(["a"])


# Their clients, our server


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("server_bits", [None, *BITS])
def test_websockets_client(mode: str, flags: tuple[bool, bool], server_bits: int | None) -> None:
    """``websockets`` as a client takes our answer to every offer of its own, and talks with us."""
    for client_bits in (None, True, *BITS):
        client = WebsocketsClient(ClientPerMessageDeflateFactory(*flags, server_bits, client_bits))
        ours = serve(client, mode)
        assert client.engine.extensions
        talk = Talk(ours, client, seed=BITS.index(client_bits) if client_bits in BITS else 0)
        talk.exchange(messages_for(1))
        talk.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("server_bits", BITS)
def test_wsproto_client(mode: str, flags: tuple[bool, bool], server_bits: int) -> None:
    """``wsproto`` as a client takes our answer to every offer of its own, and talks with us."""
    client_reset, server_reset = flags
    for client_bits in BITS:
        extension = PerMessageDeflate(client_reset, client_bits, server_reset, server_bits)
        client = WsprotoClient(extension)
        ours = serve(client, mode)
        assert extension.enabled()
        talk = Talk(ours, client, seed=client_bits)
        talk.exchange(messages_for(2))
        talk.close()


# Our client, their servers


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("server_bits", BITS)
@pytest.mark.parametrize("theirs", [(False, False, None, None), (True, True, 10, 11), (False, False, 9, 9)])
def test_websockets_server(
    flags: tuple[bool, bool], server_bits: int, theirs: tuple[bool, bool, int | None, int | None]
) -> None:
    """``websockets`` as a server takes every offer of our client, and talks with us by what it answered."""
    for client_bits in BITS:
        server = WebsocketsServer(ServerPerMessageDeflateFactory(*theirs))
        ours = connect(server, Parameters(*flags, server_bits, client_bits))
        assert server.engine.extensions and not ours.plain
        talk = Talk(ours, server, seed=client_bits)
        talk.exchange(messages_for(3))
        talk.close()


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("server_bits", BITS)
@pytest.mark.parametrize("theirs", [(False, None, False, None), (True, 10, True, 11)])
def test_wsproto_server(
    flags: tuple[bool, bool], server_bits: int, theirs: tuple[bool, int | None, bool, int | None]
) -> None:
    """``wsproto`` as a server takes every offer of our client, and talks with us by what it answered."""
    for client_bits in BITS:
        extension = PerMessageDeflate(*theirs)
        server = WsprotoServer(extension)
        ours = connect(server, Parameters(*flags, server_bits, client_bits))
        assert extension.enabled()
        talk = Talk(ours, server, seed=client_bits)
        talk.exchange(messages_for(4))
        talk.close()


# Without compression, and what does not depend on it

PAIRS = {
    "websockets client": lambda: talk_of(WebsocketsClient(), None),
    "websockets client, off": lambda: talk_of(WebsocketsClient(ClientPerMessageDeflateFactory()), "off"),
    "websockets client, shared": lambda: talk_of(WebsocketsClient(ClientPerMessageDeflateFactory()), "shared"),
    "websockets client, dedicated": lambda: talk_of(WebsocketsClient(ClientPerMessageDeflateFactory()), "dedicated"),
    "websockets server": lambda: talk_of(WebsocketsServer(), None),
    "websockets server, deflate": lambda: talk_of(WebsocketsServer(ServerPerMessageDeflateFactory()), "deflate"),
    "wsproto client": lambda: talk_of(WsprotoClient(), None),
    "wsproto client, off": lambda: talk_of(WsprotoClient(PerMessageDeflate()), "off"),
    "wsproto client, shared": lambda: talk_of(WsprotoClient(PerMessageDeflate()), "shared"),
    "wsproto client, dedicated": lambda: talk_of(WsprotoClient(PerMessageDeflate()), "dedicated"),
    "wsproto server": lambda: talk_of(WsprotoServer(), None),
    "wsproto server, deflate": lambda: talk_of(WsprotoServer(PerMessageDeflate()), "deflate"),
}


def talk_of(peer: Peer, compression: str | None) -> Talk:
    """Messages after the handshake that ``peer`` asks for."""
    if isinstance(peer, (WebsocketsClient, WsprotoClient)):
        return Talk(serve(peer, compression or "off"), peer)
    assert isinstance(peer, (WebsocketsServer, WsprotoServer))
    return Talk(connect(peer, None if compression is None else Parameters()), peer)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("size", SIZES)
def test_sizes(pair: str, size: int) -> None:
    """Text and binary of all sizes at the edges of the framing, and of 4 MiB, come out on both sides."""
    noise = random.Random(size).randbytes(min(size, 50_000))
    filler = b"\0" * (size - len(noise))
    PAIRS[pair]().exchange([noise + filler, "a" * size, "漢" * (size // 3)])


@pytest.mark.parametrize("pair", PAIRS)
def test_unicode(pair: str) -> None:
    """All planes come out on both sides, however the text is fragmented."""
    talk = PAIRS[pair]()
    talk.exchange([PLANES, *PLANES, *[PLANES] * 20])


@pytest.mark.parametrize("pair", [name for name in PAIRS if name.startswith("websockets")])
def test_text_split_at_every_byte(pair: str) -> None:
    """A text that is fragmented between any two of its bytes comes out whole."""
    talk = PAIRS[pair]()
    data = PLANES.encode()
    assert isinstance(talk.theirs, (WebsocketsClient, WebsocketsServer))
    for split in range(len(data) + 1):
        talk.to_us(talk.theirs.fragments(Opcode.TEXT, [data[:split], data[split:]]))
    talk.to_us(talk.theirs.fragments(Opcode.TEXT, [data[i : i + 1] for i in range(len(data))]))
    assert talk.got == [PLANES] * (len(data) + 2)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("reason", ["", "grüße", "x" * 123])
def test_close_codes(pair: str, reason: str) -> None:
    """Codes and reasons travel both ways."""
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 4999):
        first, second = PAIRS[pair](), PAIRS[pair]()
        first.close_ours(code, reason)
        second.close_theirs(code, reason)
        assert (first.ours.state, second.ours.state) == (State.CLOSED, State.CLOSED)


@pytest.mark.parametrize("pair", PAIRS)
def test_pings(pair: str) -> None:
    """Pings are answered with their payload on both sides, the empty one too."""
    talk = PAIRS[pair]()
    payloads = [b"", b"1", b"\xff" * 125]
    for payload in payloads:
        talk.to_them(talk.ours.ping(payload))
        talk.to_us(talk.theirs.ping(payload))
    assert (list(talk.ours.pongs), talk.theirs.pongs) == (payloads, payloads)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("seed", range(2))
def test_long_conversation(pair: str, seed: int) -> None:
    """Hundreds of random messages keep both sides in step."""
    rng = random.Random(seed)
    words = [rng.randbytes(20).hex() for _ in range(30)]
    messages: list[Message] = []
    for _ in range(120):
        text = " ".join(rng.choices(words, k=rng.randrange(40)))
        messages.append(rng.choice([text, text.encode(), rng.randbytes(rng.randrange(200))]))
    talk = PAIRS[pair]()
    talk.exchange(messages)
    talk.close()
    assert talk.ours.state is State.CLOSED


# The rest of the handshake


@pytest.mark.parametrize("kind", [WebsocketsClient, WsprotoClient])
def test_subprotocol_for_their_client(kind: type[WebsocketsClient | WsprotoClient]) -> None:
    """Their clients' offers are read in order, and they take the one that is chosen."""
    client = kind(subprotocols=["chat", "superchat"])
    request = client.request()
    handshake = judged(request, "off")
    fresh = kind(subprotocols=["chat", "superchat"])
    serve(fresh, "off", "superchat")
    assert (handshake.subprotocols, fresh.subprotocol) == (("chat", "superchat"), "superchat")


@pytest.mark.parametrize("kind", [WebsocketsServer, WsprotoServer])
def test_subprotocol_for_our_client(kind: type[WebsocketsServer | WsprotoServer]) -> None:
    """Our client takes the subprotocol that their server chose."""
    server = kind(subprotocols=["superchat"])
    head = upgrade_request("/chat", ("Sec-WebSocket-Protocol", "chat, superchat"))
    first, headers = fields_of(server.respond(head))
    assert first.startswith("HTTP/1.1 101 ")
    assert check_response(101, headers, KEY, ("chat", "superchat")) == ("superchat", None)


@pytest.mark.parametrize("kind", [WebsocketsServer, WsprotoServer])
def test_server_without_compression(kind: type[WebsocketsServer | WsprotoServer]) -> None:
    """A server that leaves the extension out leaves our client without compression."""
    ours = connect(kind(), Parameters())
    (sent,) = frames_of(joined(ours.encode(b"x" * 5000)))
    assert (sent.payload, sent.rsv) == (b"x" * 5000, 0)


@pytest.mark.parametrize("kind", [WebsocketsClient, WsprotoClient])
def test_origin_and_host(kind: type[WebsocketsClient | WsprotoClient]) -> None:
    """Their clients send a Host and no Origin: that passes as same origin."""
    _, fields = fields_of(kind().request())
    assert (fields["host"], "origin" in fields) == (HOST, False)
