"""Chaos: honest peers talk, hostile ones attack, workers are killed, stopped and reloaded; then all is as before.

What must hold, or the exit status is 1:

* An honest peer's messages are answered, all and in order, as long as it is connected. A connection ends by itself with
  1012 and only when its worker was told to stop; without a close frame only when it was killed.
* HTTP requests, handshakes among them, fail only when a worker is killed meanwhile.
* An attack comes to its proper end (attacks.py), unless its worker was told to stop.
* A worker that is told to stop is gone before its graceful timeout, and another takes its place.
* At the end no worker holds more than one that has just been warmed up: descriptors, greenlets, watchers of the loop,
  WebSockets, database connections, objects of ours.
* The log has no error, warning or traceback but those that were asked for.
"""

from __future__ import annotations

import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gevent
from gevent.pool import Group

from tests.support.rawclient import close_frame

from .attacks import EXPECTED_RECORDS, SHUTDOWN, attacks, settings
from .crew import Crew, crew, lives, make_database, resident_bytes, until
from .peer import Ended, Numbered, Peer, tally
from .report import Report, arguments_of, percentile

WORKERS = 2
HONEST, HOSTILE = 60, 30
GRACEFUL = 9.0
"""Seconds from "stop" to "kill": a third of it is what peers have to answer a goodbye."""
PATIENCE = 15.0
"""Seconds that an honest peer waits for an echo, on a machine where everything happens at once."""
CALM = 0.25
"""The last part of the run, in which no worker is harmed: the survivors are those that are looked at."""
PATHS = ("/echo", "/detached", "/room", "/db/echo", "/db/detached")
PAGES = ("/", "/work", "/db/page")
COUNTS = ("descriptors", "greenlets", "watchers", "websockets", "databases", "our objects", "members")
WANTED = [r"\[ERROR\] Worker \(pid:\d+\) was sent SIGKILL", *EXPECTED_RECORDS]
"""Records of the log that are as they should be."""


def deck(chance: random.Random, cards: Sequence[str]) -> Iterator[str]:
    """All of them in random order, and again: so that each has its turn."""
    while True:
        yield from chance.sample(cards, len(cards))


class Chaos:
    """One run."""

    def __init__(self, report: Report, running: Crew, seconds: float, seed: int) -> None:
        self.report, self.crew, self.seconds, self.seed = report, running, seconds, seed
        self.over = False
        self.signalled: set[int] = set()
        """Workers that were told to stop, or killed."""
        self.killed: set[int] = set()
        self.signals: list[float] = []
        self.kills: list[float] = []
        self.restarts: Counter[str] = Counter()
        self.closes: Counter[int] = Counter()
        self.table = attacks()
        self.attacks: Counter[str] = Counter()
        self.interrupted: Counter[str] = Counter()
        self.pages: list[float] = []
        self.page_count = self.connections = self.lost_pages = self.lost_handshakes = 0
        self.honest: list[Numbered] = []
        self._attacks = deck(random.Random(f"{seed} attacks"), list(self.table))

    def chance(self, name: str) -> random.Random:
        """A source of its own for each part, so that a seed means the same whoever comes first."""
        return random.Random(f"{self.seed} {name}")

    # --- honest peers ----------------------------------------------------------------------------------------------

    def honest_peer(self, number: int) -> None:
        """Connect, talk, leave; come back, with back-off where that fails."""
        numbered = Numbered(f"peer{number}", self.chance(f"honest {number}"))
        self.honest.append(numbered)
        chance, failures = numbered.chance, 0
        while not self.over:
            try:
                self.visit(numbered, chance.choice(PATHS))
                failures = 0
            except _Failed:
                failures = min(failures + 1, 5)
            gevent.sleep(chance.uniform(0.05, 0.2) * 2**failures)

    def visit(self, numbered: Numbered, path: str) -> None:
        """One connection, from its handshake to its end."""
        began = time.monotonic()
        numbered.fresh_connection()
        try:
            peer = Peer(self.crew.address, timeout=PATIENCE)
        except OSError as error:
            raise self.handshake_failed(began, error) from error
        with peer:
            try:
                peer.open(path)
            except (OSError, EOFError, AssertionError) as error:
                raise self.handshake_failed(began, error) from error
            self.crew.seen.add(peer.worker)
            self.connections += 1
            try:
                self.converse(peer, numbered)
            except Ended as ended:
                self.ended(peer, numbered, path, ended.code)
            except (OSError, AssertionError) as error:
                self.report.violation("order", f"{path}, worker {peer.worker}: {error}")

    def handshake_failed(self, began: float, error: Exception) -> _Failed:
        """It may, when a worker was killed meanwhile."""
        if self.killed_since(began):
            self.lost_handshakes += 1
        else:
            self.report.violation("handshake", f"an honest peer's failed: {error!r}")
        return _Failed()

    def converse(self, peer: Peer, numbered: Numbered) -> None:
        """Some messages at a time and a pause, until it is time to leave; then wait for what is under way."""
        chance = numbered.chance
        leave = time.monotonic() + chance.expovariate(1 / 6)
        while not self.over and time.monotonic() < leave:
            for _ in range(chance.choice((1, 1, 1, 4))):
                peer.say(numbered.next())
            self.listen(peer, numbered, chance.uniform(0.05, 0.6))
        while numbered.waiting:
            self.listen(peer, numbered, 1.0, enough=True)
        peer.say(close_frame(1000))
        while peer.wait(PATIENCE) is not None:
            pass
        raise AssertionError(f"{numbered.name}: the close was not answered within {PATIENCE:g} s")

    def listen(self, peer: Peer, numbered: Numbered, seconds: float, enough: bool = False) -> None:
        """Take what comes in so many seconds; ``enough``: no longer than echoes are awaited."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not (enough and not numbered.waiting):
            received = peer.wait(left)
            if received is not None:
                numbered.check(received)
        assert numbered.oldest < PATIENCE, f"{numbered.name}: no echo within {PATIENCE:g} s"

    def ended(self, peer: Peer, numbered: Numbered, path: str, code: int) -> None:
        """It may end with our own 1000, or because its worker was told to."""
        self.closes[code] += 1
        allowed = code == 1000 or (code == SHUTDOWN and peer.worker in self.signalled)
        if not allowed and not (code == 1006 and peer.worker in self.killed):
            told = (
                "killed" if peer.worker in self.killed else "told to stop" if peer.worker in self.signalled else "left"
            )
            lived = time.monotonic() - peer.started
            sentence = f"{path}, worker {peer.worker} ({told}): {numbered.name} ended with {code} after {lived:.1f} s"
            self.report.violation("close", sentence)

    # --- HTTP ------------------------------------------------------------------------------------------------------

    def page(self, path: str) -> None:
        """Request after request, each on a connection of its own."""
        while not self.over:
            began = time.monotonic()
            try:
                status, _ = self.crew.get(path)
                assert status == 200, f"status {status}"
                self.page_count += 1
                if path == "/":  # the others sleep or wait for the database
                    self.pages.append(time.monotonic() - began)
            except (OSError, EOFError, AssertionError) as error:
                if self.killed_since(began):
                    self.lost_pages += 1
                else:
                    self.report.violation("HTTP", f"{path}: {error!r}")
            gevent.sleep(0.05)

    def killed_since(self, began: float) -> bool:
        """Whether a worker was killed since then (or a moment before: a kill takes its time)."""
        return any(at > began - 0.5 for at in self.kills)

    # --- hostile peers ---------------------------------------------------------------------------------------------

    def hostile_peer(self, number: int) -> None:
        """One attack after the other."""
        chance = self.chance(f"hostile {number}")
        while not self.over:
            self.attack(next(self._attacks), chance)
            gevent.sleep(chance.uniform(0, 0.2))

    def attack(self, name: str, chance: random.Random) -> None:
        """One attack, to its end."""
        began = time.monotonic()
        worker = 0
        try:
            with Peer(self.crew.address, timeout=PATIENCE) as peer:
                try:
                    self.table[name](peer, chance)
                finally:
                    worker = peer.worker
            self.attacks[name] += 1
        except (OSError, EOFError, AssertionError) as error:
            if worker in self.signalled if worker else self.signalled_since(began - GRACEFUL):
                self.interrupted[name] += 1
            else:
                self.report.violation("attack", f"{name}, worker {worker or 'unknown'}: {error!r}")

    def signalled_since(self, when: float) -> bool:
        """Whether any worker was told to stop since then."""
        return any(at > when for at in self.signals)

    # --- harm to workers -------------------------------------------------------------------------------------------

    def harm(self) -> None:
        """One thing after the other, each when all workers are there again."""
        chance = self.chance("harm")
        end = time.monotonic() + self.seconds * (1 - CALM)
        pause = min(4.0, self.seconds / 20)
        for name in deck(chance, list(HARM)):
            if not until(self.complete, 30):
                self.report.violation("workers", f"not complete within 30 s: {self.crew.workers()}")
            gevent.sleep(chance.uniform(pause / 4, pause))
            if time.monotonic() > end:
                break
            self.restarts[name] += 1
            HARM[name](self, chance)

    def complete(self) -> bool:
        """Whether all workers are there and serve, and none is about to go: so that it is known whom a reload stops."""
        return self.crew.complete() and self.signalled.isdisjoint(self.crew.workers())

    def stop(self, chance: random.Random) -> int:
        """SIGTERM to one worker; its pid."""
        pid = chance.choice(self.crew.workers())
        self.told([pid])
        self.crew.send(pid, signal.SIGTERM)
        return pid

    def reload(self, chance: random.Random) -> int:
        """SIGHUP to the arbiter; one of the workers that have to go."""
        workers = self.crew.workers()
        self.told(workers)
        self.crew.send(self.crew.arbiter, signal.SIGHUP)
        return chance.choice(workers)

    def kill(self, pid: int) -> None:
        """SIGKILL, unless the worker has ended by itself."""
        if lives(pid):
            self.killed.add(pid)
            self.signalled.add(pid)
            self.kills.append(time.monotonic())
            self.signals.append(time.monotonic())
            self.crew.send(pid, signal.SIGKILL)

    def told(self, workers: Sequence[int]) -> None:
        """These workers are told to stop, and will be watched."""
        self.signalled.update(workers)
        self.signals.append(time.monotonic())
        for pid in workers:
            gevent.spawn(self.watch, pid)

    def watch(self, pid: int) -> None:
        """It has to be gone before its graceful timeout."""
        if not until(lambda: not lives(pid), GRACEFUL):
            self.report.violation("slow stop", f"worker {pid} lives {GRACEFUL:g} s after it was told to stop")

    # --- before and after ------------------------------------------------------------------------------------------

    def warm_up(self, pid: int) -> None:
        """Everything once that costs something the first time."""
        with self.crew.alone(pid):
            for path in PAGES * 2:
                self.crew.get(path)
            for path in (*PATHS, "/quiet-room") * 3:
                with Peer(self.crew.address) as peer:
                    peer.open(path)
                    if path != "/quiet-room":
                        peer.text("warm")
                        peer.read_frame()
                    peer.say_goodbye()

    def settled(self, pid: int, most: dict[str, int], seconds: float) -> dict[str, Any]:
        """What a worker holds once it is no more than ``most``, or when the time is over."""
        held: dict[str, Any] = {}

        def down() -> bool:
            held.update(self.crew.held(pid))
            return all(held[name] <= most[name] for name in most)

        until(down, seconds)
        return held

    def base_line(self) -> dict[str, int]:
        """What a worker holds that has just been warmed up: the most of all."""
        quiet = {"websockets": 0, "databases": 0, "members": 0}
        found = []
        for pid in self.crew.workers():
            self.warm_up(pid)
            found.append(self.settled(pid, quiet, 10))
        return {name: max(one[name] for one in found) for name in COUNTS}

    def look_for_leaks(self, base: dict[str, int]) -> None:
        """Each worker that is left holds no more than that."""
        if not until(self.complete, 30):
            self.report.violation("workers", f"not complete at the end: {self.crew.workers()}")
        for number, pid in enumerate(self.crew.workers(), 1):
            self.warm_up(pid)
            held = self.settled(pid, base, min(30.0, 2.0 + self.seconds))
            for name in COUNTS:
                if held[name] > base[name]:
                    kinds = f" ({held['kinds']})" if name == "our objects" else ""
                    sentence = f"worker {pid} holds {held[name]} {name}{kinds}, a fresh one {base[name]}"
                    self.report.violation("leak", sentence)
            told = ", ".join(f"{held[name]} {name}" for name in COUNTS)
            self.report.figures[f"worker {number} at the end"] = f"{told}; {resident_bytes(pid) / 2**20:.1f} MiB"
        self.report.figures["a fresh worker"] = ", ".join(f"{base[name]} {name}" for name in COUNTS)

    # --- the run ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Everything."""
        until(lambda: len(self.crew.workers()) == WORKERS, 30)
        base = self.base_line()
        crowd = Group()
        for number in range(HONEST):
            crowd.spawn(self.honest_peer, number)
        for path in PAGES:
            crowd.spawn(self.page, path)
        for number in range(HOSTILE):
            crowd.spawn(self.hostile_peer, number)
        harm = gevent.spawn(self.harm)
        progress = self.report.progress(self.line)
        gevent.sleep(self.seconds)
        self.over = True
        self.report.say("stopping: waiting until it is quiet")
        crowd.join(60)
        if len(crowd):
            self.report.violation("stuck", f"{len(crowd)} peers did not come to an end")
        harm.join(60)
        progress.kill()
        self.look_for_leaks(base)
        self.tell()

    def line(self) -> str:
        """How far it is."""
        answered = sum(one.answered for one in self.honest)
        return (
            f"{self.connections:,} connections, {answered:,} echoes, {self.page_count:,} pages, "
            f"{self.attacks.total():,} attacks ({self.interrupted.total()} cut short), {self.restarts.total()} restarts"
        )

    def tell(self) -> None:
        """The figures."""
        figures = self.report.figures
        worst = max(self.honest, key=lambda one: one.worst)
        figures["honest connections"] = self.connections
        figures["messages sent"] = sum(one.sent for one in self.honest)
        figures["echoes in order"] = sum(one.answered for one in self.honest)
        figures["worst echo, ms"] = worst.worst * 1000
        figures["closes by code"] = tally(self.closes)
        figures["handshakes lost to SIGKILL"] = self.lost_handshakes
        figures["HTTP requests"] = self.page_count
        figures["HTTP p50/p99/worst of /, ms"] = ", ".join(
            f"{percentile(self.pages, share) * 1000:.1f}" for share in (0.5, 0.99, 1)
        )
        figures["HTTP requests lost to SIGKILL"] = self.lost_pages
        figures["restarts"] = tally(self.restarts)
        figures["attacks"] = self.attacks.total()
        figures["attacks cut short by a restart"] = self.interrupted.total()
        figures["kinds of attacks"] = f"{len(self.attacks)} of {len(self.table)}"
        for name in sorted(self.table, key=lambda name: (int(name.split()[0]), name)):
            figures[f"  {name}"] = self.attacks[name]

    def read_log(self) -> None:
        """What nobody should have to see."""
        wanted = re.compile("|".join(WANTED), re.DOTALL).search
        problems = [one.text for one in self.crew.log.problems()]
        self.report.figures["records of the log that were wanted"] = sum(map(bool, map(wanted, problems)))
        for text in problems:
            if not wanted(text):
                self.report.violation("log", text[:2000])


class _Failed(Exception):  # noqa: N818 - it is a fact
    """There was no connection; said already."""


def _kill(chaos: Chaos, chance: random.Random) -> None:
    chaos.kill(chance.choice(chaos.crew.workers()))


def _then_kill(first: Callable[[Chaos, random.Random], int]) -> Callable[[Chaos, random.Random], None]:
    def harm(chaos: Chaos, chance: random.Random) -> None:
        pid = first(chaos, chance)
        gevent.sleep(chance.uniform(0.05, 1.5))
        chaos.kill(pid)

    return harm


HARM: dict[str, Callable[[Chaos, random.Random], object]] = {
    "SIGKILL": _kill,
    "SIGTERM": Chaos.stop,
    "SIGHUP": Chaos.reload,
    "SIGTERM, then SIGKILL": _then_kill(Chaos.stop),
    "SIGHUP, then SIGKILL": _then_kill(Chaos.reload),
}


def main(report: Report, directory: Path, seconds: float, seed: int, faults: str = "") -> None:
    """Run for so many seconds, and a while more for the end."""
    env = {f"GWS_{name.upper()}": str(value) for name, value in settings().items()}
    env |= {"STRESS_DJANGO": "1", "STRESS_FAULTS": faults}
    make_database(directory)
    options = ["--keep-alive", "2"]
    with crew(report, directory, WORKERS, options=options, env=env, graceful_timeout=GRACEFUL) as running:
        chaos = Chaos(report, running, seconds, seed)
        chaos.run()
    chaos.read_log()


def run(arguments: list[str]) -> int:
    """The command line."""
    parser = arguments_of("chaos", __doc__, 300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    report = Report("chaos")
    with TemporaryDirectory() as temporary:
        directory = options.directory or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        main(report, directory, options.seconds, options.seed, options.faults)
    return report.end(options.json)
