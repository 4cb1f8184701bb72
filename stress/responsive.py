"""The time of an HTTP request to a worker while a thousand WebSockets of the same worker echo.

One worker, one run: HTTP alone; with the sockets open and inactive; with each socket sending a message per
``--interval`` seconds; and saturated, each sending the next as soon as the last has come back. Then HTTP alone again,
which shows the variation of the machine. Each request has a connection of its own; its time is from the connect to the
last byte. The sockets are in another process, so that the queue inside of the measuring process is not measured.

The exit status is 1 when a request or an echo fails, or when the steady rate was not reached; never for a figure.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import NamedTuple

from benchmarks.meters import Cores, allow_files, pinned

from .gunicorn import Gunicorn, run_gunicorn, run_load, without_pings
from .report import Report, arguments_of, milliseconds

SOCKETS = 1000
PAUSE = 0.01
"""Seconds between two HTTP requests."""
KEPT = 0.9
"""Share of the steady rate that has to be reached, on a machine that has nothing else to do."""


class Load(NamedTuple):
    """The work of the other process."""

    name: str
    sockets: int
    interval: float | None
    """Seconds between two messages of one socket; 0: as many as possible; None: no messages."""


def browse(report: Report, running: Gunicorn, seconds: float) -> list[float]:
    """One request after the other; the seconds of each."""
    times: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        try:
            status, _ = running.get("/")
            assert status == 200, f"status {status}"
            times.append(time.perf_counter() - began)
        except (OSError, EOFError, AssertionError) as error:
            report.violation("HTTP", repr(error))
        time.sleep(PAUSE)
    return times


def measure(report: Report, running: Gunicorn, load: Load, seconds: float, kept: float, cores: Cores) -> None:
    """HTTP under this load."""
    [worker] = running.workers()
    arguments = [running.address[1], load.sockets, load.interval, worker, sorted(cores.load)]
    with run_load("echo_load", *arguments) if load.sockets else nullcontext({}) as found:
        times = browse(report, running, seconds)
    line = f"{len(times):5} requests, p50/p99/worst {milliseconds(times)} ms"
    if load.sockets:
        rate = found.get("echoes", 0) / max(found.get("seconds", 0), 1e-9)
        line += f"; {rate:8,.0f} echoes/s, worker {found.get('cpu', 0) / max(found.get('seconds', 0), 1e-9):4.0%} busy"
        if load.interval is not None and not found.get("echoes"):
            report.violation("echo", f"{load.name}: no echo, or a wrong one")
        elif found.get("echoes", 0) < kept * found.get("wanted", 0):
            report.violation("rate", f"{load.name}: {found['echoes']:,} echoes instead of {found['wanted']:,.0f}")
        if "worst" in found:
            line += f", worst echo {found['worst'] * 1000:.1f} ms"
    report.figures[load.name] = line
    report.log(f"{load.name}: {line}")


def main(
    report: Report, directory: Path, seconds: float, sockets: int, interval: float, kept: float, faults: str = ""
) -> None:
    """All loads in turn; each takes ``seconds``."""
    cores = Cores()
    allow_files(sockets + 500)
    loads = [
        Load("HTTP alone", 0, None),
        Load(f"{sockets:,} sockets, inactive", sockets, None),
        Load(f"{sockets:,} sockets, a message each {interval:g} s", sockets, interval),
        Load(f"{sockets:,} sockets, saturated", sockets, 0),
        Load("HTTP alone again", 0, None),
    ]
    with ExitStack() as stack:
        with pinned(cores.server):  # the server inherits it
            env = {"STRESS_FAULTS": faults, **without_pings()}
            running = stack.enter_context(run_gunicorn(report, directory, 1, env=env))
        with pinned(cores.load):
            for load in loads:
                measure(report, running, load, seconds, kept, cores)


def run(arguments: list[str]) -> int:
    """The command line."""
    parser = arguments_of("responsive", __doc__, 10)
    parser.add_argument("--sockets", type=int, default=SOCKETS)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between messages of one socket")
    parser.add_argument("--kept", type=float, default=KEPT, help="share of the steady rate that has to be reached")
    options = parser.parse_args(arguments)
    report = Report("HTTP beside WebSockets on one worker")
    numbers = options.seconds, options.sockets, options.interval, options.kept
    return report.run(options, lambda folder: main(report, folder, *numbers, options.faults))
