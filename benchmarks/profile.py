"""Where the time of a server goes: ``python -m benchmarks.profile --scenarios 1x64B --servers ours,picows``.

Each server does the work of each scenario once for each tool of Linux, which observes its processes meanwhile:

* ``perf record``: shares of the CPU time, by shared object and by function.
* ``perf stat``: page faults and switches of context for each message; instructions where the machine can count them.
* ``strace -c``: system calls for each message.

A server that is observed is slower, with strace many times: for its speed there is ``benchmarks.echo``.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from .echo import Progress, open_files
from .frames import WrongReplyError
from .kinds import Scale, Scenario
from .launch import SERVERS, Fleet, Server, ServerError
from .meters import Cores, allow_files, pinned
from .results import names
from .scenarios import SCENARIOS

__all__ = ["TOOLS", "ProfileError", "Table", "Tool", "absence", "main", "render"]

_ATTACH_WITHIN = 10.0
_SMALLEST_SHARE = 0.5
"""Per cent of the CPU time from which on an object or a function has a row."""
_FUNCTIONS = 20
"""Rows of functions at most."""
_SMALLEST_COUNT = 0.005
"""Times for each message from which on a system call has a row."""


class ProfileError(Exception):
    """A tool cannot observe a server; the text says why."""


class Table(NamedTuple):
    """A part of a profile."""

    title: str
    names: tuple[str, ...]
    """The titles of the columns with what each row is about."""
    numbers: tuple[str, ...]
    """Those of the columns after them."""
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class Tool:
    """A program that observes processes."""

    program: str
    package: str
    """Debian's."""
    watch: Callable[..., AbstractContextManager[None]]
    """Observes the processes ``pids`` during a ``with`` block, and writes the file ``path``."""
    read: Callable[[str, int], list[Table]]
    """What the file says, for so many messages."""


@contextmanager
def _perf(*options: str, path: str, pids: Sequence[int]) -> Iterator[None]:
    """It begins with its events disabled, and acknowledges that it has enabled them (perf-record(1), ``--control``)."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        control = f"fd:{theirs.fileno()},{theirs.fileno()}"
        more = ("--delay", "-1", "--control", control, "--output", path, "--pid", ",".join(map(str, pids)))
        with _running(["perf", *options, *more], [theirs.fileno()]):
            theirs.close()
            ours.settimeout(_ATTACH_WITHIN)
            acknowledged = b""
            with suppress(OSError):  # it has ended, or the time is over
                ours.sendall(b"enable\n")
                acknowledged = ours.recv(4)
            if acknowledged != b"ack\n":
                raise _NotAttachedError
            yield


@contextmanager
def _strace(*options: str, path: str, pids: Sequence[int]) -> Iterator[None]:
    """The kernel says which process traces another (proc(5), ``TracerPid``)."""
    attach = [word for pid in pids for word in ("--attach", str(pid))]
    with _running(["strace", *options, "--output", path, *attach]) as process:
        deadline = time.monotonic() + _ATTACH_WITHIN
        while not all(_is_traced(pid, process.pid) for pid in pids):
            if process.poll() is not None or time.monotonic() > deadline:
                raise _NotAttachedError
            time.sleep(0.01)
        yield


def _is_traced(pid: int, tracer: int) -> bool:
    with suppress(OSError):  # the process has ended
        return f"\nTracerPid:\t{tracer}\n" in Path(f"/proc/{pid}/status").read_text()
    return False


class _NotAttachedError(Exception):
    """The tool has ended, or has not attached in time."""


@contextmanager
def _running(command: Sequence[str], fds: Sequence[int] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """A tool that writes its file when it is interrupted."""
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, pass_fds=fds) as process,
    ):
        try:
            yield process
        except _NotAttachedError:
            process.send_signal(signal.SIGINT)
            process.wait()
            errors.seek(0)
            raise ProfileError(f"{command[0]} cannot observe the server: {errors.read().strip()}") from None
        finally:
            process.send_signal(signal.SIGINT)


def _read_shares(path: str, messages: int) -> list[Table]:
    objects = [(name, share) for share, name in _perf_report(path, "dso")]
    functions = [
        (symbol.removeprefix("[k] ").removeprefix("[.] "), name, share)
        for share, name, symbol in _perf_report(path, "dso,symbol")
        if "0x0000" not in symbol  # of an object without symbols: an address says nothing
    ]
    return [
        Table("CPU time by object", ("object",), ("share",), objects),
        Table("CPU time by function", ("function", "object"), ("share",), functions[:_FUNCTIONS]),
    ]


def _perf_report(path: str, sort: str) -> Iterator[list[str]]:
    """Rows with the share, and the fields by which they are sorted."""
    command = ("perf", "report", "--stdio", "--no-children", "--input", path, "--sort", sort)
    done = subprocess.run([*command, "--field-separator", "|"], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.strip() and not line.startswith("#")]
    if done.returncode or not lines:  # of a file that it cannot read perf may print nothing, and return 0
        raise ProfileError(f"{' '.join(command)} has found no samples: {done.stderr.strip()}")
    for line in lines:
        row = [field.strip() for field in line.split("|")][: 2 + sort.count(",")]  # perf adds columns to symbols
        if float(row[0].rstrip("%")) >= _SMALLEST_SHARE:
            yield row


def _read_counters(path: str, messages: int) -> list[Table]:
    rows = []
    for line in Path(path).read_text().splitlines():
        fields = line.split("|")
        if len(fields) > 2:
            counted = fields[0].replace(".", "", 1).isdigit()  # else "<not supported>", in a virtual machine
            rows.append((fields[2], f"{float(fields[0]) / messages:.3f}" if counted else fields[0].strip("<>")))
    return [Table("counters", ("event",), ("per message",), rows)]


def _read_calls(path: str, messages: int) -> list[Table]:
    rows = []
    for line in Path(path).read_text().splitlines():
        fields = line.split()
        if len(fields) >= 2 and fields[0].isdigit() and fields[-1] != "total":
            calls, errors = int(fields[0]) / messages, int(fields[1]) / messages if len(fields) > 2 else 0
            if calls >= _SMALLEST_COUNT:
                rows.append((fields[-1], f"{calls:.3f}", f"{errors:.3f}"))
    return [Table("system calls", ("call",), ("per message", "of these with an error"), rows)]


_EVENTS = "page-faults,context-switches,instructions:u,instructions:k"

TOOLS = (
    Tool("perf", "linux-perf", partial(_perf, "record", "--freq", "1999"), _read_shares),
    Tool("perf", "linux-perf", partial(_perf, "stat", "--field-separator", "|", "--event", _EVENTS), _read_counters),
    Tool("strace", "strace", partial(_strace, "--follow-forks", "-c", "-U", "calls,errors,name"), _read_calls),
)


def absence(tools: Sequence[Tool] = TOOLS) -> str | None:
    """A sentence that names the tools that are not installed, or None."""
    missing = {tool.program: tool.package for tool in tools if shutil.which(tool.program) is None}
    if not missing:
        return None
    return f"not installed: {', '.join(missing)} (Debian: apt-get install {' '.join(missing.values())})"


def main(
    scale: float = 1.0, servers: Sequence[str] = ("ours",), scenarios: Sequence[str] = ("1x64B",)
) -> dict[tuple[str, str], list[Table]]:
    """The tables of each scenario and server that takes part in it.

    Raises:
        ProfileError: A tool or a server is missing, or must not observe processes.
        ServerError, WrongReplyError, OSError: A server has failed.

    """
    needed = [*(SERVERS[name] for name in servers), *(SCENARIOS[name] for name in scenarios)]
    for reason in (absence(), *(each.absence() for each in needed)):
        if reason is not None:
            raise ProfileError(reason)
    cores = Cores()
    allow_files(max(open_files(name, scale) for name in scenarios))
    found = {}
    with pinned(cores.load), Fleet(cores) as fleet, Progress() as progress:
        for scenario in (SCENARIOS[name] for name in scenarios):
            for server in (SERVERS[name] for name in servers if scenario.takes(SERVERS[name])):
                progress.show(f"{scenario.title}: {server.name}")
                tables = [table for tool in TOOLS for table in _profile(tool, scenario, server, fleet, scale)]
                found[scenario.name, server.name] = tables
    if not found:
        raise ProfileError("none of the servers takes part in one of the scenarios")
    return found


def _profile(tool: Tool, scenario: Scenario, server: Server, fleet: Fleet, scale: float) -> list[Table]:
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "found")
        sample = scenario.measure(fleet, server, Watched(scale, tool=tool, path=path))
        return tool.read(path, sample.messages)


@dataclass(frozen=True)
class Watched(Scale):
    """The measured stretch is one in which a tool observes the server."""

    tool: Tool = field(default=TOOLS[0], kw_only=True)
    path: str = field(default="", kw_only=True)

    def watch(self, pids: Sequence[int]) -> AbstractContextManager[None]:
        """Observe these processes during a ``with`` block."""
        return self.tool.watch(path=self.path, pids=pids)


def render(found: dict[tuple[str, str], list[Table]]) -> str:
    """Tables in Markdown."""
    lines = []
    for (scenario, server), tables in found.items():
        lines += [f"## {SCENARIOS[scenario].title}: {server}", ""]
        for title, columns, numbers, rows in tables:
            rule = ("---",) * len(columns) + ("---:",) * len(numbers)
            lines += [f"### {title}", ""]
            lines += [f"| {' | '.join(row)} |" for row in ((*columns, *numbers), rule, *rows)]
            lines.append("")
    return "\n".join(lines)


def run(arguments: Sequence[str] | None = None) -> int:
    """The command line. The exit status is 1 when a tool or a server is missing or fails."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0, help="1 for figures, 0.01 to see that it works")
    parser.add_argument("--servers", type=lambda text: names(text, SERVERS), default=["ours"])
    parser.add_argument("--scenarios", type=lambda text: names(text, SCENARIOS), default=["1x64B"])
    options = parser.parse_args(arguments)
    try:
        found = main(options.scale, options.servers, options.scenarios)
    except (ProfileError, ServerError, WrongReplyError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(render(found))
    return 0


if __name__ == "__main__":
    sys.exit(run())
