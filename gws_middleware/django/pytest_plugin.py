"""The plugin that pytest loads by itself: WebSockets in the clients of pytest-django, and a client of ours.

It is loaded in every run of pytest where the package is installed, so it imports nothing of Django before a fixture
does.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from importlib import import_module
from typing import Any

import pytest

__all__ = ["pytest_fixture_setup", "websocket_client"]


@pytest.fixture
def websocket_client() -> Any:
    """A ``gws_middleware.django.test.WebSocketClient``."""
    return _clients().WebSocketClient()


@pytest.hookimpl(hookwrapper=True)
def pytest_fixture_setup() -> Generator[None, Any, None]:
    """Make a ``WebSocketClient`` of each ``django.test.Client`` that a fixture returns, as ``client`` and
    ``admin_client`` of pytest-django do.
    """
    outcome = yield
    django = sys.modules.get("django.test.client")
    if django is None or outcome.excinfo is not None:
        return
    value = outcome.get_result()
    if type(value) is django.Client:
        value.__class__ = _clients().WebSocketClient


def _clients() -> Any:
    return import_module(f"{__package__}.test")
