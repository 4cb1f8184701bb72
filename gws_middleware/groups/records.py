"""What other processes can read of the members of this one: how many a group has, and with presence which they are.

Rule 1: a write has all that has changed of a table. Nothing is written again while a member stays.
Rule 2: a write that has failed is made again, and an older value never comes after a newer one.
Rule 3: what is counted can be read: the count of a group is written after its members.
Rule 4: a change is published after the records show it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent
from gevent.lock import BoundedSemaphore

from . import waiting
from .backends.base import TIMEOUT, Backend, Publish
from .errors import GroupsUnavailable, UnknownOutcome
from .message import CONTROL, Envelope
from .presence import Changes, Presence, presence_group

__all__ = ["COUNTS", "MemberRecords", "table_of"]

log = logging.getLogger("gws_middleware.groups")

COUNT_AFTER = 0.1
"""Seconds after which other processes see the members that there are here."""
RETRY = 2.0
"""Seconds until a write that has failed is made again."""
COUNTS = "members"
"""The table of the number of members of each group."""
_MEMBERS = "members:"


def table_of(name: str) -> str:
    """The table of the members of a group: by connection, the info as JSON."""
    return _MEMBERS + name


class MemberRecords:
    """The records of the members of this process on one event loop.

    Args:
        backend: Where they are put.
        presence_of: What is visible of the members of a group, by its name.

    """

    def __init__(self, backend: Backend, presence_of: Callable[[str], Presence | None]) -> None:
        self._backend, self._presence_of = backend, presence_of
        self._pid = os.getpid()
        self._counts: dict[str, bytes | None] = {}
        """Not written yet, as the next two."""
        self._members: dict[str, dict[str, bytes | None]] = {}
        self._changes: dict[str, Changes] = {}
        self._present: dict[str, dict[str, bytes]] = {}
        """By group with presence and connection, the info of the members."""
        self._is_due = False
        self._writing = BoundedSemaphore()
        self._life = object()
        """Another one after ``clear()``."""

    # --- what the hub reports ----------------------------------------------------------------------------------------

    def counted(self, name: str, size: int) -> None:
        """A group has so many members here."""
        self._counts[name] = b"%d" % size if size else None
        self._write_after(COUNT_AFTER)

    def joined(self, name: str, connection: str, info: bytes) -> None:
        """A connection is a member of a group with presence."""
        self._present.setdefault(name, {})[connection] = info
        self._members.setdefault(name, {})[connection] = info
        self._note(name, Changes.join, connection, info)

    def left(self, name: str, connection: str) -> None:
        """A connection is a member no longer, if it was one."""
        present = self._present.get(name, {})
        info = present.pop(connection, None)
        if info is None:
            return
        if not present:
            del self._present[name]
        self._members.setdefault(name, {})[connection] = None
        self._note(name, Changes.leave, connection, info)

    def _note(self, name: str, change: Callable[[Changes, str, bytes], None], connection: str, info: bytes) -> None:
        presence = self._presence_of(name)
        if presence is not None and presence.events:
            change(self._changes.setdefault(name, Changes()), connection, info)
        self._write_after(COUNT_AFTER)

    def return_all(self) -> None:
        """Another process has published the leaves of all members of this one: publish that they are members."""
        for name, present in self._present.items():
            for connection, info in present.items():
                self._note(name, Changes.join, connection, info)

    def bury(self) -> None:
        """Remove the records of processes that live no more, and publish the leaves of their members.

        Raises:
            GroupsUnavailable: Nothing was removed.

        """
        life = self._life
        while self._life is life and (buried := self._backend.bury()):
            if self._life is not life:  # released meanwhile: to publish them would open the backend again
                return
            for record in buried:
                if record.table.startswith(_MEMBERS):
                    name = record.table.removeprefix(_MEMBERS)
                    self._note(name, Changes.leave, record.field, record.value)

    def clear(self) -> None:
        """There are no members, and no records: they have ended with the backend."""
        self._counts.clear()
        self._members.clear()
        self._changes.clear()
        self._present.clear()
        self._life = object()

    # --- writing -----------------------------------------------------------------------------------------------------

    def _write_after(self, seconds: float) -> None:
        if not self._is_due:
            self._is_due = True
            gevent.spawn_later(seconds, self._write)

    def _write(self) -> None:
        """Runs in a greenlet of its own."""
        if self._pid != os.getpid():
            return
        self._is_due = False
        try:
            self.flush()
        except GroupsUnavailable as error:
            log.warning("the members of this process are not visible to other processes: %s", error)
            self._write_after(RETRY)

    def flush(self, until: float | None = None) -> None:
        """Let other processes see the members that there are here.

        Args:
            until: When (``time.monotonic()``) this fails at the latest; None for ``TIMEOUT`` seconds for each write.

        Raises:
            GroupsUnavailable: They do not see all of them.

        """
        with self._alone(until):
            life = self._life
            counts, self._counts = self._counts, {}
            members, self._members = self._members, {}
            changes, self._changes = self._changes, {}
            try:
                for name, values in members.items():
                    if self._life is not life:
                        return
                    self._backend.put(table_of(name), values, _left(until))
                    waiting.pause(0)  # there may be many groups
                if self._life is not life:
                    return
                if counts:
                    self._backend.put(COUNTS, counts, _left(until))
                self._publish(changes, until)
            except BaseException:
                if self._life is life:
                    self._restore(counts, members, changes)
                raise

    @contextmanager
    def _alone(self, until: float | None) -> Iterator[None]:
        """One write after the other."""
        if not self._writing.acquire(timeout=None if until is None else _left(until)):
            raise GroupsUnavailable("the members of this process are being written, and that has not ended in time")
        try:
            yield
        finally:
            self._writing.release()

    def _restore(
        self,
        counts: dict[str, bytes | None],
        members: dict[str, dict[str, bytes | None]],
        changes: dict[str, Changes],
    ) -> None:
        """These are to be written again, where nothing newer is."""
        self._counts = counts | self._counts
        self._members = members | {name: members.get(name, {}) | newer for name, newer in self._members.items()}
        for name, newer in self._changes.items():
            changes.setdefault(name, Changes()).add(newer)
        self._changes = changes

    def _publish(self, changes: dict[str, Changes], until: float | None) -> None:
        batch = [
            Publish(presence_group(name), Envelope(CONTROL, message).pack(), None)
            for name, each in changes.items()
            for message in each.messages()
        ]
        try:
            if batch:
                self._backend.publish(batch, _left(until))
        except UnknownOutcome as error:  # sent again they could come twice
            log.warning("joins and leaves of members were published or not: %s", error)


def _left(until: float | None) -> float:
    """The seconds that a write may take."""
    return TIMEOUT if until is None else max(0.0, until - time.monotonic())
