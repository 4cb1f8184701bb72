"""The names of ``gws_middleware.django`` itself."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import gws_middleware.django as app

from .support import run_python


def test_names_are_loaded_from_their_modules() -> None:
    """Each name is the object that its module defines."""
    from gws_middleware.django import WebSocketView, accept_websocket, close_user_sockets, require_websocket

    names = [WebSocketView, accept_websocket, close_user_sockets, require_websocket]
    assert [name.__name__ for name in names] == sorted(app.__all__)
    for name, module in app._MODULES.items():
        assert getattr(app, name) is getattr(importlib.import_module(f"gws_middleware.django.{module}"), name)


def test_type_checkers_see_the_same_modules() -> None:
    """The imports under ``if TYPE_CHECKING`` are those of the run time."""
    tree = ast.parse(Path(app.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    assert {alias.name: node.module for node in imports for alias in node.names} == app._MODULES


def test_dir_lists_the_public_names() -> None:
    """Also those that have not been loaded yet."""
    assert dir(app) == sorted(app.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    """As for any module, so that ``hasattr`` and Django's search for submodules work."""
    with pytest.raises(AttributeError, match=r"module 'gws_middleware\.django' has no attribute 'WebsocketView'"):
        app.WebsocketView  # type: ignore[attr-defined]  # noqa: B018


LOADED = """
import sys
import gws_middleware.django
assert "django" not in sys.modules
from gws_middleware.django import accept_websocket
import django.apps
assert not django.apps.apps.ready
"""


def test_import_of_the_package_loads_nothing() -> None:
    """Django imports it before any app is ready. Names can be imported before ``django.setup()``."""
    done = run_python(LOADED)
    assert done.returncode == 0, done.stderr
