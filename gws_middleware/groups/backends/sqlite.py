"""Groups over several processes of one host, without a service: a log in SQLite, which all of them read.

The log is the truth. A publisher appends to it in one transaction, and then sends a byte to the socket of each feed.
The byte is a hint: a feed that gets none reads once a second. No process owns the log, which outlives all of them.

Rule: rows stay for ``retention`` seconds at least, whatever the history of their group is. A feed that has read for
the last time before that is given ``Lost``.
"""

from __future__ import annotations

import _socket
import itertools
import math
import os
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .. import waiting
from ..errors import GroupsUnavailable, UnknownOutcome
from ..position import Page, Position
from .base import TIMEOUT, Event, Lost, Publish, Record, Want
from .directory import automatic
from .handle import BusyError, Handle, Opened
from .processes import is_living

__all__ = ["SqliteBackend", "SqliteFeed"]

_BURIED = 1000
"""Records of dead processes that one call of ``bury()`` removes at most."""
_POLL = 1.0
"""Seconds after which a feed reads without a byte."""
_SWEEP = 5.0
"""Seconds between two checks of a feed for what is to be deleted, and for files that were removed."""


class SqliteBackend:
    """The backend of several processes on one host.

    Args:
        directory: Absolute path of the directory for the log, the same in all processes; None for one that is found by
            user and project. It is made with mode 0700 when the backend is first used.
        project: The directory of the project, the same in all its processes, for a directory that is None; the working
            directory by default.
        retention: Seconds for which an entry can be read by feeds at least.

    """

    def __init__(
        self, directory: Path | str | None = None, *, project: Path | str | None = None, retention: float = 60.0
    ) -> None:
        # The working directory of now: a process may change it.
        home = Path(project or os.getcwd())
        self._handle = Handle(lambda: automatic(home) if directory is None else Path(directory), retention)

    def publish(self, batch: Sequence[Publish], timeout: float = TIMEOUT) -> list[Position | None]:
        """See ``Backend``."""

        def work(opened: Opened) -> list[Position | None]:
            positions = opened.database.publish(batch)
            if not opened.database.is_there():
                raise UnknownOutcome(f"{opened.database.path} was removed in the moment in which it was written")
            try:
                opened.siblings.wake()
            except OSError:
                pass  # the directory was removed: the next transaction finds out, and this one was committed
            return positions

        return self._handle.run("write", work, timeout) if batch else []

    def read(self, wants: Sequence[Want]) -> list[Page]:
        """See ``Backend``."""
        return self._handle.run("read", lambda opened: opened.database.read(wants)) if wants else []

    def feed(self, until: float = math.inf) -> SqliteFeed:
        """See ``Backend``."""
        return SqliteFeed(self._handle, until)

    def put(self, table: str, values: Mapping[str, bytes | None], timeout: float = TIMEOUT) -> None:
        """See ``Backend``."""

        def work(opened: Opened) -> None:
            opened.database.put(opened.process.name, [(table, field, value) for field, value in values.items()])
            for field, value in values.items():
                self._keep(table, field, value)

        if values:
            self._handle.run("write", work, timeout)

    def _keep(self, table: str, field: str, value: bytes | None) -> None:
        if value is None:
            self._handle.records.pop((table, field), None)
        else:
            self._handle.records[table, field] = value

    def get(self, table: str, field: str, timeout: float = TIMEOUT) -> list[bytes]:
        """See ``Backend``."""
        return self._of_living(self._handle.run("read", lambda opened: opened.database.get(table, field), timeout))

    def exchange(self, table: str, field: str, value: bytes | None) -> list[bytes]:
        """See ``Backend``."""

        def work(opened: Opened) -> list[tuple[str, bytes]]:
            found = opened.database.exchange(opened.process.name, table, field, value)
            self._keep(table, field, value)
            return found

        found = self._handle.run("write", work)
        living = [each for each in found if is_living(self._handle.directory, each[0])]
        if len(living) < len(found):  # where there is no feed, nothing buries them
            dead = [process for process, _ in found if process not in dict(living)]
            self._handle.run("write", lambda opened: opened.database.drop(table, field, dead))
        return [value for _, value in living]

    def _of_living(self, found: list[tuple[str, bytes]]) -> list[bytes]:
        return [value for process, value in found if is_living(self._handle.directory, process)]

    def records(self, table: str, limit: int, timeout: float = TIMEOUT) -> list[Record]:
        """See ``Backend``."""

        def work(opened: Opened) -> list[tuple[str, str, bytes]]:
            return opened.database.records(table, self._living(opened), limit)

        found = self._handle.run("read", work, timeout)
        return [Record(process, table, field, value) for process, field, value in found]

    def count(self, table: str) -> int:
        """See ``Backend``."""
        return self._handle.run("read", lambda opened: opened.database.count(table, self._living(opened)))

    def _living(self, opened: Opened) -> list[str]:
        return [name for name in opened.database.owners() if is_living(self._handle.directory, name)]

    def bury(self) -> list[Record]:
        """See ``Backend``."""

        def work(opened: Opened) -> list[Record]:
            for name in opened.database.owners():
                if not is_living(self._handle.directory, name):
                    taken = opened.database.take(name, _BURIED)
                    return [Record(name, *each) for each in taken]
            return []

        return self._handle.run("write", work)

    def close(self) -> None:
        """See ``Backend``."""
        self._handle.close()


class SqliteFeed:
    """A feed of the log; see ``base.Feed``."""

    def __init__(self, handle: Handle, until: float) -> None:
        self._handle = handle
        self._groups: dict[str, int] = {}
        """Those that are subscribed to; of each, the ``seq`` after which it is."""
        self._file = ""
        """The name of the file that ``_last`` belongs to."""
        self._last = 0
        """The ``seq`` up to which everything was read."""
        self._lost = ""
        """Why entries may be missing before the next slice."""
        self._has_more = False
        self._has_given = False
        """Whether ``wait()`` has returned events the last time."""
        self._woken = False
        self._waiting = False
        self._closed = False
        self._busy_since: float | None = None
        self._read_at = 0.0
        self._sweep_at = time.monotonic() + _SWEEP * random.random()
        self._path = ""
        self._socket: _socket.socket | None = None
        self._waker: _socket.socket | None = None
        try:
            handle.run("read", self._begin, min(TIMEOUT, until - time.monotonic()))
        except BaseException:
            self._release()
            raise
        handle.dependents.add(self)

    def subscribe(self, groups: Iterable[str]) -> bool:
        """See ``Feed``."""
        wanted = list(groups)

        def work(opened: Opened) -> None:
            # What was published before this call, and not read yet, is not for them.
            is_current = opened.database.path.name == self._file
            self._add(wanted, opened.database.last() if is_current else 0)

        try:
            self._handle.attempt(work)
        except (BusyError, GroupsUnavailable):
            self._add(wanted, self._last)
        return True

    def _add(self, groups: list[str], last: int) -> None:
        for group in groups:
            self._groups.setdefault(group, last)

    def unsubscribe(self, groups: Iterable[str]) -> None:
        """See ``Feed``."""
        for group in groups:
            self._groups.pop(group, None)

    def wait(self, timeout: float | None) -> Sequence[Event]:
        """See ``Feed``."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        if self._has_given:
            waiting.pause(0)  # other greenlets run between two readings, also where there is always more to read
            self._has_given = False
        self._waiting = True
        try:
            while not self._closed:
                if self._drain() or time.monotonic() >= self._read_at:
                    events = self._read()
                    self._has_given = bool(events)
                else:
                    events = []
                woken, self._woken = self._woken, False
                if events or woken:
                    return events
                now = time.monotonic()
                if now >= deadline:
                    return []
                left = max(min(self._read_at, deadline) - now, 0.0)
                if self._socket is None or left == 0.0:
                    waiting.pause(left)
                else:
                    waiting.wait_readable([self._socket.fileno()], left)
        finally:
            self._waiting = False
            if self._closed:
                self._release()
        return []

    def wake(self) -> None:
        """See ``Feed``."""
        self._woken = True
        self._ring()

    def close(self) -> None:
        """See ``Feed``."""
        if not self._closed:
            self._closed = True
            self._hide()
            if self._waiting:  # wait() uses the socket, and releases it when it returns
                self._ring()
            else:
                self._release()

    def abandon(self) -> None:
        """Close what a forked child has of its parent's feed."""
        self._closed, self._path = True, ""
        self._release()

    # --- reading --------------------------------------------------------------------------------------------------

    def _read(self) -> list[Event]:
        """Read a slice, and find out when to read again without a byte."""
        now = time.monotonic()
        try:
            events = self._handle.attempt(self._slice)
        except BusyError as busy:
            if self._busy_since is None:
                self._busy_since = now
            elif now > self._busy_since + TIMEOUT:
                self._handle.report("read", self._handle.timed_out(str(busy)))
            self._read_at = now + random.uniform(0.001, 0.005)
            return []
        except GroupsUnavailable as error:
            self._handle.report("read", error)
            self._read_at = now + _POLL
            return []
        self._busy_since = None
        self._handle.report("read", None)
        if now >= self._sweep_at:
            self._sweep_at = now + self._try_sweep()
        self._read_at = now if self._has_more else min(now + _POLL, self._sweep_at)
        return events

    def _try_sweep(self) -> float:
        """Sweep. In how many seconds to do it again: what is in its way is no outage of reading."""
        try:
            has_more = self._handle.attempt(self._sweep)
        except (BusyError, GroupsUnavailable):
            return random.uniform(0.5, 1.0)
        return 0.05 if has_more else _SWEEP * random.uniform(0.8, 1.2)

    def _slice(self, opened: Opened) -> list[Event]:
        database = opened.database
        if database.path.name != self._file:
            self._bind()
            self._lost = "the log has begun anew"
            self._file, self._last = database.path.name, 0
            self._groups = dict.fromkeys(self._groups, 0)
        rows = database.after(self._last, self._groups)
        self._last, self._has_more = rows.last, rows.more
        if rows.lost:
            self._lost = "entries were deleted before this process had read them"
        lost, self._lost = self._lost, ""
        return [Lost(lost), *rows.entries] if lost else list(rows.entries)

    def _sweep(self, opened: Opened) -> bool:
        """Delete what can be deleted, and check that others find this feed."""
        if not os.path.exists(self._path):
            self._bind()
        opened.database.check_files()
        opened.siblings.clean()
        return opened.database.sweep()

    # --- the socket -----------------------------------------------------------------------------------------------

    def _begin(self, opened: Opened) -> None:
        """Begin with what is published from here on."""
        self._bind()
        self._file, self._last = opened.database.path.name, opened.database.last()

    def _bind(self) -> None:
        """Make the socket that publishers send to."""
        self._release()
        process = self._handle.enter()
        self._path = str(self._handle.directory / f"s-{process.name}-{next(_numbers)}")
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(self._path)
        # Connected, so that it reaches the socket also where the directory was removed.
        self._waker = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        self._waker.setblocking(False)
        self._waker.connect(self._path)

    def _drain(self) -> bool:
        """Take the bytes from the socket. Whether there were any."""
        found = False
        if self._socket is not None:
            try:
                while True:
                    self._socket.recv(1)
                    found = True
            except BlockingIOError:
                pass
        return found

    def _ring(self) -> None:
        waker = self._waker
        if waker is not None:
            try:
                waker.send(b"\0")
            except OSError:
                pass  # it has bytes to read, or was closed

    def _hide(self) -> None:
        """Remove the socket's file."""
        path, self._path = self._path, ""
        if path:
            try:
                os.unlink(path)
            except OSError:
                pass  # it was removed

    def _release(self) -> None:
        self._hide()
        for socket in (self._socket, self._waker):
            if socket is not None:
                socket.close()
        self._socket = self._waker = None


_numbers = itertools.count()
