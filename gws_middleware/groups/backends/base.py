"""What a backend does.

Rule 1: ``publish()``, ``read()``, ``put()`` and ``get()`` may be called in any thread and any greenlet, in a process
that gevent has patched or not, and before and after a fork: a child has nothing of its parent's.
Rule 2: what cannot be done is ``GroupsUnavailable``, within ``TIMEOUT`` seconds; nothing waits without an end.
Rule 3: a feed belongs to one greenlet. It has the entries of each group in the order in which they were published, the
same in all processes, those that this process has published too; or it says that some may be missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from ..position import Entry, History, Page, Position

__all__ = ["TIMEOUT", "Backend", "Confirmed", "Event", "Feed", "Lost", "Publish", "Want"]

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


Event = Entry | Confirmed | Lost


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

    def publish(self, batch: Sequence[Publish]) -> list[Position | None]:
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

    def feed(self) -> Feed:
        """A new feed.

        Raises:
            GroupsUnavailable: There can be none now.

        """

    def put(self, table: str, values: dict[str, int | None]) -> None:
        """Set numbers that this process contributes, by field; None removes one. They end with the process, however it
        ends.

        Raises:
            GroupsUnavailable: Nothing was set.

        """

    def get(self, table: str, field: str) -> list[int]:
        """What the living processes contribute to a field, this one among them.

        Raises:
            GroupsUnavailable: Nothing could be read.

        """

    def close(self) -> None:
        """Release everything of this process; a second call does nothing, and any other call begins anew."""
