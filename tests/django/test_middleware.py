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

from .support import answer, refusal


@pytest.fixture
def client() -> Iterator[WebSocketClient]:
    """A client of a project with the class in ``MIDDLEWARE``."""
    with override_settings(MIDDLEWARE=[*settings.MIDDLEWARE, MIDDLEWARE]):
        yield WebSocketClient()


def test_undecorated_view_has_the_attributes(client: WebSocketClient) -> None:
    """``request.is_websocket()`` is False for plain HTTP."""
    assert client.get("/undecorated/").content == b"http False"


def test_request_that_reaches_no_view_has_the_attributes() -> None:
    """E.g. one that is answered with 404."""
    seen: list[Any] = []

    def get_response(request: Any) -> HttpResponse:
        seen.append((request.websocket, request.is_websocket()))
        return HttpResponse()

    WebSocketMiddleware(get_response)(RequestFactory().get("/"))
    assert seen == [(None, False)]


def test_decorated_view_is_reached(client: WebSocketClient) -> None:
    """Django calls it, with the argument of the URL."""
    with client.websocket("/both/1/") as ws:
        assert answer(ws, "x") == "1: x"


@pytest.mark.parametrize("path", ["/", "/meta/", "/undecorated/"])
def test_websocket_for_an_undecorated_view_is_400(client: WebSocketClient, path: str) -> None:
    """As in django-websocket."""
    response = refusal(client, path)
    assert (response.status_code, response.content) == (400, b"This address serves no WebSockets.\n")


@override_settings(WEBSOCKET_ACCEPT_ALL=True)
@pytest.mark.parametrize("path", ["/meta/", "/undecorated/"])
def test_accept_all_serves_undecorated_views(client: WebSocketClient, path: str) -> None:
    """They may return None."""
    with client.websocket(path) as ws:
        assert answer(ws, "x") == "x"


def test_page_is_not_cached_for_handshakes(client: WebSocketClient) -> None:
    """With ``WEBSOCKET_ACCEPT_ALL`` a page may have the address of a WebSocket."""
    assert "Upgrade" not in client.get("/").get("Vary", "")
    with override_settings(WEBSOCKET_ACCEPT_ALL=True):
        assert "Upgrade" in client.get("/")["Vary"]


@override_settings(WEBSOCKET_ACCEPT_ALL=True)
def test_accept_all_calls_a_view_once(client: WebSocketClient) -> None:
    """A view that answers with HTTP is not called again by Django."""
    response = refusal(client, "/")
    assert (response.status_code, response.content) == (200, b"plain")


@override_settings(WEBSOCKET_ACCEPT_ALL=True)
def test_accept_all_refuses_none_of_a_view_that_did_not_answer(client: WebSocketClient) -> None:
    """It returns None, but has not used the WebSocket."""
    with pytest.raises(ValueError, match="neither accepted nor closed"), client.websocket("/forgets/"):
        pass


def test_unknown_path_is_404(client: WebSocketClient) -> None:
    """The class refuses nothing where there is no view."""
    assert refusal(client, "/nowhere/").status_code == 404


@override_settings(WEBSOCKET_ACCEPT_ALL=True, ROOT_URLCONF="tests.django.dbproject.urls")
@pytest.mark.parametrize(("how", "kept"), [("raises", False), ("refuses", True)])
def test_accept_all_keeps_the_transaction(
    client: WebSocketClient, monkeypatch: pytest.MonkeyPatch, how: str, kept: bool
) -> None:
    """The transaction of ``ATOMIC_REQUESTS`` applies, although Django does not call the view."""
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    client.raise_request_exception = False
    with pytest.raises(WebSocketRefused), client.websocket(f"/accepts/?name={how}&how={how}"):
        pass
    assert bool(User.objects.filter(username=how).delete()[0]) is kept
