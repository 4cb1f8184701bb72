"""The seam of the tests into ``process.registry``: a registry of the test's own in place of the process'.

The package has no function that replaces the registry of a process, because only a fork may do that.
"""

from __future__ import annotations

import pytest

from gws_middleware.process import registry
from gws_middleware.process.registry import Registry

__all__ = ["here", "make_current"]


def make_current(monkeypatch: pytest.MonkeyPatch, connections: Registry) -> Registry:
    """Until the end of the test this registry is ``registry.current()``; returns it."""
    monkeypatch.setattr(registry, "_registry", connections)
    return connections


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """An empty registry, which is that of the process until the end of the test."""
    return make_current(monkeypatch, Registry())
