"""``websocket_opened`` and ``websocket_closed``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from django.core.signals import request_finished, request_started
from django.dispatch import Signal

from gws_middleware.connection.websocket import WebSocket
from gws_middleware.connection.wire import Stats
from gws_middleware.django import databases
from gws_middleware.django.signals import websocket_closed, websocket_opened
from gws_middleware.django.test import WebSocketClient, WebSocketRefused
from tests.support.inprocess import problems, until

from .project.views import EVENTS

SIGNALS = (request_started, websocket_opened, request_finished, websocket_closed)


@pytest.fixture
def heard() -> Iterator[list[tuple[Signal, dict[str, Any]]]]:
    """What the four signals said."""
    told: list[tuple[Signal, dict[str, Any]]] = []

    def hear(signal: Signal, **arguments: Any) -> None:
        told.append((signal, arguments))

    for signal in SIGNALS:
        signal.connect(hear)
    yield told
    for signal in SIGNALS:
        signal.disconnect(hear)
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
def test_each_comes_once(client: WebSocketClient, heard: Any, path: str, code: int) -> None:
    """In this order, whatever ends the view."""
    client.raise_request_exception = False
    with client.websocket(path) as ws:
        if code == 4000:
            ws.close(4000)
        assert ws.receive() is None
    assert [signal for signal, _ in heard] == list(SIGNALS)
    assert heard[-1][1]["code"] == code


def test_greenlet_beside_the_view_gives_nothing_of_the_view_s_back() -> None:
    """So the view's next wait is to ask once more."""
    assert gevent.spawn(databases.release_idle).get(timeout=5) is True


def test_detached_connection_closes_after_its_request(client: WebSocketClient, heard: Any) -> None:
    """The request ends with the view; the last signal comes behind ``on_close``."""
    with client.websocket("/who/") as ws:
        ws.receive()
        until(lambda: len(heard) == 3, "the view has ended")
        assert [signal for signal, _ in heard] == list(SIGNALS[:3])
        ws.close(4000)
    until(lambda: len(heard) == 4, "the end is told")
    assert heard[-1][1]["code"] == 4000


def test_refused_handshake_is_a_request_alone(client: WebSocketClient, heard: Any) -> None:
    """No WebSocket was opened."""
    with pytest.raises(WebSocketRefused), client.websocket("/answers/forbidden/"):
        pass
    assert [signal for signal, _ in heard] == [request_started, request_finished]


def test_close_tells_what_was(client: WebSocketClient, heard: Any) -> None:
    """Code, reason, seconds and counters; the sender is the class."""
    with client.websocket("/both/") as ws:
        ws.send("x")
        ws.receive()
        ws.close(4321, "why")
    arguments = heard[-1][1]
    assert (arguments["sender"], arguments["code"], arguments["reason"]) == (WebSocket, 4321, "why")
    assert arguments["websocket"] is heard[1][1]["websocket"]
    assert 0 < arguments["duration"] < 60
    assert arguments["duration"] == arguments["websocket"].duration
    assert arguments["stats"] == Stats(1, 1, arguments["stats"].bytes_received, arguments["stats"].bytes_sent)
    assert arguments["stats"].bytes_received > 0 < arguments["stats"].bytes_sent


@pytest.mark.parametrize("signal", [websocket_opened, websocket_closed])
def test_receiver_that_raises_changes_nothing(
    client: WebSocketClient, caplog: pytest.LogCaptureFixture, signal: Signal
) -> None:
    """Django logs it."""

    def receiver(**arguments: Any) -> None:
        raise LookupError("a receiver")

    signal.connect(receiver)
    try:
        with client.websocket("/both/") as ws:
            ws.send("x")
            assert ws.receive() == "0: x"
    finally:
        signal.disconnect(receiver)
    assert [one.name for one in problems(caplog)] == ["django.dispatch"]
