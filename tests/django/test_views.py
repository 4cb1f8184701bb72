"""``WebSocketView``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.contrib.auth.models import User
from django.test import TestCase

from gws_middleware.django.test import WebSocketClient, WebSocketTestMixin

from .project.views import EVENTS
from .support import answer, refusal


@pytest.fixture(autouse=True)
def no_events() -> Iterator[None]:
    EVENTS.clear()
    yield
    EVENTS.clear()


def test_message_reaches_receive(client: WebSocketClient) -> None:
    """``connect`` has stored the argument of the URL."""
    with client.websocket("/conversation/7/") as ws:
        ws.send("x")
        ws.send(b"y")
        assert (ws.receive(), ws.receive()) == ("7: 'x'", "7: b'y'")


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [(["first", "second"], "first"), (["third", "second"], "second"), (["third"], None), ([], None)],
)
def test_first_offered_subprotocol_that_is_supported_is_selected(
    client: WebSocketClient, offered: list[str], agreed: str | None
) -> None:
    """None if the class supports none of them."""
    with client.websocket("/conversation/7/", offered) as ws:
        assert ws.subprotocol == agreed


def test_disconnect_gets_the_close_code(client: WebSocketClient) -> None:
    """``disconnect`` is called once."""
    with client.websocket("/conversation/7/") as ws:
        ws.close(4321)
    assert EVENTS == [("disconnect", 4321)]


def test_disconnect_without_a_close_frame_gets_1006(client: WebSocketClient) -> None:
    """The peer closes the socket."""
    with pytest.raises(ZeroDivisionError), client.websocket("/conversation/7/"):
        raise ZeroDivisionError  # ends the block without a close frame
    assert EVENTS == [("disconnect", 1006)]


@pytest.mark.parametrize(("what", "status"), [("refuse", 409), ("close", 403)])
def test_connect_refuses(client: WebSocketClient, what: str, status: int) -> None:
    """By a response, or by closing; ``disconnect`` is not called."""
    assert refusal(client, f"/conversation/7/?what={what}").status_code == status
    assert EVENTS == []


def test_connect_may_accept_by_itself(client: WebSocketClient) -> None:
    """With headers of its own."""
    with client.websocket("/conversation/7/?what=accept") as ws:
        assert answer(ws, "x") == "7: 'x'"
    assert ("X-Room", "7") in ws.headers


@pytest.mark.parametrize(("query", "first"), [("what=raise", ""), ("", "raise")])
def test_exception_closes_with_1011(client: WebSocketClient, query: str, first: str) -> None:
    """In ``connect`` after it accepted, and in ``receive``. ``disconnect`` gets the code."""
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
    """It also serves WebSockets."""
    assert client.get("/page/").content == b"a page"
    assert client.post("/page/").status_code == 405
    with client.websocket("/page/") as ws:
        assert answer(ws, "x") == "x"


class TestLoginRequiredMixin(WebSocketTestMixin, TestCase):
    client: WebSocketClient

    def test_user_has_to_log_in(self) -> None:
        """The mixin works as for any view."""
        response = refusal(self.client, "/conversation/private/7/")
        self.assertRedirects(response, "/login/?next=/conversation/private/7/", fetch_redirect_response=False)
        self.client.force_login(User.objects.create_user("bob"))
        with self.client.websocket("/conversation/private/7/") as ws:
            assert answer(ws, "x") == "7: 'x'"
