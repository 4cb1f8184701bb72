"""What this machine could not test, and how to install what is missing: the last lines of every run.

``conftest.py`` imports the hook, which makes it one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator
from importlib.util import find_spec
from typing import NamedTuple

import pytest

__all__ = ["EXTENSIONS", "find", "find_chromium", "gunicorn_speaks_http2", "pytest_sessionfinish", "untested"]

EXTENSIONS = [
    "gws_middleware.connection._channel",
    "gws_middleware.connection._fastpath",
    "gws_middleware.protocol._speedups",
]
"""What is built where there is a C compiler."""


def find(program: str) -> str | None:
    """Where a program is, or None where there is none. Debian has some where only root looks."""
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))


def find_chromium() -> str | None:
    """The browser that test_browser drives, or None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def gunicorn_speaks_http2() -> bool:
    """Whether gunicorn has HTTP/2 and finds the package for it."""
    from gunicorn.config import Config

    return "http_protocols" in Config().settings and find_spec("h2") is not None


def unbuilt() -> list[str]:
    """The modules in C that are not there."""
    return [name for name in EXTENSIONS if find_spec(name) is None]


class Need(NamedTuple):
    """Something that is tested only where it is installed."""

    name: str
    what: str
    """The tests that use it."""
    is_there: Callable[[], object]
    install: str
    """The command that installs it."""


def _program(name: str, what: str, package: str) -> Need:
    return Need(name, what, lambda: find(name), f"apt-get install {package}")


NEEDS = [
    Need("chromium", "pages in a real browser", find_chromium, "apt-get install chromium"),
    _program("npm", "Centrifuge's client for JavaScript", "npm"),
    _program("nginx", "examples/deploy/nginx.conf", "nginx"),
    _program("haproxy", "examples/deploy/haproxy.cfg", "haproxy"),
    _program("caddy", "examples/deploy/Caddyfile", "caddy"),
    _program("redis-server", "groups on Debian's Redis, and by TLS", "redis-server"),
    _program("perf", "benchmarks.profile", "linux-perf"),
    _program("strace", "benchmarks.profile", "strace"),
    _program("systemd-analyze", "the settings of the systemd units", "systemd"),
    _program("systemd-socket-activate", "socket activation", "systemd"),
    Need(
        "gunicorn_h1c",
        "gunicorn's C parser",
        lambda: find_spec("gunicorn_h1c"),
        ".venv/bin/pip install 'gunicorn_h1c>=0.6.6'",
    ),
    Need(
        "HTTP/2 in gunicorn",
        "handshakes inside of HTTP/2",
        gunicorn_speaks_http2,
        ".venv/bin/pip install --upgrade h2 gunicorn",
    ),
    Need(
        "a module in C",
        "the fast path in C",
        lambda: not unbuilt(),
        "apt-get install gcc python3-dev && .venv/bin/python setup.py build_ext --inplace",
    ),
]


def untested() -> list[str]:
    """One line for each thing that is tested only where it is installed, and is not."""
    return [f"{need.what}: no {need.name}. To install: {need.install}" for need in NEEDS if not need.is_there()]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Write these lines after the summary. The outermost wrapper of the end comes after its "passed" line."""
    result = yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        for line in untested():
            reporter.write_line(f"NOT TESTED HERE: {line}", yellow=True, bold=True)
    return result
