"""Chaos: honest peers send, hostile peers attack, workers are killed, stopped and reloaded; then nothing has leaked.

What must hold, or the exit status is 1:

* All messages of an honest peer are answered, in order, while it is connected. The server ends a connection with 1012,
  and only when its worker was signalled to stop; without a close frame only when the worker was killed.
* HTTP requests, handshakes among them, fail only when a worker is killed meanwhile.
* An attack has the right answer (attacks.py), unless its worker was signalled to stop.
* A worker that is signalled to stop ends before its graceful timeout, and is replaced.
* At the end no worker holds more than one that has just been warmed up: descriptors, greenlets, watchers of the loop,
  WebSockets, database connections, objects of ours.
* Members of groups get what ``groups.py`` demands.
* The log has no error, warning or traceback except the expected ones.
"""

from __future__ import annotations

import itertools
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gevent
from gevent.pool import Group

from tests.support.rawclient import close_frame

from .attacks import EXPECTED_RECORDS, SHUTDOWN, attacks, settings
from .delivery import text_of
from .groups import KINDS, Crowd, Size
from .gunicorn import Gunicorn, is_running, make_database, resident_bytes, run_gunicorn
from .peer import Ended, Numbered, Peer, tally
from .report import Report, arguments_of, milliseconds
from .rooms import KEPT, LIVE

WORKERS = 2
HONEST, HOSTILE = 60, 30
GROUPS = Size(groups=4, members=5, rate=20.0, history=100)
GRACEFUL = 9.0
"""Seconds from "stop" to "kill": a third of them is the time in which peers have to answer a close frame."""
TIMEOUT = 15.0
"""Seconds that an honest peer waits for an echo, on a loaded machine."""
LEAST_RESTARTS = 2
"""A run on a busy machine lasts until there have been so many."""
UNHARMED = 0.25
"""The last part of the run, in which no worker is killed or stopped: the workers of that time are checked for leaks."""
PATHS = ("/echo", "/detached", "/room", "/db/echo", "/db/detached")
PAGES = ("/", "/work", "/db/page")
COUNTS = ("descriptors", "greenlets", "watchers", "websockets", "databases", "our objects", "members")
WANTED = [r"\[ERROR\] Worker \(pid:\d+\) was sent SIGKILL", *EXPECTED_RECORDS]
"""Log records that are expected."""


def shuffled(chance: random.Random, names: Sequence[str]) -> Iterator[str]:
    """All of them in random order, and again, so that each is used as often as the others."""
    while True:
        yield from chance.sample(names, len(names))


class Chaos:
    """One run."""

    def __init__(self, report: Report, running: Gunicorn, seconds: float, seed: int) -> None:
        self.report, self.gunicorn, self.seconds, self.seed = report, running, seconds, seed
        self.over = False
        self.signalled: set[int] = set()
        """Workers that were signalled to stop, or killed."""
        self.killed: set[int] = set()
        self.signals: list[float] = []
        self.kills: list[float] = []
        self.stops: list[float] = []
        """Seconds from a signal to the end of a worker."""
        self.restarts: Counter[str] = Counter()
        self.closes: Counter[int] = Counter()
        self.table = attacks()
        self.attacks: Counter[str] = Counter()
        self.interrupted: Counter[str] = Counter()
        self.pages: list[float] = []
        self.page_count = self.connections = self.lost_pages = self.lost_handshakes = 0
        self.honest: list[Numbered] = []
        self.crowd = Crowd(self, GROUPS, seed)
        self._attacks = shuffled(random.Random(f"{seed} attacks"), list(self.table))

    def chance(self, name: str) -> random.Random:
        """A random source for each part, so that a seed has the same effect in any order of execution."""
        return random.Random(f"{self.seed} {name}")

    # --- honest peers ----------------------------------------------------------------------------------------------

    def honest_peer(self, number: int) -> None:
        """Connect, exchange messages, close; and again, with back-off after a failure."""
        numbered = Numbered(f"peer{number}", self.chance(f"honest {number}"))
        self.honest.append(numbered)
        chance, failures = numbered.chance, 0
        while not self.over:
            try:
                self.connect(numbered, chance.choice(PATHS))
                failures = 0
            except _Failed:
                failures = min(failures + 1, 5)
            gevent.sleep(chance.uniform(0.05, 0.2) * 2**failures)

    def connect(self, numbered: Numbered, path: str) -> None:
        """One connection, from its handshake to its end."""
        began = time.monotonic()
        numbered.fresh_connection()
        try:
            peer = Peer(self.gunicorn.address, timeout=TIMEOUT)
        except OSError as error:
            raise self.handshake_failed(began, error) from error
        with peer:
            try:
                peer.open(path)
            except (OSError, EOFError, AssertionError) as error:
                raise self.handshake_failed(began, error) from error
            self.gunicorn.seen.add(peer.worker)
            self.connections += 1
            try:
                self.exchange(peer, numbered)
            except Ended as ended:
                self.ended(peer, numbered, path, ended.code)
            except (OSError, AssertionError) as error:
                self.report.violation("order", f"{path}, worker {peer.worker}: {error}")

    def handshake_failed(self, began: float, error: Exception) -> _Failed:
        """Allowed when a worker was killed meanwhile."""
        if self.killed_since(began):
            self.lost_handshakes += 1
        else:
            self.report.violation("handshake", f"an honest peer's failed: {error!r}")
        return _Failed()

    def exchange(self, peer: Peer, numbered: Numbered) -> None:
        """Some messages at a time and a pause, until it is time to close; then wait for the missing echoes."""
        chance = numbered.chance
        leave = time.monotonic() + chance.expovariate(1 / 6)
        while not self.over and time.monotonic() < leave:
            for _ in range(chance.choice((1, 1, 1, 4))):
                peer.write(numbered.next())
            self.receive(peer, numbered, chance.uniform(0.05, 0.6))
        while numbered.waiting:
            self.receive(peer, numbered, 1.0, enough=True)
        peer.write(close_frame(1000))
        while peer.wait(TIMEOUT) is not None:
            pass
        raise AssertionError(f"{numbered.name}: the close was not answered within {TIMEOUT:g} s")

    def receive(self, peer: Peer, numbered: Numbered, seconds: float, enough: bool = False) -> None:
        """Receive for so many seconds; with ``enough`` not longer than echoes are missing."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not (enough and not numbered.waiting):
            received = peer.wait(left)
            if received is not None:
                numbered.check(received)
        assert numbered.oldest < TIMEOUT, f"{numbered.name}: no echo within {TIMEOUT:g} s"

    def ended(self, peer: Peer, numbered: Numbered, path: str, code: int) -> None:
        """Allowed are our own 1000, and the end of a worker that was signalled."""
        self.closes[code] += 1
        allowed = code == 1000 or (code == SHUTDOWN and peer.worker in self.signalled)
        if not allowed and not (code == 1006 and peer.worker in self.killed):
            state = (
                "killed" if peer.worker in self.killed else "stopping" if peer.worker in self.signalled else "running"
            )
            lived = time.monotonic() - peer.started
            sentence = f"{path}, worker {peer.worker} ({state}): {numbered.name} ended with {code} after {lived:.1f} s"
            self.report.violation("close", sentence)

    # --- HTTP ------------------------------------------------------------------------------------------------------

    def page(self, path: str) -> None:
        """Request after request, each on a connection of its own."""
        while not self.over:
            began = time.monotonic()
            try:
                status, _ = self.gunicorn.get(path)
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

    def next_gunicorn(self) -> Gunicorn:
        """See ``groups.Run``."""
        return self.gunicorn

    def killed_since(self, began: float) -> bool:
        """Whether a worker was killed since then (or half a second before: a kill takes time)."""
        return any(at > began - 0.5 for at in self.kills)

    def broker_failed_since(self, began: float) -> bool:
        """See ``groups.Run``."""
        return False

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
            with Peer(self.gunicorn.address, timeout=TIMEOUT) as peer:
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
        """Whether any worker was signalled to stop since then."""
        return any(at > when for at in self.signals)

    # --- signals to workers ----------------------------------------------------------------------------------------

    def harm(self) -> None:
        """One signal after the other, each when all workers are running again."""
        chance = self.chance("harm")
        end = time.monotonic() + self.seconds * (1 - UNHARMED)
        pause = min(4.0, self.seconds / 20)
        for name in shuffled(chance, list(HARM)):
            self.await_workers()
            gevent.sleep(chance.uniform(pause / 4, pause))
            if time.monotonic() > end and self.restarts.total() >= LEAST_RESTARTS:
                break
            self.restarts[name] += 1
            HARM[name](self, chance)

    def await_workers(self) -> None:
        """Wait until ``complete()``."""
        self.report.eventually("workers", self.complete, f"{WORKERS} workers", 30, self.gunicorn.workers)

    def complete(self) -> bool:
        """Whether all workers serve and none is stopping: then it is known which workers a reload stops."""
        return self.gunicorn.complete() and self.signalled.isdisjoint(self.gunicorn.workers())

    def stop(self, chance: random.Random) -> int:
        """SIGTERM to one worker; its pid."""
        pid = chance.choice(self.gunicorn.workers())
        self.expect_end([pid])
        self.gunicorn.send(pid, signal.SIGTERM)
        return pid

    def reload(self, chance: random.Random) -> int:
        """SIGHUP to the arbiter; the pid of one of the workers that it stops."""
        workers = self.gunicorn.workers()
        self.expect_end(workers)
        self.gunicorn.send(self.gunicorn.arbiter, signal.SIGHUP)
        return chance.choice(workers)

    def kill(self, pid: int) -> None:
        """SIGKILL, unless the worker has ended by itself."""
        if is_running(pid):
            self.killed.add(pid)
            self.signalled.add(pid)
            self.kills.append(time.monotonic())
            self.signals.append(time.monotonic())
            self.gunicorn.send(pid, signal.SIGKILL)

    def expect_end(self, workers: Sequence[int]) -> None:
        """These workers are signalled to stop, and their end is checked."""
        self.signalled.update(workers)
        self.signals.append(time.monotonic())
        for pid in workers:
            gevent.spawn(self.watch, pid)

    def watch(self, pid: int) -> None:
        """It has to end before its graceful timeout."""
        began = time.monotonic()
        self.report.eventually("slow stop", lambda: not is_running(pid), f"the end of worker {pid}", GRACEFUL)
        self.stops.append(time.monotonic() - began)

    # --- before and after ------------------------------------------------------------------------------------------

    def warm_up(self, pid: int) -> None:
        """Use everything that allocates something at its first use."""
        with self.gunicorn.alone(pid):
            for path in PAGES * 2:
                self.gunicorn.get(path)
            for path in (*PATHS, "/quiet-room") * 3:
                with Peer(self.gunicorn.address) as peer:
                    peer.open(path)
                    if path != "/quiet-room":
                        peer.text("warm")
                        peer.read_frame()
                    peer.close_handshake()
            for name, kind in itertools.product((KEPT, LIVE), KINDS):
                with Peer(self.gunicorn.address) as peer, Peer(self.gunicorn.address) as publisher:
                    peer.open(f"/groups/member?names={name}.warm&kind={kind}")
                    peer.read_frame()
                    publisher.open("/groups/publisher")
                    publisher.text(f"{name}.warm {text_of('warm', 10)}")
                    peer.read_frame()
                    publisher.read_frame()
                    publisher.close_handshake()
                    peer.close_handshake()

    def settled(self, pid: int, most: dict[str, int], seconds: float) -> dict[str, Any]:
        """What a worker holds, when it is not more than ``most`` or when the time has passed: that is a violation."""
        held: dict[str, Any] = {}

        def down() -> bool:
            held.update(self.gunicorn.held(pid))
            return all(held[name] <= most[name] for name in most)

        def excess() -> str:
            over = [f"{held[name]} {name} instead of {most[name]}" for name in most if held[name] > most[name]]
            return f"{', '.join(over)}; objects: {held['kinds']}"

        self.report.eventually("leak", down, f"worker {pid} to hold what a fresh one does", seconds, excess)
        return held

    def base_line(self) -> dict[str, int]:
        """What a worker holds after a warm-up: the maximum over all workers."""
        # The logs of groups stay open: that of the run, and that of Django, in which the worker follows logouts.
        quiet = {"websockets": 0, "databases": 2, "members": 0}
        found = []
        for pid in self.gunicorn.workers():
            self.warm_up(pid)
            found.append(self.settled(pid, quiet, 10))
        return {name: max(one[name] for one in found) for name in COUNTS}

    def check_for_leaks(self, base: dict[str, int]) -> None:
        """No running worker holds more than that."""
        self.await_workers()
        for number, pid in enumerate(self.gunicorn.workers(), 1):
            self.warm_up(pid)
            held = self.settled(pid, base, min(30.0, 12.0 + self.seconds))
            counts = ", ".join(f"{held[name]} {name}" for name in COUNTS)
            self.report.figures[f"worker {number} at the end"] = f"{counts}; {resident_bytes(pid) / 2**20:.1f} MiB"
        self.report.figures["a fresh worker"] = ", ".join(f"{base[name]} {name}" for name in COUNTS)

    # --- the run ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Everything."""
        self.await_workers()
        base = self.base_line()
        group, members, publishers = Group(), Group(), Group()
        self.crowd.spawn(members)
        self.crowd.spawn_publishers(publishers, GROUPS.rate)
        for number in range(HONEST):
            group.spawn(self.honest_peer, number)
        for path in PAGES:
            group.spawn(self.page, path)
        for number in range(HOSTILE):
            group.spawn(self.hostile_peer, number)
        harm = gevent.spawn(self.harm)
        progress = self.report.progress(self.line)
        harm.get()
        gevent.sleep(self.seconds * UNHARMED)
        self.crowd.is_published = True
        publishers.join(60)
        self.over = True
        self.report.log("stopping: waiting until all peers have ended")
        self.crowd.check()
        members.kill()
        group.join(60)
        if len(group) or len(publishers):
            self.report.violation("stuck", f"{len(group) + len(publishers)} peers did not come to an end")
        progress.kill()
        self.check_for_leaks(base)
        self.write_figures()

    def line(self) -> str:
        """The progress."""
        answered = sum(one.answered for one in self.honest)
        return (
            f"{self.connections:,} connections, {answered:,} echoes, {self.page_count:,} pages, "
            f"{self.attacks.total():,} attacks ({self.interrupted.total()} cut short), {self.restarts.total()} restarts"
        )

    def write_figures(self) -> None:
        """The figures."""
        figures = self.report.figures
        worst = max(self.honest, key=lambda one: one.worst)
        figures["honest connections"] = self.connections
        figures["messages sent"] = sum(one.sent for one in self.honest)
        figures["echoes in order"] = sum(one.answered for one in self.honest)
        figures["worst echo, ms"] = worst.worst * 1000
        figures["closes by code"] = tally(self.closes)
        figures["handshakes lost to SIGKILL"] = self.lost_handshakes
        self.crowd.write_figures(figures)
        figures["HTTP requests"] = self.page_count
        figures["HTTP p50/p99/worst of /, ms"] = milliseconds(self.pages)
        figures["HTTP requests lost to SIGKILL"] = self.lost_pages
        figures["restarts"] = tally(self.restarts)
        figures["stops of workers p50/p99/worst, ms"] = milliseconds(self.stops)
        figures["attacks"] = self.attacks.total()
        figures["attacks cut short by a restart"] = self.interrupted.total()
        figures["kinds of attacks"] = f"{len(self.attacks)} of {len(self.table)}"
        for name in sorted(self.table, key=lambda name: (int(name.split()[0]), name)):
            figures[f"  {name}"] = self.attacks[name]


class _Failed(Exception):  # noqa: N818 - it is a fact
    """There was no connection; the violation is reported already."""


def _kill(chaos: Chaos, chance: random.Random) -> None:
    chaos.kill(chance.choice(chaos.gunicorn.workers()))


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
    """Run for so many seconds, and then wait for the end of all peers."""
    env = {f"GWS_{name.upper()}": str(value) for name, value in settings().items()}
    env |= {"STRESS_DJANGO": "1", "STRESS_FAULTS": faults}
    make_database(directory)
    start = partial(run_gunicorn, options=["--keep-alive", "2"], env=env, graceful_timeout=GRACEFUL, expected=WANTED)
    with start(report, directory, WORKERS) as running:
        Chaos(report, running, seconds, seed).run()


def run(arguments: list[str]) -> int:
    """The command line."""
    parser = arguments_of("chaos", __doc__, 300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    report = Report("chaos")
    return report.run(options, lambda folder: main(report, folder, options.seconds, options.seed, options.faults))
