"""What a process has used, as the kernel counts it (Linux), and which core it runs on."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = [
    "Cores",
    "allow_files",
    "cpu_seconds",
    "pinned",
    "resident_bytes",
    "stolen_seconds",
    "too_many_files",
    "waited_seconds",
    "waits",
]


def cpu_seconds(pid: int) -> float:
    """CPU time of a process: user and system, all its threads, also those that have ended, to the nanosecond.

    This is the clock of clock_getcpuclockid(3). Unlike /proc/<pid>/stat it does not count in ticks of 10 ms,
    and unlike /proc/<pid>/schedstat it does not leave out the other threads.
    """
    return time.clock_gettime_ns((~pid << 3) | 2) / 1e9


def waits(*pids: int) -> dict[str, int]:
    """How long each thread of these processes was ready to run and had to wait for a core, in nanoseconds, so far."""
    found = {}
    for task in (task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            found[task.name] = int((task / "schedstat").read_text().split()[1])
    return found


def waited_seconds(before: dict[str, int], after: dict[str, int]) -> float:
    """What the process has waited between two ``waits()``, because of other processes. A thread that has ended
    in between is not counted, and does not reduce the sum.
    """
    return sum(count - before.get(thread, 0) for thread, count in after.items()) / 1e9


def stolen_seconds() -> float:
    """How long a core of this machine, on average, was not available because the hypervisor ran something else."""
    total = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(total[8]) / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)


def resident_bytes(pid: int) -> int:
    """Resident memory; its private part alone also grows when a page shared with the arbiter is written."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no Rss in /proc/{pid}/smaps_rollup")


class Cores:
    """One core for the server, another for the load generator; with one core in all, no choice."""

    def __init__(self) -> None:
        self._all = os.sched_getaffinity(0)
        self.apart = len(self._all) > 1

    @property
    def load(self) -> set[int]:
        return {min(self._all)} if self.apart else self._all

    @property
    def server(self) -> set[int]:
        return {max(self._all)} if self.apart else self._all


@contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """Keep this process on ``cores`` for a ``with`` block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def too_many_files(count: int) -> str | None:
    """Why so many files cannot be open, or None."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= count:
        return None
    return f"{count} open files are needed and `ulimit -Hn` allows {hard}: raise it or use a smaller --scale"


def allow_files(count: int) -> None:
    """Raise the limit of open files, which the servers inherit, to at least ``count``."""
    if reason := too_many_files(count):
        raise OSError(reason)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
