"""What one connection can make its worker hold, in bytes of memory: the figures of docs/security.md and settings.md.

The view does not receive. CPython keeps a text at four bytes for each of its characters as soon as one of them is above
U+FFFF.
"""

from __future__ import annotations

import gevent
import pytest

from gws_middleware.codes import Opcode
from gws_middleware.config import Config
from gws_middleware.connection.transport import BIG_READ
from gws_middleware.connection.websocket import WebSocket
from gws_middleware.protocol.connection import Connection
from gws_middleware.protocol.deflate import Deflate, Parameters, negotiate
from gws_middleware.protocol.headers import parse_extensions

from ..protocol.measuring import Memory, measured
from ..support.inprocess import Peer, connected, hub_errors, masked_frame, ticks, until
from ..support.seam import is_paused, transport_of

__all__ = ["hub_errors"]

LIMIT = 2**20
SHARED = 2**19
"""More than what is not the connection's own."""
EMOJI = "😀"
LARGE = (EMOJI + "x" * (LIMIT - 4)).encode()
SMALL = b"x" * 100
RESET = Parameters(server_no_context_takeover=True, client_no_context_takeover=True)


def text(payload: bytes, compressed: bool) -> bytes:
    """A text message of a client, in one frame."""
    if not compressed:
        return masked_frame(Opcode.TEXT, payload)
    frame = Connection(client=True, deflate=Deflate(RESET, client=True)).encode(payload, False)
    assert isinstance(frame, bytes)
    return frame


def held_after(ws: WebSocket, peer: Peer, data: bytes) -> Memory:
    """What the process holds when all that ``ws`` reads of ``data`` has been read."""
    transport_of(ws).expect(BIG_READ)  # makes the buffer that all connections share
    transport_of(ws).expect(0)
    with measured() as memory:
        sending = gevent.spawn(peer.sock.sendall, data)
        until(lambda: is_paused(ws) or sending.dead, seconds=20)
        ticks(20)
    sending.kill()
    return memory


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("payloads", "times"),
    [
        pytest.param([LARGE] * 3, 4, id="large"),
        pytest.param([SMALL] * 3 + [LARGE] * 3, 4, id="small and large"),
        pytest.param([LARGE[: LIMIT // 5]] + [LARGE] * 3, 5, id="nearly full and large"),
        pytest.param([LARGE[: LIMIT // 20]] * 100, 2, id="many"),
    ],
)
def test_messages_that_wait_are_bounded(payloads: list[bytes], times: int, compressed: bool) -> None:
    """Reading pauses when the messages that wait take as many bytes of memory as one message may have. The one with
    which they do so may take four times as much.
    """
    data = b"".join(text(payload, compressed) for payload in payloads)
    with connected(compression=RESET if compressed else None, max_message_size=LIMIT) as (ws, peer):
        memory = held_after(ws, peer, data)
        assert ws.count_messages()
        assert memory.held < times * LIMIT + SHARED
        assert memory.peak < (times + 2) * LIMIT + SHARED  # while a text is decoded, its bytes are in memory too


@pytest.mark.parametrize("fragmented", [False, True])
def test_unfinished_text_takes_its_bytes(fragmented: bool) -> None:
    """As long as it is not whole."""
    if fragmented:
        pieces = [LARGE[start : start + 5000] for start in range(0, len(LARGE), 5000)]
        data = masked_frame(Opcode.TEXT, pieces[0], first=0)
        data += b"".join(masked_frame(Opcode.CONTINUATION, piece, first=0) for piece in pieces[1:])
    else:
        data = masked_frame(Opcode.TEXT, LARGE)[:-1]
    with connected(max_message_size=LIMIT, message_timeout=None) as (ws, peer):
        memory = held_after(ws, peer, data)
        until(lambda: ws.stats.bytes_received == len(data))
        assert memory.held < 1.1 * LIMIT + SHARED


@pytest.mark.parametrize("offer", ["permessage-deflate; client_max_window_bits", "permessage-deflate"])
def test_dedicated_compression_costs_what_the_settings_say(offer: str) -> None:
    """About 51 KB for each connection, also where the client does not let the server limit its window."""
    agreed = negotiate(parse_extensions(offer), "dedicated")
    assert agreed is not None
    payload = "".join(map(chr, range(32, 127))) * 200
    frame = Connection(client=True, deflate=Deflate(agreed, client=True)).encode(payload)
    assert isinstance(frame, bytes)
    with measured() as memory:
        engines = [Connection(deflate=Deflate(agreed)) for _ in range(20)]
        for engine in engines:
            assert engine.feed(frame) == [payload]
            engine.encode(payload)
    [doc] = [each.metadata["doc"] for each in Config.__dataclass_fields__.values() if each.name == "compression"]
    assert "about 51 KB" in doc
    assert memory.held / len(engines) < 52_000


def test_idle_compression_of_clients_that_share_costs_nothing() -> None:
    """No window is kept for them."""
    payload = "".join(map(chr, range(32, 127))) * 200
    frame = Connection(client=True, deflate=Deflate(RESET, client=True)).encode(payload)
    assert isinstance(frame, bytes)
    with measured() as memory:
        engines = [Connection(deflate=Deflate(RESET)) for _ in range(20)]
        for engine in engines:
            assert engine.feed(frame) == [payload]
    assert memory.held / len(engines) < 1000
