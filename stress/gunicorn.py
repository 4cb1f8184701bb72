"""A gunicorn that the programs start: the pids of its workers, and the resources that each of them holds."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from gws_middleware import Config
from tests.support.servers import KINDS, ROOT, Log, Server, await_answer, no_control_socket, own_environment

from .peer import Address, Peer
from .report import Report

__all__ = [
    "STORE",
    "Gunicorn",
    "has_setting",
    "has_write_lock",
    "is_running",
    "make_database",
    "resident_bytes",
    "run_gunicorn",
    "run_load",
    "without_pings",
]

BOOT = 15.0
"""Seconds that the replacement of a worker may take to serve."""
BACKLOG = 4096
"""Connections that wait in the kernel while all clients reconnect at once."""
APPLICATION = "stress.app"
STORE = "stored.txt"
"""Where /stored writes, below the directory of the run."""


class Gunicorn:
    """A running gunicorn."""

    def __init__(self, server: Server, count: int) -> None:
        self.server, self.count = server, count
        self.address: Address = server.tcp
        self.log: Log = server.log
        self.seen: set[int] = set()
        """Workers that have answered a request."""

    @property
    def arbiter(self) -> int:
        """The pid of the first process."""
        return self.server.process.pid

    def workers(self) -> list[int]:
        """The pids of the running workers, the oldest first, with those that are stopping."""
        text = Path(f"/proc/{self.arbiter}/task/{self.arbiter}/children").read_text()
        return [pid for pid in map(int, text.split()) if is_running(pid)]

    def complete(self) -> bool:
        """Whether there are as many workers as there should be, and all of them serve."""
        workers = self.workers()
        if len(workers) == self.count and not self.seen.issuperset(workers):
            try:
                self.get("/")  # perhaps there is no other request
            except (OSError, EOFError):
                pass  # a worker was killed meanwhile
        return len(workers) == self.count and self.seen.issuperset(workers)

    def send(self, pid: int, number: int) -> None:
        """Send a signal to one process, unless it has ended."""
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    def get(self, path: str, timeout: float = 30.0) -> tuple[int, bytes]:
        """One GET request on a connection of its own: status and body; OSError or EOFError where it fails."""
        with Peer(self.address, timeout=timeout) as peer:
            response = peer.get(path, ("Connection", "close"))
            peer.note_worker(response)
            if peer.worker:
                self.seen.add(peer.worker)
            return response.status, response.body

    @contextmanager
    def alone(self, pid: int) -> Iterator[None]:
        """The other workers are stopped for a ``with`` block, so that this one takes all connections."""
        others = [other for other in self.workers() if other != pid]
        try:
            for other in others:
                self._stop(other)
            yield
        finally:
            for other in others:
                self.send(other, signal.SIGCONT)

    def _stop(self, pid: int) -> None:
        """Stop a worker while it writes to no database: what it locks would be locked for all as long as it is stopped.

        TimeoutError if it always did in ``BOOT`` seconds.
        """
        deadline = time.monotonic() + BOOT
        while time.monotonic() < deadline:
            self.send(pid, signal.SIGSTOP)
            while _state(pid) not in ("T", "Z", ""):  # the signal is delivered a moment later
                time.sleep(0.001)
            if not has_write_lock(pid):
                return
            self.send(pid, signal.SIGCONT)
            time.sleep(0.002)
        raise TimeoutError(f"worker {pid} had locked a database each time that it was stopped")

    def held(self, pid: int) -> dict[str, Any]:
        """The resources that this worker holds."""
        with self.alone(pid):
            status, body = self.get("/held")
        assert status == 200, (status, body)
        counts: dict[str, Any] = json.loads(body)
        return counts


def is_running(pid: int) -> bool:
    """False for a process that has ended and was not waited for yet."""
    return _state(pid) not in ("Z", "")


def _state(pid: int) -> str:
    """The letter that the kernel has for the state of a process; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def has_write_lock(pid: int) -> bool:
    """Whether a process has locked a part of a file for writing: SQLite does that while it writes to a database."""
    locks = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return any(lock[1:5:2] == ["POSIX", "WRITE"] and lock[4] == str(pid) for lock in locks)


def resident_bytes(pid: int) -> int:
    """The resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def has_setting(setting: str) -> bool:
    """Whether the package has this setting."""
    return setting in {each.name for each in fields(Config)}


def without_pings() -> dict[str, str]:
    """For clients that compare every byte and expect no ping between two echoes."""
    return {"GWS_PING_INTERVAL": "3600"} if has_setting("ping_interval") else {}


@contextmanager
def run_load(module: str, *arguments: object) -> Iterator[dict[str, float]]:
    """Run a load in a process of its own for a ``with`` block; its results are in the dictionary after it."""
    command = [sys.executable, "-m", f"stress.{module}", json.dumps(arguments)]
    found: dict[str, float] = {}
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line == "ready\n", f"the sockets were not opened: {line!r}"
            yield found
            process.stdin.close()
            found.update(json.loads(process.stdout.readline() or "{}"))
        finally:
            process.kill()


@contextmanager
def run_gunicorn(
    report: Report,
    directory: Path,
    workers: int,
    *,
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    kind: str = "worker",
    graceful_timeout: float = 30.0,
    expected: Sequence[str] = (),
    send_buffer: int | None = None,
) -> Iterator[Gunicorn]:
    """A gunicorn with so many workers for a ``with`` block.

    ``send_buffer`` is that of the kernel, in bytes, for each connection; None for its own choice.
    Another exit status than 0 is a violation, and so is a problem in its log that ``expected`` does not name.
    """
    directory.mkdir(parents=True, exist_ok=True)
    running = Gunicorn(_start(directory, workers, options, env or {}, kind, graceful_timeout, send_buffer), workers)
    try:
        await_answer(running.server)
        yield running
        # A worker of gunicorn's own class loses a SIGTERM while it boots: gunicorn then waits for graceful_timeout.
        report.eventually("workers", running.complete, "all workers to serve at the end", BOOT, running.workers)
    finally:
        code = running.server.end()
        if code != 0:
            report.violation("end", f"gunicorn ended with {code} instead of 0")
    report.check_log(running.log, expected)


def make_database(directory: Path) -> None:
    """The database of the Django views (pages.py), in the mode in which readers do not wait for writers."""
    directory.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(directory / "database.sqlite3") as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE stress_note (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL)")
    database.close()


def _start(
    directory: Path,
    workers: int,
    options: Sequence[str],
    env: Mapping[str, str],
    kind: str,
    graceful_timeout: float,
    send_buffer: int | None,
) -> Server:
    worker_class = KINDS[kind].gunicorn
    assert worker_class is not None, kind
    log = directory / "error.log"
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener, log.open("ab") as stderr:
        if send_buffer is not None:  # accepted sockets inherit it
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        command = [sys.executable, "-m", "gunicorn", *worker_class, "--bind", f"fd://{listener.fileno()}"]
        command += ["--workers", str(workers), "--worker-connections", "10000", *no_control_socket()]
        command += ["--graceful-timeout", f"{graceful_timeout:g}", *options]
        command.append(f"{APPLICATION}:{'application' if KINDS[kind].wraps else 'wrapped'}")
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=own_environment({"STRESS_DIRECTORY": str(directory), "STRESS_STORE": STORE, **env}),
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
        )
        return Server(KINDS[kind], process, listener.getsockname(), "", None, Log(log), directory / "access.log")
