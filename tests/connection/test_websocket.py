"""``websocket``: what application code holds, with its docstrings as the contract."""

from __future__ import annotations

import gc
import json
import logging
import re
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields
from typing import Any

import gevent
import pytest

from gws_middleware import Config, ConfigError, ConnectionClosed, HandshakeRefused, WebSocket, prepare
from gws_middleware.codes import CloseCode, Opcode
from gws_middleware.connection import control
from gws_middleware.connection.channel import Channel
from gws_middleware.connection.transport import BIG_READ, READ_SIZE, Transport
from gws_middleware.connection.websocket import MAX_PINGS_DROPPED
from gws_middleware.process.registry import Registry
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
    every_end,
    forever,
    hub_errors,
    in_a_watcher,
    masked_frame,
    plain_channel,
    refuse_switch,
    spin,
    tcp_pair,
    ticks,
    unaccepted,
    until,
)

__all__ = ["hub_errors"]

BUFFERS = 1 << 15
"""Socket buffers that a few frames fill."""


SHARED = Parameters(server_no_context_takeover=True, client_no_context_takeover=True)
"""What is agreed on with ``compression="shared"``."""


def fill(ws: WebSocket) -> None:
    """Send until more than the high water waits for a peer that reads nothing."""
    while ws._transport.outbox_size <= ws._config.send_high_water:
        ws.send(bytes(1 << 16))


class TestAccept:
    def test_accept_twice_raises(self) -> None:
        """There is one 101 for each handshake."""
        with connected() as (ws, _), pytest.raises(RuntimeError, match="this WebSocket has been accepted already"):
            ws.accept()

    def test_accept_behind_an_http_response_raises(self) -> None:
        """The response has gone out: nothing can be upgraded any more, and the first use is such an accept too."""
        ws = unaccepted(refuse_switch)
        control.answer(ws)
        for use in (ws.accept, ws.receive, lambda: ws.send("x"), ws.detach):
            with pytest.raises(RuntimeError, match="has been refused: an HTTP response has been started"):
                use()
        assert not ws.accepted

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (
                {"subprotocol": "mqtt"},
                "the subprotocol 'mqtt' was not offered by the client, which offers: chat, superchat",
            ),
            ({"subprotocol": "two words"}, "the subprotocol is 'two words': wanted a token"),
            ({"subprotocol": "chat\r\nX: y"}, r"the subprotocol is 'chat\r\nX: y': wanted a token"),
            ({"headers": [("Set-Cookie", "a\r\nb")]}, r"the value of header Set-Cookie is 'a\r\nb': wanted latin-1"),
            ({"headers": [("Set-Cookie", "\u20ac")]}, "the value of header Set-Cookie is '\u20ac': wanted latin-1"),
            ({"headers": [("Bad Name", "x")]}, "the header name is 'Bad Name': wanted a token"),
            ({"headers": [("Upgrade", "h2c")]}, "the header Upgrade belongs to the handshake: it is set for you"),
            ({"headers": [("connection", "close")]}, "the header connection belongs to the handshake"),
            ({"headers": [("Content-Length", "0")]}, "the header Content-Length belongs to the handshake"),
            ({"headers": [("Sec-WebSocket-Accept", "x")]}, "the header Sec-WebSocket-Accept belongs to the handshake"),
        ],
    )
    def test_accept_with_what_may_not_be_sent_writes_nothing(self, arguments: dict[str, Any], sentence: str) -> None:
        """ValueError at the call; the application may accept in another way afterwards."""
        sent: list[Any] = []
        ws = unaccepted(lambda headers: sent.append(headers), subprotocols=("chat", "superchat"))
        with pytest.raises(ValueError, match=re.escape(sentence)):
            ws.accept(**arguments)
        assert (sent, ws.accepted) == ([], False)
        assert ws.offered_subprotocols == ("chat", "superchat")

    def test_accept_names_a_client_that_offers_nothing(self) -> None:
        """A frequent mistake, told as it is."""
        with pytest.raises(ValueError, match="which offers: none"):
            unaccepted(refuse_switch).accept("chat")

    def test_accept_sends_subprotocol_and_headers(self) -> None:
        """They stand in the 101 beside the handshake's own."""

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

    @pytest.mark.parametrize(
        "use",
        [
            lambda ws: ws.accept(),
            lambda ws: ws.receive(),
            lambda ws: ws.receive(timeout=5),
            lambda ws: ws.wait(),
            lambda ws: next(iter(ws)),
            lambda ws: ws.send("x"),
            lambda ws: ws.send_json({}),
            lambda ws: ws.ping(),
            lambda ws: ws.detach(),
            lambda ws: ws.has_messages(),
            lambda ws: ws.count_messages(),
            lambda ws: ws.read(),
        ],
        ids=["accept", "receive", "timeout", "wait", "iter", "send", "json", "ping", "detach", "has", "count", "read"],
    )
    def test_first_use_accepts(self, use: Callable[[WebSocket], object]) -> None:
        """Code written for older libraries never calls ``accept``."""
        ours, theirs = tcp_pair()
        registry = Registry()
        ws = unaccepted(lambda headers: (plain_channel(ours), masked_frame(Opcode.TEXT, b"early")), registry)
        assert not ws.accepted
        use(ws)
        assert ws.accepted
        ws.abort()
        theirs.close()
        until(lambda: not len(registry))

    def test_bytes_behind_the_request_are_frames(self) -> None:
        """A client may send before it has read the 101; the server has read that already."""
        with connected(early=masked_frame(Opcode.TEXT, b"early")) as (ws, peer):
            peer.send("later")
            assert [ws.receive(), ws.receive()] == ["early", "later"]

    def test_peer_that_went_before_the_101_has_ended_the_connection(self) -> None:
        """``accept`` and ``send`` raise ConnectionClosed; ``receive`` tells the end as it always does."""
        for use in (lambda ws: ws.accept(), lambda ws: ws.send("x"), lambda ws: ws.ping(), lambda ws: ws.detach()):
            ws = unaccepted(refuse_switch)
            with pytest.raises(ConnectionClosed, match="lost without a close frame"):
                use(ws)
            assert (ws.closed, ws.accepted, ws.close_code, ws.close_reason) == (True, False, 1006, "")
        ws = unaccepted(refuse_switch)
        assert ws.receive() is None
        with pytest.raises(ConnectionClosed):
            ws.receive()

    @pytest.mark.parametrize(
        ("use", "result"),
        [
            (lambda ws: list(ws), []),
            (lambda ws: [ws.wait(), ws.wait()], [None, None]),
            (lambda ws: ws.has_messages(), False),
            (lambda ws: ws.offer(b"frame"), False),
        ],
        ids=["iter", "wait", "has_messages", "offer"],
    )
    def test_quiet_names_stay_quiet_when_the_peer_went_before_the_101(
        self, use: Callable[[WebSocket], object], result: object
    ) -> None:
        """No exception comes out of names that never raise it."""
        assert use(unaccepted(refuse_switch)) == result

    def test_offer_and_abort_do_not_accept(self) -> None:
        """A group cannot open a connection that the view has not."""
        ws = unaccepted(refuse_switch)
        assert ws.offer(prepare("x")) is False
        ws.abort()
        assert not ws.accepted

    def test_close_before_the_101_refuses_the_handshake(self) -> None:
        """403, unless the application answers otherwise; the WebSocket is closed for whoever holds it."""
        seen: list[Any] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            ws.close()
            seen.extend([ws.closed, ws.receive()])
            with suppress(ConnectionClosed):
                ws.send("x")
            with pytest.raises(RuntimeError):
                ws.accept()
            return []

        with pytest.raises(HandshakeRefused) as caught, connect(app):
            pass
        assert (caught.value.status_code, seen) == (403, [True, None])


class TestReceive:
    def test_messages_come_in_order_and_in_their_type(self) -> None:
        """Text is ``str``, binary is ``bytes``; an empty message is a message."""
        with connected() as (ws, peer):
            peer.send("text", b"binary", "", b"", "\u20ac")
            assert [ws.receive() for _ in range(5)] == ["text", b"binary", "", b"", "\u20ac"]

    def test_receive_waits_for_a_message(self) -> None:
        """The greenlet waits, not the worker."""
        with connected() as (ws, peer):
            waiting = gevent.spawn(ws.receive)
            ticks()
            assert not waiting.dead
            peer.send("at last")
            assert waiting.get(timeout=5) == "at last"

    @pytest.mark.parametrize("timeout", [0, 0.01])
    def test_timeout_leaves_the_connection_usable(self, timeout: float) -> None:
        """TimeoutError says that nothing came; None never does."""
        with connected() as (ws, peer):
            with pytest.raises(TimeoutError, match=f"no message within {timeout} seconds"):
                ws.receive(timeout=timeout)
            peer.send("late")
            assert ws.receive(timeout=5) == "late"
            assert not ws.closed

    def test_timeout_counts_from_now_in_a_view_that_was_busy(self) -> None:
        """The loop's clock stands still while a view computes; the seconds do not count from there."""
        with connected() as (ws, peer):

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
    def test_end_is_none_once_and_then_connection_closed(self, end: str) -> None:
        """gevent-websocket's own contract, however the connection ends; the error tells code and reason."""
        finish, (code, reason) = ENDS[end]
        with connected() as (ws, peer):
            finish(ws, peer)
            until(lambda: ws.closed)
            messages = list(iter(ws.receive, None))
            assert messages == (["last"] if "behind" in end else [])
            for _ in range(2):
                with pytest.raises(ConnectionClosed) as caught:
                    ws.receive()
                assert (caught.value.code, caught.value.reason) == (code, reason)
            assert (ws.close_code, ws.close_reason) == (code, reason)

    @every_end
    @pytest.mark.parametrize("timeout", [None, 5])
    def test_end_wakes_a_waiting_view(self, end: str, timeout: float | None) -> None:
        """At once, not at the next message."""
        with connected() as (ws, peer):
            viewing = gevent.spawn(lambda: list(iter(lambda: ws.receive(timeout), None)))
            ticks()
            ENDS[end][0](ws, peer)
            assert viewing.get(timeout=5) == (["last"] if "behind" in end else [])

    @every_end
    def test_messages_that_came_before_the_end_are_received(self, end: str) -> None:
        """The end does not overtake them."""
        with connected() as (ws, peer):
            peer.send("one", "two")
            until(ws.has_messages)
            ENDS[end][0](ws, peer)
            until(lambda: ws.closed)
            assert list(ws)[:2] == ["one", "two"]

    def test_message_and_close_frame_in_one_piece_are_both_seen(self) -> None:
        """The view answers the message before our close frame goes out."""
        with connected() as (ws, peer):

            def view() -> None:
                for message in ws:
                    ws.send(f"re: {message}")

            viewing = gevent.spawn(view)
            ticks()
            peer.sock.sendall(masked_frame(Opcode.TEXT, b"last") + masked_frame(Opcode.CLOSE, b"\x0f\xa1"))
            assert peer.receive() == "re: last"
            assert peer.close_frame() == (4001, "")
            viewing.get(timeout=5)

    def test_second_receiver_is_refused(self) -> None:
        """Two greenlets would steal each other's messages; the first one goes on waiting."""
        with connected() as (ws, peer):
            waiting = gevent.spawn(ws.receive)
            ticks()
            for receive in (ws.receive, lambda: ws.receive(timeout=1), ws.wait, lambda: next(iter(ws))):
                with pytest.raises(RuntimeError, match=r"another greenlet is waiting in receive\(\)"):
                    receive()
            peer.send("for the first")
            assert waiting.get(timeout=5) == "for the first"

    @pytest.mark.parametrize("timeout", [None, 5])
    def test_view_that_is_killed_while_it_waits_leaves_the_place_free(self, timeout: float | None) -> None:
        """GreenletExit passes through, and another greenlet may receive."""
        with connected() as (ws, peer):
            waiting = gevent.spawn(ws.receive, timeout)
            ticks()
            waiting.kill()
            assert isinstance(waiting.value, gevent.GreenletExit)
            peer.send("for the next")
            assert ws.receive(timeout=5) == "for the next"

    def test_gevent_timeout_around_a_wait_passes_through(self) -> None:
        """Older code bounds its waits like that."""
        with connected() as (ws, peer):
            with gevent.Timeout(0.01, False):
                ws.receive()
            peer.send("late")
            assert ws.receive() == "late"

    def test_iteration_gives_the_messages_up_to_the_end(self) -> None:
        """However the connection ends, no exception comes out of it; a second loop finds nothing more."""
        with connected() as (ws, peer):
            peer.send(*map(str, range(40)))
            peer.close()
            assert list(ws) == list(map(str, range(40)))
            assert list(ws) == []

    def test_waiting_view_receives_while_another_greenlet_sends(self) -> None:
        """Any number may send; the waiting receiver is not disturbed."""
        with connected() as (ws, peer):
            waiting = gevent.spawn(ws.receive)
            senders = [gevent.spawn(ws.send, str(number)) for number in range(5)]
            gevent.joinall(senders, timeout=5, raise_error=True)
            assert sorted(peer.receive() for _ in range(5)) == list("01234")
            peer.send("x")
            assert waiting.get(timeout=5) == "x"


class TestReceiveJson:
    def test_value_comes_out_of_text_and_binary(self) -> None:
        """JSON may travel as either."""
        with connected() as (ws, peer):
            peer.send('{"a": [1, null]}', b'"\xc3\xa9"')
            assert [ws.receive_json(), ws.receive_json(timeout=5)] == [{"a": [1, None]}, "\u00e9"]

    @pytest.mark.parametrize(
        "message",
        [
            *(
                "{",
                "",
                b"\xff",
                "[" * 100_000,
                "1" * 5000,
                "NaN",
                "[Infinity]",
                '{"a": -Infinity}',
                "1e999",
                "[-1e999]",
            ),
            *('"a"'.encode("utf-16"), b'"\xed\xa0\x80"', "\ufeff1", "{'a': 1}", "nan", "01", "[1,]"),
        ],
        ids=lambda text: repr(text[:9]),
    )
    def test_what_is_not_json_ends_the_connection_with_1007(self, message: str | bytes) -> None:
        """The peer's fault raises nothing but the end."""
        with connected() as (ws, peer):
            peer.send(message)
            with pytest.raises(ConnectionClosed) as caught:
                ws.receive_json()
            assert (caught.value.code, caught.value.reason) == (1007, "a message is not JSON")
            assert peer.close_frame() == (1007, "a message is not JSON")

    def test_end_raises(self) -> None:
        """None is a JSON value, so it cannot be the end."""
        with connected() as (ws, peer):
            peer.send("null")
            peer.close(4001)
            assert ws.receive_json() is None
            with pytest.raises(ConnectionClosed) as caught:
                ws.receive_json()
            assert caught.value.code == 4001

    def test_timeout_leaves_the_connection_usable(self) -> None:
        """As in ``receive``."""
        with connected() as (ws, _):
            with pytest.raises(TimeoutError):
                ws.receive_json(timeout=0)
            assert not ws.closed


class TestInbox:
    def test_full_inbox_holds_the_peer_back(self) -> None:
        """Reading pauses at ``inbox_messages``; the peer is blocked by TCP, and goes on when the view does."""
        with connected(buffers=BUFFERS, inbox_messages=4) as (ws, peer):
            messages = [bytes([number]) * 16_000 for number in range(200)]
            sending = gevent.spawn(peer.send, *messages)
            until(lambda: ws.stats.messages_received >= 4)
            ticks(20)
            assert not sending.dead
            assert ws.stats.messages_received <= 4 + 65536 // 16_000
            assert [ws.receive() for _ in messages] == messages
            sending.get(timeout=5)

    def test_messages_that_come_one_by_one_wait_in_order(self) -> None:
        """Each in a read of its own, while the view does something else; the counter sees each."""
        with connected() as (ws, peer):
            for number in range(5):
                peer.send(str(number))
                until(lambda number=number: ws.stats.messages_received == number + 1)  # type: ignore[misc]
            assert [ws.receive() for _ in range(5)] == list("01234")

    def test_bytes_fill_the_inbox_too(self) -> None:
        """Several messages of together one maximal message are enough."""
        with connected(buffers=BUFFERS, max_message_size=100_000, inbox_messages=1000) as (ws, peer):
            messages = [bytes([number]) * 40_000 for number in range(50)]
            sending = gevent.spawn(peer.send, *messages)
            until(lambda: ws.stats.messages_received >= 3)
            ticks(20)
            assert not sending.dead
            assert ws.stats.messages_received <= 5
            assert [ws.receive() for _ in messages] == messages
            sending.get(timeout=5)

    @pytest.mark.parametrize("timeout", [None, 5])
    @pytest.mark.parametrize("together", [False, True])
    def test_inbox_of_one_message_works(self, timeout: float | None, together: bool) -> None:
        """The smallest value of the knob: reading pauses at each message, and goes on when the view takes it."""
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
            until(lambda: ws._paused)
            for _ in range(3):
                ws.receive()
            assert ws._paused
            ws.receive()
            assert not ws._paused

    def test_end_behind_a_full_inbox_is_seen_when_it_is_emptied(self) -> None:
        """Nothing is lost: the messages first, then the close frame."""
        with connected(inbox_messages=2) as (ws, peer):
            peer.send("one", "two", "three")
            until(lambda: ws._paused)
            peer.send("four")
            peer.close(4001)
            ticks()
            assert not ws.closed
            assert list(ws) == ["one", "two", "three", "four"]
            assert ws.close_code == 4001

    def test_close_with_a_full_inbox_hears_the_peers_answer(self) -> None:
        """Our close reads on, so that the handshake of the end comes to its end before ``close_timeout``."""
        with connected(inbox_messages=2, close_timeout=60) as (ws, peer):
            peer.send("one", "two")
            until(lambda: ws._paused)
            peer.send("three", "four")
            ws.close()
            assert peer.close_frame() == (1000, "")
            peer.answer()
            until(lambda: ws._transport.closed)
            assert list(ws) == ["one", "two"]

    def test_messages_that_inflate_much_come_one_by_one(self) -> None:
        """Small frames that inflate to large messages do not fill the memory: the rest waits as it came."""
        with connected(compression=Parameters(), max_message_size=2**20) as (ws, peer):
            messages = [bytes([number]) * 2**20 for number in range(20)]
            peer.send(*messages)
            until(lambda: ws._paused)
            ticks()
            assert sum(map(len, ws._inbox)) <= 2 * 2**20
            assert [ws.receive() for _ in messages] == messages
            assert not ws._paused

    def test_end_behind_messages_that_inflate_much_is_seen(self) -> None:
        """It waits with them inside the engine."""
        with connected(compression=Parameters(), max_message_size=2**20) as (ws, peer):
            messages = [bytes([number]) * 2**20 for number in range(5)]
            peer.engine.close(4001)
            frames = b"".join(Peer(None, Parameters()).engine.encode(message) for message in messages[:1])
            peer.sock.sendall(frames * 5 + peer.engine.take_replies())
            assert [len(message) for message in ws] == [2**20] * 5
            assert ws.close_code == 4001

    def test_close_while_inflated_messages_wait_hears_the_peers_answer(self) -> None:
        """The peer's close frame is inside the engine already, behind messages that nobody wants any more."""
        with connected(compression=Parameters(), max_message_size=2**20, close_timeout=60) as (ws, peer):
            frames = b"".join(Peer(None, Parameters()).engine.encode(bytes(2**20)) for _ in range(5))
            peer.engine.close(4001)
            peer.sock.sendall(frames + peer.engine.take_replies())
            until(lambda: ws._paused)
            ws.close(4002)
            until(lambda: ws._transport.closed, "the connection ends by the peer's close frame", seconds=1)
            assert (ws.close_code, ws._engine.received_close) == (4002, (4001, ""))


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
        """``str`` and numbers as text, bytes as binary, unless ``binary`` says otherwise."""
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
        self, message: Any, binary: bool | None, error: type[Exception], sentence: str
    ) -> None:
        """The caller's own fault is told at the call, and nothing is sent."""
        with connected() as (ws, peer):
            with pytest.raises(error, match=sentence):
                ws.send(message, binary)
            ws.send("next")
            assert peer.receive() == "next"
            assert ws.stats.messages_sent == 1

    def test_send_json_sends_compact_text(self) -> None:
        """As few bytes as JSON allows, and no escapes where UTF-8 will do."""
        with connected() as (ws, peer):
            ws.send_json({"a": ["\u00e9", None]})
            with pytest.raises(TypeError):
                ws.send_json(object())
            text = peer.receive()
            assert (text, json.loads(text)) == ('{"a":["\u00e9",null]}', {"a": ["\u00e9", None]})

    @pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": -float("inf")}, {float("nan"): 1}])
    def test_send_json_refuses_what_is_no_json(self, value: Any) -> None:
        """NaN and infinity have no JSON (RFC 8259 6): no parser of a browser would take them. Nothing is sent."""
        with connected() as (ws, peer):
            with pytest.raises(ValueError, match="not JSON compliant"):
                ws.send_json(value)
            ws.send_json(1.5)
            assert peer.receive() == "1.5"

    def test_what_came_as_json_can_be_sent_as_json(self) -> None:
        """Half of a surrogate pair too, as a browser sends it for a text that was cut inside of an emoji."""
        with connected() as (ws, peer):
            for text in ('["\\ud83d"]', '"\u00e9\\ud83d\\ude00"', "[1.5e300,-0.0,1e-400]", "1" * 4000):
                peer.send(text)
                value = ws.receive_json()
                ws.send_json(value)
                assert json.loads(peer.receive()) == value

    @every_end
    def test_send_on_an_ended_connection_raises(self, end: str) -> None:
        """The error tells how it ended; so do ``ping`` and ``send_json``, while ``offer`` says False."""
        finish, (code, reason) = ENDS[end]
        with connected() as (ws, peer):
            finish(ws, peer)
            until(lambda: ws.closed)
            for send in (lambda: ws.send("x"), lambda: ws.send_json(1), ws.ping):
                with pytest.raises(ConnectionClosed) as caught:
                    send()
                assert (caught.value.code, caught.value.reason) == (code, reason)
            assert ws.offer(prepare("x")) is False

    def test_answers_to_a_burst_leave_together(self) -> None:
        """One system call for many answers, without a delay for the last one."""
        with connected() as (ws, peer):

            def view() -> None:
                for message in ws:
                    ws.send(message)

            viewing = gevent.spawn(view)
            ticks()
            sent: list[int] = []
            send = ws._transport._channel.send

            class Counting:
                def __getattr__(self, name: str) -> Any:
                    return getattr(channel, name)

                def send(self, data: bytes) -> int:
                    sent.append(len(data))
                    return send(data)

            channel, ws._transport._channel = ws._transport._channel, Counting()
            peer.send(*["x" * 10] * 16)
            assert [peer.receive() for _ in range(16)] == ["x" * 10] * 16
            peer.close()
            viewing.get(timeout=5)
            assert [size for size in sent if size > 4] == [16 * 12]

    def test_send_waits_at_high_water(self) -> None:
        """Until the peer has read; nothing is lost and nothing overtakes."""
        with connected(buffers=BUFFERS, send_high_water=50_000) as (ws, peer):
            sent: list[int] = []

            def view() -> None:
                for number in range(100):
                    ws.send(bytes([number]) * 20_000)
                    sent.append(number)

            viewing = gevent.spawn(view)
            ticks(20)
            assert not viewing.dead
            assert ws._transport.outbox_size <= 70_100
            assert [peer.receive() for _ in range(100)] == [bytes([number]) * 20_000 for number in range(100)]
            viewing.get(timeout=5)
            assert sent == list(range(100))

    def test_frames_of_concurrent_senders_never_interleave(self) -> None:
        """Small, large and waiting ones, from many greenlets at once."""
        with connected(buffers=BUFFERS, send_high_water=1000) as (ws, peer):

            def sender(number: int) -> None:
                for size in (1, 100, 5_000, 70_000, 200_000, 10):
                    ws.send(bytes([number]) * size)

            senders = [gevent.spawn(sender, number) for number in range(10)]
            received = [peer.receive() for _ in range(60)]
            gevent.joinall(senders, timeout=5, raise_error=True)
            assert all(len(set(message)) == 1 for message in received)
            for number in range(10):
                sizes = [len(message) for message in received if message[0] == number]
                assert sizes == [1, 100, 5_000, 70_000, 200_000, 10]

    def test_peer_that_reads_nothing_is_cut_after_send_timeout(self, caplog: pytest.LogCaptureFixture) -> None:
        """The waiting sender gets ConnectionClosed, the log one line, the others are not held up."""
        caplog.set_level(logging.INFO, "gws_middleware")
        with connected(buffers=BUFFERS, send_high_water=1000, send_timeout=0.05) as (ws, _):
            with pytest.raises(ConnectionClosed, match="lost without a close frame"):
                forever(ws.send, bytes(1 << 16))
            assert (ws.closed, ws.close_code) == (True, 1006)
            until(lambda: ws._transport.closed)
        assert caplog.messages == ["WebSocket '/chat': the peer read nothing for 0.05 s: cut"]

    def test_slow_reader_is_not_cut_while_it_reads(self) -> None:
        """``send_timeout`` counts from the last progress, and the connection stays open."""
        with connected(buffers=BUFFERS, send_high_water=1000, send_timeout=0.3) as (ws, peer):
            sending = gevent.spawn(lambda: [ws.send(bytes(2_000_000)), ws.send("done")])
            begin = time.monotonic()
            while not sending.dead and not peer.ended:
                gevent.sleep(0.02)
                peer.read()
            sending.get(timeout=5)
            assert peer.receive() == bytes(2_000_000)
            assert not ws.closed
            assert time.monotonic() - begin > 2 * 0.25

    def test_send_timeout_counts_from_now_in_a_view_that_was_busy(self) -> None:
        """The loop's clock stands still while a view computes; the seconds do not count from there."""
        with connected(buffers=BUFFERS, send_high_water=1000, send_timeout=0.4) as (ws, peer):

            def view() -> None:
                ws.receive()
                ws.send(bytes(400_000))
                spin(0.45)
                ws.send("done")

            viewing = gevent.spawn(view)
            ticks()
            peer.send("go")
            gevent.sleep(0.05)
            assert peer.receive() == bytes(400_000)
            assert peer.receive() == "done"
            viewing.get(timeout=5)

    @every_end
    def test_end_wakes_a_waiting_sender(self, end: str) -> None:
        """With ConnectionClosed, at once; a lost peer is found even where nothing more can be written."""
        with connected(buffers=BUFFERS, send_high_water=1000) as (ws, peer):

            def view() -> None:
                with pytest.raises(ConnectionClosed):
                    forever(ws.send, bytes(1 << 16))

            viewing = gevent.spawn(view)
            ticks(20)
            assert not viewing.dead
            ENDS[end][0](ws, peer)
            viewing.get(timeout=5)

    def test_sender_that_is_killed_while_it_waits_has_sent_nothing(self) -> None:
        """It waits before it queues, so the other senders go on and half a frame is never seen."""
        with connected(buffers=BUFFERS, send_high_water=1000) as (ws, peer):
            fill(ws)
            filled = ws.stats.messages_sent
            killed = gevent.spawn(ws.send, "killed")
            waiting = gevent.spawn(ws.send, "sent")
            ticks()
            killed.kill()
            assert len(ws._senders) == 1
            assert [peer.receive() for _ in range(filled)] == [bytes(1 << 16)] * filled
            waiting.get(timeout=5)
            assert peer.receive() == "sent"

    def test_write_that_the_kernel_refuses_ends_the_sending(self) -> None:
        """The next call raises; what the peer sent before it went is still received, its close frame too."""
        with connected() as (ws, peer):
            ws._transport.pause()
            peer.send("last words")
            peer.close(4001, "bye")
            peer.vanish()
            with pytest.raises(ConnectionClosed, match="lost without a close frame"):
                until(lambda: ws.send("into the void"), seconds=5)
            assert ws.closed
            ws._transport.resume()
            assert list(ws) == ["last words"]
            assert (ws.close_code, ws.close_reason) == (4001, "bye")


class TestOffer:
    def test_ready_frame_is_sent(self) -> None:
        """``prepare()`` builds it once for many connections."""
        frame = prepare("to all")
        with connected() as (ws, peer):
            assert ws.offer(frame) is True
            assert peer.receive() == "to all"
            assert ws.stats.messages_sent == 1

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

    @pytest.mark.parametrize("wrong", [None, True, ["x"], object()])
    @pytest.mark.parametrize("method", ["offer", "send"])
    def test_what_is_no_message_is_refused_at_the_call(self, method: str, wrong: Any) -> None:
        """The error names what makes a message ready; the connection goes on."""
        with connected() as (ws, peer):
            with pytest.raises(TypeError, match=r"what prepare\(\) returns"):
                getattr(ws, method)(wrong)
            assert ws.offer("next") is True
            assert peer.receive() == "next"

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

    def test_offer_never_waits_and_ends_a_slow_peer_with_1013(self) -> None:
        """Beyond ``send_limit`` bytes unread the connection is closed; a group is never held up by one member."""
        with connected(buffers=BUFFERS, send_limit=500_000, send_high_water=1000) as (ws, peer):
            frame = prepare(bytes(60_000))
            taken = 0
            while ws.offer(frame):
                taken += 1
            assert ws._transport.outbox_size <= 500_000 + 100
            assert (ws.close_code, ws.close_reason) == (1013, "too slow")
            assert ws.offer(frame) is False
            assert [peer.receive() for _ in range(taken)] == [bytes(60_000)] * taken
            assert peer.close_frame() == (1013, "too slow")

    def test_frame_above_the_limit_reaches_a_peer_that_keeps_up(self) -> None:
        """The limit is for what a peer has not read, not for the size of one message."""
        with connected(send_limit=1000) as (ws, peer):
            assert ws.offer(prepare(bytes(100_000))) is True
            assert peer.receive() == bytes(100_000)


class TestPing:
    def test_pong_tells_the_latency(self) -> None:
        """None before the first; the payload comes back as it went."""
        with connected() as (ws, peer):
            assert ws.latency is None
            ws.ping()
            peer.read()
            gevent.sleep(0.02)
            peer.answer()
            until(lambda: ws.latency is not None)
            assert 0.02 <= ws.latency < 1

    def test_latency_counts_from_now_in_a_view_that_was_busy(self) -> None:
        """What the view computed before the ping is not the peer's delay."""
        with connected() as (ws, peer):

            def busy() -> None:
                spin(0.4)
                ws.ping()

            in_a_watcher(busy)
            peer.read()
            peer.answer()
            until(lambda: ws.latency is not None)
            assert ws.latency < 0.35

    def test_own_payload_travels(self) -> None:
        """Up to 125 bytes (RFC 6455 5.5)."""
        with connected() as (ws, peer):
            ws.ping(b"p" * 125)
            data = peer.sock.recv(1000)
            assert data == bytes([0x80 | Opcode.PING, 125]) + b"p" * 125

    def test_payload_over_125_bytes_raises(self) -> None:
        """The caller's fault leaves the connection alone."""
        with connected() as (ws, _):
            with pytest.raises(ValueError, match="a ping carries 125 bytes at the most, not 126"):
                ws.ping(bytes(126))
            assert not ws.closed

    def test_pong_to_no_ping_or_an_older_one_tells_nothing(self) -> None:
        """Unsolicited pongs are legal (RFC 6455 5.5.3) and ignored."""
        with connected() as (ws, peer):
            peer.send_frame(Opcode.PONG, b"unsolicited")
            ws.ping(b"one")
            peer.send_frame(Opcode.PONG, b"another")
            peer.send("behind it")
            assert ws.receive() == "behind it"
            assert ws.latency is None

    def test_ping_is_answered_while_the_view_sleeps(self) -> None:
        """Reads are driven by the loop: nobody has to call ``receive``."""
        with connected() as (_, peer):
            peer.sock.sendall(PING_FRAME)
            reply = peer.sock.recv(100)
            assert reply == bytes([0x80 | Opcode.PONG, 14]) + b"are you there?"

    def test_ping_between_messages_is_answered_while_the_inbox_fills(self) -> None:
        """The messages wait, the answer does not."""
        with connected() as (ws, peer):
            peer.sock.sendall(masked_frame(Opcode.TEXT, b"one") + PING_FRAME + masked_frame(Opcode.TEXT, b"two"))
            assert peer.sock.recv(100)[:1] == bytes([0x80 | Opcode.PONG])
            assert ws.count_messages() == 2

    def test_pong_waits_for_a_peer_that_does_not_read(self) -> None:
        """A ping flood cannot fill the outbox; when the peer reads again, the latest pings are answered."""
        with connected(buffers=BUFFERS, send_high_water=1000) as (ws, peer):
            fill(ws)
            ticks(20)
            waiting = ws._transport.outbox_size
            for number in range(200):
                peer.send_frame(Opcode.PING, b"%03d" % number)
            until(lambda: ws.stats.bytes_received >= 200 * 9)
            ticks()
            assert ws._transport.outbox_size <= waiting
            filled = ws.stats.messages_sent
            assert [peer.receive() for _ in range(filled)] == [bytes(1 << 16)] * filled
            until(lambda: peer.engine.pongs[-1:] == [b"199"] or peer.read())
            assert peer.engine.pongs[-1] == b"199"
            assert len(peer.engine.pongs) <= MAX_PONGS

    def test_pong_is_sent_behind_frames_that_only_wait_for_the_tick_to_end(self) -> None:
        """More than the high water may be queued in one tick though the peer reads: the pong is not forgotten."""
        with connected(send_high_water=1000) as (ws, peer):
            for _ in range(3):
                ws.offer(prepare(bytes(1000)))
            assert ws._transport.outbox_size > 1000
            ws._data_received(bytearray(PING_FRAME), len(PING_FRAME))
            assert [peer.receive() for _ in range(3)] == [bytes(1000)] * 3
            until(lambda: peer.engine.pongs or peer.read())
            assert peer.engine.pongs == [b"are you there?"]


class TestPingFlood:
    """Attack 10: pongs for a peer that does not read them (RFC 6455 5.5.3 lets us answer the latest alone)."""

    def test_flood_of_a_peer_that_reads_nothing_ends_with_1008(self) -> None:
        """So many that no clock can have lost them; nothing has piled up for it."""
        with connected(buffers=BUFFERS, send_high_water=1000, close_timeout=0.05) as (ws, peer):
            fill(ws)
            ticks(20)
            waiting = ws._transport.outbox_size
            flood = PING_FRAME * (MAX_PINGS_DROPPED + MAX_PONGS + 1)
            sending = gevent.spawn(peer.sock.sendall, flood)
            until(lambda: ws.closed)
            sending.kill()
            assert (ws.close_code, ws.close_reason) == (1008, "a flood of pings")
            assert ws._transport.outbox_size <= waiting + 50

    def test_pings_within_the_limit_do_not(self) -> None:
        """A peer may read late."""
        with connected(buffers=BUFFERS, send_high_water=1000) as (ws, peer):
            fill(ws)
            ticks(20)
            before = ws.stats.bytes_received
            flood = PING_FRAME * (MAX_PINGS_DROPPED + MAX_PONGS)
            sending = gevent.spawn(peer.sock.sendall, flood)
            until(lambda: ws.stats.bytes_received == before + len(flood))
            sending.get(timeout=5)
            ticks()
            assert not ws.closed


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


class TestLimits:
    def test_table_is_whole(self) -> None:
        """A new knob is either for one view or decided before a view is called."""
        assert {each.name for each in fields(Config) if each.metadata["per_view"]} == set(LIMITS)

    @pytest.mark.parametrize("name", LIMITS)
    def test_view_sets_its_own(self, name: str) -> None:
        """The others stay as they are."""
        ws = unaccepted(refuse_switch, max_connections=5)
        ws.limits(**{name: LIMITS[name]})
        assert ws._config == Config(max_connections=5, **{name: LIMITS[name]})

    def test_limits_may_be_set_one_after_the_other(self) -> None:
        """A decorator sets some, the view others."""
        ws = unaccepted(refuse_switch)
        ws.limits(max_fragments=2)
        ws.limits(max_message_size=5)
        ws.limits()
        assert (ws._config.max_fragments, ws._config.max_message_size) == (2, 5)

    @pytest.mark.parametrize("name", [each.name for each in fields(Config) if not each.metadata["per_view"]])
    def test_what_is_decided_before_cannot_be_set(self, name: str) -> None:
        """The handshake has been judged, and places have been taken."""
        ws = unaccepted(refuse_switch)
        with pytest.raises(ConfigError) as caught:
            ws.limits(max_fragments=2, **{name: getattr(Config(), name)})
        assert str(caught.value) == f"{name} cannot be set for one view: set it for the application"
        assert ws._config == Config()

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"max_mesage_size": 5}, "'max_mesage_size' is not a setting: did you mean 'max_message_size'?"),
            ({"colour": 5}, "'colour' is not a setting"),
            ({"max_fragments": 0}, "max_fragments is 0: wanted a whole number from 1 to 1099511627776"),
            ({"ping_interval": 0}, "ping_interval is 0: wanted a number of seconds above 0, or None"),
        ],
    )
    def test_wrong_limit_is_refused(self, options: dict[str, Any], sentence: str) -> None:
        """In the words that settings are refused in; nothing has changed."""
        ws = unaccepted(refuse_switch)
        with pytest.raises(ConfigError) as caught:
            ws.limits(**options)
        assert (str(caught.value), ws._config) == (sentence, Config())

    def test_limits_are_set_before_the_accept(self) -> None:
        """The engine works with them by then."""
        with connected() as (ws, _):
            with pytest.raises(RuntimeError) as caught:
                ws.limits(max_fragments=2)
            assert str(caught.value) == "this WebSocket has been accepted already: its limits are set before"

    def test_limits_hold(self) -> None:
        """Those of the engine, of the rates, of the keepalive and of the short path."""

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            ws.limits(max_message_size=5, send_high_water=7, send_limit=9, byte_rate=1e6, ping_interval=0.03)
            ws.accept()
            seen.extend([ws._high_water, ws._send_limit, type(ws._engine).__name__])
            ws.receive()
            return []

        seen: list[Any] = []
        with connect(app) as client:
            client.send("123456")
            assert client.receive() is None
            assert (client.close_code, client.close_reason) == (1009, "a message has more than 5 bytes")
        assert seen == [7, 9, "MeteredConnection"]

    def test_ping_interval_of_a_view_is_its_own(self) -> None:
        """Its peer is asked by it."""

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
    """The shell's own limits end a connection as a broken rule does."""

    def test_fail_tells_the_peer_why(self) -> None:
        """What it still sends is dropped, and the view sees the end."""
        with connected() as (ws, peer):
            viewing = gevent.spawn(ws.receive)
            ticks()
            ws._fail(CloseCode.POLICY_VIOLATION, "enough")
            peer.send("too late")
            assert peer.close_frame() == (1008, "enough")
            assert viewing.get(timeout=5) is None
            assert (ws.close_code, ws.close_reason, ws.stats.messages_received) == (1008, "enough", 0)

    def test_fail_comes_behind_what_waits(self) -> None:
        """The messages that came before are received."""
        with connected() as (ws, peer):
            peer.send("one", "two")
            until(lambda: ws.stats.messages_received == 2)
            ws._fail(CloseCode.POLICY_VIOLATION, "enough")
            assert [ws.receive(), ws.receive(), ws.receive()] == ["one", "two", None]

    def test_fail_of_a_stuck_reader_does_not_wait_for_it(self) -> None:
        """The view sees the end at once, and the socket goes after ``close_timeout``."""
        with connected(buffers=BUFFERS, send_high_water=1000, close_timeout=0.03) as (ws, _):
            fill(ws)
            ws._fail(CloseCode.INTERNAL_ERROR, "gone")
            assert ws.receive() is None
            until(lambda: ws._transport.closed)
            assert ws.close_code == 1011

    @every_end
    def test_fail_behind_an_end_changes_nothing(self, end: str) -> None:
        """The first end counts; one that has no connection has none to end."""
        finish, (code, reason) = ENDS[end]
        unaccepted(refuse_switch)._fail(CloseCode.POLICY_VIOLATION, "enough")
        with connected() as (ws, peer):
            finish(ws, peer)
            until(lambda: ws.closed)
            ws._fail(CloseCode.POLICY_VIOLATION, "enough")
            ticks()
            assert (ws.close_code, ws.close_reason) == (code, reason)

    def test_fail_of_a_connection_whose_write_was_refused_cuts_it(self) -> None:
        """No close frame can go out, so there was none: 1006."""
        with connected(inbox_messages=1) as (ws, peer):
            peer.send("one", "two")
            until(lambda: ws._paused)
            peer.reset()
            until(lambda: ws.closed or ws.ping())
            ws._fail(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
            until(lambda: ws._transport.closed)
            assert ws.close_code == 1006


class TestWhatKeepaliveAsks:
    def test_pulse_changes_with_every_byte(self) -> None:
        """And with nothing else: not with what we send, nor with the time."""
        with connected() as (ws, peer):
            found = [ws._activity()]
            ws.send("x")
            ws.ping()
            ticks()
            found.append(ws._activity())
            peer.sock.sendall(b"\x81")
            until(lambda: ws.stats.bytes_received)
            found.append(ws._activity())
            assert found == [0, 0, 1]

    def test_pulse_changes_when_a_slow_peer_reads(self) -> None:
        """Not when more is sent to it."""
        with connected(buffers=BUFFERS, send_high_water=2**30) as (ws, peer):
            ws.send(bytes(2**22))
            ticks(20)
            before = ws._activity()
            ws.send(bytes(2**16))
            still = ws._activity()
            until(lambda: peer.sock.recv(1 << 16) and ws._activity() != before)
            assert still == before
            assert ws._transport.outbox_size

    def test_pulse_is_none_while_nothing_is_read(self) -> None:
        """Nobody can tell then."""
        with connected(inbox_messages=1) as (ws, peer):
            peer.send("one", "two")
            until(lambda: ws._paused)
            found = [ws._activity()]
            ws.receive()
            ws.receive()
            found.append(ws._activity())
            assert found == [None, ws.stats.bytes_received]

    def test_message_has_a_number_while_a_part_of_it_is_here(self) -> None:
        """Another one for each message."""
        with connected() as (ws, peer):
            half = masked_frame(Opcode.TEXT, b"12345678")
            found = [ws._message_number()]
            for piece, count in ((half[:5], 5), (half[5:] + half[:5], 19), (half[5:], 28)):
                peer.sock.sendall(piece)
                until(lambda count=count: ws.stats.bytes_received == count)  # type: ignore[misc]
                found.append(ws._message_number())
            assert found == [None, 0, 1, None]

    def test_waiting_tells_size_and_age(self) -> None:
        """Of what the kernel has not taken; nothing before the accept, and nothing once it is over."""
        assert unaccepted(refuse_switch)._outbox_state == (0, None)
        with connected(buffers=BUFFERS, send_high_water=1000) as (ws, _):
            found = [ws._outbox_state]
            begin = time.monotonic()
            fill(ws)
            size, since = ws._outbox_state
            ws.abort()
            until(lambda: ws._transport.closed)
            found.append(ws._outbox_state)
            assert found == [(0, None), (0, None)]
            assert size > 1000
            assert since is not None
            assert begin <= since <= time.monotonic()


class TestClose:
    def test_peer_that_closes_first_gets_its_code_back(self) -> None:
        """RFC 6455 5.5.1; the error tells what either side sent."""
        with connected() as (ws, peer):
            peer.close(4001, "bye")
            assert ws.receive() is None
            assert peer.close_frame() == (4001, "")
            with pytest.raises(ConnectionClosed) as caught:
                ws.receive()
            assert (caught.value.received, caught.value.sent) == ((4001, "bye"), (4001, ""))
            assert str(caught.value) == "the connection has been closed: the peer sent 4001 'bye', we sent 4001"

    def test_we_close_first(self) -> None:
        """Code and reason are ours, also when the peer has answered."""
        with connected() as (ws, peer):
            ws.close(4002, "done")
            assert (ws.closed, ws.close_code, ws.close_reason) == (True, 4002, "done")
            assert peer.close_frame() == (4002, "done")
            peer.answer()
            until(lambda: ws._transport.closed)
            assert (ws.close_code, ws.close_reason) == (4002, "done")
            assert ws._closed_error().received == (4002, "")

    def test_both_close_at_once(self) -> None:
        """Each hears the other's frame as the answer to its own; ours counts as the first here."""
        with connected() as (ws, peer):
            peer.close(4001, "peer")
            ws.close(4002, "us")
            assert peer.close_frame() == (4002, "us")
            until(lambda: ws._transport.closed)
            error = ws._closed_error()
            assert (error.code, error.received, error.sent) == (4002, (4001, "peer"), (4002, "us"))

    def test_open_connection_has_no_close_code(self) -> None:
        """None until the end."""
        with connected() as (ws, _):
            assert (ws.closed, ws.is_closed(), ws.close_code, ws.close_reason) == (False, False, None, None)

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
    def test_code_and_reason_travel(self, arguments: tuple[Any, ...], arrives: tuple[int, str]) -> None:
        """The third argument, and None, are gevent-websocket's."""
        with connected() as (ws, peer):
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
    def test_what_may_not_travel_raises(self, code: int, reason: str | bytes, sentence: str, ended: bool) -> None:
        """The caller's fault is told even when the connection has ended, and leaves it alone."""
        with connected() as (ws, peer):
            if ended:
                peer.vanish()
                until(lambda: ws.closed)
            with pytest.raises(ValueError, match=sentence):
                ws.close(code, reason)
            assert ws.closed is ended

    @every_end
    def test_close_of_an_ended_connection_does_nothing(self, end: str) -> None:
        """Called as often as one likes; the first end counts."""
        finish, (code, reason) = ENDS[end]
        with connected() as (ws, peer):
            finish(ws, peer)
            until(lambda: ws.closed)
            ws.close(4003, "too late")
            ws.close(4004)
            assert (ws.close_code, ws.close_reason) == (code, reason)

    def test_close_twice_sends_one_frame(self) -> None:
        """RFC 6455 5.5.1: nothing may follow a close frame."""
        with connected() as (ws, peer):
            ws.close()
            ws.close(4002)
            peer.close_frame()
            peer.answer()
            until(lambda: ws._transport.closed)
            assert peer.sock.recv(100) == b""

    def test_peer_that_never_answers_is_cut(self) -> None:
        """After ``close_timeout`` seconds; what it sends meanwhile is ignored."""
        with connected(close_timeout=0.05) as (ws, peer):
            ws.close()
            peer.send("ignored")
            assert not ws._transport.closed
            until(lambda: ws._transport.closed, seconds=1)
            assert list(ws) == []

    def test_close_behind_a_refused_write_is_no_close_frame(self) -> None:
        """What could not be sent has not been sent: the connection was lost."""
        with connected() as (ws, peer):
            peer.vanish()
            ws._transport.pause()
            with suppress(ConnectionClosed):
                until(lambda: ws.send("into the void"))
            ws.close(4003, "too late")
            assert (ws.close_code, ws._closed_error().sent) == (1006, None)
            until(lambda: ws._transport.closed)
            assert list(ws) == []

    def test_violation_is_told_to_the_peer(self) -> None:
        """A close frame with the reason, though the peer was still sending (RFC 6455 7.1.7)."""
        with connected() as (ws, peer):
            peer.send_frame(Opcode.TEXT, b"\xff")
            with suppress(ConnectionError):
                peer.sock.sendall(bytes(100_000))
            assert peer.close_frame() == (1007, "a text message is not UTF-8")
            assert ws.receive() is None

    @pytest.mark.parametrize("end", ["EOF", "RST"])
    def test_peer_lost_during_our_close_is_no_error(self, end: str) -> None:
        """The end is the end."""
        with connected(close_timeout=60) as (ws, peer):
            ws.close(4002)
            ENDS[end][0](ws, peer)
            until(lambda: ws._transport.closed)
            assert ws.close_code == 4002

    def test_abort_cuts_without_a_goodbye(self) -> None:
        """1006 to the peer."""
        with connected() as (ws, peer):
            ws.abort()
            ws.abort()
            assert ws.closed
            assert peer.close_frame() is None


class TestFacts:
    def test_request_is_at_hand(self) -> None:
        """gevent-websocket's names for the request's headers."""
        with connect(facts, "/a%20b?c=d", origin="http://testserver", subprotocols=("x", "y")) as client:
            assert client.receive_json() == {
                "origin": "http://testserver",
                "path": "/a b",
                "version": "13",
                "protocol": "x, y",
                "subprotocol": None,
                "query": "c=d",
            }

    def test_absent_headers_are_none(self) -> None:
        """And an environ without a path has an empty one."""
        ws = unaccepted(refuse_switch, environ={})
        assert (ws.origin, ws.version, ws.protocol, ws.path) == (None, None, None, "")

    def test_repr_tells_path_and_state(self) -> None:
        """The path is escaped: it comes from the client."""
        ws = unaccepted(refuse_switch, environ={"PATH_INFO": "/\x1b[31m\u20ac"})
        texts = [repr(ws)]
        with connected() as (ws, peer):
            texts.append(repr(ws))
            peer.vanish()
            until(lambda: ws.closed)
            texts.append(repr(ws))
        assert texts == [
            r"<WebSocket '/\x1b[31m\u20ac' pending>",
            "<WebSocket '/chat' open>",
            "<WebSocket '/chat' closed>",
        ]

    def test_stats_count_messages_and_bytes(self) -> None:
        """Bytes are those of frames; before the accept there are none."""
        assert unaccepted(refuse_switch).stats == (0, 0, 0, 0)
        with connected() as (ws, peer):
            peer.send("12345", "12345")
            assert [ws.receive(), ws.receive()] == ["12345"] * 2
            ws.send("123")
            ws.ping(b"")
            assert ws.stats == (2, 1, 2 * (2 + 4 + 5), (2 + 3) + 2)
            assert ws.stats.messages_received == 2

    def test_application_may_hang_its_own_attributes_on(self) -> None:
        """As it could on gevent-websocket's."""
        with connected() as (ws, _):
            ws.user = "ann"
            assert ws.user == "ann"


def facts(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Tells what a view can ask its WebSocket."""
    ws = environ["wsgi.websocket"]
    names = ("origin", "path", "version", "protocol", "subprotocol")
    ws.send_json({name: getattr(ws, name) for name in names} | {"query": ws.environ["QUERY_STRING"]})
    return []


class TestBigMessages:
    def test_big_messages_travel_both_ways(self) -> None:
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
        import tracemalloc

        size = 2**24
        with connected(max_message_size=2**25) as (ws, peer):
            frame = masked_frame(Opcode.BINARY, bytes(size))
            sending = gevent.spawn(peer.sock.sendall, frame)
            tracemalloc.start()
            try:
                message = ws.receive()
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            sending.get(timeout=5)
            assert len(message) == size
            assert peak < 2.5 * size


# --- nothing is left behind ---------------------------------------------------------------------------------------


def echo(ws: WebSocket, start_response: StartResponse) -> None:
    for message in ws:
        ws.send(message)


def fail(ws: WebSocket, start_response: StartResponse) -> None:
    ws.receive()
    raise KeyError("the view's own fault")


def close(ws: WebSocket, start_response: StartResponse) -> None:
    ws.receive()
    ws.close(4002)


def slow(ws: WebSocket, start_response: StartResponse) -> None:
    while True:
        ws.send(bytes(1 << 16))


def forbid(ws: WebSocket, start_response: StartResponse) -> None:
    start_response("403 Forbidden", [])


def refuse(ws: WebSocket, start_response: StartResponse) -> None:
    ws.close()


def forget(ws: WebSocket, start_response: StartResponse) -> None:
    pass


def timed_out(ws: WebSocket, start_response: StartResponse) -> None:
    with suppress(TimeoutError):
        ws.receive(timeout=0)


LIVES: dict[str, Callable[[WebSocket, StartResponse], None]] = {
    "echo": echo,
    "fail": fail,
    "close": close,
    "slow": slow,
    "timed out": timed_out,
    "forbidden": forbid,
    "refused": refuse,
    "forgotten": forget,
}


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is freed in a test is freed without the garbage collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("life", list(LIVES))
@pytest.mark.parametrize("by", ["close", "EOF"])
def test_ended_connection_is_freed_at_once(life: str, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cycle waits for the garbage collector: WebSocket, engine and transport are gone with the last reference."""
    monkeypatch.setattr(logging.getLogger("gws_middleware"), "disabled", True)  # a kept record keeps the frames
    references: list[weakref.ref[WebSocket]] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        references.append(weakref.ref(environ["wsgi.websocket"]))
        LIVES[life](environ["wsgi.websocket"], start_response)
        return []

    def live() -> None:
        with suppress(HandshakeRefused, ConnectionClosed), connect(app) as client:
            client.send("x")
            client.receive()
            if by == "EOF":
                client._sock.close()

    before = count_of(Transport)
    live()
    until(lambda: references[0]() is None, "the WebSocket is freed", seconds=1)
    assert count_of(Transport) == before


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("accepts", [False, True])
@pytest.mark.parametrize("error", [KeyError, gevent.GreenletExit, SystemExit])
def test_connection_whose_view_raised_is_freed_at_once(
    accepts: bool, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that goes on to the server keeps nothing alive once the server has let go of it."""
    monkeypatch.setattr(logging.getLogger("gws_middleware"), "disabled", True)
    references: list[weakref.ref[WebSocket]] = []
    ours, theirs = tcp_pair()

    class OneRequest(Server):
        def switch(self, start_response: StartResponse, headers: Headers) -> tuple[Channel, bytes]:
            return plain_channel(ours), b""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        references.append(weakref.ref(environ["wsgi.websocket"]))
        if accepts:
            environ["wsgi.websocket"].accept()
        raise error

    def serve() -> None:
        client = connect(app)
        with suppress(error):
            list(client._app({**client._environ, SERVER_KEY: OneRequest()}, lambda *arguments: lambda data: None))

    serve()
    ours.close()
    theirs.close()
    until(lambda: references[0]() is None, "the WebSocket is freed", seconds=1)


class TestSwitchedServers:
    """Servers that have sent the 101 before they call the application (gevent-websocket's)."""

    @pytest.fixture(autouse=True)
    def switched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gws_middleware.testing._PairServer.switched", True)

    def test_accept_once_is_no_error(self) -> None:
        """An application that says ``accept()`` runs there too; a second one is an error as everywhere."""

        def app(environ: Any, start_response: Any) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            ws.accept()
            with pytest.raises(RuntimeError, match="accepted already"):
                ws.accept()
            ws.send("open")
            return []

        with connect(app) as client:
            assert client.receive() == "open"

    def test_accept_with_another_subprotocol_is_refused(self) -> None:
        """What the 101 has said cannot be changed any more."""

        def app(environ: Any, start_response: Any) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            with pytest.raises(ValueError, match="has sent the 101 already, with the subprotocol None"):
                ws.accept("chat")
            ws.send("open")
            return []

        with connect(app) as client:
            assert client.receive() == "open"


def test_big_frame_is_read_in_bigger_steps() -> None:
    """While a big frame is under way the transport reads more at once, and as usual behind it."""
    sockets: list[WebSocket] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        sockets.append(environ["wsgi.websocket"])
        for message in sockets[0]:
            sockets[0].send(str(len(message)))
        return []

    with connect(app) as client:
        frame = masked_frame(Opcode.BINARY, b"x" * (BIG_READ * 2))
        client.send_raw(frame[:100])
        until(lambda: bool(sockets) and len(sockets[0]._transport._window) == BIG_READ)
        client.send_raw(frame[100:])
        assert client.receive() == str(BIG_READ * 2)
        assert len(sockets[0]._transport._window) == READ_SIZE
