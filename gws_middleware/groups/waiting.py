"""Waiting that lets the event loop run, where there is one.

Rule: in a greenlet of gevent's hub a wait switches to the hub, whether gevent has patched the process or not. In a
native thread, and in the hub itself, it blocks. gevent is not imported here before the process has done so.
"""

from __future__ import annotations

import _thread
import select
import sys
import time
from typing import Any

__all__ = ["new_lock", "pause", "wait_readable"]

_READ = 1
"""gevent's and libev's number of "readable"."""


def _original(module: Any, name: str) -> Any:
    """A function of Python, also where gevent has replaced it."""
    patching = sys.modules.get("gevent.monkey")
    return getattr(module, name) if patching is None else patching.get_original(module.__name__, name)


def _hub() -> Any:
    """The hub that the caller can switch to; None in a native thread, and in the hub itself.

    A thread without a hub has no other greenlet that could run, so none is made.
    """
    gevent, local = sys.modules.get("gevent"), sys.modules.get("gevent._hub_local")
    if gevent is None or local is None:
        return None
    hub = local.get_hub_if_exists()
    return None if hub is None or gevent.getcurrent() is hub else hub


def new_lock() -> Any:
    """A lock of the operating system's threads. It may be held only while no greenlet can be switched to."""
    return _original(_thread, "allocate_lock")()


def pause(seconds: float) -> None:
    """Wait for some time. For 0 seconds other greenlets of the thread run, where there can be any."""
    if _hub() is not None:
        sys.modules["gevent"].sleep(seconds)
    elif seconds > 0:  # a sleep of 0 gives the processor away, which can take long to come back
        _original(time, "sleep")(seconds)


def wait_readable(descriptor: int, timeout: float) -> bool:
    """Wait until a file descriptor can be read.

    Args:
        descriptor: It stays open while this waits.
        timeout: Seconds to wait at most.

    Returns:
        Whether it can be read.

    """
    hub = _hub()
    if hub is None:
        poll = _original(select, "poll")()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(max(timeout, 0) * 1000))
    watcher = timer = None
    try:
        watcher = hub.loop.io(descriptor, _READ)
        timer = sys.modules["gevent"].Timeout.start_new(timeout)
        hub.wait(watcher)
    except BaseException as error:
        if error is not timer:
            raise
        return False
    finally:
        for each in (timer, watcher):
            if each is not None:  # libuv goes on using the memory of a watcher that was freed without a close
                each.close()
    return True
