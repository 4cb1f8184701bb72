"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["DEADLINE", "eventually"]

DEADLINE = 10.0
"""Seconds after which a wait that should have ended fails its test."""

T = TypeVar("T")


def eventually(
    look: Callable[[], T],
    what: str,
    timeout: float = DEADLINE,
    *,
    sleep: Callable[[float], object] = time.sleep,
    interval: float = 0.01,
) -> T:
    """What ``look()`` returns once that is true.

    Args:
        look: is called again and again.
        what: the condition in words, for the error.
        timeout: seconds until AssertionError is raised.
        sleep: waits between two calls; ``gevent.sleep`` where the loop of this process must run.
        interval: seconds between two calls.

    Returns:
        The first true value.

    Raises:
        AssertionError: none came in time.

    """
    deadline = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {timeout} s in vain for {what}"
        sleep(interval)
    return found
