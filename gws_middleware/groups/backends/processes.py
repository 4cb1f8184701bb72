"""The processes that share a directory: which are living, and how one lets the others read.

=====================  =====================================================================================
file                   is
=====================  =====================================================================================
``p-<process>``        locked (``flock``) while the process lives; the kernel releases it, however that ends
``s-<process>-<n>``    a datagram socket of a feed; a byte that arrives means: read the log
=====================  =====================================================================================

Rule 1: nothing here waits. Rule 2: a file is removed by the process that made it, or after its lock was found free. A
process is a random name that is never used again, because two containers can have processes with the same number.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import secrets
import time
from pathlib import Path

__all__ = ["Process", "Siblings", "is_living", "new_name", "remove"]

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_FRESH = 0.1
"""Seconds for which a directory's time does not show that it has changed again: clocks of file systems are coarse."""


def new_name() -> str:
    """Eight random letters and digits."""
    return "".join(secrets.choice(_LETTERS) for _ in range(8))


class Process:
    """This process in the directory, until ``close()``.

    Raises:
        OSError: Its file cannot be made.

    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        while True:
            self.name = new_name()
            self._path = directory / f"p-{self.name}"
            self._lock = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self.exists():
                    return
            except BlockingIOError:
                pass  # another process examines it, and then removes it
            os.close(self._lock)

    def exists(self) -> bool:
        """Whether others can find this process: its file may have been deleted, with the directory or alone."""
        try:
            found = os.stat(self._path)
        except OSError:
            return False
        return os.path.samestat(found, os.fstat(self._lock))

    def close(self) -> None:
        """Remove the file."""
        if self.exists():
            os.unlink(self._path)
        os.close(self._lock)

    def abandon(self) -> None:
        """Close what a forked child has of its parent's; the parent keeps its lock."""
        os.close(self._lock)


def is_living(directory: Path, name: str) -> bool:
    """Whether the process with this name lives."""
    try:
        file = os.open(directory / f"p-{name}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two that examine it at the same time do not take each other for the process.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def remove(path: Path | str) -> None:
    """Remove a file; it may be missing."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


class Siblings:
    """The sockets of all feeds in the directory, those of this process among them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: int | None = None
        """When the directory had changed last, as the list was made; None where the list may be out of date."""
        self._sockets: list[str] = []
        self._sender = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        self._sender.setblocking(False)

    def wake(self) -> None:
        """Let all feeds read. What cannot be delivered is not needed: a feed reads once a second without it.

        Raises:
            OSError: The directory cannot be read.

        """
        changed = os.stat(self._directory).st_mtime_ns
        if changed != self._seen:
            self._sockets = [str(self._directory / name) for name in self._names() if name.startswith("s-")]
            self._seen = changed if time.time() - changed / 1e9 > _FRESH else None
        for path in self._sockets:
            try:
                self._sender.sendto(b"\0", path)
            except (ConnectionRefusedError, FileNotFoundError):
                remove(path)  # its process was killed; the list is made again, because the directory changes
            except OSError:
                pass  # BlockingIOError: it has bytes to read, and so is awake

    def clean(self) -> None:
        """Remove the files of processes that live no more.

        Raises:
            OSError: The directory cannot be read or written.

        """
        names = self._names()
        for name in names:
            if name.startswith("p-") and not is_living(self._directory, name[2:]):
                remove(self._directory / name)
                for socket in names:
                    if socket.startswith(f"s-{name[2:]}-"):
                        remove(self._directory / socket)

    def close(self) -> None:
        """Close the socket that sends."""
        self._sender.close()

    def _names(self) -> list[str]:
        return os.listdir(self._directory)
