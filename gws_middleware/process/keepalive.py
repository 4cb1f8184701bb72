"""Who is still there: pings for quiet peers, an end for those that do not answer, a deadline for each message.

One timer for each worker looks at all connections a few times in each interval. So what every message costs is not one
instruction more, and an idle connection costs a comparison now and then. Rule: whom it looks at is known by a protocol
only, and everything here runs in the hub.

==================  =====================================================  ===================================
a look finds        what follows                                           its clock
==================  =====================================================  ===================================
a sign of life      nothing                                                begins anew
silence             a ping after ``ping_interval`` of it                   goes on
silence behind it   the end with 1011 after ``ping_timeout`` of it         goes on
an unread inbox     a ping now and then: only the kernel can tell          stands still, since nobody is listening
a message's middle  the end with 1008 after ``message_timeout`` of it      of its own
==================  =====================================================  ===================================
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any, Protocol

from gevent import get_hub

from ..codes import CloseCode
from ..config import Config

__all__ = ["LOOKS", "Keepalive", "Watched"]

LOOKS = 8
"""Looks in each interval: a ping comes at most an eighth of the interval late."""
LONGEST_TICK = 2.5
"""Seconds between two looks, at most: how late the worker runs is measured by them."""
AT_ONCE = 100
"""Connections looked at before the loop may serve others."""


class Watched(Protocol):
    """What is asked of a connection."""

    def _activity(self) -> int | None:
        """A number that changes with every sign of life; None while nobody listens for one."""

    def _message_number(self) -> int | None:
        """A number for the message of which a part has come, None between two messages."""

    def _keepalive_ping(self) -> None:
        """Ask for a sign of life."""

    def _fail(self, code: CloseCode, reason: str) -> None:
        """End the connection."""


@lru_cache
def _tick(*intervals: float | None) -> float:
    """Seconds between two looks that these intervals want."""
    return min([LONGEST_TICK, *(each / LOOKS for each in intervals if each is not None)])


class _Watch:
    """What the last look found."""

    __slots__ = ("begun", "config", "message", "pinged", "pulse", "since", "tick")

    def __init__(self, config: Config, now: float) -> None:
        self.config = config
        self.tick = _tick(config.ping_interval, config.ping_timeout, config.message_timeout)
        self.pulse: int | None = -1
        self.since = self.begun = now
        self.pinged: float | None = None
        self.message: int | None = None


class Keepalive:
    """Looks at the connections of one worker."""

    def __init__(self) -> None:
        self.lag = 0.0
        """Seconds by which the latest look came late, because something kept the loop busy."""
        self._watches: dict[Any, _Watch] = {}
        self._tick = LONGEST_TICK
        self._timer: Any = None
        self._due = 0.0
        self._clock = 0.0

    def watch(self, member: Watched, config: Config) -> None:
        """From now on, as often as these settings want it."""
        watch = self._watches[member] = _Watch(config, self._clock)
        if self._timer is None:
            self._start(watch.tick)
        elif watch.tick < self._tick:
            # The part of the interval that has passed has passed for the others.
            self._clock += min(self._tick, max(0.0, self._tick - (self._due - time.monotonic())))
            self._start(watch.tick)

    def forget(self, member: Watched) -> None:
        """It has ended."""
        self._watches.pop(member, None)
        if not self._watches:
            self.stop()
            self.lag = 0.0  # nobody looks any more: it would stay for as long as nobody comes

    def _start(self, tick: float) -> None:
        self.stop()
        self._tick = tick
        self._due = time.monotonic() + tick
        self._timer = get_hub().loop.timer(tick)
        # The loop's clock stands still while a view computes: the seconds count from now.
        self._timer.start(self._look, update=True)

    def stop(self) -> None:
        """Look no more, until something is to be watched again."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _look(self) -> None:
        """Runs in the hub."""
        self.lag = max(0.0, time.monotonic() - self._due)
        # What the worker was too busy to hear is nobody's silence: it counts for one look.
        self._clock += self._tick + min(self.lag, self._tick)
        self._start(min(watch.tick for watch in self._watches.values()))
        # Not at once: the loop calls timers before it reads what came while it was busy.
        get_hub().loop.run_callback(self._go_on, list(self._watches.items()))

    def _go_on(self, rest: list[tuple[Any, _Watch]]) -> None:
        """Runs in the hub."""
        for member, watch in rest[-AT_ONCE:]:
            if member in self._watches:
                _look_at(member, watch, self._clock)
        del rest[-AT_ONCE:]
        if rest:
            get_hub().loop.run_callback(self._go_on, rest)


def _look_at(member: Watched, watch: _Watch, now: float) -> None:
    pulse = member._activity()
    config = watch.config
    if not _in_time(member, watch, now, listening=pulse is not None) or config.ping_interval is None:
        return
    if pulse != watch.pulse:
        watch.pulse, watch.since, watch.pinged = pulse, now, None
    elif watch.pinged is None or pulse is None or config.ping_timeout is None:
        if now - watch.since >= config.ping_interval:
            watch.since = watch.pinged = now
            member._keepalive_ping()
    elif now - watch.pinged >= config.ping_timeout:
        member._fail(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")


def _in_time(member: Watched, watch: _Watch, now: float, listening: bool) -> bool:
    """Whether the message at hand may go on."""
    timeout = watch.config.message_timeout
    if timeout is None:
        return True
    number = member._message_number()
    if number is None or number != watch.message or not listening:
        watch.message, watch.begun = number, now
    elif now - watch.begun >= timeout:
        member._fail(CloseCode.POLICY_VIOLATION, f"a message took more than {timeout:g} seconds")
        return False
    return True
