"""Django in the pytest process: set up once, and its adapter installed for the tests of this folder alone."""

from __future__ import annotations

import os
from collections.abc import Iterator

import django
import pytest
from django.core.management import call_command
from django.test.utils import setup_test_environment, teardown_test_environment

from gws_middleware import hooks as adapter
from gws_middleware.django.test import WebSocketClient

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
    """Somebody with a browser of their own."""
    return WebSocketClient()


@pytest.fixture(autouse=True)
def django_adapter() -> Iterator[None]:
    """Django's, as ``django.setup()`` installed it."""
    adapter.install(DJANGO)
    yield
    adapter.install(adapter.Adapter())
