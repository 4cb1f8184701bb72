"""Waiting that lets the event loop run, where there is one.

Rule: in a greenlet of gevent's hub a wait switches to the hub, whether gevent has patched the process or not. In a
native thread, and in the hub itself, it blocks. gevent is not imported here before the process has done so.
"""

from __future__ import annotations

import _thread
import select
import sys
import time
from collections.abc import Sequence
from typing import Any

__all__ = ["can_switch", "in_hub", "new_local", "new_lock", "pause", "wait_readable"]

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


def in_hub() -> bool:
    """Whether the caller is a callback of the event loop, which can wait for nothing."""
    gevent, local = sys.modules.get("gevent"), sys.modules.get("gevent._hub_local")
    return gevent is not None and local is not None and gevent.getcurrent() is local.get_hub_if_exists()


def can_switch() -> bool:
    """Whether the caller is a greenlet that can let others of its thread run.

    Where gevent has replaced ``socket`` every caller is one, because each thread waits in a hub of its own there.
    """
    if _hub() is not None:
        return True
    patching = sys.modules.get("gevent.monkey")
    if patching is None or not patching.is_module_patched("socket") or in_hub():
        return False
    sys.modules["gevent"].get_hub()
    return True


def new_lock() -> Any:
    """A lock of the operating system's threads. It may be held only while no greenlet can be switched to."""
    return _original(_thread, "allocate_lock")()


def new_local() -> Any:
    """An object whose attributes each thread of the operating system has for itself; its greenlets share them."""
    return _original(_thread, "_local")()


def pause(seconds: float) -> None:
    """Wait for some time. For 0 seconds other greenlets of the thread run, where there can be any."""
    if _hub() is not None:
        sys.modules["gevent"].sleep(seconds)
    elif seconds > 0:  # a sleep of 0 gives the processor away, which can take long to come back
        _original(time, "sleep")(seconds)


def wait_readable(descriptors: Sequence[int], timeout: float) -> bool:
    """Wait until one of some file descriptors can be read.

    Args:
        descriptors: They stay open while this waits.
        timeout: Seconds to wait at most.

    Returns:
        Whether one can be read.

    """
    hub = _hub()
    if hub is None:
        poll = _original(select, "poll")()
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(max(timeout, 0) * 1000))
    from gevent.event import Event

    ready, watchers = Event(), []
    try:
        for descriptor in descriptors:
            watchers.append(hub.loop.io(descriptor, _READ))
            watchers[-1].start(ready.set)
        return bool(ready.wait(max(timeout, 0)))
    finally:
        for watcher in watchers:
            watcher.close()  # libuv goes on using the memory of a watcher that was freed without a close
