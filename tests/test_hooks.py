"""``hooks``: what core calls of a framework's adapter, when, and in which greenlet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gevent
import pytest
from gevent import getcurrent

from gws_middleware import Config, ConnectionClosed, HandshakeRefused, WebSocket, WebSocketMiddleware
from gws_middleware import hooks as adapter
from gws_middleware.connection import control
from gws_middleware.testing import connect
from gws_middleware.typing import Environ, Headers, StartResponse

from .support.inprocess import connected, forever, hub_errors, tcp_pair, ticks, unaccepted, until
from .support.seam import record_waits

__all__ = ["hub_errors"]

GRACE = 0.02


class Recorder(adapter.Adapter):
    """Notes each call, and its greenlet."""

    def __init__(self) -> None:
        self.grace: float | None = GRACE
        self.calls: list[str] = []
        self.greenlets: list[Any] = []
        self.holds_more = False
        self.taking = 0.0
        self.headers: Headers = []
        self.refuses = False
        self.values: Mapping[str, Any] = {}

    def _note(self, what: str) -> None:
        self.calls.append(what)
        self.greenlets.append(getcurrent())

    def settings(self) -> Mapping[str, Any]:
        return self.values

    def accepting(self, ws: WebSocket) -> Headers:
        self._note("accepting")
        assert not ws.accepted
        if self.refuses:
            raise LookupError("not now")
        return self.headers

    def opened(self, ws: WebSocket) -> None:
        self._note("opened")
        assert ws.accepted

    def idle(self) -> bool:
        self._note("idle")
        gevent.sleep(self.taking)
        return self.holds_more

    def ran(self, ws: WebSocket) -> None:
        self._note("ran")

    def closed(self, ws: WebSocket) -> None:
        self._note("closed")
        assert ws.closed

    @property
    def idles(self) -> int:
        return self.calls.count("idle")


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Installed for one test."""
    made = Recorder()
    before = adapter.current()
    adapter.install(made)
    yield made
    adapter.install(before)


def received_by(ws: WebSocket, timeout: float | None = None) -> Any:
    """A greenlet that waits for one message."""
    return gevent.spawn(ws.receive, timeout)


class TestIdle:
    def test_idle_is_called_once_for_a_wait(self, recorder: Recorder) -> None:
        """After ``grace``, in the greenlet itself; it then waits as long as it likes."""
        with connected() as (ws, peer):
            control.expect_idle(ws)
            reader = received_by(ws)
            until(lambda: recorder.idles == 1, "idle() is called")
            gevent.sleep(3 * GRACE)  # no event shows that a call does not come
            assert recorder.idles == 1
            assert recorder.greenlets[-1] is reader
            peer.send("x")
            assert reader.get(timeout=5) == "x"

    def test_idle_is_not_called_where_nothing_is_held(self, recorder: Recorder) -> None:
        """The wait has no timer either."""
        with connected() as (ws, peer):
            reader = received_by(ws)
            gevent.sleep(3 * GRACE)  # no event shows that a call does not come
            assert recorder.idles == 0
            peer.send("x")
            assert reader.get(timeout=5) == "x"

    def test_idle_is_not_called_for_a_wait_within_the_grace(self, recorder: Recorder) -> None:
        """A busy view keeps what it has."""
        recorder.grace = 5.0
        with connected() as (ws, peer):
            control.expect_idle(ws)
            for _ in range(3):
                reader = received_by(ws)
                ticks()
                peer.send("x")
                assert reader.get(timeout=5) == "x"
        assert recorder.idles == 0

    def test_idle_is_called_again_where_something_is_still_held(self, recorder: Recorder) -> None:
        """By the next wait: e.g. a transaction was open, and has ended since."""
        recorder.holds_more = True
        with connected() as (ws, peer):
            control.expect_idle(ws)
            for calls in (1, 2):
                reader = received_by(ws)
                until(lambda calls=calls: recorder.idles == calls, "idle() is called")  # type: ignore[misc]
                peer.send("x")
                assert reader.get(timeout=5) == "x"
            recorder.holds_more = False
            for _ in range(2):
                reader = received_by(ws)
                gevent.sleep(3 * GRACE)
                peer.send("x")
                assert reader.get(timeout=5) == "x"
            assert recorder.idles == 3

    def test_message_that_came_during_idle_is_not_missed(self, recorder: Recorder) -> None:
        """``idle()`` may wait, too."""
        recorder.taking = 0.05
        with connected() as (ws, peer):
            control.expect_idle(ws)
            reader = received_by(ws)
            until(lambda: recorder.idles == 1, "idle() is called")
            peer.send("x")
            assert reader.get(timeout=5) == "x"

    def test_end_that_came_during_idle_is_not_missed(self, recorder: Recorder) -> None:
        """``receive()`` returns None."""
        recorder.taking = 0.05
        with connected() as (ws, peer):
            control.expect_idle(ws)
            reader = received_by(ws)
            until(lambda: recorder.idles == 1, "idle() is called")
            peer.disconnect()
            assert reader.get(timeout=5) is None

    def test_timeout_is_kept(self, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
        """The wait before ``idle()`` and the one after it last as long as the timeout, together."""
        waits = record_waits(monkeypatch)
        with connected() as (ws, _):
            control.expect_idle(ws)
            with pytest.raises(TimeoutError):
                ws.receive(5.0)
        assert recorder.idles == 1
        assert waits == [GRACE, 5.0 - GRACE]

    def test_idle_is_not_called_for_a_timeout_within_the_grace(self, recorder: Recorder) -> None:
        """As a poll does."""
        with connected() as (ws, _):
            control.expect_idle(ws)
            with pytest.raises(TimeoutError):
                ws.receive(GRACE / 2)
            assert recorder.idles == 0

    def test_idle_is_never_called_without_a_grace(self, recorder: Recorder) -> None:
        """``grace`` is None."""
        recorder.grace = None
        with connected() as (ws, peer):
            control.expect_idle(ws)
            reader = received_by(ws)
            ticks()
            peer.send("x")
            assert reader.get(timeout=5) == "x"
        assert recorder.idles == 0

    def test_idle_is_called_in_a_blocked_send(self, recorder: Recorder) -> None:
        """The peer does not read: in the greenlet that sends, whatever it holds."""
        with connected(pair=tcp_pair, buffers=4096, send_high_water=1000) as (ws, peer):
            sender = gevent.spawn(lambda: [ws.send(bytes(10_000)) for _ in range(100)])
            until(lambda: recorder.idles == 1, "idle() is called")
            assert recorder.greenlets[-1] is sender
            while not sender.ready():
                peer.read()
            sender.get(timeout=5)

    def test_peer_that_never_reads_is_disconnected_all_the_same(self, recorder: Recorder) -> None:
        """After ``send_timeout``."""
        with (
            connected(pair=tcp_pair, buffers=4096, send_high_water=1000, send_timeout=0.05) as (ws, _),
            pytest.raises(ConnectionClosed),
        ):
            forever(ws.send, bytes(10_000))
        assert recorder.idles >= 1


def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Does what the path says."""
    ws = environ["wsgi.websocket"]
    path = environ["PATH_INFO"]
    if path == "/refuse":
        start_response("403 Forbidden", [])
        return [b"no"]
    if path == "/detach":
        ws.detach(on_message=lambda ws, message: ws.send(message))
        return []
    ws.accept()
    if path == "/raise":
        raise LookupError
    if path == "/kill":
        raise gevent.GreenletExit
    if path == "/detach-and-raise":
        ws.detach()
        raise LookupError
    for message in ws:
        ws.send(message)
    return []


class TestLife:
    @pytest.mark.parametrize("path", ["/echo", "/raise", "/kill"])
    def test_calls_for_an_attached_connection(self, recorder: Recorder, path: str) -> None:
        """Once each, by the view's greenlet."""
        with connect(application, path) as ws:
            if path == "/echo":
                ws.send("x")
                assert ws.receive() == "x"
        assert recorder.calls == ["accepting", "opened", "closed"]
        assert len(set(recorder.greenlets)) == 1

    def test_calls_for_a_detached_connection(self, recorder: Recorder) -> None:
        """The view's end, each greenlet that worked, and the end."""
        with connect(application, "/detach") as ws:
            for count in (2, 3):
                ws.send("x")
                assert ws.receive() == "x"
                until(lambda count=count: recorder.calls.count("ran") == count, "the greenlet ends")  # type: ignore[misc]
        until(lambda: "closed" in recorder.calls, "closed() is called")
        assert recorder.calls == ["accepting", "opened", "ran", "ran", "ran", "closed"]

    def test_closed_is_called_once_for_a_detached_view_that_raises(self, recorder: Recorder) -> None:
        """The connection ends with it."""
        with connect(application, "/detach-and-raise") as ws:
            assert ws.receive() is None
            assert ws.close_code == 1011
        until(lambda: "closed" in recorder.calls, "closed() is called")
        assert recorder.calls.count("closed") == 1

    def test_closed_is_called_where_on_close_is_killed(self, recorder: Recorder) -> None:
        """``on_close`` waited too long for a worker that stops."""

        def killed(ws: WebSocket) -> None:
            raise gevent.GreenletExit

        with connected() as (ws, peer):
            ws.detach(on_close=killed)
            peer.disconnect()
            until(lambda: "closed" in recorder.calls, "closed() is called")

    def test_nothing_is_called_for_a_refused_handshake(self, recorder: Recorder) -> None:
        """There is no WebSocket."""
        with pytest.raises(HandshakeRefused), connect(application, "/refuse"):
            pass
        assert recorder.calls == []

    def test_headers_of_accepting_are_those_of_the_101(self, recorder: Recorder) -> None:
        """Those that ``accepting`` returns."""
        recorder.headers = [("Set-Cookie", "a=b; HttpOnly")]
        with connect(application) as ws:
            assert ("Set-Cookie", "a=b; HttpOnly") in ws.headers

    def test_exception_of_accepting_comes_before_the_101(self, recorder: Recorder) -> None:
        """Out of ``accept()``; the answer is still HTTP's."""
        recorder.refuses = True
        with pytest.raises(LookupError, match="not now"), connect(application):
            pass
        assert recorder.calls == ["accepting"]

    def test_accept_that_failed_may_be_tried_again(self, recorder: Recorder) -> None:
        """Nothing was spent."""
        recorder.refuses = True
        ws = unaccepted(lambda headers: pytest.fail("the 101 was sent"))
        with pytest.raises(LookupError):
            ws.accept()
        assert not ws.accepted and not control.is_closed(ws)


class TestSettings:
    def test_settings_of_the_adapter_are_those_of_the_wrapper(self, recorder: Recorder) -> None:
        """Under its own arguments, over the environment."""
        recorder.values = {"max_message_size": 5, "inbox_messages": 3}
        config = WebSocketMiddleware(application, inbox_messages=4).config
        assert (config.max_message_size, config.inbox_messages) == (5, 4)
        assert Config.load({}, {"GWS_MAX_MESSAGE_SIZE": "6"}).max_message_size == 5


def test_adapter_of_no_framework_does_nothing() -> None:
    """The one that every process starts with."""
    none = adapter.Adapter()
    assert (none.grace, none.settings(), none.accepting(None), none.idle()) == (None, {}, [], False)
