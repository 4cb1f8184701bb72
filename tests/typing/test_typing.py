"""The types that users see: programs that mypy must accept, and lines that it must reject. One run of mypy for all."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

from ..support.servers import ROOT

HERE = Path(__file__).parent
ACCEPTED = sorted(HERE.glob("accepted*.py"))
REJECTED = sorted(HERE.glob("rejected*.py"))
EXPECTED = re.compile(r"  # error: (.+)$")
REPORTED = re.compile(r"^(?P<path>[^:]+):(?P<line>\d+): error: (?P<text>.+)$", re.MULTILINE)


@lru_cache
def reported() -> dict[Path, dict[int, str]]:
    """What mypy reports: for each file the errors by line. The options are those of pyproject.toml: strict."""
    files = [str(path.relative_to(ROOT)) for path in (*ACCEPTED, *REJECTED)]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", "--no-pretty", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert (done.returncode, done.stderr) == (1, ""), done.stdout + done.stderr
    errors: dict[Path, dict[int, str]] = {}
    for found in REPORTED.finditer(done.stdout):
        lines = errors.setdefault(ROOT / found["path"], {})
        number = int(found["line"])
        lines[number] = "\n".join(filter(None, [lines.get(number), found["text"]]))
    return errors


def expected(path: Path) -> dict[int, str]:
    """The errors that a file says of its own lines."""
    found = ((number, EXPECTED.search(line)) for number, line in enumerate(path.read_text("utf-8").splitlines(), 1))
    return {number: match[1] for number, match in found if match is not None}


@pytest.mark.parametrize("path", ACCEPTED, ids=lambda path: path.stem)
def test_program_is_accepted(path: Path) -> None:
    """No error in what the documentation shows, under ``mypy --strict``."""
    assert reported().get(path, {}) == {}


@pytest.mark.parametrize("path", REJECTED, ids=lambda path: path.stem)
def test_wrong_line_is_rejected(path: Path) -> None:
    """Each marked line is an error with the text beside it, and no other line is one."""
    errors = reported().get(path, {})
    wrong = {
        number: (errors.get(number), text)
        for number, text in expected(path).items()
        if text not in errors.get(number, "")
    }
    assert wrong == {}
    assert set(errors) == set(expected(path))
