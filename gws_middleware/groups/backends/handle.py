"""The one handle of a process on its log: threads, forks, locked files, files that were replaced.

Rule 1: one attempt is one transaction, under a lock of native threads, and no greenlet is switched to while it lasts.
Waiting happens between attempts. Rule 2: SQLite keeps what it has locked in memory of the process, for each file. A
child that inherits an open database would take its parent's locks for its own. So the database is closed before a fork,
and both sides open it again. Rule 3: nothing is logged under the lock, and of an outage its beginning and its end only.
"""

from __future__ import annotations

import _thread
import atexit
import itertools
import logging
import os
import random
import shutil
import sqlite3
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from .. import waiting
from ..errors import GroupsUnavailable
from .base import TIMEOUT
from .database import BrokenError, CorruptError, Database, begin, find, holder, is_corrupt, only_one, put_aside
from .directory import prepare
from .outages import Outages
from .processes import Process, Siblings

__all__ = ["BusyError", "Handle", "Opened", "logger"]

logger = logging.getLogger("gws_middleware.groups")

T = TypeVar("T")

_LOCK_TIMEOUT = 0.005
"""Seconds that an attempt waits for another thread. A signal handler that interrupts an attempt waits in vain."""


class BusyError(Exception):
    """This attempt could not be made, and another one may be, soon. The text says what was in the way."""


class Opened(NamedTuple):
    """What an attempt works with."""

    database: Database
    process: Process
    siblings: Siblings


class Dependent(Protocol):
    """A feed, as its handle knows it."""

    def close(self) -> None:
        """Release everything."""

    def abandon(self) -> None:
        """Close what a forked child has of its parent's, and touch nothing that the parent uses."""


class Handle:
    """The log of a directory, in this process.

    Args:
        locate: Says where the directory is, each time that the log is opened: the user of a process may change.
        retention: Seconds for which a row stays at least.

    """

    def __init__(self, locate: Callable[[], Path], retention: float) -> None:
        self.directory = Path()
        """Of the log, once it was opened."""
        self.retention = retention
        self._locate = locate
        self.records: dict[tuple[str, str], bytes] = {}
        """What this process has put, by table and field; written again where the log is begun anew."""
        self.dependents: weakref.WeakSet[Dependent] = weakref.WeakSet()
        self._place = "", ""
        """The file and the process that have the records."""
        self._database: Database | None = None
        self._process: Process | None = None
        self._siblings: Siblings | None = None
        self._lock = waiting.new_lock()
        self._closed = 0
        """How often: what waits for its next attempt meanwhile does not open the log again."""
        self._unusable = ""
        """Why nothing can be done any more in this process."""
        self._notices: list[tuple[int, str]] = []
        self._outages = Outages()
        _register(self)

    # --- attempts -------------------------------------------------------------------------------------------------

    def run(self, kind: str, work: Callable[[Opened], T], timeout: float = TIMEOUT) -> T:
        """Do something, with as many attempts as it needs.

        Args:
            kind: ``"read"`` or ``"write"``: their outages are reported apart, because one can work without the other.
            work: One transaction.
            timeout: Seconds for all attempts; one is made in any case.

        Raises:
            GroupsUnavailable: It was not done in time, or cannot be.

        """
        deadline = time.monotonic() + timeout
        tries, closed = 0, self._closed
        while True:
            tries += 1
            try:
                result = self.attempt(work)
            except BusyError as again:
                if time.monotonic() < deadline:
                    waiting.pause(random.uniform(0.0005, min(0.001 * tries, 0.005)))
                    if closed != self._closed:
                        raise GroupsUnavailable("groups were released") from None
                    continue
                error = self.timed_out(str(again), timeout)
            except GroupsUnavailable as unavailable:
                error = unavailable
            else:
                self.report(kind, None)
                return result
            self.report(kind, error)
            raise error

    def attempt(self, work: Callable[[Opened], T]) -> T:
        """Do something, once. Does not wait for other processes.

        Raises:
            BusyError: It was not done.
            GroupsUnavailable: It cannot be.

        """
        lock = self._lock
        if not lock.acquire(True, _LOCK_TIMEOUT):
            raise BusyError("another thread of this process uses the log")
        try:
            return work(self._open())
        except BrokenError as error:
            self._begin_anew(error)
            raise BusyError(str(error)) from None
        except sqlite3.Error as error:
            raise self._translate(error) from error
        except BlockingIOError:
            raise BusyError(f"another process begins the log in {self.directory}") from None
        except OSError as error:
            if not self.directory.exists():
                raise BusyError(f"{self.directory} was removed") from None
            raise GroupsUnavailable(f"the log of groups in {self.directory} cannot be used: {error}") from error
        finally:
            lock.release()
            while self._notices:
                logger.log(*self._notices.pop(0))

    def timed_out(self, obstacle: str, seconds: float = TIMEOUT) -> GroupsUnavailable:
        """What to say of something that has been in the way for so long."""
        database = self._database
        process = holder(database.path) if database is not None and "locked" in obstacle else ""
        by = f" by {process}" if process else ""
        return GroupsUnavailable(
            f"the log of groups in {self.directory} could not be used for {max(seconds, 0):.3g} s: {obstacle}{by}"
        )

    def report(self, kind: str, error: GroupsUnavailable | None) -> None:
        """Log the beginning of an outage, or its end."""
        if not self._unusable:  # for good, and no outage
            self._outages.report(kind, error)

    # --- under the lock -------------------------------------------------------------------------------------------

    def _open(self) -> Opened:
        if self._unusable:
            raise GroupsUnavailable(self._unusable)
        database, process, siblings = self._database, self._process, self._siblings
        if database is not None and process is not None and siblings is not None and database.is_there():
            return Opened(database, process, siblings)
        self._close_database()
        directory = self._locate()
        if directory != self.directory:
            self._leave()
            self.directory = directory
        prepare(directory)
        try:
            database = find(self.directory, self.retention)
        except BrokenError:
            reason = begin(self.directory, self.retention)
            if reason is not None and str(reason):
                self._note(reason)
            database = find(self.directory, self.retention)
        self._database = database
        opened = Opened(database, self.enter(), self._siblings or Siblings(self.directory))
        self._siblings = opened.siblings
        return opened

    def enter(self) -> Process:
        """Let other processes find this one, with its records. Under the lock."""
        assert self._database is not None
        process = self._process
        if process is None or not process.exists():
            if process is not None:
                process.abandon()
            process = self._process = Process(self.directory)
        place = self._database.path.name, process.name
        if self.records and place != self._place:
            try:
                records = [(table, field, value) for (table, field), value in self.records.items()]
                self._database.put(process.name, records)
            except BaseException:
                self._close_database()  # so that this is done again
                raise
        self._place = place
        return process

    def _begin_anew(self, error: BrokenError) -> None:
        """Take the file away, unless another process has done so."""
        database, self._database = self._database, None
        if database is None:
            return
        database.close()
        try:
            with only_one(self.directory):
                if database.is_there():
                    put_aside(database.path, error)
                    self._note(error)
        except OSError:
            pass  # another process does it, or the directory was removed: the next attempt finds out

    def _note(self, error: BrokenError) -> None:
        kept = f"; it is now {self.directory}/unusable.db" if isinstance(error, CorruptError) else ""
        text = f"groups: the log in {self.directory} begins anew, without its histories: {error}{kept}"
        self._notices.append((logging.ERROR if kept else logging.WARNING, text))

    def _translate(self, error: sqlite3.Error) -> Exception:
        """What an error of SQLite means."""
        text = str(error)
        if "locked" in text or "locking" in text:
            return BusyError(text)
        if is_corrupt(error):
            self._begin_anew(CorruptError(text))
            return BusyError(text)
        was_there = self._database is None or self._database.is_there()
        self._close_database()
        if not was_there or not self.directory.exists():
            return BusyError(f"{text}: the file was removed")
        if "full" in text or "I/O" in text:
            text += f"; {shutil.disk_usage(self.directory).free:,} bytes are free there"
        return GroupsUnavailable(f"the log of groups in {self.directory} cannot be used: {text}")

    def _close_database(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()

    # --- the end, and forks ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Release everything; the next attempt begins anew.

        Raises:
            GroupsUnavailable: Another thread, or what a signal handler has interrupted, uses it for too long.

        """
        self._closed += 1
        for dependent in list(self.dependents):
            dependent.close()
        lock = self._lock
        if not lock.acquire(True, TIMEOUT):
            raise self.timed_out("another thread of this process uses it")
        try:
            self._close_database()
            self._leave()
            self.records.clear()
        finally:
            lock.release()

    def __del__(self) -> None:
        self.close()

    def _leave(self) -> None:
        """Remove this process from the directory."""
        process, self._process = self._process, None
        siblings, self._siblings = self._siblings, None
        if process is not None:
            process.close()
        if siblings is not None:
            siblings.close()

    def end(self) -> None:
        """The interpreter ends. A daemon thread that comes later must not be in SQLite then."""
        self._unusable = "groups cannot be used: the interpreter is ending"
        try:
            self.close()
        except GroupsUnavailable:
            pass  # a thread is in a call of the system that does not return

    def before_fork(self) -> bool:
        """Close the database.

        Returns:
            Whether it is closed, and stays so until ``after_fork()``.

        """
        held: bool = self._lock.acquire(True, TIMEOUT)
        if held:
            self._close_database()
        return held

    def after_fork(self) -> None:
        """In the parent: go on."""
        self._lock.release()

    def after_fork_in_child(self, *, closed: bool) -> None:
        """In the child: begin anew, with nothing of the parent's."""
        self._lock = waiting.new_lock()
        if not closed:
            self._unusable = "groups cannot be used: this process was forked in the middle of a transaction"
        self.records, self._place = {}, ("", "")
        self._outages, self._notices = Outages(), []
        process, self._process = self._process, None
        siblings, self._siblings = self._siblings, None
        for dependent in list(self.dependents):
            dependent.abandon()
        self.dependents.clear()
        if process is not None:
            process.abandon()
        if siblings is not None:
            siblings.close()


_serials = itertools.count()
_handles: dict[int, weakref.ref[Handle]] = {}
"""By serial number, so in the order in which they were made."""
_forking: dict[int, list[tuple[Handle, bool]]] = {}
"""By the thread that forks: the handles, and whether they are closed."""
_registered = False


def _register(handle: Handle) -> None:
    """With the first handle, not on import."""
    global _registered
    serial = next(_serials)
    _handles[serial] = weakref.ref(handle, lambda _: _handles.pop(serial, None))
    if not _registered:
        _registered = True
        os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
        atexit.register(_end)


def _all() -> list[Handle]:
    # The list of values is made in one step: another thread may make a handle at any time.
    return [handle for reference in list(_handles.values()) if (handle := reference()) is not None]


def _before_fork() -> None:
    # In the same order in every thread, so that two that fork at the same time do not wait for each other.
    _forking[_thread.get_ident()] = [(handle, handle.before_fork()) for handle in _all()]


def _after_fork() -> None:
    for handle, held in _forking.pop(_thread.get_ident(), ()):
        if held:
            handle.after_fork()


def _after_fork_in_child() -> None:
    for handle, held in _forking.pop(_thread.get_ident(), ()):
        handle.after_fork_in_child(closed=held)
    _forking.clear()  # of other threads, which do not exist here


def _end() -> None:
    for handle in _all():
        handle.end()
