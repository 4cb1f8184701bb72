"""Waiting in a greenlet, in a native thread, in the hub; with gevent's patches and without."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import gevent
import gevent.threadpool
import pytest

from gws_middleware.groups import waiting

from .child import ROOT

HERE: dict[str, Callable[[Callable[[], object]], object]] = {
    "greenlet": lambda work: gevent.spawn(work).get(),
    "main": lambda work: work(),
    "thread": lambda work: gevent.threadpool.ThreadPool(1).apply(work),
    "hub": lambda work: in_the_hub(work),
}
"""Where code can run."""


def in_the_hub(work: Callable[[], object]) -> object:
    """What a function returns that is called by the event loop."""
    found: list[object] = []
    gevent.get_hub().loop.run_callback(lambda: found.append(work()))
    gevent.sleep(0.01)
    return found[0]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.mark.parametrize("place", list(HERE))
def test_pause_takes_its_time(place: str) -> None:
    """Everywhere."""

    def work() -> float:
        before = time.monotonic()
        waiting.pause(0.1)
        return time.monotonic() - before

    taken = HERE[place](work)
    assert isinstance(taken, float) and 0.09 <= taken < 2


@pytest.mark.parametrize("place", ["greenlet", "main"])
@pytest.mark.parametrize("wait", ["pause", "wait_readable"])
def test_greenlets_run_during_a_wait(pipe: tuple[int, int], place: str, wait: str) -> None:
    """Of the same thread."""
    ticks: list[object] = []
    greenlet = gevent.spawn(lambda: [ticks.append(gevent.sleep(0)) for _ in range(5)])  # turns of the loop, no time
    HERE[place](lambda: waiting.pause(0.2) if wait == "pause" else waiting.wait_readable([pipe[0]], 0.2))
    assert len(ticks) == 5
    greenlet.join()


def test_pause_of_zero_lets_greenlets_run() -> None:
    """Each of them once, at least."""
    ran = []
    gevent.spawn(ran.append, 1)
    waiting.pause(0)
    assert ran == [1]


@pytest.mark.parametrize("place", list(HERE))
@pytest.mark.parametrize("ready", [False, True], ids=["empty", "ready"])
def test_wait_readable_says_whether_it_can_be_read(pipe: tuple[int, int], place: str, ready: bool) -> None:
    """At once, or when the time has passed."""
    if ready:
        os.write(pipe[1], b"x")
    before = time.monotonic()
    assert HERE[place](lambda: waiting.wait_readable([pipe[0]], 2 if ready else 0.1)) is ready
    assert (0 if ready else 0.09) <= time.monotonic() - before < 1.5


@pytest.mark.parametrize("place", ["greenlet", "main", "thread"])
def test_wait_readable_ends_when_bytes_come(pipe: tuple[int, int], place: str) -> None:
    """From another thread."""
    timer = threading.Timer(0.1, os.write, [pipe[1], b"x"])
    timer.start()
    assert HERE[place](lambda: waiting.wait_readable([pipe[0]], 5)) is True
    timer.join()


def test_killed_greenlet_leaves_its_wait(pipe: tuple[int, int]) -> None:
    """And another one can wait for the same descriptor."""
    greenlet = gevent.spawn(waiting.wait_readable, [pipe[0]], 5)
    gevent.sleep(0.01)
    greenlet.kill(block=True, timeout=2)
    assert isinstance(greenlet.value, gevent.GreenletExit)
    assert waiting.wait_readable([pipe[0]], 0.01) is False


def test_timeout_of_the_caller_is_its_own(pipe: tuple[int, int]) -> None:
    """It is not taken for the end of the wait."""
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
        waiting.wait_readable([pipe[0]], 5)


@pytest.mark.parametrize("patch", ["", "from gevent import monkey; monkey.patch_all()\n"], ids=["unpatched", "patched"])
def test_process_without_a_hub_gets_none(patch: str) -> None:
    """Neither a native thread nor the main one, and an unpatched process loads no gevent."""
    script = patch + (
        "import sys, os, _thread, time; from gws_middleware.groups import waiting\n"
        "read, write = os.pipe()\n"
        "done = []\n"
        "def work():\n"
        "    waiting.pause(0.01); assert not waiting.wait_readable([read], 0.01); done.append(1)\n"
        "    if 'gevent' in sys.modules:\n"
        "        from gevent._hub_local import get_hub_if_exists; assert get_hub_if_exists() is None\n"
        "monkey, start = sys.modules.get('gevent.monkey'), _thread.start_new_thread\n"
        "if monkey is not None: start = monkey.get_original('_thread', 'start_new_thread')\n"
        "work(); start(work, ())\n"
        "for _ in range(500):\n"
        "    waiting.pause(0.01)\n"
        "    if len(done) == 2: break\n"
        "assert len(done) == 2 and ('gevent' in sys.modules) is bool(int(sys.argv[1]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(int(bool(patch)))], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_lock_is_one_of_native_threads() -> None:
    """A greenlet that waits for it blocks its thread, so it can be held only as long as nothing switches."""
    lock = waiting.new_lock()
    with lock:
        assert HERE["thread"](lambda: lock.acquire(True, 0.05)) is False
    assert HERE["thread"](lambda: lock.acquire(True, 0.05)) is True
