"""``WebSocket.detach``: a connection that lives on without a view, a greenlet and a frame."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from typing import Any

import gevent
import gevent.event
import pytest

from gws_middleware import ConnectionClosed, HandshakeRefused, WebSocket
from gws_middleware.codes import Opcode
from gws_middleware.connection.states import has_ended
from gws_middleware.connection.transport import Transport
from gws_middleware.middleware import _Lifetime
from gws_middleware.process.registry import Registry
from gws_middleware.testing import connect
from gws_middleware.typing import Environ, StartResponse

from ..support.inprocess import (
    ENDS,
    connected,
    count_of,
    every_end,
    hub_errors,
    masked_frame,
    problems,
    ticks,
    unaccepted,
    until,
)

__all__ = ["hub_errors"]


class Diary:
    """Callbacks that write down what they are told."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.closes: list[int | None] = []

    def on_message(self, ws: WebSocket, message: str | bytes) -> None:
        self.messages.append(message)

    def on_close(self, ws: WebSocket) -> None:
        self.closes.append(ws.close_code)


@pytest.fixture
def diary() -> Diary:
    return Diary()


class TestMessages:
    def test_messages_come_in_order(self, diary: Diary) -> None:
        """Those that came before the detach first."""
        with connected(inbox_messages=4) as (ws, peer):
            peer.send("0", "1")
            until(ws.has_messages)
            ws.detach(diary.on_message)
            for number in range(2, 100):
                peer.send(str(number))
            until(lambda: len(diary.messages) == 100)
            assert diary.messages == list(map(str, range(100)))

    def test_no_message_comes_after_our_close(self, diary: Diary) -> None:
        """Not even one that was here before: nobody could answer it."""
        with connected() as (ws, peer):

            def on_message(ws: WebSocket, message: Any) -> None:
                diary.on_message(ws, message)
                ws.close(1008)

            ws.detach(on_message, diary.on_close)
            peer.send("bad", "worse")
            until(lambda: diary.closes == [1008])
            assert diary.messages == ["bad"]

    def test_one_greenlet_at_a_time_serves_a_connection(self) -> None:
        """A callback that waits is not overtaken by the next message."""
        inside, most, messages = 0, 0, []

        def on_message(ws: WebSocket, message: Any) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            gevent.sleep(0.002)
            messages.append(message)
            inside -= 1

        with connected() as (ws, peer):
            ws.detach(on_message)
            for number in range(20):
                peer.send(str(number))
                gevent.sleep(0)
            until(lambda: len(messages) == 20)
            assert (most, messages) == (1, list(map(str, range(20))))

    def test_connections_do_not_wait_for_each_other(self, diary: Diary) -> None:
        """Each one has its own greenlet while it has messages."""
        with connected() as (first, first_peer), connected() as (second, second_peer):
            first.detach(lambda ws, message: gevent.sleep(60))
            second.detach(diary.on_message)
            first_peer.send("blocks")
            ticks()
            second_peer.send("passes")
            until(lambda: diary.messages, seconds=1)
            assert diary.messages == ["passes"]
            gevent.killall(live_greenlets())

    def test_callback_may_send(self) -> None:
        """An echo."""
        with connected() as (ws, peer):
            ws.detach(lambda ws, message: ws.send(message))
            peer.send("x")
            assert peer.receive() == "x"

    def test_message_and_close_frame_in_one_piece_are_both_seen(self, diary: Diary) -> None:
        """The callback answers the message before our close frame goes out."""
        with connected() as (ws, peer):
            ws.detach(lambda ws, message: ws.send(f"re: {message}"), diary.on_close)
            peer.sock.sendall(masked_frame(Opcode.TEXT, b"last") + masked_frame(Opcode.CLOSE, b"\x0f\xa1"))
            assert (peer.receive(), peer.close_frame()) == ("re: last", (4001, ""))
            until(lambda: diary.closes)
            assert diary.closes == [4001]

    def test_others_may_send_to_a_detached_connection(self) -> None:
        """This is what it is for: push."""
        with connected() as (ws, peer):
            ws.detach()
            ws.send("pushed")
            assert peer.receive() == "pushed"

    def test_messages_are_dropped_without_a_callback(self, diary: Diary) -> None:
        """And do not fill the inbox."""
        with connected(inbox_messages=2) as (ws, peer):
            ws.detach(on_close=diary.on_close)
            for number in range(50):
                peer.send(str(number))
            peer.close(4001)
            until(lambda: diary.closes)
            assert (diary.closes, ws.stats.messages_received) == ([4001], 50)

    def test_full_inbox_holds_the_peer_back(self) -> None:
        """A callback that is slow is not flooded."""
        let_go = gevent.event.Event()
        messages: list[Any] = []

        def on_message(ws: WebSocket, message: Any) -> None:
            let_go.wait()
            messages.append(message)

        with connected(buffers=1 << 15, inbox_messages=4) as (ws, peer):
            ws.detach(on_message)
            sending = gevent.spawn(peer.send, *[bytes(16_000)] * 100)
            ticks(20)
            assert not sending.dead
            assert ws.stats.messages_received <= 9
            let_go.set()
            until(lambda: len(messages) == 100)
            sending.get(timeout=5)

    @pytest.mark.parametrize("waiting", [(), ("one", "two")], ids=["empty inbox", "messages wait"])
    def test_receive_is_refused(self, waiting: tuple[str, ...]) -> None:
        """The messages go to ``on_message``: nobody may take them away, not even a callback."""
        errors: list[str] = []

        def on_message(ws: WebSocket, message: Any) -> None:
            for receive in (ws.receive, lambda: ws.receive(timeout=1), lambda: next(iter(ws)), ws.receive_json):
                with pytest.raises(RuntimeError) as caught:
                    receive()
                errors.append(str(caught.value))

        with connected() as (ws, peer):
            if waiting:
                peer.send(*waiting)
                until(ws.has_messages)
            ws.detach(on_message)
            on_message(ws, None)
            if waiting:
                until(lambda: len(errors) == 12)
            assert set(errors) == {"this WebSocket is detached: its messages go to on_message"}

    def test_second_detach_is_refused(self) -> None:
        """A connection has one pair of callbacks."""
        with connected() as (ws, _):
            ws.detach()
            with pytest.raises(RuntimeError, match="this WebSocket is detached already"):
                ws.detach()

    @pytest.mark.parametrize("timeout", [None, 60])
    def test_detach_is_refused_while_another_greenlet_waits_for_a_message(
        self, timeout: float | None, diary: Diary
    ) -> None:
        """That greenlet would take the messages, and the end; once it has ended the callbacks get both."""
        with connected() as (ws, peer):
            waiting = gevent.spawn(ws.receive, timeout)
            until(lambda: ws._reader is not None)
            with pytest.raises(RuntimeError, match="another greenlet is waiting in receive") as caught:
                ws.detach(diary.on_message, diary.on_close)
            detached = ws.detached
            waiting.kill()
            ws.detach(diary.on_message, diary.on_close)
            peer.send("one")
            until(lambda: diary.messages)
            peer.close(4001)
            until(lambda: diary.closes)
        assert str(caught.value).endswith("it must have ended before detach()")
        assert (detached, diary.messages, diary.closes) == (False, ["one"], [4001])

    def test_detached_tells(self) -> None:
        """Before and after."""
        with connected() as (ws, _):
            before = ws.detached
            ws.detach()
            assert (before, ws.detached) == (False, True)

    def test_environ_keeps_plain_strings_alone(self) -> None:
        """No stream, no framework's request and no WebSocket is kept alive by an idle connection."""
        seen: list[Any] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            environ["django.request"] = object()
            ws = environ["wsgi.websocket"]
            ws.detach(lambda ws, message: seen.append((ws.path, ws.environ)))
            assert ws.environ is not environ
            return []

        with connect(app, "/push?a=b") as client:
            client.send("x")
            until(lambda: seen)
        ((path, environ),) = seen
        assert (path, environ["QUERY_STRING"]) == ("/push", "a=b")
        assert {type(value) for value in environ.values()} == {str}


class TestOnClose:
    @every_end
    def test_on_close_is_called_once_at_the_end(self, end: str, diary: Diary) -> None:
        """Behind the last message, whatever the end; it can ask how the connection ended."""
        finish, (code, _) = ENDS[end]
        with connected() as (ws, peer):
            ws.detach(diary.on_message, diary.on_close)
            peer.send("one")
            until(lambda: diary.messages)
            finish(ws, peer)
            until(lambda: diary.closes)
            ws.close()
        ticks(5)
        assert diary.messages == ["one", "last"][: 1 + ("behind" in end)]
        assert diary.closes == [code]

    @every_end
    @pytest.mark.parametrize("told", [False, True], ids=["end unseen", "end received"])
    def test_on_close_is_called_if_the_connection_had_ended_before(self, end: str, told: bool, diary: Diary) -> None:
        """Cleaning up must not depend on who was faster; also not on whether the view has seen the end."""
        finish, (code, _) = ENDS[end]
        with connected() as (ws, peer):
            finish(ws, peer)
            until(lambda: ws.closed)
            if told:
                assert list(iter(ws.receive, None)) == (["last"] if "behind" in end else [])
            until(lambda: has_ended(ws._state))
            ws.detach(diary.on_message, diary.on_close)
            until(lambda: diary.closes)
        ticks(5)
        assert diary.closes == [code]
        assert diary.messages == (["last"] if "behind" in end and not told else [])

    def test_on_close_is_called_when_the_worker_drains(self, diary: Diary) -> None:
        """Detached connections are sent home with the others."""
        with connected() as (ws, peer):
            ws.detach(diary.on_message, diary.on_close)
            registry = ws._registry
            draining = gevent.spawn(registry.drain, 1001, 5.0)
            assert peer.close_frame() == (1001, "")
            peer.answer()
            draining.get(timeout=5)
            assert (diary.closes, len(registry)) == ([1001], 0)

    def test_on_close_waits_for_the_message_under_way(self, diary: Diary) -> None:
        """One greenlet at a time: the end does not overtake a callback that waits."""
        let_go = gevent.event.Event()
        events: list[str] = []

        def on_message(ws: WebSocket, message: Any) -> None:
            let_go.wait()
            events.append(message)

        with connected() as (ws, peer):
            ws.detach(on_message, lambda ws: events.append("closed"))
            peer.send("one", "two")
            ticks()
            peer.vanish()
            until(lambda: ws.closed)
            ticks()
            assert events == []
            let_go.set()
            until(lambda: "closed" in events)
            assert events == ["one", "two", "closed"]

    def test_on_close_of_a_handshake_that_was_refused_is_called(self, diary: Diary) -> None:
        """``close()`` before the 101 is an end, too."""

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            ws.close()
            ws.detach(diary.on_message, diary.on_close)
            return []

        with pytest.raises(HandshakeRefused), connect(app):
            pass
        until(lambda: diary.closes)
        assert diary.closes == [1006]

    def test_detach_of_a_peer_that_went_before_the_101_raises(self, diary: Diary) -> None:
        """Nothing was detached, so nothing is called."""

        def gone(headers: object) -> Any:
            raise BrokenPipeError

        ws = unaccepted(gone, Registry())
        with pytest.raises(ConnectionClosed):
            ws.detach(diary.on_message, diary.on_close)
        ticks()
        assert (ws.detached, diary.closes) == (False, [])

    def test_no_callback_is_needed_at_the_end(self) -> None:
        """``detach()`` alone."""
        with connected() as (ws, peer):
            ws.detach()
            peer.close(4001)
            until(lambda: ws._end_delivered)
            assert peer.close_frame() == (4001, "")

    def test_loop_behind_the_end_finds_nothing(self) -> None:
        """Iteration ends quietly once ``on_close`` has told the end."""
        with connected() as (ws, peer):
            ws.detach()
            peer.vanish()
            until(lambda: ws._end_delivered)
            assert (list(ws), ws.closed) == ([], True)


class TestErrors:
    @pytest.mark.parametrize(
        "error",
        [KeyError("x"), OSError("x"), gevent.Timeout(60), SystemExit(3), asyncio.CancelledError()],
        ids=lambda e: type(e).__name__,
    )
    def test_error_in_on_message_is_logged_once_and_closes_with_1011(
        self, error: BaseException, diary: Diary, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The messages behind it are dropped: who knows what state the application is in. A timeout of gevent's that
        nobody caught is such an error, though it is no Exception.
        """

        def on_message(ws: WebSocket, message: Any) -> None:
            diary.messages.append(message)
            raise error

        with connected() as (ws, peer):
            ws.detach(on_message, diary.on_close)
            peer.send("one", "two", "three")
            assert peer.close_frame() == (1011, "")
            until(lambda: diary.closes)
        assert (diary.messages, diary.closes) == (["one"], [1011])
        (record,) = problems(caplog)
        assert (record.name, record.levelno, record.exc_info[1]) == ("gws_middleware", logging.ERROR, error)
        assert record.getMessage().endswith("raised; closed with 1011")

    def test_error_in_on_close_is_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        """And hurts nobody else."""

        def on_close(ws: WebSocket) -> None:
            raise KeyError("x")

        with connected() as (ws, peer):
            ws.detach(on_close=on_close)
            peer.close(4001)
            until(lambda: problems(caplog))
        ticks()
        (record,) = problems(caplog)
        assert record.exc_info[0] is KeyError

    def test_end_seen_from_a_callback_is_no_error(self, diary: Diary, caplog: pytest.LogCaptureFixture) -> None:
        """``send`` raises when the peer has gone; that is an end and nothing to log."""

        def on_message(ws: WebSocket, message: Any) -> None:
            until(lambda: ws.closed)
            ws.send("too late")

        with connected() as (ws, peer):
            ws.detach(on_message, diary.on_close)
            peer.send("x")
            peer.vanish()
            until(lambda: diary.closes)
        assert (diary.closes, problems(caplog)) == ([1006], [])

    def test_end_of_another_connection_is_an_error(self, diary: Diary, caplog: pytest.LogCaptureFixture) -> None:
        """A callback that forwards to a connection that has ended fails, as a view would, and does not go on as if it
        had succeeded.
        """
        with connected() as (other, other_peer), connected() as (ws, peer):
            other_peer.vanish()
            until(lambda: other.closed)
            ws.detach(lambda ws, message: other.send(message), diary.on_close)
            peer.send("x")
            assert peer.close_frame() == (1011, "")
            until(lambda: diary.closes)
        assert [record.exc_info[0] for record in problems(caplog)] == [ConnectionClosed]

    @pytest.mark.parametrize("paused", [False, True])
    def test_callback_that_is_killed_closes_with_1012(
        self, paused: bool, diary: Diary, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The worker is stopping: the connection ends like that of a view that is killed, and nothing is logged."""

        def on_message(ws: WebSocket, message: Any) -> None:
            diary.messages.append(message)
            raise gevent.GreenletExit

        with connected(inbox_messages=2 if paused else 16) as (ws, peer):
            ws.detach(on_message, diary.on_close)
            peer.send("one", "two", "three")
            assert peer.close_frame() == (1012, "")
            peer.answer()
            until(lambda: diary.closes)
        assert (diary.messages, diary.closes, problems(caplog)) == (["one"], [1012], [])


class TestIdle:
    def test_idle_detached_connection_holds_no_greenlet_and_no_frame(self) -> None:
        """What it costs is the WebSocket, its engine and its transport."""
        holding: list[WebSocket] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            ws.detach(lambda ws, message: ws.send(message))
            holding.append(ws)
            return []

        gc.collect()
        before, lifetimes = len(live_greenlets()), count_of(_Lifetime)
        clients = [connect(app) for _ in range(20)]
        for client in clients:
            client.__enter__()
            client.send("x")
            assert client.receive() == "x"
        until(lambda: all(client._greenlet.dead for client in clients))
        gc.collect()
        assert len(live_greenlets()) == before
        assert count_of(_Lifetime) == lifetimes
        for client in clients:
            client.__exit__(None, None, None)
        until(lambda: all(ws._transport.closed for ws in holding))

    @every_end
    def test_ended_connection_is_freed_at_once(self, end: str, diary: Diary) -> None:
        """Without the garbage collector, and without anybody holding it."""
        references: list[weakref.ref[WebSocket]] = []

        def live() -> None:
            with connected() as (ws, peer):
                ws.detach(diary.on_message, diary.on_close)
                references.append(weakref.ref(ws))
                peer.send("x")
                until(lambda: diary.messages)
                ENDS[end][0](ws, peer)
                until(lambda: diary.closes)

        gc.collect()
        gc.disable()
        try:
            before = count_of(Transport)
            live()
            until(lambda: references[0]() is None, "the WebSocket is freed", seconds=1)
            assert count_of(Transport) == before
        finally:
            gc.enable()

    def test_open_connection_that_nobody_holds_lives_on(self, diary: Diary) -> None:
        """The loop's watcher and the registry keep it: the application need not."""
        references: list[weakref.ref[WebSocket]] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            references.append(weakref.ref(ws))
            ws.detach(diary.on_message, diary.on_close)
            return []

        with connect(app) as client:
            until(lambda: client._greenlet.dead)
            gc.collect()
            client.send("x")
            until(lambda: diary.messages)
        until(lambda: diary.closes)
        until(lambda: references[0]() is None, "the WebSocket is freed", seconds=1)
        assert (diary.messages, diary.closes) == (["x"], [1000])


def live_greenlets() -> list[gevent.Greenlet]:
    """Those that have been started and have not ended. (isinstance() would ask what dead references refer to.)"""
    return [thing for thing in gc.get_objects() if issubclass(type(thing), gevent.Greenlet) and not thing.dead]


class TestViewEnds:
    def test_view_that_raises_behind_detach_closes_with_1011(
        self, diary: Diary, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A view that failed half-way has not left the connection in good hands."""

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            environ["wsgi.websocket"].detach(diary.on_message, diary.on_close)
            raise KeyError("x")

        with connect(app) as client:
            assert client.receive() is None
            assert client.close_code == 1011
        until(lambda: diary.closes)
        assert (diary.closes, len(problems(caplog))) == ([1011], 1)

    def test_message_behind_the_handshake_reaches_the_callback(self, diary: Diary) -> None:
        """A client that does not wait for the 101 loses nothing."""
        with connected(early=masked_frame(Opcode.TEXT, b"early")) as (ws, _):
            ws.detach(diary.on_message)
            until(lambda: diary.messages)
            assert diary.messages == ["early"]

    def test_idle_connection_leaves_the_loop_asleep(self) -> None:
        """Nothing polls."""
        with connected() as (ws, _):
            ws.detach()
            loop = gevent.get_hub().loop
            iterations = loop.iteration
            gevent.sleep(0.05)
            assert loop.iteration - iterations <= 5
