"""A soak: one worker, every kind of use at a steady rate, and the slope of its memory.

At the same time: short connections with a few echoes (in a view, detached, compressed, in the room; ended by a close
frame, an EOF or a RST), long connections, members of a room that receive what one of them sends, attacks on memory,
slots and writes, and HTTP. The resident memory of the worker is read every second. After a warm-up a line is fitted to
it (least squares).

The exit status is 1 when it clearly rises: the line gains more than ``GROWTH`` in what was measured, and more than
``EACH`` bytes for each short connection, and so does its lower bound (two standard errors below). The first decides in
a short run; it is more than the variation of an allocator, which depends on how connections overlap. The second decides
in a long run; it is less than the smallest object, also with one object for each of the four messages of a connection.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import gevent
from gevent.pool import Group

from tests.support.rawclient import CLOSE, CONTINUATION, DEFLATE, PING, TEXT, Frame, close_frame, deflated, frame

from .attacks import EXPECTED_RECORDS, Attack, resource_attacks
from .gunicorn import Gunicorn, resident_bytes, run_gunicorn
from .peer import Ended, Numbered, Peer, tally
from .report import Report, arguments_of

KIB, MIB = 2**10, 2**20
GROWTH = MIB // 2
"""Bytes that the line may gain over all that was measured."""
EACH = 16
"""Bytes that it may gain for each connection."""
RATE = 50.0
"""Short connections per second."""
LASTING = 40
"""Long connections of each kind."""
WARM_UP = 0.4
"""Part of the run that is not measured, at most ``LONGEST_WARM_UP`` seconds."""
LONGEST_WARM_UP = 300.0
PAUSE = 7.5
"""Seconds after each round of attacks."""
TIMEOUT = 20.0


class Sample(NamedTuple):
    """One measurement of the worker."""

    at: float
    resident: int
    connections: int


class Line(NamedTuple):
    """A straight line through samples."""

    slope: float
    """Of the memory, in bytes per second."""
    error: float
    """Standard error of the slope."""


def fit(samples: Sequence[Sample]) -> Line:
    """Least squares."""
    count = len(samples)
    middle = sum(one.at for one in samples) / count
    mean = sum(one.resident for one in samples) / count
    spread = sum((one.at - middle) ** 2 for one in samples)
    slope = sum((one.at - middle) * (one.resident - mean) for one in samples) / spread
    rest = sum((one.resident - mean - slope * (one.at - middle)) ** 2 for one in samples)
    return Line(slope, math.sqrt(rest / max(1, count - 2) / spread))


def rises(samples: Sequence[Sample], line: Line, growth: float = GROWTH) -> bool:
    """Whether memory clearly grows: by more than ``growth`` bytes in all."""
    seconds = samples[-1].at - samples[0].at
    connections = samples[-1].connections - samples[0].connections
    least = (line.slope - 2 * line.error) * seconds
    return line.slope * seconds > growth and least > EACH * connections


def chart(samples: Sequence[Sample], columns: int = 72, rows: int = 8) -> str:
    """The memory over the time, as text: the highest of each column."""
    size = max(1, math.ceil(len(samples) / columns))
    tops = [max(one.resident for one in samples[at : at + size]) for at in range(0, len(samples), size)]
    low, high = min(tops), max(tops)
    step = max(1, (high - low) / (rows - 1))
    levels = [round((top - low) / step) for top in tops]
    lines = []
    for row in reversed(range(rows)):
        mark = f"{(low + row * step) / MIB:7.2f} MiB" if row in (0, rows - 1) else " " * 11
        lines.append(f"  {mark} |{''.join('#' if level >= row else ' ' for level in levels)}".rstrip())
    return "\n".join([*lines, f"  {'':11} +{'-' * len(tops)} {samples[-1].at - samples[0].at:.0f} s"])


class Soak:
    """One run."""

    def __init__(self, report: Report, running: Gunicorn, seconds: float, rate: float, growth: float) -> None:
        self.report, self.gunicorn, self.seconds, self.rate, self.growth = report, running, seconds, rate, growth
        self.over = self.quiet = self.attacked = False
        self.samples: list[Sample] = []
        self.counts: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.lasting: list[Numbered] = []
        [self.worker] = running.workers()

    # --- short connections -----------------------------------------------------------------------------------------

    def short_connections(self, slot: int, slots: int) -> None:
        """One connection after the other; all slots together keep the rate."""
        chance = random.Random(slot)
        due = time.monotonic() + slot / self.rate
        ways = [self.echoes, self.detached, self.compressed, self.in_the_room, self.bursts]
        number = slot
        while not self.over:
            gevent.sleep(max(0.0, due - time.monotonic()))
            due += slots / self.rate
            way = ways[number % len(ways)]
            number += 1
            try:
                with Peer(self.gunicorn.address) as peer:
                    way(peer)
                    self.end(peer, chance.choice(("close frame", "close frame", "EOF", "RST")))
                self.counts[way.__name__.replace("_", " ")] += 1
            except (OSError, EOFError, AssertionError) as error:
                self.report.violation("connection", f"{way.__name__}: {error!r}")

    def end(self, peer: Peer, how: str) -> None:
        """End the connection in one of three ways."""
        self.ends[how] += 1
        if how == "close frame":
            peer.close_handshake()
        elif how == "EOF":
            peer.close()
        else:
            peer.reset()

    def echoes(self, peer: Peer) -> None:
        """A view that runs as long as the connection is open."""
        self._echo(peer, "/echo")

    def detached(self, peer: Peer) -> None:
        """A view that detaches and returns."""
        self._echo(peer, "/detached")

    def _echo(self, peer: Peer, path: str) -> None:
        peer.open(path)
        for size in (10, 1000, 20_000):
            peer.write(frame(TEXT, b"x" * size))
            assert _unpinged(peer) == Frame(TEXT, b"x" * size)

    def compressed(self, peer: Peer) -> None:
        """With permessage-deflate; the answer comes compressed, too."""
        peer.open("/echo", DEFLATE)
        peer.write(frame(TEXT, deflated(b"compressed " * 500), rsv=4))
        received = _unpinged(peer)
        assert received.rsv == 4 and 0 < len(received.payload) < 1000, received

    def in_the_room(self, peer: Peer) -> None:
        """Receive one message of the room."""
        peer.open("/quiet-room")
        assert _unpinged(peer).payload.startswith(b"sender:")

    def bursts(self, peer: Peer) -> None:
        """More messages, fragments and pings at once than are parsed in one turn of the loop, and 1008 for too many."""
        peer.open("/limited" if self.counts["bursts"] % 4 == 3 else "/echo")
        fragments = frame(TEXT, b"f", fin=False) + frame(CONTINUATION, b"f", fin=False) * 40 + frame(CONTINUATION)
        peer.write(frame(TEXT, b"x") * 300 + frame(PING) * 40 + fragments)
        while True:
            received = peer.read_frame()
            if received.opcode == CLOSE or received.payload == b"f" * 41:
                break

    def attacks(self) -> None:
        """All of them at once, then a pause, and again. What the worker holds during an attack is not measured; what it
        holds after the attack is. The first round is in the warm-up, also of a short run: the allocator keeps what it
        needed once.
        """
        chance = random.Random("attacks")
        while not self.over:
            self.attacked = True
            gevent.joinall([gevent.spawn(self._attack, attack, chance) for attack in resource_attacks()])
            gevent.sleep(1.2)  # the view of /unread takes a second
            self.attacked = False
            gevent.sleep(PAUSE)

    def _attack(self, attack: Attack, chance: random.Random) -> None:
        try:
            with Peer(self.gunicorn.address) as peer:
                attack(peer, chance)
            self.counts[attack.__name__.replace("_", " ")] += 1
        except (OSError, EOFError, AssertionError) as error:
            self.report.violation("attack", f"{attack.__name__}: {error!r}")

    # --- long connections ------------------------------------------------------------------------------------------

    def long_connection(self, name: str, path: str, pause: float) -> None:
        """Exchange messages on one connection until the end."""
        numbered = Numbered(name, random.Random(name))
        self.lasting.append(numbered)
        with Peer(self.gunicorn.address) as peer:
            try:
                peer.open(path)
                gevent.sleep(numbered.chance.uniform(0, pause))
                while not self.quiet:
                    peer.write(numbered.next())
                    self._receive(peer, numbered, pause)
                while numbered.waiting:
                    self._receive(peer, numbered, 0.1)
                peer.write(close_frame(1000))
                while peer.wait(TIMEOUT) is not None:
                    pass
                raise AssertionError("the close was not answered")
            except Ended as ended:
                if ended.code != 1000:
                    self.report.violation("close", f"{name} ended with {ended.code}")
            except (OSError, EOFError, AssertionError) as error:
                self.report.violation("order", f"{name}: {error!r}")

    def _receive(self, peer: Peer, numbered: Numbered, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            received = peer.wait(left)
            if received is not None:
                numbered.check(received)
        assert numbered.oldest < TIMEOUT, f"no echo within {TIMEOUT:g} s"

    def http(self) -> None:
        """Ten requests a second."""
        while not self.over:
            try:
                status, _ = self.gunicorn.get("/")
                assert status == 200, status
                self.counts["HTTP requests"] += 1
            except (OSError, EOFError, AssertionError) as error:
                self.report.violation("HTTP", repr(error))
            gevent.sleep(0.1)

    # --- the run ---------------------------------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """Short connections that have ended."""
        return self.ends.total()

    def sample(self, pause: float) -> None:
        """Read the memory at regular times."""
        while not self.over:
            if not self.attacked or not self.samples:
                self.samples.append(Sample(time.monotonic(), resident_bytes(self.worker), self.connections))
            gevent.sleep(pause)

    def run(self) -> None:
        """Everything."""
        group, lasting = Group(), Group()
        for number in range(LASTING):
            lasting.spawn(self.long_connection, f"view{number}", "/echo", 1.0)
            lasting.spawn(self.long_connection, f"detached{number}", "/detached", 1.0)
        lasting.spawn(self.long_connection, "sender", "/room", 0.2)
        group.spawn(self.http)
        slots = 20
        for slot in range(slots):
            group.spawn(self.short_connections, slot, slots)
        group.spawn(self.attacks)
        group.spawn(self.sample, min(1.0, self.seconds / 100))
        progress = self.report.progress(self.line)
        gevent.sleep(self.seconds)
        self.over = True
        group.join(60)
        self.quiet = True
        lasting.join(60)
        progress.kill()
        if len(group) + len(lasting):
            self.report.violation("stuck", f"{len(group)} short and {len(lasting)} long connections did not end")
        for kind in ("websockets", "slots"):
            left = lambda kind=kind: self.gunicorn.held(self.worker)[kind]  # noqa: E731
            self.report.eventually("leak", lambda left=left: left() == 0, f"the end of all {kind}", 10, left)
        self.judge()

    def line(self) -> str:
        """The progress."""
        return f"{self.connections:,} connections, {self.samples[-1].resident / MIB:.2f} MiB"

    def judge(self) -> None:
        """The figures, and whether memory rises."""
        warm = self.samples[0].at + min(LONGEST_WARM_UP, WARM_UP * self.seconds)
        measured = [one for one in self.samples if one.at >= warm]
        line = fit(measured)
        seconds, connections = measured[-1].at - measured[0].at, measured[-1].connections - measured[0].connections
        figures = self.report.figures
        figures["short connections"] = self.connections
        figures["their ends"] = tally(self.ends)
        figures["what was done"] = tally(self.counts)
        figures["messages of long connections"] = sum(one.answered for one in self.lasting)
        figures["worst echo of long connections, ms"] = max(one.worst for one in self.lasting) * 1000
        figures["connections per second"] = connections / seconds
        figures["memory at the start, MiB"] = self.samples[0].resident / MIB
        figures["memory after the warm-up, MiB"] = measured[0].resident / MIB
        figures["memory at the end, MiB"] = measured[-1].resident / MIB
        figures["slope, KiB per minute"] = line.slope * 60 / KIB
        figures["its standard error"] = line.error * 60 / KIB
        figures["bytes per connection"] = line.slope * seconds / max(1, connections)
        print(f"\n{chart(measured)}")
        if rises(measured, line, self.growth):
            each = figures["bytes per connection"]
            self.report.violation("memory", f"it rises by {each:.0f} bytes for each connection")


def _unpinged(peer: Peer) -> Frame:
    """The next data frame; AssertionError if none comes, or the end."""
    try:
        received = peer.wait(TIMEOUT)
    except Ended as ended:
        raise AssertionError(str(ended)) from ended
    assert received is not None, f"nothing within {TIMEOUT:g} s"
    return received


def main(
    report: Report, directory: Path, seconds: float, rate: float = RATE, growth: float = GROWTH, faults: str = ""
) -> None:
    """Run for so many seconds."""
    env = {
        "GWS_COMPRESSION": "shared",
        "GWS_CLIENT_ADDRESS": "stress.app.client_address",
        "GWS_MAX_CONNECTIONS": "10000",
        "GWS_MAX_CONNECTIONS_PER_ADDRESS": "10000",
        "STRESS_FAULTS": faults,
    }
    with run_gunicorn(report, directory, 1, env=env, expected=EXPECTED_RECORDS) as running:
        Soak(report, running, seconds, rate, growth).run()


def run(arguments: list[str]) -> int:
    """The command line."""
    parser = arguments_of("soak", __doc__, 3600)
    parser.add_argument("--rate", type=float, default=RATE, help=f"connections per second (default {RATE:g})")
    parser.add_argument(
        "--growth", type=float, default=GROWTH, help="bytes that memory may gain, however short the run"
    )
    options = parser.parse_args(arguments)
    report = Report("soak")
    numbers = options.seconds, options.rate, options.growth
    return report.run(options, lambda folder: main(report, folder, *numbers, options.faults))
