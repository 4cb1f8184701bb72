"""Programs and commands as README and other pages print them, which the tests run, and the clients that use them."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from .servers import ROOT, Server, launch

__all__ = ["TIMEOUT", "blocks", "close_frame", "command", "exported", "opened", "serve", "url"]

TIMEOUT = 20.0
"""Seconds that a client waits for anything."""


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code blocks of a page that are in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def command(page: Path, mark: str) -> list[str]:
    """The arguments of the one gunicorn command of a page that has ``mark`` in it."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    found = [line for line in lines if "gunicorn " in line and mark in line]
    assert len(found) == 1, f"{page} has {len(found)} gunicorn commands with {mark!r}: {found}"
    words = shlex.split(found[0], comments=True)
    return words[[Path(word).name for word in words].index("gunicorn") + 1 :]


def exported(page: Path, name: str) -> str:
    """What the one ``export`` of a page passes on as this variable, by bash, where some names have another meaning."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    [line] = [line for line in lines if line.startswith("export ")]
    script = f"{line}\nprintenv {name}"
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.rstrip("\n")


@contextmanager
def serve(
    arguments: list[str],
    directory: Path,
    *,
    files: Path = ROOT,
    kind: str = "worker",
    env: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run gunicorn with ``arguments`` as if in the folder ``files``; only the address is another: that of the test."""
    *options, app = arguments
    if "--bind" in options:
        at = options.index("--bind")
        del options[at : at + 2]
    for option in ("--config", "--chdir"):
        if option in options:
            at = options.index(option) + 1
            options[at] = str(files / options[at])
    if "--chdir" not in options:
        options += ["--chdir", str(files)]
    app = app if ":" in app else f"{app}:application"
    # One worker, because gunicorn loses a signal to stop that comes while a worker is being forked. Nothing is asked
    # before the test: its first connection waits in the kernel's queue until the server answers.
    env = {"WEB_CONCURRENCY": "1", **(env or {})}
    with launch(kind, directory, app, options=options, env=env, answers=False) as server:
        yield server


def url(server: Server, path: str = "/", scheme: str = "ws") -> str:
    """An address of the server."""
    assert isinstance(server.tcp, tuple), server.tcp
    host, port = server.tcp
    return f"{scheme}://{host}:{port}{path}"


def opened(address: str, **options: Any) -> ClientConnection:
    """A connection of ``websockets``, for a ``with`` statement; ``options`` are those of ``connect``."""
    connection: ClientConnection = connect(address, proxy=None, open_timeout=TIMEOUT, **options)
    return connection


def close_frame(ws: ClientConnection) -> tuple[int, str] | None:
    """Code and reason of the server's close frame, whatever comes before it; None if it closed without one."""
    try:
        while True:
            ws.recv(timeout=TIMEOUT)
    except ConnectionClosed as closed:
        return None if closed.rcvd is None else (closed.rcvd.code, closed.rcvd.reason)
