"""Keepalive: pings to idle peers, the end of connections that do not answer, a deadline for each message.

One timer for each worker checks all connections a few times in each interval. So a message costs no instruction more,
and an idle connection costs a comparison for each check. Rule 1: connections are known by a protocol only. Rule 2:
everything here runs in the hub.

=====================  =====================================================  =======================================
a check finds          what follows                                           its clock
=====================  =====================================================  =======================================
activity               nothing                                                starts again
no activity            a ping after ``ping_interval`` of it                   goes on
no answer to the ping  the end with 1011 after ``ping_timeout`` of it         goes on
a full inbox           a ping now and then: only the kernel can find out      stands still, because nothing is read
a part of a message    the end with 1008 after ``message_timeout`` of it      a clock of its own
=====================  =====================================================  =======================================
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any, Protocol

from gevent import get_hub

from ..codes import CloseCode
from ..config import Config

__all__ = ["CHECKS", "MAX_TICK", "Keepalive", "Watched"]

CHECKS = 8
"""Checks in each interval: a ping is sent at most an eighth of the interval late."""
MAX_TICK = 2.5
"""Seconds between two checks, at most: they also measure how late the event loop is."""
BATCH = 100
"""Connections that are checked before the loop may serve others."""


class Watched(Protocol):
    """What keepalive calls of a connection."""

    def _activity(self) -> int | None:
        """A number that changes with any activity of the peer; None while nothing is read from it."""

    def _message_number(self) -> int | None:
        """A number for the message of which a part has come; None between two messages."""

    def _keepalive_ping(self) -> None:
        """Send a ping."""

    def _fail(self, code: CloseCode, reason: str) -> None:
        """End the connection."""


@lru_cache
def _tick_for(*intervals: float | None) -> float:
    """Seconds between two checks that these intervals need."""
    return min([MAX_TICK, *(interval / CHECKS for interval in intervals if interval is not None)])


class _State:
    """What the latest check of a connection found. Times are those of ``Keepalive._clock``."""

    __slots__ = ("active_at", "activity", "config", "message", "message_at", "noted", "noted_at", "pinged_at", "tick")

    def __init__(self, config: Config, now: float) -> None:
        self.config = config
        self.tick = _tick_for(config.ping_interval, config.ping_timeout, config.message_timeout)
        self.activity: int | None = -1
        self.active_at = self.message_at = now
        self.pinged_at: float | None = None
        self.message: int | None = None
        self.noted = 0
        self.noted_at = time.monotonic()
        """The latest activity that was noted, and when. Pings do not change it, nor what the settings are."""

    def note(self, activity: int | None) -> None:
        """Note an activity if it is another one."""
        if activity is not None and activity != self.noted:
            self.noted, self.noted_at = activity, time.monotonic()


class Keepalive:
    """Checks the connections of one worker."""

    def __init__(self) -> None:
        self.lag = 0.0
        """Seconds by which the latest check was late, because something kept the event loop busy."""
        self._states: dict[Any, _State] = {}
        self._tick = MAX_TICK
        self._timer: Any = None
        self._batch_timer: Any = None
        """While a check is under way: after the next poll it goes on."""
        self._due = 0.0
        self._clock = 0.0

    def __len__(self) -> int:
        """How many connections are checked."""
        return len(self._states)

    def __contains__(self, connection: object) -> bool:
        return connection in self._states

    @property
    def tick(self) -> float | None:
        """Seconds from one check to the next; None where no timer runs."""
        return None if self._timer is None else self._tick

    def watch(self, connection: Watched, config: Config) -> None:
        """Check a connection from now on, as often as its settings need it."""
        state = self._states[connection] = _State(config, self._clock)
        if self._timer is None:
            self._start(state.tick)
        elif state.tick < self._tick:
            # The timer starts again: the part of its interval that has passed counts for the others.
            self._clock += min(self._tick, max(0.0, self._tick - (self._due - time.monotonic())))
            self._start(state.tick)

    def forget(self, connection: Watched) -> None:
        """Check a connection no longer, because it has ended; a second call does nothing."""
        self._states.pop(connection, None)
        if not self._states:
            self.stop()
            self.lag = 0.0  # without a check it would stay until the next connection is opened

    def last_activity(self, connection: Watched) -> float:
        """When the peer was last active, as far as this call and the checks have found it: at most one check late.

        Returns:
            A time of ``time.monotonic()``; that of ``watch()`` before any activity, and now where it is not checked.

        """
        state = self._states.get(connection)
        if state is None:
            return time.monotonic()
        state.note(connection._activity())
        return state.noted_at

    def _start(self, tick: float) -> None:
        _close(self._timer)
        self._tick = tick
        self._due = time.monotonic() + tick
        self._timer = get_hub().loop.timer(tick)
        # The loop's clock stands still while a view computes: the seconds count from now.
        self._timer.start(self._check_all, update=True)

    def stop(self) -> None:
        """Stop the timers, until another connection is to be checked."""
        _close(self._batch_timer)
        self._batch_timer = None
        _close(self._timer)
        self._timer = None

    def _check_all(self) -> None:
        """Runs in the hub."""
        if not self._states:  # an exception, e.g. of a signal handler, has kept forget() from stopping it
            self.stop()
            return
        self.lag = max(0.0, time.monotonic() - self._due)
        # What arrived while the worker was busy has not been read: a late check counts as one more tick at most.
        self._clock += self._tick + min(self.lag, self._tick)
        self._start(min(state.tick for state in self._states.values()))
        if self._batch_timer is None:  # else the last check is still under way
            self._check_later(list(self._states.items()))

    def _check_later(self, rest: list[tuple[Any, _State]]) -> None:
        """Check them after the loop has polled its sockets, and has read what came while it was busy. gevent runs
        callbacks one after the other without that.
        """
        self._batch_timer = get_hub().loop.timer(0)
        self._batch_timer.start(self._check_batch, rest)

    def _check_batch(self, rest: list[tuple[Any, _State]]) -> None:
        """Runs in the hub."""
        timer, self._batch_timer = self._batch_timer, None
        _close(timer)
        for connection, state in rest[-BATCH:]:
            if connection in self._states:
                _check(connection, state, self._clock)
        del rest[-BATCH:]
        if rest and self._timer is not None:
            self._check_later(rest)


def _close(timer: Any) -> None:
    if timer is not None:
        timer.stop()
        timer.close()


def _check(connection: Watched, state: _State, now: float) -> None:
    activity = connection._activity()
    state.note(activity)
    config = state.config
    if not _is_in_time(connection, state, now, reading=activity is not None) or config.ping_interval is None:
        return
    if activity != state.activity:
        state.activity, state.active_at, state.pinged_at = activity, now, None
    elif state.pinged_at is None or activity is None or config.ping_timeout is None:
        if now - state.active_at >= config.ping_interval:
            state.active_at = state.pinged_at = now
            connection._keepalive_ping()
    elif now - state.pinged_at >= config.ping_timeout:
        connection._fail(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")


def _is_in_time(connection: Watched, state: _State, now: float, reading: bool) -> bool:
    """Whether the message of which a part has come is within ``message_timeout``. Ends the connection if not."""
    timeout = state.config.message_timeout
    if timeout is None:
        return True
    number = connection._message_number()
    if number is None or number != state.message or not reading:
        state.message, state.message_at = number, now
    elif now - state.message_at >= timeout:
        connection._fail(CloseCode.POLICY_VIOLATION, f"a message took more than {timeout:g} seconds")
        return False
    return True
