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
import time
from typing import ClassVar

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test import TransactionTestCase

from .liveserver_app import DATABASES

__all__ = ["WebSocketLiveServerTestCase"]

HOST = "127.0.0.1"


class WebSocketLiveServerTestCase(TransactionTestCase):
    """``django.test.LiveServerTestCase`` over gunicorn with the worker class of this package.

    ``override_settings`` does not reach the other process. Static files are served as ``runserver`` does.
    ImproperlyConfigured for a SQLite database in memory, which no other process can see.
    """

    live_server_url: ClassVar[str]
    """``http://127.0.0.1:…``, without a slash at the end."""
    live_server_ws_url: ClassVar[str]
    """The same with ``ws://``."""
    start_timeout: ClassVar[float] = 30.0
    """Seconds in which the server has to answer."""
    stop_timeout: ClassVar[float] = 10.0
    """Seconds that the server has to end before it is killed."""

    @classmethod
    def setUpClass(cls) -> None:
        """Start the server, and wait until it answers."""
        super().setUpClass()
        log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the clean-up
        cls.addClassCleanup(log.close)
        with socket.create_server((HOST, 0)) as listener:
            address = "{}:{}".format(*listener.getsockname())
            process = subprocess.Popen(
                [*_command(), "--bind", f"fd://{listener.fileno()}", "gws_middleware.django.liveserver_app"],
                env={**os.environ, **_environment()},
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        cls.addClassCleanup(_stop, process, cls.stop_timeout)
        cls.live_server_url, cls.live_server_ws_url = f"http://{address}", f"ws://{address}"
        if not _answers(address, process, cls.start_timeout):
            log.seek(0)
            raise RuntimeError(f"the live server does not answer; its log:\n{log.read().decode(errors='replace')}")


def _command() -> list[str]:
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *flags, "-m", "gunicorn", "--config", "python:gws_middleware.django.liveserver_conf"]


def _environment() -> dict[str, str]:
    names = {}
    for connection in connections.all():
        name = connection.settings_dict["NAME"]
        if connection.vendor == "sqlite" and connection.is_in_memory_db():  # type: ignore[attr-defined]
            raise ImproperlyConfigured(
                f"the test database {connection.alias!r} is in memory, where the live server cannot see it: set "
                f'DATABASES[{connection.alias!r}]["TEST"] = {{"NAME": "test.sqlite3"}}'
            )
        names[connection.alias] = str(name)
    # The other process finds what this one does, however that was brought about.
    return {
        "DJANGO_SETTINGS_MODULE": settings.SETTINGS_MODULE,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        DATABASES: json.dumps(names),
    }


def _answers(address: str, process: subprocess.Popen[bytes], timeout: float) -> bool:
    """Whether the server answers a request in time. The connection waits in the kernel's queue until it does."""
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout) as client:
        client.sendall(f"HEAD / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        client.settimeout(0.2)
        end = time.monotonic() + timeout
        while process.poll() is None and time.monotonic() < end:
            try:
                return client.recv(12).startswith(b"HTTP/1.1")
            except TimeoutError:
                pass
            except OSError:
                break
    return False


def _stop(process: subprocess.Popen[bytes], timeout: float) -> None:
    process.terminate()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
