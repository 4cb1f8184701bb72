"""Writers that are killed at random instants: the program that users of the suite can run for longer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from . import writers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
if sys.version_info >= (3, 12):  # which warns of forks beside threads; gevent has some
    pytestmark.append(pytest.mark.filterwarnings("ignore::DeprecationWarning"))


def test_a_thousand_killed_writers_lose_nothing(tmp_path: Path) -> None:
    """Every acknowledged message is there once and in order, and three readers have the same order."""
    result = writers.run(tmp_path / "log", 1000)
    assert result.acknowledged > 1000
    assert result.problems == []


def test_writers_killed_while_they_begin_a_log_leave_a_usable_one(tmp_path: Path) -> None:
    """The other one, which begins it at the same time, publishes all that it wants."""
    assert writers.begin(tmp_path, 200) == []
