"""A gunicorn for a test class, for browsers and other programs.

Rule: gunicorn is another process. It serves the project's WSGI application with the project's settings and the test
databases, and sees nothing else that tests change in their own process. Both have the same groups, in a directory for
these tests.
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

from . import instance
from .liveserver_app import DATABASES, DEBUG, GROUPS, HOST
from .liveserver_conf import READY_SOCKET

__all__ = ["WebSocketLiveServerTestCase"]

STOP_TIMEOUT = 10.0
"""Seconds that gunicorn has to end before it is killed. It kills its own worker after ``graceful_timeout``."""


class WebSocketLiveServerTestCase(TransactionTestCase):
    """A ``django.test.LiveServerTestCase`` on gunicorn with the worker class of this package.

    The server has the settings of the project, the tests' values for ``DEBUG`` and e-mail, and the test databases that
    the class lists in ``databases``. Groups reach the pages of the server from a test, and the other way: where the
    setting ``groups`` is ``"auto"`` or ``"memory://"``, both processes have a temporary directory, which the tests of
    the class share. ``override_settings``, patches and caches in memory have no effect on the server. It serves static
    files, as ``runserver`` does.

    Raises:
        ImproperlyConfigured: A test database is SQLite in memory, which no other process can open, or
            ``DJANGO_SETTINGS_MODULE`` is not set.
        RuntimeError: The server did not start, or it ended before its tests did. The message has its log.

    """

    live_server_url: ClassVar[str]
    """``http://127.0.0.1:PORT``, without a slash at the end."""
    live_server_ws_url: ClassVar[str]
    """``ws://127.0.0.1:PORT``, without a slash at the end."""
    start_timeout: ClassVar[float] = 30.0
    """Seconds that the server has to start. Default: 30."""

    @classmethod
    def setUpClass(cls) -> None:
        """Start the server, and wait until it has loaded the application."""
        super().setUpClass()
        env = {**_environment(cls.databases), GROUPS: cls._share_groups()}
        log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the clean-up
        cls.addClassCleanup(log.close)
        ours, theirs = socket.socketpair()
        cls.addClassCleanup(ours.close)
        with theirs, socket.create_server((HOST, 0)) as listener:
            address = "{}:{}".format(*listener.getsockname())
            process = subprocess.Popen(
                _command(listener.fileno()),
                env={**env, READY_SOCKET: str(theirs.fileno())},
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

    @classmethod
    def _share_groups(cls) -> str:
        """The URL of the groups of this class, which this process uses until the class has ended."""
        directory = tempfile.TemporaryDirectory(prefix="gws-", ignore_cleanup_errors=True)
        cls.addClassCleanup(directory.cleanup)
        url = f"sqlite://{directory.name}"
        instance.use_in_tests(url)
        cls.addClassCleanup(instance.use_in_tests)
        return url


def _command(listener: int) -> list[str]:
    app, conf = f"{__package__}.liveserver_app:application()", f"python:{__package__}.liveserver_conf"
    return [sys.executable, "-m", "gunicorn", "--config", conf, "--bind", f"fd://{listener}", app]


def _environment(aliases: Iterable[str]) -> dict[str, str]:
    """The environment of the server, which finds the same modules and settings as this process."""
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
            f"the test database {alias!r} is in memory, so the live server cannot open it: set "
            f'DATABASES[{alias!r}]["TEST"] = {{"NAME": "test.sqlite3"}} (with --parallel where test processes are '
            "spawned, as on macOS, use another database, because Django has SQLite in memory there in any case)"
        )
    return str(connection.settings_dict["NAME"])


def _failed(what: str, log: IO[bytes]) -> RuntimeError:
    """The error with the server's log. It is read without a seek, because the server writes at the file position."""
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
