"""A registry of the test's own in place of the process'."""

from __future__ import annotations

import pytest

from gws_middleware.process.registry import Registry

from .seam import use_registry

__all__ = ["here", "make_current"]


def make_current(monkeypatch: pytest.MonkeyPatch, connections: Registry) -> Registry:
    """Until the end of the test this registry is ``registry.current()``; returns it."""
    use_registry(monkeypatch, connections)
    return connections


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """An empty registry, which is that of the process until the end of the test."""
    return make_current(monkeypatch, Registry())
