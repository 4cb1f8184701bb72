"""The pytest plugin: WebSockets in the test clients of pytest-django, the fixture ``websocket_client``, and groups that
are empty when a test begins.

Rule: pytest loads this plugin in every run where the package is installed, so it imports nothing of Django before a
fixture does.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from importlib import import_module
from typing import Any

import pytest

__all__ = ["pytest_fixture_setup", "pytest_runtest_setup", "websocket_client"]


@pytest.fixture
def websocket_client() -> Any:
    """A new ``gws_middleware.django.test.WebSocketClient``."""
    return _test_module().WebSocketClient()


@pytest.hookimpl(hookwrapper=True)
def pytest_fixture_setup() -> Generator[None, Any, None]:
    """Turn each ``django.test.Client`` that a fixture returns, e.g. pytest-django's ``client`` and ``admin_client``,
    into a ``WebSocketClient``.
    """
    outcome = yield
    django = sys.modules.get("django.test.client")
    if django is None or outcome.excinfo is not None:
        return
    value = outcome.get_result()
    if type(value) is django.Client:
        value.__class__ = _test_module().WebSocketClient


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Let no test have members and messages of groups of another one."""
    instance = sys.modules.get(f"{__package__}.instance")
    if instance is not None:
        instance.begin_test()


def _test_module() -> Any:
    return import_module(f"{__package__}.test")
