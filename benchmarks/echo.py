"""The command of the benchmark: ``python -m benchmarks.echo``, or ``main(scale)`` from a test.

All servers are measured in one run and take turns, so that other load of the machine affects all of them. The server
has one core for itself, and the load generator another.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .frames import WrongReplyError
from .kinds import Scale, Scenario
from .launch import SERVERS, Fleet, Server, ServerError
from .meters import Cores, allow_files, pinned, too_many_files
from .page import page
from .report import render
from .results import Report, environment, names
from .scenarios import SCENARIOS

__all__ = ["DEFAULT_SERVERS", "USUAL_SCENARIOS", "Progress", "main", "open_files"]

DEFAULT_SERVERS = (
    *("ours", "ours-4", "ours-redis", "ours-redis-4", "gevent-websocket", "uvicorn", "gunicorn-asgi", "granian"),
    *("picows", "bun", "channels"),
)

USUAL_SCENARIOS = tuple(name for name, scenario in SCENARIOS.items() if not scenario.long)
_SPARE_FILES = 500


def main(
    scale: float = 1.0,
    servers: Sequence[str] = DEFAULT_SERVERS,
    scenarios: Sequence[str] = USUAL_SCENARIOS,
    rounds: int | None = None,
    known: Mapping[str, Server] = SERVERS,
) -> Report:
    """Measure, and return the results. ``scale`` 1 takes minutes; 0.01 takes seconds and does one round. ``known`` has
    the servers by their names.
    """
    rounds = rounds or (3 if scale >= 0.1 else 1)
    absent = {name: reason for name in servers if (reason := known[name].absence())}
    absent |= {name: reason for name in scenarios if (reason := SCENARIOS[name].absence())}
    absent |= {name: reason for name in scenarios if (reason := too_many_files(open_files(name, scale)))}
    present = [name for name in servers if name not in absent]
    scenarios = [name for name in scenarios if name not in absent]
    cores = Cores()
    report = Report(scale, rounds, present, scenarios, absent, cores.apart, environment())
    allow_files(max((open_files(name, scale) for name in scenarios), default=0))
    with pinned(cores.load), Fleet(cores) as fleet, Progress() as progress:
        for number in range(rounds):
            for scenario in (SCENARIOS[name] for name in scenarios):
                for name in _in_turn(present, number):
                    progress.show(f"round {number + 1}/{rounds}: {scenario.title}: {name}")
                    _measure(report, fleet, scenario, known[name])
    return report


def open_files(scenario: str, scale: float) -> int:
    """The open files of a process that has all connections of a scenario, and some before them."""
    found = SCENARIOS[scenario]
    connections = getattr(found, "connections", 1) + getattr(found, "idle", 0)
    return _SPARE_FILES + round(1.2 * Scale(scale).connections(connections))


def _in_turn(servers: Sequence[str], number: int) -> Sequence[str]:
    """All servers, each round beginning with another one."""
    first = number % len(servers) if servers else 0
    return [*servers[first:], *servers[:first]]


def _measure(report: Report, fleet: Fleet, scenario: Scenario, server: Server) -> None:
    """Add one sample. A server that fails is reported as FAILED, and the others are measured."""
    if not scenario.takes(server):
        return
    result = report.result(scenario.name, server.name)
    if result.failure:
        return
    try:
        result.samples.append(scenario.measure(fleet, server, Scale(report.scale)))
    except (WrongReplyError, ServerError, OSError) as error:
        result.failure = f"{type(error).__name__}: {error}"
        fleet.drop(server, scenario.mode)


class Progress:
    """The progress on stderr: one line that is overwritten on a terminal, nothing elsewhere."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def show(self, text: str) -> None:
        if self._on:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    def __exit__(self, *error: object) -> None:
        self.show("")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.echo", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="1 for figures, 0.01 to see that it works")
    parser.add_argument("--servers", type=lambda text: names(text, SERVERS), default=list(DEFAULT_SERVERS))
    parser.add_argument("--scenarios", type=lambda text: names(text, SCENARIOS), default=list(USUAL_SCENARIOS))
    parser.add_argument("--rounds", type=int, help="default 3, or 1 below scale 0.1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report there as a page with charts")
    return parser.parse_args(arguments)


def run(arguments: Sequence[str] | None = None) -> int:
    """The command line. The exit status is 1 when a server has failed in a scenario, never for a figure."""
    options = _arguments(arguments)
    report = main(options.scale, options.servers, options.scenarios, options.rounds)
    print(render(report), end="")
    if options.html:
        options.html.write_text(page(report), "utf-8")
        print(f"\nOpen {options.html}")
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=1, ensure_ascii=False) + "\n")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(run())
