"""Ends the waits of a test whose application blocks the event loop, because it computes or waits without gevent.

Rule: a native thread compares the deadlines of all waits with the clock, and sends a signal to the main thread. The
handler of the signal reads the stack that is running, and raises StuckError in the greenlet that waits. Timers of
gevent could not do that, because they run in the event loop.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

from gevent import getcurrent, monkey

__all__ = ["StuckError", "Watchdog"]

SIGNAL = signal.SIGURG
"""It has no effect by default, and neither gevent nor pytest uses it."""
INTERVAL = 0.1
"""Seconds between two comparisons."""
OVERDUE = 1.0
"""Seconds after its deadline. A wait that still lasts then shows that the event loop does not run."""
DEBUGGERS = ("bdb", "pdb", "pydevd", "_pydevd")
"""Prefixes of the names of debugger modules. A wait in their functions may take any time."""
UNPATCHED = (
    "time.sleep() and blocking I/O block the event loop here, because gevent has not patched this process. To run "
    "tests as a gevent server runs the application: python -m gevent.monkey --module pytest, or python -m "
    "gevent.monkey manage.py test"
)

_PACKAGE = Path(__file__).parent
_allocate_lock, _get_ident, _start_thread = (
    monkey.get_original("_thread", name) for name in ("allocate_lock", "get_ident", "start_new_thread")
)


class StuckError(TimeoutError):
    """The application blocks the event loop. The message has the stack.

    Args:
        timeout: Seconds of the wait that was ended.
        frame: The frame that was running.

    """

    def __init__(self, timeout: float, frame: FrameType | None) -> None:
        where = "".join(traceback.format_list(_application(frame)))
        hint = "" if monkey.is_module_patched("time") else f"{UNPATCHED}\n"
        super().__init__(
            f"the application has blocked the event loop for more than {timeout:g} s, so nothing else runs. It is in:\n"
            f"{where}{hint}".rstrip()
        )


class Watchdog:
    """Watches all waits of the main thread. It has no effect in another thread, which gets no signals."""

    def __init__(self) -> None:
        self._users = 0
        self._waits: dict[Any, tuple[float, float]] = {}
        """For each greenlet that waits: the time at which it is overdue, and its timeout in seconds."""
        self._interrupted: list[Any] = []
        """Greenlets that were interrupted. One that cannot be killed is kept, because freeing it would resume it."""
        self._running: Any = None
        """A lock that is held as long as the thread has to run."""
        self._previous_handler: Any = None
        """The signal handler before ``start()``."""

    def start(self) -> None:
        """Start to watch. Each call needs one call of ``stop()``."""
        self._users += 1
        if self._users > 1:
            return
        try:
            self._previous_handler = signal.signal(SIGNAL, self._interrupt)
        except ValueError:  # not in the main thread
            return
        self._running = _allocate_lock()
        self._running.acquire()
        _start_thread(self._watch, (self._running, _get_ident()))

    def stop(self) -> None:
        """End the thread and restore the signal handler, if this is the last user."""
        self._users -= 1
        self._interrupted = [greenlet for greenlet in self._interrupted if not greenlet.dead]
        if not self._users and self._running is not None:
            self._running.release()
            self._running = None
            signal.signal(SIGNAL, self._previous_handler or signal.SIG_DFL)

    @contextmanager
    def waiting(self, timeout: float) -> Iterator[None]:
        """Watch a block that waits, and that a timer of gevent ends.

        Args:
            timeout: Seconds until that timer.

        Raises:
            StuckError: The timer did not run, because the application blocks the event loop.

        """
        waiter = getcurrent()
        self._waits[waiter] = monotonic() + timeout + OVERDUE, timeout
        try:
            yield
        finally:
            self._waits.pop(waiter, None)

    def _watch(self, running: Any, thread: int) -> None:
        """Runs in the native thread."""
        while not running.acquire(timeout=INTERVAL):
            if self._overdue():
                signal.pthread_kill(thread, SIGNAL)

    def _overdue(self) -> list[Any]:
        return [waiter for waiter, (moment, _) in list(self._waits.items()) if moment < monotonic()]

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """The signal handler. It runs in the greenlet that blocks the loop, which stays here until it is killed."""
        if _may_wait(frame):
            return
        running = getcurrent()
        for waiter in self._overdue():
            if waiter is not running:  # it may have been resumed just now
                self._interrupted.append(running)
                _, timeout = self._waits.pop(waiter)
                waiter.throw(StuckError(timeout, frame))
                return


def _may_wait(frame: FrameType | None) -> bool:
    """Whether the event loop itself waits, so that its timer will end the test's wait, or a debugger waits."""
    modules = [str(entry.f_globals.get("__name__")) for entry, _ in traceback.walk_stack(frame)]
    return modules[:1] == ["gevent.hub"] or any(name.startswith(DEBUGGERS) for name in modules)


def _application(frame: FrameType | None) -> traceback.StackSummary:
    """The application's part of the stack, without the frames of this package above and below it."""
    stack = traceback.StackSummary.extract(traceback.walk_stack(frame))  # the innermost frame is the first
    ours = [_PACKAGE in Path(entry.filename).parents for entry in stack]
    first = next((index for index, inside in enumerate(ours) if not inside), 0)
    last = next((index for index in range(first, len(stack)) if ours[index]), len(stack))
    return traceback.StackSummary.from_list(stack[first:last][::-1])
