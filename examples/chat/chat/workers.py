"""Which of the worker processes this is, for the footer of the page.

Each worker holds the lock of one file beside the database. The kernel releases it when the process ends, however that
happens. The file contains the process id.
"""

from __future__ import annotations

import fcntl
import os
from itertools import count
from pathlib import Path
from typing import BinaryIO

from django.conf import settings

_held: tuple[int, BinaryIO] | None = None


def claim() -> None:
    """Take the lowest number that no other worker has; called once, after the fork."""
    global _held
    for number in count(1):
        file = _path(number).open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        file.truncate(0)
        file.write(b"%d\n" % os.getpid())
        file.flush()
        _held = number, file
        return


def rank() -> dict[str, int]:
    """The rank of this worker among those that run, and how many do. While new workers replace old ones, both count."""
    number = 1 if _held is None else _held[0]
    running = [other for other in _numbers() if other == number or _is_held(other)]
    return {"number": sum(other <= number for other in running), "of": len(running)}


def _path(number: int) -> Path:
    database: Path = settings.DATABASE
    return database.with_suffix(f".worker-{number}.lock")


def _numbers() -> list[int]:
    found = settings.DATABASE.parent.glob(f"{settings.DATABASE.stem}.worker-*.lock")
    return sorted(int(path.stem.rpartition("-")[2]) for path in found)


def _is_held(number: int) -> bool:
    with _path(number).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that two that look do not see each other
        except BlockingIOError:
            return True
    return False
