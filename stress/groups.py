"""Groups: every member gets every message in order, while workers are killed, reloaded and stopped for a time.

Four workers, which share a log in SQLite; with ``--redis`` eight, in two gunicorns with different directories, which
share a Redis server that fails in every way meanwhile. Members of groups, half of which have a history; some stay, some
reconnect by themselves, some are away for longer than the history lasts, and one of a hundred reads nothing. Publishers
in views, in ``on_message``, in a process that gevent has not patched, and in children that this process has forked.
What must hold, or the exit status is 1:

* A member gets every message of its group once and in the same order as all others while it is connected.
* One that reconnects with its position gets what it has missed, if the history has it; otherwise it is reported.
* What Redis has lost is reported to each member that has not got it, and positions belong to one epoch.
* What was acknowledged to a publisher is there.
* A peer that reads nothing is closed with 1013, and others are not delayed: of a hundred messages 99 have reached all
  members within ``--bound`` seconds, those not counted that were sent while something happened to a worker or to Redis.
* A connection ends with 1012 only when its worker was signalled, and without a close frame only when it was killed.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol

import gevent
from gevent.pool import Group

from gws_middleware.groups import Position
from tests.support.brokers import VALKEY, Broker, broker
from tests.support.rawclient import CLOSE, TEXT, close_frame, frame
from tests.support.servers import ROOT

from .attacks import SHUTDOWN
from .delivery import Message, Room, Seat, delays, text_of
from .gunicorn import Gunicorn, is_running, run_gunicorn
from .peer import Ended, Peer, tally
from .report import Report, arguments_of, milliseconds, percentile
from .rooms import KEPT, LIVE, UNAVAILABLE, log_in

WORKERS = 4
"""Of each gunicorn."""
GROUPS, MEMBERS, RATE, HISTORY = 50, 20, 500.0, 100
BYTES = 600
"""Bytes of the longest message."""
BOUND = 0.5
GRACEFUL = 15.0
"""Seconds from "stop" to "kill": a third of them is the time that handshakes and close frames have."""
TIMEOUT = 20.0
"""Seconds that a handshake or an answer to a publisher may take while a worker is stopped."""
SLOW = 100
"""One member of so many reads nothing."""
SEND_LIMIT = 32 * 1024
BUFFER = 8 * 1024
"""Bytes of the kernel's buffers: with these a peer that reads nothing is too slow after few messages."""
CHILDREN = 2
TOO_SLOW = 1013
MISSED = "messages were missed"
"""The reason with the same code, where a group with history has lost some."""
KINDS = ("detached", "attached", "handler")
QUIET = 0.3
"""The last part of the run, in which nothing happens to workers and to Redis."""
AFTER = 1.0
"""Seconds after a worker was stopped or replaced in which its members may still be served late."""
AGAIN = 3.0
"""Seconds after a failure of Redis in which the members that it has closed, half of all, connect again."""
STOPPED = 10.0
"""Seconds for which Redis is stopped at most."""
OPTIONS = ["--keep-alive", "20"]
"""gunicorn closes a connection from which it has not read a request in so many seconds (2 by default), unanswered."""
WANTED = [r"\[ERROR\] Worker \(pid:\d+\) was sent SIGKILL", r"groups: (outage|the outage)"]
"""Log records that are expected: an outage is reported to publishers, too."""
WANTED_OF_REDIS = [
    *WANTED,
    r"groups: messages may be missing:",
    r"groups: group \S+: messages are missing, and the history does not have them",
    r"groups: the members of this process are not visible to other processes:",
]
WANTED_AFTER_FLUSHALL = r"groups: the members of this process are visible again:"
"""A worker finds that its records are not there: nowhere else, where no worker is stopped for long."""


class Run(Protocol):
    """What a crowd needs to know of the run that it belongs to."""

    report: Report
    over: bool
    signalled: set[int]
    killed: set[int]

    def next_gunicorn(self) -> Gunicorn:
        """The server that the next connection goes to."""

    def killed_since(self, began: float) -> bool:
        """Whether a worker was killed since then."""

    def broker_failed_since(self, began: float) -> bool:
        """Whether something has happened to Redis since then, or shortly before."""


@dataclass(frozen=True)
class Size:
    """How much is done."""

    groups: int = GROUPS
    members: int = MEMBERS
    rate: float = RATE
    """Messages a second, of all publishers."""
    history: int = HISTORY
    slow: int = 0
    """Members of all groups that read nothing."""


class Crowd:
    """Members and publishers."""

    def __init__(self, run: Run, size: Size, seed: int) -> None:
        self.run, self.size, self._seed = run, size, seed
        names = [f"{KEPT if number % 2 else LIVE}.{number}" for number in range(size.groups)]
        self.rooms = {name: Room(name, size.history, run.report.violation) for name in names}
        self.closes: Counter[int] = Counter()
        self.slow: Counter[str] = Counter()
        self.lost_handshakes = 0
        self.is_published = False
        """Whether all publishers have ended."""

    def chance(self, name: str) -> random.Random:
        """A random source for each part."""
        return random.Random(f"{self._seed} {name}")

    # --- members ---------------------------------------------------------------------------------------------------

    def member(self, room: Room, number: int) -> None:
        """One member of a room, connection after connection."""
        chance = self.chance(f"{room.name} {number}")
        since: Position | None = None
        failures = 0
        while not self.run.over:
            # Half of the members stay until their worker ends.
            stay = chance.expovariate(1 / 8) + 1 if number % 2 else float("inf")
            seat = Seat(room, f"member {number} of {room.name}", since)
            failures = 0 if self._serve(seat, KINDS[number % len(KINDS)], stay) else min(failures + 1, 5)
            since = seat.position
            long_away = chance.random() < 0.1 and not failures
            away = 1.2 * self.size.history / (self.size.rate / self.size.groups) if long_away else 0.0
            gevent.sleep(min(away, 20.0) + chance.uniform(0.05, 0.3) * 2**failures)

    def _serve(self, seat: Seat, kind: str, stay: float) -> bool:
        """One connection; False if there was none."""
        since = "" if seat.position is None else f"&since={seat.position}"
        peer = self._connect(f"/groups/member?names={seat.room.name}&kind={kind}{since}")
        if peer is None:
            return False
        seat.name += f", worker {peer.worker}"
        with peer:
            peer.timeout = None
            peer.sock.settimeout(None)
            try:
                self._read(peer, seat, time.monotonic() + stay)
            except Ended as ended:
                seat.end()
                self._closed(seat, peer, ended.code)
            finally:
                seat.end()
        return True

    def _connect(self, path: str, **options: Any) -> Peer | None:
        """An accepted WebSocket."""
        began, run = time.monotonic(), self.run
        gunicorn = run.next_gunicorn()
        try:
            peer = Peer(gunicorn.address, timeout=TIMEOUT, **options)
            try:
                peer.open(path)
            except BaseException:
                peer.close()
                raise
        except (OSError, EOFError, AssertionError) as error:
            if run.killed_since(began):
                self.lost_handshakes += 1
            else:
                run.report.violation("handshake", f"of {path}: {error!r}")
            return None
        gunicorn.seen.add(peer.worker)
        return peer

    def _read(self, peer: Peer, seat: Seat, leave: float) -> None:
        """Read until it is time to close, and what comes until the server has answered the close frame."""
        is_leaving = False
        while True:
            received = _next(peer)
            if received.opcode == CLOSE:
                code = received.code or 1005
                peer.write(close_frame(code))
                raise Ended(code)
            if not is_leaving:
                seat.receive(received.payload.decode())
                if time.monotonic() > leave and seat.is_member and not self.run.over:
                    is_leaving = True
                    seat.end()
                    peer.write(close_frame(1000))

    def _closed(self, seat: Seat, peer: Peer, code: int) -> None:
        """A connection has ended; 1013 reports a loss in a group with history, whose members have no ``on_gap``."""
        self.closes[code] += 1
        run = self.run
        allowed = code == 1000 or (code == SHUTDOWN and peer.worker in run.signalled)
        allowed = allowed or (code == 1006 and peer.worker in run.killed)
        allowed = allowed or (code == TOO_SLOW and seat.room.has_history)
        allowed = allowed or (code == UNAVAILABLE and run.broker_failed_since(peer.started))
        if not allowed:
            lived = time.monotonic() - peer.started
            run.report.violation("close", f"{seat.name}: ended with {code} after {lived:.1f} s")

    def slow_member(self, number: int) -> None:
        """A member of all groups that reads nothing until so much was published that it is too slow."""
        chance = self.chance(f"slow {number}")
        while not self.run.over:
            names, kind = ",".join(self.rooms), chance.choice(KINDS[:2])  # a handler has a queue of its own
            peer = self._connect(f"/groups/member?names={names}&kind={kind}", receive_buffer=4096)
            if peer is not None:
                with peer:
                    self._starve(peer)
            gevent.sleep(chance.uniform(0.5, 1.5))

    def _starve(self, peer: Peer) -> None:
        enough = self.published() + 1.7 * (SEND_LIMIT + BUFFER) / (BYTES / 2)
        while self.published() < enough and not self.run.over:
            gevent.sleep(0.1)
        if self.published() < enough:
            return
        peer.sock.settimeout(TIMEOUT)
        try:
            while (received := _next(peer)).opcode != CLOSE:
                pass
            code, reason = received.code, received.payload[2:].decode()
        except Ended as ended:
            code, reason = ended.code, ""
        except TimeoutError:
            code, reason = 0, ""
        if (code, reason) == (TOO_SLOW, MISSED):  # Redis has lost something before it was too slow
            self.slow[f"{code} {MISSED}"] += 1
            return
        self.slow[str(code)] += 1
        # A stopping worker cannot send its close frame to a peer that reads nothing.
        allowed = code in (SHUTDOWN, 1006) and peer.worker in self.run.signalled
        allowed = allowed or (code == UNAVAILABLE and self.run.broker_failed_since(peer.started))
        if code != TOO_SLOW and not allowed:
            self.run.report.violation("slow", f"a peer that reads nothing, worker {peer.worker}: ended with {code}")

    # --- publishers ------------------------------------------------------------------------------------------------

    def published(self) -> int:
        """Messages that were answered."""
        return sum(room.counts.total() for room in self.rooms.values())

    def publisher(self, kind: str, number: int, rate: float) -> None:
        """A WebSocket whose messages are published, one after the other."""
        chance = self.chance(f"{kind} {number}")
        count = 0
        while not self.is_published:
            peer = self._connect(f"/groups/{kind}")
            if peer is None:
                gevent.sleep(chance.uniform(0.1, 1.0))
                continue
            with peer:
                try:
                    while not self.is_published:
                        count += 1
                        self._publish(peer, chance, f"{kind}.{number}:{count}")
                        gevent.sleep(chance.expovariate(rate))
                except Ended as ended:
                    worker = peer.worker
                    expected = {SHUTDOWN: self.run.signalled, 1006: self.run.killed}.get(ended.code, set())
                    if worker not in expected:
                        self.run.report.violation("close", f"{kind}, worker {worker}: ended with {ended.code}")
                except TimeoutError:
                    self.run.report.violation("publish", f"{kind}, worker {peer.worker}: no answer in {TIMEOUT:g} s")

    def _publish(self, peer: Peer, chance: random.Random, message_id: str) -> None:
        room = chance.choice(list(self.rooms.values()))
        text = text_of(message_id, chance.randrange(BYTES))
        sent = time.monotonic()
        peer.sock.settimeout(TIMEOUT)
        peer.write(frame(TEXT, f"{room.name} {text}".encode()))
        received = _next(peer)
        if received.opcode == CLOSE:
            peer.write(close_frame(received.code))
            raise Ended(received.code or 1005)
        answer = received.payload.decode()
        if answer.split(" ")[1] != message_id:
            self.run.report.violation("publish", f"{message_id} was answered with {answer!r}")
        room.answered(answer, sent, time.monotonic())

    @contextmanager
    def processes(self, url: str, rate: float) -> Iterator[None]:
        """An unpatched process and its children publish for a ``with`` block, each with this rate."""
        arguments = [url, self.size.history, list(self.rooms), rate, CHILDREN, BYTES]
        command = [sys.executable, "-m", "stress.publisher", json.dumps(arguments)]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            reader = gevent.spawn(self._read_answers, process)
            try:
                yield
                assert process.stdin is not None
                process.stdin.close()
                reader.get(timeout=TIMEOUT)
                if process.wait(TIMEOUT):
                    self.run.report.violation("publish", f"the unpatched process has ended with {process.returncode}")
            finally:
                process.kill()

    def _read_answers(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            name, sent, now, answer = line.rstrip("\n").split(" ", 3)
            self.rooms[name].answered(answer, float(sent), float(now))

    # --- the run ---------------------------------------------------------------------------------------------------

    def spawn(self, group: Group) -> None:
        """Start all members."""
        for room in self.rooms.values():
            for number in range(self.size.members):
                group.spawn(self.member, room, number)
        for number in range(self.size.slow):
            group.spawn(self.slow_member, number)

    def spawn_publishers(self, group: Group, rate: float) -> None:
        """Start those that are WebSockets, of each kind as many as it takes for this rate."""
        count = max(1, round(rate / 2 / 12))
        for kind in ("publisher", "publisher-detached"):
            for number in range(count):
                group.spawn(self.publisher, kind, number, rate / 2 / count)

    def check(self) -> None:
        """After the last message: all members get it, and nothing is wrong."""

        def late() -> list[Seat]:
            return [seat for room in self.rooms.values() for seat in room.incomplete()]

        def names() -> str:
            return "; ".join(f"{seat.name} has {seat.last or seat.position}" for seat in late()[:5])

        self.run.report.eventually(
            "missing", lambda: not late(), "all members to have the last message", TIMEOUT, names
        )
        for room in self.rooms.values():
            room.check()

    def counts(self) -> Counter[str]:
        """Of all rooms."""
        return sum((room.counts for room in self.rooms.values()), Counter())

    def line(self) -> str:
        """The progress."""
        members = sum(seat.is_member for room in self.rooms.values() for seat in room.seats)
        return f"{members:,} members, {tally(self.counts())}; closes: {tally(self.closes)}"

    def messages(self) -> list[Message]:
        """Of all rooms."""
        return [message for room in self.rooms.values() for message in room.messages.values()]

    def write_figures(self, figures: dict[str, Any]) -> None:
        """The figures."""
        counts = self.counts()
        figures["groups: connections of members"] = sum(len(room.seats) for room in self.rooms.values())
        figures["groups: messages acknowledged"] = counts["ack"]
        figures["groups: refused, unknown"] = f"{counts['refused']}, {counts['unknown']}"
        figures["groups: reconnects recovered"] = counts["recovered"]
        figures["groups: not recovered, as reported"] = counts["not recovered"]
        figures["groups: gaps, as reported"] = counts["gaps"]
        figures["groups: closes by code"] = tally(self.closes)
        figures["groups: of peers that read nothing"] = tally(self.slow)
        figures["groups: handshakes lost to SIGKILL"] = self.lost_handshakes


def _next(peer: Peer) -> Any:
    """The next frame; Ended where there is none."""
    try:
        return peer.read_frame()
    except TimeoutError:
        raise
    except (EOFError, OSError):
        raise Ended(1006) from None


class Groups:
    """One run of the program.

    Args:
        report: Of the run.
        running: The servers.
        redis: What they share; None for a log in SQLite.
        seconds: How long.
        size: How much.
        seed: Of all that is random.

    """

    def __init__(
        self,
        report: Report,
        running: Sequence[Gunicorn],
        redis: Broker | None,
        seconds: float,
        size: Size,
        seed: int,
    ) -> None:
        self.report, self.running, self.seconds = report, running, seconds
        self._redis, self._turns = redis, cycle(running)
        self.over = False
        self.signalled: set[int] = set()
        self.killed: set[int] = set()
        self._kills: list[float] = []
        self.disturbances: list[tuple[float, float]] = []
        """When something happened to a worker or to Redis: from, until."""
        self.harms: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self._failed_until = 0.0
        self.lateness: list[float] = []
        self.crowd = Crowd(self, size, seed)
        self._chance = random.Random(f"{seed} harm")
        self._chance_of_failure = random.Random(f"{seed} failure")

    def next_gunicorn(self) -> Gunicorn:
        """All of them in turn."""
        return next(self._turns)

    def killed_since(self, began: float) -> bool:
        """Whether a worker was killed since then."""
        return any(at > began - 0.5 for at in self._kills)

    def broker_failed_since(self, began: float) -> bool:
        """Whether something has happened to Redis since then, or so short a time before that a worker need not be
        connected to it again.
        """
        return self._failed_until > began

    def _in_turn(
        self, kinds: Mapping[str, object], done: Counter[str], chance: random.Random, end: float
    ) -> Iterator[str]:
        """All of them in random order, again and again, with a pause before each; until it is time to end and all of
        them are done.
        """
        every = min(4.0, self.seconds / 6)
        while time.monotonic() < end:
            for name in chance.sample(list(kinds), len(kinds)):
                self.await_workers()
                gevent.sleep(chance.uniform(every / 2, every))
                if time.monotonic() > end and done.total() >= len(kinds):
                    return
                yield name
                done[name] += 1

    # --- what happens to workers -----------------------------------------------------------------------------------

    def harm(self, end: float) -> None:
        """One thing after the other, each when all workers serve."""
        for name in self._in_turn(HARM, self.harms, self._chance, end):
            began = time.monotonic()
            HARM[name](self)
            self.await_workers()
            self.disturbances.append((began - AFTER, time.monotonic() + AFTER))

    def await_workers(self) -> None:
        """Wait until all workers serve, and none is stopping."""

        def complete() -> bool:
            return all(one.complete() and self.signalled.isdisjoint(one.workers()) for one in self.running)

        def workers() -> list[list[int]]:
            return [one.workers() for one in self.running]

        self.report.eventually("workers", complete, f"{WORKERS} workers of each gunicorn", 30, workers)

    def kill(self) -> None:
        """SIGKILL to one worker."""
        gunicorn = self._chance.choice(self.running)
        pid = self._chance.choice(gunicorn.workers())
        if is_running(pid):
            self.killed.add(pid)
            self.signalled.add(pid)
            self._kills.append(time.monotonic())
            gunicorn.send(pid, signal.SIGKILL)

    def reload(self) -> None:
        """SIGHUP to an arbiter."""
        gunicorn = self._chance.choice(self.running)
        self.signalled.update(gunicorn.workers())
        gunicorn.send(gunicorn.arbiter, signal.SIGHUP)

    def pause(self) -> None:
        """SIGSTOP to one worker, and SIGCONT after some seconds."""
        gunicorn = self._chance.choice(self.running)
        pid = self._chance.choice(gunicorn.workers())
        gunicorn.send(pid, signal.SIGSTOP)
        gevent.sleep(self._chance.uniform(0.5, min(3.0, self.seconds / 8)))
        gunicorn.send(pid, signal.SIGCONT)

    # --- what happens to Redis -------------------------------------------------------------------------------------

    def fail(self, redis: Broker, end: float) -> None:
        """One failure after the other, whatever happens to workers meanwhile."""
        for name in self._in_turn(FAILURES, self.failures, self._chance_of_failure, end):
            began, self._failed_until = time.monotonic(), float("inf")
            FAILURES[name](self, redis)
            now = time.monotonic()
            # Workers that could not connect wait for twice as long as the last time: not longer than it has failed.
            self._failed_until = now + (now - began) + AFTER
            self.disturbances.append((began - AFTER, self._failed_until + AGAIN))

    def _sleep(self, most: float) -> None:
        """Up to so many seconds; not so many in a short run."""
        gevent.sleep(self._chance_of_failure.uniform(0.3, max(0.5, min(most, self.seconds / 8))))

    def stop_redis(self, redis: Broker) -> None:
        """SIGSTOP, and SIGCONT after some seconds."""
        redis.kill(signal.SIGSTOP)
        self._sleep(STOPPED)
        redis.kill(signal.SIGCONT)

    def restart_redis(self, redis: Broker) -> None:
        """SIGKILL, and a new process that has nothing."""
        redis.kill()
        (redis.directory / "dump.rdb").unlink(missing_ok=True)
        self._sleep(1.0)
        redis.start()

    def restore_redis(self, redis: Broker) -> None:
        """SIGKILL, and a new process that has what there was some time before."""
        self.ask(redis, "SAVE")
        self._sleep(2.0)
        redis.kill()
        redis.start()

    def ask(self, redis: Broker, *words: str) -> None:
        """A command; another answer than an error is right."""
        answer = redis.ask(*words)
        if answer[:1] not in (b"+", b":"):
            self.report.violation("redis", f"{' '.join(words)} was answered with {answer!r}")

    # --- the run ---------------------------------------------------------------------------------------------------

    def watch_lateness(self) -> None:
        """How late this program is itself, which is part of each delay."""
        while True:
            due = time.monotonic() + 0.05
            gevent.sleep(0.05)
            self.lateness.append(time.monotonic() - due)

    def run(self, url: str, bound: float) -> None:
        """Everything."""
        self.await_workers()
        crowd, members, publishers = self.crowd, Group(), Group()
        lateness = gevent.spawn(self.watch_lateness)
        began = time.monotonic()
        progress = self.report.progress(crowd.line)
        rate = crowd.size.rate / 2
        crowd.spawn(members)
        gevent.sleep(min(2.0, self.seconds / 5))
        self.disturbances.append((0.0, time.monotonic()))
        end = began + self.seconds * (1 - QUIET)
        with crowd.processes(url, rate / (1 + CHILDREN)):
            crowd.spawn_publishers(publishers, rate)
            failing = [] if self._redis is None else [gevent.spawn(self.fail, self._redis, end)]
            self.harm(end)
            gevent.joinall(failing, raise_error=True)
            calm_from = max(time.monotonic(), *(until for _, until in self.disturbances))
            gevent.sleep(max(calm_from + self.seconds * QUIET, began + self.seconds) - time.monotonic())
            self.report.eventually(
                "slow",
                lambda: crowd.slow[str(TOO_SLOW)],
                "a peer that reads nothing to be closed with 1013",
                TIMEOUT,
                lambda: tally(crowd.slow),
            )
            crowd.is_published = True
        publishers.join(2 * TIMEOUT)
        if len(publishers):
            self.report.violation("stuck", f"{len(publishers)} publishers did not end")
        self.over = True
        crowd.check()
        progress.kill()
        lateness.kill()
        members.kill()
        figures, messages = self.report.figures, crowd.messages()
        calm = delays(messages, self.disturbances)
        crowd.write_figures(figures)
        figures["p50/p99/worst to the last member, ms"] = f"{milliseconds(calm)} ({len(calm):,} messages)"
        figures["the same, with the disturbed ones, ms"] = milliseconds(delays(messages, ()))
        figures["how late this program was itself, ms"] = milliseconds(self.lateness)
        figures["what happened to workers"] = tally(self.harms)
        if self._redis is not None:
            figures["what happened to Redis"] = tally(self.failures)
        if (p99 := percentile(calm, 0.99)) > bound or not calm:
            self.report.violation(
                "bound", f"p99 of {len(calm)} messages is {p99 * 1000:.0f} ms, not {bound * 1000:g} ms"
            )


HARM = {"SIGKILL": Groups.kill, "SIGHUP": Groups.reload, "SIGSTOP": Groups.pause}


def _command(*words: str) -> Callable[[Groups, Broker], None]:
    """A failure that Redis is asked for."""
    return lambda run, redis: run.ask(redis, *words)


FAILURES: dict[str, Callable[[Groups, Broker], None]] = {
    "SIGSTOP": Groups.stop_redis,
    "SIGKILL": Groups.restart_redis,
    "SIGKILL with a snapshot": Groups.restore_redis,
    "FLUSHALL": _command("FLUSHALL"),
    "SCRIPT FLUSH": _command("SCRIPT", "FLUSH"),
    "CLIENT KILL pubsub": _command("CLIENT", "KILL", "TYPE", "pubsub"),
    "CLIENT KILL normal": _command("CLIENT", "KILL", "TYPE", "normal"),
}


def main(
    report: Report,
    directory: Path,
    seconds: float,
    size: Size,
    seed: int,
    bound: float = BOUND,
    faults: str = "",
    program: str | None = None,
) -> None:
    """Run for so many seconds; with a Redis server where its program is named."""
    env = {"STRESS_FAULTS": faults, "STRESS_HISTORY": str(size.history), "GWS_SEND_LIMIT": str(SEND_LIMIT)}
    start = partial(run_gunicorn, options=OPTIONS, graceful_timeout=GRACEFUL, send_buffer=BUFFER)
    with ExitStack() as stack:
        if program is None:
            redis, url = None, log_in(directory)
            running = [stack.enter_context(start(report, directory, WORKERS, env=env, expected=WANTED))]
        else:
            redis = stack.enter_context(broker(directory / "redis", program=program))
            url = redis.url
            hosts = [directory / "one", directory / "two"]
            start = partial(
                start, env={**env, "STRESS_GROUPS": url}, expected=[*WANTED_OF_REDIS, WANTED_AFTER_FLUSHALL]
            )
            running = [stack.enter_context(start(report, host, WORKERS)) for host in hosts]
        Groups(report, running, redis, seconds, size, seed).run(url, bound)


def run(arguments: list[str]) -> int:
    """The command line."""
    parser = arguments_of("groups", __doc__, 120)
    parser.add_argument("--groups", type=int, default=GROUPS)
    parser.add_argument("--members", type=int, default=MEMBERS, help="of each group")
    parser.add_argument("--rate", type=float, default=RATE, help="messages a second")
    parser.add_argument("--history", type=int, default=HISTORY, help="messages that a group keeps")
    parser.add_argument("--bound", type=float, default=BOUND, help="seconds within which 99 of 100 have arrived")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--redis",
        nargs="?",
        const=VALKEY,
        metavar="PROGRAM",
        help="two gunicorns over this server (default: Valkey), not one over SQLite",
    )
    options = parser.parse_args(arguments)
    slow = max(1, options.groups * options.members // SLOW)
    size = Size(options.groups, options.members, options.rate, options.history, slow)
    report = Report("groups")
    rest = options.seconds, size, options.seed, options.bound, options.faults, options.redis
    return report.run(options, lambda folder: main(report, folder, *rest))
