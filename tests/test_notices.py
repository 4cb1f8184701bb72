"""The last lines of a run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gunicorn import version_info as gunicorn_version

from .support import notices
from .support.servers import ROOT


def test_untested_is_empty_where_everything_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is printed when nothing was left out."""
    monkeypatch.setattr(notices.shutil, "which", lambda name, path=None: f"/usr/bin/{name}")
    monkeypatch.setattr(notices, "find_spec", lambda name: object())
    missing = [line for line in notices.untested() if gunicorn_version >= (25,) or "HTTP/2 in gunicorn" not in line]
    assert missing == []


def test_untested_names_each_thing_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The browser, the other programs, gunicorn's C parser, its HTTP/2 and our modules in C, each with the command that
    installs it.
    """
    monkeypatch.setattr(notices.shutil, "which", lambda name, path=None: None)
    monkeypatch.setattr(notices, "find_spec", lambda name: None)
    found = [re.fullmatch(r"(.+): no (.+)\. To install: (.+)", line) for line in notices.untested()]
    assert [match and (match[2], match[3]) for match in found] == [
        ("chromium", "apt-get install chromium"),
        ("npm", "apt-get install npm"),
        ("nginx", "apt-get install nginx"),
        ("haproxy", "apt-get install haproxy"),
        ("caddy", "apt-get install caddy"),
        ("redis-server", "apt-get install redis-server"),
        ("perf", "apt-get install linux-perf"),
        ("strace", "apt-get install strace"),
        ("systemd-analyze", "apt-get install systemd"),
        ("systemd-socket-activate", "apt-get install systemd"),
        ("gunicorn_h1c", ".venv/bin/pip install 'gunicorn_h1c>=0.6.6'"),
        ("HTTP/2 in gunicorn", ".venv/bin/pip install --upgrade h2 gunicorn"),
        ("a module in C", "apt-get install gcc python3-dev && .venv/bin/python setup.py build_ext --inplace"),
    ]


def test_run_ends_with_what_was_not_tested(tmp_path: Path) -> None:
    """Without a browser on the PATH the suite's last lines say that it was not tested."""
    test = f"{__file__}::test_untested_is_empty_where_everything_is_installed"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "pytest"), test],
        cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    before, passed, after = done.stdout.partition("1 passed")
    assert passed, before + done.stderr
    # What else is missing does not depend on PATH alone.
    assert "NOT TESTED HERE: pages in a real browser: no chromium. To install: apt-get install chromium\n" in after
