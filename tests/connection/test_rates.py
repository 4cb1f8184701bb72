"""``rates``: how much a peer may send in a time.

Rates so low that nothing comes back while a test runs make a burst exact.
"""

from __future__ import annotations

import weakref
from typing import Any

import gevent
import pytest

from gws_middleware.codes import Opcode
from gws_middleware.config import Config
from gws_middleware.connection.control import is_finished
from gws_middleware.connection.rates import Bucket, engine_for
from gws_middleware.protocol.connection import Connection
from gws_middleware.testing import connect
from gws_middleware.typing import Environ, StartResponse

from ..support.inprocess import PING_FRAME, connected, hub_errors, masked_frame, no_collector, ticks, until
from ..support.seam import is_paused, registry_of

__all__ = ["hub_errors"]

FIVE_MESSAGES: dict[str, Any] = {"message_rate": 0.001, "rate_burst": 5000.0}
TWENTY_BYTES: dict[str, Any] = {"byte_rate": 0.001, "rate_burst": 20_000.0}
TOO_MANY = (1008, "more than 0.001 messages a second")
TOO_MUCH = (1008, "more than 0.001 bytes a second")
X = masked_frame(Opcode.TEXT, b"x")


class TestBucket:
    def test_burst_is_exact(self) -> None:
        """Rate times burst may go at once, one more may not."""
        bucket = Bucket(2, 5, now=100.0)
        assert [bucket.take(1, 100.0) for _ in range(11)] == [1] * 10 + [0]

    def test_tokens_come_back_at_the_rate(self) -> None:
        """Never more of them than the burst."""
        bucket = Bucket(2, 5, now=100.0)
        assert bucket.take(10, 100.0) == 10
        assert [bucket.take(1, 100.5), bucket.take(1, 100.5)] == [1, 0]
        assert bucket.take(100, 1000.0) == 10
        assert bucket.take(1, 1000.0) == 0

    def test_one_can_always_pass(self) -> None:
        """A rate below one for each burst would let nothing through, ever."""
        bucket = Bucket(0.1, 1, now=0.0)
        assert [bucket.take(1, 0.0), bucket.take(1, 1.0), bucket.take(1, 30.0)] == [1, 0, 1]


class TestMessages:
    def test_burst_passes_and_one_more_ends_the_connection(self) -> None:
        """1008, and which rate it was."""
        with connected(**FIVE_MESSAGES) as (ws, peer):
            for number in range(5):
                peer.send(str(number))
                assert ws.receive() == str(number)
            ticks()
            assert not ws.closed
            peer.send("one more")
            assert peer.close_frame() == TOO_MANY
            assert (ws.close_code, ws.close_reason) == TOO_MANY

    @pytest.mark.parametrize("count", [5, 6, 9000])
    def test_of_many_in_one_read_the_application_gets_what_the_rate_allows(self, count: int) -> None:
        """However the kernel joins them: those that are too many reach no view, and end the connection."""
        with connected(**FIVE_MESSAGES) as (ws, peer):
            sending = gevent.spawn(peer.sock.sendall, X * count)
            assert [ws.receive() for _ in range(5)] == ["x"] * 5
            ticks()
            assert (ws.closed, ws.stats.messages_received) == (count > 5, 5)
            if count > 5:
                assert (ws.receive(), ws.close_code) == (None, 1008)
            sending.kill()

    def test_what_waits_inside_of_the_engine_is_counted_when_it_comes_out(self) -> None:
        """A view that takes its time gets no more than one that is quick."""
        with connected(message_rate=0.001, rate_burst=400_000.0, inbox_messages=4) as (ws, peer):
            peer.sock.sendall(X * 1000)
            until(lambda: is_paused(ws))
            assert len(list(ws)) == 400
            assert (ws.close_code, ws.close_reason) == TOO_MANY

    def test_many_in_the_early_bytes_are_many(self) -> None:
        """What came with the handshake is counted."""
        with connected(early=X * 6, **FIVE_MESSAGES) as (_, peer):
            assert peer.close_frame() == TOO_MANY

    def test_message_in_fragments_is_one(self) -> None:
        """With control frames between, which are no messages."""
        parts = [masked_frame(Opcode.TEXT, b"a", first=0), PING_FRAME, masked_frame(Opcode.CONTINUATION, b"b")]
        with connected(**FIVE_MESSAGES) as (ws, peer):
            for _ in range(5):
                for part in parts:
                    peer.sock.sendall(part)
                    ticks()
            assert [ws.receive() for _ in range(5)] == ["ab"] * 5
            assert not ws.closed

    def test_messages_of_a_detached_connection_are_counted(self) -> None:
        """No call of ``receive()`` is needed."""
        with connected(**FIVE_MESSAGES) as (ws, peer):
            got: list[Any] = []
            ws.detach(lambda ws, message: got.append(message))
            peer.sock.sendall(X * 9000)
            assert peer.close_frame() == TOO_MANY
            until(lambda: is_finished(ws))
            assert got == ["x"] * 5


class TestBytes:
    def test_burst_passes_and_one_byte_more_ends_the_connection(self) -> None:
        """Headers count, too."""
        with connected(**TWENTY_BYTES) as (ws, peer):
            peer.send("12345678901234")
            assert ws.receive() == "12345678901234"
            assert not ws.closed
            peer.sock.sendall(b"\x81")
            assert peer.close_frame() == TOO_MUCH

    @pytest.mark.parametrize("detached", [False, True])
    def test_of_a_read_the_application_gets_what_the_rate_allows(self, detached: bool) -> None:
        """What takes the peer over its rate does not reach the view."""
        with connected(**TWENTY_BYTES) as (ws, peer):
            got: list[Any] = []
            if detached:
                ws.detach(lambda ws, message: got.append(message))
            peer.sock.sendall(X * 9000)
            if not detached:
                got.extend(ws)
            assert peer.close_frame() == TOO_MUCH
            until(lambda: ws.closed)
            ticks()
            assert (got, ws.stats.messages_received, ws.close_code) == (["x"] * 2, 2, 1008)

    def test_control_frames_are_bytes(self) -> None:
        """A ping flood is held to the rate."""
        with connected(**TWENTY_BYTES) as (_, peer):
            peer.sock.sendall(PING_FRAME)
            peer.sock.sendall(PING_FRAME)
            assert peer.close_frame() == TOO_MUCH


class TestBoth:
    @pytest.mark.parametrize("rate", [{"message_rate": 1000.0}, {"byte_rate": 1000.0 * len(X)}], ids=" ".join)
    def test_tokens_come_back(self, rate: dict[str, Any]) -> None:
        """A peer that keeps to the rate is not closed."""
        with connected(rate_burst=0.005, **rate) as (ws, peer):
            for _ in range(4):
                peer.sock.sendall(X * 5)
                assert [ws.receive() for _ in range(5)] == ["x"] * 5
                gevent.sleep(0.006)  # in which five more come back
            assert not ws.closed

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"message_rate": 0.001, "byte_rate": 1000.0}, TOO_MANY),
            ({"message_rate": 1000.0, "byte_rate": 0.001}, TOO_MUCH),
        ],
    )
    def test_either_rate_ends_the_connection(self, options: dict[str, Any], reason: tuple[int, str]) -> None:
        """Each has its own bucket."""
        with connected(rate_burst=5000.0, **options) as (_, peer):
            peer.sock.sendall(X * 6)
            assert peer.close_frame() == reason

    def test_plain_engine_without_a_rate(self) -> None:
        """Those without a rate pay nothing for it."""
        assert type(engine_for(Config())) is Connection

    def test_end_passes_through(self) -> None:
        """The peer's close frame, and the loss of the socket, reach the WebSocket."""
        with connected(**FIVE_MESSAGES) as (ws, peer):
            peer.close(4001, "bye")
            assert ws.receive() is None
            until(lambda: not len(registry_of(ws)))
            assert (ws.close_code, registry_of(ws).counters.closed) == (4001, {"4xxx": 1})

    def test_ended_connection_is_freed_at_once(self) -> None:
        """An engine with rates needs no garbage collector."""
        references: list[Any] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            for message in environ["wsgi.websocket"]:
                references.append(weakref.ref(environ["wsgi.websocket"]))
                environ["wsgi.websocket"].send(message)
            return []

        with no_collector():
            with connect(app, **FIVE_MESSAGES) as client:
                client.send("x")
                assert client.receive() == "x"
            until(lambda: references[0]() is None)
        assert len(references) == 1
