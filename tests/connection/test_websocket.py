"""``websocket``: what application code holds, with its docstrings as the contract.

What each method does in each state is in ``test_states``, what callbacks get after ``detach()`` in ``test_callbacks``.
"""

from __future__ import annotations

import logging
import time
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields
from typing import Any

import gevent
import pytest

from gws_middleware import Config, ConfigError, ConnectionClosed, HandshakeRefused, WebSocket, hooks, prepare
from gws_middleware.codes import CloseCode, Opcode
from gws_middleware.connection.channel import Channel
from gws_middleware.connection.control import config_of
from gws_middleware.connection.transport import BIG_READ, READ_SIZE, Transport
from gws_middleware.connection.websocket import MAX_PINGS_DROPPED
from gws_middleware.hooks import Adapter
from gws_middleware.protocol.connection import MAX_PONGS
from gws_middleware.protocol.deflate import Parameters
from gws_middleware.servers.base import SERVER_KEY, Server
from gws_middleware.testing import connect
from gws_middleware.typing import Environ, Headers, StartResponse

from ..support.inprocess import (
    ENDS,
    PING_FRAME,
    Peer,
    connected,
    count_of,
    counting,
    every_end,
    forever,
    hub_errors,
    in_a_watcher,
    joined,
    last_of,
    masked_frame,
    no_collector,
    plain_channel,
    refuse_switch,
    spin,
    tcp_pair,
    ticks,
    unaccepted,
    unpreempted,
    until,
)
from ..support.rawclient import close_frame
from ..support.seam import (
    activity,
    cut,
    deliver,
    engine_of,
    fail,
    is_paused,
    message_number,
    outbox_state,
    read_size,
    request_of,
    transport_of,
    waiting_senders,
)
from ..support.waiting import RESOLUTION

__all__ = ["hub_errors"]

SMALL: dict[str, Any] = {"buffers": 1 << 15, "send_high_water": 1000}
"""Socket buffers that a few frames fill, and a sender that waits soon."""
PIECE = bytes(1 << 16)
SHARED = Parameters(server_no_context_takeover=True, client_no_context_takeover=True)
"""What is agreed on with ``compression="shared"``."""
INFLATING: dict[str, Any] = {"compression": Parameters(), "max_message_size": 2**20}
both_timeouts = pytest.mark.parametrize("timeout", [None, 5])


def fill(ws: WebSocket) -> int:
    """Send until more than the high water waits for a peer that reads nothing; how many messages were sent."""
    while transport_of(ws).outbox_size <= config_of(ws).send_high_water:
        ws.send(PIECE)
    return ws.stats.messages_sent


def closed(ws: WebSocket) -> bool:
    """Whether the socket is closed."""
    return transport_of(ws).closed


def error_of(use: Callable[[], object]) -> ConnectionClosed:
    """What the use of a connection that has ended raises."""
    with pytest.raises(ConnectionClosed) as caught:
        use()
    return caught.value


@pytest.fixture(params=list(ENDS))
def ended(request: pytest.FixtureRequest, ws: WebSocket, peer: Peer) -> tuple[int, str]:
    """The connection has ended in one way of ``ENDS``: its close code and reason."""
    finish, how = ENDS[request.param]
    finish(ws, peer)
    until(lambda: ws.closed)
    return how


class TestAccept:
    def test_accept_sends_subprotocol_and_headers(self) -> None:
        """They follow the handshake's own in the 101."""

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            assert ws.offered_subprotocols == ("superchat", "chat")
            ws.accept("chat", [("X-Served-By", "worker 1"), ("Set-Cookie", "a=b")])
            ws.send_json([ws.subprotocol, ws.offered_subprotocols])
            return []

        with connect(app, subprotocols=("superchat", "chat")) as client:
            assert client.receive_json() == ["chat", []]
            assert client.subprotocol == "chat"
            assert client.headers[-2:] == [("X-Served-By", "worker 1"), ("Set-Cookie", "a=b")]

    @pytest.mark.parametrize("arguments", [{"subprotocol": "mqtt"}, {"headers": [("Upgrade", "h2c")]}])
    def test_accept_with_what_may_not_be_sent_writes_nothing(self, arguments: dict[str, Any]) -> None:
        """ValueError at the call; the application may accept in another way afterwards."""
        sent: list[Any] = []
        ws = unaccepted(lambda headers: sent.append(headers), subprotocols=("chat", "superchat"))
        with pytest.raises(ValueError, match=r"not offered|belongs to the handshake"):
            ws.accept(**arguments)
        assert (sent, ws.accepted, ws.offered_subprotocols) == ([], False, ("chat", "superchat"))

    def test_bytes_after_the_request_are_frames(self) -> None:
        """A client may send before it has read the 101; the server has read that already."""
        with connected(early=masked_frame(Opcode.TEXT, b"early")) as (ws, peer):
            peer.send("later")
            assert [ws.receive(), ws.receive()] == ["early", "later"]

    @pytest.mark.parametrize(
        "use", [lambda ws: ws.accept(), lambda ws: ws.send("x"), lambda ws: ws.ping(), lambda ws: ws.detach()]
    )
    def test_first_use_raises_if_the_peer_disconnected_before_the_101(self, use: Callable[[WebSocket], object]) -> None:
        """With the code of a connection that was lost."""
        ws = unaccepted(refuse_switch)
        assert str(error_of(lambda: use(ws))) == "the connection was lost without a close frame (1006)"
        assert (ws.closed, ws.accepted, ws.close_code, ws.close_reason) == (True, False, 1006, "")

    @pytest.mark.parametrize(
        ("use", "result"),
        [
            (lambda ws: ws.receive(), None),
            (lambda ws: list(ws), []),
            (lambda ws: [ws.wait(), ws.wait()], [None, None]),
            (lambda ws: ws.has_messages(), False),
            (lambda ws: ws.offer(b"frame"), False),
        ],
        ids=["receive", "iter", "wait", "has_messages", "offer"],
    )
    def test_first_use_returns_the_end_if_the_peer_disconnected_before_the_101(
        self, use: Callable[[WebSocket], object], result: object
    ) -> None:
        """Methods that return the end elsewhere do so here."""
        assert use(unaccepted(refuse_switch)) == result

    def test_close_before_the_101_refuses_the_handshake(self) -> None:
        """403, unless the application answers otherwise; for the application the WebSocket is closed."""
        seen: list[Any] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            ws.close()
            seen.extend([ws.closed, ws.receive(), error_of(lambda: ws.send("x")).code])
            with pytest.raises(RuntimeError, match="has been refused: an HTTP response has been started"):
                ws.accept()
            return []

        with pytest.raises(HandshakeRefused) as caught, connect(app):
            pass
        assert (caught.value.status_code, seen) == (403, [True, None, 1006])

    def test_wrong_moment_is_named(self, ws: WebSocket) -> None:
        """The sentences of two errors that the table of states has."""
        with pytest.raises(RuntimeError, match=r"^this WebSocket has been accepted already$"):
            ws.accept()
        with pytest.raises(
            RuntimeError, match=r"^this WebSocket has been accepted already: its limits are set before$"
        ):
            ws.limits(max_fragments=2)


class TestReceive:
    def test_messages_come_in_order_and_in_their_type(self, ws: WebSocket, peer: Peer) -> None:
        """Text is ``str``, binary is ``bytes``; an empty message is a message."""
        peer.send("text", b"binary", "", b"", "\u20ac")
        assert [ws.receive() for _ in range(5)] == ["text", b"binary", "", b"", "\u20ac"]

    def test_receive_waits_for_a_message(self, ws: WebSocket, peer: Peer) -> None:
        """The greenlet waits; others send meanwhile."""
        waiting = gevent.spawn(ws.receive)
        gevent.joinall([gevent.spawn(ws.send, str(number)) for number in range(5)], timeout=5, raise_error=True)
        assert sorted(str(peer.receive()) for _ in range(5)) == list("01234")
        assert not waiting.dead
        peer.send("at last")
        assert waiting.get(timeout=5) == "at last"

    @pytest.mark.parametrize("timeout", [0, 0.01])
    @pytest.mark.parametrize("method", ["receive", "receive_json"])
    def test_timeout_leaves_the_connection_usable(self, ws: WebSocket, peer: Peer, method: str, timeout: float) -> None:
        """TimeoutError, not None, when nothing came."""
        with pytest.raises(TimeoutError, match=f"no message within {timeout} seconds"):
            getattr(ws, method)(timeout=timeout)
        peer.send('"late"')
        assert getattr(ws, method)(timeout=5).strip('"') == "late"
        assert not ws.closed

    def test_timeout_counts_from_the_call_in_a_view_that_was_busy(self, ws: WebSocket, peer: Peer) -> None:
        """The loop's clock stands still while a view computes; the seconds do not count from there."""

        def view() -> float:
            ws.receive()  # a message wakes the view from a watcher, as always
            spin(0.15)
            begin = time.monotonic()
            with suppress(TimeoutError):
                ws.receive(timeout=0.1)
            return time.monotonic() - begin

        viewing = gevent.spawn(view)
        ticks()
        peer.send("x")
        assert viewing.get(timeout=5) > 0.09

    @every_end
    @pytest.mark.parametrize("before", [(), ("one", "two")], ids=["no message", "messages before"])
    def test_end_is_none_once_and_then_connection_closed(
        self, ws: WebSocket, peer: Peer, end: str, before: tuple[str, ...]
    ) -> None:
        """gevent-websocket's own contract, however the connection ends. What came before the end is received before it,
        and the error has code and reason.
        """
        finish, how = ENDS[end]
        if before:
            peer.send(*before)
            until(ws.has_messages)
        finish(ws, peer)
        until(lambda: ws.closed)
        assert list(iter(ws.receive, None)) == [*before, *last_of(end)]
        for _ in range(2):
            error = error_of(ws.receive)
            assert (error.code, error.reason) == (ws.close_code, ws.close_reason) == how

    @every_end
    def test_iteration_ends_with_the_connection(self, ws: WebSocket, peer: Peer, end: str) -> None:
        """Without an exception; a second one finds nothing."""
        peer.send("one", "two")
        until(ws.has_messages)
        ENDS[end][0](ws, peer)
        assert list(ws) == ["one", "two", *last_of(end)]
        assert list(ws) == []

    @every_end
    @both_timeouts
    def test_end_wakes_a_waiting_view(self, ws: WebSocket, peer: Peer, end: str, timeout: float | None) -> None:
        """At once, not at the next message."""
        viewing = gevent.spawn(lambda: list(iter(lambda: ws.receive(timeout), None)))
        ticks()
        ENDS[end][0](ws, peer)
        assert viewing.get(timeout=5) == last_of(end)

    def test_message_and_close_frame_in_one_segment_are_both_seen(self, ws: WebSocket, peer: Peer) -> None:
        """The view answers the message before our close frame is sent."""
        viewing = gevent.spawn(lambda: [ws.send(f"re: {message}") for message in ws])
        ticks()
        peer.sock.sendall(masked_frame(Opcode.TEXT, b"last") + close_frame(4001))
        assert (peer.receive(), peer.close_frame()) == ("re: last", (4001, ""))
        viewing.get(timeout=5)

    def test_second_receiver_is_refused(self, ws: WebSocket, peer: Peer) -> None:
        """Each would take messages of the other; the first one goes on waiting."""
        waiting = gevent.spawn(ws.receive)
        ticks()
        for receive in (ws.receive, lambda: ws.receive(timeout=1), ws.wait, lambda: next(iter(ws))):
            with pytest.raises(RuntimeError, match=r"another greenlet is waiting in receive\(\)"):
                receive()
        peer.send("for the first")
        assert waiting.get(timeout=5) == "for the first"

    @both_timeouts
    def test_view_that_is_killed_while_it_waits_lets_another_receive(
        self, ws: WebSocket, peer: Peer, timeout: float | None
    ) -> None:
        """GreenletExit passes through, and another greenlet may receive."""
        waiting = gevent.spawn(ws.receive, timeout)
        ticks()
        waiting.kill()
        assert isinstance(waiting.value, gevent.GreenletExit)
        peer.send("for the next")
        assert ws.receive(timeout=5) == "for the next"

    def test_gevent_timeout_around_a_wait_passes_through(self, ws: WebSocket, peer: Peer) -> None:
        """Older code bounds its waits like that."""
        with gevent.Timeout(0.01, False):
            ws.receive()
        peer.send("late")
        assert ws.receive() == "late"


class TestReceiveJson:
    def test_value_comes_out_of_text_and_binary(self, ws: WebSocket, peer: Peer) -> None:
        """JSON may travel as either."""
        peer.send('{"a": [1, null]}', b'"\xc3\xa9"')
        assert [ws.receive_json(), ws.receive_json(timeout=5)] == [{"a": [1, None]}, "\u00e9"]

    @pytest.mark.parametrize("message", ["{", b"\xff", "[" * 100_000, "1e999"], ids=["text", "binary", "deep", "huge"])
    def test_what_is_not_json_closes_with_1007(self, ws: WebSocket, peer: Peer, message: str | bytes) -> None:
        """The peer's fault raises nothing but the end."""
        peer.send(message)
        error = error_of(ws.receive_json)
        assert (error.code, error.reason) == peer.close_frame() == (1007, "a message is not JSON")

    def test_end_raises(self, ws: WebSocket, peer: Peer) -> None:
        """None is a JSON value, so it cannot be the end."""
        peer.send("null")
        peer.close(4001)
        assert ws.receive_json() is None
        assert error_of(ws.receive_json).code == 4001


class TestInbox:
    @pytest.mark.parametrize(
        ("size", "least", "most", "options"),
        [
            (16_000, 4, 4 + 65536 // 16_000, {"inbox_messages": 4}),
            (40_000, 3, 5, {"inbox_messages": 1000, "max_message_size": 100_000}),
        ],
        ids=["messages", "bytes"],
    )
    def test_full_inbox_holds_the_peer_back(self, size: int, least: int, most: int, options: dict[str, Any]) -> None:
        """Reading pauses at ``inbox_messages``, or when the messages have the bytes of one maximal message together;
        the peer is blocked by TCP, and goes on when the view does.
        """
        with connected(buffers=1 << 15, **options) as (ws, peer):
            messages = [bytes([number]) * size for number in range(100)]
            sending = gevent.spawn(peer.send, *messages)
            until(lambda: ws.stats.messages_received >= least)
            ticks(20)
            assert not sending.dead
            assert ws.stats.messages_received <= most
            assert [ws.receive() for _ in messages] == messages
            sending.get(timeout=5)

    def test_messages_that_come_one_by_one_wait_in_order(self, ws: WebSocket, peer: Peer) -> None:
        """Each in a read of its own, while the view does something else; the counter sees each."""
        for number in range(5):
            peer.send(str(number))
            until(lambda number=number: ws.stats.messages_received == number + 1)  # type: ignore[misc]
        assert [ws.receive() for _ in range(5)] == list("01234")

    @both_timeouts
    @pytest.mark.parametrize("together", [False, True])
    def test_inbox_of_one_message_works(self, timeout: float | None, together: bool) -> None:
        """The smallest value of the setting: reading pauses at each message, and goes on when the view takes it."""
        with connected(inbox_messages=1) as (ws, peer):
            receiving = gevent.spawn(lambda: list(iter(lambda: ws.receive(timeout), None)))
            messages = list(map(str, range(10)))
            if together:
                peer.send(*messages)
            else:
                for message in messages:
                    peer.send(message)
                    gevent.sleep(0)
            peer.close()
            assert receiving.get(timeout=5) == messages

    def test_reading_goes_on_when_the_inbox_is_half_empty(self) -> None:
        """Not at each message: that would be two changes of the watcher for each."""
        with connected(inbox_messages=8) as (ws, peer):
            peer.send(*map(str, range(8)))
            until(lambda: is_paused(ws))
            paused = []
            for _ in range(4):
                ws.receive()
                paused.append(is_paused(ws))
            assert paused == [True, True, True, False]

    def test_end_after_a_full_inbox_is_seen_when_it_is_emptied(self) -> None:
        """Nothing is lost: the messages first, then the close frame."""
        with connected(inbox_messages=2) as (ws, peer):
            peer.send("one", "two", "three")
            until(lambda: is_paused(ws))
            peer.send("four")
            peer.close(4001)
            ticks()
            assert not ws.closed
            assert list(ws) == ["one", "two", "three", "four"]
            assert ws.close_code == 4001

    def test_close_with_a_full_inbox_reads_the_peers_answer(self) -> None:
        """Our close reads on, so that the closing handshake ends before ``close_timeout``."""
        with connected(inbox_messages=2, close_timeout=60) as (ws, peer):
            peer.send("one", "two")
            until(lambda: is_paused(ws))
            peer.send("three", "four")
            ws.close()
            assert peer.close_frame() == (1000, "")
            peer.answer()
            until(lambda: closed(ws))
            assert list(ws) == ["one", "two"]

    @staticmethod
    def inflating(count: int, code: int) -> bytes:
        """Small frames of which each inflates to a megabyte, and a close frame."""
        frames = [joined(Peer(None, Parameters()).engine.encode(bytes(2**20))) for _ in range(count)]
        return b"".join(frames) + close_frame(code)

    def test_messages_that_inflate_much_come_one_by_one(self) -> None:
        """They do not fill the memory: the rest waits as it came, and the end with it."""
        with connected(**INFLATING) as (ws, peer):
            messages = [bytes([number]) * 2**20 for number in range(20)]
            peer.send(*messages)
            peer.close(4001)
            until(lambda: is_paused(ws))
            ticks()
            assert ws.count_messages() <= 2
            assert list(ws) == messages
            assert ws.close_code == 4001

    def test_close_while_inflated_messages_wait_reads_the_peers_answer(self) -> None:
        """The peer's close frame is inside the engine already, after messages that are dropped now."""
        with connected(close_timeout=60, **INFLATING) as (ws, peer):
            peer.sock.sendall(self.inflating(5, 4001))
            until(lambda: is_paused(ws))
            ws.close(4002)
            until(lambda: closed(ws), "the connection ends by the peer's close frame", seconds=1)
            assert (ws.close_code, engine_of(ws).received_close) == (4002, (4001, ""))


class TestSend:
    @pytest.mark.parametrize(
        ("message", "binary", "arrives"),
        [
            ("text", None, "text"),
            (b"binary", None, b"binary"),
            (bytearray(b"binary"), None, b"binary"),
            pytest.param(memoryview(b"binary"), None, b"binary", id="memoryview"),
            ("", None, ""),
            (b"", None, b""),
            ("text", True, b"text"),
            ("text", False, "text"),
            (b"text", False, "text"),
            (b"binary", True, b"binary"),
            ("\u20ac" * 30_000, None, "\u20ac" * 30_000),
            (b"b" * 2**20, None, b"b" * 2**20),
            (3, None, "3"),
            (3.5, None, "3.5"),
            (-1, True, b"-1"),
        ],
        ids=lambda value: repr(value)[:20],
    )
    @pytest.mark.parametrize("compression", [None, Parameters()], ids=["plain", "deflate"])
    def test_message_arrives_in_its_type(
        self, message: Any, binary: bool | None, arrives: str | bytes, compression: Parameters | None
    ) -> None:
        """``str`` and numbers as text, bytes as binary, unless ``binary`` is set."""
        with connected(compression=compression) as (ws, peer):
            ws.send(message, binary)
            assert peer.receive() == arrives

    @pytest.mark.parametrize(
        ("message", "binary", "error", "sentence"),
        [
            (True, None, TypeError, r"a message is str, .* or what prepare\(\) returns, not bool"),
            (None, None, TypeError, r"a message is str, .* or what prepare\(\) returns, not NoneType"),
            (["x"], True, TypeError, r"a message is str, .* or what prepare\(\) returns, not list"),
            ("\ud800", None, ValueError, "surrogate"),
            ("\ud800", False, ValueError, "the text to be sent has a lone surrogate: it has no UTF-8"),
            (b"\xff", False, ValueError, "the bytes to be sent as text are not UTF-8"),
        ],
        ids=repr,
    )
    def test_what_is_no_message_leaves_the_connection_alone(
        self, ws: WebSocket, peer: Peer, message: Any, binary: bool | None, error: type[Exception], sentence: str
    ) -> None:
        """The caller's own fault raises at the call, and nothing is sent."""
        with pytest.raises(error, match=sentence):
            ws.send(message, binary)
        ws.send("next")
        assert (peer.receive(), ws.stats.messages_sent) == ("next", 1)

    @pytest.mark.parametrize("wrong", [None, True, ["x"], object()], ids=["None", "bool", "list", "object"])
    def test_what_is_no_message_cannot_be_offered(self, ws: WebSocket, peer: Peer, wrong: Any) -> None:
        """The error names what makes a message ready; the connection goes on."""
        with pytest.raises(TypeError, match=r"what prepare\(\) returns"):
            ws.offer(wrong)
        assert (ws.offer("next"), peer.receive()) == (True, "next")

    def test_send_json_sends_text(self, ws: WebSocket, peer: Peer) -> None:
        """A value that has no JSON raises, and nothing is sent of it."""
        for wrong, error in ((object(), TypeError), (float("nan"), ValueError)):
            with pytest.raises(error):
                ws.send_json(wrong)
        ws.send_json({"a": ["\u00e9", None]})
        assert peer.receive() == '{"a":["\u00e9",null]}'

    @pytest.mark.parametrize("method", ["send", "send_json", "ping", "offer"])
    def test_ended_connection_sends_nothing(self, ws: WebSocket, ended: tuple[int, str], method: str) -> None:
        """The error has the code and the reason of the end; ``offer`` returns False."""
        if method == "offer":
            assert ws.offer(prepare("x")) is False
        else:
            error = error_of(lambda: getattr(ws, method)(b"x" if method == "ping" else "x"))
            assert (error.code, error.reason) == ended

    def test_answers_to_a_burst_leave_together(self, ws: WebSocket, peer: Peer) -> None:
        """One system call for many answers, without a delay for the last one."""
        viewing = gevent.spawn(lambda: [ws.send(message) for message in ws])
        ticks()
        with counting(ws) as channel:

            def burst() -> list[int]:
                peer.send(*["x" * 10] * 16)
                assert [peer.receive() for _ in range(16)] == ["x" * 10] * 16
                return channel.writes()

            assert unpreempted(burst, channel.calls.clear) == [16 * 12]
        peer.close()
        viewing.get(timeout=5)

    def test_send_waits_at_high_water(self) -> None:
        """Until the peer has read; nothing is lost, and the order is kept."""
        with connected(buffers=1 << 15, send_high_water=50_000) as (ws, peer):
            messages = [bytes([number]) * 20_000 for number in range(100)]
            viewing = gevent.spawn(lambda: [ws.send(message) for message in messages])
            until(lambda: waiting_senders(ws))
            assert transport_of(ws).outbox_size <= 70_100
            assert [peer.receive() for _ in messages] == messages
            viewing.get(timeout=5)

    def test_frames_of_concurrent_senders_never_interleave(self) -> None:
        """Small, large and waiting ones, from many greenlets at once."""
        sizes = [1, 100, 5_000, 70_000, 200_000, 10]
        with connected(**SMALL) as (ws, peer):

            def sender(number: int) -> None:
                for size in sizes:
                    ws.send(bytes([number]) * size)

            senders = [gevent.spawn(sender, number) for number in range(10)]
            received = [peer.receive() for _ in range(60)]
            gevent.joinall(senders, timeout=5, raise_error=True)
            assert all(len(set(message)) == 1 for message in received)
            for number in range(10):
                assert [len(message) for message in received if message[0] == number] == sizes

    def test_peer_that_reads_nothing_is_cut_after_send_timeout(self, caplog: pytest.LogCaptureFixture) -> None:
        """The waiting sender gets ConnectionClosed, the log one line."""
        caplog.set_level(logging.INFO, "gws_middleware")
        with connected(send_timeout=0.05, **SMALL) as (ws, _):
            assert error_of(lambda: forever(ws.send, PIECE)).code == 1006
            assert (ws.closed, ws.close_code) == (True, 1006)
            until(lambda: closed(ws))
        assert caplog.messages == ["WebSocket '/chat': the peer read nothing for 0.05 s: cut"]

    @pytest.mark.slow
    def test_slow_reader_is_not_cut_while_it_reads(self) -> None:
        """``send_timeout`` counts from the last progress, and the connection stays open."""
        with connected(send_timeout=0.3, **SMALL) as (ws, peer):
            sending = gevent.spawn(lambda: [ws.send(bytes(2_000_000)), ws.send("done")])
            begin = time.monotonic()
            while not sending.dead and not peer.ended:
                gevent.sleep(0.02)  # a slow reader
                peer.read()
            sending.get(timeout=5)
            assert peer.receive() == bytes(2_000_000)
            assert not ws.closed
            assert time.monotonic() - begin > 2 * 0.25

    def test_send_timeout_counts_from_the_wait_after_idle(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The loop's clock stands still while the adapter's ``idle()`` computes: the seconds count from its end."""
        idled: list[bool] = []

        class Busy(Adapter):
            grace = 0.0

            def idle(self) -> bool:
                spin(0.25)
                idled.append(True)
                return False

        monkeypatch.setattr(hooks, "current", Busy)
        with connected(send_timeout=0.2, **SMALL) as (ws, peer):
            sending = gevent.spawn(lambda: [ws.send(bytes(400_000)), ws.send("done")])
            until(lambda: idled and waiting_senders(ws))
            ticks()  # in which a timer fires that has counted the seconds before
            assert [peer.receive(), peer.receive()] == [bytes(400_000), "done"]
            sending.get(timeout=5)

    @every_end
    def test_end_wakes_a_waiting_sender(self, end: str) -> None:
        """With ConnectionClosed, at once; a lost peer is found even where nothing more can be written."""
        with connected(**SMALL) as (ws, peer):
            viewing = gevent.spawn(lambda: error_of(lambda: forever(ws.send, PIECE)))
            until(lambda: waiting_senders(ws))
            ENDS[end][0](ws, peer)
            viewing.get(timeout=5)

    def test_sender_that_is_killed_while_it_waits_has_sent_nothing(self) -> None:
        """It waits before it queues, so the other senders go on and half a frame is never seen."""
        with connected(**SMALL) as (ws, peer):
            filled = fill(ws)
            killed = gevent.spawn(ws.send, "killed")
            waiting = gevent.spawn(ws.send, "sent")
            ticks()
            killed.kill()
            assert waiting_senders(ws) == 1
            assert [peer.receive() for _ in range(filled)] == [PIECE] * filled
            waiting.get(timeout=5)
            assert peer.receive() == "sent"

    def test_write_that_the_kernel_refuses_ends_the_sending(self, ws: WebSocket, peer: Peer) -> None:
        """The next call raises; what the peer sent before it disconnected is still received, its close frame too."""
        transport_of(ws).pause()
        peer.send("last words")
        peer.close(4001, "bye")
        peer.disconnect()
        assert error_of(lambda: forever(ws.send, "lost")).code == 1006
        assert ws.closed
        transport_of(ws).resume()
        assert list(ws) == ["last words"]
        assert (ws.close_code, ws.close_reason) == (4001, "bye")


class TestOffer:
    @pytest.mark.parametrize("compression", [None, SHARED, Parameters()], ids=["plain", "shared", "dedicated"])
    @pytest.mark.parametrize("message", ["text", b"binary", "x" * 5000, bytes(100_000), bytearray(b"mutable")])
    @pytest.mark.parametrize("ready", [False, True])
    def test_any_message_may_be_offered(self, message: Any, ready: bool, compression: Parameters | None) -> None:
        """``prepare()`` saves work and changes nothing: no bytes of the application's are taken for a frame."""
        with connected(compression=compression) as (ws, peer):
            offered = prepare(message) if ready else message
            assert [ws.offer(offered), ws.offer(offered)] == [True, True]
            ws.send("between")
            ws.send(offered)
            want = message if isinstance(message, str) else bytes(message)
            assert [peer.receive() for _ in range(4)] == [want, want, "between", want]
            assert ws.stats.messages_sent == 4

    def test_prepared_message_is_compressed_once_for_all(self) -> None:
        """Where no connection refers to what it was sent before: the same bytes for each of them."""
        prepared = prepare("compressible " * 1000)
        sizes = []
        for _ in range(2):
            with connected(compression=SHARED) as (ws, peer):
                ws.offer(prepared)
                assert peer.receive() == "compressible " * 1000
                sizes.append(ws.stats.bytes_sent)
        assert sizes[0] == sizes[1] < 500

    def test_offer_never_waits_and_closes_a_slow_peer_with_1013(self) -> None:
        """Beyond ``send_limit`` bytes unread the connection is closed; a group is never held up by one member."""
        with connected(send_limit=500_000, **SMALL) as (ws, peer):
            frame = prepare(bytes(60_000))
            taken = 0
            while ws.offer(frame):
                taken += 1
            assert transport_of(ws).outbox_size <= 500_000 + 100
            assert (ws.close_code, ws.close_reason) == (1013, "too slow")
            assert ws.offer(frame) is False
            assert [peer.receive() for _ in range(taken)] == [bytes(60_000)] * taken
            assert peer.close_frame() == (1013, "too slow")

    def test_frame_above_the_limit_reaches_a_peer_that_reads(self) -> None:
        """The limit is for what a peer has not read, not for the size of one message."""
        with connected(send_limit=1000) as (ws, peer):
            assert ws.offer(prepare(bytes(100_000))) is True
            assert peer.receive() == bytes(100_000)


class TestPing:
    def test_pong_sets_the_latency(self, ws: WebSocket, peer: Peer) -> None:
        """None before the first; the payload comes back as it was sent."""
        assert ws.latency is None
        ws.ping()
        peer.read()
        gevent.sleep(0.02)  # what is measured
        peer.answer()
        until(lambda: ws.latency is not None)
        assert 0.02 - RESOLUTION <= ws.latency < 1

    def test_latency_counts_from_the_call_in_a_view_that_was_busy(self, ws: WebSocket, peer: Peer) -> None:
        """What the view computed before the ping is not the peer's delay."""
        in_a_watcher(lambda: (spin(0.4), ws.ping()))
        peer.read()
        peer.answer()
        until(lambda: ws.latency is not None)
        assert ws.latency < 0.35

    def test_payload_of_125_bytes_is_sent_and_of_126_raises(self, ws: WebSocket, peer: Peer) -> None:
        """RFC 6455 5.5. The caller's fault leaves the connection alone."""
        with pytest.raises(ValueError, match="a ping carries 125 bytes at the most, not 126"):
            ws.ping(bytes(126))
        ws.ping(b"p" * 125)
        assert peer.sock.recv(1000) == bytes([0x80 | Opcode.PING, 125]) + b"p" * 125

    def test_pong_to_no_ping_or_an_older_one_is_ignored(self, ws: WebSocket, peer: Peer) -> None:
        """Unsolicited pongs are legal (RFC 6455 5.5.3)."""
        peer.send_frame(Opcode.PONG, b"unsolicited")
        ws.ping(b"one")
        peer.send_frame(Opcode.PONG, b"another")
        peer.send("after them")
        assert (ws.receive(), ws.latency) == ("after them", None)

    def test_ping_between_messages_is_answered_while_the_inbox_fills(self, ws: WebSocket, peer: Peer) -> None:
        """Reads are driven by the loop: the messages wait for ``receive()``, the answer does not."""
        peer.sock.sendall(masked_frame(Opcode.TEXT, b"one") + PING_FRAME + masked_frame(Opcode.TEXT, b"two"))
        assert peer.sock.recv(100) == bytes([0x80 | Opcode.PONG, 14]) + b"are you there?"
        assert ws.count_messages() == 2

    def test_pong_waits_for_a_peer_that_does_not_read(self) -> None:
        """A ping flood cannot fill the outbox; when the peer reads again, the latest pings are answered."""
        with connected(**SMALL) as (ws, peer):
            filled = fill(ws)
            ticks(20)
            waiting = transport_of(ws).outbox_size
            for number in range(200):
                peer.send_frame(Opcode.PING, b"%03d" % number)
            until(lambda: ws.stats.bytes_received >= 200 * 9)
            assert transport_of(ws).outbox_size <= waiting
            assert [peer.receive() for _ in range(filled)] == [PIECE] * filled
            until(lambda: peer.engine.pongs[-1:] == (b"199",) or peer.read())
            assert peer.engine.pongs[-1] == b"199"
            assert len(peer.engine.pongs) <= MAX_PONGS

    def test_pong_is_sent_after_frames_that_only_wait_for_the_turn_to_end(self) -> None:
        """More than the high water may be queued in one turn though the peer reads: the pong is not forgotten."""
        with connected(send_high_water=1000) as (ws, peer):
            offered = 0
            while transport_of(ws).outbox_size <= 1000:  # on a busy machine a turn may end in the middle
                ticks(1)
                for _ in range(3):
                    ws.offer(prepare(bytes(1000)))
                offered += 3
            deliver(ws, PING_FRAME)
            assert [peer.receive() for _ in range(offered)] == [bytes(1000)] * offered
            until(lambda: peer.engine.pongs or peer.read())
            assert peer.engine.pongs == (b"are you there?",)

    @pytest.mark.parametrize(("more", "code"), [(0, None), (1, 1008)])
    def test_flood_of_a_peer_that_reads_nothing_closes_with_1008(self, more: int, code: int | None) -> None:
        """Only beyond ``MAX_PINGS_DROPPED``: a peer may read late. RFC 6455 5.5.3 lets us answer the latest alone, so
        nothing has piled up for it.
        """
        with connected(close_timeout=0.05, **SMALL) as (ws, peer):
            fill(ws)
            ticks(20)
            waiting = transport_of(ws).outbox_size
            flood = PING_FRAME * (MAX_PINGS_DROPPED + MAX_PONGS + more)
            sending = gevent.spawn(peer.sock.sendall, flood)
            until(
                lambda: ws.closed or (ws.stats.bytes_received == len(flood) and not engine_of(ws).stalled),
                "all pings are parsed, which is seconds of work in Python",
                30,
            )
            ticks()
            sending.kill()
            assert (ws.close_code, ws.close_reason) == (code, "a flood of pings" if code else None)
            assert transport_of(ws).outbox_size <= waiting + 50


LIMITS: dict[str, Any] = {
    "max_message_size": 5,
    "max_fragments": 2,
    "inbox_messages": 1,
    "send_high_water": 10,
    "send_limit": 20,
    "send_timeout": 0.5,
    "close_timeout": 0.5,
    "ping_interval": None,
    "ping_timeout": 3,
    "message_timeout": None,
    "message_rate": 7,
    "byte_rate": 8.5,
    "rate_burst": 2,
}
"""What a view may set, and to what."""


def burst(ws: WebSocket) -> None:
    """More messages in one turn than the limits of ``test_limits_hold`` allow."""
    for _ in range(10):
        ws.send("12345")
    sizes = transport_of(ws).outbox_size
    ws.receive(timeout=5)
    ws.send(str(sizes))


class TestLimits:
    @pytest.fixture
    def pending(self) -> WebSocket:
        return unaccepted(refuse_switch, max_connections=5)

    def test_table_is_whole(self) -> None:
        """A new setting is either for one view or decided before a view is called."""
        assert {each.name for each in fields(Config) if each.metadata["per_view"]} == set(LIMITS)

    @pytest.mark.parametrize("name", LIMITS)
    def test_view_sets_its_own(self, pending: WebSocket, name: str) -> None:
        """The others stay as they are."""
        pending.limits(**{name: LIMITS[name]})
        assert config_of(pending) == Config(max_connections=5, **{name: LIMITS[name]})

    def test_limits_may_be_set_one_after_the_other(self, pending: WebSocket) -> None:
        """A decorator sets some, the view others."""
        pending.limits(max_fragments=2)
        pending.limits(max_message_size=5)
        pending.limits()
        assert config_of(pending) == Config(max_connections=5, max_fragments=2, max_message_size=5)

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            *(
                (
                    {"max_fragments": 2, each.name: getattr(Config(), each.name)},
                    f"{each.name} cannot be set for one view: set it for the application",
                )
                for each in fields(Config)
                if not each.metadata["per_view"]
            ),
            ({"max_mesage_size": 5}, "'max_mesage_size' is not a setting: did you mean 'max_message_size'?"),
            ({"colour": 5}, "'colour' is not a setting"),
            ({"max_fragments": 0}, "max_fragments is 0: wanted a whole number from 1 to 1099511627776"),
            ({"ping_interval": 0}, "ping_interval is 0: wanted a number of seconds above 0, or None"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
    )
    def test_wrong_limit_is_refused(self, pending: WebSocket, options: dict[str, Any], sentence: str) -> None:
        """In the words that settings are refused in, also one that the handshake has used; nothing has changed."""
        with pytest.raises(ConfigError) as caught:
            pending.limits(**options)
        assert (str(caught.value), config_of(pending)) == (sentence, Config(max_connections=5))

    @pytest.mark.parametrize(
        ("limits", "view", "how"),
        [
            ({"max_message_size": 5}, lambda ws: ws.receive(), (1009, "a message has more than 5 bytes")),
            ({"byte_rate": 0.001}, lambda ws: ws.receive(), (1008, "more than 0.001 bytes a second")),
            ({"send_limit": 9}, lambda ws: [ws.offer("12345") for _ in range(9)], (1013, "too slow")),
            ({"send_high_water": 7}, lambda ws: burst(ws), (1000, "")),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_limits_hold(self, limits: dict[str, Any], view: Callable[[WebSocket], Any], how: tuple[int, str]) -> None:
        """Those of the engine, of the rates and of the fast path."""

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            environ["wsgi.websocket"].limits(**limits)
            environ["wsgi.websocket"].accept()
            view(environ["wsgi.websocket"])
            return []

        with connect(app) as client:
            client.send("123456")
            received = list(iter(client.receive, None))
            assert (client.close_code, client.close_reason) == how
        if "send_high_water" in limits:
            assert int(received[-1]) <= 2 * 7

    def test_ping_interval_of_a_view_is_its_own(self) -> None:
        """Its peer gets pings at that interval."""

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            ws.limits(ping_interval=0.03, ping_timeout=0.03)
            seen.append((ws.receive(), ws.close_reason))
            return []

        seen: list[Any] = []
        with connect(app) as client:
            until(lambda: seen)
            assert (client.receive(), client.close_code) == (None, 1011)
        assert seen == [(None, "keepalive ping timeout")]


class TestFail:
    """A limit of the WebSocket's own closes the connection as a violation does."""

    def test_close_frame_has_the_reason(self, ws: WebSocket, peer: Peer) -> None:
        """What the peer still sends is dropped, and the view sees the end."""
        viewing = gevent.spawn(ws.receive)
        ticks()
        fail(ws, CloseCode.POLICY_VIOLATION, "enough")
        peer.send("too late")
        assert peer.close_frame() == (1008, "enough")
        assert viewing.get(timeout=5) is None
        assert (ws.close_code, ws.close_reason, ws.stats.messages_received) == (1008, "enough", 0)

    def test_messages_that_came_before_are_received(self, ws: WebSocket, peer: Peer) -> None:
        """The end follows them."""
        peer.send("one", "two")
        until(lambda: ws.stats.messages_received == 2)
        fail(ws, CloseCode.POLICY_VIOLATION, "enough")
        assert [ws.receive(), ws.receive(), ws.receive()] == ["one", "two", None]

    def test_peer_that_reads_nothing_is_not_waited_for(self) -> None:
        """The view sees the end at once, and the socket is closed after ``close_timeout``."""
        with connected(close_timeout=0.03, **SMALL) as (ws, _):
            fill(ws)
            fail(ws, CloseCode.INTERNAL_ERROR, "closed")
            assert ws.receive() is None
            until(lambda: closed(ws))
            assert ws.close_code == 1011

    def test_connection_that_has_ended_is_not_changed(self, ws: WebSocket, ended: tuple[int, str]) -> None:
        """The first end counts."""
        fail(ws, CloseCode.POLICY_VIOLATION, "enough")
        ticks()
        assert (ws.close_code, ws.close_reason) == ended

    def test_handshake_that_waits_is_not_changed(self) -> None:
        """There is no connection to close."""
        ws = unaccepted(refuse_switch)
        fail(ws, CloseCode.POLICY_VIOLATION, "enough")
        assert (repr(ws), ws.close_code) == ("<WebSocket '/chat' pending>", None)

    def test_connection_whose_write_was_refused_is_cut(self) -> None:
        """No close frame can be sent, so there was none: 1006."""
        with connected(inbox_messages=1) as (ws, peer):
            peer.send("one", "two")
            until(lambda: is_paused(ws))
            peer.reset()
            until(lambda: ws.closed or ws.ping())
            fail(ws, CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
            until(lambda: closed(ws))
            assert ws.close_code == 1006


class TestWhatKeepaliveReads:
    def test_activity_changes_with_every_byte_received(self, ws: WebSocket, peer: Peer) -> None:
        """And with nothing else: not with what we send, nor with the time."""
        found = [activity(ws)]
        ws.send("x")
        ws.ping()
        ticks()
        found.append(activity(ws))
        peer.sock.sendall(b"\x81")
        until(lambda: ws.stats.bytes_received)
        assert [*found, activity(ws)] == [0, 0, 1]

    def test_activity_changes_when_a_slow_peer_reads(self) -> None:
        """Not when more is sent to it."""
        with connected(buffers=1 << 15, send_high_water=2**30) as (ws, peer):
            ws.send(bytes(2**22))
            ticks(20)
            before = activity(ws)
            ws.send(PIECE)
            assert activity(ws) == before
            until(lambda: peer.sock.recv(1 << 16) and activity(ws) != before)
            assert transport_of(ws).outbox_size

    def test_activity_is_none_while_nothing_is_read(self) -> None:
        """The peer may have sent more: it cannot be seen then."""
        with connected(inbox_messages=1) as (ws, peer):
            peer.send("one", "two")
            until(lambda: is_paused(ws))
            assert activity(ws) is None
            assert [ws.receive(), ws.receive()] == ["one", "two"]
            assert activity(ws) == ws.stats.bytes_received

    def test_message_has_a_number_while_a_part_of_it_has_come(self, ws: WebSocket, peer: Peer) -> None:
        """Another one for each message."""
        half = masked_frame(Opcode.TEXT, b"12345678")
        found = [message_number(ws)]
        for piece, count in ((half[:5], 5), (half[5:] + half[:5], 19), (half[5:], 28)):
            peer.sock.sendall(piece)
            until(lambda count=count: ws.stats.bytes_received == count)  # type: ignore[misc]
            found.append(message_number(ws))
        assert found == [None, 0, 1, None]

    def test_outbox_has_a_size_and_an_age(self) -> None:
        """Of what the kernel has not taken; nothing before the accept, and nothing after the end."""
        assert outbox_state(unaccepted(refuse_switch)) == (0, None)
        with connected(**SMALL) as (ws, _):
            assert outbox_state(ws) == (0, None)
            begin = time.monotonic()
            fill(ws)
            size, since = outbox_state(ws)
            assert size > 1000
            assert since is not None
            assert begin <= since <= time.monotonic()
            ws.abort()
            until(lambda: closed(ws))
            assert outbox_state(ws) == (0, None)


class TestClose:
    def test_peer_that_closes_first_gets_its_code_back(self, ws: WebSocket, peer: Peer) -> None:
        """RFC 6455 5.5.1; the error has what either side sent."""
        peer.close(4001, "bye")
        assert ws.receive() is None
        assert peer.close_frame() == (4001, "")
        error = error_of(ws.receive)
        assert (error.received, error.sent) == ((4001, "bye"), (4001, ""))

    def test_we_close_first(self, ws: WebSocket, peer: Peer) -> None:
        """Code and reason are ours, also when the peer has answered; one frame is sent (RFC 6455 5.5.1)."""
        ws.close(4002, "done")
        assert (ws.closed, ws.close_code, ws.close_reason) == (True, 4002, "done")
        ws.close(4003)
        assert peer.close_frame() == (4002, "done")
        peer.answer()
        until(lambda: closed(ws))
        assert peer.sock.recv(100) == b""
        assert (ws.close_code, ws.close_reason) == (4002, "done")
        assert error_of(lambda: ws.send("x")).received == (4002, "")

    def test_both_close_at_once(self, ws: WebSocket, peer: Peer) -> None:
        """Each takes the other's frame for the answer to its own; ours is the first for this side."""
        peer.close(4001, "peer")
        ws.close(4002, "us")
        assert peer.close_frame() == (4002, "us")
        until(lambda: closed(ws))
        error = error_of(lambda: ws.send("x"))
        assert (error.code, error.received, error.sent) == (4002, (4001, "peer"), (4002, "us"))

    @pytest.mark.parametrize(
        ("arguments", "arrives"),
        [
            ((), (1000, "")),
            ((1001,), (1001, "")),
            ((CloseCode.SERVICE_RESTART, "reload"), (1012, "reload")),
            ((4999, "\u20ac" * 41), (4999, "\u20ac" * 41)),
            ((1000, b"bytes"), (1000, "bytes")),
            ((1000, None), (1000, "")),
            ((1000, "", b"message"), (1000, "message")),
        ],
        ids=repr,
    )
    def test_code_and_reason_are_sent(
        self, ws: WebSocket, peer: Peer, arguments: tuple[Any, ...], arrives: tuple[int, str]
    ) -> None:
        """The third argument, and None, are gevent-websocket's."""
        ws.close(*arguments)
        assert peer.close_frame() == arrives

    @pytest.mark.parametrize(
        ("code", "reason", "sentence"),
        [
            (999, "", "close code 999 may not be sent: wanted 1000-1003, 1007-1014 or 3000-4999"),
            (1005, "", "close code 1005 may not be sent"),
            (1006, "", "close code 1006 may not be sent"),
            (1015, "", "close code 1015 may not be sent"),
            (2999, "", "close code 2999 may not be sent"),
            (5000, "", "close code 5000 may not be sent"),
            (1000, "x" * 124, "the close reason has 124 bytes of UTF-8: wanted 123 at the most"),
            (1000, "\u20ac" * 42, "the close reason has 126 bytes of UTF-8"),
            (1000, b"\xff", "utf-8"),
        ],
    )
    @pytest.mark.parametrize("ended", [False, True])
    def test_what_may_not_be_sent_raises(
        self, ws: WebSocket, peer: Peer, code: int, reason: str | bytes, sentence: str, ended: bool
    ) -> None:
        """The caller's fault raises even when the connection has ended, and leaves it alone."""
        if ended:
            peer.disconnect()
            until(lambda: ws.closed)
        with pytest.raises(ValueError, match=sentence):
            ws.close(code, reason)
        assert ws.closed is ended

    def test_close_of_an_ended_connection_does_nothing(self, ws: WebSocket, ended: tuple[int, str]) -> None:
        """Called as often as one likes; the first end counts."""
        ws.close(4003, "too late")
        ws.close(4004)
        assert (ws.close_code, ws.close_reason) == ended

    def test_peer_that_never_answers_is_cut(self) -> None:
        """After ``close_timeout`` seconds; what it sends meanwhile is ignored."""
        with connected(close_timeout=0.05) as (ws, peer):
            ws.close()
            peer.send("ignored")
            assert not closed(ws)
            until(lambda: closed(ws), seconds=1)
            assert list(ws) == []

    def test_close_after_a_refused_write_is_no_close_frame(self, ws: WebSocket, peer: Peer) -> None:
        """What could not be sent has not been sent: the connection was lost."""
        peer.disconnect()
        transport_of(ws).pause()
        with suppress(ConnectionClosed):
            forever(ws.send, "lost")
        ws.close(4003, "too late")
        assert (ws.close_code, error_of(lambda: ws.send("x")).sent) == (1006, None)
        until(lambda: closed(ws))
        assert list(ws) == []

    def test_peer_that_breaks_a_rule_gets_the_reason(self, ws: WebSocket, peer: Peer) -> None:
        """A close frame, though the peer was still sending (RFC 6455 7.1.7)."""
        peer.send_frame(Opcode.TEXT, b"\xff")
        with suppress(ConnectionError):
            peer.sock.sendall(bytes(100_000))
        assert peer.close_frame() == (1007, "a text message is not UTF-8")
        assert ws.receive() is None

    @pytest.mark.parametrize("end", ["EOF", "RST"])
    def test_peer_that_disconnects_during_our_close_is_no_error(self, end: str) -> None:
        """The code stays ours."""
        with connected(close_timeout=60) as (ws, peer):
            ws.close(4002)
            ENDS[end][0](ws, peer)
            until(lambda: closed(ws))
            assert ws.close_code == 4002

    def test_abort_cuts_without_a_close_frame(self, ws: WebSocket, peer: Peer) -> None:
        """1006 to the peer."""
        ws.abort()
        ws.abort()
        assert ws.closed
        assert peer.close_frame() is None


class TestFacts:
    def test_absent_headers_are_none(self) -> None:
        """And an environ without a path has an empty one."""
        ws = unaccepted(refuse_switch, environ={})
        assert (ws.origin, ws.version, ws.protocol, ws.path) == (None, None, None, "")

    def test_repr_has_path_and_state(self, ws: WebSocket, peer: Peer) -> None:
        """The path is escaped: it comes from the client."""
        texts = [repr(unaccepted(refuse_switch, environ={"PATH_INFO": "/\x1b[31m\u20ac"})), repr(ws)]
        peer.disconnect()
        until(lambda: ws.closed)
        assert [*texts, repr(ws)] == [
            r"<WebSocket '/\x1b[31m\u20ac' pending>",
            "<WebSocket '/chat' open>",
            "<WebSocket '/chat' closed>",
        ]

    def test_stats_count_messages_and_bytes(self, ws: WebSocket, peer: Peer) -> None:
        """Bytes are those of frames; before the accept there are none."""
        assert unaccepted(refuse_switch).stats == (0, 0, 0, 0)
        peer.send("12345", "12345")
        assert [ws.receive(), ws.receive()] == ["12345"] * 2
        ws.send("123")
        ws.ping(b"")
        assert ws.stats == (2, 1, 2 * (2 + 4 + 5), (2 + 3) + 2)
        assert ws.stats.messages_received == 2

    def test_application_may_set_its_own_attributes(self, ws: WebSocket) -> None:
        """As it could on gevent-websocket's."""
        ws.user = "ann"
        assert ws.user == "ann"


class TestBigMessages:
    def test_big_messages_arrive_both_ways(self) -> None:
        """16 MiB through small buffers, in a time that is linear in the size."""
        message = bytes(range(256)) * 2**16
        with connected(max_message_size=2**25, buffers=1 << 18) as (ws, peer):
            echoing = gevent.spawn(lambda: ws.send(ws.receive()))
            sending = gevent.spawn(peer.send, message)
            received = peer.receive()
            gevent.joinall([echoing, sending], timeout=5, raise_error=True)
            assert received == message

    def test_big_message_costs_a_few_times_its_size(self) -> None:
        """Received in many pieces: each byte is copied a bounded number of times, and never all of them at once."""
        size = 2**24
        with connected(max_message_size=2**25) as (ws, peer):
            sending = gevent.spawn(peer.sock.sendall, masked_frame(Opcode.BINARY, bytes(size)))
            tracemalloc.start()
            try:
                message = ws.receive()
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            sending.get(timeout=5)
            assert len(message) == size
            assert peak < 2.5 * size

    def test_big_frame_is_read_in_bigger_steps(self) -> None:
        """While it is under way the transport reads more at once, but not beyond it, and as usual after it."""
        with connected(max_message_size=2 * BIG_READ) as (ws, peer):
            for size, step in ((2 * BIG_READ, BIG_READ), (BIG_READ // 2, BIG_READ // 2 - 86), (READ_SIZE, READ_SIZE)):
                frame = masked_frame(Opcode.BINARY, b"x" * size)
                peer.sock.sendall(frame[:100])
                before = ws.stats.bytes_received
                until(lambda before=before: ws.stats.bytes_received == before + 100)
                assert read_size(transport_of(ws)) == step
                peer.sock.sendall(frame[100:])
                assert len(ws.receive()) == size
                assert read_size(transport_of(ws)) == READ_SIZE


# --- nothing stays in memory --------------------------------------------------------------------------------------


VIEWS: dict[str, Callable[[WebSocket, StartResponse], object]] = {
    "echo": lambda ws, start_response: [ws.send(message) for message in ws],
    "raise": lambda ws, start_response: {}[ws.receive()],
    "close": lambda ws, start_response: (ws.receive(), ws.close(4002)),
    "send": lambda ws, start_response: forever(ws.send, PIECE),
    "time out": lambda ws, start_response: ws.wait(timeout=0),
    "forbid": lambda ws, start_response: start_response("403 Forbidden", []),
    "refuse": lambda ws, start_response: ws.close(),
    "nothing": lambda ws, start_response: None,
}


@pytest.fixture
def uncollected(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without the garbage collector, and without records, which keep the frames of an exception."""
    monkeypatch.setattr(logging.getLogger("gws_middleware"), "disabled", True)
    with no_collector():
        yield


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("view", list(VIEWS))
@pytest.mark.parametrize("by", ["close", "EOF"])
def test_ended_connection_is_freed_at_once(view: str, by: str) -> None:
    """No cycle waits for the garbage collector: WebSocket, engine and transport are freed with the last reference."""
    references: list[weakref.ref[WebSocket]] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        references.append(weakref.ref(environ["wsgi.websocket"]))
        VIEWS[view](environ["wsgi.websocket"], start_response)
        return []

    def serve() -> None:
        with suppress(HandshakeRefused, ConnectionClosed), connect(app) as client:
            client.send("x")
            client.receive()
            if by == "EOF":
                cut(client)

    before = count_of(Transport)
    serve()
    until(lambda: references[0]() is None, "the WebSocket is freed", seconds=1)
    assert count_of(Transport) == before


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("accepts", [False, True])
@pytest.mark.parametrize("error", [KeyError, gevent.GreenletExit, SystemExit])
def test_connection_whose_view_raised_is_freed_at_once(accepts: bool, error: type[BaseException]) -> None:
    """An error that goes on to the server keeps nothing in memory once the server has dropped it."""
    references: list[weakref.ref[WebSocket]] = []
    ours, theirs = tcp_pair()

    class OneRequest(Server):
        def switch(self, start_response: StartResponse, headers: Headers) -> tuple[Channel, bytes]:
            return plain_channel(ours), b""

    def view(environ: Environ, start_response: StartResponse) -> list[bytes]:
        references.append(weakref.ref(environ["wsgi.websocket"]))
        if accepts:
            environ["wsgi.websocket"].accept()
        raise error

    def serve() -> None:
        app, environ = request_of(connect(view))
        with suppress(error):
            list(app({**environ, SERVER_KEY: OneRequest()}, lambda *arguments: lambda data: None))

    serve()
    ours.close()
    theirs.close()
    until(lambda: references[0]() is None, "the WebSocket is freed", seconds=1)
