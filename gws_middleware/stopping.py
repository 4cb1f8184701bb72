"""How the end of a worker reaches its WebSockets, whatever ends it.

gunicorn stops a worker by a signal, by its own count of requests, or because the arbiter has ended; the application is
not notified, and detached connections are cut. Here is the one place that detects it and closes each WebSocket with its
``shutdown_close_code``. Why the worker stops makes no difference: a stop and a start by a deploy are a restart, too.

A worker class of ours calls ``Goodbye`` itself. Under gunicorn's own worker classes the wrapper finds the worker at its
first WebSocket (``watch``), and in a process that is no gunicorn's what is left is said goodbye to at its exit.
"""

from __future__ import annotations

import atexit
import os
from typing import Any

import gevent

from . import registry, takeover

__all__ = ["Goodbye", "watch"]

QUICK = 1.0
"""Seconds for the answers to a goodbye where nobody may wait long: behind SIGQUIT, or when the arbiter has given up."""
LAST_MOMENT = 1.5
"""Seconds before the end of the graceful timeout, at which views that are still there are killed: gunicorn's own clock
may be a second ahead of ours.
"""

_watching = False


class Goodbye:
    """What one worker says, once."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._graceful: float = worker.cfg.graceful_timeout
        self._drain: Any = None

    def look(self) -> None:
        """To be called now and then: says goodbye once the worker is to stop, and no sooner than it accepts no more, so
        that nobody comes in behind it.
        """
        if not self._worker.alive and self._drain is None:
            here, patience = registry.current(), self._graceful / 3
            self._drain = gevent.spawn(here.drain, timeout=patience)
            gevent.spawn_later(max(self._graceful - LAST_MOMENT, self._graceful / 2), here.kill_views)

    @property
    def said(self) -> bool:
        """Whether everybody has left."""
        return self._drain is not None and self._drain.dead

    def quickly(self) -> None:
        """The same where there is little time, and nothing else goes on."""
        here = registry.current()
        here.drain(timeout=min(QUICK, self._graceful / 3))
        here.kill_views()
        gevent.sleep(0)


def watch() -> None:
    """A WebSocket is being opened: see to it that a goodbye is said, once in each process."""
    global _watching  # one for each process, by definition
    if _watching:
        return
    _watching = True
    worker = takeover.gunicorn_worker()
    if worker is None or not hasattr(worker, "goodbye"):
        atexit.register(_at_exit)
        if worker is not None:
            _look_at_each_heartbeat(worker)


def _look_at_each_heartbeat(worker: Any) -> None:
    """A worker of gunicorn's calls ``notify()`` each second, and when it stops not before it has stopped accepting."""
    goodbye, notify = Goodbye(worker), worker.notify

    def notify_and_look() -> None:
        notify()
        goodbye.look()

    worker.notify = notify_and_look


def _forked() -> None:
    """In a process that has just been forked: it watches nothing yet, whatever its parent did."""
    global _watching
    _watching = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _at_exit() -> None:
    """Detached connections keep no server from ending."""
    if _watching and len(registry.current()):
        registry.current().drain(timeout=QUICK)
