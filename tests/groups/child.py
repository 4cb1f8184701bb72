"""A process that uses the sqlite backend: ``python -m tests.groups.child DIRECTORY RETENTION [patched]``.

It reads one call a line as JSON, ``[name, argument ...]``, and answers each with a line. ``Child`` starts one.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gws_middleware.groups.backends.base import Feed, Lost, Publish, Want
from gws_middleware.groups.backends.sqlite import SqliteBackend
from gws_middleware.groups.errors import GroupsUnavailable
from gws_middleware.groups.position import Entry, History

__all__ = ["HISTORY", "Calls", "Child", "child"]

HISTORY = History(size=100_000, age=600)
ROOT = Path(__file__).parents[2]


class Calls:
    """What a child does. ``history`` is whether the group has one."""

    def __init__(self, directory: str, retention: float) -> None:
        self.directory = Path(directory)
        self.backend = SqliteBackend(directory, retention=retention)
        self._feed: Feed | None = None
        self._connection: sqlite3.Connection | None = None

    def publish(self, group: str, texts: list[str], history: bool = True) -> list[Any]:
        """One transaction for each text."""
        kept = HISTORY if history else None
        return [self.backend.publish([Publish(group, text.encode(), kept)])[0] for text in texts]

    def flood(self, group: str, seconds: float, rate: float) -> int:
        """Publish with so many messages a second; the payload is the time. How many."""
        begin, count = time.monotonic(), 0
        while (now := time.monotonic()) < begin + seconds:
            if count >= (now - begin) * rate:
                time.sleep(0.0002)
                continue
            self.backend.publish([Publish(group, b"%.6f" % now, HISTORY)])
            count += 1
        return count

    def subscribe(self, *groups: str) -> bool:
        """Make the feed, and subscribe."""
        if self._feed is None:
            self._feed = self.backend.feed()
        return self._feed.subscribe(groups)

    def wait(self, count: int, timeout: float = 10.0) -> list[Any]:
        """Events: texts, and ``["lost", reason]``; as many as asked for, or what came in time."""
        assert self._feed is not None
        found: list[Any] = []
        deadline = time.monotonic() + timeout
        while len(found) < count and (left := deadline - time.monotonic()) > 0:
            for event in self._feed.wait(left):
                if isinstance(event, Entry):
                    found.append(event.payload.decode())
                elif isinstance(event, Lost):
                    found.append(["lost", event.reason])
        return found

    def delays(self, timeout: float) -> list[float]:
        """How old the messages of a flood were on arrival, until none comes for so long."""
        assert self._feed is not None
        found: list[float] = []
        while events := self._feed.wait(timeout):
            now = time.monotonic()
            found += [now - float(event.payload) for event in events if isinstance(event, Entry)]
        return found

    def read(self, group: str) -> list[Any]:
        """Epoch, top and texts."""
        [page] = self.backend.read([Want(group, HISTORY, 0, 100_000)])
        return [page.epoch, page.top, [entry.payload.decode() for entry in page.entries]]

    def put(self, table: str, field: str, value: int | None) -> None:
        self.backend.put(table, {field: None if value is None else b"%d" % value})

    def get(self, table: str, field: str) -> list[int]:
        return list(map(int, self.backend.get(table, field)))

    def lock(self, statement: str) -> None:
        """Begin a transaction, and keep it open."""
        [path] = self.directory.glob("log-*.db")
        self._connection = sqlite3.connect(path, isolation_level=None)
        for part in statement.split(";"):
            self._connection.execute(part).fetchall()

    def close(self) -> None:
        self.backend.close()


class Child:
    """A process with ``Calls``: each method of those is one here.

    Args:
        directory: Of the log.
        retention: Seconds.
        patched: Whether gevent has patched it.

    """

    def __init__(self, directory: Path, retention: float = 60.0, *, patched: bool = False) -> None:
        command = [sys.executable, "-m", "tests.groups.child", str(directory), str(retention), *["patched"] * patched]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        assert self._answer() == "ready"

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.begin(name, *arguments)
            return self.end()

        return call

    def begin(self, name: str, *arguments: Any) -> None:
        """Call, and do not wait for the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self.process.stdin.flush()

    def end(self) -> Any:
        """The answer.

        Raises:
            GroupsUnavailable: As the call in the child.

        """
        answer = self._answer()
        if isinstance(answer, dict):
            raise GroupsUnavailable(answer["unavailable"])
        return answer

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; after SIGKILL, wait for the end."""
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()

    def finish(self) -> None:
        """End the process."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@contextmanager
def child(directory: Path, retention: float = 60.0, *, patched: bool = False) -> Iterator[Child]:
    """A child for the time of a block."""
    made = Child(directory, retention, patched=patched)
    try:
        yield made
    finally:
        made.finish()


def answer(result: Any) -> None:
    """Write an answer."""
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Answer calls until the end of the input."""
    directory, retention, *_ = sys.argv[1:]
    calls = Calls(directory, float(retention))
    answer("ready")
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            result = getattr(calls, name)(*arguments)
        except GroupsUnavailable as error:
            result = {"unavailable": str(error)}
        answer(result)


if __name__ == "__main__":
    if "patched" in sys.argv:
        from gevent import monkey

        monkey.patch_all()
    main()
