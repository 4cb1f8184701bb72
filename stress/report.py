"""The output of a program: a line every ten seconds, its figures at the end, and the violations."""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gevent

from tests.support.servers import Log
from tests.support.waiting import eventually

__all__ = ["Report", "arguments_of", "milliseconds", "percentile"]

EVERY = 10.0
SHOWN = 5
"""Violations of one kind that are printed in full; all are counted."""


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of them lie; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def milliseconds(times: Sequence[float]) -> str:
    """The median, the 99th percentile and the highest of some seconds."""
    return ", ".join(f"{percentile(times, share) * 1000:.2f}" for share in (0.5, 0.99, 1))


class Report:
    """Figures and violations of one run."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.figures: dict[str, Any] = {}
        self.violations: Counter[str] = Counter()
        self._began = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def log(self, sentence: str) -> None:
        """One line, with the time."""
        print(f"{self.elapsed:7.1f} s  {sentence}", flush=True)

    def violation(self, kind: str, sentence: str) -> None:
        """Count something that must not happen: the exit status will be 1."""
        self.violations[kind] += 1
        if self.violations[kind] <= SHOWN:
            self.log(f"VIOLATION ({kind}): {sentence}")

    def eventually(
        self,
        kind: str,
        condition: Callable[[], object],
        what: str,
        seconds: float,
        state: Callable[[], object] = lambda: "it did not come",
    ) -> None:
        """Wait until ``condition()`` is true; a violation with ``state()`` when it is not in time."""
        try:
            eventually(condition, what, seconds, interval=0.05)
        except AssertionError as error:
            self.violation(kind, f"{error}: {state()}")

    def check_log(self, log: Log, expected: Sequence[str]) -> None:
        """A problem in a server's log is a violation, unless one of these patterns matches it."""
        wanted = re.compile("|".join(expected) or "(?!)", re.DOTALL).search
        problems = [one.text for one in log.problems()]
        if expected:
            found = sum(map(bool, map(wanted, problems)))
            self.figures["expected log records"] = self.figures.get("expected log records", 0) + found
        for text in problems:
            if not wanted(text):
                self.violation("log", text[:2000])

    def progress(self, line: Callable[[], str], every: float = EVERY) -> gevent.Greenlet:
        """A greenlet that prints ``line()`` every so many seconds, until it is killed."""

        def go() -> None:
            while True:
                gevent.sleep(every)
                self.log(line())

        return gevent.spawn(go)

    def run(self, options: argparse.Namespace, main: Callable[[Path], object]) -> int:
        """Call ``main`` with the folder that the options name, or one that is removed; the exit status."""
        with TemporaryDirectory() as temporary:
            main(options.directory or Path(temporary))
        return self.end(options.json)

    def end(self, file: Path | None) -> int:
        """Print everything, and write it as JSON if there is a file; the exit status."""
        print(f"\n{self.title}: {self.elapsed:.0f} s")
        width = max(map(len, self.figures), default=0)
        for name, value in self.figures.items():
            shown = f"{value:,}" if isinstance(value, int) else f"{value:,.3f}" if isinstance(value, float) else value
            print(f"  {name:{width}}  {shown}")
        for kind, count in self.violations.items():
            print(f"  VIOLATED: {kind}: {count}")
        print("  held" if not self.violations else "  NOT HELD", flush=True)
        if file is not None:
            found = {"figures": self.figures, "violations": self.violations}
            file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        return 1 if self.violations else 0


def arguments_of(name: str, doc: str | None, seconds: float | None) -> argparse.ArgumentParser:
    """The options that all programs have; ``--seconds`` not where their time is not given."""
    parser = argparse.ArgumentParser(prog=f"python -m stress {name}", description=doc)
    if seconds is not None:
        parser.add_argument("--seconds", type=float, default=seconds, help=f"how long (default {seconds:g})")
    parser.add_argument("--faults", default="", help="faults of the application, to test the program: app.py")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--directory", type=Path, help="where the server's logs go (default: one that is removed)")
    return parser
