"""The middleware class, last in ``MIDDLEWARE``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connections
from django.http import HttpResponse
from django.test import RequestFactory, override_settings

from gws_middleware.django.checks import MIDDLEWARE
from gws_middleware.django.middleware import WebSocketMiddleware
from gws_middleware.django.test import WebSocketClient, WebSocketRefused


@pytest.fixture
def client() -> Iterator[WebSocketClient]:
    """A client of a project that has the class."""
    with override_settings(MIDDLEWARE=[*settings.MIDDLEWARE, MIDDLEWARE]):
        yield WebSocketClient()


def test_every_request_has_the_names(client: WebSocketClient) -> None:
    """Undecorated views too."""
    assert client.get("/undecorated/").content == b"http False"


def test_request_that_reaches_no_view_has_the_names_too() -> None:
    """E.g. for the page of a 404."""
    seen: list[Any] = []

    def get_response(request: Any) -> HttpResponse:
        seen.append((request.websocket, request.is_websocket()))
        return HttpResponse()

    WebSocketMiddleware(get_response)(RequestFactory().get("/"))
    assert seen == [(None, False)]


def test_decorated_view_is_reached(client: WebSocketClient) -> None:
    """Through Django's own way to it."""
    with client.websocket("/both/1/") as ws:
        ws.send("x")
        assert ws.receive() == "1: x"


@pytest.mark.parametrize("path", ["/", "/meta/", "/undecorated/"])
def test_undecorated_view_is_spared_websockets(client: WebSocketClient, path: str) -> None:
    """As django-websocket does: it did not ask for them."""
    with pytest.raises(WebSocketRefused) as refused, client.websocket(path):
        pass
    assert refused.value.status_code == 400
    assert refused.value.body == b"This address serves no WebSockets.\n"


@override_settings(WEBSOCKET_ACCEPT_ALL=True)
@pytest.mark.parametrize("path", ["/meta/", "/undecorated/"])
def test_accept_all_lets_them_in(client: WebSocketClient, path: str) -> None:
    """Undecorated, and returning None."""
    with client.websocket(path) as ws:
        ws.send("x")
        assert ws.receive() == "x"


def test_page_is_not_cached_for_handshakes(client: WebSocketClient) -> None:
    """Where one address has two answers."""
    assert "Upgrade" not in client.get("/").get("Vary", "")
    with override_settings(WEBSOCKET_ACCEPT_ALL=True):
        assert "Upgrade" in client.get("/")["Vary"]


@override_settings(WEBSOCKET_ACCEPT_ALL=True)
def test_accept_all_calls_a_view_once(client: WebSocketClient) -> None:
    """A view that answers with HTTP still does; Django does not call it again."""
    with pytest.raises(WebSocketRefused) as refused, client.websocket("/"):
        pass
    assert (refused.value.status_code, refused.value.body) == (200, b"plain")


@override_settings(WEBSOCKET_ACCEPT_ALL=True)
def test_accept_all_does_not_forgive_a_view_that_forgot(client: WebSocketClient) -> None:
    """None, without having touched the WebSocket."""
    with pytest.raises(ValueError, match="neither accepted nor closed"), client.websocket("/forgets/"):
        pass


def test_unknown_path_is_404(client: WebSocketClient) -> None:
    """No view, no question."""
    with pytest.raises(WebSocketRefused) as refused, client.websocket("/nowhere/"):
        pass
    assert refused.value.status_code == 404


@override_settings(WEBSOCKET_ACCEPT_ALL=True, ROOT_URLCONF="tests.django.dbproject.urls")
@pytest.mark.parametrize(("how", "kept"), [("raises", False), ("refuses", True)])
def test_accept_all_keeps_the_transaction(
    client: WebSocketClient, monkeypatch: pytest.MonkeyPatch, how: str, kept: bool
) -> None:
    """That of ``ATOMIC_REQUESTS``, though Django's own way to the view is not taken."""
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    client.raise_request_exception = False
    with pytest.raises(WebSocketRefused), client.websocket(f"/accepts/?name={how}&how={how}"):
        pass
    assert bool(User.objects.filter(username=how).delete()[0]) is kept
