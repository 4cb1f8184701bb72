"""The markers that select a lane of the suite, and the check that they are true.

``real_server``
    starts a process that serves: gunicorn, runserver, a proxy. Set where the test or one of its fixtures reaches a call
    of ``Popen``.
``browser``, ``database``
    drives chromium, or starts PostgreSQL. Set where the test reaches a call of ``sync_playwright``, or has the fixture
    ``postgres``.
``slow``
    starts an interpreter of its own, or takes more than about five seconds. The first is set where the test reaches a
    call of ``subprocess.run``, the second by hand.

A test without any of them starts no process: it fails if it does. ``conftest.py`` imports the hooks, which makes them
such.
"""

from __future__ import annotations

import sys
import unittest
from collections.abc import Generator, Iterable, Iterator
from functools import cache
from inspect import isclass, isfunction, ismethod, ismodule, unwrap
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

__all__ = ["LONG", "MARKERS", "ORDER", "pytest_collection_modifyitems", "pytest_configure", "pytest_runtest_protocol"]

MARKERS = {
    "real_server": "starts a server process",
    "browser": "drives chromium",
    "database": "starts PostgreSQL, Valkey or Redis",
    "slow": "starts an interpreter of its own, or takes more than about five seconds",
}

FIXTURES = {"postgres": "database", "redis": "database", "valkey": "database"}
"""Which fixture gives which marker."""
CALLS = {"Popen": "real_server", "check_call": "slow", "check_output": "slow", "run": "slow"}
"""Which function of ``subprocess`` gives which marker."""
LONG = (
    "test_stress.py",
    "test_benchmarks.py",
    "django/test_stopped_worker.py",
    "documents/test_chat_browser.py",
    "process/test_shutdown.py",
    "hostile/test_released.py",
    "documents/test_stream.py",
    "test_middleware.py",
    "servers/test_servers.py",
    "groups/test_survey_servers.py",
    "servers/test_accesslog.py",
    "django/test_databases.py",
    "servers/test_rawsocket.py",
    "groups/test_centrifuge_clients.py",
    "process/test_site_workers.py",
    "groups/test_presence.py",
    "documents/test_chat.py",
    "django/test_admin.py",
    "documents/test_notifications.py",
    "documents/test_proxies.py",
    "test_interrupted.py",
    "hostile/test_production.py",
    "connection/test_loops.py",
    "test_leaks.py",
    "django/test_websockets_command.py",
    "django/test_runserver.py",
    "groups/test_writers.py",
)
"""Files that take half a minute or more, the longest first."""
ORDER = {Path(__file__).parents[1] / name: number for number, name in enumerate(LONG)}
OWN = ("tests.", "stress.", "benchmarks.", "gws_middleware.django.liveserver")
"""Packages whose functions are searched for these calls."""

_current: pytest.Item | None = None


# --- what a test starts ---------------------------------------------------------------------------------------------


def _names(code: CodeType) -> Iterator[str]:
    """The globals and attributes that a function uses, those of its inner functions included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _is_own(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).startswith(OWN)


def _used(function: Any, names: frozenset[str]) -> Iterator[Any]:
    """The functions and classes that a function refers to, by a global name or as the default of an argument."""
    yield from function.__defaults__ or ()
    for thing in (function.__globals__[name] for name in names if name in function.__globals__):
        if ismodule(thing) and thing.__name__.startswith(OWN):
            yield from (vars(thing)[name] for name in names if name in vars(thing))
        else:
            yield thing


def _plain(thing: Any) -> Any:
    """The function of a method, of a fixture or below a decorator."""
    if isinstance(thing, (classmethod, staticmethod)) or ismethod(thing):
        thing = thing.__func__
    return unwrap(thing) if callable(thing) else thing


@cache
def _step(thing: Any) -> tuple[frozenset[str], list[Any]]:
    """The markers for what a function or class starts itself, and the functions and classes that it refers to."""
    if isclass(thing):
        members = [member for owner in thing.__mro__ if _is_own(owner) for member in vars(owner).values()]
        return frozenset(), [_plain(member) for member in members if isfunction(_plain(member))]
    names = frozenset(_names(thing.__code__))
    starts = "subprocess" in names or "Popen" in names
    markers = {marker for call, marker in CALLS.items() if starts and call in names}
    if "sync_playwright" in names:
        markers.add("browser")
    used = [_plain(each) for each in _used(thing, names) if _is_own(each)]
    return frozenset(markers), [each for each in used if isfunction(each) or isclass(each)]


def markers_of(functions: Iterable[Any]) -> set[str]:
    """The markers for the processes that these functions start, or any function of the test code that they refer to."""
    left, seen = [_plain(function) for function in functions], set()
    markers: set[str] = set()
    while left:
        thing = left.pop()
        if thing in seen:
            continue
        seen.add(thing)
        found, used = _step(thing)
        markers |= found
        left += used
    return markers


def _functions(item: pytest.Function) -> list[Any]:
    """A test, all its fixtures, and its class if that is one of unittest, which has ``setUpClass``."""
    definitions = item._fixtureinfo.name2fixturedefs
    found = [item.function, *(each.func for several in definitions.values() for each in several)]
    if item.cls is not None and issubclass(item.cls, unittest.TestCase):
        found.append(item.cls)
    return found


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Set the markers, before ``-m`` selects by them.

    ``LONG`` comes first, in its order: one process of a run would otherwise go on for minutes after the others.
    """
    reached: dict[tuple[int, ...], set[str]] = {}
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        functions = _functions(item)
        key = tuple(map(id, functions))
        if key not in reached:
            reached[key] = markers_of(functions)
        for marker in reached[key] | {FIXTURES[name] for name in item.fixturenames if name in FIXTURES}:
            item.add_marker(marker)
    items.sort(key=lambda item: ORDER.get(item.path, len(LONG)))


# --- the check ------------------------------------------------------------------------------------------------------


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "subprocess.Popen" or _current is None:
        return
    if not any(_current.get_closest_marker(name) for name in MARKERS):
        raise AssertionError(f"{_current.nodeid} starts {arguments[1]} and has none of the markers {list(MARKERS)}")


sys.addaudithook(_audit)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let the audit hook know which test starts a process."""
    global _current
    _current = item
    try:
        return (yield)
    finally:
        _current = None
