"""Django in the pytest process: set up once, and its adapter installed for the tests of this folder alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import django
import pytest
from django.core.management import call_command
from django.test.utils import setup_test_environment, teardown_test_environment

from gws_middleware import hooks as adapter
from gws_middleware.django.test import WebSocketClient

from .runserver import Runserver, running, start_project

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.django.project.settings"
django.setup()
del os.environ["DJANGO_SETTINGS_MODULE"]  # programs that other tests start have settings of their own
DJANGO = adapter.current()
adapter.install(adapter.Adapter())


@pytest.fixture(scope="package", autouse=True)
def environment() -> Iterator[None]:
    """What Django's test runner sets up, with SQLite in memory."""
    setup_test_environment()
    call_command("migrate", verbosity=0)
    yield
    teardown_test_environment()


@pytest.fixture
def client() -> WebSocketClient:
    """A client with cookies of its own."""
    return WebSocketClient()


@pytest.fixture(autouse=True)
def django_adapter() -> Iterator[None]:
    """The adapter that ``django.setup()`` installed."""
    adapter.install(DJANGO)
    yield
    adapter.install(adapter.Adapter())


@pytest.fixture(scope="module")
def started_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh project for the tests of one module."""
    folder = tmp_path_factory.mktemp("project")
    start_project(folder)
    return folder


@pytest.fixture
def fresh_project(started_project: Path, tmp_path: Path) -> Path:
    """A copy that one test may change."""
    return Path(shutil.copytree(started_project, tmp_path / "project"))


@pytest.fixture(scope="module")
def runserver(started_project: Path) -> Iterator[Runserver]:
    """A ``runserver`` with the reloader, for tests that change nothing."""
    with running(started_project, "0") as server:
        yield server
