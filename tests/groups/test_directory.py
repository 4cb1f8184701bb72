"""Which directory the log is in, and which are refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gws_middleware.groups.backends import directory
from gws_middleware.groups.backends.base import Publish
from gws_middleware.groups.backends.directory import automatic, prepare
from gws_middleware.groups.backends.sqlite import SqliteBackend
from gws_middleware.groups.errors import GroupsUnavailable

from .child import ROOT

OTHER_USER = 12345


class TestAutomatic:
    def test_directory_is_of_the_user_and_the_project(self, tmp_path: Path) -> None:
        """The same in all processes, another one for each project."""
        first, again = automatic(tmp_path / "a", [tmp_path]), automatic(str(tmp_path / "a"), [tmp_path])
        second = automatic(tmp_path / "b", [tmp_path])
        assert first == again != second
        assert first.parent == tmp_path and first.name.startswith(f"gws-{os.geteuid()}-")

    def test_project_is_the_same_by_a_symbolic_link(self, tmp_path: Path) -> None:
        """A deploy may point a link to the current release, and a process start in either."""
        (tmp_path / "release").mkdir()
        (tmp_path / "current").symlink_to("release")
        assert automatic(tmp_path / "current", [tmp_path]) == automatic(tmp_path / "release", [tmp_path])

    def test_first_base_that_can_be_used_is_taken(self, tmp_path: Path) -> None:
        """Not one that is missing, relative or a file."""
        file = tmp_path / "file"
        file.touch()
        assert automatic("/srv/site", [tmp_path / "missing", "relative", file, tmp_path]).parent == tmp_path

    def test_without_any_it_is_unavailable(self, tmp_path: Path) -> None:
        """It says which ones, and what to configure."""
        with pytest.raises(GroupsUnavailable, match=f"none of {tmp_path}/missing is .* sqlite:///absolute/path"):
            automatic("/srv/site", [tmp_path / "missing"])

    @pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="this system has no /dev/shm")
    def test_environment_of_a_login_session_makes_no_difference(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A service has none, and a command in a shell has to reach its workers."""
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        of_a_service = automatic("/srv/site")
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        assert automatic("/srv/site") == of_a_service

    def test_backend_without_a_directory_uses_it(self, tmp_path: Path) -> None:
        """Two backends of one project have one log; it is found when it is first used."""
        first, second = SqliteBackend(project=tmp_path), SqliteBackend(project=tmp_path)
        place = automatic(tmp_path)
        assert not place.exists()
        try:
            feed = first.feed()
            feed.subscribe(["chat"])
            second.publish([Publish("chat", b"one", None)])
            assert len(feed.wait(5)) == 1
            assert place.is_dir()
        finally:
            for backend in (first, second):
                backend.close()
            shutil.rmtree(place)


class TestPrepare:
    def test_directory_is_made_for_this_user_alone(self, tmp_path: Path) -> None:
        """Whatever the umask is."""
        before = os.umask(0)
        try:
            prepare(tmp_path / "log")
        finally:
            os.umask(before)
        assert (tmp_path / "log").stat().st_mode & 0o777 == 0o700

    def test_directory_that_is_there_is_used(self, tmp_path: Path) -> None:
        """As ``RuntimeDirectory=`` of systemd makes one, with ``RuntimeDirectoryMode=0700``."""
        (tmp_path / "log").mkdir(mode=0o700)
        prepare(tmp_path / "log")
        assert list(tmp_path.iterdir()) == [tmp_path / "log"]

    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (lambda path: path.symlink_to("/tmp"), "it is a symbolic link; wanted is the directory itself"),
            (lambda path: path.symlink_to("missing"), "it is a symbolic link; wanted is the directory itself"),
            (lambda path: path.touch(), "it is no directory; wanted is a directory, in which"),
            (lambda path: path.mkdir(mode=0o755), "its mode 0755 lets other users in; wanted is 0700"),
            (lambda path: path.mkdir(mode=0o710), "its mode 0710 lets other users in; wanted is 0700"),
        ],
        ids=["link", "broken-link", "file", "readable", "searchable"],
    )
    def test_unsafe_directory_is_refused(self, tmp_path: Path, make: object, text: str) -> None:
        """What was found, and what is wanted; nothing is changed."""
        path = tmp_path / "log"
        make(path)  # type: ignore[operator]
        before = path.lstat()
        with pytest.raises(GroupsUnavailable, match=f"directory {path}: {text}"):
            prepare(path)
        assert path.lstat().st_mode == before.st_mode

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
    def test_directory_of_another_user_is_refused(self, tmp_path: Path) -> None:
        """It may have been made in /dev/shm in advance."""
        path = tmp_path / "log"
        path.mkdir(mode=0o700)
        os.chown(path, OTHER_USER, OTHER_USER)
        with pytest.raises(GroupsUnavailable, match=f"it belongs to uid {OTHER_USER}; wanted is one of uid 0"):
            prepare(path)

    def test_relative_path_is_refused(self) -> None:
        """Processes have different working directories."""
        with pytest.raises(GroupsUnavailable, match="directory log: it is relative; wanted is an absolute path"):
            prepare(Path("log"))

    def test_missing_parent_is_refused(self, tmp_path: Path) -> None:
        """A misspelt path is not made."""
        path = tmp_path / "missing" / "log"
        wanted = f"it cannot be made: No such file or directory; wanted is a directory {tmp_path}/missing to make it in"
        with pytest.raises(GroupsUnavailable, match=wanted):
            prepare(path)
        assert not path.parent.exists()

    def test_path_that_is_too_long_for_a_socket_is_refused(self, tmp_path: Path) -> None:
        """The longest one that is not refused can be used."""
        base = str(tmp_path)
        longest = tmp_path / ("x" * (107 - 1 - directory.LONGEST_NAME - len(base) - 1))
        backend = SqliteBackend(longest)
        backend.feed().close()
        backend.close()
        with pytest.raises(GroupsUnavailable, match="it has 91 bytes; wanted is at most 90, for the sockets in it"):
            prepare(Path(f"{longest}x"))

    def test_read_onlyfile_system_is_refused(self, mount: Path) -> None:
        """Also for root."""
        (mount / "log").mkdir(mode=0o700)
        subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
        with pytest.raises(GroupsUnavailable, match="it cannot be written; wanted is a directory on a file system"):
            prepare(mount / "log")
        with pytest.raises(GroupsUnavailable, match="it cannot be made: Read-only file system"):
            prepare(mount / "other")

    @pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs"])
    def test_networkfile_system_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        """Other hosts write there, without this host's locks and shared memory."""
        monkeypatch.setattr(directory, "file_system", lambda device: kind)
        with pytest.raises(GroupsUnavailable, match=f"a file system of type {kind}; wanted is one of this host's own"):
            prepare(tmp_path / "log")

    @pytest.mark.skipif(not os.path.exists("/proc/self/mountinfo"), reason="this system has no /proc/self/mountinfo")
    def test_type_of_afile_system_is_found(self, mount: Path) -> None:
        """By the number of its device."""
        assert directory.file_system(mount.stat().st_dev) == "tmpfs"
        assert directory.file_system(os.makedev(4000, 1)) == ""

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
    def test_user_without_rights_is_refused(self, tmp_path: Path) -> None:
        """In a process that is not root: the parent cannot be written."""
        script = (
            "import os; from pathlib import Path; from gws_middleware.groups.backends.directory import prepare\n"
            f"os.setgid({OTHER_USER}); os.setuid({OTHER_USER})\n"
            "prepare(Path('/usr/gws-test'))"
        )
        ended = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert (
            "GroupsUnavailable: groups cannot use the directory /usr/gws-test: it cannot be made: Permission denied"
            in (ended.stderr)
        )


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    path = tmp_path / "mount"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", path], check=False).returncode:
        pytest.skip("this user may not mount a file system")
    yield path
    subprocess.run(["umount", path], check=True)
