"""The backend of one process: for tests, and for a site of one worker that wants no file. Any thread may publish."""

from __future__ import annotations

import math
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from weakref import WeakSet

from gevent import get_hub
from gevent.event import Event as Signal
from gevent.monkey import get_original

from ..position import Entry, History, Page, Position
from .base import TIMEOUT, Event, Publish, Record, Want

__all__ = ["MemoryBackend"]

_SLICE = 500
"""Entries that a feed returns at once."""
_allocate_lock = get_original("_thread", "allocate_lock")


class _Group:
    """What is kept of one group."""

    def __init__(self) -> None:
        self.epoch = secrets.token_hex(4)
        self.top = 0
        self._kept: deque[tuple[float, Entry]] = deque()

    def append(self, name: str, payload: bytes, history: History) -> Entry:
        """Give it the next offset."""
        self.top += 1
        entry = Entry(name, self.epoch, self.top, payload)
        self._kept.append((time.monotonic(), entry))
        self._trim(history)
        return entry

    def page(self, want: Want) -> Page:
        """What is asked for."""
        self._trim(want.history)
        found = [entry for _, entry in self._kept if want.after is None or entry.offset > want.after]
        if want.after is None:
            found = found[len(found) - min(want.limit, len(found)) :]
        return Page(self.epoch, self.top, found[: want.limit])

    def _trim(self, history: History) -> None:
        kept, oldest = self._kept, time.monotonic() - history.age
        while kept and (len(kept) > history.size or kept[0][0] < oldest):
            kept.popleft()


class MemoryBackend:
    """Keeps everything in this process. A forked child has nothing of it."""

    def __init__(self) -> None:
        self.begin()
        _backends.add(self)

    def begin(self) -> None:
        """Have nothing."""
        self._lock = _allocate_lock()
        self._groups: dict[str, _Group] = {}
        self._feeds: list[_Feed] = []
        self._records: dict[str, dict[str, bytes]] = {}
        """By table and field."""

    def publish(self, batch: Sequence[Publish], timeout: float = TIMEOUT) -> list[Position | None]:
        """See ``Backend``."""
        positions: list[Position | None] = []
        with self._lock:
            for group, payload, history in batch:
                if history is None:
                    entry = Entry(group, "", 0, payload)
                    positions.append(None)
                else:
                    entry = self._groups.setdefault(group, _Group()).append(group, payload, history)
                    positions.append(Position(entry.epoch, entry.offset))
                for feed in self._feeds:
                    feed.put(entry)
        return positions

    def read(self, wants: Sequence[Want]) -> list[Page]:
        """See ``Backend``."""
        with self._lock:
            return [self._groups.setdefault(want.group, _Group()).page(want) for want in wants]

    def feed(self, until: float = math.inf) -> _Feed:
        """See ``Backend``."""
        feed = _Feed(self)
        with self._lock:
            self._feeds.append(feed)
        return feed

    def remove(self, feed: _Feed) -> bool:
        """It is closed. Whether it was open."""
        with self._lock:
            is_open = feed in self._feeds
            if is_open:
                self._feeds.remove(feed)
            return is_open

    def if_open(self, feed: _Feed, function: Callable[[], object]) -> None:
        """Call it, unless the feed was closed."""
        with self._lock:
            if feed in self._feeds:
                function()

    def put(self, table: str, values: Mapping[str, bytes | None], timeout: float = TIMEOUT) -> None:
        """See ``Backend``."""
        with self._lock:
            for field, value in values.items():
                self._set(table, field, value)

    def _set(self, table: str, field: str, value: bytes | None) -> None:
        fields = self._records.setdefault(table, {})
        if value is None:
            fields.pop(field, None)
        else:
            fields[field] = value
        if not fields:
            del self._records[table]

    def get(self, table: str, field: str, timeout: float = TIMEOUT) -> list[bytes]:
        """See ``Backend``."""
        with self._lock:
            value = self._records.get(table, {}).get(field)
        return [] if value is None else [value]

    def exchange(self, table: str, field: str, value: bytes | None) -> list[bytes]:
        """See ``Backend``."""
        self.put(table, {field: value})
        return [] if value is None else [value]

    def records(self, table: str, limit: int, timeout: float = TIMEOUT) -> list[Record]:
        """See ``Backend``."""
        with self._lock:
            fields = list(self._records.get(table, {}).items())[:limit]
        return [Record("this", table, field, value) for field, value in fields]

    def count(self, table: str) -> int:
        """See ``Backend``."""
        with self._lock:
            return len(self._records.get(table, ()))

    def bury(self) -> list[Record]:
        """See ``Backend``: no other process has any."""
        return []

    def close(self) -> None:
        """See ``Backend``."""
        with self._lock:
            feeds = list(self._feeds)
            self._groups.clear()
            self._records.clear()
        for feed in feeds:
            feed.close()


class _Feed:
    """The entries, as they come from any thread."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend
        self._signal = Signal()
        # Not run_callback_threadsafe(): it changes the loop's count of watchers while the loop may do so, too.
        self._watcher = get_hub().loop.async_()
        self._watcher.start(self._signal.set)
        self._queue: deque[Event] = deque()
        self._groups: set[str] = set()
        self._is_woken = self._is_closed = False

    def put(self, entry: Entry) -> None:
        """An entry was published; the lock of the backend is held."""
        if entry.group in self._groups:
            self._queue.append(entry)
            self._watcher.send()

    def subscribe(self, groups: Iterable[str]) -> bool:
        """See ``Feed``."""
        self._groups.update(groups)
        return True

    def unsubscribe(self, groups: Iterable[str]) -> None:
        """See ``Feed``."""
        self._groups.difference_update(groups)

    def wait(self, timeout: float | None) -> Sequence[Event]:
        """See ``Feed``."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not (self._queue or self._is_woken or self._is_closed):
            self._signal.clear()
            left = None if deadline is None else deadline - time.monotonic()
            if (left is not None and left <= 0) or not self._signal.wait(left):
                break
        self._is_woken = False
        return [self._queue.popleft() for _ in range(min(len(self._queue), _SLICE))]

    def wake(self) -> None:
        """See ``Feed``."""
        self._is_woken = True
        self._backend.if_open(self, self._watcher.send)

    def close(self) -> None:
        """See ``Feed``."""
        self._is_closed = True
        self._signal.set()
        if self._backend.remove(self):
            self._watcher.close()


_backends: WeakSet[MemoryBackend] = WeakSet()


def _forked() -> None:
    """In a process that has just been forked: what was published is the parent's, and another thread of the parent may
    have held a lock.
    """
    for backend in _backends:
        backend.begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
