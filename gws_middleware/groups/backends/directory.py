"""The directory of the sqlite backend: which one, and whether it may be used.

Rule: it belongs to this user alone, on a disk of this host. Anything else is GroupsUnavailable, which says what was
found and what is wanted; nothing is mended that may be another user's.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ..errors import GroupsUnavailable

__all__ = ["LONGEST_NAME", "automatic", "file_system", "prepare"]

LONGEST_NAME = 16
"""Characters of the name of a socket in the directory."""

_LONGEST_PATH = 107 if os.path.exists("/proc/self") else 103
"""Bytes of the path of a unix socket: ``sun_path`` of Linux, and of BSD and macOS, without the zero at the end."""
_BASES = ("/dev/shm",)
_EFFECTIVE = {"effective_ids": os.access in os.supports_effective_ids}
_NETWORK = {"9p", "afs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "smb3", "smbfs", "virtiofs"}
"""File systems on which other hosts write, or whose locks and shared memory are not those of this kernel."""


def automatic(project: Path | str, bases: Iterable[Path | str] | None = None) -> Path:
    """The directory of a project where none was configured: ``gws-<uid>-<hash>``.

    All processes of a project have to find the same one. So it depends on the user and the project's directory, and as
    little as possible on the environment: a service has not that of a login session.

    Args:
        project: The directory of the project, the same in all its processes.
        bases: Where to put it, the first that can be written; by default ``/dev/shm``, ``$XDG_RUNTIME_DIR`` and the
            directory for temporary files.

    Raises:
        GroupsUnavailable: There is no directory to put it in.

    """
    candidates = [
        Path(base) for base in bases or (*_BASES, os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir())
    ]
    digest = hashlib.sha256(os.fsencode(os.path.realpath(project))).hexdigest()[:12]
    for base in candidates:
        if base.is_absolute() and base.is_dir() and os.access(base, os.W_OK | os.X_OK, **_EFFECTIVE):
            return base / f"gws-{os.geteuid()}-{digest}"
    names = ", ".join(map(str, dict.fromkeys(candidates)))
    raise GroupsUnavailable(
        f"no directory for the groups of {project}: none of {names} is a directory that can be written; "
        "wanted is one, or one that is configured as sqlite:///absolute/path"
    )


def prepare(path: Path) -> None:
    """Make the directory where it is missing, and check it.

    Raises:
        GroupsUnavailable: It cannot be used.

    """
    if not path.is_absolute():
        raise _refused(path, "it is relative", "an absolute path")
    length = len(os.fsencode(path)) + 1 + LONGEST_NAME
    if length > _LONGEST_PATH:
        room = _LONGEST_PATH - 1 - LONGEST_NAME
        raise _refused(path, f"it has {length - 1 - LONGEST_NAME} bytes", f"at most {room}, for the sockets in it")
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise _refused(
            path, f"it cannot be made: {error.strerror}", f"a directory {path.parent} to make it in"
        ) from None
    try:
        found = os.lstat(path)
    except OSError as error:
        raise _refused(path, f"it cannot be examined: {error.strerror}", "a directory") from None
    if stat.S_ISLNK(found.st_mode):
        raise _refused(path, "it is a symbolic link", "the directory itself")
    if not stat.S_ISDIR(found.st_mode):
        raise _refused(path, "it is no directory", "a directory, in which the log and the sockets are")
    if found.st_uid != os.geteuid():
        raise _refused(path, f"it belongs to uid {found.st_uid}", f"one of uid {os.geteuid()}, which this process has")
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise _refused(path, f"its mode {mode:04o} lets other users in", "0700")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK, **_EFFECTIVE):
        raise _refused(path, "it cannot be written", "a directory on a file system that can be written, of mode 0700")
    kind = file_system(found.st_dev)
    if kind in _NETWORK or kind.startswith("fuse."):
        raise _refused(path, f"it is on a file system of type {kind}", "one of this host's own disks, or /dev/shm")


def _refused(path: Path, found: str, wanted: str) -> GroupsUnavailable:
    return GroupsUnavailable(f"groups cannot use the directory {path}: {found}; wanted is {wanted}")


def file_system(device: int) -> str:
    """The type of the file system with this number; empty where that cannot be found out."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                fields, _, rest = line.partition(" - ")
                if fields.split()[2] == number:
                    return rest.split()[0]
    except (OSError, IndexError):
        pass
    return ""
