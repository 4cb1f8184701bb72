"""A real gunicorn beside a test, for browsers and other programs.

It is another process: it serves the project's WSGI application, with the project's settings, on the databases of the
test.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from typing import IO, ClassVar

from django.conf import ENVIRONMENT_VARIABLE, settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test import TransactionTestCase

from .liveserver_app import DATABASES, DEBUG, HOST
from .liveserver_conf import BOND

__all__ = ["WebSocketLiveServerTestCase"]

STOP_TIMEOUT = 10.0
"""Seconds that gunicorn has to end before it is killed; after ``graceful_timeout`` it kills its worker itself."""


class WebSocketLiveServerTestCase(TransactionTestCase):
    """``django.test.LiveServerTestCase`` over gunicorn with the worker class of this package.

    The server has the settings of the project, ``DEBUG`` and e-mail as the tests have them, and of the databases those
    that the class names in ``databases``. What tests change in their own process does not reach it:
    ``override_settings``, patches, caches in memory. Static files are served as ``runserver`` does.

    ImproperlyConfigured: a database is SQLite's in memory, which no other process can see, or there is no settings
    module. RuntimeError, with the server's log: it did not start, or ended before its tests did.
    """

    live_server_url: ClassVar[str]
    """``http://127.0.0.1:…``, without a slash at the end."""
    live_server_ws_url: ClassVar[str]
    """The same with ``ws://``."""
    start_timeout: ClassVar[float] = 30.0
    """Seconds that the server has to start."""

    @classmethod
    def setUpClass(cls) -> None:
        """Start the server, and wait until it answers."""
        super().setUpClass()
        env = _environment(cls.databases)
        log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the clean-up
        cls.addClassCleanup(log.close)
        ours, theirs = socket.socketpair()
        cls.addClassCleanup(ours.close)
        with theirs, socket.create_server((HOST, 0)) as listener:
            address = "{}:{}".format(*listener.getsockname())
            process = subprocess.Popen(
                _command(listener.fileno()),
                env={**env, BOND: str(theirs.fileno())},
                pass_fds=[listener.fileno(), theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        cls.addClassCleanup(_stop, process)
        ours.settimeout(cls.start_timeout)
        try:
            started = ours.recv(1)
        except TimeoutError:
            raise _failed(f"did not start within {cls.start_timeout} s", log) from None
        if not started:
            raise _failed("ended instead of starting", log)
        cls.live_server_url, cls.live_server_ws_url = f"http://{address}", f"ws://{address}"
        cls.addClassCleanup(_check, process, log)


def _command(listener: int) -> list[str]:
    app, conf = f"{__package__}.liveserver_app:application()", f"python:{__package__}.liveserver_conf"
    return [sys.executable, "-m", "gunicorn", "--config", conf, "--bind", f"fd://{listener}", app]


def _environment(aliases: Iterable[str]) -> dict[str, str]:
    """What the other process is to have: modules and settings are found there as they are here."""
    names = {alias: _database_name(alias) for alias in aliases}
    if ENVIRONMENT_VARIABLE not in os.environ:
        raise ImproperlyConfigured(f"the live server has no settings module: {ENVIRONMENT_VARIABLE} is not set")
    inherited = {name: value for name, value in os.environ.items() if name != "GUNICORN_CMD_ARGS"}
    path = os.pathsep.join(filter(None, sys.path))
    return {**inherited, "PYTHONPATH": path, DATABASES: json.dumps(names), DEBUG: json.dumps(settings.DEBUG)}


def _database_name(alias: str) -> str:
    connection = connections[alias]
    if connection.vendor == "sqlite" and connection.is_in_memory_db():  # type: ignore[attr-defined]
        raise ImproperlyConfigured(
            f"the test database {alias!r} is in memory, where the live server cannot see it: set "
            f'DATABASES[{alias!r}]["TEST"] = {{"NAME": "test.sqlite3"}} (and with --parallel where test processes are '
            "spawned, as on macOS, take another database: Django has SQLite in memory there all the same)"
        )
    return str(connection.settings_dict["NAME"])


def _failed(what: str, log: IO[bytes]) -> RuntimeError:
    """Reads without a seek: the server writes at the position."""
    number = log.fileno()
    text = os.pread(number, os.fstat(number).st_size, 0).decode(errors="replace")
    return RuntimeError(f"the live server {what}; its log:\n{text}")


def _check(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    if process.poll() is not None:
        raise _failed(f"ended with {process.returncode} before its tests did", log)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
