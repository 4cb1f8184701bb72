"""The slots of all workers of a site, where a limit counts those.

Each worker puts how many slots it has of a key into a table that all workers share, and reads in the same step how many
the others have. So of two workers that want the last slot at the same time, the one that comes first gets it.

Rule 1: a handshake is let in after its slot is in the table. So there are never more than the limit.
Rule 2: one greenlet of the process uses the table, in one round after the other: an older number never comes after a
newer one. The handshakes that come during a round are in the next one, together.
Rule 3: no handshake waits for longer than ``WAIT``, and none at all while the table cannot be used: the limits then
count the slots of this worker.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Protocol

import gevent
from gevent.event import AsyncResult

from ..config import SharedNumbers

__all__ = ["Site"]

log = logging.getLogger("gws_middleware")

WAIT = 1.0
"""Seconds that a handshake waits for the numbers of the other workers."""
AFTER = 0.1
"""Seconds after which a released slot is free for the other workers."""
RETRY = 1.0
"""Seconds between two attempts to use the table while it cannot be used."""
REFUSED = 1.0
"""Seconds for which the numbers of the others, where they have reached a limit, are not read again."""
MOST = 500
"""Numbers that are put at once."""
POLL = 0.01
"""Seconds between two checks of ``flush()``."""
UNKNOWN = -1
"""The number in the table may be one or the other."""


class CountedSlots(Protocol):
    """The slots of this process."""

    def number(self, key: Hashable) -> int:
        """How many slots of a key are reserved."""

    def rank(self, holder: Any, key: Hashable) -> int:
        """Which of the slots of a key is that of a holder, in the order of their reservations: 1 for the oldest, 0
        where it has none.
        """


class Site:
    """The slots of all workers that have the same table.

    Args:
        numbers: The table.
        slots: The slots of this process. ``released()`` is to be called after each release.

    """

    def __init__(self, numbers: SharedNumbers, slots: CountedSlots) -> None:
        self._numbers, self._slots = numbers, slots
        self._pid = os.getpid()
        self._asked: dict[str, AsyncResult[int | None]] = {}
        """For each key that handshakes wait for, what the others have."""
        self._reported: dict[str, int] = {}
        """What the table has of this worker; none for 0."""
        self._outdated: set[str] = set()
        """Keys of which the table has another number than there is."""
        self._full: dict[str, tuple[int, float]] = {}
        """What the others had as a handshake was refused, and until when (``time.monotonic()``) that holds."""
        self._is_running = self._is_due = self._is_scheduled = False
        self._away_since: float | None = None

    def reached(self, holder: Any, wanted: Sequence[tuple[str, int]]) -> str | None:
        """Whether there are too many slots, with those that a holder has reserved. May wait.

        Args:
            holder: It has a slot of each of these keys in this process.
            wanted: Keys, each with its limit.

        Returns:
            The first key whose limit is reached by the other slots; None where there is none.

        """
        now = time.monotonic()
        for key, limit in wanted:
            others, until = self._full.get(key, (0, 0.0))
            if now < until and self._is_beyond(holder, key, others, limit):
                return key
        found = self._ask([key for key, _ in wanted])
        for key, limit in wanted:
            others_now = found[key]
            if others_now is not None and self._is_beyond(holder, key, others_now, limit):
                self._remember(key, others_now)
                return key
        return None

    def _is_beyond(self, holder: Any, key: str, others: int, limit: int) -> bool:
        if others + self._slots.number(key) <= limit:
            return False
        # Those of this process come in the order of their reservations, so that one of two gets the last slot.
        rank = self._slots.rank(holder, key)
        return rank > 0 and others + rank > limit

    def _remember(self, key: str, others: int) -> None:
        """A client that is refused and tries again at once costs no use of the table."""
        now = time.monotonic()
        self._full.pop(key, None)
        while self._full and next(iter(self._full.values()))[1] <= now:
            self._full.pop(next(iter(self._full)))
        self._full[key] = others, now + REFUSED

    def _ask(self, keys: Iterable[str]) -> dict[str, int | None]:
        """How many slots the others have of each key; None where that cannot be known now."""
        found: dict[str, int | None] = dict.fromkeys(keys)
        if self._away_since is None:
            questions = {key: self._asked.setdefault(key, AsyncResult()) for key in found}
            self._start()
            deadline = time.monotonic() + WAIT
            for key, question in questions.items():
                found[key] = question.wait(max(0.0, deadline - time.monotonic()))
            if not all(question.ready() for question in questions.values()):
                self._fail(f"no answer within {WAIT:g} s")
        for key, others in found.items():
            if others is None:
                self._compare(key)
        return found

    def released(self, key: Hashable) -> None:
        """A slot of this key was released. Never waits; may run in the hub."""
        if isinstance(key, str) and (key in self._reported or key in self._outdated):
            self._compare(key)

    def flush(self, timeout: float) -> None:
        """Let the other workers have all slots that were released, before this process ends.

        Args:
            timeout: Seconds to wait at most.

        """
        deadline = time.monotonic() + timeout
        while self._outdated and self._away_since is None and time.monotonic() < deadline:
            self._is_due = True
            self._start()
            gevent.sleep(POLL)

    # --- what is to be done ------------------------------------------------------------------------------------------

    def _compare(self, key: str) -> None:
        if self._slots.number(key) == self._reported.get(key, 0):
            self._outdated.discard(key)
        else:
            self._outdated.add(key)
            self._put_after(AFTER if self._away_since is None else RETRY)

    def _put_after(self, seconds: float) -> None:
        if not self._is_scheduled:
            gevent.spawn_later(seconds, self._put_now)
            self._is_scheduled = True  # after that: an exception may come between, and twice does no harm

    def _put_now(self) -> None:
        self._is_scheduled = False
        self._is_due = True
        self._run()

    def _start(self) -> None:
        if not self._is_running:
            gevent.spawn(self._run)

    def _fail(self, reason: object) -> None:
        """The table cannot be used now: nothing waits for it any more."""
        if self._away_since is None:
            self._away_since = time.monotonic()
            log.warning("limits count this worker alone, because the others' numbers cannot be had: %s", reason)
        asked, self._asked = self._asked, {}
        for question in asked.values():
            question.set(None)
        self._put_after(RETRY)

    # --- the greenlet ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Runs in a greenlet of its own while there is something to do."""
        if self._is_running or self._pid != os.getpid():  # a forked child has no slots of its parent's
            return
        self._is_running = True
        try:
            while self._asked or self._is_due:
                asked, self._asked = self._asked, {}
                gevent.joinall([gevent.spawn(self._exchange, *question) for question in asked.items()])
                if self._is_due or self._away_since is not None:
                    self._put()
        finally:
            self._is_running = False

    def _exchange(self, key: str, question: AsyncResult[int | None]) -> None:
        """Put the number of a key, and read those of the others. Runs in a greenlet of its own."""
        number = self._slots.number(key)
        self._reported[key] = number
        try:
            others = self._numbers.exchange_number(key, number) - number
        except Exception as error:  # whatever it is, the handshakes go on
            self._reported[key] = UNKNOWN
            self._fail(error)
            question.set(None)
        else:
            question.set(others)
        self._settle(key, number)

    def _put(self) -> None:
        """Put all numbers that are outdated."""
        self._is_due = False
        left = list(self._outdated)
        # One at first where it may fail: what was in the table then is not known, and many keys would be kept for that.
        size = MOST if self._away_since is None else 1
        while left:
            numbers, left = {key: self._slots.number(key) for key in left[:size]}, left[size:]
            self._reported.update(numbers)
            try:
                self._numbers.put_numbers(numbers)
            except Exception as error:  # the same
                self._reported.update(dict.fromkeys(numbers, UNKNOWN))
                self._fail(error)
                return
            for key, number in numbers.items():
                self._settle(key, number)
            size = MOST
        if self._away_since is not None:
            log.warning("limits count all workers again, after %.1f s", time.monotonic() - self._away_since)
            self._away_since = None

    def _settle(self, key: str, number: int) -> None:
        """This number was put, or it failed."""
        if not number and not self._reported[key]:
            del self._reported[key]
        self._compare(key)
