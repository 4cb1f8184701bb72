"""The log in a database of SQLite: tables, transactions, and which file it is.

Rule 1: each method is one transaction, or less, and never waits: what another process has locked is an
``sqlite3.OperationalError``. Rule 2: this is not for several threads at once; ``handle`` has a lock. Rule 3: a file has
a random name that is never used again, and its numbering, its epochs and its entries end with it. SQLite removes
``<file>-wal`` by its name when it closes the last connection, and that may be one to a file that was replaced.

========  ==================================================================================================
table     has
========  ==================================================================================================
log       every entry of every group in the order of the transactions; ``seq`` is never used twice
groups    the groups with history: epoch, the offset of the latest entry, when it was used last
records   what processes have put into tables (``put()``)
meta      ``trimmed``: the greatest ``seq`` that was deleted; ``boot`` and ``file``: where this was begun
========  ==================================================================================================

Times are of the monotonic clock, which all processes of a host share and which no administrator sets. It starts again
with the host, and so does the log: without ``fsync`` a crash of the host may take back what had been committed.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import GroupsUnavailable
from ..position import Entry, Page, Position
from .base import Publish, Want
from .processes import new_name, remove

__all__ = [
    "SIZE_LIMIT",
    "BrokenError",
    "CorruptError",
    "Database",
    "Rows",
    "begin",
    "boot_id",
    "find",
    "holder",
    "is_corrupt",
    "only_one",
    "put_aside",
]

VERSION = 2
"""Of the tables. A greater one is refused; a smaller one is deleted, and the log begins anew."""

_HOUR, _DAY = 3_600.0, 86_400.0
_SLICE = 500
"""Rows that a feed reads at a time, and that a sweep deletes at a time."""
_INLINE = 8_192
"""Bytes of a payload that is read with its row; a larger one is read by itself, where it is wanted."""
_SLICE_BYTES = 1_000_000
"""Bytes of larger payloads after which a slice ends."""

_TRIM_EVERY = 16
_TRIM = 64
"""One publish of 16 deletes up to 64 rows that have expired: four for each one that is added."""
_CHECKPOINT_EVERY = 256
_BYTES = 4 * 2**20
"""Bytes of payloads after which a process trims and makes a checkpoint, however few messages they were."""
SIZE_LIMIT = 256 * 2**20
"""Bytes of rows, and of the write-ahead log, where that is not more than a third of the file system. With more rows the
oldest are deleted before their time. The write-ahead log grows as long as a process is stopped while it reads; past the
limit the log begins anew without it.
"""

_TABLES = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE log(seq INTEGER PRIMARY KEY AUTOINCREMENT, grp TEXT NOT NULL, epoch TEXT NOT NULL, off INTEGER NOT NULL,
    payload BLOB NOT NULL, at REAL NOT NULL, expires REAL NOT NULL);
CREATE INDEX expiry ON log(expires);
CREATE INDEX history ON log(grp, off) WHERE off > 0;
CREATE TABLE groups(name TEXT PRIMARY KEY, epoch TEXT NOT NULL, top INTEGER NOT NULL, size INTEGER NOT NULL,
    age REAL NOT NULL, touched REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE records(tbl TEXT, field TEXT, process TEXT, value BLOB NOT NULL,
    PRIMARY KEY (tbl, field, process)) WITHOUT ROWID;
CREATE INDEX owners ON records(process);
"""


class BrokenError(Exception):
    """The file cannot be used, and another one has to be begun. The text says why; empty where there is none."""


class CorruptError(BrokenError):
    """The file has something else in it than it should."""


class Rows(NamedTuple):
    """What a feed has read."""

    entries: list[Entry]
    last: int
    """The ``seq`` up to which everything was read."""
    lost: bool
    """Rows before these were deleted unread."""
    more: bool
    """There may be more to read now."""


class Database:
    """An open file.

    Args:
        path: Of the file.
        retention: Seconds for which a row stays at least, so that every feed can read it.

    """

    def __init__(self, path: Path, retention: float) -> None:
        self.path = path
        self._retention = retention
        self._files: dict[Path, os.stat_result] = {}
        self._transactions = self._bytes = 0
        """Since the last checkpoint of this process: transactions that have added nothing to the log, and bytes."""
        self._pinned = 0
        """Bytes of the write-ahead log that the last checkpoint of this process could not copy."""
        self._appended = 0
        """The ``seq`` of the entry that was added last by this process."""
        self._cursor_of_groups = ""
        """The group after which the next sweep goes on."""
        # By "mode=rw" a file that another process has put aside meanwhile is not made again, without anything in it.
        self._connection = sqlite3.connect(
            f"{path.as_uri()}?mode=rw", uri=True, timeout=0, isolation_level=None, check_same_thread=False
        )
        try:
            self._execute = self._connection.execute
            self._set("synchronous=OFF")
            self._set("wal_autocheckpoint=0")
            self._set("secure_delete=OFF")
            self._set(f"journal_size_limit={_BYTES}")
            self._page_size = self._pragma("page_size")
            space = os.statvfs(path.parent)
            self._limit = min(SIZE_LIMIT, space.f_blocks * space.f_frsize // 3)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; what was committed stays."""
        self._connection.close()

    def _set(self, pragma: str) -> None:
        self._execute(f"PRAGMA {pragma}").fetchall()

    # --- the file -------------------------------------------------------------------------------------------------

    def create(self) -> None:
        """Make the tables."""
        self._set("auto_vacuum=INCREMENTAL")
        with self._writing():
            for statement in _TABLES.split(";"):
                self._execute(statement)
            facts = {"trimmed": 0, "boot": boot_id(), "file": _number(self.path)}
            self._connection.executemany("INSERT INTO meta VALUES (?, ?)", facts.items())
            self._execute(f"PRAGMA user_version={VERSION}")
        # At the end: with a write-ahead log a part of the tables would be in a file that does not get the new name.
        self._set("journal_mode=WAL")

    def check(self) -> None:
        """Check that the file can be used.

        Raises:
            BrokenError: Another one has to be begun.
            GroupsUnavailable: Another version of this package has made it.

        """
        version = self._pragma("user_version")
        if version > VERSION:
            raise GroupsUnavailable(
                f"{self.path} has tables of version {version}, of a later version of gws_middleware, and this one has "
                f"version {VERSION}: wanted is the same version in all processes, or a directory for each"
            )
        if version < VERSION:
            raise BrokenError(f"its tables are of version {version}")
        facts = dict(self._execute("SELECT name, value FROM meta"))
        if facts.get("boot") != boot_id():
            raise BrokenError("the host has been started again")
        if facts.get("file") != _number(self.path):
            raise BrokenError("it is a copy")
        latest = self._execute("SELECT at FROM log ORDER BY seq DESC LIMIT 1").fetchone()
        if latest is not None and latest[0] > time.monotonic():
            raise BrokenError("its entries are of the future, so the host has been started again")
        self._files = {path: os.stat(path) for path in _parts(self.path) if path.exists()}

    def is_there(self) -> bool:
        """Whether the file is still the one at its path."""
        try:
            return os.path.samestat(os.stat(self.path), self._files[self.path])
        except OSError:
            return False

    def check_files(self) -> None:
        """Check what ``is_there()`` does not.

        Raises:
            BrokenError: A part was removed, or the write-ahead log has grown too much.

        """
        for path, known in self._files.items():
            try:
                found = os.stat(path)
            except FileNotFoundError:
                raise BrokenError(f"{path.name} was removed") from None
            if not os.path.samestat(found, known):
                raise BrokenError(f"{path.name} was replaced")
            if found.st_size > self._limit and path != self.path:
                self._checkpoint()
                self._check_pinned()

    def _check_pinned(self) -> None:
        if self._pinned > self._limit:
            raise BrokenError(f"a process was stopped while it read, and {self._pinned:,} bytes wait for it")

    # --- publishing -----------------------------------------------------------------------------------------------

    def publish(self, batch: Sequence[Publish]) -> list[Position | None]:
        """Append all of a batch.

        Raises:
            BrokenError: The write-ahead log has grown too much; nothing was published.

        """
        self._check_pinned()
        with self._writing():
            now = time.monotonic()
            positions = [self._append(message, now) for message in batch]
            last = self._appended
            before = last - len(batch)
            self._bytes += sum(len(message.payload) for message in batch)
            is_much = self._bytes > _BYTES
            times = last // _TRIM_EVERY - before // _TRIM_EVERY
            if times or is_much:
                self._trim(max(times, 1) * _TRIM, now)
        # By the number, so that it is one process that does it, and never two, one after the other.
        if last // _CHECKPOINT_EVERY != before // _CHECKPOINT_EVERY or is_much:
            self._checkpoint()
        return positions

    def _append(self, message: Publish, now: float) -> Position | None:
        group, payload, history = message
        epoch, offset, age = "", 0, 0.0
        if history is not None:
            age = history.age
            epoch, offset = self._count(group, history.size, age, now)
            if offset % 4 == 0:
                self._trim_group(group, offset - history.size, now)
        cursor = self._execute(
            "INSERT INTO log(grp, epoch, off, payload, at, expires) VALUES (?, ?, ?, ?, ?, ?)",
            (group, epoch, offset, payload, now, now + max(age, self._retention)),
        )
        self._appended = cursor.lastrowid or 0
        return Position(epoch, offset) if offset else None

    def _count(self, group: str, size: int, age: float, now: float) -> tuple[str, int]:
        """Epoch and offset of a new entry."""
        changed = self._execute(
            "UPDATE groups SET top = top + 1, size = ?, age = ?, touched = ? WHERE name = ?", (size, age, now, group)
        )
        if not changed.rowcount:
            epoch = new_name()
            self._execute("INSERT INTO groups VALUES (?, ?, 1, ?, ?, ?)", (group, epoch, size, age, now))
            return epoch, 1
        epoch, top = self._one("SELECT epoch, top FROM groups WHERE name = ?", group)
        return epoch, top

    # --- deleting -------------------------------------------------------------------------------------------------

    def _trim(self, limit: int, now: float) -> int:
        """Delete what has expired, and if there is too much of everything, the oldest."""
        found = self._execute("SELECT seq FROM log WHERE expires < ? ORDER BY expires LIMIT ?", (now, limit)).fetchall()
        self._delete(found)
        if self._used() > self._limit:
            self._delete(self._execute("SELECT seq FROM log ORDER BY seq LIMIT ?", (limit,)).fetchall())
        return len(found)

    def _trim_group(self, group: str, newest: int, now: float, limit: int = 16) -> int:
        """Delete entries that do not belong to the history of a group any more: up to an offset."""
        oldest = self._execute(
            "SELECT seq, at FROM log WHERE grp = ? AND off > 0 AND off <= ? ORDER BY off LIMIT ?",
            (group, newest, limit),
        ).fetchall()
        expired = [(seq,) for seq, at in oldest if at < now - self._retention]
        self._delete(expired)
        return len(expired)

    def _delete(self, rows: list[tuple[int]]) -> None:
        if rows:
            self._connection.executemany("DELETE FROM log WHERE seq = ?", rows)
            self._execute("UPDATE meta SET value = max(value, ?) WHERE name = 'trimmed'", max(rows))

    def _used(self) -> int:
        """Bytes that rows occupy."""
        return self._page_size * (self._pragma("page_count") - self._pragma("freelist_count"))

    def _pragma(self, name: str) -> int:
        return int(self._one(f"PRAGMA {name}")[0])

    def _one(self, query: str, *arguments: object) -> tuple[Any, ...]:
        """A row that there is.

        Raises:
            CorruptError: There is none.

        """
        row: tuple[Any, ...] | None = self._execute(query, arguments).fetchone()
        if row is None:
            raise CorruptError(f"there is no row for {query!r}")
        return row

    def sweep(self) -> bool:
        """Delete what no publish has come to delete.

        Returns:
            Whether there may be more to do at once.

        """
        now = time.monotonic()
        expired = self._execute("SELECT seq FROM log WHERE expires < ? LIMIT 1", (now,)).fetchone()
        groups = self._execute(
            "SELECT name, top - size, touched + max(age, ?) + ? < ? FROM groups WHERE name > ? ORDER BY name LIMIT 100",
            (self._retention, _DAY, now, self._cursor_of_groups),
        ).fetchall()
        large = [(name, newest) for name, newest, _ in groups if self._has_more(name, newest, now)]
        unused = [(name,) for name, _, is_unused in groups if is_unused]
        left = _SLICE
        if expired or large or unused:
            with self._writing():
                left -= self._trim(left, now)
                for name, newest in large:
                    left -= self._trim_group(name, newest, now, left)
                self._connection.executemany("DELETE FROM groups WHERE name = ?", unused)
            self._count_transaction()
        if left:
            self._cursor_of_groups = groups[-1][0] if len(groups) == 100 else ""
        return self._shrink() or not left

    def _shrink(self) -> bool:
        """Give a part of the file back, where most of it is unused. Whether there is more to give."""
        if self._pragma("freelist_count") <= max(1000, self._pragma("page_count") // 2):
            return False
        self._connection.executescript(f"PRAGMA incremental_vacuum({_SLICE})")  # a row for each page, without columns
        self._checkpoint("TRUNCATE")
        return True

    def _has_more(self, group: str, newest: int, now: float) -> bool:
        """Whether a group has entries beyond its size that nothing keeps."""
        oldest = self._execute(
            "SELECT at FROM log WHERE grp = ? AND off > 0 AND off <= ? ORDER BY off LIMIT 1", (group, newest)
        ).fetchone()
        return oldest is not None and oldest[0] < now - self._retention

    # --- reading --------------------------------------------------------------------------------------------------

    def last(self) -> int:
        """The ``seq`` of the latest entry."""
        row = self._execute("SELECT seq FROM sqlite_sequence WHERE name = 'log'").fetchone()
        return 0 if row is None else int(row[0])

    def after(self, last: int, groups: dict[str, int]) -> Rows:
        """What was published after an entry.

        Args:
            last: The ``seq`` of that entry.
            groups: Those that are wanted; of each, what comes after this ``seq``.

        """
        with self._reading():
            (trimmed,) = self._one("SELECT value FROM meta WHERE name = 'trimmed'")
            lost = trimmed > last
            last = max(last, trimmed)
            rows = self._execute(
                "SELECT seq, grp, epoch, off, CASE WHEN length(payload) <= ? THEN payload END FROM log "
                "WHERE seq > ? ORDER BY seq LIMIT ?",
                (_INLINE, last, _SLICE),
            ).fetchall()
            entries: list[Entry] = []
            large = 0
            for seq, group, epoch, offset, payload in rows:
                if seq > groups.get(group, seq):
                    if payload is None:
                        if large > _SLICE_BYTES:
                            return Rows(entries, last, lost, True)
                        (payload,) = self._one("SELECT payload FROM log WHERE seq = ?", seq)
                        large += len(payload)
                    entries.append(Entry(group, epoch, offset, payload))
                last = seq
            return Rows(entries, last, lost, len(rows) == _SLICE)

    def read(self, wants: Sequence[Want]) -> list[Page]:
        """Read histories. A group that is unknown begins an epoch; one that was not used for an hour stays in use."""
        now = time.monotonic()
        with self._reading():
            found = [self._page(want, now) for want in wants]
        unknown = [want for want, (_, touched) in zip(wants, found, strict=True) if touched is None]
        if unknown:
            self._begin_groups(unknown, now)
            with self._reading():
                found = [self._page(want, now) for want in wants]
        stale = [want.group for want, (_, touched) in zip(wants, found, strict=True) if (touched or now) < now - _HOUR]
        if stale:
            self._touch(stale, now)
        return [page for page, _ in found]

    def _begin_groups(self, wants: Sequence[Want], now: float) -> None:
        with self._writing():
            for group, history, *_ in wants:
                self._execute(
                    "INSERT OR IGNORE INTO groups VALUES (?, ?, 0, ?, ?, ?)",
                    (group, new_name(), history.size, history.age, now),
                )
        self._count_transaction()

    def _touch(self, groups: Sequence[str], now: float) -> None:
        try:
            with self._writing():
                for group in groups:
                    self._execute("UPDATE groups SET touched = ? WHERE name = ?", (now, group))
        except sqlite3.OperationalError:
            return  # another process writes: the next reading does it
        self._count_transaction()

    def _page(self, want: Want, now: float) -> tuple[Page, float | None]:
        """A page, and when its group was used last; None where it is unknown."""
        row = self._execute("SELECT epoch, top, touched FROM groups WHERE name = ?", (want.group,)).fetchone()
        if row is None:
            return Page("", 0, []), None
        epoch, top, touched = row
        if not want.limit:
            return Page(epoch, top, []), touched
        after = max(want.after or 0, top - want.history.size)
        order = "DESC" if want.after is None else "ASC"
        rows = self._execute(
            "SELECT off, payload FROM log WHERE grp = ? AND off > 0 AND off > ? AND epoch = ? AND at >= ? "
            f"ORDER BY off {order} LIMIT ?",
            (want.group, after, epoch, now - want.history.age, want.limit),
        ).fetchall()
        entries = [Entry(want.group, epoch, offset, payload) for offset, payload in rows]
        return Page(epoch, top, entries if want.after is not None else entries[::-1]), touched

    # --- records --------------------------------------------------------------------------------------------------

    def put(self, process: str, changes: Iterable[tuple[str, str, bytes | None]]) -> None:
        """Set values of a process: table, field, value; None removes one."""
        with self._writing():
            self._change(process, changes)
        self._count_transaction()

    def exchange(self, process: str, table: str, field: str, value: bytes | None) -> list[tuple[str, bytes]]:
        """Set a value of a process, and read those of all: process, value."""
        with self._writing():
            self._change(process, [(table, field, value)])
            found = self.get(table, field)
        self._count_transaction()
        return found

    def _change(self, process: str, changes: Iterable[tuple[str, str, bytes | None]]) -> None:
        for table, field, value in changes:
            if value is None:
                self._execute(
                    "DELETE FROM records WHERE tbl = ? AND field = ? AND process = ?", (table, field, process)
                )
            else:
                self._execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", (table, field, process, value))

    def drop(self, table: str, field: str, processes: Iterable[str]) -> None:
        """Remove the values of a field that these processes have."""
        with self._writing():
            for process in processes:
                self._change(process, [(table, field, None)])
        self._count_transaction()

    def get(self, table: str, field: str) -> list[tuple[str, bytes]]:
        """The values of a field, also of dead processes: process, value."""
        return self._execute(
            "SELECT process, value FROM records WHERE tbl = ? AND field = ?", (table, field)
        ).fetchall()

    def records(self, table: str, processes: Sequence[str], limit: int) -> list[tuple[str, str, bytes]]:
        """Records of a table of these processes: process, field, value."""
        return self._execute(
            f"SELECT process, field, value FROM records WHERE tbl = ? AND process IN ({_marks(processes)}) LIMIT ?",
            (table, *processes, limit),
        ).fetchall()

    def count(self, table: str, processes: Sequence[str]) -> int:
        """How many records of a table are of these processes."""
        query = f"SELECT count(*) FROM records WHERE tbl = ? AND process IN ({_marks(processes)})"
        (found,) = self._one(query, table, *processes)
        return int(found)

    def owners(self) -> Iterator[str]:
        """The processes that have records, each by a search in the index."""
        name = ""
        while row := self._execute(
            "SELECT process FROM records WHERE process > ? ORDER BY process LIMIT 1", (name,)
        ).fetchone():
            (name,) = row
            yield name

    def take(self, process: str, limit: int) -> list[tuple[str, str, bytes]]:
        """Remove records of a process: table, field, value."""
        with self._writing():
            query = "SELECT tbl, field, value FROM records WHERE process = ? LIMIT ?"
            found = self._execute(query, (process, limit)).fetchall()
            self._connection.executemany(
                "DELETE FROM records WHERE tbl = ? AND field = ? AND process = ?",
                [(table, field, process) for table, field, _ in found],
            )
        self._count_transaction()
        return found

    # --- transactions ---------------------------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._transaction("BEGIN IMMEDIATE"):
            yield

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._transaction("BEGIN"):
            yield

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        if self._connection.in_transaction:  # an exception of a signal handler came between
            self._execute("ROLLBACK")
        self._execute(begin)
        try:
            yield
            self._execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._execute("ROLLBACK")
            raise

    def _count_transaction(self) -> None:
        self._transactions += 1
        if self._transactions >= _CHECKPOINT_EVERY:
            self._checkpoint()

    def _checkpoint(self, mode: str = "PASSIVE") -> None:
        """Copy the write-ahead log into the database, as far as no process reads it; not SQLite's own automatic
        checkpoint, which several processes begin at the same moment.
        """
        self._transactions = self._bytes = 0
        try:
            _, frames, copied = self._execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
            self._pinned = (frames - copied) * self._page_size
        except sqlite3.Error:
            pass  # what was committed stays in the write-ahead log; a problem shows itself in the next transaction


# --- which file it is ---------------------------------------------------------------------------------------------


def find(directory: Path, retention: float) -> Database:
    """The log in a directory.

    Raises:
        BrokenError: Another one has to be begun.
        CorruptError: And this one is worth keeping.
        GroupsUnavailable: It is one of a later version.
        sqlite3.OperationalError: It is locked.

    """
    names = _names(directory)
    if len(names) != 1:
        raise BrokenError("there were several" if names else "")
    path = directory / names[0]
    database = None
    try:
        database = Database(path, retention)
        database.check()
    except BaseException as error:
        if database is not None:
            database.close()
        if isinstance(error, (sqlite3.Error, OSError)) and not path.exists():
            raise BrokenError("") from None  # another process has put it aside meanwhile
        if isinstance(error, sqlite3.Error) and is_corrupt(error):
            raise CorruptError(str(error)) from None
        raise
    return database


def begin(directory: Path, retention: float) -> BrokenError | None:
    """Begin the log in a directory, unless another process has done so. One process at a time does it.

    The file gets the name by which it is found when it is complete. Otherwise processes that look for the log would
    open the incomplete file, lock it, and put it aside when its process has met their lock and has given up.

    Returns:
        Why it was begun; None where it was there.

    Raises:
        BlockingIOError: Another process begins it.

    """
    with only_one(directory):
        try:
            find(directory, retention).close()
        except BrokenError as error:
            reason = error
        else:
            return None
        for name in _names(directory):
            put_aside(directory / name, reason)
        # Of processes that were killed in the middle of putting a file aside, or of making one.
        for part in (*directory.glob("log-*"), *directory.glob("new-*")):
            remove(part)
        name = new_name()
        path = directory / f"new-{name}.db"
        path.touch(0o600)
        with closing(Database(path, retention)) as database:
            database.create()
        os.rename(path, directory / f"log-{name}.db")
        return reason


@contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """One process at a time decides which file it is.

    Raises:
        BlockingIOError: Another one does.

    """
    file = os.open(directory / "begin", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(file)


def _marks(values: Sequence[str]) -> str:
    """Placeholders of a query."""
    return ", ".join("?" * len(values))


def put_aside(path: Path, reason: BrokenError) -> None:
    """Take away a file that cannot be used: rename it, with what is beside it, to ``unusable.db`` or delete it.

    Args:
        path: Of the file.
        reason: It is renamed where it is corrupt.

    """
    for part in _parts(path):
        if isinstance(reason, CorruptError):
            aside = path.with_name(f"unusable.db{part.name.removeprefix(path.name)}")
            remove(aside)
            if part.exists():
                os.replace(part, aside)
        remove(part)


def _names(directory: Path) -> list[str]:
    return sorted(name for name in os.listdir(directory) if name.startswith("log-") and name.endswith(".db"))


def _parts(path: Path) -> list[Path]:
    """The database, and then what SQLite has beside it: without that the database must not be found."""
    return [path.with_name(path.name + ending) for ending in ("", "-wal", "-shm")]


def boot_id() -> str:
    """The start of the host, as a name; empty where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _number(path: Path) -> str:
    found = os.stat(path)
    return f"{found.st_dev}:{found.st_ino}"


def is_corrupt(error: sqlite3.Error) -> bool:
    """Whether the file has something else in it than it should. No statement of ours can violate a constraint."""
    signs = "malformed", "not a database", "no such table", "no such column", "Could not decode"
    return isinstance(error, sqlite3.IntegrityError) or any(sign in str(error) for sign in signs)


def holder(path: Path) -> str:
    """Which process holds the write lock, in words; empty where that cannot be found out."""
    try:
        inode = os.stat(f"{path}-shm").st_ino
        with open("/proc/locks", encoding="ascii") as locks:
            for line in locks:
                _, kind, _, mode, process, file, start, *_ = line.split()
                # The first of the locks in SQLite's shared memory: 120 is the offset of the write lock.
                if (kind, mode, start) == ("POSIX", "WRITE", "120") and int(file.rpartition(":")[2]) == inode:
                    return f"process {process}" if int(process) > 0 else "a process of another container"
    except (OSError, ValueError):
        pass
    return ""
