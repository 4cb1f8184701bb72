"""The shutdown of a worker: each of its WebSockets is closed with its ``shutdown_close_code``.

Why the worker stops makes no difference: a stop and a start by a deploy are a restart, too. Which process is a worker,
and when it stops, is detected in ``servers.gunicorn``; in a process that is no worker of gunicorn's the WebSockets are
closed at its exit.
"""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Callable
from typing import Any

import gevent

from . import registry

__all__ = ["ShutdownCoordinator", "ends_process", "is_watched", "watch"]

QUICK_TIMEOUT = 1.0
"""Seconds for the answers to close frames where little time is left: after SIGQUIT, or when the arbiter has ended."""
KILL_BEFORE = 1.5
"""Seconds before the end of the graceful timeout at which views that have not returned are killed: gunicorn's clock may
be a second ahead of ours.
"""

_watched = False
_is_stopping: Callable[[], bool] | None = None


class ShutdownCoordinator:
    """Closes the WebSockets of one worker, once.

    Args:
        is_stopping: Whether the worker is to stop.
        graceful_timeout: Seconds that the worker has for it (gunicorn's setting).

    """

    def __init__(self, is_stopping: Callable[[], bool], graceful_timeout: float) -> None:
        self._is_stopping = is_stopping
        self._graceful_timeout = graceful_timeout
        self._drain: Any = None

    def check(self) -> None:
        """To be called now and then: begins to close once the worker is to stop, and not before it has stopped
        accepting, so that no connection is opened later.
        """
        if self._drain is None and self._is_stopping():
            connections, seconds = registry.current(), self._graceful_timeout
            self._drain = gevent.spawn(connections.drain, timeout=seconds / 3)
            gevent.spawn_later(max(seconds - KILL_BEFORE, seconds / 2), connections.kill_views)

    @property
    def is_finished(self) -> bool:
        """Whether all connections are closed and all views have ended, or their time is over."""
        return self._drain is not None and self._drain.dead

    def close_quickly(self) -> None:
        """The same where little time is left, and nothing else goes on."""
        connections = registry.current()
        connections.drain(timeout=min(QUICK_TIMEOUT, self._graceful_timeout / 3))
        connections.kill_views()
        gevent.sleep(0)


def is_watched() -> bool:
    """Whether ``watch()`` has been called in this process."""
    return _watched


def watch(is_stopping: Callable[[], bool] | None, *, at_exit: bool) -> None:
    """This process has WebSockets.

    Args:
        is_stopping: Whether its worker is to stop; None in a process that is no worker.
        at_exit: Close what is open when the process exits.

    """
    global _watched, _is_stopping  # one for each process, by definition
    _watched, _is_stopping = True, is_stopping
    if at_exit:
        atexit.register(_at_exit)


def ends_process(error: BaseException) -> bool:
    """Whether an exception that application code raised is the end of its process: gunicorn raises SystemExit in
    whatever runs, Python KeyboardInterrupt at Ctrl-C. The same from ``sys.exit()`` is an error of that code alone.
    """
    if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        return True
    return isinstance(error, (SystemExit, KeyboardInterrupt)) and _is_stopping is not None and _is_stopping()


def _at_exit() -> None:
    """Detached connections keep no server from ending."""
    if _watched and len(registry.current()):
        registry.current().drain(timeout=QUICK_TIMEOUT)


def _forked() -> None:
    """In a process that has just been forked: it watches nothing yet, whatever its parent did."""
    global _watched, _is_stopping
    _watched, _is_stopping = False, None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
