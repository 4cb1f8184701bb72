"""The last lines of a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .support import notices
from .support.servers import ROOT


def test_untested_is_empty_where_everything_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said when nothing was left out."""
    monkeypatch.setattr(notices.shutil, "which", lambda name, path=None: f"/usr/bin/{name}")
    monkeypatch.setattr(notices, "find_spec", lambda name: object())
    assert notices.untested() == []


def test_untested_names_each_thing_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The browser, other programs, gunicorn's C parser, its HTTP/2 and our C extension are told one by one."""
    monkeypatch.setattr(notices.shutil, "which", lambda name, path=None: None)
    monkeypatch.setattr(notices, "find_spec", lambda name: None)
    assert [sentence.partition(":")[0] for sentence in notices.untested()] == [
        "the example's page in a real browser",
        "examples/deploy/nginx.conf",
        "examples/deploy/haproxy.cfg",
        "examples/deploy/Caddyfile",
        "the settings of the systemd units",
        "socket activation",
        "gunicorn's C parser",
        "handshakes inside of HTTP/2",
        "the C speedups",
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
    # What may be there or not, wherever PATH leads.
    elsewhere = ["C parser", "HTTP/2", "C speedups", *notices.PROGRAMS]
    *_, passed, last = [line for line in done.stdout.splitlines() if not any(word in line for word in elsewhere)]
    assert "1 passed" in passed, done.stdout + done.stderr
    assert last == "NOT TESTED HERE: the example's page in a real browser: chromium was not found"
