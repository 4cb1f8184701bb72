"""The session of a WebSocket is saved at the handshake, and later only by the view."""

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
from .support import answer

SAVING = override_settings(SESSION_SAVE_EVERY_REQUEST=True)
COOKIES = override_settings(SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies")
CACHE = override_settings(SESSION_ENGINE="django.contrib.sessions.backends.cache")


def stored(client: WebSocketClient) -> dict[str, object]:
    """The client's session as another request reads it."""
    return dict(SessionStore(client.cookies["sessionid"].value).items())


class TestSession(WebSocketTestMixin, TestCase):
    client: WebSocketClient
    path = "/session/"

    def setUp(self) -> None:
        session = self.client.session
        session["early"] = "before"
        session.save()

    def test_view_sees_the_session_of_the_handshake(self) -> None:
        """With the values that were stored before."""
        with self.client.websocket(self.path) as ws:
            ws.send("look")
            assert ws.receive_json() == {"early": "before", "late": None}

    def test_value_set_before_the_101_is_saved_at_the_handshake(self) -> None:
        """It is stored while the connection is open."""
        with self.client.websocket(f"{self.path}?early=now") as ws:
            answer(ws, "look")
            assert stored(self.client)["early"] == "now"

    def test_101_has_the_cookie_of_a_new_session(self) -> None:
        """With Django's attributes."""
        client = WebSocketClient()
        with client.websocket(f"{self.path}?early=new") as ws:
            answer(ws, "look")
            cookie = dict(ws.headers)["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
        assert stored(client) == {"early": "new"}

    def test_101_has_no_cookie_for_an_unchanged_session(self) -> None:
        """As the response of a plain request."""
        with self.client.websocket(self.path) as ws:
            ws.send("look")
            assert "Set-Cookie" not in dict(ws.headers)

    @SAVING
    def test_101_has_the_cookie_with_save_every_request(self) -> None:
        """The handshake is a request."""
        with self.client.websocket(self.path) as ws:
            ws.send("look")
            assert "Set-Cookie" in dict(ws.headers)

    def test_end_does_not_overwrite_a_newer_session(self) -> None:
        """Values that the view has set are not stored, and those of another request are kept."""
        for saving in (False, True):
            with (
                self.subTest(every_request=saving),
                override_settings(SESSION_SAVE_EVERY_REQUEST=saving),
                self.client.websocket(self.path) as ws,
            ):
                answer(ws, "set by the view")
                session = self.client.session
                session["newer"] = "yes"
                session.save()
            assert stored(self.client) == {"early": "before", "newer": "yes"}

    def test_end_does_not_store_a_deleted_session_again(self) -> None:
        """Nothing is logged either."""
        for saving in (False, True):
            self.client.cookies.clear()
            self.setUp()
            with (
                self.subTest(every_request=saving),
                override_settings(SESSION_SAVE_EVERY_REQUEST=saving),
                self.assertNoLogs(level="WARNING"),
                self.client.websocket(self.path) as ws,
            ):
                answer(ws, "set by the view")
                Session.objects.all().delete()
            assert Session.objects.count() == 0

    @override_settings(MESSAGE_STORAGE="django.contrib.messages.storage.session.SessionStorage")
    def test_middleware_after_the_view_has_a_session(self) -> None:
        """E.g. that of messages, whose values are not stored."""
        with self.assertNoLogs(level="WARNING"), self.client.websocket("/messages/") as ws:
            assert ws.receive() == "noted"
        assert "_messages" not in stored(self.client)

    def test_save_session_stores_at_once(self) -> None:
        """While the connection is open."""
        with self.client.websocket(self.path) as ws:
            answer(ws, "set value")
            assert answer(ws, "save") == "True"
            assert stored(self.client) == {"early": "before", "late": "value"}

    def test_deleted_session_is_not_saved(self) -> None:
        """``save_session`` returns False."""
        with self.client.websocket(self.path) as ws:
            answer(ws, "set value")
            self.client.session.flush()
            assert answer(ws, "save") == "False"
        assert Session.objects.count() == 0

    def test_session_that_was_never_saved_cannot_be_saved(self) -> None:
        """The browser has no cookie with its key."""
        never_saved = pytest.raises(RuntimeError, match="set a value in it before the WebSocket is accepted")
        with never_saved, WebSocketClient().websocket(self.path) as ws:
            answer(ws, "save")

    @COOKIES
    def test_101_has_the_session_that_is_stored_in_a_cookie(self) -> None:
        """With the values that were set before."""
        client = WebSocketClient()
        with client.websocket(f"{self.path}?early=new") as ws:
            answer(ws, "look")
        with client.websocket(self.path) as ws:
            ws.send("look")
            assert ws.receive_json()["early"] == "new"

    @COOKIES
    def test_session_in_a_cookie_cannot_be_saved_later(self) -> None:
        """There is no response that could set it."""
        too_late = pytest.raises(RuntimeError, match="signed cookie cannot be saved after the handshake")
        with too_late, WebSocketClient().websocket(f"{self.path}?early=new") as ws:
            answer(ws, "save")

    @CACHE
    def test_deleted_session_of_a_cache_is_not_saved(self) -> None:
        """``save_session`` returns False with another session engine too."""
        client = WebSocketClient()
        session = client.session
        session["early"] = "cached"
        session.save()
        with client.websocket(self.path) as ws:
            answer(ws, "set value")
            session.delete()
            assert answer(ws, "save") == "False"


class TestSessionOfAnUndecoratedView(TestSession):
    """The same without a decorator and without the middleware class."""

    path = "/undecorated/session/"


class TestOwnMiddleware(WebSocketTestMixin, TestCase):
    """A session middleware of the project: its decisions apply to WebSockets too."""

    client: WebSocketClient

    def setUp(self) -> None:
        session = self.client.session
        session["early"] = "shop"
        session.save()

    def test_cookie_is_that_of_the_middleware(self) -> None:
        """Name, path, domain and attributes. The cookie of the other session is unchanged."""
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
    def test_middleware_decides_whether_to_save(self) -> None:
        """Here it saves nothing and sets no cookie."""
        with self.client.websocket("/session/?early=new") as ws:
            ws.send("look")
            assert ws.receive_json()["early"] == "new"
            assert "Set-Cookie" not in dict(ws.headers)
        assert stored(self.client) == {"early": "shop"}

    @using("AnotherStore")
    def test_middleware_has_its_session_class_at_the_end(self) -> None:
        """With all methods. Nothing is stored."""
        with self.assertNoLogs(level="WARNING"), self.client.websocket("/session/?early=new") as ws:
            answer(ws, "set by the view")
        assert stored(self.client) == {"early": "new"}

    def test_user_of_another_session_is_not_found(self) -> None:
        """Without the staff cookie the user of the shop session is not used."""
        self.client.force_login(User.objects.create_user("shopper"))
        for names in (["ByMethods"], ["", "Inner"]):
            with self.subTest(names), using(*names), self.client.websocket("/staff/who/") as ws:
                assert ws.receive() == "AnonymousUser"
                assert answer(ws, "who") == "AnonymousUser"

    @using("ByMethods")
    def test_login_ends_the_session_that_it_replaces(self) -> None:
        """The WebSocket of the staff session is closed. That of the shop session stays open."""
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
            assert answer(shop_ws, "who") == "shopper"


def test_request_without_a_session_is_an_error_of_the_caller() -> None:
    """There is no SessionMiddleware."""
    with pytest.raises(AttributeError):
        save_session(object())  # type: ignore[arg-type]
