"""The session of a WebSocket is that of its handshake, and nothing is stored behind the view's back."""

from __future__ import annotations

import pytest
from django.contrib.auth import login
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.test import RequestFactory, TestCase, override_settings

from gws_middleware.django.sessions import save_session
from gws_middleware.django.test import WebSocketClient, WebSocketTestMixin

from .project.sessions import using

SAVING = override_settings(SESSION_SAVE_EVERY_REQUEST=True)
COOKIES = override_settings(SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies")
CACHE = override_settings(SESSION_ENGINE="django.contrib.sessions.backends.cache")


def stored(client: WebSocketClient) -> dict[str, object]:
    """The client's session as another request finds it."""
    return dict(SessionStore(client.cookies["sessionid"].value).items())


class TestSession(WebSocketTestMixin, TestCase):
    client: WebSocketClient
    path = "/session/"

    def setUp(self) -> None:
        session = self.client.session
        session["early"] = "before"
        session.save()

    def test_view_sees_the_session_of_the_handshake(self) -> None:
        """Read in any moment."""
        with self.client.websocket(self.path) as ws:
            ws.send("look")
            assert ws.receive_json() == {"early": "before", "late": None}

    def test_what_is_set_before_the_101_is_saved_at_once(self) -> None:
        """While the connection is open."""
        with self.client.websocket(f"{self.path}?early=now") as ws:
            ws.send("look")
            ws.receive()
            assert stored(self.client)["early"] == "now"

    def test_cookie_of_a_new_session_rides_on_the_101(self) -> None:
        """With the attributes that Django gives it."""
        client = WebSocketClient()
        with client.websocket(f"{self.path}?early=new") as ws:
            assert "sessionid" not in client.cookies or client.cookies["sessionid"].value
            ws.send("look")
            ws.receive()
            cookie = dict(ws.headers)["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
        assert stored(client) == {"early": "new"}

    def test_no_cookie_without_need(self) -> None:
        """A session that was not changed."""
        with self.client.websocket(self.path) as ws:
            ws.send("look")
            assert "Set-Cookie" not in dict(ws.headers)

    @SAVING
    def test_cookie_is_renewed_where_every_request_does(self) -> None:
        """The handshake is one."""
        with self.client.websocket(self.path) as ws:
            ws.send("look")
            assert "Set-Cookie" in dict(ws.headers)

    def test_end_does_not_overwrite_a_newer_session(self) -> None:
        """Whatever the view has set since: another request was here meanwhile."""
        for saving in (False, True):
            with (
                self.subTest(every_request=saving),
                override_settings(SESSION_SAVE_EVERY_REQUEST=saving),
                self.client.websocket(self.path) as ws,
            ):
                ws.send("set by the view")
                ws.receive()
                session = self.client.session
                session["newer"] = "yes"
                session.save()
            assert stored(self.client) == {"early": "before", "newer": "yes"}

    def test_end_does_not_resurrect_a_deleted_session(self) -> None:
        """Nor does anything complain that it is gone."""
        for saving in (False, True):
            self.client.cookies.clear()
            self.setUp()
            with (
                self.subTest(every_request=saving),
                override_settings(SESSION_SAVE_EVERY_REQUEST=saving),
                self.assertNoLogs(level="WARNING"),
                self.client.websocket(self.path) as ws,
            ):
                ws.send("set by the view")
                ws.receive()
                Session.objects.all().delete()
            assert Session.objects.count() == 0

    @override_settings(MESSAGE_STORAGE="django.contrib.messages.storage.session.SessionStorage")
    def test_middleware_behind_the_view_still_finds_a_session(self) -> None:
        """E.g. that of messages, which stores in it."""
        with self.assertNoLogs(level="WARNING"), self.client.websocket("/messages/") as ws:
            assert ws.receive() == "noted"
        assert "_messages" not in stored(self.client)

    def test_view_saves_when_it_says_so(self) -> None:
        """``save_session`` stores at once."""
        with self.client.websocket(self.path) as ws:
            ws.send("set value")
            ws.receive()
            ws.send("save")
            assert ws.receive() == "True"
            assert stored(self.client) == {"early": "before", "late": "value"}

    def test_deleted_session_is_not_saved(self) -> None:
        """``save_session`` says False."""
        with self.client.websocket(self.path) as ws:
            ws.send("set value")
            ws.receive()
            self.client.session.flush()
            ws.send("save")
            assert ws.receive() == "False"
        assert Session.objects.count() == 0

    def test_session_that_was_never_saved_cannot_be(self) -> None:
        """Its key is unknown to the browser."""
        client = WebSocketClient()
        with pytest.raises(RuntimeError, match="set a value in it before the WebSocket is accepted"):
            converse(client, "save", self.path)

    @COOKIES
    def test_session_in_a_cookie_rides_on_the_101(self) -> None:
        """Set before it."""
        client = WebSocketClient()
        with client.websocket(f"{self.path}?early=new") as ws:
            ws.send("look")
            ws.receive()
        with client.websocket(self.path) as ws:
            ws.send("look")
            assert ws.receive_json()["early"] == "new"

    @COOKIES
    def test_session_in_a_cookie_cannot_be_saved_later(self) -> None:
        """There is no response any more that could carry it."""
        client = WebSocketClient()
        with pytest.raises(RuntimeError, match="signed cookie cannot be saved after the handshake"):
            converse(client, "save", f"{self.path}?early=new")

    @CACHE
    def test_deleted_session_of_a_cache_is_not_saved(self) -> None:
        """The same with another store."""
        client = WebSocketClient()
        session = client.session
        session["early"] = "cached"
        session.save()
        with client.websocket(self.path) as ws:
            ws.send("set value")
            ws.receive()
            session.delete()
            ws.send("save")
            assert ws.receive() == "False"


class TestSessionOfAnUndecoratedView(TestSession):
    """The same holds where neither a decorator nor the middleware class has a hand in it."""

    path = "/undecorated/session/"


class TestOwnMiddleware(WebSocketTestMixin, TestCase):
    """A project's own SessionMiddleware: what it decides holds for WebSockets, too."""

    client: WebSocketClient

    def setUp(self) -> None:
        session = self.client.session
        session["early"] = "shop"
        session.save()

    def test_cookie_is_the_middleware_s(self) -> None:
        """Its name, path, domain and attributes; the cookie of the other session stays as it is."""
        for names in (["ByMethods"], ["ByCall"], ["", "Inner"], ["SessionMiddleware"]):
            shop = self.client.cookies["sessionid"].value
            with self.subTest(names), using(*names):
                client = WebSocketClient()
                client.cookies["sessionid"] = shop
                with client.websocket("/staff/session/?early=staff") as ws:
                    ws.send("look")
                    assert ws.receive_json() == {"early": "staff", "late": None}
                    [cookie] = [value for name, value in ws.headers if name == "Set-Cookie"]
                assert cookie.startswith("staffid=") and "Path=/staff/" in cookie and "Secure" in cookie
                assert client.cookies["sessionid"].value == shop and stored(client) == {"early": "shop"}
                staff = client.cookies["staffid"].value
                assert dict(SessionStore(staff).items()) == {"early": "staff"}
                with client.websocket("/session/") as ws:
                    ws.send("look")
                    assert ws.receive_json()["early"] == "shop"

    @using("NeverSaves")
    def test_it_decides_whether_to_save(self) -> None:
        """It does not: no cookie, and nothing is stored."""
        with self.client.websocket("/session/?early=new") as ws:
            ws.send("look")
            assert ws.receive_json()["early"] == "new"
            assert "Set-Cookie" not in dict(ws.headers)
        assert stored(self.client) == {"early": "shop"}

    @using("AnotherStore")
    def test_it_finds_its_own_store_at_the_end(self) -> None:
        """With all its methods, and stores nothing."""
        with self.assertNoLogs(level="WARNING"), self.client.websocket("/session/?early=new") as ws:
            ws.send("set by the view")
            ws.receive()
        assert stored(self.client) == {"early": "new"}

    def test_user_of_another_session_is_not_found(self) -> None:
        """Not that of the shop, where the staff's cookie is missing."""
        self.client.force_login(User.objects.create_user("shopper"))
        for names in (["ByMethods"], ["", "Inner"]):
            with self.subTest(names), using(*names), self.client.websocket("/staff/who/") as ws:
                assert ws.receive() == "AnonymousUser"
                ws.send("who")
                assert ws.receive() == "AnonymousUser"

    @using("ByMethods")
    def test_login_ends_the_session_that_it_replaces(self) -> None:
        """In the staff's cookie; the WebSocket of the shop's stays, whoever it belongs to."""
        shopper, clerk, boss = (User.objects.create_user(name) for name in ("shopper", "clerk", "boss"))
        self.client.force_login(shopper)
        staff = WebSocketClient()
        staff.force_login(clerk)
        self.client.cookies["staffid"] = staff.cookies["sessionid"].value
        with self.client.websocket("/who/") as shop_ws, self.client.websocket("/staff/who/") as staff_ws:
            assert [shop_ws.receive(), staff_ws.receive()] == ["shopper", "clerk"]
            request = RequestFactory().get("/staff/")
            request.COOKIES = {name: cookie.value for name, cookie in self.client.cookies.items()}
            request.session, request.user = SessionStore(staff.cookies["sessionid"].value), clerk
            login(request, boss)
            assert staff_ws.receive() is None and staff_ws.close_code == 4401
            shop_ws.send("who")
            assert shop_ws.receive() == "shopper"


def converse(client: WebSocketClient, message: str, path: str) -> None:
    """Say one thing and wait for the answer, which may be the end."""
    with client.websocket(path) as ws:
        ws.send(message)
        ws.receive()


def test_request_without_a_session_is_a_caller_s_error() -> None:
    """There is no SessionMiddleware."""
    with pytest.raises(AttributeError):
        save_session(object())  # type: ignore[arg-type]
