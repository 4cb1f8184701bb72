"""The memory backend, beside the contract of all backends, which is in ``test_backend``."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import weakref

import gevent
import pytest

from gws_middleware.groups import History, Position
from gws_middleware.groups.backends.base import Publish, Want
from gws_middleware.groups.backends.memory import MemoryBackend

from ..support.inprocess import hub_errors, in_a_thread, until  # noqa: F401

KEPT = History(size=3, age=60.0)


def test_history_is_bounded_by_size_and_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest entries, and none that is too old; the top stays."""
    backend = MemoryBackend()
    for number in range(5):
        backend.publish([Publish("room", str(number).encode(), KEPT)])
    [page] = backend.read([Want("room", KEPT, None, 10)])
    assert ([entry.payload for entry in page.entries], page.top) == ([b"2", b"3", b"4"], 5)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    [page] = backend.read([Want("room", KEPT, 0, 10)])
    assert (page.entries, page.top) == ([], 5)


def test_threads_that_publish_share_one_order() -> None:
    """Offsets have no hole and none twice; the feed has all of them in order."""
    backend, kept = MemoryBackend(), History(size=10_000, age=60.0)
    feed = backend.feed()
    feed.subscribe(["room"])

    def publish() -> None:
        for _ in range(500):
            backend.publish([Publish("room", b"", kept)])

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    offsets: list[int] = []
    while len(offsets) < 2000:
        events = feed.wait(5)
        assert events
        offsets += [event.offset for event in events if hasattr(event, "offset")]
    for thread in threads:
        thread.join()
    assert offsets == list(range(1, 2001))
    feed.close()


def test_feed_that_is_closed_while_threads_publish() -> None:
    """The others miss nothing."""
    backend = MemoryBackend()
    stays = backend.feed()
    stays.subscribe(["room"])
    ends = threading.Event()
    sent = [0]

    def publish() -> None:
        while not ends.is_set():
            backend.publish([Publish("room", str(sent[0]).encode(), None)])
            sent[0] += 1

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        for _ in range(50):
            feed = backend.feed()
            feed.subscribe(["room"])
            gevent.sleep(0.001)
            feed.close()
    finally:
        ends.set()
        thread.join()
    found: list[bytes] = []
    while len(found) < sent[0]:
        found += [event.payload for event in stays.wait(5) if hasattr(event, "payload")]
    assert found == [str(number).encode() for number in range(sent[0])]
    stays.close()


def test_wait_returns_at_close_and_at_wake() -> None:
    """From any thread; after close() it returns at once."""
    backend = MemoryBackend()
    feed = backend.feed()
    waiter = gevent.spawn(feed.wait, 10)
    gevent.sleep(0)
    in_a_thread(feed.wake)
    assert waiter.get(timeout=5) == []
    waiter = gevent.spawn(feed.wait, 10)
    gevent.sleep(0)
    feed.close()
    assert waiter.get(timeout=5) == []
    feed.wake()
    feed.close()
    reference = weakref.ref(feed)
    del feed, waiter
    gc.collect()
    assert reference() is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_child_begins_anew() -> None:
    """Also where another thread of the parent publishes during the fork."""
    backend = MemoryBackend()
    [position] = backend.publish([Publish("room", b"x", KEPT)])
    backend.put("numbers", {"a": b"1"})
    ends = threading.Event()

    def publish() -> None:
        while not ends.is_set():
            backend.publish([Publish("other", b"x", KEPT)])

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                status = 1
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(5)  # a child that waits for a lock of its parent's ends, too
                try:
                    [page] = backend.read([Want("room", KEPT, None, 10)])
                    numbers = backend.get("numbers", "a")
                    status = 0 if (page.epoch != position.epoch and page.top == 0 and numbers == []) else 2  # type: ignore[union-attr]
                finally:
                    os._exit(status)
            found: list[int] = []

            def is_over(pid: int = pid, found: list[int] = found) -> bool:
                ended, status = os.waitpid(pid, os.WNOHANG)
                found.append(status)
                return ended == pid

            until(is_over, "the child has ended", 10)
            assert found[-1] == 0
    finally:
        ends.set()
        thread.join()
    assert backend.read([Want("room", KEPT, None, 0)])[0].epoch == position.epoch  # type: ignore[union-attr]
    assert isinstance(position, Position)
