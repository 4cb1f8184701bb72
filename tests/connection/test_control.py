"""``control``: what the middleware and the servers do with a WebSocket (``expect_idle()``: ``tests/test_hooks.py``)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gws_middleware import Config, WebSocket
from gws_middleware.connection import control
from gws_middleware.connection.states import NAMES
from gws_middleware.process.registry import Registry
from gws_middleware.testing import connect
from gws_middleware.typing import Environ, StartResponse

from ..support.inprocess import Peer, hub_errors, refuse_switch, unaccepted, until
from ..support.seam import PairServer, registry_of, transport_of
from .cases import in_state

__all__ = ["hub_errors"]

ANSWERS: dict[Callable[[WebSocket], bool], set[str]] = {
    control.is_pending: {"PENDING"},
    control.is_lost: {"LOST"},
    control.is_closed: {"CLOSING", "CLOSED", "REFUSED", "LOST"},
    control.is_http_over: {"OPEN", "CLOSING", "CLOSED", "LOST"},
}
"""The states in which each function returns True."""


@pytest.mark.parametrize("state", NAMES)
@pytest.mark.parametrize("function", ANSWERS, ids=lambda function: function.__name__)
def test_question_has_an_answer_in_each_state(function: Callable[[WebSocket], bool], state: str) -> None:
    """And changes none of them: ``is_closed()`` does not accept."""
    with in_state(state) as case:
        assert function(case.ws) is (state in ANSWERS[function])
        assert case.state == state


def test_config_is_what_the_view_has_set() -> None:
    """By ``limits()``; before that it is the middleware's."""
    ws = unaccepted(refuse_switch, max_fragments=3)
    assert control.config_of(ws) == Config(max_fragments=3)
    ws.limits(max_message_size=5)
    assert control.config_of(ws) == Config(max_fragments=3, max_message_size=5)


def test_server_is_found_by_the_application() -> None:
    """As ``ws.handler.server``, which gevent-websocket's applications read."""
    ws, server = unaccepted(refuse_switch), SimpleNamespace()
    control.set_server(ws, server)
    assert ws.handler.server is server


class TestEndOfTheView:
    def test_release_of_an_attached_connection_is_its_end(
        self, ws: WebSocket, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is logged, and a drain waits for its view no more."""
        caplog.set_level(logging.INFO, "gws_middleware")
        registry = registry_of(ws)
        control.set_view(ws, object())
        before = len(registry.unfinished)
        ws.close(1000)
        control.release(ws, None)
        assert (before, len(registry.unfinished), len(caplog.messages)) == (1, 0, 1)

    def test_release_of_a_detached_connection_keeps_the_line_for_its_end(self, ws: WebSocket, peer: Peer) -> None:
        """It is written once, with the bytes that were sent by then; a drain waits until ``on_close`` has returned."""
        lines: list[tuple[str, float, int]] = []
        registry = registry_of(ws)
        control.set_view(ws, object())
        ws.detach(on_close=lambda ws: lines.append(("on_close", 0.0, len(registry.unfinished))))
        control.release(ws, lambda environ, seconds, sent: lines.append((environ["PATH_INFO"], seconds, sent)))
        assert (lines, len(registry.unfinished), control.is_finished(ws)) == ([], 1, False)
        ws.send("12345")
        peer.disconnect()
        until(lambda: control.is_finished(ws))
        assert lines == [("on_close", 0.0, 1), ("/chat", ws.duration, 7)]
        assert len(registry.unfinished) == 0

    @pytest.mark.parametrize("detached", [False, True])
    def test_is_finished_when_on_close_has_been_called(self, ws: WebSocket, detached: bool) -> None:
        """An attached connection never is."""
        if detached:
            ws.detach()
        before = control.is_finished(ws)
        ws.abort()
        until(lambda: transport_of(ws).closed)
        until(lambda: control.is_finished(ws) is detached)
        assert not before


class TestForget:
    """The request is over, with or without an exception out of it."""

    @pytest.mark.parametrize("cut", [False, True])
    def test_slots_of_a_handshake_that_was_refused_are_released(self, cut: bool) -> None:
        """There is no connection whose end would do so."""
        registry = Registry()
        ws = unaccepted(refuse_switch, registry)
        assert registry.slots.reserve(ws, "all", 1)
        control.set_view(ws, object())
        control.answer(ws)
        control.forget(ws, cut=cut)
        assert (registry.slots.reserved, len(registry.unfinished)) == ({}, 0)

    @pytest.mark.parametrize("detached", [False, True])
    @pytest.mark.parametrize("cut", [False, True])
    def test_open_connection_is_cut_if_an_exception_came_out(self, ws: WebSocket, cut: bool, detached: bool) -> None:
        """Else it is left as it is. ``on_close`` of a detached one is waited for."""
        registry = registry_of(ws)
        control.set_view(ws, object())
        if detached:
            ws.detach()
        control.forget(ws, cut=cut)
        assert (ws.closed, len(registry.unfinished)) == (cut, 0 if cut and not detached else 1)


class TestAcceptSwitched:
    """Servers that have sent the 101 before they call the application (gevent-websocket's)."""

    @pytest.fixture(autouse=True)
    def switched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(PairServer, "switched", True)

    @pytest.mark.parametrize(
        ("calls", "error"),
        [
            ([{}], None),
            ([{}, {}], (RuntimeError, "accepted already")),
            ([{"subprotocol": "chat"}], (ValueError, "has sent the 101 already, with the subprotocol None")),
        ],
        ids=["once", "twice", "another subprotocol"],
    )
    def test_application_may_accept_once(self, calls: list[dict[str, Any]], error: Any) -> None:
        """As everywhere; what the 101 had cannot be changed any more."""

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            for arguments in calls[:-1]:
                ws.accept(**arguments)
            if error is None:
                ws.accept(**calls[-1])
            else:
                with pytest.raises(error[0], match=error[1]):
                    ws.accept(**calls[-1])
            ws.send("open")
            return []

        with connect(app) as client:
            assert client.receive() == "open"


class TestFacts:
    def test_address_is_remote_addr(self) -> None:
        """The peer of a unix socket has none."""
        ws = unaccepted(refuse_switch)
        ws.environ["REMOTE_ADDR"] = "192.0.2.7"
        assert control.address_of(ws) == "192.0.2.7"
        del ws.environ["REMOTE_ADDR"]
        assert control.address_of(ws) == ""

    @pytest.mark.parametrize(("returned", "address"), [("192.0.2.1", "192.0.2.1"), (7, "7"), (None, "")])
    def test_address_is_that_of_the_setting(self, returned: Any, address: str) -> None:
        """``client_address``, whatever it returns."""
        ws = unaccepted(refuse_switch, client_address=lambda environ: returned)
        ws.environ["REMOTE_ADDR"] = "192.0.2.7"
        assert control.address_of(ws) == address

    def test_user_is_that_of_the_framework(self) -> None:
        """Without one there is none."""
        assert control.user_of(unaccepted(refuse_switch)) == (None, None)

    def test_waiting_bytes_are_those_of_the_outbox(self, ws: WebSocket) -> None:
        """None before the 101."""
        assert control.waiting_bytes(unaccepted(refuse_switch)) == 0
        ws.offer("one")
        ws.offer("two")
        assert control.waiting_bytes(ws) == transport_of(ws).outbox_size > 0

    def test_observers_are_those_that_watch(self, ws: WebSocket) -> None:
        """Until they do no more."""
        observer: Any = SimpleNamespace(ended=lambda ws: None)
        assert control.observers_of(ws) == []
        control.watch_end(ws, observer)
        assert control.observers_of(ws) == [observer]
        control.unwatch_end(ws, observer)
        assert control.observers_of(ws) == []
