"""Writers that are killed at random instants: ``python -m tests.groups.writers [KILLS [DIRECTORY]]``.

Several forked writers publish to one group, and acknowledge each message on a pipe after ``publish()`` has returned.
Each is killed by SIGKILL at a random instant, and another one is started. Three other processes read all the time.

The invariant: every acknowledged message is in the log once; each writer's messages are in its order, without a gap;
the offsets have no gap; the readers have what the log has, in the same order; the database is intact.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gws_middleware.groups.backends.base import Publish, Want
from gws_middleware.groups.backends.sqlite import SqliteBackend
from gws_middleware.groups.position import Entry, History

__all__ = ["Result", "main", "run"]

HISTORY = History(size=100_000, age=3600)
WRITERS, READERS = 4, 3
LIFE = 0.03
"""Seconds after which a writer has been killed at the latest."""


class Result(NamedTuple):
    """What a run has shown."""

    kills: int
    acknowledged: int
    published: int
    seconds: float
    problems: list[str]


def run(directory: Path, kills: int, seed: int = 1) -> Result:
    """Kill writers, and check the invariant."""
    started = time.monotonic()
    backend = SqliteBackend(directory, retention=600)
    backend.publish([Publish("chat", b"begin", HISTORY)])
    readers = [_fork(lambda write: _read(directory, write)) for _ in range(READERS)]
    for _, pipe in readers:
        assert os.read(pipe, 1) == b"."
    acknowledged = _kill_writers(directory, kills, random.Random(seed))
    backend.publish([Publish("chat", b"end", HISTORY)])
    seen = [_all(pipe).decode().split() for _, pipe in readers]
    for pid, _ in readers:
        os.waitpid(pid, 0)
    [page] = backend.read([Want("chat", HISTORY, 0, 100_000)])
    backend.close()
    entries = [entry.payload.decode() for entry in page.entries]
    problems = _problems(acknowledged, page.top, [entry.offset for entry in page.entries], entries, seen)
    problems += _integrity(directory)
    total = sum(len(numbers) for numbers in acknowledged.values())
    return Result(kills, total, len(entries), time.monotonic() - started, problems)


def begin(directory: Path, kills: int, seed: int = 1) -> list[str]:
    """Kill writers that begin a log, each time in a directory of its own; another one begins it at the same time.

    Returns:
        What is wrong with the logs: each has to have all that the other writer has published.

    """
    chance = random.Random(seed)
    problems = []
    for number in range(kills):
        place = directory / str(number)
        victim, acknowledged = _fork(lambda write, place=place: _write(place, 0, write))
        other, done = _fork(lambda write, place=place: _write_some(place, write))
        time.sleep(chance.random() * 0.015)
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        os.waitpid(other, 0)
        backend = SqliteBackend(place)
        [page] = backend.read([Want("chat", HISTORY, 0, 100_000)])
        backend.close()
        entries = [entry.payload.decode() for entry in page.entries]
        mine = [text for text in entries if text.startswith("1.")]
        count = len(_all(acknowledged).split())
        if _all(done) != b"done" or mine != [f"1.{each}" for each in range(5)]:
            problems.append(f"log {number}: the writer that was not killed has published {mine}")
        if not count <= len(entries) - len(mine) <= count + 1:
            problems.append(f"log {number}: the one that was killed has {entries} for {count} acknowledged")
        problems += _integrity(place)
    return problems


def _write_some(directory: Path, write: Callable[[bytes], object]) -> None:
    backend = SqliteBackend(directory)
    for number in range(5):
        backend.publish([Publish("chat", b"1.%d" % number, HISTORY)])
    backend.close()
    write(b"done")


def _kill_writers(directory: Path, kills: int, chance: random.Random) -> dict[int, list[int]]:
    """Run writers until so many were killed; the numbers that each has acknowledged."""
    acknowledged: dict[int, list[int]] = {}
    running: list[tuple[float, int, int, int]] = []
    for writer in range(kills):
        pid, pipe = _fork(lambda write, writer=writer: _write(directory, writer, write))
        running.append((time.monotonic() + chance.random() * LIFE, writer, pid, pipe))
        while len(running) == WRITERS or (running and writer == kills - 1):
            due, killed, pid, pipe = min(running)
            running.remove((due, killed, pid, pipe))
            time.sleep(max(0.0, due - time.monotonic()))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            acknowledged[killed] = [int(number) for number in _all(pipe).split()]
    return acknowledged


def _write(directory: Path, writer: int, write: Callable[[bytes], object]) -> None:
    backend = SqliteBackend(directory, retention=600)
    number = 0
    while True:
        backend.publish([Publish("chat", b"%d.%d" % (writer, number), HISTORY)])
        write(b"%d " % number)
        number += 1


def _read(directory: Path, write: Callable[[bytes], object]) -> None:
    feed = SqliteBackend(directory, retention=600).feed()
    feed.subscribe(["chat"])
    write(b".")
    found: list[str] = []
    while not found or found[-1] != "end":
        found += [event.payload.decode() if isinstance(event, Entry) else "lost" for event in feed.wait(30)]
    write(" ".join(found).encode())


def _fork(work: Callable[[Callable[[bytes], object]], None]) -> tuple[int, int]:
    """Run a function in a child: its number, and the pipe that it writes to."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            with open(writer, "wb", buffering=0) as output:
                work(output.write)
        finally:
            os._exit(0)
    os.close(writer)
    return pid, reader


def _all(pipe: int) -> bytes:
    """What was written, until the writer's end."""
    with open(pipe, "rb") as content:
        return content.read()


def _problems(
    acknowledged: dict[int, list[int]], top: int, offsets: list[int], entries: list[str], seen: list[list[str]]
) -> list[str]:
    """Where the invariant does not hold."""
    problems = []
    if offsets != list(range(1, top + 1)):
        problems.append(f"the offsets have a gap: {len(offsets)} entries and the top {top}")
    published: dict[int, list[int]] = defaultdict(list)
    for text in entries[1:-1]:
        writer, _, number = text.partition(".")
        published[int(writer)].append(int(number))
    for writer, numbers in published.items():
        if numbers != list(range(len(numbers))):
            problems.append(f"the messages of writer {writer} are not in order: {numbers}")
    for writer, numbers in acknowledged.items():
        # One more may have been committed, and its writer killed before it could acknowledge it.
        if not len(numbers) <= len(published[writer]) <= len(numbers) + 1 or numbers != list(range(len(numbers))):
            problems.append(f"writer {writer} has acknowledged {numbers}, and published {published[writer]}")
    for reader, found in enumerate(seen):
        if found != entries[1:]:
            problems.append(f"reader {reader} has {len(found)} messages in another order than the log: {found[:3]} ...")
    return problems


def _integrity(directory: Path) -> list[str]:
    [path] = directory.glob("log-*.db")
    connection = sqlite3.connect(path)
    found = [row for (row,) in connection.execute("PRAGMA integrity_check") if row != "ok"]
    connection.close()
    return found


def main(arguments: list[str]) -> int:
    """Run, and print what was found."""
    kills = int(arguments[0]) if arguments else 1000
    directory = Path(arguments[1] if len(arguments) > 1 else tempfile.mkdtemp(dir="/dev/shm"))
    (directory / "logs").mkdir(mode=0o700)
    result = run(directory / "log", kills)
    problems = result.problems + begin(directory / "logs", kills // 5)
    sys.stdout.write(json.dumps(result._replace(problems=problems)._asdict()) + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
