"""A fresh project and its ``manage.py runserver``, for the tests of the command and of its server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from websockets.sync.client import ClientConnection, connect

from ..support.documents import close_frame
from ..support.programs import environment, run_python
from ..support.servers import START_TIMEOUT
from ..support.waiting import eventually

__all__ = ["Runserver", "close_code", "running", "start_project"]

SETTINGS = """
import logging.config
import os
from copy import deepcopy

from django.utils.log import DEFAULT_LOGGING

DEBUG = "NODEBUG" not in os.environ
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]", "test"]
INSTALLED_APPS = ["gws_middleware.django", "site1", *INSTALLED_APPS]
STATICFILES_DIRS = [BASE_DIR / "assets"]
if "LEVELS" in os.environ:
    LOGGING = deepcopy(DEFAULT_LOGGING)
    LOGGING["formatters"]["django.server"]["format"] = "[{server_time}] {levelname} {message}"
"""

URLS = """
import os
import sys
import time

from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from django.utils.autoreload import StatReloader
from django.views.decorators.csrf import csrf_exempt
from gevent import monkey


def hello(request):
    return HttpResponse(f"patched: {monkey.is_module_patched('threading')}")


def flags(request):
    return HttpResponse(f"{os.getpid()} {sys.flags.optimize} {sys.stdout.write_through} {sys.argv[1:]}")


def interval(request):
    return HttpResponse(f"every {StatReloader.SLEEP_TIME} s")


def stream(request):
    return StreamingHttpResponse(iter([b"abc", b"def"]))


@csrf_exempt
def upload(request):
    return HttpResponse(str(sum(len(chunk) for chunk in iter(lambda: request.read(65536), b""))))


def fails(request):
    raise RuntimeError("the view failed")


def echo(request):
    ws = request.META["wsgi.websocket"]
    ws.send(str(os.getpid()))
    for message in ws:
        ws.send(message)
    time.sleep(0.05)
    print(f"the view has read {ws.close_code}", flush=True)
    return HttpResponse()


def detached(request):
    ws = request.META["wsgi.websocket"]
    ws.detach(on_close=lambda ws: print(f"on_close has read {ws.close_code}", flush=True))
    ws.send("hello")
    return HttpResponse()


def broken(request):
    request.META["wsgi.websocket"].send("hello")
    raise RuntimeError("the WebSocket's view failed")


urlpatterns = [
    path(f"{view.__name__}/", view) for view in (hello, flags, interval, stream, upload, fails, echo, detached, broken)
]
"""

WSGI = """
if "WRAPPED" in os.environ:
    from gws_middleware import WebSocketMiddleware

    application = WebSocketMiddleware(application, max_message_size=10)
"""


def start_project(folder: Path) -> None:
    """``django-admin startproject``, with the app first in ``INSTALLED_APPS``, some views and a static file."""
    run_python("-m", "django", "startproject", "site1", str(folder)).check_returncode()
    for name, text in {"settings": SETTINGS, "wsgi": WSGI}.items():
        with (folder / "site1" / f"{name}.py").open("a") as file:
            file.write(text)
    (folder / "site1" / "urls.py").write_text(URLS)
    (folder / "site1" / "models.py").touch()
    (folder / "assets").mkdir()
    (folder / "assets" / "style.css").write_text("body {}\n")


class Runserver:
    """A running ``runserver`` in a process session of its own, as in a terminal."""

    def __init__(self, command: Sequence[str], folder: Path, log: Path, **env: str) -> None:
        self.path = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=folder,
                env={**environment(), "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """Its output so far."""
        return self.path.read_text()

    def printed(self, pattern: str) -> re.Match[str]:
        """Wait until its output matches, and return the match.

        For as long as a server may take to start: with ``-O`` it compiles all of Django, because nothing is kept.
        """
        try:
            return eventually(lambda: re.search(pattern, self.log, re.MULTILINE), pattern, START_TIMEOUT)
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.log}") from None

    @property
    def url(self) -> str:
        """The URL in the banner, without the last slash."""
        return self.printed(r"development server at (http://\S+)/$")[1]

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of its IPv4 socket."""
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 0)

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def connect(self, path: str) -> ClientConnection:
        """A WebSocket, for a ``with`` statement."""
        return connect("ws" + self.url.removeprefix("http") + path, close_timeout=1)

    def kill(self, number: int) -> int:
        """A signal to every process of the session, as Ctrl-C in a terminal sends it; the exit code."""
        os.killpg(self.process.pid, number)
        return self.process.wait(10)


@contextmanager
def running(folder: Path, *options: str, program: Sequence[str] = ("manage.py",), **env: str) -> Iterator[Runserver]:
    """``runserver`` with these options, on a port that the kernel chooses."""
    cwd = env.pop("cwd", None)
    log = folder / f"{len(list(folder.glob('*.log')))}.log"
    server = Runserver([*program, "runserver", *options], Path(cwd or folder), log, **env)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill(signal.SIGTERM)


def close_code(client: ClientConnection) -> int:
    """The code that the server closes with, 1006 without a close frame."""
    frame = close_frame(client)
    return 1006 if frame is None else frame[0]
