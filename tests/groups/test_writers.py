"""The program ``writers``, which can also be run for longer by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .child import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_killed_writers_lose_nothing(tmp_path: Path) -> None:
    """A thousand of them, and two hundred that begin a log. Every acknowledged message is there once and in order, and
    three readers have the same order.
    """
    command = [sys.executable, "-m", "tests.groups.writers", "1000", tmp_path]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    result = json.loads(ended.stdout)
    assert (result["kills"], result["problems"]) == (1000, [])
    assert result["acknowledged"] > 1000
