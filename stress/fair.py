"""How long one client waits for an answer while other clients of the same worker send as much as they can.

One worker with ``--timeout 4``: gunicorn kills it if its event loop is blocked for longer. Another process sends bursts
to views that compute, floods of fragments, pings and small frames that inflate, from one socket or from a thousand at
once, or reads as fast as it can from a view that sends without a pause. Meanwhile one client has one message echoed
after the other. The worker has a core of its own.

The exit status is 1 when the worker is killed, an echo is wrong or none comes, or when of a hundred echoes one takes
longer than ``--bound`` seconds.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import NamedTuple

from benchmarks.meters import Cores, allow_files, pinned
from tests.support.rawclient import TEXT, Frame

from .gunicorn import Gunicorn, run_gunicorn, run_load, without_pings
from .peer import Peer
from .report import Report, arguments_of, milliseconds, percentile

BOUND = 0.05
"""Seconds within which 99 of 100 echoes have to come."""
PAUSE = 0.003
"""Seconds between two messages of the client that is measured."""


class Load(NamedTuple):
    """The work of the other process."""

    name: str
    path: str
    sockets: int
    data: str
    """A key of ``overload.DATA``."""
    again: bool = False
    """Whether each socket sends its data again and again."""


LOADS = (
    Load("alone", "/echo", 0, "nothing"),
    Load("burst for a view that computes", "/compute", 1, "messages", again=True),
    Load("burst for a detached connection that computes", "/compute-detached", 1, "messages", again=True),
    Load("twenty bursts for views that compute", "/compute", 20, "messages", again=True),
    Load("220 segments of fragments, once", "/echo", 220, "fragments"),
    Load("fragments from 20, again and again", "/echo", 20, "fragments", again=True),
    Load("pings from 20, again and again", "/echo", 20, "pings", again=True),
    Load("small frames that inflate", "/sink", 5, "inflating", again=True),
    Load("1,000 segments of small messages, once", "/sink", 1000, "messages"),
    Load("small messages from 20, again and again", "/echo", 20, "messages", again=True),
    Load("view that sends without a pause", "/push", 1, "nothing"),
    Load("five of those", "/push", 5, "nothing"),
    Load("view that offers without a pause", "/push-offer", 1, "nothing"),
)


def echoes(report: Report, load: Load, peer: Peer, seconds: float) -> list[float]:
    """Echo one message after the other; the seconds of each."""
    times: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        payload = b"number %d" % len(times)
        began = time.perf_counter()
        try:
            peer.text(payload.decode())
            received = peer.read_frame()
            assert received == Frame(TEXT, payload), f"{received} instead of {payload!r}"
        except (OSError, EOFError, AssertionError) as error:
            report.violation("echo", f"{load.name}: {error!r}")
            break
        times.append(time.perf_counter() - began)
        time.sleep(PAUSE)
    return times


def measure(report: Report, running: Gunicorn, load: Load, seconds: float, bound: float, cores: Cores) -> None:
    """One client's echoes under this load."""
    workers = running.workers()
    with Peer(running.address) as peer:
        peer.open("/echo")
        arguments = [running.address[1], load.path, load.sockets, load.data, load.again, sorted(cores.load)]
        with run_load("overload", *arguments) if load.sockets else nullcontext({}) as found:
            times = echoes(report, load, peer, seconds)
    p99 = percentile(times, 0.99)
    line = f"{len(times):5} echoes, p50/p99/worst {milliseconds(times)} ms"
    if load.sockets:
        line += f"; {found.get('sent', 0):,} bytes sent, {found.get('received', 0):,} read"
        if not found.get("sent") and not found.get("received"):
            report.violation("load", f"{load.name}: nothing was sent or read")
    report.figures[load.name] = line
    report.log(f"{load.name}: {line}")
    if p99 > bound:
        report.violation("bound", f"{load.name}: p99 {p99 * 1000:.1f} ms, above {bound * 1000:g} ms")
    if running.workers() != workers:
        report.violation("worker", f"{load.name}: the worker was killed")


def main(report: Report, directory: Path, seconds: float, bound: float, faults: str = "") -> None:
    """All loads in turn; each takes ``seconds``, and has a server of its own, because a server would first process what
    the kernel has received of the load before.
    """
    cores = Cores()
    allow_files(2000)
    env = {"STRESS_FAULTS": faults, "GWS_COMPRESSION": "shared", **without_pings()}
    for number, load in enumerate(LOADS):
        with ExitStack() as stack:
            with pinned(cores.server):  # the server inherits it
                server = run_gunicorn(report, directory / str(number), 1, options=["--timeout", "4"], env=env)
                running = stack.enter_context(server)
            with pinned(cores.load):
                measure(report, running, load, seconds, bound, cores)


def run(arguments: list[str]) -> int:
    """The command line."""
    parser = arguments_of("fair", __doc__, 5)
    parser.add_argument("--bound", type=float, default=BOUND, help="seconds within which 99 of 100 echoes have to come")
    options = parser.parse_args(arguments)
    report = Report("one client beside others that send as much as they can")
    return report.run(options, lambda folder: main(report, folder, options.seconds, options.bound, options.faults))
