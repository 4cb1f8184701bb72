"""``WebSocketView``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.contrib.auth.models import User
from django.test import TestCase

from gws_middleware.django.test import WebSocketClient, WebSocketRefused, WebSocketTestMixin

from .project.views import EVENTS


@pytest.fixture(autouse=True)
def no_events() -> Iterator[None]:
    EVENTS.clear()
    yield
    EVENTS.clear()


def test_message_reaches_receive(client: WebSocketClient) -> None:
    """With what ``connect`` took from the URL."""
    with client.websocket("/conversation/7/") as ws:
        ws.send("x")
        ws.send(b"y")
        assert (ws.receive(), ws.receive()) == ("7: 'x'", "7: b'y'")


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [(["first", "second"], "first"), (["third", "second"], "second"), (["third"], None), ([], None)],
)
def test_client_s_most_wanted_subprotocol_is_agreed_on(
    client: WebSocketClient, offered: list[str], agreed: str | None
) -> None:
    """Of those that the class speaks."""
    with client.websocket("/conversation/7/", offered) as ws:
        assert ws.subprotocol == agreed


def test_disconnect_gets_the_close_code(client: WebSocketClient) -> None:
    """Once."""
    with client.websocket("/conversation/7/") as ws:
        ws.close(4321)
    assert EVENTS == [("disconnect", 4321)]


def test_disconnect_of_a_peer_that_vanished_gets_1006(client: WebSocketClient) -> None:
    """There was no close frame."""
    with pytest.raises(ZeroDivisionError), client.websocket("/conversation/7/"):
        raise ZeroDivisionError  # leaves the block without a goodbye
    assert EVENTS == [("disconnect", 1006)]


@pytest.mark.parametrize(("what", "status"), [("refuse", 409), ("close", 403)])
def test_connect_refuses(client: WebSocketClient, what: str, status: int) -> None:
    """By a response, or by closing; ``disconnect`` is not called."""
    with pytest.raises(WebSocketRefused) as refused, client.websocket(f"/conversation/7/?what={what}"):
        pass
    assert refused.value.status_code == status
    assert EVENTS == []


def test_connect_may_accept_by_itself(client: WebSocketClient) -> None:
    """With headers of its own."""
    with client.websocket("/conversation/7/?what=accept") as ws:
        ws.send("x")
        assert ws.receive() == "7: 'x'"
    assert ("X-Room", "7") in ws.headers


@pytest.mark.parametrize(("query", "first"), [("what=raise", ""), ("", "raise")])
def test_exception_closes_with_1011(client: WebSocketClient, query: str, first: str) -> None:
    """In ``connect`` after it accepted, and in ``receive``; ``disconnect`` knows the code by then."""
    client.raise_request_exception = False
    with client.websocket(f"/conversation/7/?{query}") as ws:
        if first:
            ws.send(first)
        assert ws.receive() is None
        assert ws.close_code == 1011
    assert EVENTS == [("disconnect", 1011)]


def test_http_gets_426(client: WebSocketClient) -> None:
    """A class without ``get``."""
    assert client.get("/conversation/7/").status_code == 426


def test_class_with_get_answers_http(client: WebSocketClient) -> None:
    """And WebSockets as well."""
    assert client.get("/page/").content == b"a page"
    assert client.post("/page/").status_code == 405
    with client.websocket("/page/") as ws:
        ws.send("x")
        assert ws.receive() == "x"


class TestLoginRequiredMixin(WebSocketTestMixin, TestCase):
    client: WebSocketClient

    def test_anonymous_is_sent_to_the_login_page(self) -> None:
        """A mixin in front works as in front of any view."""
        with pytest.raises(WebSocketRefused) as refused, self.client.websocket("/conversation/private/7/"):
            pass
        self.assertRedirects(
            refused.value.response, "/login/?next=/conversation/private/7/", fetch_redirect_response=False
        )

    def test_user_comes_in(self) -> None:
        """And talks."""
        self.client.force_login(User.objects.create_user("bob"))
        with self.client.websocket("/conversation/private/7/") as ws:
            ws.send("x")
            assert ws.receive() == "7: 'x'"
