"""What the adapter of a framework is asked and told."""

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

__all__ = ["hub_errors"]

GRACE = 0.02


class Diary(adapter.Adapter):
    """Writes down what it is told, and by which greenlet."""

    def __init__(self) -> None:
        self.grace: float | None = GRACE
        self.told: list[str] = []
        self.greenlets: list[Any] = []
        self.left = False
        self.taking = 0.0
        self.headers: Headers = []
        self.refuses = False
        self.values: Mapping[str, Any] = {}

    def _note(self, what: str) -> None:
        self.told.append(what)
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
        return self.left

    def ran(self, ws: WebSocket) -> None:
        self._note("ran")

    def closed(self, ws: WebSocket) -> None:
        self._note("closed")
        assert ws.closed

    @property
    def idles(self) -> int:
        return self.told.count("idle")


@pytest.fixture
def diary() -> Iterator[Diary]:
    """Installed for one test."""
    made = Diary()
    before = adapter.current()
    adapter.install(made)
    yield made
    adapter.install(before)


def received_by(ws: WebSocket, timeout: float | None = None) -> Any:
    """A greenlet that waits for one message."""
    return gevent.spawn(ws.receive, timeout)


class TestIdle:
    def test_greenlet_that_waits_is_asked_once(self, diary: Diary) -> None:
        """After ``grace``, in the greenlet itself; it then waits as long as it likes."""
        with connected() as (ws, peer):
            control.expect_idle(ws)
            reader = received_by(ws)
            until(lambda: diary.idles == 1, "it is asked")
            gevent.sleep(3 * GRACE)
            assert diary.idles == 1
            assert diary.greenlets[-1] is reader
            peer.send("x")
            assert reader.get(timeout=5) == "x"

    def test_greenlet_that_holds_nothing_is_not_asked(self, diary: Diary) -> None:
        """It has no timer either."""
        with connected() as (ws, peer):
            reader = received_by(ws)
            gevent.sleep(3 * GRACE)
            assert diary.idles == 0
            peer.send("x")
            assert reader.get(timeout=5) == "x"

    def test_message_within_the_grace_asks_nothing(self, diary: Diary) -> None:
        """A busy view keeps what it has."""
        diary.grace = 5.0
        with connected() as (ws, peer):
            control.expect_idle(ws)
            for _ in range(3):
                reader = received_by(ws)
                ticks()
                peer.send("x")
                assert reader.get(timeout=5) == "x"
        assert diary.idles == 0

    def test_what_is_left_is_asked_for_again(self, diary: Diary) -> None:
        """By the next wait: e.g. a transaction was open, and has ended since."""
        diary.left = True
        with connected() as (ws, peer):
            control.expect_idle(ws)
            for asked in (1, 2):
                reader = received_by(ws)
                until(lambda asked=asked: diary.idles == asked, "it is asked")  # type: ignore[misc]
                peer.send("x")
                assert reader.get(timeout=5) == "x"
            diary.left = False
            for _ in range(2):
                reader = received_by(ws)
                gevent.sleep(3 * GRACE)
                peer.send("x")
                assert reader.get(timeout=5) == "x"
            assert diary.idles == 3

    def test_message_that_came_while_giving_back_is_not_missed(self, diary: Diary) -> None:
        """Giving back may wait, too."""
        diary.taking = 0.05
        with connected() as (ws, peer):
            control.expect_idle(ws)
            reader = received_by(ws)
            until(lambda: diary.idles == 1, "it is asked")
            peer.send("x")
            assert reader.get(timeout=5) == "x"

    def test_end_that_came_while_giving_back_is_not_missed(self, diary: Diary) -> None:
        """Nor is that."""
        diary.taking = 0.05
        with connected() as (ws, peer):
            control.expect_idle(ws)
            reader = received_by(ws)
            until(lambda: diary.idles == 1, "it is asked")
            peer.vanish()
            assert reader.get(timeout=5) is None

    def test_timeout_is_kept(self, diary: Diary, monkeypatch: pytest.MonkeyPatch) -> None:
        """Asked in between, and TimeoutError at its end: both waits together last as long as was said."""
        waits: list[float] = []

        def park(ws: WebSocket, timeout: float) -> bool:
            waits.append(timeout)
            return False

        monkeypatch.setattr(WebSocket, "_park", park)
        with connected() as (ws, _):
            control.expect_idle(ws)
            with pytest.raises(TimeoutError):
                ws.receive(5.0)
        assert diary.idles == 1
        assert waits == [GRACE, 5.0 - GRACE]

    def test_timeout_within_the_grace_asks_nothing(self, diary: Diary) -> None:
        """As a poll does."""
        with connected() as (ws, _):
            control.expect_idle(ws)
            with pytest.raises(TimeoutError):
                ws.receive(GRACE / 2)
            assert diary.idles == 0

    def test_no_grace_asks_never(self, diary: Diary) -> None:
        """None."""
        diary.grace = None
        with connected() as (ws, peer):
            control.expect_idle(ws)
            reader = received_by(ws)
            ticks()
            peer.send("x")
            assert reader.get(timeout=5) == "x"
        assert diary.idles == 0

    def test_blocked_send_asks(self, diary: Diary) -> None:
        """The peer does not read: in the greenlet that sends, whatever it holds."""
        with connected(pair=tcp_pair, buffers=4096, send_high_water=1000) as (ws, peer):
            sender = gevent.spawn(lambda: [ws.send(bytes(10_000)) for _ in range(100)])
            until(lambda: diary.idles == 1, "it is asked")
            assert diary.greenlets[-1] is sender
            while not sender.ready():
                peer.read()
            sender.get(timeout=5)

    def test_peer_that_never_reads_is_cut_all_the_same(self, diary: Diary) -> None:
        """After ``send_timeout``."""
        with (
            connected(pair=tcp_pair, buffers=4096, send_high_water=1000, send_timeout=0.05) as (ws, _),
            pytest.raises(ConnectionClosed),
        ):
            forever(ws.send, bytes(10_000))
        assert diary.idles >= 1


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
    def test_attached_connection_is_told_of_from_beginning_to_end(self, diary: Diary, path: str) -> None:
        """Once each, by the view's greenlet."""
        with connect(application, path) as ws:
            if path == "/echo":
                ws.send("x")
                assert ws.receive() == "x"
        assert diary.told == ["accepting", "opened", "closed"]
        assert len(set(diary.greenlets)) == 1

    def test_detached_connection_is_told_of_each_run(self, diary: Diary) -> None:
        """The view's end, each greenlet that worked, and the end."""
        with connect(application, "/detach") as ws:
            for count in (2, 3):
                ws.send("x")
                assert ws.receive() == "x"
                until(lambda count=count: diary.told.count("ran") == count, "the greenlet ends")  # type: ignore[misc]
        until(lambda: "closed" in diary.told, "the end is told")
        assert diary.told == ["accepting", "opened", "ran", "ran", "ran", "closed"]

    def test_detached_view_that_raises_is_told_of_once(self, diary: Diary) -> None:
        """The connection ends with it."""
        with connect(application, "/detach-and-raise") as ws:
            assert ws.receive() is None
            assert ws.close_code == 1011
        until(lambda: "closed" in diary.told, "the end is told")
        assert diary.told.count("closed") == 1

    def test_detached_connection_whose_end_is_killed_is_told_of(self, diary: Diary) -> None:
        """``on_close`` waited too long for a worker that stops."""

        def killed(ws: WebSocket) -> None:
            raise gevent.GreenletExit

        with connected() as (ws, peer):
            ws.detach(on_close=killed)
            peer.vanish()
            until(lambda: "closed" in diary.told, "the end is told")

    def test_refused_handshake_is_told_of_to_nobody(self, diary: Diary) -> None:
        """There is no WebSocket."""
        with pytest.raises(HandshakeRefused), connect(application, "/refuse"):
            pass
        assert diary.told == []

    def test_headers_ride_on_the_101(self, diary: Diary) -> None:
        """Those that ``accepting`` returns."""
        diary.headers = [("Set-Cookie", "a=b; HttpOnly")]
        with connect(application) as ws:
            assert ("Set-Cookie", "a=b; HttpOnly") in ws.headers

    def test_exception_of_accepting_comes_before_the_101(self, diary: Diary) -> None:
        """Out of ``accept()``; the answer is still HTTP's."""
        diary.refuses = True
        with pytest.raises(LookupError, match="not now"), connect(application):
            pass
        assert diary.told == ["accepting"]

    def test_accept_that_failed_may_be_tried_again(self, diary: Diary) -> None:
        """Nothing was spent."""
        diary.refuses = True
        ws = unaccepted(lambda headers: pytest.fail("the 101 was sent"))
        with pytest.raises(LookupError):
            ws.accept()
        assert not ws.accepted and not control.is_closed(ws)


class TestSettings:
    def test_settings_of_the_adapter_are_the_wrapper_s(self, diary: Diary) -> None:
        """Under its own arguments, over the environment."""
        diary.values = {"max_message_size": 5, "inbox_messages": 3}
        config = WebSocketMiddleware(application, inbox_messages=4).config
        assert (config.max_message_size, config.inbox_messages) == (5, 4)
        assert Config.load({}, {"GWS_MAX_MESSAGE_SIZE": "6"}).max_message_size == 5


def test_without_a_framework_nothing_is_asked() -> None:
    """The one that every process starts with."""
    none = adapter.Adapter()
    assert (none.grace, none.settings(), none.accepting(None), none.idle()) == (None, {}, [], False)
