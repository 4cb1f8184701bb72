"""Presence: which connections are the members of a group, and the events of those that join and leave.

Rule 1: nothing here waits, does I/O or reads a clock.
Rule 2: a process publishes at once which of its members have joined and left (``Changes``). What becomes an event is
decided where events are delivered (``Events``), because only there the changes of all processes come together: whether
a connection is the first or the last one of its info, and whether another one follows in time.

The changes and events of a group travel in a group of their own, without history, which no message of an application
can come into: ``gws.presence.NAME``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from ..connection import jsontext
from .message import RESERVED, check_name

__all__ = [
    "MAX_CHANGES",
    "MAX_INFO",
    "MAX_LOADED",
    "Change",
    "Changes",
    "Events",
    "Member",
    "Presence",
    "encode_info",
    "group_of_events",
    "presence_group",
    "unpack",
    "with_those",
]

MAX_INFO = 1024
"""Bytes of what is visible of a member."""
MAX_CHANGES = 1000
"""Changes in one message, and events in one frame."""
MAX_LOADED = 10_000
"""Members of a group whose joins and leaves become events."""

_EVENTS = RESERVED + "presence."


@dataclass(frozen=True)
class Presence:
    """What is visible of the members of groups.

    Args:
        events: Whether joins and leaves are published, in the group ``presence_group(name)``.
        leave_delay: Seconds that a leave waits: if a connection with the same info joins meanwhile, as after a page was
            loaded again, neither is an event. 0 to 3,600.

    Raises:
        ValueError: One of them is out of range.

    """

    events: bool = False
    leave_delay: float = 10.0

    def __post_init__(self) -> None:
        if type(self.events) is not bool:
            raise ValueError(f"the events of presence are True or False, not {self.events!r}")
        if type(self.leave_delay) not in (int, float) or not 0 <= self.leave_delay <= 3600:
            raise ValueError(f"the leave_delay of presence is 0 to 3,600 seconds, not {self.leave_delay!r}")


class Member(NamedTuple):
    """A connection in a group."""

    connection: str
    """A text that no other connection of the site has."""
    info: Any
    """What ``join(info=…)`` had; None for nothing."""


def presence_group(name: str) -> str:
    """The group of the join and leave events of a group: for ``join()`` and ``listen()``.

    Raises:
        TypeError, ValueError: It is not the name of a group.

    """
    check_name(name)
    return _EVENTS + name


def group_of_events(name: str) -> str | None:
    """The group to which the events of ``name`` belong; None where that is not a group of events."""
    return name.removeprefix(_EVENTS) if type(name) is str and name.startswith(_EVENTS) else None


def encode_info(info: Any) -> bytes:
    """What is visible of a member, as JSON.

    Raises:
        TypeError: It has no JSON.
        ValueError: It is too large, or it is, or has in it, NaN or an infinity.

    """
    data = jsontext.dumps(info).encode()
    if len(data) > MAX_INFO:
        raise ValueError(f"the info of a member has {len(data):,} bytes as JSON, and {MAX_INFO:,} is the most")
    return data


# --- what a process publishes -----------------------------------------------------------------------------------------


class Change(NamedTuple):
    """A connection that has joined, or left."""

    connection: str
    info: str
    """JSON."""


class Changes:
    """Members of one group that have joined and left since the last message about it: the difference."""

    __slots__ = ("_joined", "_left")

    def __init__(self) -> None:
        self._joined: dict[str, bytes] = {}
        self._left: dict[str, bytes] = {}

    def __bool__(self) -> bool:
        return bool(self._joined or self._left)

    def join(self, connection: str, info: bytes) -> None:
        """A connection is a member now."""
        if self._left.get(connection) == info:
            del self._left[connection]
        else:
            self._joined[connection] = info

    def leave(self, connection: str, info: bytes) -> None:
        """A connection is a member no longer."""
        if self._joined.pop(connection, None) is None:
            self._left[connection] = info

    def add(self, later: Changes) -> None:
        """What came after these."""
        for connection, info in later._left.items():
            self.leave(connection, info)
        for connection, info in later._joined.items():
            self.join(connection, info)

    def messages(self) -> Iterator[bytes]:
        """The messages that carry them: two lists as JSON, of those that left and of those that joined."""
        left, joined = iter(self._left.items()), iter(self._joined.items())
        while True:
            first = [(connection, info.decode()) for connection, info in islice(left, MAX_CHANGES)]
            then = [(connection, info.decode()) for connection, info in islice(joined, MAX_CHANGES - len(first))]
            if not first and not then:
                return
            yield jsontext.dumps([first, then]).encode()


def unpack(data: Any) -> tuple[list[Change], list[Change]]:
    """Those that left, and those that joined, of the value of a message of ``Changes``."""
    left, joined = data
    return [Change(*each) for each in left], [Change(*each) for each in joined]


# --- what members of the group of events get --------------------------------------------------------------------------


class Events:
    """The events of one group, made of the changes that all processes publish.

    An event is of an info: it has joined with its first connection, and left some time after its last one. Connections
    that have joined without info are distinct.

    Args:
        delay: Seconds that a leave waits for another connection of the same info.

    """

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._present: dict[Key, set[str]] | None = None
        """The connections of each info; None before they were read for the first time."""
        self._early: list[tuple[Sequence[Change], Sequence[Change]]] = []
        """Changes that have come since the reading that is missing was necessary."""
        self.is_loaded = False
        """Whether this knows all members."""
        self._joined: dict[Key, Change] = {}
        """For the next frame, as ``_left``."""
        self._left: dict[Key, Change] = {}
        self._leaving: dict[Key, tuple[float, Change]] = {}
        """Until when each leave waits; the earliest first."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to become an event."""
        return self.is_loaded and not (self._joined or self._left or self._leaving)

    def present(self) -> Iterator[Change]:
        """One connection of each info that was not reported as left."""
        for key, connections in (self._present or {}).items():
            yield Change(next(iter(connections)), key.info)
        for _, change in self._leaving.values():
            yield change
        yield from self._left.values()

    def load(self, members: Iterable[Change], now: float) -> None:
        """All members were read, after changes have begun to come. What differs from before is events."""
        if self.is_loaded:
            return
        self.is_loaded = True
        found: dict[Key, set[str]] = {}
        for change in members:
            found.setdefault(_key(change), set()).add(change.connection)
        before, self._present = self._present, found
        if before is not None:
            for key in before.keys() - found.keys():
                self._ends(key, Change(next(iter(before[key])), key.info), now)
            for key in found.keys() - before.keys():
                self._begins(key, Change(next(iter(found[key])), key.info))
        early, self._early = self._early, []
        for left, joined in early:
            self.take(left, joined, now)

    def lose(self) -> None:
        """Changes may be missing: the members are to be read."""
        self.is_loaded = False
        self._early.clear()

    def take(self, left: Sequence[Change], joined: Sequence[Change], now: float) -> None:
        """Changes have come."""
        if not self.is_loaded or self._present is None:
            self._early.append((left, joined))
            return
        for change in left:
            key = _key(change)
            connections = self._present.get(key, set())
            if change.connection in connections:
                connections.remove(change.connection)
                if not connections:
                    del self._present[key]
                    self._ends(key, change, now)
        for change in joined:
            key = _key(change)
            connections = self._present.setdefault(key, set())
            if not connections:
                self._begins(key, change)
            connections.add(change.connection)

    def _ends(self, key: Key, change: Change, now: float) -> None:
        if self._joined.pop(key, None) is None:
            self._leaving[key] = now + self._delay, change

    def _begins(self, key: Key, change: Change) -> None:
        if self._leaving.pop(key, None) is None and self._left.pop(key, None) is None:
            self._joined[key] = change

    def frame(self, now: float) -> bytes | None:
        """The events of this time as JSON; None where there are none."""
        for key, (until, change) in list(self._leaving.items()):
            if until > now:
                break
            del self._leaving[key]
            self._left[key] = change
        if not self._joined and not self._left:
            return None
        left = _taken(self._left, MAX_CHANGES)
        joined = _taken(self._joined, MAX_CHANGES - len(left))
        return f'{{"left":[{",".join(left)}],"joined":[{",".join(joined)}]}}'.encode()


class Key(NamedTuple):
    """What an event is of."""

    info: str
    connection: str
    """Where there is no info."""


def _key(change: Change) -> Key:
    return Key(change.info, change.connection if change.info == "null" else "")


def with_those(members: Iterable[Change], others: Iterable[Change]) -> list[Change]:
    """Members, and after them one of each info that only others have."""
    found = list(members)
    known = set(map(_key, found))
    for change in others:
        if (key := _key(change)) not in known:
            known.add(key)
            found.append(change)
    return found


def _taken(changes: dict[Key, Change], limit: int) -> list[str]:
    """Remove the first ones. The JSON of each."""
    first = [changes.pop(key) for key in list(islice(changes, limit))]
    return [f'{{"connection":{jsontext.dumps(connection)},"info":{info}}}' for connection, info in first]
