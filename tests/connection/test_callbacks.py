"""``callbacks``: after ``detach()`` a connection stays open without a view, a greenlet and a frame."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import weakref
from typing import Any

import gevent
import gevent.event
import pytest

from gws_middleware import ConnectionClosed, HandshakeRefused, WebSocket
from gws_middleware.codes import Opcode
from gws_middleware.connection.control import is_finished
from gws_middleware.connection.transport import Transport
from gws_middleware.process.shutdown import drain
from gws_middleware.testing import connect
from gws_middleware.typing import Environ, StartResponse

from ..support.inprocess import (
    ENDS,
    Peer,
    connected,
    count_of,
    every_end,
    hub_errors,
    last_of,
    masked_frame,
    no_collector,
    problems,
    refuse_switch,
    ticks,
    unaccepted,
    until,
)
from ..support.rawclient import close_frame
from ..support.seam import Lifetime, application_of, has_ended, registry_of, transport_of

__all__ = ["hub_errors"]


class Calls:
    """Callbacks that record their calls."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.closes: list[int | None] = []
        self.error: BaseException | None = None
        """What ``on_message`` raises."""
        self.go_on: gevent.event.Event | None = None
        """What ``on_message`` waits for."""

    def on_message(self, ws: WebSocket, message: str | bytes) -> None:
        if self.go_on is not None:
            self.go_on.wait()
        self.messages.append(message)
        if self.error is not None:
            raise self.error

    def on_close(self, ws: WebSocket) -> None:
        self.closes.append(ws.close_code)

    @property
    def both(self) -> tuple[Any, Any]:
        """The arguments of ``detach()``."""
        return self.on_message, self.on_close


@pytest.fixture
def calls() -> Calls:
    return Calls()


def live_greenlets() -> list[gevent.Greenlet]:
    """Those that have been started and have not ended. (isinstance() would resolve references that are dead.)"""
    return [thing for thing in gc.get_objects() if issubclass(type(thing), gevent.Greenlet) and not thing.dead]


class TestMessages:
    def test_messages_come_in_order(self, calls: Calls) -> None:
        """Those that came before the detach first, that of a client which does not wait for the 101 too."""
        with connected(inbox_messages=4, early=masked_frame(Opcode.TEXT, b"0")) as (ws, peer):
            peer.send("1")
            until(lambda: ws.count_messages() == 2)
            ws.detach(calls.on_message)
            for number in range(2, 100):
                peer.send(str(number))
            until(lambda: len(calls.messages) == 100)
            assert calls.messages == list(map(str, range(100)))

    def test_no_message_comes_after_our_close(self, ws: WebSocket, peer: Peer, calls: Calls) -> None:
        """Not even one that was in the inbox: no answer to it could be sent."""

        def on_message(ws: WebSocket, message: Any) -> None:
            calls.on_message(ws, message)
            ws.close(1008)

        ws.detach(on_message, calls.on_close)
        peer.send("bad", "worse")
        until(lambda: calls.closes == [1008])
        assert calls.messages == ["bad"]

    def test_one_greenlet_at_a_time_serves_a_connection(self, ws: WebSocket, peer: Peer) -> None:
        """The next message waits for a callback that waits."""
        running, most, messages = 0, 0, []

        def on_message(ws: WebSocket, message: Any) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            ticks(1)
            messages.append(message)
            running -= 1

        ws.detach(on_message)
        for number in range(20):
            peer.send(str(number))
            gevent.sleep(0)
        until(lambda: len(messages) == 20)
        assert (most, messages) == (1, list(map(str, range(20))))

    def test_connections_do_not_wait_for_each_other(self, ws: WebSocket, peer: Peer, calls: Calls) -> None:
        """Each one has its own greenlet while it has messages."""
        slow = Calls()
        slow.go_on = gevent.event.Event()
        with connected() as (other, other_peer):
            other.detach(slow.on_message)
            ws.detach(calls.on_message)
            other_peer.send("waits")
            until(lambda: other.stats.messages_received)
            peer.send("passes")
            until(lambda: calls.messages, seconds=1)
            assert (calls.messages, slow.messages) == (["passes"], [])
            slow.go_on.set()
            until(lambda: slow.messages)

    def test_message_and_close_frame_in_one_segment_are_both_seen(
        self, ws: WebSocket, peer: Peer, calls: Calls
    ) -> None:
        """The callback answers the message before our close frame is sent."""
        ws.detach(lambda ws, message: ws.send(f"re: {message}"), calls.on_close)
        peer.sock.sendall(masked_frame(Opcode.TEXT, b"last") + close_frame(4001))
        assert (peer.receive(), peer.close_frame()) == ("re: last", (4001, ""))
        until(lambda: calls.closes)
        assert calls.closes == [4001]

    def test_others_may_send_to_a_detached_connection(self, ws: WebSocket, peer: Peer) -> None:
        """Its main use: push."""
        before = ws.detached
        ws.detach()
        ws.send("pushed")
        assert (peer.receive(), before, ws.detached) == ("pushed", False, True)

    def test_messages_are_dropped_without_a_callback(self, calls: Calls) -> None:
        """And do not fill the inbox."""
        with connected(inbox_messages=2) as (ws, peer):
            ws.detach(on_close=calls.on_close)
            peer.send(*["x"] * 50)
            peer.close(4001)
            until(lambda: calls.closes)
            assert (calls.closes, ws.stats.messages_received) == ([4001], 50)

    def test_full_inbox_holds_the_peer_back(self, calls: Calls) -> None:
        """A callback that is slow is not flooded."""
        calls.go_on = gevent.event.Event()
        with connected(buffers=1 << 15, inbox_messages=4) as (ws, peer):
            ws.detach(calls.on_message)
            sending = gevent.spawn(peer.send, *[bytes(16_000)] * 100)
            ticks(20)
            assert not sending.dead
            assert ws.stats.messages_received <= 9
            calls.go_on.set()
            until(lambda: len(calls.messages) == 100)
            sending.get(timeout=5)

    @pytest.mark.parametrize("waiting", [(), ("one", "two")], ids=["empty inbox", "messages wait"])
    def test_receive_is_refused(self, ws: WebSocket, peer: Peer, waiting: tuple[str, ...]) -> None:
        """The messages go to ``on_message``: nothing else may take them, not even a callback."""
        errors: list[str] = []

        def on_message(ws: WebSocket, message: Any) -> None:
            for receive in (ws.receive, lambda: ws.receive(timeout=1), lambda: next(iter(ws)), ws.receive_json):
                with pytest.raises(RuntimeError) as caught:
                    receive()
                errors.append(str(caught.value))

        if waiting:
            peer.send(*waiting)
            until(ws.has_messages)
        ws.detach(on_message)
        on_message(ws, None)
        until(lambda: len(errors) == 4 * (1 + len(waiting)))
        assert set(errors) == {"this WebSocket is detached: its messages go to on_message"}

    def test_second_detach_is_refused(self, ws: WebSocket) -> None:
        """A connection has one pair of callbacks."""
        ws.detach()
        with pytest.raises(RuntimeError, match="this WebSocket is detached already"):
            ws.detach()

    @pytest.mark.parametrize("timeout", [None, 60])
    def test_detach_is_refused_while_another_greenlet_waits_for_a_message(
        self, ws: WebSocket, peer: Peer, calls: Calls, timeout: float | None
    ) -> None:
        """That greenlet would take the messages, and the end; once it has ended the callbacks get both."""
        waiting = gevent.spawn(ws.receive, timeout)
        ticks()
        with pytest.raises(RuntimeError, match=r"another greenlet is waiting in receive.* ended before detach\(\)$"):
            ws.detach(*calls.both)
        assert not ws.detached
        waiting.kill()
        ws.detach(*calls.both)
        peer.send("one")
        until(lambda: calls.messages)
        peer.close(4001)
        until(lambda: calls.closes)
        assert (calls.messages, calls.closes) == (["one"], [4001])

    def test_environ_keeps_plain_strings_alone(self) -> None:
        """An idle connection holds no stream, no framework's request and no WebSocket."""
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

    def test_names_of_headers_are_not_interned(self) -> None:
        """A client chooses them, and CPython 3.12.1 keeps interned strings for ever."""
        seen: list[str] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            ws.detach()
            seen.extend(key for key in ws.environ if key.startswith("HTTP_X_"))
            return []

        with connect(app, "/push", headers={"X-Chosen": "x"}):
            until(lambda: seen)
        assert sys.intern("".join(list(seen[0]))) is not seen[0]


class TestOnClose:
    @every_end
    def test_on_close_is_called_once_at_the_end(self, calls: Calls, end: str) -> None:
        """After the last message, whatever the end; the close code can be read in it."""
        finish, (code, _) = ENDS[end]
        with connected() as (ws, peer):
            ws.detach(*calls.both)
            peer.send("one")
            until(lambda: calls.messages)
            finish(ws, peer)
            until(lambda: calls.closes)
            ws.close()
        ticks(5)
        assert (calls.messages, calls.closes) == (["one", *last_of(end)], [code])

    @every_end
    @pytest.mark.parametrize("received", [False, True], ids=["end unseen", "end received"])
    def test_on_close_is_called_if_the_connection_had_ended_before(
        self, calls: Calls, end: str, received: bool
    ) -> None:
        """Cleaning up does not depend on which came first, nor on whether the view has received the end."""
        finish, (code, _) = ENDS[end]
        with connected() as (ws, peer):
            finish(ws, peer)
            until(lambda: ws.closed)
            if received:
                assert list(iter(ws.receive, None)) == last_of(end)
            until(lambda: has_ended(ws))
            ws.detach(*calls.both)
            until(lambda: calls.closes)
        ticks(5)
        assert calls.closes == [code]
        assert calls.messages == ([] if received else last_of(end))

    def test_on_close_is_called_when_the_worker_drains(self, ws: WebSocket, peer: Peer, calls: Calls) -> None:
        """Detached connections are closed with the others."""
        ws.detach(*calls.both)
        registry = registry_of(ws)
        draining = gevent.spawn(drain, registry, 1001, 5.0)
        assert peer.close_frame() == (1001, "")
        peer.answer()
        draining.get(timeout=5)
        assert (calls.closes, len(registry)) == ([1001], 0)

    def test_on_close_waits_for_the_message_under_way(self, ws: WebSocket, peer: Peer, calls: Calls) -> None:
        """One greenlet at a time: the end waits for a callback that waits."""
        calls.go_on = gevent.event.Event()
        ws.detach(calls.on_message, lambda ws: calls.closes.append(len(calls.messages)))
        peer.send("one", "two")
        until(lambda: ws.stats.messages_received)
        peer.disconnect()
        until(lambda: has_ended(ws))
        ticks()
        assert (calls.messages, calls.closes) == ([], [])
        calls.go_on.set()
        until(lambda: calls.closes)
        assert (calls.messages, calls.closes) == (["one", "two"], [2])

    def test_on_close_of_a_handshake_that_was_refused_is_called(self, calls: Calls) -> None:
        """``close()`` before the 101 is an end, too."""

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            ws.close()
            ws.detach(*calls.both)
            return []

        with pytest.raises(HandshakeRefused), connect(app):
            pass
        until(lambda: calls.closes)
        assert calls.closes == [1006]

    def test_detach_raises_if_the_peer_disconnected_before_the_101(self, calls: Calls) -> None:
        """Nothing was detached, so nothing is called."""
        ws = unaccepted(refuse_switch)
        with pytest.raises(ConnectionClosed):
            ws.detach(*calls.both)
        ticks()
        assert (ws.detached, calls.closes) == (False, [])

    def test_no_callback_is_needed_at_the_end(self, ws: WebSocket, peer: Peer) -> None:
        """``detach()`` alone. An iteration after that has nothing and raises nothing."""
        ws.detach()
        peer.close(4001)
        until(lambda: is_finished(ws))
        assert peer.close_frame() == (4001, "")
        assert (list(ws), ws.closed) == ([], True)


class TestErrors:
    @pytest.mark.parametrize(
        "error",
        [KeyError("x"), OSError("x"), gevent.Timeout(60), SystemExit(3), asyncio.CancelledError()],
        ids=lambda e: type(e).__name__,
    )
    def test_error_in_on_message_is_logged_once_and_closes_with_1011(
        self, ws: WebSocket, peer: Peer, calls: Calls, error: BaseException, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The messages after it are dropped: the state of the application is not known. A timeout of gevent's that was
        not caught is such an error, though it is no Exception.
        """
        calls.error = error
        ws.detach(*calls.both)
        peer.send("one", "two", "three")
        assert peer.close_frame() == (1011, "")
        until(lambda: calls.closes)
        assert (calls.messages, calls.closes) == (["one"], [1011])
        (record,) = problems(caplog)
        assert (record.name, record.levelno, record.exc_info[1]) == ("gws_middleware", logging.ERROR, error)
        assert record.getMessage().endswith("raised; closed with 1011")

    def test_error_drops_messages_that_came_before_the_end(self, ws: WebSocket, peer: Peer, calls: Calls) -> None:
        """Also where the peer has closed the connection, so that nothing is left to close."""
        calls.error = KeyError("x")
        ws.detach(*calls.both)
        frames = [masked_frame(Opcode.TEXT, payload) for payload in (b"one", b"two")]
        peer.sock.sendall(b"".join(frames) + close_frame(4001))
        until(lambda: calls.closes)
        assert (calls.messages, calls.closes) == (["one"], [4001])

    def test_error_in_on_close_is_logged_once(
        self, ws: WebSocket, peer: Peer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """And changes nothing else."""

        def on_close(ws: WebSocket) -> None:
            raise KeyError("x")

        ws.detach(on_close=on_close)
        peer.close(4001)
        until(lambda: is_finished(ws))
        (record,) = problems(caplog)
        assert record.exc_info[0] is KeyError

    def test_end_in_a_callback_is_no_error(
        self, ws: WebSocket, peer: Peer, calls: Calls, caplog: pytest.LogCaptureFixture
    ) -> None:
        """``send`` raises when the peer has disconnected; that is an end, and is not logged."""

        def on_message(ws: WebSocket, message: Any) -> None:
            until(lambda: ws.closed)
            ws.send("too late")

        ws.detach(on_message, calls.on_close)
        peer.send("x")
        peer.disconnect()
        until(lambda: calls.closes)
        assert (calls.closes, problems(caplog)) == ([1006], [])

    def test_end_of_another_connection_is_an_error(
        self, ws: WebSocket, peer: Peer, calls: Calls, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A callback that forwards to a connection that has ended fails, as a view does, and does not go on as if it
        had succeeded.
        """
        with connected() as (other, other_peer):
            other_peer.disconnect()
            until(lambda: other.closed)
            ws.detach(lambda ws, message: other.send(message), calls.on_close)
            peer.send("x")
            assert peer.close_frame() == (1011, "")
            until(lambda: calls.closes)
        assert [record.exc_info[0] for record in problems(caplog)] == [ConnectionClosed]

    @pytest.mark.parametrize("paused", [False, True])
    def test_callback_that_is_killed_closes_with_1012(
        self, paused: bool, calls: Calls, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The worker is stopping: the connection ends like that of a view that is killed, and nothing is logged."""
        calls.error = gevent.GreenletExit()
        with connected(inbox_messages=2 if paused else 16) as (ws, peer):
            ws.detach(*calls.both)
            peer.send("one", "two", "three")
            assert peer.close_frame() == (1012, "")
            peer.answer()
            until(lambda: calls.closes)
        assert (calls.messages, calls.closes, problems(caplog)) == (["one"], [1012], [])

    def test_view_that_raises_after_detach_closes_with_1011(
        self, calls: Calls, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It may not have done all that the callbacks need."""

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            environ["wsgi.websocket"].detach(*calls.both)
            raise KeyError("x")

        with connect(app) as client:
            assert (client.receive(), client.close_code) == (None, 1011)
        until(lambda: calls.closes)
        assert (calls.closes, len(problems(caplog))) == ([1011], 1)


class TestIdle:
    def test_idle_connection_holds_no_greenlet_and_no_frame(self) -> None:
        """It costs the WebSocket, its engine and its transport."""
        detached: list[WebSocket] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            ws.detach(lambda ws, message: ws.send(message))
            detached.append(ws)
            return []

        gc.collect()
        before, lifetimes = len(live_greenlets()), count_of(Lifetime)
        clients = [connect(app) for _ in range(20)]
        for client in clients:
            client.__enter__()
            client.send("x")
            assert client.receive() == "x"
        until(lambda: all(application_of(client).dead for client in clients))
        gc.collect()
        assert len(live_greenlets()) == before
        assert count_of(Lifetime) == lifetimes
        for client in clients:
            client.__exit__(None, None, None)
        until(lambda: all(transport_of(ws).closed for ws in detached))

    def test_idle_connection_leaves_the_loop_asleep(self, ws: WebSocket) -> None:
        """Nothing polls."""
        ws.detach()
        loop = gevent.get_hub().loop
        iterations = loop.iteration
        gevent.sleep(0.05)  # a timer that polls has no event: it would have fired in the meantime
        assert loop.iteration - iterations <= 5

    @every_end
    def test_ended_connection_is_freed_at_once(self, calls: Calls, end: str) -> None:
        """Without the garbage collector, and without a reference of the application's."""
        references: list[weakref.ref[WebSocket]] = []

        def serve() -> None:
            with connected() as (ws, peer):
                ws.detach(*calls.both)
                references.append(weakref.ref(ws))
                peer.send("x")
                until(lambda: calls.messages)
                ENDS[end][0](ws, peer)
                until(lambda: calls.closes)

        with no_collector():
            before = count_of(Transport)
            serve()
            until(lambda: references[0]() is None, "the WebSocket is freed", seconds=1)
            assert count_of(Transport) == before

    def test_open_connection_without_a_reference_stays_open(self, calls: Calls) -> None:
        """The loop's watcher and the registry refer to it: the application need not."""
        references: list[weakref.ref[WebSocket]] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            references.append(weakref.ref(ws))
            ws.detach(*calls.both)
            return []

        with connect(app) as client:
            until(lambda: application_of(client).dead)
            gc.collect()
            client.send("x")
            until(lambda: calls.messages)
        until(lambda: calls.closes)
        until(lambda: references[0]() is None, "the WebSocket is freed", seconds=1)
        assert (calls.messages, calls.closes) == (["x"], [1000])
