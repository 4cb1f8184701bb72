"""Which processes are living, and the byte that lets them read."""

from __future__ import annotations

import _socket
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gws_middleware.groups.backends.processes import Process, Siblings, is_living


@pytest.fixture
def siblings(tmp_path: Path) -> Iterator[Siblings]:
    made = Siblings(tmp_path)
    yield made
    made.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def listener(stack: ExitStack, path: Path) -> _socket.socket:
    """A socket of a feed."""
    made = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
    stack.callback(made.close)
    made.setblocking(False)
    made.bind(str(path))
    return made


def bytes_of(socket: _socket.socket) -> int:
    """How many datagrams have come."""
    count = 0
    try:
        while socket.recv(10) == b"\0":
            count += 1
    except BlockingIOError:
        pass
    return count


class TestProcess:
    def test_process_lives_until_it_is_closed(self, tmp_path: Path) -> None:
        """Its file is removed then."""
        process = Process(tmp_path)
        assert is_living(tmp_path, process.name)
        process.close()
        assert not is_living(tmp_path, process.name)
        assert list(tmp_path.iterdir()) == []

    def test_process_that_is_examined_twice_at_a_time_is_dead_for_both(self, tmp_path: Path) -> None:
        """They do not take each other for it."""
        path = tmp_path / "p-dead"
        path.touch()
        with open(path) as examined:
            fcntl.flock(examined, fcntl.LOCK_SH)
            assert not is_living(tmp_path, "dead")

    def test_file_that_was_removed_while_it_was_made_is_made_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another process has examined it between its opening and its lock."""
        removed = []

        def flock(file: int, operation: int) -> None:
            if not removed:
                [path] = tmp_path.iterdir()
                path.unlink()
                removed.append(path.name[2:])
            original(file, operation)

        original = fcntl.flock
        monkeypatch.setattr(fcntl, "flock", flock)
        process = Process(tmp_path)
        assert process.name != removed[0]
        assert is_living(tmp_path, process.name)
        process.close()

    def test_process_whose_file_was_replaced_is_not_found(self, tmp_path: Path) -> None:
        """It does not remove what is not its own."""
        process = Process(tmp_path)
        path = tmp_path / f"p-{process.name}"
        path.unlink()
        assert not process.exists()
        path.touch()
        assert not process.exists()
        process.close()
        assert path.exists()


class TestSiblings:
    def test_each_feed_gets_a_byte(self, siblings: Siblings, stack: ExitStack, tmp_path: Path) -> None:
        """Those that came later, too."""
        first = listener(stack, tmp_path / "s-one-0")
        os.utime(tmp_path, (1, 1))  # it has not changed for long
        siblings.wake()
        second = listener(stack, tmp_path / "s-two-0")
        siblings.wake()
        assert (bytes_of(first), bytes_of(second)) == (2, 1)

    def test_feed_that_came_in_the_same_tick_of_the_clock_gets_a_byte(
        self, siblings: Siblings, stack: ExitStack, tmp_path: Path
    ) -> None:
        """Then the time of the directory is the same as before."""
        siblings.wake()
        before = tmp_path.stat()
        late = listener(stack, tmp_path / "s-late-0")
        os.utime(tmp_path, ns=(before.st_atime_ns, before.st_mtime_ns))
        siblings.wake()
        assert bytes_of(late) == 1

    def test_list_is_not_made_again_where_nothing_has_changed(
        self, siblings: Siblings, stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It would cost more than the bytes."""
        feed = listener(stack, tmp_path / "s-one-0")
        os.utime(tmp_path, (1, 1))
        siblings.wake()
        monkeypatch.setattr(os, "listdir", lambda path: pytest.fail("the directory was read again"))
        siblings.wake()
        assert bytes_of(feed) == 2

    def test_feed_that_does_not_read_delays_nothing(self, siblings: Siblings, stack: ExitStack, tmp_path: Path) -> None:
        """Its socket is full, so it is awake already."""
        slow, other = listener(stack, tmp_path / "s-slow-0"), listener(stack, tmp_path / "s-other-0")
        for _ in range(1000):
            siblings.wake()
            assert bytes_of(other) == 1
        assert 0 < bytes_of(slow) < 1000

    def test_socket_of_a_killed_process_is_removed(self, siblings: Siblings, stack: ExitStack, tmp_path: Path) -> None:
        """When it is found that no process has it; others are kept."""
        listener(stack, tmp_path / "s-dead-0").close()
        feed = listener(stack, tmp_path / "s-one-0")
        siblings.wake()
        assert [path.name for path in tmp_path.iterdir()] == ["s-one-0"]
        assert bytes_of(feed) == 1

    def test_clean_removes_the_files_of_dead_processes_alone(
        self, siblings: Siblings, stack: ExitStack, tmp_path: Path
    ) -> None:
        """Never those of a living one."""
        process = Process(tmp_path)
        listener(stack, tmp_path / f"s-{process.name}-0")
        (tmp_path / "p-dead").touch()
        listener(stack, tmp_path / "s-dead-0")
        siblings.clean()
        assert {path.name for path in tmp_path.iterdir()} == {f"p-{process.name}", f"s-{process.name}-0"}
        process.close()

    def test_directory_that_was_removed_is_reported(self, siblings: Siblings, tmp_path: Path) -> None:
        """The caller knows what that means."""
        tmp_path.rmdir()
        with pytest.raises(FileNotFoundError):
            siblings.wake()
