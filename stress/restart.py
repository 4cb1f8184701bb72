"""A rolling restart under load: everybody comes back, and nobody loses anything.

Some thousand clients say a numbered message about once a second; the application stores each before it acknowledges
it. Meanwhile the server is reloaded (SIGHUP) several times; then the same again with ``--max-requests``, where a worker
ends by itself. HTTP requests, each on a connection of its own, go on all the time. What must hold, or the exit status
is 1:

* Every WebSocket that was accepted ends with a close frame, 1012, and never with 1006.
* Every message that was acknowledged is stored; those of one client in order.
* No HTTP request and no handshake fails.
* All are back, and the old workers gone, before the graceful timeout.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import gevent
from gevent.pool import Group

from tests.support.rawclient import TEXT, close_frame, frame

from .crew import STORE, Crew, crew, lives, until
from .peer import Ended, Peer, tally
from .report import Report, arguments_of, percentile

WORKERS = 2
CLIENTS = 2000
RELOADS = 3
GRACEFUL = 30.0
"""gunicorn's default."""
BROWSERS = ("/", "/", "/", "/work")
"""HTTP clients: the last one always has a request under way when a worker is told to stop."""
SHUTDOWN = 1012
PATIENCE = 20.0
PAUSE = 0.005
"""Seconds between two requests of one HTTP client."""
SLOW = 1.0
"""Seconds of an HTTP request that are told: no violation, but somebody will want to know when it was."""


class Client:
    """One client that comes back."""

    def __init__(self, number: int, run: Restart) -> None:
        self.name, self._run = f"client{number}", run
        self._chance = random.Random(number)
        self.sent = 0
        self.acknowledged = 0
        """The greatest number that was acknowledged; all below it were, too."""
        self.worker = 0
        """Who has the connection; 0 while there is none."""
        self._under_way: deque[int] = deque()

    def live(self) -> None:
        """Until it is over and all is acknowledged; with back-off, because everybody comes back at the same time."""
        failures = 0
        gevent.sleep(self._chance.uniform(0, len(self._run.clients) / 500))
        while not self._run.over or self._under_way:
            failures = 0 if self._visit() else min(failures + 1, 4)
            self.worker = 0
            gevent.sleep(self._chance.uniform(0.1, 0.6) * 2**failures)

    def _visit(self) -> bool:
        """One connection; False where there was none."""
        try:
            with Peer(self._run.crew.address, timeout=PATIENCE) as peer:
                peer.open("/stored")
                self.worker = peer.worker
                self._run.opened(peer)
                try:
                    self._talk(peer)
                except Ended as ended:
                    self._run.closed(self.name, peer, ended.code)
                return True
        except (OSError, EOFError, AssertionError) as error:
            self._run.report.violation("handshake" if self.worker == 0 else "order", f"{self.name}: {error!r}")
            return False

    def _talk(self, peer: Peer) -> None:
        """What was not acknowledged on the last connection is said once more."""
        for number in self._under_way:
            self._run.counts["messages said again"] += 1
            self._say(peer, number)
        while not self._run.over:
            self._listen(peer, self._chance.uniform(0.7, 1.3))
            self.sent += 1
            self._under_way.append(self.sent)
            self._say(peer, self.sent)
        end = time.monotonic() + PATIENCE
        while self._under_way and time.monotonic() < end:
            self._listen(peer, 0.1)
        assert not self._under_way, f"not acknowledged within {PATIENCE:g} s: {self._under_way}"
        peer.say(close_frame(1000))
        self._listen(peer, PATIENCE)
        raise AssertionError("the close was not answered")

    def _say(self, peer: Peer, number: int) -> None:
        peer.say(frame(TEXT, f"{self.name} {number}".encode()))

    def _listen(self, peer: Peer, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            received = peer.wait(left)
            if received is not None:
                number = self._under_way.popleft()
                assert received.payload == f"ack {self.name} {number}".encode(), (received, number)
                self.acknowledged = number


class Wave:
    """What one restart did to the clients."""

    def __init__(self, name: str, old: Sequence[int]) -> None:
        self.name, self.old = name, frozenset(old)
        self.began = time.monotonic()
        self.closes: list[float] = []
        self.back: float | None = None
        self.gone: float | None = None

    def tell(self) -> str:
        """In one line."""
        closes = sorted(at - self.began for at in self.closes)
        spread = ", ".join(f"{percentile(closes, share):.2f}" for share in (0, 0.5, 0.9, 1))
        back = "never" if self.back is None else f"after {self.back:.2f} s"
        gone = "never" if self.gone is None else f"after {self.gone:.2f} s"
        return (
            f"{len(closes):,} closes at {spread} s (first, half, 90 %, last); all back {back}; old workers gone {gone}"
        )


class Restart:
    """Clients and browsers, and one server."""

    def __init__(self, report: Report, running: Crew, clients: int, title: str) -> None:
        self.report, self.crew, self.title = report, running, title
        self.over = self.browsed = False
        self.began = time.monotonic()
        self.clients = [Client(number, self) for number in range(clients)]
        self.closes: Counter[int] = Counter()
        self.counts: Counter[str] = Counter()
        self.pages: list[float] = []
        self.waves: list[Wave] = []
        self.workers: Counter[int] = Counter()
        """How many connections each worker has taken."""

    # --- what clients tell -----------------------------------------------------------------------------------------

    def opened(self, peer: Peer) -> None:
        """A WebSocket was accepted."""
        self.workers[peer.worker] += 1
        self.crew.seen.add(peer.worker)

    def closed(self, name: str, peer: Peer, code: int) -> None:
        """It has ended."""
        self.closes[code] += 1
        if code == 1000 and self.over:
            return
        for wave in self.waves[-1:]:
            wave.closes.append(time.monotonic())
        if code != SHUTDOWN:
            lived = time.monotonic() - peer.started
            sentence = f"{name}, worker {peer.worker}: ended with {code} after {lived:.2f} s"
            self.report.violation(str(code), f"{sentence}; it began {self.when(peer.started)}")

    def when(self, at: float) -> str:
        """A moment, seen from the last restart."""
        if not self.waves:
            return f"{at - self.began:.1f} s from the start"
        return f"{at - self.waves[-1].began:+.3f} s from {self.waves[-1].name}"

    def browse(self, path: str) -> None:
        """Request after request."""
        while not self.over and not self.browsed:
            began = time.monotonic()
            try:
                status, _ = self.crew.get(path, PATIENCE)
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
            self.report.say(f"slow: {path} took {took:.2f} s, began {self.when(began)}")

    # --- the run ---------------------------------------------------------------------------------------------------

    def connected(self) -> int:
        """Clients that have a connection."""
        return sum(client.worker != 0 for client in self.clients)

    def run(self, what: Callable[[Restart], None]) -> None:
        """``what`` happens while everybody talks."""
        crowd = Group()
        progress = self.report.progress(self.line)
        for client in self.clients:
            crowd.spawn(client.live)
        for path in BROWSERS:
            crowd.spawn(self.browse, path)
        if not until(lambda: self.connected() == len(self.clients), 60):
            self.report.violation("back", f"{self.connected()} of {len(self.clients)} connected within 60 s")
        what(self)
        self.over = True
        crowd.join(60)
        progress.kill()
        if len(crowd):
            self.report.violation("stuck", f"{len(crowd)} clients came to no end")
        self.tell()

    def line(self) -> str:
        """How far it is."""
        acknowledged = sum(client.acknowledged for client in self.clients)
        return (
            f"{self.title}: {self.connected():,} connected, {acknowledged:,} acknowledged, "
            f"{self.counts['pages']:,} pages, closes: {tally(self.closes)}"
        )

    def await_the_end(self, wave: Wave) -> None:
        """Everybody is with a new worker, and the old ones have gone."""

        def look() -> bool:
            now = time.monotonic() - wave.began
            if wave.back is None and all(client.worker not in (0, *wave.old) for client in self.clients):
                wave.back = now
            if wave.gone is None and not any(map(lives, wave.old)):
                wave.gone = now
            return wave.back is not None and wave.gone is not None

        if not until(look, GRACEFUL):
            self.report.violation("back", f"{wave.name}: not all within {GRACEFUL:g} s: {wave.tell()}")

    def tell(self) -> None:
        """The figures."""
        figures, title = self.report.figures, self.title
        figures[f"{title}: clients"] = len(self.clients)
        figures[f"{title}: connections"] = self.workers.total()
        figures[f"{title}: workers that took connections"] = len(self.workers)
        figures[f"{title}: messages sent"] = sum(client.sent for client in self.clients)
        figures[f"{title}: acknowledged"] = sum(client.acknowledged for client in self.clients)
        figures[f"{title}: said again"] = self.counts["messages said again"]
        figures[f"{title}: closes by code"] = tally(self.closes)
        for wave in self.waves:
            figures[f"{title}: {wave.name}"] = wave.tell()
        figures[f"{title}: HTTP requests"] = self.counts["pages"]
        figures[f"{title}: HTTP p50/p99/worst of /, ms"] = ", ".join(
            f"{percentile(self.pages, share) * 1000:.1f}" for share in (0.5, 0.99, 1)
        )

    def check_store(self, stored: Path) -> None:
        """All that was acknowledged is there, and of each client in order (said again is allowed)."""
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
    """SIGHUP so many times, each when all is well again."""

    def happen(run: Restart) -> None:
        for number in range(1, count + 1):
            gevent.sleep(pause)
            wave = Wave(f"reload {number}", run.crew.workers())
            run.waves.append(wave)
            run.crew.send(run.crew.arbiter, signal.SIGHUP)
            run.await_the_end(wave)
        gevent.sleep(pause)

    return happen


def used_up(count: int, longest: float, pause: float) -> Callable[[Restart], None]:
    """Wait until so many workers have ended by themselves, and everybody is back."""

    def happen(run: Restart) -> None:
        ended: set[int] = set()
        known = set(run.crew.workers())

        def enough() -> bool:
            workers = set(run.crew.workers())
            known.update(workers)
            ended.update(known - workers)
            return len(ended) >= count

        if not until(enough, longest):
            run.report.violation("back", f"{len(ended)} instead of {count} workers were used up within {longest:g} s")
        gevent.sleep(pause)
        run.browsed = True  # else the next workers are used up before everybody is back
        if not until(lambda: run.connected() == len(run.clients), GRACEFUL):
            run.report.violation("back", f"{run.connected()} of {len(run.clients)} are back after {GRACEFUL:g} s")
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
        place = directory / title
        with crew(report, place, WORKERS, options=options, env=env, kind=kind, graceful_timeout=GRACEFUL) as running:
            one = Restart(report, running, clients, title)
            one.run(happen)
        one.check_store(place / STORE)
        for problem in running.log.problems():
            report.violation("log", problem.text[:2000])


def run(arguments: list[str]) -> int:
    """The command line."""
    parser = arguments_of("restart", __doc__, 5)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--reloads", type=int, default=RELOADS)
    parser.add_argument("--max-requests", type=int, help="default: three for each client; 0 leaves that part out")
    parser.add_argument("--kind", default="worker", help="of server: worker, gevent, … (tests/support/servers.py)")
    options = parser.parse_args(arguments)
    report = Report("rolling restart")
    with TemporaryDirectory() as temporary:
        main(
            report,
            options.directory or Path(temporary),
            options.clients,
            options.reloads,
            options.seconds,
            options.kind,
            options.faults,
            options.max_requests,
        )
    return report.end(options.json)
