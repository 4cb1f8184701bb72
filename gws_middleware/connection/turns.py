"""The turns of the event loop, shared among the connections of one hub.

A turn is the time between two polls of the loop. While it lasts, no other socket is read, no timer fires and no
heartbeat is sent. Rule: once a turn has lasted ``LASTS`` seconds, code that may wait lets the loop poll first
(``give_way``), and work that can be done later is queued (``later``). ``LASTS`` and the check itself,
``is_over()``, are in ``fastpath``, because they exist in C too.

=========================================  ========================================================
in a turn that has lasted too long         what follows
=========================================  ========================================================
``receive()`` with messages in the inbox   the greenlet waits for another turn, then takes one
``send()``, ``offer()`` in a greenlet      the greenlet waits for another turn, then sends
a message for a view that waits for it     the view is woken in another turn
bytes that the engine has not parsed yet   they are parsed in another turn
=========================================  ========================================================

The queue is served after the sockets that are ready. Connections with one message come first, then those with more,
then those that have used up a turn already.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
from gevent import getcurrent
from gevent._hub_local import get_hub_if_exists
from gevent.hub import Waiter
from gevent.monkey import get_original

from .fastpath import Turn, get_thread_ident

__all__ = ["Turns", "turns_of"]


allocate_lock: Callable[[], Any] = get_original("_thread", "allocate_lock")
"""A lock that makes the thread wait; gevent's replacement would make a greenlet of this thread wait."""


class _Iterations:
    """Numbers the iterations of a loop that does not count them, as gevent's on libuv: by its clock, which stands
    still during each, in milliseconds. (A watcher could count them; but one that outlives its loop, because a thread
    has ended, corrupts the memory there.)
    """

    def __init__(self, loop: Any) -> None:
        self._loop = loop

    @property
    def iteration(self) -> int:
        moment: float = self._loop.now()
        return round(moment * 1000)


class Turns(Turn):
    """The turns of one hub's loop, and what waits for the next one."""

    __slots__ = ("_callback", "_hub", "_light", "_resumed", "_serving", "_timer", "_woken")

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self.polls = hub.loop if hub.loop.iteration >= 0 else _Iterations(hub.loop)
        self._iteration = -1
        self._began = 0.0
        self._thread = get_thread_ident()
        self._light: deque[Callable[[], object]] = deque()
        """What has not had a turn yet, and has one message to process."""
        self._woken: deque[Callable[[], object]] = deque()
        """What has not had a turn yet, and has more to process."""
        self._resumed: deque[Callable[[], object]] = deque()
        """What has used up a turn and goes on in another one."""
        self._timer: Any = None
        """The timer that lets the loop poll before the queue is served."""
        self._callback: Any = None
        """gevent's callback that serves the queue after that poll."""
        self._serving = False

    def give_way(self) -> None:
        """Let this greenlet wait until the loop has polled its sockets. In the hub, which cannot wait, it does nothing.
        RuntimeError in another thread than the loop's.
        """
        self.refuse_foreign()
        if getcurrent() is not self._hub:
            waiter: Any = Waiter(self._hub)
            self._resumed.append(partial(waiter.switch, None))
            self._arm()
            waiter.get()

    def refuse_foreign(self) -> None:
        """RuntimeError in another thread than the loop's."""
        if self.is_foreign():
            raise RuntimeError(
                "this method of a WebSocket works in the thread of its event loop alone, and this is another thread: "
                "there send, send_json, offer, ping, close and abort may be called"
            )

    def wake(self, callback: Callable[[], object], *, light: bool = False) -> None:
        """Call it in the hub in another turn, before what has used up one already. ``light``: it has one message to
        process, and comes before those that have more, each of which may use up a turn.
        """
        (self._light if light else self._woken).append(callback)
        self._arm()

    def later(self, callback: Callable[[], object]) -> None:
        """Call it in the hub in another turn."""
        self._resumed.append(callback)
        self._arm()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call it in a greenlet of the loop, from another thread, which waits for its result or its exception."""
        outcome: list[tuple[Any, BaseException | None]] = []
        done = allocate_lock()
        done.acquire()

        def run() -> None:
            try:
                outcome.append((function(*arguments), None))
            except BaseException as error:
                outcome.append((None, error))
            finally:
                done.release()

        self._hub.loop.run_callback_threadsafe(gevent.spawn, run)
        done.acquire()
        result, error = outcome.pop()
        if error is not None:
            raise error
        return result

    def forked(self) -> None:
        """This is a process that has just been forked: what waits here are copies of the parent's greenlets."""
        self._light.clear()
        self._woken.clear()
        self._resumed.clear()

    def _is_armed(self) -> bool:
        """Whether the queue is going to be served. The loop knows it: a flag would stay set where an exception (of a
        signal handler) comes at the beginning of what resets it, and all connections of the hub would wait for ever.
        """
        timer, callback = self._timer, self._callback
        return (
            self._serving
            or (timer is not None and (timer.active or timer.pending))
            or (callback is not None and callback.pending)
        )

    def _arm(self) -> None:
        if self._is_armed():
            return
        if self._timer is not None:
            self._timer.close()
        timer = None
        try:
            # A callback alone would run before the loop polls again. The timer makes it poll, without waiting.
            timer = self._timer = self._hub.loop.timer(0)
            timer.start(self._polled, timer)
        except BaseException:
            if timer is not None:
                timer.close()  # libuv goes on using the memory of a timer that was freed without it
            raise

    def _polled(self, timer: Any) -> None:
        """Runs in the hub, among the events of a poll: the queue comes after the sockets that were ready."""
        timer.close()
        self._timer = None
        self._callback = self._hub.loop.run_callback(self._run, len(self._resumed))

    def _run(self, resumable: int) -> None:
        """Runs in the hub. ``resumable`` of those that have used up a turn had done so before the poll.

        What is queued meanwhile starts no timer, but the end does: a timer that starts moves the clock of libuv, which
        numbers its turns.
        """
        light, woken, resumed = self._light, self._woken, self._resumed
        try:
            self._serving = True
            self.begin()  # the queue has a turn of its own
            while (queue := light or woken) and not self.is_over():
                _call_first(queue)
            # One at least, or those that have used up a turn might never get another one.
            for _ in range(min(resumable, len(resumed))):
                _call_first(resumed)
                if self.is_over():
                    break
        finally:
            self._serving = False
            if light or woken or resumed:
                self._arm()


def _call_first(queue: deque[Callable[[], object]]) -> None:
    """No call between the two lines that take it: after one, an exception of a signal handler would lose it."""
    callback = queue[0]
    del queue[0]
    callback()


_ATTRIBUTE = "_gws_middleware_turns"
"""Of a hub. A table of hubs would keep each from being freed, because its value refers to it."""


def turns_of(hub: Any) -> Turns:
    """The turns of a hub."""
    turns: Turns | None = getattr(hub, _ATTRIBUTE, None)
    if turns is None:
        turns = Turns(hub)
        setattr(hub, _ATTRIBUTE, turns)
    return turns


def _forked() -> None:
    """In a process that has just been forked."""
    turns = getattr(get_hub_if_exists(), _ATTRIBUTE, None)
    if turns is not None:
        turns.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
