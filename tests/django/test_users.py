"""Whose WebSocket it is: closing, logging out, reading anew."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
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

from gws_middleware import testing
from gws_middleware.django import users
from gws_middleware.django.test import WebSocketClient, WebSocketRefused, WebSocketTestMixin
from gws_middleware.django.users import close_user_sockets, refresh_user, user_key
from gws_middleware.process import registry
from tests.support.inprocess import package_path, until

from .project.views import EVENTS

PATHS = ("/private/", "/who/")
"""Attached and detached."""


class TestUsers(WebSocketTestMixin, TestCase):
    client: WebSocketClient

    def setUp(self) -> None:
        self.bob = User.objects.create_user("bob", password="x")
        self.eve = User.objects.create_user("eve", password="x")
        self.client.force_login(self.bob)

    @contextmanager
    def opened(self, path: str, user: User | None = None) -> Iterator[testing.Client]:
        """A WebSocket of a user's, in a session of its own unless it is bob's."""
        client = self.client
        if user is not None:
            client = WebSocketClient()
            client.force_login(user)
        with client.websocket(path) as ws:
            assert ws.receive() == (user or self.bob).username
            yield ws

    def test_sockets_of_a_user_close(self) -> None:
        """Attached and detached, in every session; the others' stay."""
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
                other.send("who")
                assert other.receive() == "eve"

    def test_code_and_reason_are_the_caller_s(self) -> None:
        """And a primary key is as good as a user."""
        with self.opened("/private/") as ws:
            assert close_user_sockets(self.bob.pk, code=4000, reason="moved") == 1
            assert ws.receive() is None
            assert (ws.close_code, ws.close_reason) == (4000, "moved")

    def test_primary_key_may_be_text(self) -> None:
        """E.g. that of a URL, or of a session."""
        with self.opened("/private/") as ws:
            assert close_user_sockets(str(self.bob.pk)) == 1
            assert ws.receive() is None

    def test_wrong_call_is_an_error(self) -> None:
        """Whether the user has WebSockets or not: a name, a user that has been deleted, a code that may not travel."""
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

    def test_nobody_is_nobody_s(self) -> None:
        """AnonymousUser has no primary key, and anonymous WebSockets have none either."""
        with WebSocketClient().websocket("/who/") as ws:
            assert ws.receive() == "AnonymousUser"
            assert close_user_sockets(AnonymousUser()) == 0

    def test_user_that_nobody_asked_for_is_not_looked_up(self) -> None:
        """That would be a query for each WebSocket."""
        with self.client.websocket("/both/") as ws:
            ws.send("x")
            ws.receive()
            with self.assertNumQueries(0):
                assert close_user_sockets(self.bob) == 0

    def test_logout_closes_the_sockets_of_its_session(self) -> None:
        """Another browser's stay, and so do other people's."""
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
                    ws.send("who")
                    assert ws.receive() == name

    def test_logout_closes_what_an_undecorated_view_has_opened(self) -> None:
        """The session is known by the cookie."""
        with self.opened("/meta-user/") as ws, self.opened("/meta-user/", self.bob) as there:
            self.client.logout()
            assert ws.receive() is None
            assert ws.close_code == 4401
            there.send("who")
            assert there.receive() == "bob"

    def test_logout_during_the_handshake_closes_too(self) -> None:
        """Between the look at the user and the 101. Who logs in again has another session."""
        self.client.force_login(self.bob)
        with self.client.websocket("/leaves/") as ws:
            assert ws.receive() is None
            assert (ws.close_code, ws.close_reason) == (4401, "logged out")
        self.client.force_login(self.bob)
        with self.opened("/private/") as here:
            here.send("who")
            assert here.receive() == "bob"

    def queries_of_a_logout(self, browser: WebSocketClient) -> int:
        """How many a logout in this browser makes."""
        with CaptureQueriesContext(connection) as queries:
            browser.logout()
        return len(queries)

    def test_logout_queries_once_for_each_session(self) -> None:
        """And not for each of its WebSockets, which stay open."""
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
                ws.send("who")
                assert ws.receive() == "bob"

    def test_sessions_that_have_ended_are_forgotten(self) -> None:
        """The oldest first: they are of interest for as long as a handshake takes."""
        with patch.object(users, "MAX_ENDED_SESSIONS", 2), patch.dict(users._ended_sessions, clear=True):
            for letter in "abc":
                request = RequestFactory().get("/")
                request.session = SessionStore(letter * 32)
                user_logged_out.send(User, request=request, user=self.bob)
            assert list(users._ended_sessions) == ["b" * 32, "c" * 32]

    def test_logout_without_a_session_closes_all(self) -> None:
        """The signal sent by hand, e.g. by a backend that ends every session of a user."""
        with self.opened("/private/") as one, self.opened("/who/", self.bob) as two:
            user_logged_out.send(User, request=None, user=self.bob)
            assert [one.receive(), two.receive()] == [None, None]

    def test_logout_of_nobody_closes_nothing(self) -> None:
        """As Django sends it for a request without a user."""
        request = RequestFactory().get("/")
        request.session = self.client.session
        with self.opened("/private/") as ws:
            user_logged_out.send(User, request=request, user=None)
            ws.send("who")
            assert ws.receive() == "bob"

    def test_logout_closes_what_the_change_of_a_password_left(self) -> None:
        """It gives the session another key; the WebSocket has the old one. Another browser's session has ended by it,
        too, but is still stored, and so its WebSockets stay until somebody looks.
        """
        for path in PATHS:
            self.client.force_login(self.bob)
            with self.subTest(path), self.opened(path) as ws:
                request = RequestFactory().get("/")
                request.session, request.user = self.client.session, self.bob
                update_session_auth_hash(request, self.bob)
                logout(request)
                assert ws.receive() is None
                assert ws.close_code == 4401

    def test_login_as_somebody_else_closes(self) -> None:
        """The browser's session is another's now, and nobody has logged out. The others' stay."""
        for path in PATHS:
            self.client.force_login(self.bob)
            with self.subTest(path), self.opened(path) as ws, self.opened(path, self.bob) as there:
                request = RequestFactory().get("/")
                request.COOKIES["sessionid"] = self.client.cookies["sessionid"].value
                request.session, request.user = self.client.session, self.bob
                login(request, self.eve)
                assert ws.receive() is None
                assert (ws.close_code, ws.close_reason) == (4401, "logged out")
                there.send("who")
                assert there.receive() == "bob"

    def test_login_again_closes_nothing(self) -> None:
        """The same user, in the same browser."""
        with self.opened("/private/") as ws:
            request = RequestFactory().get("/")
            request.COOKIES["sessionid"] = self.client.cookies["sessionid"].value
            user_logged_in.send(User, request=request, user=self.bob)
            ws.send("who")
            assert ws.receive() == "bob"

    def test_deactivation_closes(self) -> None:
        """Once it is committed."""
        for path in PATHS:
            with self.subTest(path), self.opened(path) as ws:
                self.bob.is_active = False
                with self.captureOnCommitCallbacks() as callbacks:
                    self.bob.save()
                ws.send("x")
                assert ws.receive() == "AnonymousUser"
                for callback in callbacks:
                    callback()
                assert ws.receive() is None
                assert (ws.close_code, ws.close_reason) == (4401, "no longer active")
            self.bob.is_active = True
            self.bob.save()

    def test_deletion_closes(self) -> None:
        """A user that is gone."""
        with self.opened("/private/") as ws:
            with self.captureOnCommitCallbacks(execute=True):
                self.bob.delete()
            assert ws.receive() is None

    def test_ordinary_save_closes_nothing(self) -> None:
        """A login saves the user, too."""
        with self.opened("/private/") as ws:
            with self.captureOnCommitCallbacks(execute=True):
                self.bob.save()
            ws.send("who")
            assert ws.receive() == "bob"

    @override_settings(GWS={"close_on_logout": False})
    def test_setting_keeps_them_open(self) -> None:
        """On a logout and on a deactivation."""
        with self.opened("/private/") as ws:
            with self.captureOnCommitCallbacks(execute=True):
                self.bob.is_active = False
                self.bob.save()
            self.client.logout()
            ws.send("who")
            assert ws.receive() == "AnonymousUser"


class TestRefreshUser(WebSocketTestMixin, TestCase):
    client: WebSocketClient

    def setUp(self) -> None:
        self.bob = User.objects.create_user("bob", password="x")
        self.client.force_login(self.bob)

    def seen(self, change: Any) -> list[Any]:
        """Whom an attached and a detached connection see after a change."""
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
        """The user is read anew."""
        assert self.seen(lambda: User.objects.filter(pk=self.bob.pk).update(username="robert")) == ["robert"] * 2

    def test_logged_out_user_is_nobody(self) -> None:
        """The session is gone."""
        assert self.seen(self.client.logout) == ["AnonymousUser"] * 2

    def test_deactivated_user_is_nobody(self) -> None:
        """As for a request."""

        def deactivate() -> None:
            User.objects.filter(pk=self.bob.pk).update(is_active=False)

        names = self.seen(deactivate)
        User.objects.filter(pk=self.bob.pk).update(is_active=True)
        assert names == ["AnonymousUser"] * 2

    def test_changed_password_ends_it(self) -> None:
        """The session's hash does not fit any more."""

        def change() -> None:
            user = User.objects.get(pk=self.bob.pk)
            user.set_password("another")
            user.save()
            self.bob.refresh_from_db()

        with self.client.websocket("/private/") as ws:
            ws.receive()
            change()
            ws.send("who")
            assert ws.receive() == "AnonymousUser"

    def test_session_is_only_read(self) -> None:
        """When SECRET_KEY has been replaced, or the password: the browser's cookie still names what is stored."""
        key = self.client.session.session_key
        rotated = override_settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=[settings.SECRET_KEY])
        with self.client.websocket("/private/") as ws, rotated:
            ws.receive()
            ws.send("who")
            assert ws.receive() == "bob"
            assert self.client.session.session_key == key and Session.objects.filter(pk=key).exists()
        with self.client.websocket("/private/") as ws:
            ws.receive()
            self.bob.set_password("another")
            self.bob.save()
            ws.send("who")
            assert ws.receive() == "AnonymousUser"
        assert Session.objects.filter(pk=key).exists()

    def test_session_that_an_older_key_has_signed_goes_on(self) -> None:
        """Reading the user gives it another key, which the browser learns with the 101, however late the view asks."""
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
    def test_user_of_a_token_is_read_by_the_key(self) -> None:
        """No session says who it is."""
        for path in PATHS:
            with self.subTest(path), WebSocketClient().websocket(f"{path}?token={self.bob.pk}") as ws:
                assert ws.receive() == "bob"
                ws.send("who")
                assert ws.receive() == "bob"
                User.objects.filter(pk=self.bob.pk).update(is_active=False)
                ws.send("who")
                assert ws.receive() == "AnonymousUser"
            User.objects.filter(pk=self.bob.pk).update(is_active=True)

    def test_undecorated_view_finds_its_user(self) -> None:
        """By the cookie."""
        with self.client.websocket("/meta-user/") as ws:
            assert ws.receive() == "bob"

    def test_request_gets_the_new_user(self) -> None:
        """In an attached view, so that the rest of it sees the same."""
        with self.client.websocket("/private/") as ws:
            ws.receive()
            User.objects.filter(pk=self.bob.pk).update(username="robert")
            ws.send("request")
            assert ws.receive() == "robert robert"


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
PROGRAM = """
import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["gws_middleware.django", "django.contrib.auth", "django.contrib.contenttypes", "accounts"],
    AUTH_USER_MODEL="accounts.Account",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()

from types import SimpleNamespace

from accounts.models import Account
from django.core.management import call_command
from gws_middleware.django.users import Login, refresh_user

call_command("migrate", run_syncdb=True, verbosity=0)
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
PROGRAM_WITH_PROXIES = """
import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["gws_middleware.django", "django.contrib.auth", "django.contrib.contenttypes", "accounts"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    MIGRATION_MODULES={"auth": None, "contenttypes": None},
    USE_TZ=True,
)
django.setup()

from unittest.mock import patch

from accounts.models import Employee, Member
from django.core.management import call_command

call_command("migrate", run_syncdb=True, verbosity=0)
with patch("gws_middleware.django.users.close_user_sockets") as closed:
    for model in Member, Employee:
        user = model.objects.create(username=model.__name__)
        user.is_active = False
        user.save()
        user.delete()
print({call.args for call in closed.call_args_list})
"""


def test_withdrawal_of_a_proxy_or_a_child_is_one_of_the_user(tmp_path: Path) -> None:
    """Django sends the signals of a model that stands for the user model under its own name."""
    (tmp_path / "accounts").mkdir()
    (tmp_path / "accounts" / "__init__.py").touch()
    (tmp_path / "accounts" / "models.py").write_text(PROXIES)
    command = [sys.executable, "-c", PROGRAM_WITH_PROXIES]
    done = subprocess.run(
        command, cwd=tmp_path, env=package_path(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["{(1,),", "(2,)}"], done.stderr


def test_user_model_of_the_project_s_own_need_not_know_is_active(tmp_path: Path) -> None:
    """As for Django, its users are active then: they are saved and read."""
    (tmp_path / "accounts").mkdir()
    (tmp_path / "accounts" / "__init__.py").touch()
    (tmp_path / "accounts" / "models.py").write_text(ACCOUNTS)
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, cwd=tmp_path, env=package_path(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["bob", "AnonymousUser"], done.stderr


class TestLimitOfUsers(WebSocketTestMixin, TestCase):
    """``max_connections_per_user`` without a ``user_key`` of the project's: the key is the user's."""

    client: WebSocketClient

    def setUp(self) -> None:
        self.bob = User.objects.create_user("bob", password="x")
        self.eve = User.objects.create_user("eve", password="x")
        settings = override_settings(GWS={"max_connections_per_user": 1})
        settings.enable()
        self.addCleanup(settings.disable)

    def of(self, user: User) -> WebSocketClient:
        """A browser of the user's: each has a session of its own."""
        client = WebSocketClient()
        client.force_login(user)
        return client

    def ended_at_once(self, user: User, path: str) -> tuple[int | None, str | None]:
        """Code and reason of one more."""
        with self.of(user).websocket(path) as ws:
            for _ in ws:
                pass
            return ws.close_code, ws.close_reason

    def test_one_more_ends_with_1008(self) -> None:
        """Attached and detached, in whatever browser; those of others are their own."""
        for path in PATHS:
            with self.subTest(path), self.of(self.bob).websocket(path) as one:
                assert one.receive() == "bob"
                assert self.ended_at_once(self.bob, path) == (1008, "too many connections")
                with self.of(self.eve).websocket(path) as other:
                    assert other.receive() == "eve"
                one.send("who")
                assert one.receive() == "bob"

    def test_place_is_free_again_after_a_close(self) -> None:
        """Also after one that was too many, which never had a place."""
        for path in PATHS * 2:
            with self.subTest(path), self.of(self.bob).websocket(path) as ws:
                assert ws.receive() == "bob"
                self.ended_at_once(self.bob, path)
            until(lambda: not registry.current().reserved)

    def test_anonymous_visitors_are_not_counted(self) -> None:
        """They would all be one user."""
        with WebSocketClient().websocket("/who/") as one, WebSocketClient().websocket("/who/") as two:
            assert [one.receive(), two.receive()] == ["AnonymousUser"] * 2
            assert not registry.current().reserved

    def test_user_that_nobody_asked_for_is_not_counted(self) -> None:
        """That would be a query for each WebSocket."""
        with self.of(self.bob).websocket("/both/") as one, self.of(self.bob).websocket("/both/") as two:
            for ws in (one, two):
                ws.send("x")
                assert ws.receive() == "0: x"
            assert not registry.current().reserved

    def test_refused_handshake_takes_no_place(self) -> None:
        """The view looks at the user and answers with HTTP."""
        client = self.of(self.bob)
        for _ in range(2):
            with pytest.raises(WebSocketRefused), client.websocket("/permitted/"):
                pass
        assert not registry.current().reserved

    def test_key_is_the_primary_key(self) -> None:
        """No query is made to learn it."""
        with self.of(self.bob).websocket("/private/") as ws:
            ws.receive()
            (found,) = registry.current()
            with self.assertNumQueries(0):
                assert user_key(found) == self.bob.pk  # type: ignore[arg-type]


def test_websocket_without_a_request_is_nobody_s() -> None:
    """One of a view that is not decorated."""

    class Bare:
        environ: dict[str, str] = {}  # noqa: RUF012

    assert str(refresh_user(Bare())) == "AnonymousUser"  # type: ignore[arg-type]
