"""The cases of the Autobahn test suite, all 517: what RFC 6455 and RFC 7692 require of a server, seen from a client.

The suite's program ``wstest`` is of Python 2.7, so it is not among what this project installs: see stress/README.md.

Three servers echo: one without compression for the cases of RFC 6455, and one for each way to compress for those of
RFC 7692. The exit status is 1 when a case has not passed, when one was not run, or when a server logs a problem.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gevent

from .gunicorn import run_gunicorn, without_pings
from .report import Report, arguments_of

PASSED = {"OK", "INFORMATIONAL"}
"""What the suite's report has for a case that has passed; three cases only inform, by their definition."""
LARGEST = 2**24
"""Bytes of the largest message of the suite."""
STUCK = 120.0
"""Seconds in which the suite's client has to write a line."""
_BEGUN = re.compile(r"Running test case ID (\S+)")


class Part(NamedTuple):
    """Cases, and the server that they are run against."""

    name: str
    compression: str
    cases: tuple[str, ...]
    count: int
    """How many cases the suite has there."""

    def of(self, cases: Sequence[str]) -> tuple[str, ...]:
        """Those of these cases, or patterns of cases, that belong to it."""
        return tuple(case for case in cases if case.partition(".")[0] + ".*" in self.cases)


PARTS = (
    Part("RFC 6455", "none", ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"), 301),
    Part("RFC 7692, shared", "shared", ("12.*", "13.*"), 216),
    Part("RFC 7692, dedicated", "dedicated", ("12.*", "13.*"), 216),
)


def run_part(report: Report, directory: Path, wstest: str, part: Part, cases: tuple[str, ...], faults: str) -> None:
    """Run the cases of one part against a server of its own."""
    env = {"GWS_MAX_MESSAGE_SIZE": str(LARGEST), "STRESS_FAULTS": faults, **without_pings()}
    if part.compression != "none":
        env["GWS_COMPRESSION"] = part.compression
    with run_gunicorn(report, directory / "server", 1, env=env) as running:
        specification = {
            "outdir": str(directory / "reports"),
            "servers": [{"agent": "ours", "url": f"ws://127.0.0.1:{running.address[1]}/echo"}],
            "cases": list(cases),
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        (directory / "cases.json").write_text(json.dumps(specification))
        begun = _run_wstest(report, directory, wstest, part)
    try:
        index: dict[str, dict[str, Any]] = json.loads((directory / "reports" / "index.json").read_text())["ours"]
    except (OSError, KeyError):
        report.violation("run", f"{part.name}: wstest has written no report; its log is {directory / 'wstest.log'}")
        return
    _judge(report, part, index, begun if cases != part.cases else part.count)


def _run_wstest(report: Report, directory: Path, wstest: str, part: Part) -> int:
    """Run the suite's client, and print which case it has come to. How many cases have begun."""
    command = [wstest, "--mode", "fuzzingclient", "--spec", str(directory / "cases.json")]
    begun, last = 0, "none"
    progress = report.progress(lambda: f"{part.name}: {begun} cases, the last is {last}")
    with (directory / "wstest.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=directory)
        with process:
            assert process.stdout is not None
            line = "begin"
            while line:
                line = "stuck"
                with gevent.Timeout(STUCK, False):
                    line = process.stdout.readline()
                log.write(line)
                found = _BEGUN.search(line)
                if found is not None:
                    begun, last = begun + 1, found[1]
                elif line == "stuck":
                    process.kill()
        progress.kill()
    if process.returncode != 0:
        report.violation("run", f"{part.name}: wstest ended with {process.returncode} after case {last}")
    return begun


def _judge(report: Report, part: Part, index: dict[str, dict[str, Any]], count: int) -> None:
    """Each case has passed, and so has its closing handshake."""
    if len(index) != count or not count:
        report.violation("run", f"{part.name}: the report has {len(index)} cases, not {count}")
    for name, case in sorted(index.items()):
        results = case["behavior"], case["behaviorClose"]
        if not PASSED.issuperset(results):
            report.violation("case", f"{part.name}, case {name}: {' and at its end '.join(results)}")
    results = Counter(case["behavior"] for case in index.values())
    report.figures[part.name] = ", ".join(f"{result} × {count}" for result, count in results.most_common())


def run(arguments: list[str]) -> int:
    """The command line."""
    parser = arguments_of("conformance", __doc__, None)
    parser.add_argument(
        "--wstest", default="wstest", help="the program of the Autobahn test suite (default: on the PATH)"
    )
    parser.add_argument("--cases", help="these alone, with commas between them, e.g. 5.*,9.1.1")
    options = parser.parse_args(arguments)
    wstest = shutil.which(options.wstest)
    if wstest is None:
        print(
            f"there is no program {options.wstest!r}: stress/README.md has the commands that install it",
            file=sys.stderr,
        )
        return 2
    report = Report("conformance")

    def main(directory: Path) -> None:
        for number, part in enumerate(PARTS):
            cases = part.cases if options.cases is None else part.of(options.cases.split(","))
            if cases:
                folder = directory / str(number)
                folder.mkdir(parents=True)
                run_part(report, folder.resolve(), str(Path(wstest).absolute()), part, cases, options.faults)

    return report.run(options, main)
