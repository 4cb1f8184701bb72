"""The middleware class, last in ``MIDDLEWARE``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.conf import settings
from django.test import override_settings

from gws_middleware.django.checks import MIDDLEWARE
from gws_middleware.django.test import WebSocketClient, WebSocketRefused


@pytest.fixture
def client() -> Iterator[WebSocketClient]:
    """A client of a project that has the class."""
    with override_settings(MIDDLEWARE=[*settings.MIDDLEWARE, MIDDLEWARE]):
        yield WebSocketClient()


def test_every_request_has_the_names(client: WebSocketClient) -> None:
    """Undecorated views too."""
    assert client.get("/undecorated/").content == b"http False"


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
    assert refused.value.body == b"This address does not speak WebSocket.\n"


@override_settings(WEBSOCKET_ACCEPT_ALL=True)
@pytest.mark.parametrize("path", ["/meta/", "/undecorated/"])
def test_accept_all_lets_them_in(client: WebSocketClient, path: str) -> None:
    """Undecorated, and returning None."""
    with client.websocket(path) as ws:
        ws.send("x")
        assert ws.receive() == "x"


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
