"""System checks: each is tested with and without a message."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import run_checks
from django.db import connections
from django.test import override_settings
from gevent import monkey

from gws_middleware.django import checks
from gws_middleware.django.checks import MIDDLEWARE
from tests.support.programs import run_python
from tests.support.rawclient import TEXT, close_frame, frame, upgrade_request
from tests.support.servers import KINDS, ServerDied, launch

IDENTIFIERS = ("E001", "E002", "E003", "W001", "W002", "W004", "W005", "W006", "W007", "W008")
SESSION = "django.contrib.sessions.middleware.SessionMiddleware"
COMMON = "django.middleware.common.CommonMiddleware"


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests may have imported a server in this process."""
    for name in checks.GEVENT_SERVERS:
        monkeypatch.delitem(sys.modules, name, raising=False)


def found() -> list[Any]:
    """The messages of ``manage.py check`` about this app."""
    return [message for message in run_checks() if str(message.id).startswith("gws_middleware.")]


def one() -> str:
    """The id and the sentence of the only message, which has a hint."""
    (message,) = found()
    assert message.hint
    return f"{message.id} {message.msg}"


def test_identifiers_are_unique() -> None:
    """And stable: these are all of them."""
    named = re.findall(r'id="(gws_middleware\.[EW]\d{3})"', inspect.getsource(checks))
    assert sorted(named) == [f"gws_middleware.{number}" for number in IDENTIFIERS]


@pytest.mark.parametrize(
    ("given", "sentence", "hint"),
    [
        (
            {"GWS": {"max_mesage_size": 5}},
            "E001 'max_mesage_size' is not a setting: did you mean 'max_message_size'?",
            "The settings are allowed_origins, max_message_size, ",
        ),
        (
            {"GWS": {"database_grace": "soon"}},
            "E001 database_grace is 'soon': wanted a number of seconds above 0, or None",
            "database_grace: Seconds that a WebSocket's greenlet waits",
        ),
        (
            {"CSRF_TRUSTED_ORIGINS": ["https://ok.org", "https://not ok"]},
            "E001 settings.CSRF_TRUSTED_ORIGINS: allowed_origins is ",
            "",
        ),
        (
            {"MIDDLEWARE": [MIDDLEWARE, SESSION]},
            f"E002 {MIDDLEWARE} is above SessionMiddleware in MIDDLEWARE, so WebSocket views have no session.",
            f"Move {MIDDLEWARE} to the end of MIDDLEWARE.",
        ),
        (
            {"MIDDLEWARE": [SESSION, MIDDLEWARE, COMMON]},
            f"W001 {MIDDLEWARE} is not the last in MIDDLEWARE: it answers in place of some views, and "
            f"process_view() of {COMMON} is not called then.",
            f"Move {MIDDLEWARE} to the end of MIDDLEWARE.",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_setting_has_a_message(given: dict[str, Any], sentence: str, hint: str) -> None:
    """The hint names no file, because the docs are not installed with the package."""
    with override_settings(**given):
        [message] = found()
    assert f"{message.id} {message.msg}".startswith(f"gws_middleware.{sentence}")
    assert message.hint and message.hint.startswith(hint) and "docs/" not in message.hint


@pytest.mark.parametrize("given", [{}, {"MIDDLEWARE": [*settings.MIDDLEWARE, MIDDLEWARE]}], ids=["", "middleware last"])
def test_correct_project_has_no_message(given: dict[str, Any]) -> None:
    """The project of these tests, with the middleware class and without it."""
    with override_settings(**given):
        assert found() == []


def test_setting_that_is_not_read_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Django setting in the environment has no effect."""
    monkeypatch.setenv("GWS_CLOSE_ON_LOGOUT", "0")
    assert one().startswith("gws_middleware.E001 the environment variable GWS_CLOSE_ON_LOGOUT is not read: set ")


@pytest.mark.parametrize(
    ("above", "messages"),
    [
        (["django.contrib.staticfiles"], ["gws_middleware.W002"]),
        (["django.contrib.messages", "django.contrib.auth"], []),
    ],
    ids=["runserver", "no command, and other commands"],
)
def test_app_below_another_runserver_is_a_warning(above: list[str], messages: list[str]) -> None:
    """Django would use the command of the other app."""
    with override_settings(INSTALLED_APPS=[*above, "gws_middleware.django"]):
        assert [message.id for message in checks.check_runserver(None)] == messages


PSYCOPG2 = """
import sys, types, importlib.machinery
class Error(Exception): pass
def module(name, **names):
    made = types.ModuleType(name)
    made.__spec__ = importlib.machinery.ModuleSpec(name, None)
    made.__dict__.update(names)
    sys.modules[name] = made
    return made
callback = None
module("psycopg2.extensions", get_wait_callback=lambda: callback)
module("django.db.backends.postgresql.psycopg_any", is_psycopg3=False)
patched = "patched" in sys.argv
if patched:
    from gevent import monkey
    monkey.patch_all()
if "psycogreen" in sys.argv:
    module("psycogreen")
    callback = print
import django
from django.conf import settings
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"}})
django.setup()
from gws_middleware.django.checks import check_psycopg2
print([message.id for message in check_psycopg2(None)])
"""


@pytest.mark.parametrize("where", ["", "patched"])
@pytest.mark.parametrize(("installed", "messages"), [("", "['gws_middleware.W004']"), ("psycogreen", "[]")])
def test_psycopg2_without_psycogreen_is_a_warning(where: str, installed: str, messages: str) -> None:
    """In ``manage.py check``, where psycogreen has to be installed, and in a server, where it has to be in use.

    psycopg2 is a fake module, because it cannot be installed together with psycopg 3.
    """
    done = run_python("-c", PSYCOPG2, where, installed)
    assert (done.stdout.strip(), done.returncode) == (messages, 0), done.stderr


def test_psycopg_3_has_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits with gevent."""
    monkeypatch.setitem(connections.settings["default"], "ENGINE", "django.db.backends.postgresql")
    assert checks.check_psycopg2(None) == []


def test_gevent_server_without_patching_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """One view would block all others. A patched process has no message."""
    monkeypatch.setitem(sys.modules, "gws_middleware.pywsgi", sys)
    assert one().startswith("gws_middleware.W005 ")
    monkeypatch.setattr(checks, "loaded_unpatched", lambda: False)
    monkeypatch.setattr(monkey, "is_module_patched", lambda name: True)
    assert found() == []


@pytest.mark.parametrize(
    ("variable", "value", "messages"),
    [
        ("WEB_CONCURRENCY", "2", ["gws_middleware.W006"]),
        ("WEB_CONCURRENCY", "1", []),
        ("WEB_CONCURRENCY", "", []),
        ("WEB_CONCURRENCY", "many", []),
        ("GUNICORN_CMD_ARGS", "--bind x -w 4", ["gws_middleware.W006"]),
        ("GUNICORN_CMD_ARGS", "-w4", ["gws_middleware.W006"]),
        ("GUNICORN_CMD_ARGS", "--workers=4 --timeout 5", ["gws_middleware.W006"]),
        ("GUNICORN_CMD_ARGS", "--workers 1", []),
        ("GUNICORN_CMD_ARGS", "--worker-connections 4", []),
    ],
)
def test_groups_in_memory_of_several_workers_are_a_warning(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, messages: list[str]
) -> None:
    """As far as the environment has their number. Groups in a file have no message."""
    monkeypatch.setenv(variable, value)
    with override_settings(GWS={"groups": "memory://"}):
        assert [message.id for message in found()] == messages
        assert all(message.hint.startswith('Use "auto", or') for message in found())
    with override_settings(GWS={"groups": "auto"}):
        assert found() == []


def test_options_of_gunicorn_win_over_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in gunicorn."""
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--workers 1")
    with override_settings(GWS={"groups": "memory://"}):
        assert found() == []


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        ({"site_limits": True, "groups": "memory://"}, ["gws_middleware.W008"]),
        ({"site_limits": True, "groups": "auto"}, []),
        ({"site_limits": True}, []),
        ({"site_limits": False, "groups": "memory://"}, []),
        ({"groups": "memory://"}, []),
    ],
)
def test_limits_of_a_site_whose_groups_are_in_memory_are_a_warning(given: dict[str, Any], messages: list[str]) -> None:
    """They would count one worker."""
    with override_settings(GWS=given):
        assert [message.id for message in found()] == messages
        assert all(message.hint.startswith('Use "auto", or') for message in found())


@pytest.mark.parametrize(
    ("workers", "groups", "count"), [(2, "memory://", 1), (1, "memory://", 0), (2, "sqlite:///unused", 0)]
)
def test_server_with_groups_in_memory_and_several_workers_logs_one_warning(
    tmp_path: Path, workers: int, groups: str, count: int
) -> None:
    """In each worker, at its first WebSocket: its command line is not known to the system checks."""
    env = {"GWS": json.dumps({"groups": groups})}
    options = ["--workers", str(workers)]
    with launch("worker", tmp_path, project("worker"), options=options, env=env) as server:
        pids = set()
        while len(pids) < workers:
            with server.connect() as client:
                client.send(upgrade_request("/echo/") + frame(TEXT, b"x") + close_frame())
                assert client.read_response().status == 101
                client.read_frames_until_eof()
            pids.add(server.get("/pid/").body)
        logged = [record.text for record in server.log.records() if checks.SEPARATE in record.text]
        if count:
            server.log.expect(re.escape(checks.SEPARATE), len(logged))
    assert count <= len(logged) <= count * workers


def test_directory_that_cannot_be_used_is_a_warning(tmp_path: Path) -> None:
    """The message says what was found and what is wanted. The check makes no directory."""
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    unusable = {
        "/dev/null/groups": "groups cannot make the directory /dev/null/groups: this user cannot write in /dev/null",
        "relative": "groups cannot use the directory relative: it is relative; wanted is an absolute path",
        str(shared): f"groups cannot use the directory {shared}: its mode 0755 lets other users in; wanted is 0700",
    }
    for path, sentence in unusable.items():
        with override_settings(GWS={"groups": {"url": f"sqlite://{path}"}}):
            assert one() == f"gws_middleware.W007 {sentence}."
    with override_settings(GWS={"groups": f"sqlite://{tmp_path}/made"}):
        assert found() == []
    assert not (tmp_path / "made").exists()


def test_automatic_directory_that_cannot_be_used_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a service may write nowhere."""
    monkeypatch.setattr(os, "access", lambda *arguments, **options: False)
    assert one().startswith("gws_middleware.W007 no directory for the groups of ")


UNPATCHED = """
import os, sys
import gevent
from gevent import socket
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.django.project.settings"
from django.core.wsgi import get_wsgi_application
from gws_middleware.pywsgi import WSGIServer
server = WSGIServer(("127.0.0.1", 0), get_wsgi_application(), log=None)
server.start()
for _ in range(2):
    client = socket.create_connection(server.address)
    client.sendall(
        b"GET /echo/ HTTP/1.1\\r\\nHost: localhost\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
        b"Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n\\x81\\x80mask"
    )
    got = b""
    while b"\\x81\\x00" not in got:
        got += client.recv(1000)
    client.close()
print("done")
"""


def test_server_that_is_not_patched_logs_one_warning() -> None:
    """At the first WebSocket, because a program with a server of its own runs no checks."""
    done = run_python("-c", UNPATCHED)
    assert done.stdout == "done\n", done.stderr
    assert done.stderr.count("The standard library is not patched for gevent") == 1


LATE = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.django.project.settings"
import django
django.setup()
from gevent import monkey
monkey.patch_all()
from django.core.checks import run_checks
print([message.id for message in run_checks()])
"""


def test_patching_after_setup_is_an_error() -> None:
    """In a program that is not gunicorn it is a check and a log record, and the program continues."""
    done = run_python("-c", LATE)
    assert done.stdout == "['gws_middleware.E003']\n", done.stderr
    assert done.stderr.count("Django was loaded before gevent patched the standard library") == 1


PRELOADING = ("worker", "gevent", "gevent_pywsgi", "geventwebsocket-worker")


def project(kind: str) -> str:
    return f"tests.django.project.wsgi:{'application' if KINDS[kind].wraps else 'wrapped'}"


@pytest.mark.parametrize("kind", PRELOADING)
def test_preloaded_project_does_not_start(kind: str, tmp_path: Path) -> None:
    """With ``gunicorn --preload`` all greenlets would share database connections, which Django refuses with 500 as soon
    as two requests query at the same time.
    """
    with pytest.raises(ServerDied) as died, launch(kind, tmp_path, project(kind), options=["--preload"]):
        pass
    assert "ImproperlyConfigured: Django was loaded before gevent patched the standard library" in died.value.log
    assert "Run gunicorn without --preload" in died.value.log


@pytest.mark.parametrize("kind", PRELOADING[:3])
def test_preloaded_project_that_is_patched_first_is_served(kind: str, tmp_path: Path) -> None:
    """As the hint says. Two WebSockets query at the same time."""
    conf = tmp_path / "gunicorn.conf.py"
    conf.write_text("from gevent import monkey\n\nmonkey.patch_all()\n\npreload_app = True\n")
    env = {"DATABASE": json.dumps({"NAME": str(tmp_path / "db.sqlite3")})}
    with (
        launch(kind, tmp_path / "server", project(kind), options=["--config", str(conf)], env=env) as server,
        server.connect() as one,
        server.connect() as other,
    ):
        for client in (one, other):
            client.send(upgrade_request("/queries/") + frame(TEXT, b""))
            assert client.read_response().status == 101
            assert client.read_frame().payload == b"1"
