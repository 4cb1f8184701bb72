"""Positions in a group with history: what a reader has, what it misses, and whether all of it can be had.

Rule 1: nothing here waits or does I/O. Rule 2: an entry is given out once and in order, or it is reported that some are
missing; never neither.

The entries of a group are numbered from 1. Its **epoch** is the life of that numbering: where a backend has lost it, or
may have, it begins a new epoch, and offsets of different epochs cannot be compared.

``Tracker``: the position of one reader of a live stream, and what it does with an entry.

===========  =========================================  ================================================
state        an entry comes                             a page comes (``heal``)
===========  =========================================  ================================================
``holding``  it is held                                 what the page has, then what is held, without a
                                                        gap: following; with one: holding again
following    the next one: given out; an older one:     (ignored)
             dropped; any other: it is held, holding
===========  =========================================  ================================================
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Entry", "Healed", "History", "Page", "Position", "Tracker", "floor_after_gap", "is_above", "missed"]

_TEXT = re.compile(r"([A-Za-z0-9_-]{1,64})\.(0|[1-9][0-9]{0,17})", re.ASCII)


class Position(NamedTuple):
    """A place in a group with history: after the entry with this offset. ``str(position)`` goes into a URL or a cookie.

    Args:
        epoch: The life of the numbering, letters and digits.
        offset: The number of the last entry that the reader has; 0 for none.
    """

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """The position of ``str(position)``.

        Raises:
            TypeError: It is no text.
            ValueError: The text is not one.

        """
        if not isinstance(text, str):
            raise TypeError(f"a position is parsed from a str, not {type(text).__name__}")
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is not a position: wanted is what str(position) gives, e.g. 'x7f3.12'")
        return cls(found[1], int(found[2]))


@dataclass(frozen=True)
class History:
    """What a group keeps for members that join later, or again.

    Args:
        size: Entries that are kept at most: 1 to 100,000.
        age: Seconds that each is kept at most.

    Raises:
        ValueError: One of them is out of range.

    """

    size: int = 100
    age: float = 300.0

    def __post_init__(self) -> None:
        if type(self.size) is not int or not 1 <= self.size <= 100_000:
            raise ValueError(f"a history has a size of 1 to 100,000 entries, not {self.size!r}")
        if type(self.age) not in (int, float) or not 0 < self.age < float("inf"):
            raise ValueError(f"the age of a history is a number of seconds above 0, not {self.age!r}")


class Entry(NamedTuple):
    """What was published once, as a backend keeps it."""

    group: str
    epoch: str
    """Empty in a group without history."""
    offset: int
    """0 in a group without history."""
    payload: bytes


class Page(NamedTuple):
    """What a backend has of a group with history."""

    epoch: str
    top: int
    """The offset of the latest entry; 0 where there was none in this epoch."""
    entries: Sequence[Entry]
    """In order."""


def missed(since: Position, page: Page) -> list[Entry] | None:
    """What came after a position.

    Args:
        since: What the reader has.
        page: A reading that was made with this position, or an older one.

    Returns:
        The entries from ``since.offset + 1`` to ``page.top``, or None where they are not all there.

    """
    if since.epoch != page.epoch or since.offset > page.top:
        return None
    found = [entry for entry in page.entries if since.offset < entry.offset <= page.top]
    # One for each offset, in order: a hole in the middle is as bad as one at the beginning.
    wanted = range(since.offset + 1, page.top + 1)
    if len(found) != len(wanted) or any(entry.offset != offset for entry, offset in zip(found, wanted, strict=True)):
        return None
    return found


class Healed(NamedTuple):
    """What a page has given."""

    entries: list[Entry]
    """To give out now, in order."""
    lost: bool
    """Some entries between the last one given out and these are missing: that is to be reported first."""


class Tracker:
    """The position of a reader of a live stream; the table is at the top of this module.

    Args:
        limit: Entries that are held at most. One that holds more has lost the oldest of them.

    """

    __slots__ = ("_held", "_is_incomplete", "_limit", "_older", "position")

    def __init__(self, limit: int = 10_000) -> None:
        self.position: Position | None = None
        """After the last entry that was given out; None before the first page."""
        self._held: list[Entry] | None = []
        self._older = 0
        """So many of them came before the page that is read next."""
        self._is_incomplete = False
        """Entries are missing that a page which is being read need not have."""
        self._limit = limit

    @property
    def holding(self) -> bool:
        """Whether entries are held until ``heal()`` is called with a page."""
        return self._held is not None

    def has(self, page: Page) -> bool:
        """Whether this has come to all that the page shows, or is about to."""
        position = self.position
        return self.holding or position is None or (position.epoch == page.epoch and position.offset >= page.top)

    def hold(self) -> None:
        """Entries may be missing from here on."""
        if self._held is None:
            self._hold([])
        else:
            self._is_incomplete = True

    def _hold(self, entries: list[Entry]) -> None:
        self._held, self._older = entries, len(entries)

    def take(self, entry: Entry) -> bool:
        """An entry has come from the stream.

        Returns:
            Whether it is to be given out now. If not, it is one that was given out before, or it is held.

        """
        position, held = self.position, self._held
        if held is not None:
            if len(held) < self._limit:
                held.append(entry)
            else:
                self._is_incomplete = True
            return False
        assert position is not None
        if entry.epoch == position.epoch:
            if entry.offset == position.offset + 1:
                self.position = Position(entry.epoch, entry.offset)
                return True
            if entry.offset <= position.offset:
                return False
        self._hold([entry])
        return False

    def heal(self, page: Page) -> Healed:
        """A page was read, after this began to hold and after the last page.

        Returns:
            What is given out now. ``holding`` is true afterwards where what was held has a gap itself, or where the
            page may be older than what was held: then another page is needed.

        """
        if self._held is None:
            return Healed([], lost=False)
        held, self._held = self._held, None
        is_incomplete, self._is_incomplete = self._is_incomplete, False
        since, self.position = self.position, Position(page.epoch, page.top)
        found = [] if since is None else missed(since, page)
        entries = list(found or ())
        for number, entry in enumerate(held):
            if entry.epoch != page.epoch and number < self._older:
                continue  # its epoch had ended when the page was read
            if self.take(entry):
                entries.append(entry)
            elif self._held is not None:
                self._hold(held[number:])  # of another epoch, a page that is newer shows which of both has ended
                break
        if is_incomplete and self._held is None:
            self._hold([])
        return Healed(entries, lost=found is None)


def is_above(epoch: str, offset: int, floor: Position | None) -> bool:
    """Whether a reader does not have this entry of a stream.

    Args:
        epoch: Of the entry.
        offset: Of the entry.
        floor: Up to where the reader has all; None for nothing.

    """
    return floor is None or (epoch == floor.epoch and offset > floor.offset)


def floor_after_gap(floor: Position | None, epoch: str) -> Position | None:
    """The floor of a reader of a stream in which entries are missing, and which goes on in this epoch.

    The page that the stream went on with may be older than the one that the reader has: in the same epoch the floor
    stays.
    """
    return floor if floor is not None and floor.epoch == epoch else None
