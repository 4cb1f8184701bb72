"""The log of several processes: what they share, and what happens when one of them ends, stops or damages something."""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import gevent.threadpool
import pytest

from gws_middleware.groups.backends import database
from gws_middleware.groups.backends.base import TIMEOUT, Lost, Publish, Want
from gws_middleware.groups.backends.sqlite import SqliteBackend, SqliteFeed
from gws_middleware.groups.errors import GroupsUnavailable, UnknownOutcome
from gws_middleware.groups.position import Entry, History, Page, Position

from ..support.seam import leave_transaction_open, read_now, replace_append, replace_trim_group, sweep_now
from ..support.waiting import eventually
from .child import HISTORY, ROOT, Calls, child

if sys.version_info >= (3, 12):  # which warns of forks beside threads; gevent has some
    pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

LOGGER = "gws_middleware.groups"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def backend(directory: Path) -> Iterator[SqliteBackend]:
    made = SqliteBackend(directory)
    yield made
    made.close()


@pytest.fixture
def feed(backend: SqliteBackend) -> Iterator[SqliteFeed]:
    made = backend.feed()
    made.subscribe(["chat"])
    yield made
    made.close()


def send(
    backend: SqliteBackend,
    payload: bytes,
    history: History | None = HISTORY,
    group: str = "chat",
    timeout: float = TIMEOUT,
) -> Position | None:
    [position] = backend.publish([Publish(group, payload, history)], timeout)
    return position


def page(backend: SqliteBackend, history: History = HISTORY, after: int | None = 0) -> Page:
    [found] = backend.read([Want("chat", history, after, 100_000)])
    return found


def payloads(found: Page) -> list[bytes]:
    return [entry.payload for entry in found.entries]


def receive(feed: SqliteFeed, count: int, timeout: float = 10.0) -> list[bytes | str]:
    """Payloads, and "lost" for ``Lost``."""
    found: list[bytes | str] = []
    deadline = time.monotonic() + timeout
    while len(found) < count and (left := deadline - time.monotonic()) > 0:
        events = feed.wait(left)
        found += [event.payload if isinstance(event, Entry) else "lost" for event in events]
        assert all(isinstance(event, Entry | Lost) for event in events)
    return found


def file_of(directory: Path) -> Path:
    [path] = directory.glob("log-*.db")
    return path


def in_a_fork(work: Callable[[], object]) -> object:
    """What a function returns in a forked child."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = work()
        except BaseException as error:
            answer = repr(error)
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answers:
        found = json.loads(answers.read())
    os.waitpid(pid, 0)
    return found


class TestProcesses:
    """Several processes have one log."""

    def test_incomplete_log_is_not_found(
        self, backend: SqliteBackend, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The workers of a server begin it at the same time: one makes it, and the others must not open it before."""
        create = database.Database.create
        found: list[list[Path]] = []

        def watched_create(self: database.Database) -> None:
            found.append(list(directory.glob("log-*")))
            create(self)
            found.append(list(directory.glob("log-*")))

        monkeypatch.setattr(database.Database, "create", watched_create)
        send(backend, b"one")
        assert found == [[], []]
        assert payloads(page(backend)) == [b"one"]

    @pytest.mark.parametrize("patched", [False, True], ids=["unpatched", "patched"])
    def test_message_reaches_another_process(
        self, backend: SqliteBackend, feed: SqliteFeed, directory: Path, patched: bool
    ) -> None:
        """In both directions, whether gevent has patched it or not."""
        with child(directory, patched=patched) as other:
            other.subscribe("chat", "live")
            position = send(backend, b"one")
            assert other.wait(1) == ["one"]
            [answered] = other.publish("chat", ["two"])
            assert other.publish("live", ["three"], False) == [None]
            assert receive(feed, 2) == [b"one", b"two"]
            assert position and answered == [position.epoch, 2]
            assert other.read("chat") == [position.epoch, 2, ["one", "two"]]

    def test_process_that_publishes_alone_loads_no_gevent(self, directory: Path) -> None:
        """A command or a task has no use for it."""
        script = (
            "import sys; from gws_middleware.groups.backends.sqlite import SqliteBackend as B\n"
            "from gws_middleware.groups.backends.base import TIMEOUT, Publish\n"
            f"B({str(directory)!r}).publish([Publish('a', b'1', None)])\n"
            "assert not {'gevent', 'greenlet', 'asyncio'} & {*sys.modules}"
        )
        subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=ROOT, check=True, timeout=60)

    def test_records_are_those_of_living_processes(self, backend: SqliteBackend, directory: Path) -> None:
        """A process that is killed contributes nothing from then on; its files are deleted, its rows given out once."""
        backend.put("members", {"chat": b"2"})
        with child(directory) as other:
            other.put("members", "chat", 3)
            assert sorted(backend.get("members", "chat")) == [b"2", b"3"]
            other.subscribe("chat")
            other.kill()
            assert backend.get("members", "chat") == [b"2"]
        feed = backend.feed()
        sweep_now(feed)
        feed.wait(0.1)
        names = sorted(path.name[:2] for path in directory.iterdir() if path.name[1] == "-")
        assert names == ["p-", "s-"]
        assert [(record.table, record.field, record.value) for record in backend.bury()] == [("members", "chat", b"3")]
        assert backend.bury() == []
        with sqlite3.connect(file_of(directory)) as connection:
            assert connection.execute("SELECT count(*) FROM records").fetchone() == (1,)
        connection.close()
        feed.close()

    def test_stopped_process_is_a_living_one(self, backend: SqliteBackend, directory: Path) -> None:
        """A debugger, or a host that swaps, ends nothing."""
        with child(directory) as other:
            other.put("members", "chat", 3)
            other.kill(signal.SIGSTOP)
            assert backend.get("members", "chat") == [b"3"]

    def test_log_outlives_its_processes(self, directory: Path) -> None:
        """A deploy stops all workers before it starts others."""
        with child(directory) as first:
            [position] = first.publish("chat", ["one"])
            first.kill()
        with child(directory) as second:
            assert second.read("chat") == [position[0], 1, ["one"]]

    def test_subscription_begins_with_what_is_published_after_it(
        self, backend: SqliteBackend, feed: SqliteFeed, directory: Path
    ) -> None:
        """Not with what the feed has not read yet of another process's, and a second one changes nothing."""
        with child(directory) as other:
            other.publish("live", ["before"], False)
            other.publish("chat", ["one"])
            feed.subscribe(["live"])
            other.publish("live", ["after"], False)
            feed.subscribe(["live", "chat"])
            assert receive(feed, 2) == [b"one", b"after"]


class TestCallers:
    """Where ``publish()`` may be called from."""

    def test_native_threads_and_greenlets_at_the_same_time(
        self, backend: SqliteBackend, feed: SqliteFeed, directory: Path
    ) -> None:
        """Threads, gevent's thread pool, asyncio, greenlets: each in its order, all once."""
        count = 40

        def work(name: int) -> None:
            for number in range(count):
                send(backend, b"%d.%d" % (name, number))

        async def in_asyncio() -> None:
            await asyncio.gather(asyncio.to_thread(work, 0), asyncio.to_thread(work, 1))

        threads = [threading.Thread(target=work, args=(name,)) for name in (2, 3)]
        threads.append(threading.Thread(target=lambda: asyncio.run(in_asyncio())))
        for thread in threads:
            thread.start()
        pool = gevent.threadpool.ThreadPool(2)
        waiting = [pool.spawn(work, 4), pool.spawn(work, 5), gevent.spawn(work, 6), gevent.spawn(work, 7)]
        gevent.joinall(waiting, raise_error=True)
        pool.kill()
        for thread in threads:
            thread.join()
        found = receive(feed, 8 * count)
        for name in range(8):
            mine = [payload for payload in found if isinstance(payload, bytes) and payload.startswith(b"%d." % name)]
            assert mine == [b"%d.%d" % (name, number) for number in range(count)]
        assert [entry.offset for entry in page(backend).entries] == list(range(1, 8 * count + 1))

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_multiprocessing(self, backend: SqliteBackend, directory: Path, method: str) -> None:
        """A pool of a task queue."""
        send(backend, b"parent")
        context = multiprocessing.get_context(method)
        process = context.Process(target=publish_once, args=(directory, "child"))  # type: ignore[attr-defined]
        process.start()
        process.join()
        assert (process.exitcode, payloads(page(backend))) == (0, [b"parent", b"child"])

    def test_signal_handler_that_interrupts_a_publish_fails_within_the_timeout(
        self, backend: SqliteBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It cannot wait for what it has interrupted. The publish goes on after that."""
        failed = []

        def interrupt(*_: object) -> None:
            try:
                send(backend, b"inner", timeout=0.2)
            except GroupsUnavailable as error:
                failed.append(str(error))

        def append(*arguments: object) -> object:
            signal.raise_signal(signal.SIGUSR1)
            return original(*arguments)  # type: ignore[arg-type]

        original = replace_append(monkeypatch, append)
        handler = signal.signal(signal.SIGUSR1, interrupt)
        try:
            send(backend, b"outer")
        finally:
            signal.signal(signal.SIGUSR1, handler)
        assert "another thread" in failed[0]
        assert payloads(page(backend)) == [b"outer"]

    def test_exception_in_the_middle_of_a_transaction_leaves_nothing(
        self, backend: SqliteBackend, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A signal handler of gunicorn may raise anywhere. Another process can write at once."""
        send(backend, b"one")
        other = SqliteBackend(directory)
        send(other, b"other", group="other")

        def interrupted(*_: object) -> None:
            raise SystemExit

        with monkeypatch.context() as patch:
            replace_trim_group(patch, interrupted)
            with pytest.raises(SystemExit):
                backend.publish([Publish("chat", b"x", HISTORY) for _ in range(5)])
        send(other, b"two")
        send(backend, b"three")
        other.close()
        assert [(entry.offset, entry.payload) for entry in page(backend).entries] == [
            (1, b"one"),
            (2, b"two"),
            (3, b"three"),
        ]

    def test_transaction_that_was_left_open_is_rolled_back(self, backend: SqliteBackend) -> None:
        """The exception came after BEGIN, and before anything that could catch it."""
        send(backend, b"one")
        leave_transaction_open(backend)
        send(backend, b"two")
        assert payloads(page(backend)) == [b"one", b"two"]

    def test_reader_with_much_to_read_lets_greenlets_run(self, backend: SqliteBackend, feed: SqliteFeed) -> None:
        """Between two slices."""
        backend.publish([Publish("chat", b"x", None) for _ in range(1500)])
        ran: list[int] = []
        total = 0
        while total < 1500:
            gevent.spawn(ran.append, total)
            total += len(feed.wait(5))
            assert total <= 500 * (len(ran) + 1)
        assert total == 1500

    def test_reader_of_one_group_reads_past_all_others(self, backend: SqliteBackend, feed: SqliteFeed) -> None:
        """A slice without an entry of its own does not end its wait."""
        backend.publish([Publish("other", b"x", None) for _ in range(1500)])
        send(backend, b"one")
        assert [event.payload for event in feed.wait(5) if isinstance(event, Entry)] == [b"one"]


def publish_once(directory: Path, text: str) -> None:
    """In a process of multiprocessing."""
    backend = SqliteBackend(directory)
    send(backend, text.encode())
    backend.close()


class TestForks:
    """A child has nothing of its parent's."""

    def test_parent_and_ten_children_publish_and_read(
        self, backend: SqliteBackend, directory: Path, feed: SqliteFeed
    ) -> None:
        """As with ``preload_app``: the parent has published before it forks, and goes on."""
        count, children = 30, 10
        backend.put("members", {"chat": b"1"})
        send(backend, b"first")

        def work() -> list[object]:
            mine = backend.feed()
            mine.subscribe(["chat"])
            seen = []
            for number in range(count):
                send(backend, b"%d.%d" % (os.getpid(), number))
                backend.put("members", {"chat": b"%d" % number})
                seen += receive(mine, 1)
            own = [entry for entry in seen if isinstance(entry, bytes) and entry.startswith(b"%d." % os.getpid())]
            return [os.getpid(), len(own), len(backend.get("members", "chat")) >= 2, len(page(backend).entries) > count]

        pids, readers = [], []
        for _ in range(children):
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    os.write(writer, json.dumps(work()).encode())
                finally:
                    os._exit(0)
            os.close(writer)
            pids.append(pid)
            readers.append(reader)
            send(backend, b"parent")
        answers = []
        for pid, reader in zip(pids, readers, strict=True):
            os.waitpid(pid, 0)
            with open(reader, "rb") as answer:
                answers.append(json.loads(answer.read()))
        # Some of its own may be read after the last of its waits.
        assert [(pid, own > 0, numbers, entries) for pid, own, numbers, entries in answers] == [
            (pid, True, True, True) for pid in pids
        ]
        total = 1 + children + children * count
        found = receive(feed, total)
        assert "lost" not in found
        assert found == payloads(page(backend))
        assert [entry.offset for entry in page(backend).entries] == list(range(1, total + 1))
        for pid in pids:
            mine = [entry for entry in found if isinstance(entry, bytes) and entry.startswith(b"%d." % pid)]
            assert mine == [b"%d.%d" % (pid, number) for number in range(count)]
        assert backend.get("members", "chat") == [b"1"]
        check = sqlite3.connect(file_of(directory))
        assert check.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        check.close()

    def test_parent_that_closes_leaves_the_log_to_its_child(self, directory: Path) -> None:
        """A child that took its parent's locks for its own would hold none, and the parent, as the last process, would
        delete the write-ahead log that the child goes on to write.
        """
        backend = SqliteBackend(directory)
        send(backend, b"before")
        (read_turn, turn), (read_done, done) = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                for _ in range(2):
                    os.read(read_turn, 1)
                    send(backend, b"child")
                    os.write(done, b"x")
            finally:
                os._exit(0)
        os.write(turn, b"x")
        os.read(read_done, 1)
        backend.close()
        os.write(turn, b"x")
        os.read(read_done, 1)
        os.waitpid(pid, 0)
        for end in (read_turn, turn, read_done, done):
            os.close(end)
        send(backend, b"after")
        assert payloads(page(backend)) == [b"before", b"child", b"child", b"after"]
        backend.close()

    def test_feed_of_the_parent_is_closed_in_the_child(self, backend: SqliteBackend, feed: SqliteFeed) -> None:
        """It gives nothing there, and goes on in the parent."""
        before = len(os.listdir("/proc/self/fd"))
        assert before > 0

        def work() -> list[object]:
            sockets = [path for path in map(descriptor, os.listdir("/proc/self/fd")) if "socket" in path]
            return [list(feed.wait(0.1)), len(sockets)]

        sockets = [path for path in map(descriptor, os.listdir("/proc/self/fd")) if "socket" in path]
        found = in_a_fork(work)
        send(backend, b"one")
        assert receive(feed, 1) == [b"one"]
        assert found == [[], len(sockets) - 3]  # the feed's two, and the one that publishers send with

    def test_records_of_a_parent_end_with_the_parent(self, directory: Path, backend: SqliteBackend) -> None:
        """Its lock is not kept by a child that lives on."""

        def work() -> int:
            inner = Calls(str(directory), 60)
            inner.put("members", "chat", 7)
            pid = os.fork()
            if pid == 0:
                for name in os.listdir("/proc/self/fd"):
                    if descriptor(name).startswith("pipe:"):
                        os.close(int(name))  # the test reads it to its end
                time.sleep(20)
                os._exit(0)
            return pid

        grandchild = in_a_fork(work)
        assert isinstance(grandchild, int)
        try:
            assert backend.get("members", "chat") == []
        finally:
            os.kill(grandchild, signal.SIGKILL)  # its parent has ended

    def test_fork_while_a_thread_publishes(self, backend: SqliteBackend) -> None:
        """The child can publish, and the thread misses nothing."""
        done = threading.Event()
        sent = []

        def work() -> None:
            while not done.is_set():
                sent.append(send(backend, b"thread"))

        thread = threading.Thread(target=work)
        thread.start()
        try:
            answers = [in_a_fork(lambda: [*(send(backend, b"child") or ())]) for _ in range(20)]
        finally:
            done.set()
            thread.join()
        offsets = sorted([position.offset for position in sent if position] + [answer[1] for answer in answers])  # type: ignore[index]
        assert offsets == list(range(1, len(offsets) + 1))

    def test_several_threads_fork_at_the_same_time(self, backend: SqliteBackend) -> None:
        """Each releases what it has locked itself."""
        answers: list[object] = []

        def work() -> None:
            for _ in range(10):
                answers.append(in_a_fork(lambda: [*(send(backend, b"child") or ())]))
                send(backend, b"thread")

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({tuple(answer) for answer in answers if isinstance(answer, list)}) == 30
        assert [entry.offset for entry in page(backend).entries] == list(range(1, 61))


def descriptor(name: str) -> str:
    """What a file descriptor of this process is."""
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except FileNotFoundError:
        return ""


class TestDeleting:
    """What stays, and what goes."""

    def test_stopped_process_reads_on_within_the_retention(self, backend: SqliteBackend, directory: Path) -> None:
        """Whatever the history of a group is, and where it has none."""
        with child(directory) as other:
            other.subscribe("chat", "live")
            other.kill(signal.SIGSTOP)
            for number in range(200):
                send(backend, b"%d" % number, History(size=1, age=1000))
                send(backend, b"%d" % number, None, "live")
            other.kill(signal.SIGCONT)
            assert other.wait(400) == [str(number) for number in range(200) for _ in range(2)]

    def test_process_that_was_stopped_past_the_retention_has_lost(self, directory: Path) -> None:
        """It reports that before anything that it has read after that."""
        backend = SqliteBackend(directory, retention=0.3)
        with child(directory, 0.3) as other:
            other.subscribe("live")
            send(backend, b"before", None, "live")
            assert other.wait(1) == ["before"]
            other.kill(signal.SIGSTOP)
            send(backend, b"missed", None, "live")
            time.sleep(0.4)
            for _ in range(40):
                send(backend, b"after", None, "live")
            other.kill(signal.SIGCONT)
            found = other.wait(41)
        backend.close()
        assert (found[0][0], found[1:]) == ("lost", ["after"] * 40)

    def test_rows_stay_bounded(self, directory: Path) -> None:
        """Each publish deletes more than it adds, once that has expired."""
        backend = SqliteBackend(directory, retention=0.3)
        most, total = 0, 0
        while total < 3000 or total < 4 * most:
            for _ in range(50):
                send(backend, b"x" * 100, None, "live")
                send(backend, b"x" * 100, History(size=5, age=0.1))
            total += 100
            most = max(most, rows(directory))
        backend.close()
        assert total >= 3000

    def test_history_keeps_its_size_for_its_age(self, directory: Path) -> None:
        """What does not belong to it any more is deleted, and the rest stays after the retention."""
        backend = SqliteBackend(directory, retention=0.1)
        history = History(size=10, age=1000)
        for number in range(100):
            send(backend, b"%d" % number, history)
        time.sleep(0.2)
        feed = backend.feed()
        eventually(lambda: sweep(feed) == [] and rows(directory) == 10, "only the history is there")
        assert payloads(page(backend, history)) == [b"%d" % number for number in range(90, 100)]
        feed.close()
        backend.close()

    def test_unused_group_begins_another_epoch(self, backend: SqliteBackend, directory: Path) -> None:
        """A day after the age of its history. One that is read stays."""
        short = History(size=10, age=1)
        first = send(backend, b"old", short)
        used = send(backend, b"old", short, "used")
        with sqlite3.connect(file_of(directory)) as connection:
            connection.execute("UPDATE groups SET touched = touched - 86400 - 61")
            connection.execute("UPDATE log SET at = at - 86400 - 61, expires = expires - 86400 - 61")
        connection.close()
        backend.read([Want("used", short, None, 0)])
        feed = backend.feed()
        sweep(feed)
        feed.close()
        second, still = send(backend, b"new", short), send(backend, b"new", short, "used")
        assert first and second and (second.offset, second.epoch == first.epoch) == (1, False)
        assert used and still == Position(used.epoch, 2)

    def test_file_does_not_keep_the_size_of_a_burst(self, directory: Path) -> None:
        """In /dev/shm it is memory."""
        backend = SqliteBackend(directory, retention=0.1)
        backend.publish([Publish("live", bytes(10_000), None) for _ in range(2000)])
        large = file_of(directory).stat().st_size
        time.sleep(0.2)
        feed = backend.feed()
        eventually(lambda: sweep(feed) == [] and size(directory) < large / 4, "the file shrinks")
        feed.close()
        backend.close()

    def test_oldest_rows_are_deleted_when_there_is_no_room(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before their time; a feed that has not read them is given ``Lost``. The log stays the same one."""
        monkeypatch.setattr(database, "SIZE_LIMIT", 8 * 2**20)
        backend = SqliteBackend(directory)
        first = send(backend, b"one", group="kept")
        feed = backend.feed()
        feed.subscribe(["live"])
        for _ in range(1200):
            send(backend, bytes(10_000), None, "live")
        assert rows(directory) < 8 * 2**20 / 10_000 + 100
        assert receive(feed, 1)[0] == "lost"
        assert first and send(backend, b"two", group="kept") == Position(first.epoch, 2)
        feed.close()
        backend.close()


class TestDamage:
    """What is damaged, removed or locked is begun anew, or reported."""

    @pytest.mark.parametrize("what", ["file", "directory"])
    def test_removed_log_begins_anew(
        self, backend: SqliteBackend, feed: SqliteFeed, directory: Path, caplog: pytest.LogCaptureFixture, what: str
    ) -> None:
        """In every process, with other epochs; feeds are given ``Lost`` and go on."""
        with child(directory) as other:
            other.subscribe("chat")
            other.put("members", "chat", 3)
            first = send(backend, b"one")
            assert (receive(feed, 1), other.wait(1)) == ([b"one"], ["one"])
            if what == "file":
                file_of(directory).unlink()
            else:
                shutil.rmtree(directory)
            second = send(backend, b"two")
            third = other.publish("chat", ["three"])[0]
            assert first and second and (second.offset, third[1]) == (1, 2)
            assert second.epoch == third[0] != first.epoch
            assert receive(feed, 3) == ["lost", b"two", b"three"]
            assert [found if isinstance(found, str) else "lost" for found in other.wait(3)] == ["lost", "two", "three"]
            # Both find each other again: a byte ends a wait.
            other.begin("wait", 1)
            send(backend, b"four")
            assert other.end() == ["four"]
            assert backend.get("members", "chat") == [b"3"]

    def test_subscription_goes_on_in_the_next_log(self, backend: SqliteBackend, directory: Path) -> None:
        """Its entries are numbered from the beginning again."""
        backend.publish([Publish("other", b"x", None) for _ in range(50)])
        feed = backend.feed()
        feed.subscribe(["chat"])
        file_of(directory).unlink()
        send(backend, b"one")
        assert receive(feed, 2) == ["lost", b"one"]
        feed.close()

    def test_replaced_directory_begins_anew(self, backend: SqliteBackend, feed: SqliteFeed, directory: Path) -> None:
        """Also by an older copy, whose offsets would be given out twice."""
        first = send(backend, b"one")
        backup = directory.with_name("backup")
        shutil.copytree(directory, backup, ignore=shutil.ignore_patterns("s-*"))
        send(backend, b"two")
        shutil.rmtree(directory)
        backup.rename(directory)
        third = send(backend, b"three")
        assert first and third and (third.offset, third.epoch != first.epoch) == (1, True)
        assert receive(feed, 2) == ["lost", b"three"]
        assert payloads(page(backend)) == [b"three"]

    @pytest.mark.parametrize("damage", ["header", "pages", "text"])
    def test_corrupt_file_is_put_aside(
        self, backend: SqliteBackend, feed: SqliteFeed, directory: Path, caplog: pytest.LogCaptureFixture, damage: str
    ) -> None:
        """One line in the log; other processes go on with the new one."""
        for _ in range(100):
            send(backend, bytes(1000))
        received = receive(feed, 100)
        assert len(received) == 100
        path = file_of(directory)
        with child(directory) as other:
            other.subscribe("chat")
            backend.close()
            other.close()
            original = path.read_bytes()
            path.write_bytes(DAMAGE[damage](original))
            with caplog.at_level(logging.INFO, LOGGER):
                again = backend.feed()
                again.subscribe(["chat"])
                position = send(backend, b"new")
                assert receive(again, 1)[-1:] == [b"new"]
                other.publish("chat", ["newer"])
            assert position and position.offset == 1
            assert payloads(page(backend)) == [b"new", b"newer"]
            again.close()
        assert (directory / "unusable.db").read_bytes()[:100] == DAMAGE[damage](original)[:100]
        assert [record.levelname for record in caplog.records if "begins anew" in record.message] == ["ERROR"]

    def test_empty_file_begins_anew(
        self, backend: SqliteBackend, directory: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What this package does not make: a file gets its name when it has its tables."""
        send(backend, b"one")
        backend.close()
        file_of(directory).write_bytes(b"")
        with caplog.at_level(logging.INFO, LOGGER):
            send(backend, b"two")
        assert payloads(page(backend)) == [b"two"]
        assert [record.message for record in caplog.records] == [
            f"groups: the log in {directory} begins anew, without its histories: its tables are of version 0"
        ]

    def test_what_a_killed_process_has_begun_is_removed(self, backend: SqliteBackend, directory: Path) -> None:
        """Its process was killed before it had given the file its name."""
        directory.mkdir(mode=0o700)
        for name in ("new-a.db", "new-a.db-journal"):
            (directory / name).write_bytes(b"incomplete")
        send(backend, b"one")
        assert not list(directory.glob("new-*"))
        assert payloads(page(backend)) == [b"one"]

    @pytest.mark.parametrize("when", ["before it is opened", "while it is opened"])
    def test_file_that_is_put_aside_while_another_process_opens_it(
        self, backend: SqliteBackend, directory: Path, monkeypatch: pytest.MonkeyPatch, when: str
    ) -> None:
        """The other one looks for the log again, and does not make a file of the old name."""
        send(backend, b"one")
        backend.close()
        path = file_of(directory)
        check = database.Database.check

        def slow_check(self: database.Database) -> None:
            self.path.unlink()
            check(self)

        if when == "while it is opened":
            monkeypatch.setattr(database.Database, "check", slow_check)
        else:
            path.unlink()
            monkeypatch.setattr(os, "listdir", lambda _: [path.name])
        with pytest.raises(database.BrokenError) as caught:
            database.find(directory, 60)
        assert str(caught.value) == ""
        assert not path.exists()

    def test_corrupt_file_in_use_is_put_aside(
        self, backend: SqliteBackend, feed: SqliteFeed, directory: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What two processes have open, and a feed that waits."""
        with child(directory) as other:
            other.subscribe("chat")
            for _ in range(600):  # with a checkpoint, so that pages are read from the file
                send(backend, bytes(5000))
            assert len(receive(feed, 600)) == 600
            assert len(other.wait(600)) == 600
            path = file_of(directory)
            for name in (path, Path(f"{path}-wal")):
                with open(name, "r+b") as file:
                    file.seek(0)
                    file.write(b"\xa5" * name.stat().st_size)
            with caplog.at_level(logging.INFO, LOGGER):
                position = send(backend, b"new")
                assert position == Position(page(backend).epoch, 1)
                assert receive(feed, 2) == ["lost", b"new"]
            [[lost, _], text] = other.wait(2)
            assert (lost, text) == ("lost", "new")
        assert len([record for record in caplog.records if "begins anew" in record.message]) == 1

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM meta",
            "DROP TABLE groups",
            "UPDATE log SET grp = CAST(x'ff' AS TEXT)",
        ],
        ids=["meta", "table", "text"],
    )
    def test_tables_with_something_else_begin_anew(
        self, backend: SqliteBackend, feed: SqliteFeed, directory: Path, statement: str
    ) -> None:
        """Whether a publisher finds it or a feed."""
        send(backend, b"one")
        connection = sqlite3.connect(file_of(directory))
        connection.executescript(statement)
        connection.close()
        found = []
        while not found or "lost" not in found:
            read_now(feed)
            found += receive(feed, 1, 0.1)
            send(backend, b"two")
        position = send(backend, b"three")
        assert position and position.offset == len(page(backend).entries)

    def test_log_that_another_process_has_begun_meanwhile_is_kept(
        self, backend: SqliteBackend, directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Between this one's check that its file is there, and the error that it finds in it."""
        other = SqliteBackend(directory)
        send(backend, b"old")

        def publish(self: database.Database, batch: list[Publish]) -> list[Position | None]:
            monkeypatch.undo()
            file_of(directory).unlink()
            send(other, b"other")
            raise sqlite3.DatabaseError("database disk image is malformed")

        monkeypatch.setattr(database.Database, "publish", publish)
        with caplog.at_level(logging.INFO, LOGGER):
            send(backend, b"mine")
        assert payloads(page(backend)) == payloads(page(other)) == [b"other", b"mine"]
        assert [record.message for record in caplog.records] == []
        other.close()

    def test_publish_to_a_log_that_was_removed_meanwhile_has_an_unknown_outcome(
        self, backend: SqliteBackend, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Feeds may have read it before they read the next log. It is never published again by itself."""
        send(backend, b"old")

        def publish(self: database.Database, batch: list[Publish]) -> list[Position | None]:
            monkeypatch.undo()
            positions = self.publish(batch)
            file_of(directory).unlink()
            return positions

        monkeypatch.setattr(database.Database, "publish", publish)
        with pytest.raises(UnknownOutcome, match="was removed in the moment"):
            send(backend, b"one")
        send(backend, b"two")
        assert payloads(page(backend)) == [b"two"]

    def test_removed_write_ahead_log_begins_anew(
        self, backend: SqliteBackend, feed: SqliteFeed, directory: Path
    ) -> None:
        """A program that deletes old files has removed a part."""
        send(backend, b"one")
        receive(feed, 1)
        Path(f"{file_of(directory)}-wal").unlink()
        assert sweep(feed) + receive(feed, 1) == ["lost"]
        send(backend, b"two")
        assert receive(feed, 1) == [b"two"]

    def test_process_that_was_removed_from_the_directory_enters_again(
        self, backend: SqliteBackend, feed: SqliteFeed, directory: Path
    ) -> None:
        """Its file and its socket may be deleted alone."""
        backend.put("members", {"chat": b"1"})
        for path in [*directory.glob("p-*"), *directory.glob("s-*")]:
            path.unlink()
        assert backend.get("members", "chat") == []
        sweep(feed)
        assert backend.get("members", "chat") == [b"1"]
        thread = threading.Timer(0.1, send, [backend, b"one"])
        thread.start()
        before = time.monotonic()
        assert receive(feed, 1) == [b"one"]
        assert time.monotonic() - before < 0.8
        thread.join()

    @pytest.mark.parametrize("version", [database.VERSION - 1, database.VERSION + 1])
    def test_another_version(self, backend: SqliteBackend, directory: Path, version: int) -> None:
        """An older log is deleted; a newer one is refused, because its processes go on with it."""
        send(backend, b"one")
        backend.close()
        connection = sqlite3.connect(file_of(directory))
        connection.execute(f"PRAGMA user_version={version}")
        connection.close()
        if version < database.VERSION:
            send(backend, b"two")
            assert payloads(page(backend)) == [b"two"]
        else:
            with pytest.raises(GroupsUnavailable, match=f"tables of version {version}, of a later version"):
                send(backend, b"two")

    def test_host_that_was_started_again_begins_anew(
        self, backend: SqliteBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was committed last may be lost then, and its offsets would be given out twice."""
        first = send(backend, b"one")
        backend.close()
        monkeypatch.setattr(database, "boot_id", lambda: "another")
        second = send(backend, b"two")
        assert first and second and (second.offset, second.epoch != first.epoch) == (1, True)

    def test_locked_log_is_unavailable_and_says_by_whom(
        self,
        backend: SqliteBackend,
        feed: SqliteFeed,
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A process was stopped while it wrote. Reading goes on; the beginning and the end of an outage are logged."""
        send(backend, b"one")
        assert receive(feed, 1) == [b"one"]
        with child(directory) as other, caplog.at_level(logging.INFO, LOGGER):
            other.lock("BEGIN IMMEDIATE")
            other.kill(signal.SIGSTOP)
            for _ in range(3):
                before = time.monotonic()
                with pytest.raises(GroupsUnavailable, match=f"locked by process {other.process.pid}"):
                    send(backend, b"two", timeout=0.3)
                assert 0.3 <= time.monotonic() - before < 2
            assert payloads(page(backend)) == [b"one"]
            assert list(feed.wait(0.1)) == []
            other.kill()
            send(backend, b"three")
        assert receive(feed, 1) == [b"three"]
        assert [(record.levelname, record.message.split(":")[1][:20]) for record in caplog.records] == [
            ("ERROR", " outage (write)"),
            ("WARNING", " the outage (write) "),
        ]

    def test_feed_does_not_spin_while_nothing_can_be_deleted(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A stopped writer is in the way of its sweep, and of no reading."""
        backend = SqliteBackend(directory, retention=0.01)
        feed = backend.feed()
        send(backend, b"expired", None, "live")
        readings = []
        original = database.Database.after
        with child(directory) as other, caplog.at_level(logging.INFO, LOGGER):
            other.lock("BEGIN IMMEDIATE")
            monkeypatch.setattr(database.Database, "after", lambda *them: readings.append(1) or original(*them))
            sweep_now(feed)
            assert list(feed.wait(0.4)) == []
        assert 1 <= len(readings) <= 3
        assert caplog.records == []
        feed.close()
        backend.close()

    def test_waiting_for_a_lock_lets_greenlets_run(self, backend: SqliteBackend, directory: Path) -> None:
        """SQLite's own waiting would block the loop."""
        send(backend, b"one")
        ticks = []
        with child(directory) as other:
            other.lock("BEGIN IMMEDIATE")
            gevent.spawn_later(0.3, other.kill)
            greenlet = gevent.spawn(lambda: [ticks.append(gevent.sleep(0.01)) for _ in range(20)])
            send(backend, b"two")
            greenlet.join()
        assert len(ticks) == 20

    @pytest.mark.parametrize("by", ["feed", "publisher"])
    def test_stopped_reader_does_not_let_the_write_ahead_log_grow(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch, by: str
    ) -> None:
        """Past a limit the log begins anew, without that process."""
        monkeypatch.setattr(database, "SIZE_LIMIT", 2**20)
        backend = SqliteBackend(directory)
        feed = backend.feed()
        feed.subscribe(["chat"])
        first = send(backend, b"one")
        with child(directory) as other:
            other.lock("BEGIN; SELECT * FROM log")
            other.kill(signal.SIGSTOP)
            for _ in range(200):  # a small message costs some pages of it
                send(backend, b"x", None, "live")
            assert size(directory) > 2**20
            if by == "feed":
                assert sweep(feed) == [b"one"]
                assert receive(feed, 1) == ["lost"]
            else:
                for _ in range(100):  # one of 256 finds out
                    send(backend, b"x", None, "live")
                assert receive(feed, 1) == ["lost"]
            second = send(backend, b"two")
            assert receive(feed, 1) == [b"two"]
        assert first and second and first.epoch != second.epoch
        assert size(directory) < 2**20
        feed.close()
        backend.close()

    def test_large_batch_is_no_stopped_reader(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It makes the write-ahead log as large, which is copied then."""
        monkeypatch.setattr(database, "SIZE_LIMIT", 2**20)
        backend = SqliteBackend(directory)
        first = send(backend, b"one")
        for _ in range(3):
            backend.publish([Publish("live", bytes(2**20), None) for _ in range(5)])
        assert first and send(backend, b"two") == Position(first.epoch, 2)
        backend.close()

    def test_full_disk_is_unavailable_and_heals(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """With a real one, of one megabyte."""
        mounted = tmp_path / "small"
        mounted.mkdir(mode=0o700)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", mounted], check=False).returncode:
            pytest.skip("this user may not mount a file system")
        backend = SqliteBackend(mounted / "log")
        try:
            send(backend, b"one")
            filler = mounted / "filler"
            filler.write_bytes(bytes(os.statvfs(mounted).f_bavail * os.statvfs(mounted).f_frsize))
            with caplog.at_level(logging.INFO, LOGGER):
                for _ in range(3):
                    with pytest.raises(GroupsUnavailable, match="bytes are free there"):
                        backend.publish([Publish("chat", bytes(100_000), HISTORY)])
                filler.unlink()
                position = send(backend, b"two")
            assert position and position.offset == 2
            assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
        finally:
            backend.close()
            subprocess.run(["umount", mounted], check=True)

    @pytest.mark.parametrize("limit", ["RLIMIT_FSIZE", "RLIMIT_NOFILE"])
    def test_limit_of_the_process_is_unavailable_and_heals(self, directory: Path, limit: str) -> None:
        """The size of a file, and the number of open ones."""
        number = getattr(resource, limit)

        def work() -> list[object]:
            backend = SqliteBackend(directory)
            if limit == "RLIMIT_FSIZE":
                send(backend, b"one")
            before = resource.getrlimit(number)
            resource.setrlimit(number, (4 if limit == "RLIMIT_NOFILE" else 100_000, before[1]))
            answers: list[object] = []
            for call in (lambda: send(backend, bytes(200_000)), backend.feed):
                try:
                    call()
                except GroupsUnavailable as error:
                    answers.append(str(error))
            resource.setrlimit(number, before)
            send(backend, b"two")
            return [*answers, len(page(backend).entries)]

        found = in_a_fork(work)
        assert isinstance(found, list)
        if limit == "RLIMIT_FSIZE":
            [first, count] = found
            assert "disk I/O error" in first and count == 2
        else:
            [first, second, count] = found
            assert "open" in first and "open" in second and count == 1

    def test_directory_that_cannot_be_used_any_more_is_unavailable_and_heals(
        self, backend: SqliteBackend, feed: SqliteFeed, directory: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A feed waits for it; an outage has two lines in the log, for publishing and for feeds."""
        send(backend, b"one")
        assert receive(feed, 1) == [b"one"]
        shutil.rmtree(directory)
        directory.touch()
        with caplog.at_level(logging.INFO, LOGGER):
            for _ in range(3):
                with pytest.raises(GroupsUnavailable, match="it is no directory; wanted is a directory"):
                    send(backend, b"two")
                read_now(feed)
                assert list(feed.wait(0.05)) == []
            directory.unlink()
            send(backend, b"three")
            assert receive(feed, 2) == ["lost", b"three"]
        kinds = [(record.levelname, record.message.partition(")")[0].partition("(")[2]) for record in caplog.records]
        assert kinds == [("ERROR", "write"), ("ERROR", "read"), ("WARNING", "write"), ("WARNING", "read")]

    @pytest.mark.parametrize("jump", [-1e6, 1e6])
    def test_clock_that_is_set_makes_no_difference(
        self, backend: SqliteBackend, feed: SqliteFeed, monkeypatch: pytest.MonkeyPatch, jump: float
    ) -> None:
        """Nothing expires, and nothing lives longer."""
        send(backend, b"one", History(size=5, age=30))
        original = time.time
        monkeypatch.setattr(time, "time", lambda: original() + jump)
        for number in range(40):
            send(backend, b"%d" % number, History(size=5, age=30))
        assert len(receive(feed, 41)) == 41
        assert sweep(feed) == []
        assert payloads(page(backend, History(size=5, age=30))) == [b"35", b"36", b"37", b"38", b"39"]

    def test_interpreter_that_ends_while_a_daemon_thread_publishes(self, directory: Path) -> None:
        """No crash, no traceback, and no file of the process is left."""
        script = (
            "import threading, time; from gws_middleware.groups.backends.sqlite import SqliteBackend as B\n"
            "from gws_middleware.groups.backends.base import TIMEOUT, Publish\n"
            "from gws_middleware.groups.errors import GroupsUnavailable\n"
            f"backend = B({str(directory)!r}); feed = backend.feed(); feed.subscribe(['a'])\n"
            "def work():\n"
            "    try:\n"
            "        while True: backend.publish([Publish('a', b'1', None)])\n"
            "    except GroupsUnavailable: pass\n"
            "def read():\n"
            "    while True: feed.wait(1)\n"
            "for target in (work, work, read): threading.Thread(target=target, daemon=True).start()\n"
            "time.sleep(0.3)\n"
        )
        ended = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        assert sorted(path.suffix for path in directory.iterdir()) == ["", ".db"]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "header": lambda content: b"\xa5" * 100 + content[100:],
    "pages": lambda content: content[:4096] + b"\xa5" * (len(content) - 4096),
    "text": lambda content: b"This is not a database. " * 500,
}


class TestClose:
    def test_close_ends_the_waits_of_feeds(self, backend: SqliteBackend, feed: SqliteFeed, directory: Path) -> None:
        """Nothing waits for what cannot come."""
        left: list[Path] = []

        def close() -> None:
            backend.close()
            left.extend(directory.glob("s-*"))

        gevent.spawn_later(0.1, close)
        before = time.monotonic()
        assert list(feed.wait(None)) == []
        assert time.monotonic() - before < 3
        assert left == []  # also before wait() had returned

    def test_close_in_another_thread_ends_a_wait(self, backend: SqliteBackend, feed: SqliteFeed) -> None:
        """The socket stays open as long as it is waited for."""
        thread = threading.Timer(0.1, feed.close)
        thread.start()
        assert list(feed.wait(10)) == []
        thread.join()

    def test_close_leaves_no_file_of_the_process(
        self, backend: SqliteBackend, feed: SqliteFeed, directory: Path
    ) -> None:
        """And no descriptor."""
        send(backend, b"one")
        backend.close()
        assert sorted(path.suffix for path in directory.iterdir()) == ["", ".db"]
        assert [name for name in map(descriptor, os.listdir("/proc/self/fd")) if str(directory) in name] == []


def sweep(feed: SqliteFeed) -> list[bytes | str]:
    """Let a feed do at once what it does every few seconds; what it gives then."""
    sweep_now(feed)
    return receive(feed, 1, 0.02)


def rows(directory: Path) -> int:
    return count_of(directory, "SELECT count(*) FROM log")


def count_of(directory: Path, query: str) -> int:
    connection = sqlite3.connect(file_of(directory))
    (found,) = connection.execute(query).fetchone()
    connection.close()
    return int(found)


def size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir() if path.name.startswith("log-"))


def test_number_of_a_killed_process_is_removed_where_nothing_buries(tmp_path: Path) -> None:
    """E.g. limits of a site whose connections join no group: it counts no more, and its row does not stay."""
    script = "import sys; from gws_middleware.groups.backends.sqlite import SqliteBackend as B; b = B(sys.argv[1]); "
    script += "b.exchange('slots', 'site', b'7'); print('put', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(tmp_path / "log")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"put\n"
        backend = SqliteBackend(tmp_path / "log")
        assert sorted(backend.exchange("slots", "site", b"1")) == [b"1", b"7"]
        process.kill()
        process.wait()
        assert backend.exchange("slots", "site", b"1") == [b"1"]
        assert backend.bury() == []
        backend.close()
