"""``websocket_opened`` and ``websocket_closed``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from django.core.signals import request_finished, request_started
from django.dispatch import Signal

from gws_middleware.connection.websocket import WebSocket
from gws_middleware.django import databases
from gws_middleware.django.signals import websocket_closed, websocket_opened
from gws_middleware.django.test import WebSocketClient, WebSocketRefused
from gws_middleware.process.counters import Traffic
from tests.support.inprocess import problems, until

from .project.views import EVENTS
from .support import answer

SIGNALS = (request_started, websocket_opened, request_finished, websocket_closed)


@pytest.fixture
def received() -> Iterator[list[tuple[Signal, dict[str, Any]]]]:
    """The signals that were sent, each with its arguments."""
    sent: list[tuple[Signal, dict[str, Any]]] = []

    def receive(signal: Signal, **arguments: Any) -> None:
        sent.append((signal, arguments))

    for signal in SIGNALS:
        signal.connect(receive)
    yield sent
    for signal in SIGNALS:
        signal.disconnect(receive)
    EVENTS.clear()


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/both/", 4000),
        ("/raises/", 1011),
        ("/killed/", 1012),
        ("/killed-by-meta/", 1012),
        ("/timeout/", 1011),
        ("/conversation/1/", 4000),
    ],
)
def test_each_signal_is_sent_once(client: WebSocketClient, received: Any, path: str, code: int) -> None:
    """In this order, for all ends of a view."""
    client.raise_request_exception = False
    with client.websocket(path) as ws:
        if code == 4000:
            ws.close(4000)
        assert ws.receive() is None
    assert [signal for signal, _ in received] == list(SIGNALS)
    assert received[-1][1]["code"] == code


def test_another_greenlet_does_not_release_the_connections_of_the_view() -> None:
    """It returns True, so that the view's next wait tries again."""
    assert gevent.spawn(databases.release_idle).get(timeout=5) is True


def test_detached_connection_closes_after_its_request(client: WebSocketClient, received: Any) -> None:
    """The request ends with the view. The last signal is sent after ``on_close``."""
    with client.websocket("/who/") as ws:
        ws.receive()
        until(lambda: len(received) == 3, "the view has ended")
        assert [signal for signal, _ in received] == list(SIGNALS[:3])
        ws.close(4000)
    until(lambda: len(received) == 4, "websocket_closed is sent")
    assert received[-1][1]["code"] == 4000


def test_refused_handshake_sends_only_the_signals_of_a_request(client: WebSocketClient, received: Any) -> None:
    """No WebSocket has been opened."""
    with pytest.raises(WebSocketRefused), client.websocket("/answers/forbidden/"):
        pass
    assert [signal for signal, _ in received] == [request_started, request_finished]


def test_closed_signal_has_the_facts_of_the_connection(client: WebSocketClient, received: Any) -> None:
    """Code, reason, duration and counters. The sender is the class."""
    with client.websocket("/both/") as ws:
        answer(ws, "x")
        ws.close(4321, "why")
    arguments = received[-1][1]
    assert (arguments["sender"], arguments["code"], arguments["reason"]) == (WebSocket, 4321, "why")
    assert arguments["websocket"] is received[1][1]["websocket"]
    assert 0 < arguments["duration"] < 60
    assert arguments["duration"] == arguments["websocket"].duration
    assert arguments["stats"] == Traffic(1, 1, arguments["stats"].bytes_received, arguments["stats"].bytes_sent)
    assert arguments["stats"].bytes_received > 0 < arguments["stats"].bytes_sent


@pytest.mark.parametrize("signal", [websocket_opened, websocket_closed])
def test_exception_of_a_receiver_has_no_effect(
    client: WebSocketClient, caplog: pytest.LogCaptureFixture, signal: Signal
) -> None:
    """Django logs it, and the WebSocket stays open."""

    def receiver(**arguments: Any) -> None:
        raise LookupError("a receiver")

    signal.connect(receiver)
    try:
        with client.websocket("/both/") as ws:
            assert answer(ws, "x") == "0: x"
    finally:
        signal.disconnect(receiver)
    assert [one.name for one in problems(caplog)] == ["django.dispatch"]
