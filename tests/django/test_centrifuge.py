"""``CentrifugeView``: what a client may do is decided by ordinary Django code."""

from __future__ import annotations

import json
from typing import Any

import gevent
import pytest
from django.contrib.auth import logout
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse
from django.test import TestCase, override_settings
from django.urls import path

from gws_middleware.django.centrifuge import CentrifugeError, CentrifugeView
from gws_middleware.django.test import WebSocketTestMixin
from gws_middleware.django.users import close_user_sockets
from gws_middleware.groups import Groups, History, hub
from gws_middleware.testing import Client

GROUPS = Groups("memory://", history={"user": History()})
EVENTS: list[Any] = []


class Live(CentrifugeView):
    """What the tests ask of it."""

    groups = GROUPS

    def connected(self, request: HttpRequest) -> None:
        EVENTS.append(("connected", request.user.pk))
        if "banned" in request.GET:
            raise PermissionDenied(request.GET["banned"])

    def disconnected(self, request: HttpRequest) -> None:
        EVENTS.append(("disconnected", User.objects.count()))

    def may_join(self, request: HttpRequest, name: str) -> bool:
        if name == "denied":
            raise PermissionDenied
        return name == f"user.{request.user.pk}"

    def may_publish(self, request: HttpRequest, name: str, data: Any) -> bool:
        return User.objects.filter(pk=request.user.pk, first_name=data).exists()

    def rpc(self, request: HttpRequest, method: str, data: Any) -> Any:
        if method == "rename":
            with transaction.atomic():
                User.objects.filter(pk=request.user.pk).update(first_name=data)
            return User.objects.get(pk=request.user.pk).first_name
        if method == "state":
            return {"atomic": connection.in_atomic_block, "path": request.path, "user": request.user.get_username()}
        if method == "denied":
            raise PermissionDenied("only for staff")
        raise CentrifugeError(404, "no such method")


class Named(Live):
    """Facts of its own, and plain HTTP."""

    ping = 7
    max_channels = 1

    def info(self, request: HttpRequest) -> dict[str, Any]:
        return {"user": "me", "conn_info": {"name": request.user.get_username()}}

    def may_join(self, request: HttpRequest, name: str) -> bool:
        return True

    def may_publish(self, request: HttpRequest, name: str, data: Any) -> bool:
        return True

    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("a page")


class Closed(CentrifugeView):
    """Nothing of its own but the groups."""

    groups = GROUPS


class Unfinished(CentrifugeView):
    """Without groups."""


def log_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return HttpResponse()


urlpatterns = [
    path("live/", Live.as_view()),
    path("named/", Named.as_view()),
    path("closed/", Closed.as_view()),
    path("unfinished/", Unfinished.as_view()),
    path("logout/", log_out),
]


def ask(ws: Client, **command: Any) -> Any:
    """Send a command; its reply, without the id."""
    ws.send(json.dumps({"id": 5, **command}))
    while True:
        message = ws.receive()
        assert isinstance(message, str), (message, ws.close_code)
        for reply in map(json.loads, message.split("\n")):
            if reply.pop("id", None) == 5:
                return reply


@override_settings(ROOT_URLCONF=__name__)
class CentrifugeTest(WebSocketTestMixin, TestCase):
    def setUp(self) -> None:
        EVENTS.clear()
        self.addCleanup(setattr, hub, "LINGER", hub.LINGER)
        hub.LINGER = 0.01
        self.ada = User.objects.create_user("ada", password="x")
        self.client.force_login(self.ada)

    def test_client_of_a_user(self) -> None:
        """Joins the channel of its user, and no other; the view may query at each command."""
        mine, other = f"user.{self.ada.pk}", f"user.{self.ada.pk + 1}"
        with self.client.websocket("/live/") as ws:
            assert ask(ws, connect={})["connect"]["ping"] == 25
            assert ask(ws, subscribe={"channel": mine})["subscribe"]["recoverable"] is True
            assert ask(ws, subscribe={"channel": other})["error"]["code"] == 103
            assert ask(ws, rpc={"method": "rename", "data": "Ada"}) == {"rpc": {"data": "Ada"}}
            assert ask(ws, publish={"channel": mine, "data": "Ada"}) == {"publish": {}}
            assert ask(ws, publish={"channel": mine, "data": "Eve"})["error"]["code"] == 103
            publication = GROUPS.history(mine)[-1]
            assert publication.info["user"] == str(self.ada.pk)
        assert [("connected", self.ada.pk), ("disconnected", 1)] == EVENTS

    def test_request_stays_usable(self) -> None:
        """It is the handshake's, hours later."""
        with self.client.websocket("/live/") as ws:
            ask(ws, connect={})
            state = ask(ws, rpc={"method": "state"})["rpc"]["data"]
            assert (state["path"], state["user"]) == ("/live/", "ada")

    def test_client_that_may_not_connect(self) -> None:
        """Error 101 with the text, not a 403."""
        for text, message in (("", "unauthorized"), ("not you", "not you")):
            with self.client.websocket("/live/", QUERY_STRING=f"banned={text}") as ws:
                assert ask(ws, connect={}) == {"error": {"code": 101, "message": message}}
        assert [("connected", self.ada.pk)] * 2 == EVENTS

    def test_errors(self) -> None:
        """PermissionDenied is 103, and the application has codes of its own."""
        with self.client.websocket("/live/") as ws:
            ask(ws, connect={})
            assert ask(ws, subscribe={"channel": "denied"})["error"] == {"code": 103, "message": "permission denied"}
            assert ask(ws, rpc={"method": "denied"})["error"] == {"code": 103, "message": "only for staff"}
            assert ask(ws, rpc={"method": "other"})["error"] == {"code": 404, "message": "no such method"}

    def test_defaults_allow_nothing(self) -> None:
        """An anonymous client may connect, and that is all."""
        self.client.logout()
        with self.client.websocket("/closed/") as ws:
            assert "connect" in ask(ws, connect={})
            assert ask(ws, subscribe={"channel": "user.None"})["error"]["code"] == 103
            assert ask(ws, publish={"channel": "user.None", "data": 1})["error"]["code"] == 103
            assert ask(ws, rpc={"method": "x"})["error"]["code"] == 104

    def test_attributes(self) -> None:
        """Facts about the client, its pings and the number of its channels are the class's."""
        with self.client.websocket("/named/") as ws:
            assert ask(ws, connect={})["connect"]["ping"] == 7
            assert "subscribe" in ask(ws, subscribe={"channel": "user.a"})
            assert ask(ws, subscribe={"channel": "user.b"})["error"]["code"] == 106
            ask(ws, publish={"channel": "user.c", "data": 1})
            info = GROUPS.history("user.c")[-1].info
            assert (info["user"], info["conn_info"]) == ("me", {"name": "ada"})

    def test_plain_http(self) -> None:
        """The method ``get()``, or 426."""
        assert self.client.get("/named/").content == b"a page"
        assert self.client.get("/live/").status_code == 426

    def test_view_without_groups(self) -> None:
        """Says what is missing."""
        message = "^Unfinished.groups is None: wanted is a Groups$"
        with pytest.raises(ImproperlyConfigured, match=message), self.client.websocket("/unfinished/"):
            pass

    def test_logout_closes_for_good(self) -> None:
        """4501: after 4401 the client would connect again."""
        with self.client.websocket("/live/") as ws:
            ask(ws, connect={})
            self.client.get("/logout/")
            assert ws.receive() is None
            assert (ws.close_code, ws.close_reason) == (4501, "logged out")

    def test_user_whose_sockets_are_closed(self) -> None:
        """With the default code as at a logout; with another code as it is."""
        with self.client.websocket("/live/") as one:
            ask(one, connect={})
            assert close_user_sockets(self.ada) == 1
            assert one.receive() is None
            assert one.close_code == 4501
        with self.client.websocket("/live/") as two:
            ask(two, connect={})
            close_user_sockets(self.ada, code=4000)
            assert two.receive() is None
            assert two.close_code == 4000

    def test_user_of_an_idle_connection_is_known(self) -> None:
        """Before any command has come."""
        with self.client.websocket("/closed/") as ws:
            gevent.sleep(0)
            assert close_user_sockets(self.ada) == 1
            assert ws.receive() is None
            assert ws.close_code == 4501
