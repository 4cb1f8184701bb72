"""stress/: each program runs, measures what its page states, and detects the faults of a broken application.

The sound runs are started at the same time, and so are the broken ones: the programs wait most of the time.
"""

from __future__ import annotations

import json
import random
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gws_middleware.groups import Position
from stress.attacks import SHUTDOWN, attacks
from stress.chaos import HARM, Chaos
from stress.delivery import Message, Room, Seat, delays
from stress.gunicorn import Gunicorn, has_write_lock
from stress.peer import Numbered, Peer
from stress.report import Report, percentile
from stress.restart import Client, Restart
from stress.soak import Line, Sample, chart, fit, rises

from .support.programs import IGNORE_WARNINGS, run_python
from .support.rawclient import PING, PONG, TEXT, Frame, frame
from .support.servers import ROOT, Log

LONGEST = 200.0
pytestmark = pytest.mark.timeout(2 * LONGEST)  # half a minute of work; a busy machine takes a multiple of that
SOUND = {
    "chaos": ["--seconds", "8", "--seed", "1"],
    # Some seconds show no slope: the second round of attacks falls into them, with the largest blocks of memory so far.
    "soak": ["--seconds", "16", "--rate", "150", "--growth", "2e6"],
    "restart": ["--seconds", "2", "--clients", "60", "--reloads", "2", "--max-requests", "200"],
    # Both bounds are for a machine that has nothing else to do: here all programs run at once, beside other tests.
    "responsive": ["--seconds", "1", "--sockets", "50", "--interval", "0.5", "--kept", "0.5"],
    "fair": ["--seconds", "0.5", "--bound", "4"],
    "groups": ["--seconds", "8", "--groups", "8", "--members", "8", "--rate", "150", "--history", "50", "--bound", "4"],
    "logout": ["--seconds", "1", "--pages", "16", "--rounds", "1", "--bound", "20", "--bound-after", "30", "--redis"],
    "groups, redis": ["--seconds", "8", "--groups", "8", "--members", "8", "--rate", "100", "--bound", "8", "--redis"],
}
SMALL = ["--seconds", "3", "--groups", "4", "--members", "6", "--rate", "80", "--bound", "60"]
BROKEN = {
    "chaos": ["--seconds", "3", "--faults", "greenlet,wrong"],
    "soak": ["--seconds", "9", "--rate", "150", "--faults", "leak"],
    "restart": ["--seconds", "3", "--clients", "60", "--reloads", "0", "--max-requests", "0", "--faults", "forget,cut"],
    "responsive": ["--seconds", "1", "--sockets", "50", "--interval", "0.2", "--faults", "block"],
    "fair": ["--seconds", "0.5", "--bound", "0.01", "--faults", "block"],
    "logout": ["--pages", "8", "--rounds", "1", "--bound", "0.001"],
    "groups, skip": [*SMALL, "--faults", "skip"],
    "groups, swap": [*SMALL, "--faults", "swap"],
    "groups, silent": [*SMALL, "--faults", "silent"],
    "groups, unreported": [*SMALL, "--redis", "--faults", "unreported"],
}
"""A program, and what tells its runs apart."""


class Run(NamedTuple):
    """The result of a program."""

    status: int
    figures: dict[str, Any]
    violations: dict[str, int]
    output: str


def run_all(programs: dict[str, list[str]], directory: Path) -> dict[str, Run]:
    """All of them at once."""
    processes = {}
    for name, arguments in programs.items():
        command = [
            sys.executable,
            "-m",
            "stress",
            name.partition(",")[0],
            *arguments,
            "--json",
            str(directory / f"{name}.json"),
        ]
        processes[name] = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    found = {}
    for name, process in processes.items():
        with process:
            output, _ = process.communicate(timeout=LONGEST)
        written = directory / f"{name}.json"
        assert written.exists(), output
        found[name] = Run(process.returncode, **json.loads(written.read_text()), output=output)
    return found


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The programs against an application without a fault."""
    return run_all(SOUND, tmp_path_factory.mktemp("sound"))


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The same against an application with faults."""
    return run_all(BROKEN, tmp_path_factory.mktemp("broken"))


def numbers(figure: str) -> list[int]:
    """The counts in ``1000 × 5, 1001 × 2``."""
    return [int(part.rpartition("× ")[2].replace(",", "")) for part in figure.split(", ") if "× " in part]


class TestSoundRuns:
    @pytest.mark.parametrize("program", SOUND)
    def test_nothing_is_violated(self, sound: dict[str, Run], program: str) -> None:
        """Exit status 0, and the last line is "held"."""
        run = sound[program]
        assert (run.status, run.violations, run.output.splitlines()[-1].strip()) == (0, {}, "held"), run.output

    def test_chaos_uses_every_kind_of_attack(self, sound: dict[str, Run]) -> None:
        """Each was completed at least once."""
        figures = sound["chaos"].figures
        unused = [name for name in attacks() if not figures[f"  {name}"]]
        assert (unused, figures["attacks"] >= len(attacks())) == ([], True)

    def test_chaos_stops_workers_while_honest_peers_send(self, sound: dict[str, Run]) -> None:
        """Restarts, connections that ended by them and connections that their clients closed, echoes, and HTTP."""
        figures = sound["chaos"].figures
        assert figures["honest connections"] > 60
        assert figures["echoes in order"] > 100
        assert figures["HTTP requests"] > 0
        assert sum(numbers(figures["restarts"])) >= 2
        assert len(numbers(figures["closes by code"])) >= 2

    def test_soak_measures_memory_under_every_use(self, sound: dict[str, Run]) -> None:
        """Many connections of each kind, all ends, messages of long connections."""
        figures = sound["soak"].figures
        assert [name.rpartition(" ×")[0] for name in figures["what was done"].split(", ") if " × " in name] == [
            "HTTP requests",
            "bad address",
            "bursts",
            "compressed",
            "detached",
            "echoes",
            "in the room",
            "large texts",
            "unread page",
        ]
        assert sum(count > 20 for count in numbers(figures["what was done"])) == 6  # the others are attacks
        assert len(numbers(figures["their ends"])) == 3
        assert figures["messages of long connections"] > 100
        assert figures["memory at the start, MiB"] > 10

    def test_soak_draws_the_memory(self, sound: dict[str, Run]) -> None:
        """A chart with an axis."""
        assert " MiB |" in sound["soak"].output

    def test_restart_closes_all_connections_and_clients_reconnect(self, sound: dict[str, Run]) -> None:
        """Each reload closes all connections, new workers take them, and messages go on being acknowledged."""
        figures = sound["restart"].figures
        [closes] = [part for part in figures["HUP: closes by code"].split(", ") if int(part.split()[0]) == SHUTDOWN]
        assert numbers(closes)[0] >= 2 * 60
        assert figures["HUP: workers that took connections"] >= 3
        assert figures["max: workers used up"] >= 4
        for part in ("HUP", "max"):
            assert figures[f"{part}: acknowledged"] == figures[f"{part}: messages sent"] > 60
            assert figures[f"{part}: HTTP requests"] > 50

    def test_chaos_has_members_of_groups(self, sound: dict[str, Run]) -> None:
        """They get messages, and reconnect with their positions."""
        figures = sound["chaos"].figures
        assert figures["groups: messages acknowledged"] > 20
        assert figures["groups: reconnects recovered"] > 0

    def test_groups_reconnect_and_resume_while_workers_end(self, sound: dict[str, Run]) -> None:
        """Each kind of harm, peers that read nothing, reconnects with a position, and messages all the time."""
        figures = sound["groups"].figures
        assert len(numbers(figures["what happened to workers"])) == 3
        assert "1013 × " in figures["groups: of peers that read nothing"]
        assert figures["groups: connections of members"] > 64
        assert figures["groups: reconnects recovered"] > 10
        assert figures["groups: messages acknowledged"] > 300

    def test_redis_fails_in_every_way_meanwhile(self, sound: dict[str, Run]) -> None:
        """What it has lost is reported, and the rest is recovered."""
        figures = sound["groups, redis"].figures
        assert len(numbers(figures["what happened to workers"])) == 3
        assert len(numbers(figures["what happened to Redis"])) == 7
        assert figures["groups: not recovered, as reported"] > 0
        assert figures["groups: gaps, as reported"] > 0
        assert figures["groups: reconnects recovered"] > 0
        assert figures["groups: messages acknowledged"] > 300

    def test_logout_is_measured_with_and_without_redis(self, sound: dict[str, Run]) -> None:
        """Three times, each more than nothing."""
        times = [line.split(", ")[0] for name, line in sound["logout"].figures.items() if "p50" in name]
        assert len(times) == 3 and all(float(each) > 0 for each in times)

    def test_responsive_measures_http_beside_echoes(self, sound: dict[str, Run]) -> None:
        """Five times HTTP; steady and saturated sockets did echo."""
        lines = list(sound["responsive"].figures.values())
        assert len(lines) == 5 and all(int(line.split()[0]) > 0 for line in lines), lines
        rates = [float(line.split("; ")[1].split()[0].replace(",", "")) for line in lines if "; " in line]
        assert rates[0] == 0 and rates[1] > 50 and rates[2] > rates[1]


class TestBrokenRuns:
    @pytest.mark.parametrize(
        ("program", "kinds"),
        [
            ("chaos", {"leak", "order"}),
            ("soak", {"memory"}),
            ("restart", {"lost", "1006"}),
            ("responsive", {"rate"}),
            ("logout", {"bound"}),
            ("groups, skip", {"missing", "order"}),
            ("groups, swap", {"order"}),
            ("groups, silent", {"missing", "lost"}),
            ("groups, unreported", {"order"}),
        ],
    )
    def test_fault_is_found(self, broken: dict[str, Run], program: str, kinds: set[str]) -> None:
        """Exit status 1, and the kind of the violation."""
        run = broken[program]
        assert run.status == 1
        assert kinds <= set(run.violations), run.output


# --- the judgements, without a server ------------------------------------------------------------------------------


def samples(seconds: int, slope: float, rate: float, noise: float) -> list[Sample]:
    """One sample per second of a memory that rises by ``slope`` bytes per second."""
    chance = random.Random(1)
    return [
        Sample(at, int(50 * 2**20 + slope * at + chance.uniform(-noise, noise)), int(rate * at))
        for at in range(seconds)
    ]


class TestSlope:
    @pytest.mark.parametrize("seconds", [60, 600, 3600])
    def test_leak_of_a_kib_per_connection_is_seen(self, seconds: int) -> None:
        """At the usual rate, in a minute as in an hour, through the noise of an allocator."""
        measured = samples(seconds, 50 * 1024, 50, 2**18)
        assert rises(measured, fit(measured))

    def test_leak_of_an_object_per_message_is_seen(self) -> None:
        """Sixteen bytes, the smallest that there is, at four messages a connection, in an hour."""
        measured = samples(3600, 16 * 4 * 50, 50, 2**18)
        assert rises(measured, fit(measured))

    @pytest.mark.parametrize("slope", [0, -1000, 500])
    def test_noise_is_no_leak(self, slope: float) -> None:
        """Neither is a trifle: ten bytes for each connection."""
        measured = samples(3600, slope, 50, 2**18)
        assert not rises(measured, fit(measured))

    def test_fit_is_least_squares(self) -> None:
        """Exact for a straight line."""
        line = fit([Sample(at, 3 * at, at) for at in range(10)])
        assert line == Line(3, 0)

    def test_chart_shows_the_rise(self) -> None:
        """The top row ends at the right, where memory is highest."""
        rows = chart(samples(720, 1000, 50, 0)).splitlines()
        assert rows[0].endswith("|" + " " * 66 + "#" * 6)
        assert rows[0].count("#") < rows[-2].count("#") == 72


class TestJudgement:
    @pytest.fixture
    def chaos(self) -> Chaos:
        """A run without a server."""
        return Chaos(Report("test"), None, 1, 1)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("code", "signalled", "killed", "violated"),
        [
            (1000, False, False, False),
            (1001, False, False, True),
            (1001, True, False, True),
            (1012, True, False, False),
            (1006, False, False, True),
            (1006, True, False, True),
            (1006, True, True, False),
            (1011, True, False, True),
        ],
    )
    def test_end_of_an_honest_peer(
        self, chaos: Chaos, code: int, signalled: bool, killed: bool, violated: bool
    ) -> None:
        """Allowed: its own close frame, that of a worker that was signalled, and the loss of a killed worker."""
        peer = Peer.__new__(Peer)
        peer.worker, peer.started = 7, time.monotonic()
        chaos.signalled |= {7} if signalled else set()
        chaos.killed |= {7} if killed else set()
        chaos.ended(peer, Numbered("one", random.Random(1)), "/echo", code)
        assert bool(chaos.report.violations) is violated

    @pytest.mark.parametrize(("since", "violated"), [(1.0, True), (-1.0, False)])
    def test_handshake_fails_only_beside_a_kill(self, chaos: Chaos, since: float, violated: bool) -> None:
        """A kill before the handshake does not count."""
        now = time.monotonic()
        chaos.kills.append(now)
        chaos.handshake_failed(now + since, EOFError())
        assert bool(chaos.report.violations) is violated

    def test_harms_are_all_there(self) -> None:
        """Killed, stopped, reloaded, and killed while stopping."""
        assert set(HARM) == {"SIGKILL", "SIGTERM", "SIGHUP", "SIGTERM, then SIGKILL", "SIGHUP, then SIGKILL"}

    @pytest.mark.parametrize("payload", [b"one:2:", b"one:1", b"one:1:x", b"one:3:"])
    def test_echo_out_of_order_is_refused(self, payload: bytes) -> None:
        """Another number, or another payload."""
        numbered = Numbered("one", random.Random(5))
        first = numbered.next()
        numbered.next()
        assert first
        with pytest.raises(AssertionError, match="instead of"):
            numbered.check(Frame(TEXT, payload + b"?"))

    def test_message_of_another_client_is_no_echo(self) -> None:
        """All members of a room receive all messages."""
        numbered = Numbered("one", random.Random(5))
        assert not numbered.check(Frame(TEXT, b"other:1:"))


class TestStore:
    @pytest.mark.parametrize(
        ("stored", "lost"),
        [
            ("client0 1\nclient0 2\nclient0 3\n", 0),
            ("client0 1\nclient0 2\nclient0 2\nclient0 3\n", 0),
            ("client0 1\nclient0 2\nclient0 1\nclient0 2\nclient0 3\n", 0),
            ("client0 1\nclient0 3\n", 1),
            ("client0 1\nclient0 2\n", 1),
            ("", 3),
        ],
        ids=["all", "one twice", "sent again", "a gap", "the last one", "nothing"],
    )
    def test_acknowledged_and_not_stored_is_lost(self, tmp_path: Path, stored: str, lost: int) -> None:
        """Counted for each client; a message may be stored twice."""
        report = Report("test")
        run = Restart(report, None, 1, "test")  # type: ignore[arg-type]
        run.clients[0].acknowledged = 3
        (tmp_path / "stored").write_text(stored)
        run.check_store(tmp_path / "stored")
        assert (report.figures["test: acknowledged and not stored"], bool(report.violations)) == (lost, lost > 0)

    @pytest.mark.parametrize(("code", "violated"), [(1001, True), (1012, False), (1006, True), (1000, True)])
    def test_other_close_code_is_a_violation(self, code: int, violated: bool) -> None:
        """Only 1012 is right during a restart; 1000 is the clients' own, at the end."""
        report = Report("test")
        run = Restart(report, None, 1, "test")  # type: ignore[arg-type]
        peer = Peer.__new__(Peer)
        peer.worker, peer.started = 7, time.monotonic()
        run.closed(Client(0, run).name, peer, code)
        assert bool(report.violations) is violated


def test_ping_before_an_echo_is_answered() -> None:
    """On a busy machine an attack takes longer than the interval of the server's pings."""
    with socket.create_server(("127.0.0.1", 0)) as listener, Peer(listener.getsockname()) as peer:
        server, _ = listener.accept()
        with server:
            server.sendall(frame(PING, b"7", mask=None) + frame(TEXT, b"echo", mask=None))
            assert peer.read_frame() == Frame(TEXT, b"echo")
            assert server.recv(100) == frame(PONG, b"7")


def test_pings_without_an_echo_end_the_wait() -> None:
    """Each of them begins the socket's own timeout anew."""
    with socket.create_server(("127.0.0.1", 0)) as listener, Peer(listener.getsockname(), timeout=0.5) as peer:
        server, _ = listener.accept()
        ends = threading.Event()

        def ping() -> None:
            while not ends.wait(0.1):
                server.sendall(frame(PING, b"", mask=None))

        pinging = threading.Thread(target=ping)
        pinging.start()
        try:
            with server, pytest.raises(TimeoutError, match=r"nothing but pings came in 0\.5 s"):
                peer.read_frame()
        finally:
            ends.set()
            pinging.join()


def test_worker_is_not_stopped_while_it_writes_to_a_database(tmp_path: Path) -> None:
    """What it has locked would be locked for as long as it is stopped."""
    path = tmp_path / "database.sqlite3"
    script = (
        "import sqlite3, sys, time; database = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "database.execute('PRAGMA journal_mode = WAL')\n"
        "while True:\n"
        "    database.execute('BEGIN IMMEDIATE'); print(flush=True); time.sleep(0.05)\n"
        "    database.execute('COMMIT'); time.sleep(0.01)"
    )
    with subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline()
            assert has_write_lock(process.pid)
            running = Gunicorn.__new__(Gunicorn)
            running.workers = lambda: [process.pid]  # type: ignore[method-assign]
            for _ in range(10):
                with running.alone(0), closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as database:
                    database.execute("BEGIN IMMEDIATE")
                time.sleep(random.uniform(0, 0.06))
        finally:
            process.kill()


class TestDelivery:
    """What a member gets, and the violation of it; a group with history keeps ten messages."""

    @pytest.fixture
    def found(self) -> list[str]:
        """The violations."""
        return []

    def room(self, kind: str, found: list[str]) -> Room:
        return Room(f"{kind}.1", 10, lambda violation, sentence: found.append(violation))

    @staticmethod
    def after(frames: str) -> list[str]:
        """Frames of the server's: ``2`` is message 2, at offset 2."""
        words = {"joined": "joined 0 e.0", "gap": "gap", "other": "message other.1 m9 0.5 xx"}
        return [words.get(frame, f"message e.{frame} m{frame} 0.5 xx") for frame in frames.split()]

    @pytest.mark.parametrize(
        ("frames", "violations"),
        [
            ("joined 1 2 3", []),
            ("1 2 joined 3", []),
            ("joined 1 3", ["missing"]),
            ("joined 1 3 2", ["missing", "order"]),
            ("joined 1 other", ["order"]),
            ("joined 1 2 2", ["order"]),
            ("joined 2", ["missing"]),
            ("1 3 joined", ["missing"]),
        ],
    )
    def test_offsets_of_a_member(self, found: list[str], frames: str, violations: list[str]) -> None:
        """In a group with history."""
        seat = Seat(self.room("kept", found), "one")
        for text in self.after(frames):
            seat.receive(text)
        assert found == violations

    @pytest.mark.parametrize(
        ("one", "two", "violations"),
        [
            ("joined 1 2 3", "joined 1 2 3", set()),
            ("joined 1 2 3", "joined 2 3", set()),
            ("joined 1 2 3", "joined 1 gap 3", set()),
            ("joined 1 2 3", "joined 1 3", {"order"}),
            ("joined 1 2 3", "joined 2 1 3", {"order"}),
            ("joined 1 2 3", "joined 1 2 2 3", {"order"}),
            ("joined 2 2", "joined", {"order"}),
            ("joined 1 2", "joined 1 3", {"order"}),
            ("joined 1 3", "joined 2 3", {"order"}),
        ],
    )
    def test_successors_of_two_members(self, found: list[str], one: str, two: str, violations: set[str]) -> None:
        """In a group without history: a member that joins later has the end of what the other one has."""
        room = self.room("live", found)
        for name, frames in (("one", one), ("two", two)):
            seat = Seat(room, name)
            for text in self.after(frames):
                seat.receive(text)
        assert set(found) == violations

    @pytest.mark.parametrize(
        ("joined", "violations"),
        [
            ("joined 1 e.7", []),
            ("joined 0 e.7", ["recovery"]),
            ("joined 0 e.15", ["recovery"]),
            ("joined 0 e.16", []),
            ("joined 0 e.4", ["recovery"]),
            ("joined 0 other.7", []),
        ],
    )
    def test_position_within_the_history_is_recovered(
        self, found: list[str], joined: str, violations: list[str]
    ) -> None:
        """Outside of it, and in another epoch, it is reported that it was not."""
        Seat(self.room("kept", found), "one", Position("e", 5)).receive(joined)
        assert found == violations

    def test_members_with_the_last_message_are_complete(self, found: list[str]) -> None:
        """One that lacks it is found, with and without history; so is one that joined before and has got nothing."""
        for kind in ("live", "kept"):
            room = self.room(kind, found)
            for frames in ("joined 1 2", "joined 1", "joined"):
                seat = Seat(room, frames)
                for text in self.after(frames):
                    seat.receive(text)
                seat.began = 0.25
            room.answered("ack m2 -" if kind == "live" else "ack m2 e.2", 0.5, 0.6)
            assert [seat.name for seat in room.incomplete()] == ["joined 1", "joined"], kind

    @pytest.mark.parametrize(
        ("answer", "frames", "violations"),
        [
            ("ack m1 e.1", "joined 1", []),
            ("ack m1 e.1", "joined", ["lost"]),
            ("ack m1 e.2", "joined 1 2", ["position"]),
            ("refused m1", "joined", []),
            ("refused m1", "joined 1", ["refused"]),
            ("unknown m1", "joined", []),
            ("unknown m1", "joined 1", []),
        ],
    )
    def test_answer_to_a_publisher_is_true(
        self, found: list[str], answer: str, frames: str, violations: list[str]
    ) -> None:
        """What was acknowledged is there, and what was refused is not."""
        room = self.room("kept", found)
        seat = Seat(room, "one")
        for text in self.after(frames):
            seat.receive(text)
        seat.began = 0.25
        room.answered(answer, 0.5, 0.6)
        room.check()
        assert found == violations

    @pytest.mark.parametrize(
        ("frames", "is_open", "violations"),
        [
            ("joined 2", True, ["lost"]),
            ("joined 2", False, ["lost"]),
            ("joined 2 gap", False, []),
            ("joined 2 gap", True, []),
            ("joined", True, ["lost"]),
            ("joined", False, []),
            ("joined 1 2", True, []),
        ],
    )
    def test_message_that_no_member_has_got_is_lost(
        self, found: list[str], frames: str, is_open: bool, violations: list[str]
    ) -> None:
        """If a member has got a later one, or is still open; not where its connection has ended before."""
        room = self.room("live", found)
        seat = Seat(room, "one")
        for text in self.after(frames):
            seat.receive(text)
        seat.began, seat.ended = 0.1, 0.0 if is_open else 9.0
        room.answered("ack m1 -", 0.2, 0.4)
        if "2" in frames:
            room.answered("ack m2 -", 0.5, 0.6)
        waits = is_open and frames in ("joined", "joined 2")
        assert [each.name for each in room.incomplete()] == (["one"] if waits else [])
        room.check()
        assert found == violations

    @pytest.mark.parametrize(
        ("frames", "began", "violations"), [("joined 2", 0.25, ["missing"]), ("joined 2", 0.75, []), ("2", 0.0, [])]
    )
    def test_first_message_of_a_member_has_none_before_it(
        self, found: list[str], frames: str, began: float, violations: list[str]
    ) -> None:
        """Another member has got one that was sent after this one had joined. One that ended before it was sent that it
        is a member may have missed any.
        """
        room = self.room("live", found)
        for name, each, at in (("one", "joined 1 2", 0.25), ("two", frames, began)):
            seat = Seat(room, name)
            for text in self.after(each):
                seat.receive(text)
            seat.began = at
        room.check()
        assert found == violations

    def test_message_is_at_one_position_of_an_epoch(self, found: list[str]) -> None:
        """Also where no member has got it twice. It may be at another one of another epoch."""
        room = self.room("kept", found)
        for joined, message in (("e.0", "e.1"), ("e.1", "e.2"), ("other.0", "other.1")):
            seat = Seat(room, joined)
            seat.receive(f"joined 0 {joined}")
            seat.receive(f"message {message} m1 0.5 xx")
        assert found == ["position"]

    def test_members_of_another_epoch_are_complete(self, found: list[str]) -> None:
        """If nothing was sent in it; else with the last message of it. Members of an older one are not."""
        room = self.room("kept", found)
        old, new = Seat(room, "old"), Seat(room, "new")
        old.receive("joined 0 e.0")
        old.receive("message e.1 m1 0.5 xx")
        new.receive("joined 0 other.0")
        assert [seat.name for seat in room.incomplete()] == ["old"]
        room.answered("ack m2 other.1", time.monotonic(), 0.6)
        assert [seat.name for seat in room.incomplete()] == ["old", "new"]
        new.receive(f"message other.1 m2 {time.monotonic()} xx")
        assert [seat.name for seat in room.incomplete()] == ["old"]

    def test_first_message_after_a_gap_has_none_before_it(self, found: list[str]) -> None:
        """What is missing there was reported."""
        room = self.room("live", found)
        for name, frames in (("one", "joined 1 2"), ("two", "joined gap 2")):
            seat = Seat(room, name)
            for text in self.after(frames):
                seat.receive(text)
            seat.began = 0.25
        room.check()
        assert found == []

    def test_delay_is_that_of_the_last_member(self) -> None:
        """Messages of disturbed times, and those that no member has got, do not count."""
        messages = [Message(at) for at in (1.0, 2.0, 3.0)]
        messages[0].delivered, messages[1].delivered = 1.5, 2.25
        assert delays(messages, [(0.5, 1.5)]) == [0.25]


class TestReport:
    @pytest.mark.parametrize("comes", [True, False])
    def test_wait_without_a_result_is_a_violation(self, comes: bool, capsys: pytest.CaptureFixture[str]) -> None:
        """It names what was waited for, and the state at the end."""
        report = Report("test")
        report.eventually("workers", lambda: comes, "two workers", 0.01, lambda: "one is missing")
        assert dict(report.violations) == ({} if comes else {"workers": 1})
        assert ("for two workers: one is missing" in capsys.readouterr().out) is not comes

    @pytest.mark.parametrize(("expected", "violations"), [([], 2), (["first"], 1), (["first", "second"], 0)])
    def test_problem_in_the_log_is_a_violation(self, tmp_path: Path, expected: list[str], violations: int) -> None:
        """Unless it is expected."""
        lines = [f"[2026-01-01 00:00:00 +0000] [7] [ERROR] {name}\n" for name in ("first", "second")]
        (tmp_path / "log").write_text("".join(lines))
        report = Report("test")
        report.check_log(Log(tmp_path / "log"), expected)
        assert report.violations["log"] == violations


@pytest.mark.parametrize(("share", "value"), [(0, 1), (0.5, 51), (0.99, 100), (1, 100)])
def test_percentile_is_one_of_the_values(share: float, value: float) -> None:
    """Of the numbers from 1 to 100."""
    assert percentile(range(100, 0, -1), share) == value


def test_unknown_program_is_refused() -> None:
    """Status 2, and the names of the programs."""
    done = run_python("-m", "stress", "riot")
    assert (done.returncode, "chaos,soak,restart,responsive,fair,groups,logout" in done.stderr) == (2, True)


WSTEST = """
import json, os, sys
specification = json.load(open(sys.argv[-1]))
assert sys.argv[1:-1] == ["--mode", "fuzzingclient", "--spec"] and specification["servers"][0]["url"].endswith("/echo")
index = {}
for number, result in enumerate(os.environ["RESULTS"].split(), 1):
    print(f"Running test case ID 5.{number} for agent ours from peer tcp4", flush=True)
    if result != "lost":
        index[f"5.{number}"] = dict(zip(["behavior", "behaviorClose"], result.split("/"), strict=True))
if index:
    os.makedirs(specification["outdir"])
    json.dump({"ours": index}, open(os.path.join(specification["outdir"], "index.json"), "w"))
sys.exit(int(os.environ["STATUS"]))
"""


class TestConformance:
    """The suite's own client is of Python 2.7: here a program stands for it that reports what the test says."""

    @pytest.mark.parametrize(
        ("results", "status", "violations"),
        [
            ("OK/OK INFORMATIONAL/INFORMATIONAL", 0, {}),
            ("OK/OK FAILED/OK", 0, {"case": 1}),
            ("NON-STRICT/OK OK/UNCLEAN UNIMPLEMENTED/OK", 0, {"case": 3}),
            ("OK/OK lost", 0, {"run": 1}),
            ("lost", 0, {"run": 1}),
            ("", 0, {"run": 1}),
            ("OK/OK", 3, {"run": 1}),
        ],
    )
    def test_every_case_has_to_pass(
        self, tmp_path: Path, results: str, status: int, violations: dict[str, int]
    ) -> None:
        """Also its closing handshake; a case that is missing in the report has not."""
        program, written = tmp_path / "wstest", tmp_path / "found.json"
        program.write_text(f"#!{sys.executable}\n{WSTEST}")
        program.chmod(0o755)
        arguments = ["--wstest", str(program), "--cases", "5.*", "--json", str(written)]
        env = {**IGNORE_WARNINGS, "RESULTS": results, "STATUS": str(status)}
        ended = run_python("-m", "stress", "conformance", *arguments, env=env)
        assert ended.returncode == bool(violations), ended.stdout + ended.stderr
        assert json.loads(written.read_text())["violations"] == violations

    def test_program_that_is_not_installed(self) -> None:
        """The message says what describes how to install it."""
        ended = run_python("-m", "stress", "conformance", "--wstest", "no-such-program")
        assert ended.returncode == 2
        assert (
            "there is no program 'no-such-program': stress/README.md has the commands that install it" in ended.stderr
        )
        assert "pip install autobahntestsuite" in (ROOT / "stress" / "README.md").read_text()
