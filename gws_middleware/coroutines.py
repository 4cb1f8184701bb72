"""Coroutines in synchronous code: ``run(awaitable)`` waits for a result, and ``iterate(iterable)`` for each item of an
asynchronous iterable. Both wait with gevent, as a view waits for a message.

Rule 1: there is one asyncio event loop for each process. It runs in a native thread of its own, which the first
``run()`` starts. So an object that belongs to an event loop (an ``httpx.AsyncClient``, a connection pool) can be used
by all views.
Rule 2: the event loop waits on a gevent hub of its own thread, so that monkey-patched locks, threads and sockets work
in coroutines too. ``asyncio.to_thread`` uses native threads.

Why not ``asyncio.run()``: asyncio allows one running event loop for each thread, and gevent runs all views in one
thread, so a second ``asyncio.run()`` at the same time raises RuntimeError.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import inspect
import os
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterator
from functools import partial
from typing import Any, Generic, TypeVar, cast
from weakref import WeakKeyDictionary

import gevent
from gevent import get_hub, getcurrent
from gevent.hub import Waiter
from gevent.monkey import get_original
from gevent.selectors import GeventSelector
from gevent.threadpool import ThreadPool

__all__ = ["iterate", "run"]

T = TypeVar("T")

THREADS = 32
"""The most native threads of ``asyncio.to_thread``: asyncio's own maximum."""
STOP_WITHIN = 1.0
"""Seconds to handle a cancellation, for coroutines at the exit of the process and for an iterable that is closed."""

_DONE, _TIMED_OUT, _END = object(), object(), object()

_start_thread = get_original("_thread", "start_new_thread")
_lock = get_original("_thread", "allocate_lock")
_getaddrinfo = get_original("socket", "getaddrinfo")


def run(awaitable: Awaitable[T], timeout: float | None = None) -> T:
    """Run a coroutine and wait for its result. Other greenlets run meanwhile.

    The coroutine runs in the asyncio thread of the process, with a copy of the caller's context variables. It is
    cancelled when ``timeout`` seconds have passed, and when this greenlet is killed or a ``gevent.Timeout`` is raised
    in it. It must not block, because all other coroutines would wait. An exception of the coroutine is raised here.

    Args:
        awaitable: A coroutine, or another object that can be awaited.
        timeout: Seconds, or None for no limit. Default: None.

    Returns:
        The result of the coroutine.

    Raises:
        TimeoutError: The coroutine did not end in time.
        concurrent.futures.CancelledError: The coroutine was cancelled by other code.
        TypeError: ``awaitable`` cannot be awaited.
        RuntimeError: The caller is a coroutine that ``run()`` runs. Use ``await`` there.

    """
    if not inspect.isawaitable(awaitable):
        raise TypeError(f"run() takes a coroutine or another awaitable, not {awaitable!r}")
    thread = _thread()
    if getcurrent() is thread.greenlet:
        raise RuntimeError("run() was called by a coroutine that run() runs: use await there")
    return _Call(awaitable).result(thread.loop, timeout)


def iterate(iterable: AsyncIterable[T], timeout: float | None = None) -> Iterator[T]:
    """Iterate over an asynchronous generator or iterable in a ``for`` loop.

    The iterable runs in one task, which continues when the next item is requested. At the end of the loop, also by
    ``break`` or an exception, the iterable is closed: its task is cancelled if it has not ended.

    Args:
        iterable: An object for ``async for``.
        timeout: Seconds for each item, or None for no limit. Default: None.

    Returns:
        An iterator over the items.

    Raises:
        TimeoutError: The iterator raises it when no item came in time. The iteration has ended then.
        TypeError: ``iterable`` is not an asynchronous iterable.

    """
    if not isinstance(iterable, AsyncIterable):
        raise TypeError(f"iterate() takes an asynchronous generator or iterable, not {iterable!r}")
    return _items(_Iteration(iterable), timeout)


def _items(iteration: _Iteration[T], timeout: float | None) -> Iterator[T]:
    try:
        while (item := run(iteration.step(), timeout)) is not _END:
            yield cast("T", item)
    finally:
        run(iteration.close())


class _Iteration(Generic[T]):
    """An asynchronous iterable in a task that runs one step at a time. All methods run in the asyncio thread."""

    def __init__(self, iterable: AsyncIterable[T]) -> None:
        self._iterable = iterable
        self._task: asyncio.Task[None] | None = None
        self._item: asyncio.Future[T]
        self._asked = asyncio.Event()

    async def step(self) -> T | object:
        """The next item, or ``_END``."""
        self._item = asyncio.get_running_loop().create_future()
        self._asked.set()
        if self._task is None:
            self._task = asyncio.ensure_future(self._work())
        await asyncio.wait((self._item, self._task), return_when=asyncio.FIRST_COMPLETED)
        if self._item.done():
            return self._item.result()
        self._task.result()  # raises the exception of the iterable
        return _END

    async def _work(self) -> None:
        try:
            async for item in self._iterable:
                self._asked.clear()
                self._item.set_result(item)
                await self._asked.wait()
        finally:
            close = getattr(self._iterable, "aclose", None)
            if close is not None:
                await close()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=STOP_WITHIN)


class _Call(Generic[T]):
    """One call of ``run()``: the greenlet that waits, and the task in the asyncio thread."""

    def __init__(self, awaitable: Awaitable[T]) -> None:
        self._awaitable = awaitable
        self._task: asyncio.Task[T] | None = None
        self._has_begun = False
        self._hub: Any = get_hub()
        self._waiter: Any = Waiter(self._hub)
        self._watcher: Any = None
        """What wakes the greenlet from the asyncio thread, while it waits."""
        self._in_use = _lock()  # the watcher must not be closed while the other thread uses it

    def result(self, loop: asyncio.AbstractEventLoop, timeout: float | None) -> T:
        end = None
        try:
            # Nested, so that an exception of a signal handler in the middle of one end does not leave out the others.
            with self._hub.loop.async_() as watcher, self._hub.loop.timer(timeout or 0) as timer:
                try:
                    watcher.start(self._waiter.switch, _DONE)
                    self._watcher = watcher
                    if timeout is not None:
                        # "update": gevent's loop does not update its clock while a view computes.
                        timer.start(self._waiter.switch, _TIMED_OUT, update=True)
                    loop.call_soon_threadsafe(self._begin)
                    end = self._waiter.get()
                finally:
                    self._watcher = None
                    with self._in_use:
                        pass
        finally:
            if end is not _DONE:
                loop.call_soon_threadsafe(self._cancel)
        if end is _TIMED_OUT:
            raise TimeoutError(f"the coroutine did not end within {timeout} seconds")
        task, self._task = self._task, None
        try:
            return cast("asyncio.Task[T]", task).result()
        except asyncio.CancelledError as error:
            raise concurrent.futures.CancelledError(*error.args) from error
        finally:
            del task  # the traceback of an exception refers to this frame, and the task to the exception

    # The methods below run in the asyncio thread.

    def _begin(self) -> None:
        self._task = asyncio.ensure_future(self._work())
        self._task.add_done_callback(self._done)

    async def _work(self) -> T:
        """Await it in a coroutine, so that an error of ``__await__`` is the exception of the task."""
        self._has_begun = True
        return await self._awaitable

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        else:  # its wait was cut off before that
            self._close()

    def _close(self) -> None:
        """Close a coroutine that has not begun, or Python warns that it was never awaited."""
        if not self._has_begun and isinstance(self._awaitable, Coroutine):
            self._awaitable.close()

    def _done(self, task: asyncio.Task[T]) -> None:
        self._close()
        with self._in_use:
            watcher = self._watcher
            if watcher is not None:
                watcher.send()


class _Thread:
    """The native thread with the event loop."""

    loop: asyncio.AbstractEventLoop
    greenlet: Any

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._stopped = False
        self._error: BaseException | None = None
        self._began, self._ended = _lock(), _lock()
        self._began.acquire()
        self._ended.acquire()
        _start_thread(self._main, ())
        # Blocks all greenlets for some milliseconds. Otherwise another one could start a second thread meanwhile.
        self._began.acquire()
        if self._error is not None:
            raise self._error

    def _main(self) -> None:
        try:
            self.greenlet = getcurrent()
            self.loop = loop = _EventLoop()
        except BaseException as error:
            self._error = error
            return
        finally:
            self._began.release()
        while not self._stopped:
            _run_forever(loop)
        loop.run_until_complete(_cancel_all())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        self._ended.release()
        # Wait until the process exits: the interpreter ends running threads then, and must not do so in C++ code of
        # greenlet.
        self._began.acquire()

    def stop(self) -> None:
        """Cancel all coroutines and wait until they have ended. Called at the exit of the process."""
        if os.getpid() != self._pid:  # a forked child inherits this call, but not the thread
            return
        self._stopped = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._ended.acquire(timeout=STOP_WITHIN)


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    except (SystemExit, KeyboardInterrupt):
        pass  # run() raises it for its coroutine; asyncio would also stop the event loop of all other coroutines


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _Selector(GeventSelector):
    def select(self, timeout: float | None = None) -> Any:
        """Wait at least one millisecond, because gevent on libuv warns about less."""
        return super().select(max(timeout, 0.001) if timeout is not None and timeout > 0 else timeout)


class _EventLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__(_Selector())
        self.set_default_executor(_Executor(THREADS))
        self._executors: WeakKeyDictionary[Any, _Executor] = WeakKeyDictionary()

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Call ``func`` in a native thread; there are as many as ``executor`` would have."""
        if isinstance(executor, concurrent.futures.ThreadPoolExecutor) and not isinstance(executor, _Executor):
            native = self._executors.get(executor)
            if native is None:
                native = self._executors[executor] = _Executor(executor._max_workers)
            executor = native
        return super().run_in_executor(executor, func, *args)

    async def getaddrinfo(self, host: Any, port: Any, **hints: Any) -> Any:
        """Resolve without gevent, whose function would need a hub in each native thread."""
        return await self.run_in_executor(None, partial(_getaddrinfo, host, port, **hints))


class _Executor(concurrent.futures.ThreadPoolExecutor):
    """An executor with native threads. Those of the base class are greenlets where ``threading`` is monkey-patched: a
    blocking call would block the event loop, and at the exit of the process no other thread could wait for them.
    """

    def __init__(self, threads: int) -> None:
        super().__init__(1)
        self._native = ThreadPool(threads)

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[T]:
        """Call the function in a native thread. A greenlet of the asyncio thread waits for a free one."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        gevent.spawn(self._work, future, function, args, kwargs)
        return future

    def _work(
        self,
        future: concurrent.futures.Future[T],
        function: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = self._native.apply(function, args, kwargs)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)


class _Process:
    """The asyncio thread of this process. A forked child starts without one."""

    def __init__(self) -> None:
        self.lock = _lock()
        self.thread: _Thread | None = None


_process = _Process()


def _thread() -> _Thread:
    with _process.lock:
        if _process.thread is None:
            _process.thread = thread = _Thread()
            atexit.register(thread.stop)
        return _process.thread


def _begin_child() -> None:
    """Runs in a child process right after the fork."""
    global _process
    _process = _Process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_child)
