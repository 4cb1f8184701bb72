"""What a backend does.

Rule 1: all methods of a backend may be called in any thread and any greenlet, in a process
that gevent has patched or not, and before and after a fork: a child has nothing of its parent's.
Rule 2: what cannot be done is ``GroupsUnavailable``, within ``TIMEOUT`` seconds, or ``timeout`` where a method has that
argument; nothing waits without an end.
Rule 3: a feed belongs to one greenlet. It has the entries of each group in the order in which they were published, the
same in all processes, those that this process has published too; or it says that some may be missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from ..position import Entry, History, Page, Position

__all__ = ["TIMEOUT", "Backend", "Buried", "Confirmed", "Event", "Feed", "Lost", "Publish", "Record", "Want"]

TIMEOUT = 5.0
"""Seconds after which a call that could not be done raises GroupsUnavailable."""


class Publish(NamedTuple):
    """A message for a group."""

    group: str
    payload: bytes
    history: History | None
    """What the group keeps; None for nothing."""


class Want(NamedTuple):
    """What is to be read of a group with history."""

    group: str
    history: History
    after: int | None
    """Entries with a greater offset, the oldest first; None for the latest entries."""
    limit: int
    """How many at most; 0 for the top alone."""


class Confirmed(NamedTuple):
    """From here on the feed has the entries of these groups."""

    groups: frozenset[str]


class Lost(NamedTuple):
    """Entries of any group may be missing between what came before this and what comes after."""

    reason: str
    """For the log."""


class Buried(NamedTuple):
    """The records of this process were removed: by others, which have taken it for dead, or with all others. They were
    put again.
    """

    reason: str
    """For the log."""


Event = Entry | Confirmed | Lost | Buried


class Record(NamedTuple):
    """A fact that a process has put into a table. It ends with the process."""

    process: str
    """A name that no other process of the site has ever had."""
    table: str
    field: str
    value: bytes


class Feed(Protocol):
    """The entries of the groups that are subscribed to."""

    def subscribe(self, groups: Iterable[str]) -> bool:
        """Ask for the entries of these groups. Never waits.

        Returns:
            True where this holds from now on; False where ``Confirmed`` comes later.

        """

    def unsubscribe(self, groups: Iterable[str]) -> None:
        """Ask for them no more. Never waits; some may still come."""

    def wait(self, timeout: float | None) -> Sequence[Event]:
        """Wait for events. What fails is tried again in here: this raises nothing, and ``Lost`` says what it meant.

        Args:
            timeout: Seconds to wait at most; None for no limit.

        Returns:
            At least one, or none when the time has passed or ``wake()`` was called.

        """

    def wake(self) -> None:
        """Let ``wait()`` return. May be called in any thread."""

    def close(self) -> None:
        """Release everything; a second call does nothing."""


class Backend(Protocol):
    """Moves entries between processes."""

    def publish(self, batch: Sequence[Publish], timeout: float = TIMEOUT) -> list[Position | None]:
        """Publish messages, all of them or none.

        Returns:
            The position of each; None in a group without history.

        Raises:
            GroupsUnavailable: None was published.
            UnknownOutcome: It is not known whether they were.

        """

    def read(self, wants: Sequence[Want]) -> list[Page]:
        """Read what groups keep. A group of which nothing is known begins an epoch.

        Raises:
            GroupsUnavailable: Nothing could be read.

        """

    def feed(self, until: float = math.inf) -> Feed:
        """A new feed.

        Args:
            until: When (``time.monotonic()``) it is of no use any more: it does not wait for a connection after that.

        Raises:
            GroupsUnavailable: There can be none now.

        """

    def put(self, table: str, values: Mapping[str, bytes | None], timeout: float = TIMEOUT) -> None:
        """Set values of this process, by field; None removes one. They end with the process, however it ends.

        Raises:
            GroupsUnavailable: Nothing was set.

        """

    def get(self, table: str, field: str, timeout: float = TIMEOUT) -> list[bytes]:
        """The values of a field, of all living processes.

        Raises:
            GroupsUnavailable: Nothing could be read.

        """

    def exchange(self, table: str, field: str, value: bytes | None) -> list[bytes]:
        """Set a value of this process, and read those of all living processes, this one among them, in one step: of
        two processes that do it at the same time, one sees the other's.

        Raises:
            GroupsUnavailable: Nothing was set.

        """

    def records(self, table: str, limit: int, timeout: float = TIMEOUT) -> list[Record]:
        """Records of a table, of all living processes; not more than ``limit``.

        Raises:
            GroupsUnavailable: Nothing could be read.

        """

    def count(self, table: str) -> int:
        """How many records of living processes there are in a table.

        Raises:
            GroupsUnavailable: Nothing could be read.

        """

    def bury(self) -> list[Record]:
        """Remove records of processes that live no more: a part of them, where they are many. Each record is returned
        to one caller of one process.

        Raises:
            GroupsUnavailable: Nothing was removed.

        """

    def close(self) -> None:
        """Release everything of this process; a second call does nothing, and any other call begins anew."""
