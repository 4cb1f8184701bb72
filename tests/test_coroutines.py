"""``coroutines.run``: coroutines of many views at a time, in the asyncio thread of the process."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import os
import subprocess
import sys
import time
import traceback
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.monkey import get_original
from gevent.server import StreamServer

from gws_middleware.coroutines import THREADS, iterate, run

from .support.inprocess import deadline, hub_errors, no_collector, package_path, until
from .support.interrupting import raised_at_call

__all__ = ["hub_errors"]

allocate_lock = get_original("_thread", "allocate_lock")


async def value(result: Any = None) -> Any:
    await asyncio.sleep(0)
    return result


@pytest.fixture(scope="module", autouse=True)
def thread() -> None:
    """The asyncio thread and a native thread are there before a test counts descriptors."""
    run(asyncio.wait_for(asyncio.to_thread(int), 20))


class Waiting:
    """A coroutine that waits until it is released, and notes what ends it."""

    def __init__(self) -> None:
        self.began = False
        self.release: Callable[[], object] = int
        self.ended_by: object = None

    async def coroutine(self) -> str:
        released = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.release = lambda: loop.call_soon_threadsafe(released.set)
        self.began = True
        try:
            await released.wait()
        except BaseException as error:
            self.ended_by = type(error)
            raise
        self.ended_by = "release"
        return "released"


def begin(waiting: Waiting, timeout: float | None = None) -> Any:
    """A greenlet that waits for it."""
    greenlet = gevent.spawn(run, waiting.coroutine(), timeout)
    until(lambda: waiting.began, "the coroutine runs")
    return greenlet


# --- what comes back -----------------------------------------------------------------------------------------------


def test_result_is_returned() -> None:
    """``run`` is a plain call."""
    assert run(value(5)) == 5


def test_exception_is_raised_with_the_coroutine_in_its_traceback() -> None:
    """It is the coroutine's own exception, so that ``except`` clauses hold and a log shows the line."""

    async def fails() -> None:
        raise KeyError("missing")

    with pytest.raises(KeyError, match="missing") as raised:
        run(fails())
    assert "fails" in [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]


def test_exception_is_freed_without_the_garbage_collector() -> None:
    """It holds what the frames of its traceback refer to, a view's connection among it."""

    class MissingError(Exception):
        pass

    async def fails() -> None:
        raise MissingError

    def call() -> weakref.ref[MissingError]:
        try:
            run(fails())
        except MissingError as error:
            return weakref.ref(error)
        raise AssertionError

    with no_collector():
        found = call()
        until(lambda: found() is None, "the exception is freed")


def test_timeout_error_of_the_coroutine_is_its_own() -> None:
    """It is not taken for the end of ``run``'s own time."""

    async def fails() -> None:
        raise TimeoutError("of the SDK")

    with pytest.raises(TimeoutError, match="of the SDK"):
        run(fails(), timeout=20)


def test_context_variables_of_the_caller_are_seen() -> None:
    """What a view has set, e.g. the current language, holds in its coroutine, and its task's changes stay there."""
    variable = ContextVar("variable", default="default")

    async def look() -> str:
        found = variable.get()
        variable.set("of the coroutine")
        return found

    variable.set("of the caller")
    assert (run(look()), variable.get()) == ("of the caller", "of the caller")


def test_two_greenlets_have_two_contexts() -> None:
    """Also when their coroutines run at the same time."""
    variable: ContextVar[int] = ContextVar("variable")
    running: list[int] = []

    async def look() -> int:
        running.append(variable.get())
        while len(running) < 10:
            await asyncio.sleep(0)
        return variable.get()

    def call(number: int) -> int:
        variable.set(number)
        return run(look())

    greenlets = [gevent.spawn(call, number) for number in range(10)]
    assert [greenlet.get(timeout=20) for greenlet in greenlets] == list(range(10))


# --- many at a time ------------------------------------------------------------------------------------------------


def test_coroutines_of_many_greenlets_run_at_the_same_time() -> None:
    """Each of a hundred waits for all others."""
    arrived: list[int] = []
    complete: list[asyncio.Event] = []

    async def meet(number: int) -> int:
        complete.extend([] if complete else [asyncio.Event()])
        arrived.append(number)
        if len(arrived) == 100:
            complete[0].set()
        await complete[0].wait()
        return number

    greenlets = [gevent.spawn(run, meet(number)) for number in range(100)]
    assert [greenlet.get(timeout=20) for greenlet in greenlets] == list(range(100))


def test_other_greenlets_run_while_one_waits() -> None:
    """The one that waits is released by another one of the same thread."""
    waiting = Waiting()
    greenlet = begin(waiting)
    waiting.release()
    assert greenlet.get(timeout=20) == "released"


def test_blocking_coroutine_does_not_hold_up_greenlets() -> None:
    """It holds up other coroutines only."""
    lock = allocate_lock()
    lock.acquire()
    began: list[bool] = []

    async def block() -> bool:
        began.append(True)
        return bool(lock.acquire(timeout=20))

    greenlet = gevent.spawn(run, block())
    until(lambda: began, "the coroutine runs")
    gevent.sleep(0.001)  # returns: the loop of this thread runs
    lock.release()
    assert greenlet.get(timeout=20)


def test_busy_coroutine_lets_others_read_their_sockets() -> None:
    """A loop around ``asyncio.sleep(0)`` never lets asyncio wait for sockets; they are polled all the same."""

    async def read() -> bytes:
        ours, theirs = __import__("socket").socketpair()
        with ours, theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            reading = asyncio.ensure_future(reader.read(1))
            theirs.send(b"x")
            while not reading.done():
                await asyncio.sleep(0)
            writer.close()
            await writer.wait_closed()
            return reading.result()

    assert run(read(), timeout=20) == b"x"


def test_connection_is_used_again_in_the_next_call() -> None:
    """All calls have the same event loop, so what belongs to a loop may be kept: a client, a pool, a connection."""

    def echo(sock: Any, address: object) -> None:
        while data := sock.recv(100):
            sock.sendall(data)

    server = StreamServer(("127.0.0.1", 0), echo)
    server.start()
    try:
        reader, writer = run(asyncio.open_connection("127.0.0.1", server.server_port), timeout=20)
        found = []
        for word in (b"one", b"two"):
            writer.write(word)
            found.append(run(reader.readexactly(3), timeout=20))
        writer.close()
        run(writer.wait_closed(), timeout=20)
    finally:
        server.stop()
    assert found == [b"one", b"two"]


# --- asynchronous iterables ----------------------------------------------------------------------------------------


class Stream:
    """An asynchronous generator that notes what it does, and in which task."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.tasks: set[object] = set()

    async def items(self, error: BaseException | None = None) -> AsyncIterator[int]:
        try:
            for number in range(1, 4):
                self.tasks.add(asyncio.current_task())
                await asyncio.sleep(0)
                self.events.append(number)
                yield number
            if error is not None:
                raise error
        finally:
            self.tasks.add(asyncio.current_task())
            await asyncio.sleep(0)
            self.events.append("closed")


def test_asynchronous_generator_is_read_item_by_item() -> None:
    """Between two items the view does what it likes, e.g. sends the item, and the generator waits."""
    stream = Stream()
    for number in iterate(stream.items(), timeout=20):
        stream.events.append(str(number))
    assert stream.events == [1, "1", 2, "2", 3, "3", "closed"]


def test_asynchronous_generator_has_one_task() -> None:
    """So a ``timeout()`` or a task group may be open where it yields."""
    stream = Stream()
    assert (list(iterate(stream.items())), len(stream.tasks)) == ([1, 2, 3], 1)


def test_generator_is_closed_when_the_loop_is_left() -> None:
    """As in a view whose peer has disconnected: what the generator holds is released, before the view goes on."""
    stream = Stream()

    def view() -> None:
        for _ in iterate(stream.items()):
            raise ConnectionError

    with pytest.raises(ConnectionError):
        view()
    assert stream.events == [1, "closed"] and len(stream.tasks) == 1


def test_generator_that_was_not_begun_does_nothing() -> None:
    """Its code runs when the first item is asked for."""
    stream = Stream()
    iterate(stream.items())
    assert stream.events == []


@pytest.mark.parametrize("error", [KeyError("missing"), SystemExit(3)])
def test_exception_of_a_generator_is_raised(error: BaseException) -> None:
    """After its items, where the loop asks for the next one."""
    stream, found = Stream(), []
    with pytest.raises(type(error)):
        found.extend(iterate(stream.items(error), timeout=20))
    assert stream.events == [1, 2, 3, "closed"]


def test_generator_is_cancelled_after_the_timeout() -> None:
    """The time is for each item."""
    events: list[object] = []

    async def hangs() -> AsyncIterator[int]:
        yield 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    with pytest.raises(TimeoutError):
        events.extend(iterate(hangs(), timeout=0.05))
    assert events == [1, "cancelled"]


def test_any_asynchronous_iterable_is_read() -> None:
    """Many SDKs have a class of their own, which is no generator."""

    class Iterable:
        left = 2

        def __aiter__(self) -> Iterable:
            return self

        async def __anext__(self) -> int:
            self.left -= 1
            if self.left < 0:
                raise StopAsyncIteration
            return self.left

    assert list(iterate(Iterable())) == [1, 0]


def test_what_cannot_be_iterated_is_refused() -> None:
    """At the call, and not at the first item."""
    with pytest.raises(TypeError, match=r"iterate\(\) takes an asynchronous generator or iterable, not \[1\]"):
        iterate([1])  # type: ignore[arg-type]


# --- the end -------------------------------------------------------------------------------------------------------


def test_coroutine_is_cancelled_after_the_timeout() -> None:
    """TimeoutError, as ``receive(timeout)`` raises it."""
    waiting = Waiting()
    with pytest.raises(TimeoutError, match=r"the coroutine did not end within 0\.05 seconds"):
        run(waiting.coroutine(), timeout=0.05)
    until(lambda: waiting.ended_by is asyncio.CancelledError, "the coroutine is cancelled")


def test_coroutine_of_a_greenlet_that_is_killed_is_cancelled() -> None:
    """GreenletExit is how a view ends when its worker stops."""
    waiting = Waiting()
    greenlet = begin(waiting)
    greenlet.kill(timeout=20)
    assert isinstance(greenlet.value, gevent.GreenletExit)
    until(lambda: waiting.ended_by is asyncio.CancelledError, "the coroutine is cancelled")


def test_coroutine_is_cancelled_by_a_gevent_timeout() -> None:
    """And that Timeout goes on as it is."""
    for seconds in (0.05, 0.5, 5.0):  # on a busy machine the coroutine may not begin in time
        waiting = Waiting()
        timeout = gevent.Timeout(seconds)
        with pytest.raises(gevent.Timeout) as raised, timeout:
            run(waiting.coroutine(), timeout=20)
        assert raised.value is timeout
        if waiting.began:
            break
    until(lambda: waiting.ended_by is asyncio.CancelledError, "the coroutine is cancelled")


def test_call_that_ends_before_its_coroutine_has_begun(caplog: pytest.LogCaptureFixture) -> None:
    """By a wrong timeout here: there is no task to cancel, and the asyncio thread logs no error."""
    coroutine = value()
    with pytest.raises(TypeError):
        run(coroutine, timeout="soon")  # type: ignore[arg-type]
    assert run(value(5)) == 5  # the thread calls in order: what the call above asked it for comes first
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED  # else Python warns that it was never awaited
    assert caplog.messages == []


def test_coroutine_that_is_cancelled_before_it_has_begun() -> None:
    """The asyncio thread does something else for so long. Python does not warn that it was never awaited."""

    async def block() -> None:
        asyncio.get_running_loop().call_later(0, time.sleep, 0.3)

    run(block())
    waiting = Waiting()
    coroutine = waiting.coroutine()
    with pytest.raises(TimeoutError):
        run(coroutine, timeout=0.05)
    assert run(value(5)) == 5
    assert not waiting.began and inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


def test_exception_in_the_middle_leaves_no_watcher() -> None:
    """Of a signal handler's, at any call: no watcher stays on the loop (``hub_errors``), and what has begun ends."""
    for number in range(1, 60):
        waiting = Waiting()
        coroutine = waiting.coroutine()

        def call(coroutine: Coroutine[Any, Any, str] = coroutine) -> None:
            with pytest.raises(TimeoutError):
                run(coroutine, timeout=0.001)

        is_cut = raised_at_call(number, call, "/coroutines.py")
        run(value())  # the thread calls in order: what the call above asked it for comes first
        run(value())  # and a task that was cancelled has ended by now
        assert waiting.ended_by is (asyncio.CancelledError if waiting.began else None)
        coroutine.close()
        if not is_cut:
            break
    assert 5 < number < 59


def test_cancelled_coroutine_is_an_ordinary_exception() -> None:
    """Asyncio's own CancelledError is a BaseException, which would end more than the view."""

    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(20)

    with pytest.raises(concurrent.futures.CancelledError):
        run(cancels_itself())


async def leave() -> None:
    sys.exit(3)


async def leave_in_a_task() -> None:
    await asyncio.ensure_future(leave())


@pytest.mark.parametrize("coroutine", [leave, leave_in_a_task])
def test_system_exit_ends_no_other_coroutine(coroutine: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Asyncio stops a loop in which a coroutine calls ``sys.exit()``: this one serves all views."""
    waiting = Waiting()
    greenlet = begin(waiting)
    with pytest.raises(SystemExit) as raised:
        run(coroutine(), timeout=20)
    waiting.release()
    assert (raised.value.code, greenlet.get(timeout=20)) == (3, "released")


# --- wrong calls ---------------------------------------------------------------------------------------------------


def test_what_cannot_be_awaited_is_refused() -> None:
    """A coroutine function that was not called is the usual case."""
    with pytest.raises(TypeError, match=r"run\(\) takes a coroutine or another awaitable, not <function value"):
        run(value)  # type: ignore[arg-type]


def test_call_in_a_coroutine_is_refused() -> None:
    """It would wait for itself for ever."""

    async def calls() -> None:
        inner = value()
        try:
            run(inner)
        finally:
            inner.close()

    with pytest.raises(RuntimeError, match=r"run\(\) was called by a coroutine that run\(\) runs: use await there"):
        run(calls(), timeout=20)


def test_future_of_another_loop_is_an_error() -> None:
    """And not a wait without end."""
    loop = asyncio.SelectorEventLoop()
    try:
        with pytest.raises(RuntimeError, match="attached to a different loop"):
            run(loop.create_future(), timeout=20)
    finally:
        loop.close()


# --- threads -------------------------------------------------------------------------------------------------------


def test_threads_of_asyncio_are_native() -> None:
    """What blocks in ``asyncio.to_thread`` holds up no coroutine, and as many as one likes may wait for a thread."""
    locks = [allocate_lock() for _ in range(THREADS + 1)]
    for lock in locks:
        lock.acquire()

    async def wait_for_all() -> list[bool]:
        blocked = [asyncio.ensure_future(asyncio.to_thread(lock.acquire, timeout=20)) for lock in locks]
        await asyncio.sleep(0)
        for lock in locks:
            lock.release()
        return await asyncio.gather(*blocked)

    assert run(wait_for_all(), timeout=20) == [True] * len(locks)


def test_exception_in_a_thread_of_asyncio_is_raised() -> None:
    """As everywhere in asyncio."""
    with pytest.raises(ZeroDivisionError):
        run(asyncio.to_thread(divmod, 1, 0), timeout=20)


def test_names_are_resolved() -> None:
    """``getaddrinfo`` of the loop, which each ``open_connection`` calls."""

    async def resolve() -> Any:
        return await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80, type=1)

    assert [found[4] for found in run(resolve(), timeout=20)] == [("127.0.0.1", 80)]


def test_run_works_in_a_native_thread() -> None:
    """Whatever thread waits, its coroutine runs in the one asyncio thread."""

    def call() -> int:
        try:
            return int(run(value(5), timeout=20))
        finally:
            gevent.get_hub().destroy(True)  # the descriptors of this thread's hub

    with deadline("the thread returns", 20):
        assert gevent.get_hub().threadpool.apply(call) == 5


# --- processes -----------------------------------------------------------------------------------------------------

PATCHED = "from gevent import monkey; monkey.patch_all()\n"
BEGIN = """
import asyncio, os, socket, sys, threading, time
import gevent
from gws_middleware.coroutines import run

async def value(result):
    await asyncio.sleep(0)
    return result

assert run(value(1)) == 1
"""
FORKED = """
child = os.fork()
if not child:
    os._exit(run(value(7), timeout=20))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), run(value(8)))
"""
PENDING = """
async def pending():
    print("began", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        print("cancelled", flush=True)

gevent.spawn(run, pending())
run(value(1))
"""
THREAD = """
import concurrent.futures
import inspect
from asgiref.sync import sync_to_async

def in_no_loop():
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise AssertionError("the ORM would refuse to be called")

async def threads():
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    threading.Thread(target=lambda: (time.sleep(0.01), loop.call_soon_threadsafe(done.set))).start()
    await done.wait()
    await asyncio.to_thread(time.sleep, 0.01)
    await loop.getaddrinfo("localhost", 80)
    await loop.run_in_executor(concurrent.futures.ThreadPoolExecutor(1), time.sleep, 0.01)
    await sync_to_async(in_no_loop)()
    print("done")

run(threads(), timeout=20)
"""


def in_a_process(program: str) -> str:
    """What a fresh interpreter prints that ends well."""
    command = [sys.executable, "-X", "faulthandler", "-c", program]
    done = subprocess.run(command, env=package_path(), capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("patch", ["", PATCHED], ids=["plain", "patched"])
@pytest.mark.parametrize(
    ("program", "printed"),
    [(FORKED, "7 8"), (PENDING, "began\ncancelled"), (THREAD, "done")],
    ids=["a child of fork", "an exit with a coroutine", "threads"],
)
def test_process(patch: str, program: str, printed: str) -> None:
    """A child has an asyncio thread of its own; at the exit what still runs is cancelled, and the process ends well;
    threads of a coroutine work, be they native or greenlets, those of asgiref's ``sync_to_async`` too.
    """
    assert in_a_process(patch + BEGIN + program) == printed


def test_all_of_this_holds_when_monkey_patched() -> None:
    """The tests above once more in a process where everything is patched, as in a gunicorn worker."""
    if os.environ.get("GWS_TEST_PATCHED"):
        return  # this is that process
    program = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PATCHED + program,
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-k",
            "not test_process",
            __file__,
        ],
        cwd=Path(__file__).parents[1],
        env={**package_path(), "GWS_TEST_PATCHED": "1", "PYTHONWARNINGS": ""},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
