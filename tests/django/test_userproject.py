"""The test tools in a project of a user's: with ``manage.py test`` and with pytest-django."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.programs import run_python

SETTINGS = """
INSTALLED_APPS += ["mine"]
INSTALLED_APPS.insert(0, "gws_middleware.django")
LOGIN_URL = "/login/"
DATABASES["default"]["TEST"] = {"NAME": BASE_DIR / "test.sqlite3"}
"""
URLS = """
from mine import views
urlpatterns += [path("ws/", views.names)]
"""
VIEWS = """
from django.contrib.auth.models import User
from django.db import connection
from gws_middleware.django.decorators import require_websocket


@require_websocket
def names(request):
    for message in request.websocket:
        if message == "fail":
            raise LookupError("the view has failed")
        User.objects.create(username=message)
        names = list(User.objects.order_by("pk").values_list("username", flat=True))
        connection.close()  # as views do that wait for long; the test's is in a transaction
        request.websocket.send(",".join(names))
"""
TESTS = """
from django.contrib.auth.models import User
from django.test import TestCase, TransactionTestCase
from urllib.request import urlopen
from websockets.sync.client import connect

from gws_middleware.django.liveserver import WebSocketLiveServerTestCase
from gws_middleware.django.test import WebSocketTestMixin


class TransactionTest(WebSocketTestMixin, TransactionTestCase):
    def test_writes_are_seen(self):
        User.objects.create(username="ours")
        with self.client.websocket("/ws/") as ws:
            ws.send("theirs")
            self.assertEqual(ws.receive(), "ours,theirs")
        self.assertEqual(User.objects.count(), 2)


class FirstTest(WebSocketTestMixin, TestCase):
    @classmethod
    def setUpTestData(cls):
        User.objects.create(username="data")

    def test_one(self):
        with self.client.websocket("/ws/") as ws:
            ws.send("one")
            self.assertEqual(ws.receive(), "data,one")

    def test_two(self):
        with self.client.websocket("/ws/") as ws:
            ws.send("two")
            self.assertEqual(ws.receive(), "data,two")


class LiveTest(WebSocketLiveServerTestCase):
    def test_databases_are_one(self):
        User.objects.create(username="ours")
        with connect(self.live_server_ws_url + "/ws/", proxy=None, origin=self.live_server_url) as ws:
            ws.send("theirs")
            self.assertEqual(ws.recv(), "ours,theirs")
        self.assertEqual(User.objects.count(), 2)

    def test_static_files_are_served(self):
        with urlopen(self.live_server_url + "/static/mine/style.css") as response:
            self.assertEqual(response.read(), b"body {}")
"""
FAILING = """
from django.test import TestCase
from gws_middleware.django.test import WebSocketTestMixin


class FailingTest(WebSocketTestMixin, TestCase):
    def test_view_that_fails(self):
        with self.client.websocket("/ws/") as ws:
            ws.send("fail")
            self.assertEqual(ws.receive(), "an answer")
"""
PYTEST = """
import pytest
from django.contrib.auth.models import User
from gws_middleware.django.test import WebSocketClient


@pytest.fixture
def client():
    return WebSocketClient()


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["one", "two"])
def test_in_a_transaction(client, name):
    with client.websocket("/ws/") as ws:
        ws.send(name)
        assert ws.receive() == name


@pytest.mark.django_db(transaction=True)
def test_with_transactions(client):
    User.objects.create(username="ours")
    with client.websocket("/ws/") as ws:
        ws.send("theirs")
        assert ws.receive() == "ours,theirs"
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``django-admin`` makes, and a little more."""
    folder = tmp_path_factory.mktemp("user")
    for command in (("startproject", "mysite", "."), ("startapp", "mine")):
        made = run_python("-m", "django", *command, folder=folder)
        assert made.returncode == 0, made.stderr
    for name, more in (("settings.py", SETTINGS), ("urls.py", URLS)):
        with (folder / "mysite" / name).open("a") as file:
            file.write(more)
    (folder / "mine" / "views.py").write_text(VIEWS)
    (folder / "mine" / "tests.py").write_text(TESTS)
    (folder / "mine" / "failing.py").write_text(FAILING)
    (folder / "test_by_pytest.py").write_text(PYTEST)
    style = folder / "mine" / "static" / "mine" / "style.css"
    style.parent.mkdir(parents=True)
    style.write_text("body {}")
    return folder


@pytest.mark.parametrize("options", [(), ("--parallel", "2")])
def test_manage_py_test_passes(project: Path, options: tuple[str, ...]) -> None:
    """One process, and several with a database each: the live server finds the one of its own."""
    done = run_python("-W", "error::ResourceWarning", "manage.py", "test", *options, folder=project)
    assert done.returncode == 0, done.stderr
    assert "Ran 5 tests" in done.stderr
    assert "Exception ignored" not in done.stderr


def test_exception_of_a_view_fails_the_test(project: Path) -> None:
    """The view's exception is what the test fails with, and its cause is what the test saw."""
    done = run_python("manage.py", "test", "mine.failing", folder=project)
    assert done.returncode == 1
    assert "LookupError: the view has failed" in done.stderr
    assert "AssertionError: None != 'an answer'" in done.stderr
    assert "FAILED (errors=1)" in done.stderr


def test_pytest_django_passes(project: Path) -> None:
    """With the fixture of the documentation, and with the test classes."""
    done = run_pytest(project, "test_by_pytest.py", "mine/tests.py")
    assert done.returncode == 0, done.stdout
    assert "8 passed" in done.stdout


def test_exception_of_a_view_fails_the_test_of_pytest_django(project: Path) -> None:
    """The same, in one test."""
    done = run_pytest(project, "mine/failing.py")
    assert done.returncode == 1
    assert "AssertionError: None != 'an answer'" in done.stdout
    assert re.search("^E +LookupError: the view has failed$", done.stdout, re.MULTILINE)
    assert "FAILED mine/failing.py::FailingTest::test_view_that_fails - LookupError: " in done.stdout
    assert "1 failed in" in done.stdout


def run_pytest(project: Path, *files: str) -> subprocess.CompletedProcess[str]:
    """Without any other setting."""
    return run_python(
        "-m", "pytest", "-p", "no:cacheprovider", "-Werror", "--ds=mysite.settings", *files, folder=project
    )
