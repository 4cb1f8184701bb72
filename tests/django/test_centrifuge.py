"""``CentrifugeView``: what a client may do is decided by ordinary Django code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from django.contrib.auth import logout
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse
from django.test import TestCase, override_settings
from django.urls import path

from gws_middleware.django import groups
from gws_middleware.django.centrifuge import CentrifugeError, CentrifugeView
from gws_middleware.django.test import WebSocketTestMixin
from gws_middleware.django.users import close_user_sockets
from gws_middleware.groups import Groups, History, Presence, hub
from gws_middleware.testing import Client
from tests.support.centrifuge import Driver, Start, javascript, start
from tests.support.servers import Server, launch
from tests.support.waiting import eventually

__all__ = ["javascript", "start"]

GROUPS = Groups("memory://", history={"user": History()}, presence={"user": Presence()})
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

    def may_see_members(self, request: HttpRequest, name: str) -> bool:
        if request.user.get_username() == "eve":
            raise PermissionDenied("not you")
        return User.objects.filter(pk=request.user.pk).exists()

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


class Plain(CentrifugeView):
    """With the groups of the project."""

    def may_join(self, request: HttpRequest, name: str) -> bool:
        return True

    def may_publish(self, request: HttpRequest, name: str, data: Any) -> bool:
        return True


def log_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return HttpResponse()


urlpatterns = [
    path("live/", Live.as_view()),
    path("named/", Named.as_view()),
    path("closed/", Closed.as_view()),
    path("plain/", Plain.as_view()),
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

    def test_members_of_a_channel(self) -> None:
        """Where the view allows it, which is not the default; a PermissionDenied is the error."""
        mine = f"user.{self.ada.pk}"
        with self.client.websocket("/live/") as ws:
            client = ask(ws, connect={})["connect"]["client"]
            ask(ws, subscribe={"channel": mine})
            wanted = {client: {"client": client, "user": str(self.ada.pk)}}
            assert ask(ws, presence={"channel": mine}) == {"presence": {"presence": wanted}}
            User.objects.filter(pk=self.ada.pk).update(username="eve")
        with self.client.websocket("/live/") as ws:
            ask(ws, connect={})
            ask(ws, subscribe={"channel": mine})
            assert ask(ws, presence={"channel": mine})["error"] == {"code": 103, "message": "not you"}
        with self.client.websocket("/plain/") as ws:
            ask(ws, connect={})
            ask(ws, subscribe={"channel": mine})
            assert ask(ws, presence={"channel": mine})["error"]["code"] == 103

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

    def test_anonymous_publisher(self) -> None:
        """Has an empty user."""
        self.client.logout()
        with self.client.websocket("/plain/") as ws:
            ask(ws, connect={})
            ask(ws, subscribe={"channel": "any"})
            ws.send(json.dumps({"id": 6, "publish": {"channel": "any", "data": 1}}))
            received = [json.loads(str(ws.receive())) for _ in range(2)]
            [push] = [one["push"] for one in received if "push" in one]
            assert push["pub"]["info"]["user"] == ""

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

    def test_groups_of_the_project(self) -> None:
        """Are those of the view, unless it has others."""
        with self.client.websocket("/plain/") as ws:
            ask(ws, connect={})
            assert "subscribe" in ask(ws, subscribe={"channel": "any"})
            groups.send("any", {"n": 1}, on_commit=False)
            assert json.loads(str(ws.receive())) == {"push": {"channel": "any", "pub": {"data": {"n": 1}}}}

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
            assert (one.close_code, one.close_reason) == (4501, "logged out")
        with self.client.websocket("/live/") as two:
            ask(two, connect={})
            close_user_sockets(self.ada, code=4000)
            assert two.receive() is None
            assert (two.close_code, two.close_reason) == (4000, "")

    def test_user_of_an_idle_connection_is_known(self) -> None:
        """Before any command has come."""
        with self.client.websocket("/closed/") as ws:
            gevent.sleep(0)
            assert close_user_sockets(self.ada) == 1
            assert ws.receive() is None
            assert ws.close_code == 4501


# --- the clients, unmodified, and a real server ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The project with an empty database."""
    directory = tmp_path_factory.mktemp("accounts")
    env = {"DATABASE_FILE": str(directory / "accounts.sqlite3")}
    with launch("worker", directory, "tests.fixtureapps.centrifuged_accounts", env=env) as server:
        yield server


def log_in(site: Server, name: str) -> str:
    """The key of a new session."""
    cookie = site.get(f"/log-in/{name}/").headers["set-cookie"]
    return cookie.partition("sessionid=")[2].partition(";")[0]


def connected(start: Start, site: Server, session: str) -> Driver:
    """A client of a session."""
    client = start(site, f"/live/?session={session}")
    client.do("connect")
    client.wait("connected")
    return client


class TestClients:
    def test_client_of_a_session(self, start: Start, site: Server) -> None:
        """Channels, methods and rights of its user; between two commands it has no connection to the database."""
        ada = connected(start, site, log_in(site, "ada"))
        eve = connected(start, site, log_in(site, "eve"))
        mine = f"user.{ada.do('rpc', method='pk')}"
        ada.do("subscribe", channel=mine)
        ada.wait("subscribed")
        eve.do("subscribe", channel=mine)
        assert eve.wait("unsubscribed")["code"] == 103
        eve.do("publish", channel=mine, data="hello")
        eve_pk = eve.do("rpc", method="pk")
        assert ada.wait("publication", data="hello")["user"] == str(eve_pk)
        assert ada.do("rpc", method="rename", data="Ada") == "Ada"
        eventually(lambda: ada.do("rpc", method="open files") == 0, "the end of all connections to the database")

    def test_anonymous_client(self, start: Start, site: Server) -> None:
        """Is refused once, and does not try again."""
        client = start(site, "/live/")
        client.do("connect")
        assert client.wait("disconnected")["code"] == 101

    def test_logout_is_final(self, start: Start, site: Server) -> None:
        """4501 for the clients of this session, and for no others."""
        session = log_in(site, "bob")
        client, other = connected(start, site, session), connected(start, site, log_in(site, "bob"))
        site.get("/log-out/", ("Cookie", f"sessionid={session}"))
        found = client.wait("disconnected")
        assert (found["code"], found["reason"]) == (4501, "logged out")
        assert other.do("rpc", method="rename", data="Bob") == "Bob"

    def test_user_whose_sockets_are_closed(self, start: Start, site: Server) -> None:
        """Also without a reason of the caller's."""
        client = connected(start, site, log_in(site, "cara"))
        site.get("/withdraw/cara/")
        assert client.wait("disconnected")["code"] == 4501
