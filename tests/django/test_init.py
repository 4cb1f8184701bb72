"""The names of ``gws_middleware.django`` itself."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import gws_middleware.django as app
from tests.support.programs import run_python


def test_names_are_loaded_from_the_modules_that_type_checkers_see() -> None:
    """Those of the imports under ``if TYPE_CHECKING``. Each name is the object that its module defines."""
    tree = ast.parse(Path(app.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    modules = {alias.name: f"{app.__name__}.{node.module}" for node in imports for alias in node.names}
    assert sorted(modules) == sorted(app.__all__)
    for name, module in modules.items():
        assert getattr(app, name) is getattr(importlib.import_module(module), name)
        assert getattr(app, name).__module__ == module


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
    done = run_python("-c", LOADED)
    assert done.returncode == 0, done.stderr
