"""What this machine could not test, said where nobody can miss it: in the last lines of the run.

``conftest.py`` imports the hook, which makes it one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from importlib.util import find_spec

import pytest

__all__ = ["EXTENSIONS", "find", "find_chromium", "gunicorn_speaks_http2", "pytest_sessionfinish", "untested"]

EXTENSIONS = [
    "gws_middleware.connection._channel",
    "gws_middleware.connection._fastpath",
    "gws_middleware.protocol._speedups",
]
"""What is built where there is a C compiler."""

PROGRAMS = {
    "nginx": "examples/deploy/nginx.conf",
    "haproxy": "examples/deploy/haproxy.cfg",
    "caddy": "examples/deploy/Caddyfile",
    "systemd-analyze": "the settings of the systemd units",
    "systemd-socket-activate": "socket activation",
}
"""What is tested with a program of somebody else's."""


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


def untested() -> list[str]:
    """One sentence for each thing that is tested only where it is installed."""
    sentences = []
    if find_chromium() is None:
        sentences.append("the example's page in a real browser: chromium was not found")
    sentences += [f"{what}: {program} was not found" for program, what in PROGRAMS.items() if find(program) is None]
    if find_spec("gunicorn_h1c") is None:
        sentences.append("gunicorn's C parser: gunicorn_h1c is not installed")
    if not gunicorn_speaks_http2():
        sentences.append("handshakes inside of HTTP/2: h2 is not installed, or gunicorn is too old")
    unbuilt = [name for name in EXTENSIONS if find_spec(name) is None]
    if unbuilt:
        sentences.append(f"the C speedups: not built: {', '.join(unbuilt)}")
    return sentences


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Outermost wrapper of the end, so that it comes behind the summary and its "passed" line."""
    result = yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        for sentence in untested():
            reporter.write_line(f"NOT TESTED HERE: {sentence}", yellow=True, bold=True)
    return result
