"""Logouts: how long it takes until all pages of a session are closed, whatever worker they are connected to.

Four workers with Django, and the WebSockets of one session, over all of them. The session is logged out by a request to
one worker: the time is from that request to the last close frame with 4401. With ``--redis`` the groups are in a Redis
server, and further rounds follow in which the logout happens while that server is stopped (SIGSTOP, SIGCONT), or has
ended (SIGKILL, and a new process that has nothing), for ``--seconds``. There the time is from its return.

The exit status is 1 when a page is not closed, when one of another session is, or when it took longer than ``--bound``
or ``--bound-after``.
"""

from __future__ import annotations

import json
import signal
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import gevent

from tests.support.brokers import VALKEY, Broker, broker
from tests.support.programs import run_python
from tests.support.rawclient import CLOSE, TEXT, Frame, RawClient
from tests.support.servers import Server, await_answer, start
from tests.support.waiting import eventually

from .groups import WANTED_OF_REDIS
from .report import Report, arguments_of, milliseconds

WORKERS = 4
LOGGED_OUT = 4401
APPLICATION = "tests.fixtureapps.accounts:app"
TIMEOUT = 30.0
OTHERS = 8
"""Pages of another session of the same user, which stay open."""
WANTED = [
    *WANTED_OF_REDIS,
    r"an order for all workers \(session\) could not be given",
    r"logouts of other workers may have been missed",
]


class Round(NamedTuple):
    """What happens while the session is logged out."""

    name: str
    begin: signal.Signals | None
    """What Redis is sent before; None for nothing."""


ROUNDS = [Round("nothing", None), Round("Redis is stopped", signal.SIGSTOP), Round("Redis has ended", signal.SIGKILL)]


class Pages:
    """The WebSockets of a session."""

    def __init__(self, stack: ExitStack, server: Server, name: str, count: int) -> None:
        header = server.get(f"/log-in/{name}/").headers["set-cookie"]
        self.cookie = "Cookie", "sessionid=" + header.partition("sessionid=")[2].partition(";")[0]
        self._name = name
        self._clients = [self._open(stack, server, number) for number in range(count)]

    def _open(self, stack: ExitStack, server: Server, number: int) -> RawClient:
        """One of them: every other one is detached."""
        client: RawClient = stack.enter_context(server.connect(timeout=TIMEOUT))
        client.upgrade("/private/" if number % 2 else "/who/", self.cookie)
        assert client.read_frame() == Frame(TEXT, self._name.encode())
        return client

    def closed(self) -> int:
        """How many are closed by a logout; waits for that."""
        count = 0
        for client in self._clients:
            try:
                frame = client.read_frame()
                count += frame.opcode == CLOSE and frame.code == LOGGED_OUT  # else a ping: it is still open
            except (OSError, EOFError):
                pass
        return count

    def open(self) -> int:
        """How many answer."""
        for client in self._clients:
            client.text("who")
        return sum(client.read_frame() == Frame(TEXT, self._name.encode()) for client in self._clients)


def await_workers(server: Server) -> None:
    """All of them answer."""
    seen: set[bytes] = set()

    def complete() -> bool:
        seen.add(server.get("/process/").body)
        return len(seen) == WORKERS

    eventually(complete, f"{WORKERS} workers", TIMEOUT)


def measure(report: Report, server: Server, redis: Broker | None, what: Round, pages: int, away: float) -> float:
    """Log a session out; the seconds until all of its pages are closed."""
    with ExitStack() as stack:
        name = f"{what.name.rpartition(' ')[2]}-{time.monotonic_ns()}"
        closing, other = Pages(stack, server, name, pages), Pages(stack, server, name, OTHERS)
        if redis is not None and what.begin is not None:
            redis.kill(what.begin)
        began = time.monotonic()
        logout = gevent.spawn(server.get, "/log-out/", closing.cookie)
        if redis is not None and what.begin is not None:
            gevent.sleep(away)
            began = time.monotonic()
            if what.begin == signal.SIGSTOP:
                redis.kill(signal.SIGCONT)
            else:
                redis.start()
                began = time.monotonic()
        closed = closing.closed()
        seconds = time.monotonic() - began
        status = logout.get(timeout=TIMEOUT).status
        if (closed, status) != (pages, 200):
            report.violation("open", f"{what.name}: {closed} of {pages} pages were closed; status {status}")
        if (still := other.open()) != OTHERS:
            report.violation("other", f"{what.name}: {still} of {OTHERS} pages of another session are open")
    return seconds


def main(
    report: Report,
    directory: Path,
    rounds: int,
    pages: int,
    away: float,
    bounds: tuple[float, float],
    program: str | None,
) -> None:
    """All rounds."""
    env = {"DATABASE_FILE": str(directory / "database.sqlite3")}
    made = run_python("-c", f"import {APPLICATION.partition(':')[0]}", env=env)  # by one process, not by all workers
    assert made.returncode == 0, made.stderr
    with ExitStack() as stack:
        redis = None if program is None else stack.enter_context(broker(directory / "redis", program=program))
        if redis is not None:
            env["GWS"] = json.dumps({"groups": {"url": redis.url}})
        server = start("worker", directory / "server", APPLICATION, options=["--workers", str(WORKERS)], env=env)
        stack.callback(server.end)
        await_answer(server)
        await_workers(server)
        for what in ROUNDS if redis is not None else ROUNDS[:1]:
            times = [measure(report, server, redis, what, pages, away) for _ in range(rounds)]
            report.figures[f"{what.name}: p50/p99/worst, ms"] = f"{milliseconds(times)} ({rounds} logouts)"
            bound = bounds[what.begin is not None]
            if max(times) > bound:
                report.violation("bound", f"{what.name}: {max(times) * 1000:.0f} ms, not {bound * 1000:g} ms")
        report.check_log(server.log, [] if redis is None else WANTED)


def run(arguments: list[str]) -> int:
    """The command line."""
    parser = arguments_of("logout", __doc__, 5)
    parser.add_argument("--pages", type=int, default=100, help="WebSockets of the session")
    parser.add_argument("--rounds", type=int, default=10, help="logouts of each kind")
    parser.add_argument("--bound", type=float, default=0.3, help="seconds until all pages are closed")
    parser.add_argument("--bound-after", type=float, default=1.0, help="the same, after the return of Redis")
    parser.add_argument(
        "--redis", nargs="?", const=VALKEY, metavar="PROGRAM", help="groups are in Redis, not in SQLite"
    )
    options = parser.parse_args(arguments)
    if options.faults:
        parser.error("the application of this program has no faults")
    report = Report("logouts")
    bounds = options.bound, options.bound_after
    work = partial(main, report, rounds=options.rounds, pages=options.pages, away=options.seconds, bounds=bounds)
    return report.run(options, lambda folder: work(folder, program=options.redis))
