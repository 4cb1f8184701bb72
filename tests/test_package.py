"""The package itself: its names, its version and its marker for type checkers."""

from __future__ import annotations

import ast
import importlib
import re
from importlib.resources import files
from pathlib import Path

import pytest

import gws_middleware

ROOT = Path(__file__).parents[1]


def test_names_are_loaded_from_their_homes() -> None:
    """Each name of ``__all__`` is the object that its module defines, not a copy."""
    homes = {
        name: getattr(importlib.import_module(f"gws_middleware.{home}"), name)
        for name, home in gws_middleware._HOMES.items()
    }
    assert {name: getattr(gws_middleware, name) for name in homes} == homes
    assert sorted([*homes, "__version__"]) == sorted(gws_middleware.__all__)


def test_type_checkers_see_the_same_homes() -> None:
    """What is imported under ``if TYPE_CHECKING`` is what is loaded at run time."""
    tree = ast.parse(Path(gws_middleware.__file__).read_text())
    seen = {
        alias.name: str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    assert seen == gws_middleware._HOMES


def test_star_import_gives_the_public_names() -> None:
    """For an interactive session."""
    namespace: dict[str, object] = {}
    exec("from gws_middleware import *", namespace)
    assert set(gws_middleware.__all__) <= set(namespace)


def test_dir_lists_the_public_names() -> None:
    """Also those that have not been loaded yet."""
    assert dir(gws_middleware) == sorted(gws_middleware.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    """With the usual sentence, so that ``hasattr`` and friends work."""
    with pytest.raises(AttributeError, match="module 'gws_middleware' has no attribute 'Websocket'"):
        gws_middleware.Websocket  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(gws_middleware, "websockets")


def test_version_is_the_distributions() -> None:
    """One number in two places, kept equal."""
    (version,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert gws_middleware.__version__ == version
    assert re.fullmatch(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?", version)


def test_package_is_marked_as_typed() -> None:
    """PEP 561: an installed package's annotations count only with this file."""
    assert files(gws_middleware).joinpath("py.typed").is_file()
