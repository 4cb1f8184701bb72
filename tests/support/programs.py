"""Python programs in interpreters of their own, which import the package that is tested."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .inprocess import package_path
from .servers import ROOT

__all__ = ["IGNORE_WARNINGS", "environment", "run_pytest", "run_python"]

TIMEOUT = 100.0
IGNORE_WARNINGS = {"PYTHONWARNINGS": "ignore"}
"""For a program that other packages make warn."""


def environment(*paths: Path) -> dict[str, str]:
    """The environment of such an interpreter: warnings are errors, and what pytest and Django have set here is missing.

    PYTHONPATH has the tested package first, then this repository, then ``paths``.
    """
    left_out = ("DJANGO_", "PYTEST_", "RUN_MAIN")
    inherited = {name: value for name, value in package_path().items() if not name.startswith(left_out)}
    return {**inherited, "PYTHONPATH": os.pathsep.join([inherited["PYTHONPATH"], str(ROOT), *map(str, paths)])}


def run_python(
    *arguments: str,
    folder: Path = ROOT,
    paths: Iterable[Path] = (),
    env: Mapping[str, str] | None = None,
    stdin: str = "",
) -> subprocess.CompletedProcess[str]:
    """``python arguments`` in a folder, until its end."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**environment(*paths), **(env or {})},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def run_pytest(folder: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """``python -m pytest -q arguments`` in a folder; ``options`` are those of ``run_python``."""
    return run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, folder=folder, **options)
