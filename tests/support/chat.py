"""The chat of ``examples/chat``, set up and started with the commands of its README."""

from __future__ import annotations

import shlex
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from .documents import TIMEOUT, blocks, command, serve
from .programs import run_python
from .servers import ROOT, Server

__all__ = ["CHAT", "Chat", "serve_chat"]

CHAT = ROOT / "examples" / "chat"


@dataclass(frozen=True)
class Chat:
    """The running example and its database."""

    server: Server
    database: Path

    def room(self) -> str:
        """A new room, for one test alone; its slug."""
        slug = f"room-{uuid.uuid4().hex[:8]}"
        with closing(sqlite3.connect(self.database, timeout=TIMEOUT)) as connection, connection:
            connection.execute("INSERT INTO chat_room (slug, name, topic) VALUES (?, ?, '')", (slug, slug))
        return slug


@contextmanager
def serve_chat(directory: Path, **env: str) -> Iterator[Chat]:
    """The chat with a database of its own, as README's two commands start it."""
    database = directory / "chat.sqlite3"
    database.write_bytes(migrated())
    env = {"CHAT_DATABASE": str(database), **env}
    with serve(command(CHAT / "README.md", "gunicorn"), directory / "server", env=env) as server:
        yield Chat(server, database)


@cache
def migrated() -> bytes:
    """The database that README's first command makes. It runs once in a process of the tests."""
    lines = [line for block in blocks(CHAT / "README.md", "sh") for line in block.splitlines()]
    (line,) = [line for line in lines if "migrate" in line]
    words = shlex.split(line)
    assert words[0] == ".venv-run/bin/python"
    with TemporaryDirectory() as directory:
        database = Path(directory) / "chat.sqlite3"
        ended = run_python(*words[1:], env={"CHAT_DATABASE": str(database)})
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return database.read_bytes()
