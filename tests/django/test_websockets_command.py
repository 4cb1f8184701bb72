"""``manage.py websockets``: real commands, and a real gunicorn with two workers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import environment, run_python
from tests.support.rawclient import CLOSE, RawClient, close_frame
from tests.support.servers import Server, launch
from tests.support.waiting import eventually

APP = "tests.django.project.wsgi:application"
TITLES = ["ID", "USER", "ADDRESS", "PATH", "WORKER", "OPEN", "IDLE", "IN", "OUT", "OUTBOX", "LATENCY", "GROUPS"]
USERS = """
import django
django.setup()
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.core.management import call_command
call_command("migrate", verbosity=0)
for name in ("bob", "eve"):
    user, session = User.objects.create_user(name), SessionStore()
    session[SESSION_KEY], session[HASH_SESSION_KEY] = str(user.pk), user.get_session_auth_hash()
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session.save()
    print(session.session_key)
"""


class Site:
    """A gunicorn with two workers, users with a session each, and the command."""

    def __init__(self, server: Server, env: Mapping[str, str], cookies: dict[str, str]) -> None:
        self.server, self.env, self._cookies = server, env, cookies
        self._stack = ExitStack()

    def open(self, user: str, path: str = "/private/") -> RawClient:
        """A WebSocket of this user."""
        client = self._stack.enter_context(self.server.connect())
        client.upgrade(path, ("Cookie", f"sessionid={self._cookies[user]}"))
        first = client.read_frame().payload
        assert first == user.encode() or path.startswith("/ws/")  # of a view that sends its process
        return client

    def run(self, *arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        """``manage.py websockets arguments``."""
        words = ("-m", "django", "websockets", *arguments)
        return run_python(*words, env={**self.env, **env}, stdin=stdin, folder=self.server.access_path.parent)

    def listed(self, *filters: str) -> list[dict[str, Any]]:
        """``list --json``: the connections."""
        ended = self.run("list", "--json", *filters)
        assert (ended.returncode, ended.stderr) == (0, "")
        found: list[dict[str, Any]] = json.loads(ended.stdout)["connections"]
        return found

    def close(self) -> None:
        """Disconnect all."""
        self._stack.close()
        eventually(lambda: self.listed() == [], "no WebSocket")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Mapping[str, str], dict[str, str]]]:
    """The server, the environment of its project, and the sessions."""
    folder = tmp_path_factory.mktemp("site")
    env = {
        "DATABASE": json.dumps({"NAME": str(folder / "db.sqlite3")}),
        "DJANGO_SETTINGS_MODULE": "tests.django.project.settings",
        "GWS": json.dumps({"groups": f"sqlite://{folder}/groups"}),
    }
    made = run_python("-c", USERS, env=env)
    assert made.returncode == 0, made.stderr
    with launch("worker", folder / "server", APP, options=["--workers", "2"], env=env) as server:
        yield server, env, dict(zip(("bob", "eve"), made.stdout.split(), strict=True))


@pytest.fixture
def site(running: tuple[Server, Mapping[str, str], dict[str, str]]) -> Iterator[Site]:
    """The shared server, for one test."""
    made = Site(*running)
    yield made
    made.close()
    running[0].log.check()


def is_closed(client: RawClient, code: int) -> bool:
    """The next frame is a close frame with this code."""
    frame = client.read_frame()
    return (frame.opcode, frame.code) == (CLOSE, code)


def is_open(client: RawClient, user: str) -> bool:
    client.text("who")
    return client.read_frame().payload == user.encode()


class TestList:
    def test_json_has_all_of_all_workers(self, site: Site) -> None:
        """One object, for programs."""
        for user in ("bob", "eve") * 4:
            site.open(user)
        ended = site.run("list", "--json")
        assert (ended.returncode, ended.stderr) == (0, "")
        found = json.loads(ended.stdout)
        assert sorted(each["user_name"] for each in found["connections"]) == ["bob"] * 4 + ["eve"] * 4
        assert {each["path"] for each in found["connections"]} == {"/private/"}
        assert {each["address"] for each in found["connections"]} == {"127.0.0.1"}
        assert sum(worker["connections"] for worker in found["workers"]) == 8
        assert {each["worker"] for each in found["connections"]} <= {worker["name"] for worker in found["workers"]}
        assert (found["missing"], found["more"]) == ([], False)

    def test_table(self, site: Site) -> None:
        """A line for each, and the sum."""
        site.open("bob")
        [found] = site.listed()
        ended = site.run("list")
        assert (ended.returncode, ended.stderr) == (0, "")
        title, line, _, total = ended.stdout.splitlines()
        assert title.split() == TITLES
        assert line.split()[:6] == [found["id"], found["user"], "bob", "127.0.0.1", "/private/", found["worker"]]
        assert re.fullmatch(r"1 WebSocket in [12] workers?", total)

    def test_filters(self, site: Site) -> None:
        """By the user's key or name, the beginning of the path, and the worker."""
        for user, path in (("bob", "/private/"), ("bob", "/who/"), ("eve", "/private/")):
            site.open(user, path)
        bob = next(each for each in site.listed() if each["user_name"] == "bob")

        def names(*filters: str) -> list[tuple[str, str]]:
            return sorted((each["user_name"], each["path"]) for each in site.listed(*filters))

        assert names("--user", "bob") == names("--user", bob["user"]) == [("bob", "/private/"), ("bob", "/who/")]
        assert names("--path", "/pri") == [("bob", "/private/"), ("eve", "/private/")]
        assert names("--path", "/pri", "--user", "bob") == [("bob", "/private/")]
        room = site.open("eve", "/ws/room/7/")
        assert names("--group", "room.7") == [("eve", "/ws/room/7/")]
        assert names("--group", "room.7", "--user", "bob") == names("--group", "no such group; x") == []
        ended = site.run("close", "--group", "room.7", "--no-input")
        assert (ended.returncode, ended.stdout.strip()) == (0, "1 WebSocket closed with code 1008."), ended.stderr
        assert is_closed(room, 1008)
        room.send(close_frame(1008))  # without an answer it is listed for the ten seconds of close_timeout
        eventually(lambda: len(site.listed()) == 3, "the others stay")
        workers = {each["worker"] for each in site.listed()}
        by_worker = [each for worker in workers for each in site.listed("--worker", worker)]
        assert sorted(each["id"] for each in by_worker) == sorted(each["id"] for each in site.listed())

    def test_control_characters_of_a_path_are_escaped(self, site: Site) -> None:
        """A terminal would obey them."""
        with site.server.connect() as client:
            client.upgrade("/environ/%1B[31m/")
            assert "/environ/\\x1b[31m/" in site.run("list").stdout


class TestClose:
    def test_connection_is_closed_by_its_id(self, site: Site) -> None:
        """Others stay open, in the same and in other workers."""
        clients = {user: site.open(user) for user in ("bob", "eve")}
        number = site.listed("--user", "bob")[0]["id"]
        ended = site.run("close", number, "--no-input", "--code", "4000", "--reason", "bye")
        assert (ended.returncode, ended.stdout.strip()) == (0, "1 WebSocket closed with code 4000."), ended.stderr
        assert is_closed(clients["bob"], 4000)
        assert is_open(clients["eve"], "eve")

    @pytest.mark.parametrize("filters", [("--user", "bob"), ("--path", "/who")])
    def test_connections_are_closed_by_filters(self, site: Site, filters: tuple[str, str]) -> None:
        """In all workers."""
        closing = [site.open("bob", "/who/") for _ in range(6)]
        other = site.open("eve")
        ended = site.run("close", *filters, "--no-input")
        assert (ended.returncode, ended.stdout.strip()) == (0, "6 WebSockets closed with code 1008."), ended.stderr
        assert [is_closed(client, 1008) for client in closing] == [True] * 6
        assert is_open(other, "eve")

    @pytest.mark.parametrize(("answer", "closes"), [("y\n", True), ("yes\n", True), ("n\n", False), ("\n", False)])
    def test_confirmation(self, site: Site, answer: str, closes: bool) -> None:
        """It shows what it is about to close."""
        client = site.open("bob")
        ended = site.run("close", "--user", "bob", stdin=answer)
        assert "/private/" in ended.stdout
        assert "Close 1 WebSocket with code 1008? [y/N]" in ended.stdout
        if closes:
            assert ended.returncode == 0, ended.stderr
            assert is_closed(client, 1008)
        else:
            assert (ended.returncode, ended.stderr.strip()) == (1, "CommandError: nothing was closed")
            assert is_open(client, "bob")

    def test_filter_without_a_match_closes_nothing(self, site: Site) -> None:
        """That is no error."""
        site.open("bob")
        ended = site.run("close", "--path", "/nothing", "--no-input")
        assert (ended.returncode, ended.stdout.strip()) == (0, "No WebSocket is to be closed.")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("close", "--no-input"),
            "nothing says which WebSockets to close: name ids, --user, --path, --worker or",
        ),
        (("close", "abc", "--no-input"), "no such WebSocket: abc; `list` shows the ids of all"),
        (("close", "abc", "--code", "1005"), "code 1005 and reason '': wanted a code of"),
        (("close", "--user", "bob"), "there is no terminal to confirm it: use --no-input"),
        (("list", "--user", "nemo"), "no user 'nemo': wanted is a primary key or a username"),
        (("list", "--worker", "nowhere:1"), "no worker 'nowhere:1'; there are: "),
    ],
)
def test_wrong_call_is_an_error(site: Site, arguments: tuple[str, ...], sentence: str) -> None:
    """Its sentence says what is wanted, and there is no traceback."""
    site.open("bob")
    ended = site.run(*arguments)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"CommandError: {sentence}")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("memory://", 'CommandError: the setting GWS["groups"] is "memory://", so no other process can be asked'),
        ("redis://127.0.0.1:1", "CommandError: the workers cannot be reached by the setting groups"),
    ],
)
def test_groups_that_cannot_be_used(site: Site, url: str, sentence: str) -> None:
    """The error names the setting."""
    ended = site.run("list", GWS=json.dumps({"groups": url}))
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(sentence)


def test_other_groups_have_no_workers(site: Site, tmp_path: Path) -> None:
    """E.g. those of another user of the operating system; the command says so."""
    site.open("bob")
    ended = site.run("list", GWS=json.dumps({"groups": f"sqlite://{tmp_path}/other"}))
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "0 WebSockets in 0 workers")
    assert ended.stderr.startswith("No worker is known.")


def test_worker_that_does_not_answer_is_named(site: Site) -> None:
    """The list has the others."""
    workers: set[str] = set()
    while len(workers) < 2:
        site.open("bob")
        workers = {each["worker"] for each in site.listed()}
    stopped = min(workers)
    pid = int(stopped.rpartition(":")[2])
    os.kill(pid, signal.SIGSTOP)
    try:
        ended = site.run("list")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert ended.returncode == 0
    assert ended.stderr.strip() == f"Not answered in time, and missing here: {stopped}."


def test_watch_draws_until_it_is_interrupted(site: Site) -> None:
    """Ctrl-C ends it without a traceback."""
    site.open("bob")
    command = [sys.executable, "-m", "django", "websockets", "watch", "--path", "/private"]
    env = {**environment(), **site.env, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command,
        cwd=site.server.access_path.parent,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell lets what it starts in the background ignore SIGINT, which would be inherited from these tests.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        drawn: list[str] = []
        while sum("/private/" in line for line in drawn) < 3:  # a busy worker may be missing in one of them
            drawn.append(process.stdout.readline())
            assert drawn[-1]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    assert sum(line.startswith("ID") for line in drawn) >= 3
