"""Two revisions of this project in one run: ``python -m benchmarks.compare REVISION``, or ``make bench-compare REV=…``.

The revision is taken from git and built in a directory of its own. Both servers run with the ``benchmarks`` of this
checkout and take turns, so that other load of the machine affects both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from . import echo
from .launch import ROOT, SERVERS
from .report import render_comparison
from .results import Report, names
from .scenarios import SCENARIOS

__all__ = ["RevisionError", "built", "main"]

DEFAULT_SCENARIOS = (
    *("100x64B", "100x64B/16", "100x4KiB", "100x16KiB", "4x1MiB", "cycle", "fanout", "groups"),
    *("idle", "idle-django", "idle-detached"),
)
ROUNDS = 7
BEFORE = "before"


class RevisionError(Exception):
    """The revision could not be built; the text says why."""


def main(
    revision: str, scale: float = 1.0, scenarios: Sequence[str] = DEFAULT_SCENARIOS, rounds: int | None = None
) -> Report:
    """Measure this checkout as "ours" and the revision as ``BEFORE``.

    Raises:
        RevisionError: git does not know the revision, or it cannot be built.

    """
    with built(revision) as root:
        servers = {
            BEFORE: replace(SERVERS["ours"], name=BEFORE, root=root, stands_for="ours"),
            "ours": SERVERS["ours"],
        }
        return echo.main(scale, list(servers), scenarios, rounds or (ROUNDS if scale >= 0.1 else 1), servers)


@contextmanager
def built(revision: str) -> Iterator[Path]:
    """A directory for a ``with`` block, with the package of the revision and the benchmarks of this checkout."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        paths = ("gws_middleware", "setup.py", "pyproject.toml", "README.md", "LICENSE")
        archive = _run(["git", "archive", revision, *paths], ROOT)
        with tarfile.open(fileobj=BytesIO(archive)) as files:
            files.extractall(root, filter="data")
        _run([sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], root)
        (root / "benchmarks").symlink_to(ROOT / "benchmarks")
        yield root


def _run(command: Sequence[str], directory: Path) -> bytes:
    done = subprocess.run(command, cwd=directory, capture_output=True, check=False)
    if done.returncode:
        raise RevisionError(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def run(arguments: Sequence[str] | None = None) -> int:
    """The command line. The exit status is 1 when a server has failed or the revision cannot be built, never for a
    figure.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("revision", help="as git names it: a hash, a branch, HEAD~1")
    parser.add_argument("--scale", type=float, default=1.0, help="1 for figures, 0.01 to see that it works")
    parser.add_argument("--scenarios", type=lambda text: names(text, SCENARIOS), default=list(DEFAULT_SCENARIOS))
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}, or 1 below scale 0.1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    options = parser.parse_args(arguments)
    try:
        report = main(options.revision, options.scale, options.scenarios, options.rounds)
    except RevisionError as error:
        print(error, file=sys.stderr)
        return 1
    print(render_comparison(report, BEFORE, options.revision), end="")
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=1, ensure_ascii=False) + "\n")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(run())
