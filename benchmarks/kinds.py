"""What is measured: one class per kind of work. ``scenarios`` has the table of all that are measured.

A scenario measures one server once and returns a ``Sample``. Whatever is not the subject (opening the
connections, warming up, closing) happens outside of the measured stretch; nothing is under way when it begins
or ends.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from statistics import median
from typing import ClassVar

from .deflate import OFFER, DeflateLane, agreed
from .frames import TEXT_64, Payload, WrongReplyError, client_frame, server_frame
from .lanes import REPLY_TIMEOUT, Address, Lane, answer, echo_lanes, open_all, opened, stuck
from .launch import Fleet, Running, Server, absence
from .load import Waiting, broadcast, cycles, paced, saturate
from .meters import cpu_seconds, resident_bytes, stolen_seconds, waited_seconds, waits
from .storm import Clients

__all__ = [
    "Beside",
    "Cycle",
    "Deflated",
    "Delay",
    "Echo",
    "Fanout",
    "Hop",
    "Idle",
    "IdleDeflated",
    "Pinged",
    "Resume",
    "Sample",
    "Scale",
    "Scenario",
    "Storm",
]


@dataclass(frozen=True)
class Scale:
    """How much work a run does: 1 is for figures, 0.01 for checking that the benchmark works."""

    factor: float = 1.0

    @property
    def seconds(self) -> float:
        """How long one measurement lasts; slow servers get fewer messages, not more time."""
        return max(0.02, 1.0 * self.factor)

    @property
    def warm_up(self) -> float:
        return 0.2 * self.seconds

    def watch(self, pids: Sequence[int]) -> AbstractContextManager[object]:
        """Entered for the measured stretch, with the server's processes. This one does nothing, for figures."""
        return nullcontext()

    def connections(self, count: int) -> int:
        """All connections from a tenth of full scale up; below it fewer, but a crowd stays a crowd."""
        return max(min(count, 2), min(count, round(count * self.factor * 10)))


@dataclass(frozen=True)
class Sample:
    """One measurement. Every one of ``messages`` has come back and has been compared."""

    messages: int
    connections: int
    seconds: float
    server_cpu: float
    load_cpu: float
    server_wait: float
    """Seconds in which the server was ready to run and something else had its core; ``load_wait`` is the same."""
    load_wait: float
    stolen: float = 0.0
    """Seconds that the hypervisor took from a core. The kernel cannot tell whose they were: they are in the CPU."""
    resident: int = 0
    """Bytes by which the server has grown, in the idle scenarios."""
    delays: tuple[float, ...] = ()
    """Seconds from a message to its last delivery, or of a request, in scenarios with a steady rate."""
    compressed: float = 0.0
    """Bytes of compressed replies for each byte of their texts, in scenarios of compression."""
    base_cpu: float = 0.0
    """Seconds of ``server_cpu`` that are not the subject."""

    @property
    def rate(self) -> float:
        return self.messages / self.seconds

    @property
    def cpu_us(self) -> float:
        return (self.server_cpu - self.base_cpu) / self.messages * 1e6

    @property
    def resident_kib(self) -> float:
        return self.resident / self.connections / 1024

    @property
    def median_ms(self) -> float:
        """Of ``delays``; 0 of none."""
        return median(self.delays) * 1000 if self.delays else 0.0

    @property
    def p99_ms(self) -> float:
        """Below which 99 of 100 ``delays`` lie."""
        return sorted(self.delays)[int(0.99 * len(self.delays))] * 1000 if self.delays else 0.0

    @property
    def server_use(self) -> float:
        """The share of one core that the server has used, all its processes together."""
        return self.server_cpu / self.seconds

    @property
    def load_use(self) -> float:
        return self.load_cpu / self.seconds

    @property
    def server_wish(self) -> float:
        """The share of a core that the server would have used, had the core been free."""
        return (self.server_cpu + self.server_wait) / self.seconds

    @property
    def load_wish(self) -> float:
        return (self.load_cpu + self.load_wait) / self.seconds

    @property
    def disturbance(self) -> float:
        """The greater of the two shares of time that were lost to other processes."""
        return max(self.server_wait, self.load_wait) / self.seconds

    @property
    def stolen_share(self) -> float:
        return self.stolen / self.seconds


def _measure(scale: Scale, pids: Sequence[int], connections: int, work: Callable[[], int]) -> Sample:
    """Do the work, which returns its number of checked replies, between two readings of all clocks.

    Args:
        scale: Of the run.
        pids: Of the server.
        connections: For information.
        work: Is called once.

    """
    with scale.watch(pids):
        before, waits_before = _clocks(pids), (waits(*pids), waits(os.getpid()))
        messages = work()
        after, waits_after = _clocks(pids), (waits(*pids), waits(os.getpid()))
    seconds, server_cpu, load_cpu, stolen = (late - early for early, late in zip(before, after, strict=True))
    server_wait, load_wait = map(waited_seconds, waits_before, waits_after)
    return Sample(messages, connections, seconds, server_cpu, load_cpu, server_wait, load_wait, stolen)


def _clocks(pids: Sequence[int]) -> tuple[float, ...]:
    """The time, what server and load generator have used, and what was stolen from this machine."""
    return time.perf_counter(), sum(map(cpu_seconds, pids)), time.process_time(), stolen_seconds()


@dataclass(frozen=True)
class Scenario:
    """The base: a name for the command line and for JSON, a title for the report, and the servers that take part."""

    name: str
    title: str
    only: tuple[str, ...] | None = None
    needs: tuple[str, ...] = ()
    grows: tuple[str, int] | None = None
    """What grows over the scenarios with the same first item, and how much of it there is in this one."""
    long: bool = False
    """Whether it takes part only in a run of all scenarios, or where it is named."""
    mode: str = ""
    """What the server does beside its defaults, of ``launch.MODES``."""
    quantity: ClassVar[str] = "cpu_us"
    """The attribute of a sample that is compared."""

    def absence(self) -> str | None:
        """Why this cannot be measured here, on whatever server, or None."""
        return absence(self.needs)

    def takes(self, server: Server) -> bool:
        if self.mode and self.mode not in server.modes:
            return False
        return not server.own if self.only is None else (server.stands_for or server.name) in self.only

    def measure(self, fleet: Fleet, server: Server, scale: Scale) -> Sample:
        return self.work(fleet.shared(server, self.mode), scale)

    def work(self, target: Running, scale: Scale) -> Sample:
        raise NotImplementedError


@dataclass(frozen=True)
class Echo(Scenario):
    """Every message comes back. A connection has ``in_flight`` messages under way, sent in one piece."""

    connections: int = 1
    payload: Payload = TEXT_64
    in_flight: int = 1

    def work(self, target: Running, scale: Scale) -> Sample:
        count = scale.connections(self.connections)
        with opened(target.address, "/echo", count, target.tls) as sockets:
            # one message each and then some: a full burst on each may take a slow server seconds
            saturate(echo_lanes(sockets, self.payload), scale.warm_up)
            lanes = echo_lanes(sockets, self.payload, self.in_flight)
            return _measure(scale, target.pids, count, lambda: saturate(lanes, scale.seconds))


@dataclass(frozen=True)
class Beside(Echo):
    """Echoes, beside connections that have echoed once and wait."""

    idle: int = 0

    def work(self, target: Running, scale: Scale) -> Sample:
        with Waiting() as waiting:
            _open_idle(target, "/echo", scale.connections(self.idle) if self.idle else 0, waiting)
            sample = super().work(target, scale)
            waiting.close()
        return sample


@dataclass(frozen=True)
class Deflated(Scenario):
    """Every document of JSON comes back, compressed on both ways."""

    connections: int = 100
    size: int = 1024

    def work(self, target: Running, scale: Scale) -> Sample:
        count = scale.connections(self.connections)
        with opened(target.address, "/echo", count, offer=OFFER) as sockets:
            lanes = _deflate_lanes(target, sockets, self.size)
            texts = self.size * saturate(lanes, scale.warm_up)
            sample = _measure(scale, target.pids, count, lambda: saturate(lanes, scale.seconds))
            texts += self.size * sample.messages
            return replace(sample, compressed=sum(lane.compressed for lane in lanes) / texts)


def microseconds(delays: Iterable[float]) -> tuple[float, ...]:
    """Seconds, to the microsecond: more digits would be most of the file of a run."""
    return tuple(round(delay, 6) for delay in delays)


def _deflate_lanes(target: Running, sockets: Sequence[socket.socket], size: int) -> list[DeflateLane]:
    """A lane on each socket; one more connection shows what the server agrees to, which is the same for all."""
    agreement = agreed(answer(target.address, "/echo", OFFER))
    return [DeflateLane(sock, size, agreement) for sock in sockets]


@dataclass(frozen=True)
class Hop(Scenario):
    """Echoes through a group of its own for each connection: what the worker needs beyond an echo.

    That is: publish a message, and receive it. The CPU time of Redis is not in it.
    """

    connections: int = 100

    def work(self, target: Running, scale: Scale) -> Sample:
        echo, hop = self._echo(target, "/echo", scale), self._echo(target, "/hop", scale)
        return replace(hop, base_cpu=hop.messages * echo.server_cpu / echo.messages)

    def _echo(self, target: Running, path: str, scale: Scale) -> Sample:
        count = scale.connections(self.connections)
        with opened(target.address, path, count) as sockets:
            lanes = echo_lanes(sockets, TEXT_64)
            saturate(lanes, scale.warm_up)
            return _measure(scale, target.workers, count, lambda: saturate(lanes, scale.seconds))


@dataclass(frozen=True)
class Cycle(Scenario):
    """Connect, upgrade, echo one message, close cleanly: a connection that does next to nothing."""

    slots: int = 16

    def work(self, target: Running, scale: Scale) -> Sample:
        data = TEXT_64.build()
        request, expected = client_frame(TEXT_64.opcode, data), server_frame(TEXT_64.opcode, data)

        def turn(seconds: float) -> int:
            return cycles(target.address, "/echo", request, expected, self.slots, seconds, target.tls)

        turn(scale.warm_up)
        return _measure(scale, target.pids, self.slots, lambda: turn(scale.seconds))


@dataclass(frozen=True)
class Resume(Scenario):
    """Connect, upgrade, join a group with a position, receive the ten messages that were missed, close cleanly."""

    slots: int = 16
    missed: int = 10

    def work(self, target: Running, scale: Scale) -> Sample:
        data = TEXT_64.build()
        position = _ask(target.address, "/history", data)
        request, expected = client_frame(TEXT_64.opcode, position), server_frame(TEXT_64.opcode, data) * self.missed

        def turn(seconds: float) -> int:
            return cycles(target.address, "/resume", request, expected, self.slots, seconds)

        turn(scale.warm_up)
        return _measure(scale, target.pids, self.slots, lambda: turn(scale.seconds))


def _ask(address: Address, path: str, data: bytes) -> bytes:
    """Send a text, and return that of the answer, which is short."""
    with opened(address, path, 1) as [sock]:
        sock.settimeout(REPLY_TIMEOUT)
        sock.sendall(client_frame(TEXT_64.opcode, data))
        answer = sock.recv(200)
        if answer != server_frame(TEXT_64.opcode, answer[2:]):
            raise WrongReplyError(f"{path} was answered with {answer!r}")
        return answer[2:]


@dataclass(frozen=True)
class Fanout(Scenario):
    """One message in on one connection, the same message out on all: the cost per delivery."""

    connections: int = 1000
    path: str = "/fanout"

    def work(self, target: Running, scale: Scale) -> Sample:
        count = scale.connections(self.connections)
        data = TEXT_64.build()
        command, reply = client_frame(TEXT_64.opcode, data), server_frame(TEXT_64.opcode, data)
        with opened(target.address, self.path, count) as sockets:
            lanes = [Lane(sock, command, reply) for sock in sockets]
            broadcast(lanes, scale.warm_up)
            return _measure(scale, target.pids, count, lambda: broadcast(lanes, scale.seconds))


@dataclass(frozen=True)
class Storm(Scenario):
    """Very many clients connect at once, echo one message and stay; how long it takes until all are served.

    ``delays`` are those of plain HTTP requests to the same server meanwhile. The server is a fresh one.
    """

    quantity: ClassVar[str] = "seconds"
    connections: int = 10_000
    path: str = "/echo"

    def measure(self, fleet: Fleet, server: Server, scale: Scale) -> Sample:
        with fleet.fresh(server, mode=self.mode) as target:
            return self.work(target, scale)

    def work(self, target: Running, scale: Scale) -> Sample:
        count = scale.connections(self.connections)
        data = TEXT_64.build()
        request, expected = client_frame(TEXT_64.opcode, data), server_frame(TEXT_64.opcode, data)
        cycles(target.address, self.path, request, expected, 16, scale.warm_up)
        with Clients(target.address, self.path, request, expected) as clients:
            sample = _measure(scale, target.pids, count, lambda: clients.run(count))
            return replace(sample, seconds=clients.seconds, delays=microseconds(clients.delays))


@dataclass(frozen=True)
class Delay(Scenario):
    """A group in several workers, and messages at a steady rate: how long one takes to its last member.

    ``stuck`` members more read nothing, and the server stores what they have not read.
    """

    quantity: ClassVar[str] = "p99_ms"
    connections: int = 1000
    rate: float = 50.0
    stuck: int = 0
    seconds: float = 4.0

    def work(self, target: Running, scale: Scale) -> Sample:
        count = scale.connections(self.connections)
        data = TEXT_64.build()
        command, reply = client_frame(TEXT_64.opcode, data), server_frame(TEXT_64.opcode, data)
        delays: list[float] = []

        def work() -> int:
            delays.extend(paced(lanes, self.seconds * scale.seconds, self.rate))
            return len(delays) * count

        with opened(target.address, "/group", count) as sockets, stuck(target.address, "/stuck", self.stuck):
            lanes = [Lane(sock, command, reply) for sock in sockets]
            broadcast(lanes, 0.5 * scale.seconds)
            sample = _measure(scale, target.pids, count, work)
        return replace(sample, delays=microseconds(delays))


@dataclass(frozen=True)
class Idle(Scenario):
    """Memory of a connection that has echoed one message and now waits.

    The server is a fresh one, so that no memory freed by earlier work is there to be reused, and some
    connections are open before the first look, so that what is loaded or built once is not counted. What the
    kernel holds for a socket is not in these figures. CPU is that of the one echo.
    """

    quantity: ClassVar[str] = "resident_kib"
    connections: int = 2000
    path: str = "/echo"
    application: str | None = None
    offer: ClassVar[str] = ""
    messages: ClassVar[int] = 1

    def measure(self, fleet: Fleet, server: Server, scale: Scale) -> Sample:
        with fleet.fresh(server, self.application, self.mode) as target:
            return self.work(target, scale)

    def work(self, target: Running, scale: Scale) -> Sample:
        count = scale.connections(self.connections)
        with opened(target.address, self.path, max(20, count // 10), offer=self.offer) as first:
            self._exchange(self._lanes(target, first))
            before = _settled(target.pid, scale)
            with opened(target.address, self.path, count, offer=self.offer) as sockets:
                lanes = self._lanes(target, sockets)
                sample = _measure(scale, target.pids, count, lambda: self._exchange(lanes))
                return replace(sample, resident=_settled(target.pid, scale) - before)

    def _lanes(self, target: Running, sockets: Sequence[socket.socket]) -> Sequence[Lane]:
        return echo_lanes(sockets, TEXT_64)

    def _exchange(self, lanes: Sequence[Lane]) -> int:
        return sum(saturate(lanes, 0) for _ in range(self.messages))


@dataclass(frozen=True)
class IdleDeflated(Idle):
    """The same with permessage-deflate, after 16 KiB of JSON. They are small messages, because the applications keep
    the last one.
    """

    offer: ClassVar[str] = OFFER
    messages: ClassVar[int] = 16

    def _lanes(self, target: Running, sockets: Sequence[socket.socket]) -> Sequence[Lane]:
        return _deflate_lanes(target, sockets, 1024)


@dataclass(frozen=True)
class Pinged(Idle):
    """Very many connections that have echoed once, and from then on answer pings.

    CPU is what they cost for longer than all need to be pinged; ``delays`` are those of echoes on one connection more,
    afterwards and for as long.
    """

    rate: ClassVar[float] = 50.0
    interval: float = 20.0
    """Seconds of the server's ``ping_interval``, which is the default. Pings are up to an eighth of it late."""

    def work(self, target: Running, scale: Scale) -> Sample:
        count, seconds = scale.connections(self.connections), 1.25 * self.interval * scale.seconds

        def answer_pings() -> int:
            waiting.wait(seconds)
            return count

        with Waiting() as waiting:
            _open_idle(target, self.path, max(20, count // 10), waiting)
            before = _settled(target.pid, scale)
            _open_idle(target, self.path, count, waiting)
            resident = _settled(target.pid, scale) - before
            sample = _measure(scale, target.pids, count, answer_pings)
            with opened(target.address, self.path, 1) as sockets:
                delays = paced(echo_lanes(sockets, TEXT_64), seconds, self.rate, waiting)
            if seconds > self.interval and waiting.pings < count:
                raise WrongReplyError(f"{waiting.pings} pings to {count} connections came in {2 * seconds:g} s")
        return replace(sample, resident=resident, delays=microseconds(delays))


def _open_idle(target: Running, path: str, count: int, waiting: Waiting) -> None:
    """Connections that echo once and then wait: the first ones are pinged while the last ones are opened."""

    def echo(newest: Sequence[socket.socket]) -> None:
        saturate(echo_lanes(newest, TEXT_64), 0)
        waiting.add(newest)
        waiting.receive()

    open_all(target.address, path, count, each=echo)


def _settled(pid: int, scale: Scale) -> int:
    """Resident memory after a moment in which greenlets and tasks that have nothing more to do can end."""
    time.sleep(min(0.5, scale.seconds))
    return resident_bytes(pid)
