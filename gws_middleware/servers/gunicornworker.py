"""The gunicorn worker that runs in this process, its stop, and its settings.

gunicorn stops a worker by a signal, by its own count of requests, or because the arbiter has ended; the application is
not notified. Our worker class has a ``ShutdownCoordinator`` of its own. Under gunicorn's own worker classes the worker
object is found when the first WebSocket is opened, and its ``notify`` is replaced.
"""

from __future__ import annotations

import sys
from typing import Any

from gevent import get_hub, getcurrent

from ..process import shutdown
from ..process.shutdown import ShutdownCoordinator

__all__ = ["find_worker", "keep_settings", "watch_worker"]


def find_worker() -> Any:
    """The worker object of this process, or None.

    No environ leads to it, and its signal handlers may have been replaced by the application. But as long as a worker
    serves, the main greenlet is in its ``run()``, so the object is the ``self`` of a frame there.
    """
    main: Any = get_hub().parent
    frame = sys._getframe() if main is getcurrent() else main.gr_frame
    while frame is not None:
        worker = frame.f_locals.get("self") if frame.f_code.co_name == "run" else None
        if all(hasattr(worker, name) for name in ("alive", "notify", "cfg", "nr", "max_requests")):
            return worker
        frame = frame.f_back
    return None


def watch_worker() -> None:
    """A WebSocket is being opened: from now on the stop of this process closes its WebSockets. A second call does
    nothing.
    """
    if shutdown.is_watched():
        return
    worker = find_worker()
    is_own = isinstance(getattr(worker, "shutdown", None), ShutdownCoordinator)
    shutdown.watch(None if worker is None else lambda: not worker.alive, at_exit=not is_own)
    if worker is not None and not is_own:
        _check_at_each_heartbeat(worker)


def _check_at_each_heartbeat(worker: Any) -> None:
    """Replace ``notify`` of this worker object. gunicorn calls it each second, and during a stop only after the worker
    has stopped accepting: what ``ShutdownCoordinator.check()`` needs.
    """
    coordinator, notify = ShutdownCoordinator(lambda: not worker.alive, worker.cfg.graceful_timeout), worker.notify

    def notify_and_check() -> None:
        notify()
        coordinator.check()

    worker.notify = notify_and_check


def keep_settings(cfg: Any) -> None:
    """Make the settings of a worker plain attributes of gunicorn's ``Config``; its ``set()`` changes them, too.

    gunicorn finds a setting by an AttributeError and two calls in Python, and does so 26 times for a request.
    """
    attributes, kind, set_setting = vars(cfg), type(cfg), cfg.set

    def keep(name: str) -> None:
        if not hasattr(kind, name):  # some are properties, which compute their values
            attributes[name] = cfg.settings[name].get()

    def set_and_keep(name: str, value: Any) -> None:
        set_setting(name, value)
        keep(name)

    attributes["set"] = set_and_keep
    for name in cfg.settings:
        keep(name)
