"""Ends the waits of a test whose application holds the event loop: it computes, or it waits without gevent.

gevent's own timers do not help there, because they run in the loop. So a native thread compares the deadlines of all
waits with the clock, and interrupts the main thread with a signal: the handler sees what is running, and switches to
the greenlet that waits.
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
"""One that does nothing by default, and that neither gevent nor pytest uses."""
INTERVAL = 0.1
"""Seconds between two comparisons."""
OVERDUE = 1.0
"""Seconds after its deadline at which a wait that is still going on shows that the loop does not run."""
LEFT_ALONE = ("bdb", "pdb", "pydevd", "_pydevd")
"""Beginnings of the names of modules in whose functions a wait may take any time: debuggers."""
UNPATCHED = (
    "time.sleep() and blocking I/O hold the loop here, as gevent has not patched this process. To run tests as a "
    "gevent server runs the application: python -m gevent.monkey --module pytest, or python -m gevent.monkey manage.py "
    "test"
)

_PACKAGE = Path(__file__).parent
_allocate_lock, _get_ident, _start_thread = (
    monkey.get_original("_thread", name) for name in ("allocate_lock", "get_ident", "start_new_thread")
)


class StuckError(TimeoutError):
    """The application holds the event loop; the sentence says where."""

    def __init__(self, timeout: float, frame: FrameType | None) -> None:
        where = "".join(traceback.format_list(_application(frame)))
        hint = "" if monkey.is_module_patched("time") else f"{UNPATCHED}\n"
        super().__init__(
            f"the application has held the event loop for more than {timeout:g} s, so nothing else runs. It is in:\n"
            f"{where}{hint}".rstrip()
        )


class Watchdog:
    """For all waits of the main thread. It does nothing in tests that run in another one, which gets no signals."""

    def __init__(self) -> None:
        self._users = 0
        self._waits: dict[Any, tuple[float, float]] = {}
        """For each greenlet that waits, when it is overdue, and after which timeout."""
        self._interrupted: list[Any] = []
        """Greenlets that were. One that does not let itself be killed is kept: to free it would resume it."""
        self._running: Any = None
        """A lock that is held as long as the thread is to run."""
        self._replaced: Any = None
        """The handler of the signal that was there before."""

    def start(self) -> None:
        """Begin to watch, once for each ``stop()``."""
        self._users += 1
        if self._users > 1:
            return
        try:
            self._replaced = signal.signal(SIGNAL, self._interrupt)
        except ValueError:  # not in the main thread
            return
        self._running = _allocate_lock()
        self._running.acquire()
        _start_thread(self._watch, (self._running, _get_ident()))

    def stop(self) -> None:
        """End the thread with the last user, and restore the signal's handler."""
        self._users -= 1
        self._interrupted = [greenlet for greenlet in self._interrupted if not greenlet.dead]
        if not self._users and self._running is not None:
            self._running.release()
            self._running = None
            signal.signal(SIGNAL, self._replaced or signal.SIG_DFL)

    @contextmanager
    def waiting(self, timeout: float) -> Iterator[None]:
        """The block waits, and has a timer of gevent's that ends it after ``timeout`` s; StuckError if that cannot."""
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
        """The signal's handler: runs in the greenlet that holds the loop, which stays here until it is killed."""
        if _left_alone(frame):
            return
        running = getcurrent()
        for waiter in self._overdue():
            if waiter is not running:  # and has just been resumed
                self._interrupted.append(running)
                _, timeout = self._waits.pop(waiter)
                waiter.throw(StuckError(timeout, frame))
                return


def _left_alone(frame: FrameType | None) -> bool:
    """Whether the loop itself waits, whose timers will end the test's wait, or a debugger does."""
    modules = [str(entry.f_globals.get("__name__")) for entry, _ in traceback.walk_stack(frame)]
    return modules[:1] == ["gevent.hub"] or any(name.startswith(LEFT_ALONE) for name in modules)


def _application(frame: FrameType | None) -> traceback.StackSummary:
    """The application's part of the stack: what it has called of this package, and what of it has called the
    application, is left out.
    """
    stack = traceback.StackSummary.extract(traceback.walk_stack(frame))  # the innermost frame is the first
    ours = [_PACKAGE in Path(entry.filename).parents for entry in stack]
    first = next((index for index, inside in enumerate(ours) if not inside), 0)
    last = next((index for index in range(first, len(stack)) if ours[index]), len(stack))
    return traceback.StackSummary.from_list(stack[first:last][::-1])
