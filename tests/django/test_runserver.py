"""``manage.py runserver`` of a fresh project: real processes, real clients."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import gevent
import gevent.socket
import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from gws_middleware.django.devserver import Server
from gws_middleware.process import registry
from gws_middleware.typing import Environ, StartResponse

from ..support.inprocess import package_path, until
from ..support.rawclient import RawClient, request, upgrade_request
from ..support.servers import eventually

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


def looks(request):
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
    print(f"the view has seen {ws.close_code}", flush=True)
    return HttpResponse()


def detached(request):
    ws = request.META["wsgi.websocket"]
    ws.detach(on_close=lambda ws: print(f"on_close has seen {ws.close_code}", flush=True))
    ws.send("hello")
    return HttpResponse()


def broken(request):
    request.META["wsgi.websocket"].send("hello")
    raise RuntimeError("the WebSocket's view failed")


urlpatterns = [
    path(f"{view.__name__}/", view) for view in (hello, flags, looks, stream, upload, fails, echo, detached, broken)
]
"""

WSGI = """
if "WRAPPED" in os.environ:
    from gws_middleware import WebSocketMiddleware

    application = WebSocketMiddleware(application, max_message_size=10)
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``django-admin startproject``, the app on top of ``INSTALLED_APPS``, a few views and a static file."""
    folder = tmp_path_factory.mktemp("project")
    command = [sys.executable, "-m", "django", "startproject", "site1", str(folder)]
    subprocess.run(command, env=environment(), check=True, timeout=60)
    for name, text in {"settings": SETTINGS, "wsgi": WSGI}.items():
        with (folder / "site1" / f"{name}.py").open("a") as file:
            file.write(text)
    (folder / "site1" / "urls.py").write_text(URLS)
    (folder / "site1" / "models.py").touch()
    (folder / "assets").mkdir()
    (folder / "assets" / "style.css").write_text("body {}\n")
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """A copy for one test to change."""
    return Path(shutil.copytree(template, tmp_path / "project"))


def environment(**more: str) -> dict[str, str]:
    """Of a shell in which nobody has set anything of Django's; warnings are errors."""
    inherited = {name: value for name, value in package_path().items() if not name.startswith(("DJANGO_", "RUN_MAIN"))}
    return {**inherited, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", **more}


TIME = r"^\[\d\d/\w{3}/\d{4} \d\d:\d\d:\d\d\] "


class Runserver:
    """A running ``runserver``, in a session of its own as behind a terminal."""

    def __init__(self, command: Sequence[str], folder: Path, log: Path, **env: str) -> None:
        self.path = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=folder,
                env=environment(**env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return self.path.read_text()

    def printed(self, pattern: str) -> re.Match[str]:
        """The match, once something that matches has been printed."""
        try:
            return eventually(lambda: re.search(pattern, self.log, re.MULTILINE), pattern)
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.log}") from None

    @property
    def url(self) -> str:
        """What the banner says, without the last slash."""
        return self.printed(r"development server at (http://\S+)/$")[1]

    @property
    def address(self) -> tuple[str, int]:
        """Of its IPv4 socket."""
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
    """The code that the server closes with."""
    code = None
    while code is None:
        try:
            client.recv(timeout=10)
        except ConnectionClosed as closed:
            code = 1006 if closed.rcvd is None else int(closed.rcvd.code)
    return code


@pytest.fixture(scope="module")
def plain(template: Path) -> Iterator[Runserver]:
    """One with the reloader, for the tests that leave it as it was."""
    with running(template, "0") as server:
        yield server


class TestServing:
    def test_project_gets_websockets_static_files_and_gevent(self, plain: Runserver) -> None:
        """Without a word of gevent in it."""
        with plain.connect("/echo/") as client:
            client.recv()
            client.send("hello")
            assert client.recv() == "hello"
        assert plain.get("/hello/") == (200, "patched: True")
        assert plain.get("/static/style.css") == (200, "body {}\n")

    def test_console_greets_as_ever(self, plain: Runserver) -> None:
        """Reloader, checks, migrations and the banner with the port that the kernel chose."""
        plain.printed("^Quit the server with CONTROL-C")
        lines = [
            "Watching for file changes with StatReloader",
            "Performing system checks...",
            r"System check identified no issues \(0 silenced\).",
            r"You have \d+ unapplied migration\(s\)",
            "Django version [^ ]+, using settings 'site1.settings'",
            r"Starting (WSGI )?development server at http://127.0.0.1:[1-9]\d+/$",
        ]
        plain.printed("^WebSockets are served at ws" + re.escape(plain.url.removeprefix("http")) + "/$")
        assert re.search("^" + "[^$]*^".join(lines), plain.log, re.MULTILINE), plain.log

    def test_request_is_logged_in_djangos_format(self, plain: Runserver) -> None:
        """Time, request line, status and the size of the body."""
        plain.get("/hello/?logged")
        plain.printed(TIME + r'"GET /hello/\?logged HTTP/1\.1" 200 13$')

    def test_opening_and_end_of_a_websocket_are_logged(self, plain: Runserver) -> None:
        """The latter with code, reason and what went both ways; each is one line, and what a peer chose is escaped."""
        with plain.connect("/echo/?logged=%C3%BC") as client:
            client.recv()
            plain.printed(TIME + r"WebSocket '/echo/\?logged=%C3%BC' opened$")
            assert plain.log.count("?logged=%C3%BC") == 1
            client.close(4001, "enough \u00fc\n")
        end = r"closed with 4001 'enough \\xfc\\n' after \d+\.\d s, 0 messages in, 1 out$"
        plain.printed(TIME + r"WebSocket '/echo/\?logged=%C3%BC' " + end)
        assert plain.log.count("?logged=%C3%BC") == 2

    def test_websocket_that_is_cut_off_is_1006(self, plain: Runserver) -> None:
        """Without a reason."""
        with RawClient(plain.address) as client:
            client.upgrade("/echo/?cut")
            plain.printed(r"WebSocket '/echo/\?cut' opened$")
            client.reset()
        plain.printed(r"WebSocket '/echo/\?cut' closed with 1006 after \d+\.\d s, 0 messages in, 1 out$")

    def test_refused_websocket_is_logged_as_the_request_that_it_is(self, plain: Runserver) -> None:
        """Its status says so."""
        with RawClient(plain.address) as client:
            client.send(upgrade_request("/absent/?refused"))
            assert client.read_response().status == 404
        plain.printed(TIME + r'"GET /absent/\?refused HTTP/1\.1" 404 \d+$')

    def test_detached_websocket_is_logged_at_its_end(self, plain: Runserver) -> None:
        """And not when its view ends."""
        before = plain.log.count("Traceback")
        with RawClient(plain.address) as client:
            client.upgrade("/detached/?logged")
            client.read_frame()
            plain.get("/hello/?behind-the-view")
            plain.printed(r"\?behind-the-view HTTP/1.1")
            assert plain.log.count("/detached/?logged") == 1
            client.say_goodbye(4001)
        plain.printed(TIME + r"WebSocket '/detached/\?logged' closed with 4001 after \d+\.\d s, 0 messages in, 1 out$")
        plain.printed("^on_close has seen 4001$")
        assert (plain.log.count("/detached/?logged"), plain.log.count("Traceback")) == (2, before)

    def test_one_connection_serves_every_kind_of_request(self, plain: Runserver) -> None:
        """HEAD has no body whatever Django answers, a stream has an end, an upload may be big."""
        size = 20_000_000
        with RawClient(plain.address) as client:
            for path in ("/hello/", "/stream/"):
                client.send(request(path, method="HEAD"))
                assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
            assert client.get("/stream/").body == b"abcdef"
            client.send(request("/upload/", ("Content-Length", str(size)), method="POST") + bytes(size))
            assert client.read_response().body == str(size).encode()
            assert client.get("/static/style.css").body == b"body {}\n"

    def test_error_of_a_websocket_is_one_traceback(self, plain: Runserver) -> None:
        """Django's; the peer gets 1011."""
        with plain.connect("/broken/") as client:
            assert close_code(client) == 1011
        plain.printed("WebSocket '/broken/' closed with 1011 after")
        assert plain.log.count("RuntimeError: the WebSocket's view failed") == 1

    def test_browser_that_goes_is_no_error(self, plain: Runserver) -> None:
        """In the middle of its request, or of a WebSocket."""
        before = plain.log.count("Traceback")
        with RawClient(plain.address) as client:
            client.send(b"GET /hello/ HTTP/1.1\r\nHost: t")
            port = client.sock.getsockname()[1]
            plain.get("/hello/")  # so that the server has read what is there
            client.reset()
        plain.printed(rf"- Broken pipe from \('127.0.0.1', {port}\)")
        with RawClient(plain.address) as client:
            client.upgrade("/echo/?reset")
            client.reset()
        plain.printed(r"WebSocket '/echo/\?reset' closed with 1006")
        assert plain.log.count("Traceback") == before

    def test_https_is_told_from_http(self, plain: Runserver) -> None:
        """In Django's words."""
        with RawClient(plain.address) as client:
            client.send(b"\x16\x03\x01\x02\x00\x01\r\n")
            assert client.read_response().status == 400
        plain.printed("You're accessing the development server over HTTPS, but it only supports HTTP.")


class TestOptions:
    def test_noreload_serves_from_the_one_process(self, project: Path) -> None:
        """Patched too; levels are Django's."""
        with running(project, "0", "--noreload", "--nothreading", LEVELS="1") as server:
            assert server.get("/hello/") == (200, "patched: True")
            assert int(server.get("/flags/")[1].split()[0]) == server.process.pid
            assert server.get("/absent/")[0] == 404
            assert server.get("/fails/")[0] == 500
            for level, status in {"INFO": 200, "WARNING": 404, "ERROR": 500}.items():
                server.printed(rf"\] {level} \"GET .* {status} \d+$")
            assert "Watching for file changes" not in server.log

    def test_signal_that_came_too_early_to_wake_the_loop_is_seen(self, project: Path) -> None:
        """One between gevent's last look at signals and its wait. None can be timed so: it is to wake by itself."""
        with running(project, "0", "--noreload") as server:
            server.get("/hello/")
            idle = psutil.Process(server.process.pid)
            before = idle.num_ctx_switches().voluntary
            eventually(lambda: idle.num_ctx_switches().voluntary >= before + 4, "a loop that wakes")

    @pytest.mark.parametrize(("options", "status"), [((), 404), (("--insecure",), 200)])
    def test_static_files_without_debug_need_insecure(self, options: list[str], status: int, project: Path) -> None:
        """As Django says."""
        with running(project, "0", "--noreload", *options, NODEBUG="1") as server:
            assert server.get("/static/style.css")[0] == status

    def test_nostatic_and_skip_checks_are_obeyed(self, project: Path) -> None:
        """Static files are another's then."""
        with running(project, "0", "--noreload", "--nostatic", "--skip-checks") as server:
            assert server.get("/static/style.css")[0] == 404
            assert "Performing system checks" not in server.log

    def test_ipv6_is_served(self, project: Path) -> None:
        """On ::1."""
        with running(project, "0", "--noreload", "--ipv6") as server:
            assert server.url.startswith("http://[::1]:")
            server.printed(r"^WebSockets are served at ws://\[::1\]:[1-9]\d+/$")
            assert server.get("/hello/")[0] == 200
            with server.connect("/echo/") as client:
                client.send("hello")
                assert client.recv()

    def test_port_in_use_is_said(self, project: Path) -> None:
        """And ends the command, the reloader too."""
        with socket.create_server(("127.0.0.1", 0)) as taken, running(project, str(taken.getsockname()[1])) as server:
            assert server.process.wait(20) == 1
        assert "Error: That port is already in use." in server.log
        assert "Traceback" not in server.log


PROGRAMS = {
    "python -m django": (("-m", "django"), ""),
    "django-admin": ((str(Path(sys.executable).with_name("django-admin")),), ""),
    "another name, elsewhere": (("-O", "-u", "{project}/start"), "/"),
    "python -m package": (("-m", "site1"), ""),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_way_to_start_django_is_patched(name: str, project: Path) -> None:
    """And keeps its arguments and Python's own options."""
    (project / "manage.py").rename(project / "start")
    shutil.copy(project / "start", project / "site1" / "__main__.py")
    program, cwd = PROGRAMS[name]
    words = [word.format(project=project) for word in program]
    env = {"DJANGO_SETTINGS_MODULE": "site1.settings", "cwd": cwd}
    if name == "django-admin":
        env["PYTHONPATH"] = os.pathsep.join([environment()["PYTHONPATH"], str(project)])
    with running(project, "0", "--noreload", program=words, **env) as server:
        assert server.get("/hello/") == (200, "patched: True")
        given = "1 True" if "-O" in words else "0 True"
        assert server.get("/flags/")[1] == f"{server.process.pid} {given} ['runserver', '0', '--noreload']"


def test_call_command_leaves_a_program_as_it_is(project: Path) -> None:
    """It is not started anew, for it may be anything; the first WebSocket says what is missing."""
    (project / "tool.py").write_text(
        "import os, sys\nimport django\nfrom django.core.management import call_command\n"
        "os.environ['DJANGO_SETTINGS_MODULE'] = 'site1.settings'\ndjango.setup()\n"
        "print('started', flush=True)\ncall_command(*sys.argv[1:])\n"
    )
    with running(project, "0", "--noreload", program=["tool.py"]) as server:
        assert server.get("/hello/") == (200, "patched: False")
        with server.connect("/echo/") as client:
            client.recv()
            server.printed("The standard library is not patched for gevent")
            assert server.kill(signal.SIGINT) == 0
    assert server.log.count("started") == 1


def test_project_that_wraps_itself_keeps_its_settings(project: Path) -> None:
    """Also behind Django's handler of static files."""
    with running(project, "0", "--noreload", WRAPPED="1") as server:
        assert server.get("/static/style.css")[0] == 200
        with server.connect("/echo/") as client:
            client.send("0123456789")
            client.send("0123456789+")
            assert close_code(client) == 1009


class TestReload:
    def test_change_of_a_file_restarts_the_server(self, project: Path) -> None:
        """The port is the same, the process is not; WebSockets are told so, by 1012."""
        port = free_port()
        with running(project, str(port)) as server:
            with server.connect("/echo/") as client:
                before = client.recv()
                eventually(lambda: touched(project) and gone(client), "a restart")
                assert close_code(client) == 1012
            server.printed("urls.py changed, reloading.")
            server.printed("the view has seen 1012")

            def pid() -> str:
                try:
                    with server.connect("/echo/") as again:
                        return str(again.recv())
                except OSError:
                    return ""

            assert eventually(pid, "the next process") != before
            assert server.get("/hello/") == (200, "patched: True")
            assert "Traceback" not in server.log

    def test_change_is_seen_soon(self, plain: Runserver) -> None:
        """Whoever develops waits for it: Django looks once a second."""
        assert plain.get("/looks/")[1] == "every 0.25 s"

    def test_broken_code_is_served_once_it_is_mended(self, project: Path) -> None:
        """By gevent, though the first process could not load the app."""
        models = project / "site1" / "models.py"
        models.write_text("raise RuntimeError('unfinished')")
        with running(project, str(free_port())) as server:
            server.printed("RuntimeError: unfinished")
            models.write_text("")

            def answer() -> tuple[int, str] | None:
                models.touch()
                try:
                    return server.get("/hello/") if "Quit the server" in server.log else None
                except OSError:
                    return None

            assert eventually(answer, "an answer") == (200, "patched: True")


def touched(project: Path) -> bool:
    """The reloader sees a change of the files that it has seen before; when that was, nobody knows."""
    (project / "site1" / "urls.py").touch()
    return True


def gone(client: ClientConnection) -> bool:
    """Whether the server has said goodbye."""
    try:
        client.recv(timeout=0.2)
    except TimeoutError:
        return False
    except ConnectionClosed:
        return True
    return False


def free_port() -> int:
    """A port that was free just now: port 0 would be another one for each process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


# SIGTERM ends Django's parent process alone, which then kills the one that serves.
@pytest.mark.parametrize(
    ("number", "options"), [(signal.SIGINT, ()), (signal.SIGINT, ("--noreload",)), (signal.SIGTERM, ("--noreload",))]
)
def test_signal_ends_the_server_with_a_goodbye(options: list[str], number: int, project: Path) -> None:
    """1012 for WebSockets, attached and detached, time for what they do at the end, and no traceback."""
    # Django's reloader waits for its child for 0.25 s after Ctrl-C, and then leaves it: Popen warns of that.
    warnings = "error,ignore:subprocess:ResourceWarning"
    with (
        running(project, "0", *options, PYTHONWARNINGS=warnings) as server,
        server.connect("/echo/") as client,
    ):
        client.recv()
        with server.connect("/detached/") as other:
            assert other.recv() == "hello"
            assert server.kill(number) == 0
            assert close_code(other) == 1012
        assert close_code(client) == 1012
    assert "the view has seen 1012" in server.log
    assert "on_close has seen 1012" in server.log
    assert "WebSocket '/echo/' closed with 1012 after" in server.log
    assert "Traceback" not in server.log


def test_goodbye_has_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """For peers that do not answer and for views that do not end: a restart is to be quick."""
    # A process that has said goodbye sends everybody home who still comes, and this one has more tests to run.
    monkeypatch.setattr(registry, "_registry", registry.Registry())

    def stubborn(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.websocket"].accept()
        gevent.sleep(3600)
        return []

    server = Server(("127.0.0.1", 0), None)
    server.set_app(stubborn)
    server.start()
    peer = gevent.socket.create_connection(server.address)
    peer.sendall(upgrade_request())
    until(lambda: server.view_greenlets, "the view has accepted")
    began = monotonic()
    server.shut_down(1.0)
    took = monotonic() - began
    peer.close()
    gevent.killall(list(server.view_greenlets))
    assert 0.9 < took < 1.8
