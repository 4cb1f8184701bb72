"""The shutdown of a worker: each of its WebSockets is closed with its ``shutdown_close_code``.

Why the worker stops makes no difference: a stop and a start by a deploy are a restart, too. Which process is a worker,
and when it stops, is detected in ``servers.gunicornworker``; in a process that is no worker of gunicorn's the
WebSockets are closed at its exit.
"""

from __future__ import annotations

import atexit
import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import Any

import gevent

from . import registry
from .registry import OpenConnection, Registry

__all__ = ["ShutdownCoordinator", "drain", "ends_process", "is_watched", "kill_views", "watch"]

CLOSES_PER_SECOND = 500
"""Close frames in a second, at most: each of them makes a client connect again at once."""
POLL = 0.05
"""Seconds between two checks whether a drain is done."""
QUICK_TIMEOUT = 1.0
"""Seconds for the answers to close frames where little time is left: after SIGQUIT, or when the arbiter has ended."""
FLUSH_TIMEOUT = 1.0
"""Seconds for letting other workers have the slots that were released (the setting ``site_limits``)."""
KILL_BEFORE = 2.5
"""Seconds before the end of the graceful timeout at which views that have not returned are killed. gunicorn checks once
in a second whether its worker is to stop, then once in a second whether all views have returned; exit handlers take
time.
"""


def drain(
    connections: Registry,
    code: int | None = None,
    timeout: float = 10.0,
    only: Iterable[OpenConnection] | None = None,
) -> None:
    """Close connections, and wait until their sockets are closed and their views have returned.

    Close frames are spread over at most ``timeout`` seconds. ``timeout`` seconds after the last of them the sockets
    that are still open are closed, and views are waited for no longer.

    Args:
        connections: The registry.
        code: The close code; if None, each connection's ``shutdown_close_code``.
        timeout: Seconds, 10 by default.
        only: The connections to close; if None, all of them, and those too that are accepted from now on.

    """
    if only is None:
        connections.start_draining(code)
        closing, waited = list(connections), None
    else:
        closing = waited = list(only)
    _send_close_frames(connections, closing, code, timeout)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and not connections.is_finished(waited):
        gevent.sleep(POLL)
    for connection in (
        connections if waited is None else [connection for connection in waited if connection in connections]
    ):
        connection.abort()
    if len(connections):
        gevent.sleep(0)  # the hub closes and counts what was aborted: the caller may read the counters next
    connections.slots.flush(FLUSH_TIMEOUT)


def _send_close_frames(connections: Registry, only: list[OpenConnection], code: int | None, timeout: float) -> None:
    pause = min(1 / CLOSES_PER_SECOND, timeout / max(1, len(only)))
    begin = time.monotonic()
    for number, connection in enumerate(only):
        early = begin + number * pause - time.monotonic()
        if early > POLL:  # a few close frames at a time, so that the loop is not woken for each
            gevent.sleep(early)
        connection.close(connections.close_code_of(connection, code))


def kill_views(connections: Registry) -> None:
    """End the views that have not returned by GreenletExit, so that their ``finally`` runs before the process ends.
    Does not wait for them.
    """
    gevent.killall(connections.views, block=False)


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
        """Start to close once the worker is to stop. The caller calls this about once in a second, and after the stop
        not before the worker has stopped accepting, so that no connection is opened later.
        """
        if self._drain is None and self._is_stopping():
            connections, seconds = registry.current(), self._graceful_timeout
            self._drain = gevent.spawn(drain, connections, timeout=seconds / 3)
            gevent.spawn_later(max(seconds - KILL_BEFORE, seconds / 2), kill_views, connections)

    @property
    def is_finished(self) -> bool:
        """Whether all connections are closed and all views have returned, or the time for it is over."""
        return self._drain is not None and self._drain.dead

    def close_quickly(self) -> None:
        """Close all connections where little time is left and nothing else goes on."""
        connections = registry.current()
        drain(connections, timeout=min(QUICK_TIMEOUT, self._graceful_timeout / 3))
        kill_views(connections)
        gevent.sleep(0)  # the views that were killed run to their end


_is_watched = False
_is_stopping: Callable[[], bool] | None = None


def is_watched() -> bool:
    """Whether ``watch()`` has been called in this process."""
    return _is_watched


def watch(is_stopping: Callable[[], bool] | None, *, at_exit: bool) -> None:
    """This process opens its first WebSocket.

    Args:
        is_stopping: Whether its worker is to stop; None in a process that is no worker.
        at_exit: Whether open connections are closed when the process exits.

    """
    global _is_watched, _is_stopping  # one for each process, by definition
    _is_watched, _is_stopping = True, is_stopping
    if at_exit:
        atexit.register(_at_exit)


def ends_process(error: BaseException) -> bool:
    """Whether an exception that application code raised is the end of its process. gunicorn raises SystemExit, and
    Python KeyboardInterrupt at Ctrl-C, in whatever code runs at the time; the same from ``sys.exit()`` is an error of
    that code alone.
    """
    if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        return True
    return isinstance(error, (SystemExit, KeyboardInterrupt)) and _is_stopping is not None and _is_stopping()


def _at_exit() -> None:
    """Close detached connections, which do not keep a server from ending."""
    if _is_watched:
        if len(registry.current()):
            drain(registry.current(), timeout=QUICK_TIMEOUT)
        registry.current().slots.flush(FLUSH_TIMEOUT)


def _forked() -> None:
    """This process has just been forked: it watches nothing yet, whatever its parent did."""
    global _is_watched, _is_stopping
    _is_watched, _is_stopping = False, None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
