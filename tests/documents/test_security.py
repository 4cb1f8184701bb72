"""docs/security.md: each row of the threat model is there, and what it names exists: tests, settings, defaults."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from functools import lru_cache

import pytest
from gunicorn.config import make_settings

from gws_middleware.django.conf import DjangoConfig

from ..support.servers import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
ROWS = re.findall(r"^### (\d+)\. (.+)\n((?:(?!^##).*\n)*)", PAGE, re.MULTILINE)
NAMED = sorted(set(re.findall(r"`(tests/[^`]+)`", PAGE)))
SETTINGS = {setting.name: setting.default for setting in fields(DjangoConfig)}
OTHERS = {"client_header_timeout", "client_body_timeout", "limit_conn", "gevent_pywsgi", "refresh_user"}
"""Names that are no settings of ours: nginx's, gunicorn's, a function's."""
DEFAULT = re.compile(r"`(\w+)` \(([^),;]+)")
GUNICORN_DEFAULT = re.compile(r"`(--[\w-]+)`[\w ]*\((\d+)")

rows = pytest.mark.parametrize(("number", "body"), [(number, body) for number, _, body in ROWS])


def part(body: str, name: str) -> str:
    """One of the points below a row's text."""
    found = re.findall(rf"^- {name}: (.*?)(?=^- |\Z)", body, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, f"{name} is there {len(found)} times"
    return str(found[0])


@lru_cache
def functions(path: str) -> set[str]:
    """The test functions of a file, those of a class after its name."""
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
    return names


def test_every_row_is_there_once() -> None:
    """The attack table has thirty-three."""
    assert sorted(int(number) for number, _, _ in ROWS) == list(range(1, 34))


@rows
def test_row_names_settings_duties_and_tests(number: str, body: str) -> None:
    """What is promised, what bounds it, what is left to the operator, and what shows it."""
    promise = body.partition("\n- ")[0].strip()
    assert promise
    assert part(body, "Bounded by")
    assert part(body, "Yours")
    assert re.findall(r"`tests/[\w/]+\.py::\w+", part(body, "Tests"))


@pytest.mark.parametrize("name", NAMED)
def test_named_test_exists(name: str) -> None:
    """A promise that no test keeps would be a wish."""
    path, _, function = name.partition("::")
    assert (ROOT / path).is_file(), path
    assert function in functions(path)


def test_named_settings_exist() -> None:
    """Ours are fields of the one table, and the options that begin with two dashes are gunicorn's."""
    names, options = set(re.findall(r"`([a-z]+_[a-z_]+)`", PAGE)), set(re.findall(r"`(--[\w-]+)`", PAGE))
    assert names - set(SETTINGS) - OTHERS == set()
    assert options - set(gunicorn_options()) == set()


@rows
def test_named_default_is_the_true_one(number: str, body: str) -> None:
    """Each of ours that stands in parentheses after its setting, and each number after an option of gunicorn's."""
    bounds, options = part(body, "Bounded by"), gunicorn_options()
    documented = {name: text.strip() for name, text in DEFAULT.findall(bounds)}
    assert documented == {name: shown(SETTINGS.get(name)) for name in documented}
    assert set(documented) == {name for name in re.findall(r"`([a-z_]+)`", bounds) if name in SETTINGS}
    numbers = dict(GUNICORN_DEFAULT.findall(bounds))
    assert numbers == {name: str(options[name]) for name in numbers}


def shown(default: object) -> str:
    """A default as the page writes it."""
    return ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)


@lru_cache
def gunicorn_options() -> dict[str, object]:
    """Each long option with its default."""
    return {
        option: setting.default
        for setting in make_settings().values()
        for option in setting.cli or ()
        if option.startswith("--")
    }
