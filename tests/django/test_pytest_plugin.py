"""The pytest plugin, in separate runs of pytest with and without pytest-django."""

from __future__ import annotations

from pathlib import Path

from tests.support.programs import IGNORE_WARNINGS, run_pytest

WITH_DJANGO = """
import pytest
from django.test import Client

from gws_middleware.django.test import WebSocketClient


class OwnClient(Client):
    pass


@pytest.fixture
def own_client():
    return OwnClient()


@pytest.fixture
def member_client(client, django_user_model):
    client.force_login(django_user_model.objects.create_user("ada"))
    yield client


def test_websocket_client(websocket_client):
    with websocket_client.websocket("/both/3/") as ws:
        ws.send("x")
        assert ws.receive() == "3: x"


def test_client(client):
    assert client.get("/both/").content == b"http None"
    with client.websocket("/both/3/") as ws:
        ws.send("x")
        assert ws.receive() == "3: x"


def test_admin_client(admin_client):
    with admin_client.websocket("/private/") as ws:
        assert ws.receive() == "admin"


@pytest.mark.django_db
def test_fixture_of_the_project(member_client):
    with member_client.websocket("/users/") as ws:
        ws.send("count")
        assert ws.receive() == "1"


def test_client_of_another_class(own_client):
    assert not isinstance(own_client, WebSocketClient)
"""

GROUPS = """
import pytest

from gws_middleware.django import groups


@pytest.mark.parametrize("test", [1, 2])
def test_groups_are_empty(client, test):
    with client.websocket("/groups/room.1/") as ws:
        ws.receive()
        ws.send("x")
        assert ws.receive() == "x"
    assert [publication.data for publication in groups.history("room.1")] == ["x"]


@pytest.mark.django_db
def test_commit(client, django_capture_on_commit_callbacks):
    with client.websocket("/groups/room.1/") as ws:
        ws.receive()
        ws.send("at once")
        assert ws.receive() == "at once"
        with django_capture_on_commit_callbacks(execute=True):
            ws.send("in a transaction")
            ws.send("at once")
            assert ws.receive() == "at once"
        assert ws.receive() == "in a transaction"
"""

WITHOUT_DJANGO = """
import sys

import pytest


@pytest.fixture
def client():
    return object()


def test_client(client):
    assert type(client) is object


def test_nothing_is_loaded():
    assert {"django", "gevent"} & set(sys.modules) == set()
"""


def run(folder: Path, text: str, *options: str, **env: str) -> str:
    """The output of pytest for a module with this text."""
    (folder / "test_module.py").write_text(text)
    return run_pytest(folder, *options, env={**IGNORE_WARNINGS, **env}).stdout


def test_clients_of_pytest_django_open_websockets(tmp_path: Path) -> None:
    """``client``, ``admin_client`` and fixtures that use them. ``websocket_client`` works without them."""
    out = run(tmp_path, WITH_DJANGO, DJANGO_SETTINGS_MODULE="tests.django.project.settings")
    assert "5 passed" in out, out


def test_groups_are_those_of_one_test(tmp_path: Path) -> None:
    """In memory, and empty at its beginning. What waits for a commit can be captured."""
    env = {"DJANGO_SETTINGS_MODULE": "tests.django.project.settings", "GWS": '{"groups": {"history": {"room": {}}}}'}
    assert "3 passed" in (out := run(tmp_path, GROUPS, **env)), out


def test_project_without_django_is_not_changed(tmp_path: Path) -> None:
    """The plugin is loaded in every run where the package is installed."""
    assert "2 passed" in (out := run(tmp_path, WITHOUT_DJANGO, "-p", "no:django")), out
