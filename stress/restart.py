"""A rolling restart under load: all clients reconnect, and no acknowledged message is lost.

Some thousand clients send a numbered message about once a second; the application stores each before it acknowledges
it. Meanwhile the server is reloaded (SIGHUP) several times; then the same again with ``--max-requests``, where a worker
ends by itself. HTTP requests, each on a connection of its own, go on all the time. What must hold, or the exit status
is 1:

* Every WebSocket that was accepted ends with a close frame, 1012, and never with 1006.
* Every message that was acknowledged is stored; those of one client in order.
* No HTTP request and no handshake fails.
* All clients have reconnected, and the old workers have ended, before the graceful timeout.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import gevent
from gevent.pool import Group

from tests.support.rawclient import TEXT, close_frame, frame

from .gunicorn import STORE, Gunicorn, is_running, run_gunicorn
from .peer import Ended, Peer, tally
from .report import Report, arguments_of, milliseconds, percentile

WORKERS = 2
CLIENTS = 2000
RELOADS = 3
GRACEFUL = 30.0
"""gunicorn's default."""
BROWSERS = ("/", "/", "/", "/work")
"""HTTP clients: the last one always has a request in progress when a worker is signalled to stop."""
SHUTDOWN = 1012
TIMEOUT = 20.0
PAUSE = 0.005
"""Seconds between two requests of one HTTP client."""
SLOW = 1.0
"""Seconds of an HTTP request that are reported: no violation, but its time is of interest."""


class Client:
    """One client that reconnects."""

    def __init__(self, number: int, run: Restart) -> None:
        self.name, self._run = f"client{number}", run
        self._chance = random.Random(number)
        self.sent = 0
        self.acknowledged = 0
        """The greatest number that was acknowledged; all smaller ones were, too."""
        self.worker = 0
        """The worker that has the connection; 0 while there is none."""
        self._in_flight: deque[int] = deque()

    def run(self) -> None:
        """Run until the end, and until all is acknowledged; with back-off, because all clients reconnect at once."""
        failures = 0
        gevent.sleep(self._chance.uniform(0, len(self._run.clients) / 500))
        while not self._run.over or self._in_flight:
            failures = 0 if self._connect() else min(failures + 1, 4)
            self.worker = 0
            gevent.sleep(self._chance.uniform(0.1, 0.6) * 2**failures)

    def _connect(self) -> bool:
        """One connection; False if there was none."""
        try:
            with Peer(self._run.gunicorn.address, timeout=TIMEOUT) as peer:
                peer.open("/stored")
                self.worker = peer.worker
                self._run.opened(peer)
                try:
                    self._exchange(peer)
                except Ended as ended:
                    self._run.closed(self.name, peer, ended.code)
                return True
        except (OSError, EOFError, AssertionError) as error:
            self._run.report.violation("handshake" if self.worker == 0 else "order", f"{self.name}: {error!r}")
            return False

    def _exchange(self, peer: Peer) -> None:
        """Send what was not acknowledged on the last connection again, and then new messages."""
        for number in self._in_flight:
            self._run.counts["messages sent again"] += 1
            self._send(peer, number)
        while not self._run.over:
            self._receive(peer, self._chance.uniform(0.7, 1.3))
            self.sent += 1
            self._in_flight.append(self.sent)
            self._send(peer, self.sent)
        end = time.monotonic() + TIMEOUT
        while self._in_flight and time.monotonic() < end:
            self._receive(peer, 0.1)
        assert not self._in_flight, f"not acknowledged within {TIMEOUT:g} s: {self._in_flight}"
        peer.write(close_frame(1000))
        self._receive(peer, TIMEOUT)
        raise AssertionError("the close was not answered")

    def _send(self, peer: Peer, number: int) -> None:
        peer.write(frame(TEXT, f"{self.name} {number}".encode()))

    def _receive(self, peer: Peer, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            received = peer.wait(left)
            if received is not None:
                number = self._in_flight.popleft()
                assert received.payload == f"ack {self.name} {number}".encode(), (received, number)
                self.acknowledged = number


class Interruption:
    """The closes and reconnects of one restart."""

    def __init__(self, name: str, old: Sequence[int]) -> None:
        self.name, self.old = name, frozenset(old)
        self.began = time.monotonic()
        self.closes: list[float] = []
        self.reconnected: float | None = None
        self.ended: float | None = None

    def summary(self) -> str:
        """One line."""
        closes = sorted(at - self.began for at in self.closes)
        spread = ", ".join(f"{percentile(closes, share):.2f}" for share in (0, 0.5, 0.9, 1))
        reconnected = "never" if self.reconnected is None else f"after {self.reconnected:.2f} s"
        ended = "never" if self.ended is None else f"after {self.ended:.2f} s"
        when = f"{len(closes):,} closes at {spread} s (first, half, 90 %, last)"
        return f"{when}; all reconnected {reconnected}; old workers ended {ended}"


class Restart:
    """WebSocket clients, HTTP clients, and one server."""

    def __init__(self, report: Report, running: Gunicorn, clients: int, title: str) -> None:
        self.report, self.gunicorn, self.title = report, running, title
        self.over = self.browsed = False
        self.began = time.monotonic()
        self.clients = [Client(number, self) for number in range(clients)]
        self.closes: Counter[int] = Counter()
        self.counts: Counter[str] = Counter()
        self.pages: list[float] = []
        self.interruptions: list[Interruption] = []
        self.workers: Counter[int] = Counter()
        """How many connections each worker has taken."""

    # --- called by clients -----------------------------------------------------------------------------------------

    def opened(self, peer: Peer) -> None:
        """A WebSocket was accepted."""
        self.workers[peer.worker] += 1
        self.gunicorn.seen.add(peer.worker)

    def closed(self, name: str, peer: Peer, code: int) -> None:
        """It has ended."""
        self.closes[code] += 1
        if code == 1000 and self.over:
            return
        for interruption in self.interruptions[-1:]:
            interruption.closes.append(time.monotonic())
        if code != SHUTDOWN:
            lived = time.monotonic() - peer.started
            sentence = f"{name}, worker {peer.worker}: ended with {code} after {lived:.2f} s"
            self.report.violation(str(code), f"{sentence}; it began {self.when(peer.started)}")

    def when(self, at: float) -> str:
        """A time, relative to the last restart."""
        if not self.interruptions:
            return f"{at - self.began:.1f} s from the start"
        return f"{at - self.interruptions[-1].began:+.3f} s from {self.interruptions[-1].name}"

    def browse(self, path: str) -> None:
        """One request after the other."""
        while not self.over and not self.browsed:
            began = time.monotonic()
            try:
                status, _ = self.gunicorn.get(path, TIMEOUT)
                assert status == 200, f"status {status}"
                self.note_page(path, began)
            except (OSError, EOFError, AssertionError) as error:
                self.report.violation("HTTP", f"{path}, began {self.when(began)}: {error!r}")
            gevent.sleep(PAUSE)

    def note_page(self, path: str, began: float) -> None:
        """A request was answered."""
        took = time.monotonic() - began
        self.counts["pages"] += 1
        if path == "/":  # the others sleep
            self.pages.append(took)
        if took > SLOW:
            self.report.log(f"slow: {path} took {took:.2f} s, began {self.when(began)}")

    # --- the run ---------------------------------------------------------------------------------------------------

    def connected(self) -> int:
        """Clients that have a connection."""
        return sum(client.worker != 0 for client in self.clients)

    def await_clients(self, seconds: float) -> None:
        """Wait until all clients have a connection."""
        everything = len(self.clients)
        self.report.eventually(
            "reconnect", lambda: self.connected() == everything, f"{everything} connections", seconds, self.connected
        )

    def run(self, what: Callable[[Restart], None]) -> None:
        """``what`` runs while all clients send."""
        group = Group()
        progress = self.report.progress(self.line)
        for client in self.clients:
            group.spawn(client.run)
        for path in BROWSERS:
            group.spawn(self.browse, path)
        self.await_clients(60)
        what(self)
        self.over = True
        group.join(60)
        progress.kill()
        if len(group):
            self.report.violation("stuck", f"{len(group)} clients did not end")
        self.write_figures()

    def line(self) -> str:
        """The progress."""
        acknowledged = sum(client.acknowledged for client in self.clients)
        return (
            f"{self.title}: {self.connected():,} connected, {acknowledged:,} acknowledged, "
            f"{self.counts['pages']:,} pages, closes: {tally(self.closes)}"
        )

    def await_the_end(self, interruption: Interruption) -> None:
        """Wait until all clients are connected to a new worker, and the old workers have ended."""

        def complete() -> bool:
            now = time.monotonic() - interruption.began
            without = (0, *interruption.old)
            if interruption.reconnected is None and all(client.worker not in without for client in self.clients):
                interruption.reconnected = now
            if interruption.ended is None and not any(map(is_running, interruption.old)):
                interruption.ended = now
            return interruption.reconnected is not None and interruption.ended is not None

        self.report.eventually("reconnect", complete, interruption.name, GRACEFUL, interruption.summary)

    def write_figures(self) -> None:
        """The figures."""
        figures, title = self.report.figures, self.title
        figures[f"{title}: clients"] = len(self.clients)
        figures[f"{title}: connections"] = self.workers.total()
        figures[f"{title}: workers that took connections"] = len(self.workers)
        figures[f"{title}: messages sent"] = sum(client.sent for client in self.clients)
        figures[f"{title}: acknowledged"] = sum(client.acknowledged for client in self.clients)
        figures[f"{title}: sent again"] = self.counts["messages sent again"]
        figures[f"{title}: closes by code"] = tally(self.closes)
        for interruption in self.interruptions:
            figures[f"{title}: {interruption.name}"] = interruption.summary()
        figures[f"{title}: HTTP requests"] = self.counts["pages"]
        figures[f"{title}: HTTP p50/p99/worst of /, ms"] = milliseconds(self.pages)

    def check_store(self, stored: Path) -> None:
        """All that was acknowledged is stored, in the order of each client; a message may be stored twice."""
        found: dict[str, int] = {client.name: 0 for client in self.clients}
        lost: Counter[str] = Counter()
        for line in stored.read_text().splitlines():
            name, _, number = line.partition(" ")
            if int(number) == found[name] + 1:
                found[name] += 1
            elif int(number) > found[name]:
                lost[name] += int(number) - found[name] - 1
                found[name] = int(number)
        for client in self.clients:
            lost[client.name] += max(0, client.acknowledged - found[client.name])
        for name, count in (+lost).items():
            self.report.violation("lost", f"{self.title}: {name}: {count} acknowledged messages are not stored")
        self.report.figures[f"{self.title}: acknowledged and not stored"] = lost.total()


def reloads(count: int, pause: float) -> Callable[[Restart], None]:
    """SIGHUP so many times, each after the end of the restart before."""

    def happen(run: Restart) -> None:
        for number in range(1, count + 1):
            gevent.sleep(pause)
            interruption = Interruption(f"reload {number}", run.gunicorn.workers())
            run.interruptions.append(interruption)
            run.gunicorn.send(run.gunicorn.arbiter, signal.SIGHUP)
            run.await_the_end(interruption)
        gevent.sleep(pause)

    return happen


def used_up(count: int, longest: float, pause: float) -> Callable[[Restart], None]:
    """Wait until so many workers have ended by themselves, and all clients are connected."""

    def happen(run: Restart) -> None:
        ended: set[int] = set()
        known = set(run.gunicorn.workers())

        def enough() -> bool:
            workers = set(run.gunicorn.workers())
            known.update(workers)
            ended.update(known - workers)
            return len(ended) >= count

        run.report.eventually("reconnect", enough, f"{count} workers to be used up", longest, lambda: len(ended))
        gevent.sleep(pause)
        run.browsed = True  # else the next workers are used up before all clients have reconnected
        run.await_clients(GRACEFUL)
        run.report.figures[f"{run.title}: workers used up"] = len(ended)

    return happen


def main(
    report: Report,
    directory: Path,
    clients: int = CLIENTS,
    reload_count: int = RELOADS,
    pause: float = 5.0,
    kind: str = "worker",
    faults: str = "",
    max_requests: int | None = None,
) -> None:
    """Reloads on one server, ``--max-requests`` on another."""
    if max_requests is None:
        max_requests = 3 * clients
    limits = ["--max-requests", str(max_requests), "--max-requests-jitter", str(max_requests // 4)]
    parts: list[tuple[str, list[str], Callable[[Restart], None]]] = [("HUP", [], reloads(reload_count, pause))]
    if max_requests:
        parts.append(("max", limits, used_up(2 * WORKERS, 120, pause)))
    for title, options, happen in parts:
        env = {"STRESS_FAULTS": faults}
        folder = directory / title
        start = partial(run_gunicorn, options=options, env=env, kind=kind, graceful_timeout=GRACEFUL)
        with start(report, folder, WORKERS) as running:
            one = Restart(report, running, clients, title)
            one.run(happen)
        one.check_store(folder / STORE)


def run(arguments: list[str]) -> int:
    """The command line."""
    parser = arguments_of("restart", __doc__, 5)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--reloads", type=int, default=RELOADS)
    parser.add_argument("--max-requests", type=int, help="default: three for each client; 0 leaves that part out")
    parser.add_argument("--kind", default="worker", help="of server: worker, gevent, … (tests/support/servers.py)")
    options = parser.parse_args(arguments)
    report = Report("rolling restart")
    numbers = options.clients, options.reloads, options.seconds
    rest = options.kind, options.faults, options.max_requests
    return report.run(options, lambda folder: main(report, folder, *numbers, *rest))
