"""``gws_middleware.django.liveserver``: a gunicorn with the database of a test."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connections
from django.test import override_settings
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from gws_middleware.django import liveserver
from gws_middleware.django.liveserver import WebSocketLiveServerTestCase
from tests.support.programs import run_python
from tests.support.waiting import eventually

SETTINGS = """
from pathlib import Path

from tests.django.project.settings import *

DEBUG = True
ALLOWED_HOSTS = ["example.com"]
DATABASES["real"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": "/real"}
STATICFILES_DIRS = [Path(__file__).parent / "files"]
WSGI_APPLICATION = "live_wsgi.application"
"""
WSGI = """
import json
import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connections

from gws_middleware import WebSocketMiddleware

NAMES = ["DEBUG", "ALLOWED_HOSTS", "APPEND_SLASH", "EMAIL_BACKEND"]
django = get_wsgi_application()


def with_settings(environ, start_response):
    if environ["PATH_INFO"] != "/settings/":
        return django(environ, start_response)
    start_response("200 OK", [])
    facts = {name: getattr(settings, name) for name in NAMES}
    facts.update(pid=os.getpid(), arbiter=os.getppid(), databases=list(connections), server=environ["SERVER_SOFTWARE"])
    return [json.dumps(facts).encode()]


application = WebSocketMiddleware(with_settings, max_message_size=10)
"""


@pytest.fixture(scope="module", autouse=True)
def database(environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make the test database of this module a file."""
    path = tmp_path_factory.mktemp("database") / "test.sqlite3"
    in_memory = connections["default"]
    on_disk: Any = type(in_memory)({**in_memory.settings_dict, "NAME": str(path)}, "default")
    connections["default"] = on_disk
    call_command("migrate", verbosity=0)
    yield path
    on_disk.close()
    connections["default"] = in_memory


@pytest.fixture(scope="module", autouse=True)
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project in a folder that is on the path of this process."""
    folder = tmp_path_factory.mktemp("live")
    (folder / "live_settings.py").write_text(SETTINGS)
    (folder / "live_wsgi.py").write_text(WSGI)
    (folder / "files").mkdir()
    (folder / "files" / "style.css").write_text("body {}")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("DJANGO_SETTINGS_MODULE", "live_settings")
        patch.setenv("GUNICORN_CMD_ARGS", "--workers=3 --worker-class=sync")
        yield folder


def servers() -> list[psutil.Process]:
    """The child processes that are a live server; a fixture of other tests may have a gunicorn, too."""
    return [child for child in psutil.Process().children() if "liveserver_conf" in " ".join(child.cmdline())]


def settings_of(url: str) -> dict[str, Any]:
    """The settings of the server and facts of its process."""
    with urlopen(url + "/settings/", timeout=10) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def websocket(case: type[WebSocketLiveServerTestCase], path: str, **headers: str) -> ClientConnection:
    """A connection of another library, with the headers of a browser."""
    origin = Origin(case.live_server_url)
    return connect(case.live_server_ws_url + path, origin=origin, additional_headers=headers, proxy=None)


class TestServer(WebSocketLiveServerTestCase):
    def test_urls_are_those_of_a_server_on_this_host(self) -> None:
        """By http and ws, without a slash at the end."""
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", self.live_server_url)
        assert self.live_server_ws_url == self.live_server_url.replace("http", "ws")

    def test_server_is_gunicorn_with_one_worker(self) -> None:
        """GUNICORN_CMD_ARGS has no effect."""
        assert settings_of(self.live_server_url)["server"].startswith("gunicorn/")
        [server] = servers()
        assert len(server.children()) == 1

    def test_settings_are_the_project_s_as_tests_have_them(self) -> None:
        """``DEBUG`` and e-mail are set as by the test runner, and the host of the server is allowed."""
        found = settings_of(self.live_server_url)
        assert found["DEBUG"] is False
        assert found["EMAIL_BACKEND"] == "django.core.mail.backends.locmem.EmailBackend"
        assert {"example.com", "127.0.0.1"} <= set(found["ALLOWED_HOSTS"])
        with urlopen(self.live_server_url + "/both/", timeout=10) as response:
            assert response.read() == b"http None"

    def test_databases_without_a_test_database_are_removed(self) -> None:
        """So that the real one cannot be reached."""
        assert settings_of(self.live_server_url)["databases"] == ["default"]

    def test_view_and_test_see_each_other(self) -> None:
        """Each reads what the other has committed."""
        User.objects.create(username="ours")
        with websocket(type(self), "/users/") as ws:
            ws.send("theirs")
            assert ws.recv(10) == "2"
        assert User.objects.filter(username="theirs").exists()

    def test_nothing_is_left_of_another_test(self) -> None:
        """As with TransactionTestCase."""
        with websocket(type(self), "/users/") as ws:
            ws.send("count")
            assert ws.recv(10) == "0"

    def test_login_of_the_test_client_is_valid(self) -> None:
        """With the cookie of its session in a browser."""
        self.client.force_login(User.objects.create_user("ada"))
        with websocket(type(self), "/private/", Cookie=self.client.cookies.output(header="").strip()) as ws:
            assert ws.recv(10) == "ada"

    def test_static_files_are_served(self) -> None:
        """Without DEBUG and without collectstatic."""
        with urlopen(self.live_server_url + "/static/style.css", timeout=10) as response:
            assert response.read() == b"body {}"

    def test_wrapper_of_the_project_keeps_its_options(self) -> None:
        """Here ``max_message_size=10``, also with the handler of static files."""
        with websocket(type(self), "/both/") as ws:
            ws.send("x" * 11)
            with pytest.raises(ConnectionClosedError, match="more than 10 bytes"):
                ws.recv(10)


# --- its life ------------------------------------------------------------------------------------------------------


class Case(WebSocketLiveServerTestCase):
    """A class that the tests below start and stop."""

    __test__ = False


@contextmanager
def running(case: type[WebSocketLiveServerTestCase] = Case) -> Iterator[type[WebSocketLiveServerTestCase]]:
    """The calls that unittest makes before and after the tests of a class."""
    try:
        case.setUpClass()
        yield case
        case.tearDownClass()
    finally:
        case.doClassCleanups()
    for _, error, _ in case.tearDown_exceptions:  # type: ignore[attr-defined]
        raise error


def test_server_ends_with_its_class() -> None:
    """It closes the open WebSockets."""
    with running():
        [server] = servers()
        everything = [server, *server.children()]
        ws = websocket(Case, "/both/")
    assert not any(process.is_running() for process in everything)
    with ws, pytest.raises(ConnectionClosedError, match="1012"):
        ws.recv(10)


def test_server_ends_where_the_rest_of_the_set_up_fails() -> None:
    """In ``setUpClass`` of a subclass. unittest does not call ``tearDownClass`` then."""

    class Failing(Case):
        @classmethod
        def setUpClass(cls) -> None:
            super().setUpClass()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), running(Failing):
        pass
    assert servers() == []


def test_server_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes are stopped."""
    monkeypatch.setattr(liveserver, "STOP_TIMEOUT", 0.2)
    with running():
        [server] = servers()
        workers = server.children()
        server.suspend()
    assert servers() == []
    eventually(lambda: not any(worker.is_running() for worker in workers), "the end of the worker")


def test_server_that_dies_shows_its_log() -> None:
    """It is an error of the class, also if all tests have passed."""
    with pytest.raises(RuntimeError, match=r"ended with -9 before its tests did(?s:.*)Booting worker"), running():
        workers = kill_server()
    eventually(lambda: not any(worker.is_running() for worker in workers), "the end of the worker")


def kill_server() -> list[psutil.Process]:
    """Kill the main process of the server, and return the others."""
    [server] = servers()
    workers = server.children()
    server.kill()
    eventually(lambda: server.status() == psutil.STATUS_ZOMBIE, "the end of the server")
    return workers


def test_worker_that_dies_is_replaced() -> None:
    """Gunicorn starts another one."""
    with running() as case:
        first = settings_of(case.live_server_url)["pid"]
        os.kill(first, signal.SIGKILL)
        assert eventually(lambda: answering(case.live_server_url), "an answer") != first


def answering(url: str) -> int | None:
    """The process id of the worker that answers; None while one is ending."""
    try:
        pid: int = settings_of(url)["pid"]
    except OSError:
        return None
    return pid


DYING = """
import os, sys
import django
django.setup()
from django.db import connections
from gws_middleware.django.liveserver import WebSocketLiveServerTestCase
connections["default"].settings_dict["NAME"] = sys.argv[1]
WebSocketLiveServerTestCase.setUpClass()
print(WebSocketLiveServerTestCase.live_server_url, flush=True)
os.kill(os.getpid(), 9)
"""


def test_server_ends_when_the_test_process_is_killed(database: Path, project: Path) -> None:
    """The test process is killed, so it cannot stop the server."""
    env = {"DJANGO_SETTINGS_MODULE": os.environ["DJANGO_SETTINGS_MODULE"]}
    done = run_python("-c", DYING, str(database), paths=[project], env=env)
    assert done.returncode == -9, done.stderr
    port = int(done.stdout.rpartition(":")[2])
    eventually(lambda: not listening(port), "the end of the server")


def listening(port: int) -> bool:
    """Whether a process accepts connections to this port."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


# --- what keeps it from starting -----------------------------------------------------------------------------------


def refusal(error: type[Exception], sentence: str, case: type[WebSocketLiveServerTestCase] = Case) -> None:
    """Assert that the set-up fails with this sentence, and leaves no process."""
    with pytest.raises(error, match=sentence), running(case):
        pass
    assert servers() == []


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("GWS = {'max_mesage_size': 1}", "ended instead of starting; its log:(?s:.*)max_mesage_size"),
        ("None.attribute", "AttributeError: 'NoneType' object has no attribute 'attribute'"),
    ],
)
def test_server_that_does_not_start_shows_its_log(
    project: Path, monkeypatch: pytest.MonkeyPatch, line: str, sentence: str
) -> None:
    """The message has the error of the project."""
    (project / "broken_settings.py").write_text(f"from live_settings import *\n{line}\n")
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "broken_settings")
    refusal(RuntimeError, sentence)


def test_server_that_is_too_slow_shows_its_log(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After ``start_timeout`` of the class."""
    slow = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_DFL); time.sleep(60)"
    (project / "slow_settings.py").write_text(slow)
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "slow_settings")
    monkeypatch.setattr(Case, "start_timeout", 4.0)
    refusal(RuntimeError, "did not start within 4.0 s; its log:(?s:.*)Listening at")


def test_database_in_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other process can open it. The message has the setting to change."""
    monkeypatch.setitem(connections["default"].settings_dict, "NAME", "file:memorydb_default?mode=memory&cache=shared")
    refusal(ImproperlyConfigured, r"""'default' is in memory.* DATABASES\['default'\]\["TEST"\] = {"NAME": "test.sql""")


def test_settings_without_a_module_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server could not load settings that ``settings.configure()`` has made."""
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE")
    refusal(ImproperlyConfigured, "DJANGO_SETTINGS_MODULE is not set")


def test_class_with_overridden_settings_has_a_server() -> None:
    """The server has the settings of the module, and DEBUG of the tests."""

    @override_settings(DEBUG=True, APPEND_SLASH=False)
    class Overridden(Case):
        pass

    with running(Overridden) as case:
        found = settings_of(case.live_server_url)
    assert (found["DEBUG"], found["APPEND_SLASH"]) == (True, True)


def test_module_needs_no_gunicorn() -> None:
    """It is imported by the server's process only."""
    program = "import sys, gws_middleware.django.liveserver; assert 'gunicorn' not in sys.modules"
    assert run_python("-c", program).returncode == 0
