"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["DEADLINE", "RESOLUTION", "SPARE", "agrees", "eventually"]

DEADLINE = 10.0
"""Seconds after which a wait that should have ended fails its test."""

SPARE = 2.0
"""Seconds that a busy machine may take longer."""
RESOLUTION = 0.002
"""Seconds by which one timer of a loop may be early: libuv counts whole milliseconds."""
EARLY = 0.05
"""Seconds by which a server's timer may fire early as a test's clock sees it: a timer may start from the time that the
server's loop has read last, and coarse clocks are a few milliseconds late.
"""

T = TypeVar("T")


def agrees(measured: float, timer: float) -> bool:
    """Whether a time that a test has measured is that of a server's timer.

    Args:
        measured: seconds, from a moment before the server can have started its timer: what delays the test then adds to
            them and takes nothing away.
        timer: seconds.

    """
    return timer - EARLY <= measured < timer + SPARE


def eventually(
    condition: Callable[[], T],
    what: str,
    timeout: float = DEADLINE,
    *,
    sleep: Callable[[float], object] = time.sleep,
    interval: float = 0.01,
) -> T:
    """What ``condition()`` returns once that is true.

    Args:
        condition: is called again and again.
        what: what it waits for, in words for the error.
        timeout: seconds until AssertionError is raised.
        sleep: waits between two calls; ``gevent.sleep`` where the loop of this process must run.
        interval: seconds between two calls.

    Returns:
        The first true value.

    Raises:
        AssertionError: none came in time.

    """
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        if time.monotonic() >= deadline:  # no assert: pytest would add what it compares to the words
            raise AssertionError(f"waited {timeout} s in vain for {what}")
        sleep(interval)
    return found
