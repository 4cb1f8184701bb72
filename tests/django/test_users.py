"""The user of a WebSocket: closing, logouts, and reading the user again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from django.conf import settings
from django.contrib.auth import login, logout, update_session_auth_hash
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import RequestFactory, TestCase, override_settings
from django.test.utils import CaptureQueriesContext

from gws_middleware import WebSocket, testing
from gws_middleware.connection import control
from gws_middleware.django import groups, users
from gws_middleware.django.test import WebSocketClient, WebSocketTestMixin
from gws_middleware.django.users import close_user_sockets, refresh_user, user_key
from gws_middleware.process import registry
from tests.support.inprocess import until
from tests.support.programs import run_python

from .project.views import EVENTS
from .support import answer, refusal

PATHS = ("/private/", "/who/")
"""A view that keeps the WebSocket, and one that detaches it."""


class TestUsers(WebSocketTestMixin, TestCase):
    client: WebSocketClient

    def setUp(self) -> None:
        self.bob = User.objects.create_user("bob", password="x")
        self.eve = User.objects.create_user("eve", password="x")
        self.client.force_login(self.bob)

    @contextmanager
    def opened(self, path: str, user: User | None = None) -> Iterator[testing.Client]:
        """A WebSocket of a user, in a new session, or without ``user`` in the session of bob's client."""
        client = self.client
        if user is not None:
            client = WebSocketClient()
            client.force_login(user)
        with client.websocket(path) as ws:
            assert ws.receive() == (user or self.bob).username
            yield ws

    def test_sockets_of_a_user_close(self) -> None:
        """In every session. The WebSockets of other users stay open."""
        for path in PATHS:
            with (
                self.subTest(path),
                self.opened(path) as one,
                self.opened(path, self.bob) as two,
                self.opened(path, self.eve) as other,
            ):
                assert close_user_sockets(self.bob) == 2
                assert [one.receive(), two.receive()] == [None, None]
                assert [one.close_code, two.close_code] == [4401, 4401]
                assert answer(other, "who") == "eve"

    def test_code_and_reason_are_sent(self) -> None:
        """The user may be a primary key."""
        with self.opened("/private/") as ws:
            assert close_user_sockets(self.bob.pk, code=4000, reason="moved") == 1
            assert ws.receive() is None
            assert (ws.close_code, ws.close_reason) == (4000, "moved")

    def test_primary_key_may_be_text(self) -> None:
        """E.g. from a URL or a session."""
        with self.opened("/private/") as ws:
            assert close_user_sockets(str(self.bob.pk)) == 1
            assert ws.receive() is None

    def test_wrong_call_is_an_error(self) -> None:
        """A name, a deleted user, a code that must not be sent, or a long reason."""
        deleted = User.objects.create_user("deleted")
        deleted.delete()
        for user, sentence in (
            ("bob", "'bob' is neither a user nor a primary key of auth.User"),
            (object(), "is neither a user nor a primary key of auth.User"),
            (deleted, "<User: deleted> has no primary key: wanted a user that is stored, or a primary key"),
            (None, "None has no primary key"),
        ):
            with self.subTest(sentence), pytest.raises(ValueError, match=re.escape(sentence)):
                close_user_sockets(user)
        for wrong in ({"code": 1005}, {"reason": "x" * 124}):
            with self.subTest(wrong), pytest.raises(ValueError, match="wanted a code of 1000-1003"):
                close_user_sockets(self.bob, **wrong)  # type: ignore[arg-type]

    def test_anonymous_user_has_no_sockets(self) -> None:
        """Neither AnonymousUser nor an anonymous WebSocket has a primary key."""
        with WebSocketClient().websocket("/who/") as ws:
            assert ws.receive() == "AnonymousUser"
            assert close_user_sockets(AnonymousUser()) == 0

    def test_user_that_was_not_read_is_not_queried(self) -> None:
        """That would be a query for each WebSocket."""
        with self.client.websocket("/both/") as ws:
            answer(ws, "x")
            with self.assertNumQueries(0):
                assert close_user_sockets(self.bob) == 0

    def test_logout_closes_the_sockets_of_its_session(self) -> None:
        """Those of another session and of other users stay open."""
        for path in PATHS:
            self.client.force_login(self.bob)
            with (
                self.subTest(path),
                self.opened(path) as here,
                self.opened(path, self.bob) as there,
                self.opened(path, self.eve) as other,
            ):
                self.client.logout()
                assert here.receive() is None
                assert (here.close_code, here.close_reason) == (4401, "logged out")
                for ws, name in ((there, "bob"), (other, "eve")):
                    assert answer(ws, "who") == name

    def test_logout_closes_the_socket_of_an_undecorated_view(self) -> None:
        """The cookie names the session."""
        with self.opened("/meta-user/") as ws, self.opened("/meta-user/", self.bob) as there:
            self.client.logout()
            assert ws.receive() is None
            assert ws.close_code == 4401
            assert answer(there, "who") == "bob"

    def test_logout_during_the_handshake_closes_too(self) -> None:
        """The user was read before the logout, and the 101 is sent after it. A new login has another session."""
        self.client.force_login(self.bob)
        with self.client.websocket("/leaves/") as ws:
            assert ws.receive() is None
            assert (ws.close_code, ws.close_reason) == (4401, "logged out")
        self.client.force_login(self.bob)
        with self.opened("/private/") as here:
            assert answer(here, "who") == "bob"

    def queries_of_a_logout(self, browser: WebSocketClient) -> int:
        """The number of queries that a logout in this browser makes."""
        with CaptureQueriesContext(connection) as queries:
            browser.logout()
        return len(queries)

    def test_logout_queries_once_for_each_session(self) -> None:
        """And not for each WebSocket of the session."""
        browsers = [WebSocketClient() for _ in range(4)]
        for browser in browsers:
            browser.force_login(self.bob)
        with ExitStack() as stack:
            alone = self.queries_of_a_logout(browsers[0])
            for browser in browsers[2:]:
                sockets = [stack.enter_context(browser.websocket("/private/")) for _ in range(3)]
                for ws in sockets:
                    ws.receive()
            assert self.queries_of_a_logout(browsers[1]) == alone + 2
            for ws in sockets:
                assert answer(ws, "who") == "bob"

    def test_oldest_ended_session_is_removed(self) -> None:
        """The number of stored keys is limited. They are needed only as long as a handshake takes."""
        for others, code in ((1, 4401), (2, None)):
            self.client.force_login(self.bob)
            with self.subTest(others), patch.object(users, "MAX_ENDED_SESSIONS", 2):
                for session in (self.client.session, *map(SessionStore, ["a" * 32, "b" * 32][:others])):
                    request = RequestFactory().get("/")
                    request.session = session
                    user_logged_out.send(User, request=request, user=self.bob)
                with self.client.websocket("/private/") as ws:
                    assert (answer(ws, "who") is None, ws.close_code) == (code is not None, code)

    def test_logout_without_a_session_closes_all(self) -> None:
        """The signal is sent without a request, e.g. by a backend that ends all sessions of a user."""
        with self.opened("/private/") as one, self.opened("/who/", self.bob) as two:
            user_logged_out.send(User, request=None, user=self.bob)
            assert [one.receive(), two.receive()] == [None, None]

    def test_logout_of_an_anonymous_user_closes_nothing(self) -> None:
        """Django sends the signal with ``user=None``."""
        request = RequestFactory().get("/")
        request.session = self.client.session
        with self.opened("/private/") as ws:
            user_logged_out.send(User, request=request, user=None)
            assert answer(ws, "who") == "bob"

    def test_logout_after_a_change_of_the_password_closes(self) -> None:
        """The change gives the session another key, and the WebSocket has the old one."""
        for path in PATHS:
            self.client.force_login(self.bob)
            with self.subTest(path), self.opened(path) as ws:
                request = RequestFactory().get("/")
                request.session, request.user = self.client.session, self.bob
                update_session_auth_hash(request, self.bob)
                logout(request)
                assert ws.receive() is None
                assert ws.close_code == 4401

    def test_login_of_another_user_closes(self) -> None:
        """In the same browser, without a logout. Those of other sessions stay open."""
        for path in PATHS:
            self.client.force_login(self.bob)
            with self.subTest(path), self.opened(path) as ws, self.opened(path, self.bob) as there:
                request = RequestFactory().get("/")
                request.COOKIES["sessionid"] = self.client.cookies["sessionid"].value
                request.session, request.user = self.client.session, self.bob
                login(request, self.eve)
                assert ws.receive() is None
                assert (ws.close_code, ws.close_reason) == (4401, "logged out")
                assert answer(there, "who") == "bob"

    def test_login_again_closes_nothing(self) -> None:
        """A login of the same user in the same browser."""
        with self.opened("/private/") as ws:
            request = RequestFactory().get("/")
            request.COOKIES["sessionid"] = self.client.cookies["sessionid"].value
            user_logged_in.send(User, request=request, user=self.bob)
            assert answer(ws, "who") == "bob"

    def test_deactivation_closes(self) -> None:
        """After the transaction is committed."""
        for path in PATHS:
            with self.subTest(path), self.opened(path) as ws:
                self.bob.is_active = False
                with self.captureOnCommitCallbacks() as callbacks:
                    self.bob.save()
                assert answer(ws, "x") == "AnonymousUser"
                for callback in callbacks:
                    callback()
                assert ws.receive() is None
                assert (ws.close_code, ws.close_reason) == (4401, "no longer active")
            self.bob.is_active = True
            self.bob.save()

    def test_deletion_closes(self) -> None:
        """Of the user."""
        with self.opened("/private/") as ws:
            with self.captureOnCommitCallbacks(execute=True):
                self.bob.delete()
            assert ws.receive() is None

    def test_ordinary_save_closes_nothing(self) -> None:
        """E.g. that of ``last_login`` at a login."""
        with self.opened("/private/") as ws:
            with self.captureOnCommitCallbacks(execute=True):
                self.bob.save()
            assert answer(ws, "who") == "bob"

    @override_settings(GWS={"close_on_logout": False})
    def test_setting_turns_closing_off(self) -> None:
        """For logouts and deactivations."""
        with self.opened("/private/") as ws:
            with self.captureOnCommitCallbacks(execute=True):
                self.bob.is_active = False
                self.bob.save()
            self.client.logout()
            assert answer(ws, "who") == "AnonymousUser"


class TestRefreshUser(WebSocketTestMixin, TestCase):
    client: WebSocketClient

    def setUp(self) -> None:
        self.bob = User.objects.create_user("bob", password="x")
        self.client.force_login(self.bob)

    def seen(self, change: Any) -> list[Any]:
        """The names of the user that an attached and a detached connection read after a change."""
        names = []
        for path in PATHS:
            self.client.force_login(self.bob)
            with override_settings(GWS={"close_on_logout": False}), self.client.websocket(path) as ws:
                ws.receive()
                change()
                ws.send("who")
                names.append(ws.receive())
        return names

    def test_new_name_is_seen(self) -> None:
        """The user is read again."""
        assert self.seen(lambda: User.objects.filter(pk=self.bob.pk).update(username="robert")) == ["robert"] * 2

    def test_logged_out_user_is_anonymous(self) -> None:
        """The session is not stored any more."""
        assert self.seen(self.client.logout) == ["AnonymousUser"] * 2

    def test_deactivated_user_is_anonymous(self) -> None:
        """As in a request."""

        def deactivate() -> None:
            User.objects.filter(pk=self.bob.pk).update(is_active=False)

        names = self.seen(deactivate)
        User.objects.filter(pk=self.bob.pk).update(is_active=True)
        assert names == ["AnonymousUser"] * 2

    def test_user_with_a_changed_password_is_anonymous(self) -> None:
        """The hash in the session does not match."""

        def change() -> None:
            user = User.objects.get(pk=self.bob.pk)
            user.set_password("another")
            user.save()
            self.bob.refresh_from_db()

        with self.client.websocket("/private/") as ws:
            ws.receive()
            change()
            assert answer(ws, "who") == "AnonymousUser"

    def test_session_is_only_read(self) -> None:
        """After a change of SECRET_KEY or of the password, the session is still stored under the key in the cookie."""
        key = self.client.session.session_key
        rotated = override_settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=[settings.SECRET_KEY])
        with self.client.websocket("/private/") as ws, rotated:
            ws.receive()
            assert answer(ws, "who") == "bob"
            assert self.client.session.session_key == key and Session.objects.filter(pk=key).exists()
        with self.client.websocket("/private/") as ws:
            ws.receive()
            self.bob.set_password("another")
            self.bob.save()
            assert answer(ws, "who") == "AnonymousUser"
        assert Session.objects.filter(pk=key).exists()

    def test_session_that_an_older_secret_key_has_signed_continues(self) -> None:
        """Reading the user gives it another key. The 101 has the cookie, also for a view that reads the user later."""
        key = self.client.session.session_key
        with override_settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=[settings.SECRET_KEY]):
            for expected_cookie in (True, False):
                with self.client.websocket("/late/") as ws:
                    assert ws.receive() == "bob"
                    assert ("Set-Cookie" in dict(ws.headers)) is expected_cookie
            with WebSocketClient().websocket("/late/") as ws:
                assert ws.receive() == "AnonymousUser"
        assert self.client.session.session_key != key

    @override_settings(MIDDLEWARE=["tests.django.project.views.by_token"])
    def test_user_of_a_token_is_read_by_the_primary_key(self) -> None:
        """There is no session."""
        for path in PATHS:
            with self.subTest(path), WebSocketClient().websocket(f"{path}?token={self.bob.pk}") as ws:
                assert ws.receive() == "bob"
                assert answer(ws, "who") == "bob"
                User.objects.filter(pk=self.bob.pk).update(is_active=False)
                assert answer(ws, "who") == "AnonymousUser"
            User.objects.filter(pk=self.bob.pk).update(is_active=True)

    def test_undecorated_view_reads_its_user(self) -> None:
        """By the cookie of the session."""
        with self.client.websocket("/meta-user/") as ws:
            assert ws.receive() == "bob"

    def test_request_user_is_replaced(self) -> None:
        """In an attached view, so that all of it reads the same user."""
        with self.client.websocket("/private/") as ws:
            ws.receive()
            User.objects.filter(pk=self.bob.pk).update(username="robert")
            assert answer(ws, "request") == "robert robert"


@pytest.fixture(autouse=True)
def no_events() -> Iterator[None]:
    yield
    EVENTS.clear()


ACCOUNTS = """
from django.db import models

class Account(models.Model):
    name = models.CharField(max_length=20, unique=True)
    USERNAME_FIELD, REQUIRED_FIELDS, is_anonymous, is_authenticated = "name", (), False, True
    objects = models.Manager()

    def __str__(self):
        return self.name
"""
SETUP = """
import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["gws_middleware.django", "django.contrib.auth", "django.contrib.contenttypes", "accounts"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    MIGRATION_MODULES={"auth": None, "contenttypes": None},
    USE_TZ=True,
    **OPTIONS,
)
django.setup()

from types import SimpleNamespace
from unittest.mock import patch

from accounts.models import *
from django.core.management import call_command
from gws_middleware.django.users import Login, refresh_user

call_command("migrate", run_syncdb=True, verbosity=0)
"""
READS = """
ws = SimpleNamespace(login=Login(Account.objects.create(name="bob").pk))
print(refresh_user(ws))
Account.objects.all().delete()
print(refresh_user(ws))
"""


PROXIES = """
from django.contrib.auth.models import User
from django.db import models

class Member(User):
    class Meta:
        proxy = True

class Employee(User):
    desk = models.CharField(max_length=20)
"""
DEACTIVATES = """
with patch("gws_middleware.django.users.close_user_sockets") as closed:
    for model in Member, Employee:
        user = model.objects.create(username=model.__name__)
        user.is_active = False
        user.save()
        user.delete()
print({call.args for call in closed.call_args_list})
"""


def with_accounts(folder: Path, models: str, program: str, **options: Any) -> str:
    """The output of a program in a project whose app ``accounts`` has these models."""
    (folder / "accounts").mkdir()
    (folder / "accounts" / "__init__.py").touch()
    (folder / "accounts" / "models.py").write_text(models)
    done = run_python("-c", f"OPTIONS = {options!r}\n{SETUP}{program}", folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_deactivation_of_a_proxy_or_child_model_applies_to_the_user(tmp_path: Path) -> None:
    """Django sends the signals of such a model with another sender."""
    assert with_accounts(tmp_path, PROXIES, DEACTIVATES).split() == ["{(1,),", "(2,)}"]


def test_user_model_without_is_active_is_supported(tmp_path: Path) -> None:
    """As in Django, its users are active."""
    output = with_accounts(tmp_path, ACCOUNTS, READS, AUTH_USER_MODEL="accounts.Account")
    assert output.split() == ["bob", "AnonymousUser"]


class TestLimitOfUsers(WebSocketTestMixin, TestCase):
    """``max_connections_per_user`` with the default ``user_key``: the primary key of the user."""

    client: WebSocketClient
    site_limits = False

    def setUp(self) -> None:
        self.bob = User.objects.create_user("bob", password="x")
        self.eve = User.objects.create_user("eve", password="x")
        settings = override_settings(GWS={"max_connections_per_user": 1, "site_limits": self.site_limits})
        settings.enable()
        self.addCleanup(settings.disable)

    def of(self, user: User) -> WebSocketClient:
        """A client with a new session of the user."""
        client = WebSocketClient()
        client.force_login(user)
        return client

    def ended_at_once(self, user: User, path: str) -> tuple[int | None, str | None]:
        """Close code and reason of one more WebSocket."""
        with self.of(user).websocket(path) as ws:
            for _ in ws:
                pass
            return ws.close_code, ws.close_reason

    def test_one_more_ends_with_1008(self) -> None:
        """In any browser. The WebSockets of other users are counted separately."""
        for path in PATHS:
            with self.subTest(path), self.of(self.bob).websocket(path) as one:
                assert one.receive() == "bob"
                assert self.ended_at_once(self.bob, path) == (1008, "too many connections")
                with self.of(self.eve).websocket(path) as other:
                    assert other.receive() == "eve"
                assert answer(one, "who") == "bob"

    def test_slot_is_released_at_the_close(self) -> None:
        """A WebSocket above the limit reserves none."""
        for path in PATHS * 2:
            with self.subTest(path), self.of(self.bob).websocket(path) as ws:
                assert ws.receive() == "bob"
                self.ended_at_once(self.bob, path)
            until(lambda: not registry.current().slots.reserved)

    def test_anonymous_users_are_not_counted(self) -> None:
        """They would all count as one user."""
        with WebSocketClient().websocket("/who/") as one, WebSocketClient().websocket("/who/") as two:
            assert [one.receive(), two.receive()] == ["AnonymousUser"] * 2
            assert not registry.current().slots.reserved

    def test_user_that_was_not_read_is_not_counted(self) -> None:
        """That would be a query for each WebSocket."""
        with self.of(self.bob).websocket("/both/") as one, self.of(self.bob).websocket("/both/") as two:
            for ws in (one, two):
                assert answer(ws, "x") == "0: x"
            assert not registry.current().slots.reserved

    def test_refused_handshake_reserves_no_slot(self) -> None:
        """The view reads the user and answers with HTTP."""
        client = self.of(self.bob)
        for _ in range(2):
            refusal(client, "/permitted/")
        assert not registry.current().slots.reserved

    def test_key_is_the_primary_key(self) -> None:
        """It is read without a query."""
        with self.of(self.bob).websocket("/private/") as ws:
            ws.receive()
            (found,) = registry.current()
            with self.assertNumQueries(0):
                assert user_key(found) == self.bob.pk  # type: ignore[arg-type]


class TestFacts(WebSocketTestMixin, TestCase):
    """The user of a WebSocket as a survey shows it."""

    client: WebSocketClient

    def setUp(self) -> None:
        self.bob = User.objects.create_user("bob", password="x")
        self.client.force_login(self.bob)

    def user_of(self, path: str, client: WebSocketClient | None = None) -> tuple[str | None, str | None]:
        """Primary key and name; no query is made for them."""
        with (client or self.client).websocket(path) as ws:
            ws.receive()
            (found,) = registry.current()
            assert isinstance(found, WebSocket)
            with self.assertNumQueries(0):
                return control.user_of(found)

    def test_user_that_was_read_has_a_name(self) -> None:
        """Also where the view has returned."""
        for path in PATHS:
            with self.subTest(path):
                assert self.user_of(path) == (str(self.bob.pk), "bob")

    def test_anonymous_user_is_none(self) -> None:
        """Its name is an empty string for Django."""
        assert self.user_of("/who/", WebSocketClient()) == (None, None)

    def test_user_that_was_not_read_is_not_read_for_it(self) -> None:
        """``both`` does not use it."""
        with self.client.websocket("/both/") as ws:
            answer(ws, "x")
            (found,) = registry.current()
            with self.assertNumQueries(0):
                assert control.user_of(found) == (None, None)  # type: ignore[arg-type]

    def test_user_of_the_session_is_known_before_it_is_read(self) -> None:
        """Where something has read the session; the name is not."""
        with self.client.websocket("/session/") as ws:
            answer(ws, "get")
            (found,) = registry.current()
            with self.assertNumQueries(0):
                assert control.user_of(found) == (str(self.bob.pk), None)  # type: ignore[arg-type]

    def test_deferred_name_is_not_read(self) -> None:
        """It would be a query."""
        ws: Any = SimpleNamespace(request=SimpleNamespace(user=User.objects.only("pk").get()), environ={})
        with self.assertNumQueries(0):
            assert users.login_of(ws).user_name is None

    def test_user_by_other_means_than_a_session(self) -> None:
        """E.g. by a token: a model instance, and no lazy object."""
        ws: Any = SimpleNamespace(request=SimpleNamespace(user=self.bob), environ={})
        login = users.login_of(ws)
        assert (login.key, login.user_name) == (str(self.bob.pk), "bob")

    def test_survey_has_users(self) -> None:
        """And finds them by the object, the key, and its text."""
        eve = User.objects.create_user("eve")
        with self.client.websocket("/private/") as ws:
            ws.receive()
            for user in (self.bob, self.bob.pk, str(self.bob.pk)):
                [found] = groups.connections(user=user)
                assert (found.user, found.user_name, found.path) == (str(self.bob.pk), "bob", "/private/")
            assert groups.survey(user=eve).connections == []
            [worker] = groups.workers()
            assert groups.survey(path="/private", worker=worker.name).connections[0].id == found.id
            groups.send_to(found.id, {"a": "test"})
            assert ws.receive() == '{"a":"test"}'
            groups.close_connection(found.id, 4000, "bye")
            assert (ws.receive(), ws.close_code, ws.close_reason) == (None, 4000, "bye")
            groups.close_connections([found.id])  # it has ended

    def test_survey_of_no_user_is_an_error(self) -> None:
        """An anonymous one has no key."""
        with pytest.raises(ValueError, match="is anonymous: wanted is a user that is stored, or a primary key"):
            groups.survey(user=AnonymousUser())
        with pytest.raises(ValueError, match="is neither a user nor a primary key"):
            groups.survey(user="bob")


class TestLimitOfUsersOfTheSite(TestLimitOfUsers):
    """The same where it counts all workers."""

    site_limits = True


def test_websocket_without_a_request_has_an_anonymous_user() -> None:
    """E.g. one that Django has not received."""

    class Bare:
        environ: dict[str, str] = {}  # noqa: RUF012

    assert str(refresh_user(Bare())) == "AnonymousUser"  # type: ignore[arg-type]
