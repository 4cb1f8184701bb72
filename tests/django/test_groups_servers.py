"""``gws_middleware.django.groups`` in several processes: workers, runserver, the live server, commands and tasks."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.contrib.auth.models import User
from django.core.management import BaseCommand, call_command
from django.db import connections, transaction
from django.db.models.signals import post_save
from django.test import override_settings
from websockets.sync.client import ClientConnection, connect

from gws_middleware.django import groups, instance
from gws_middleware.django.groups import user_group
from gws_middleware.django.liveserver import WebSocketLiveServerTestCase
from gws_middleware.groups import Groups, History, Presence, hub, presence_group
from tests.support.grouplogs import automatic_groups
from tests.support.rawclient import CLOSE, TEXT, RawClient, close_frame, frame, upgrade_request
from tests.support.servers import Server, eventually, launch

from .runserver import environment, running

ROOM = "room.1"
APP = "tests.django.project.wsgi:application"


# --- workers -------------------------------------------------------------------------------------------------------


class Site:
    """A gunicorn with two workers, and the groups of both in this process."""

    def __init__(self, server: Server, url: str, database: str) -> None:
        self.database = database
        presence = {"hall": Presence(events=True, leave_delay=3)}
        self.server, self.groups = server, Groups(url, history={"room": History()}, presence=presence)
        self.clients: list[RawClient] = []
        self._stack = ExitStack()

    def join(self, path: str) -> tuple[RawClient, bytes]:
        """A member, and the process that it is in."""
        client = self._stack.enter_context(self.server.connect())
        self.clients.append(client)
        client.send(upgrade_request(path))
        assert client.read_response().status == 101
        return client, client.read_frame().payload

    def members(self, path: str) -> list[RawClient]:
        """Members of a group, in both workers."""
        found: dict[bytes, RawClient] = {}
        while len(found) < 2:
            client, pid = self.join(path)
            found.setdefault(pid, client)
        return list(found.values())

    def close(self) -> None:
        """Disconnect all."""
        self._stack.close()
        self.groups.release()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str, str]]:
    """A server, the URL of its groups, and its database."""
    folder = tmp_path_factory.mktemp("site")
    database, url = {"NAME": str(folder / "db.sqlite3")}, f"sqlite://{folder}/groups"
    groups = {"url": url, "history": {"room": {}}, "presence": {"hall": {"events": True, "leave_delay": 3}}}
    env = {"DATABASE": json.dumps(database), "GWS": json.dumps({"groups": groups})}
    with launch("worker", folder / "server", APP, options=["--workers", "2"], env=env) as running:
        yield running, url, database["NAME"]


@pytest.fixture
def site(server: tuple[Server, str, str]) -> Iterator[Site]:
    """The shared server, for one test."""
    site = Site(*server)
    yield site
    site.close()
    server[0].log.check()


def texts(client: RawClient, count: int) -> list[str]:
    """The next messages."""
    frames = [client.read_frame() for _ in range(count)]
    assert [one.opcode for one in frames] == [TEXT] * count
    return [one.payload.decode() for one in frames]


@pytest.mark.parametrize("path", ["", "listening/"], ids=["waiting", "detached"])
def test_members_of_all_workers_get_what_any_process_sends(site: Site, path: str, token: str) -> None:
    """A request, another member, and a process that is no worker; in the same order. A view waits, or has returned."""
    one, other = site.members(f"/groups/{token}/{path}")
    talker, _ = site.join(f"/groups/{token}/")
    for number in range(5):
        site.server.get(f"/groups/{token}/send/?text=request{number}")
        site.groups.send(token, f"here{number}")
    talker.send(frame(TEXT, b"member"))
    expected = [f"{what}{number}" for number in range(5) for what in ("request", "here")] + ["member"]
    assert texts(one, 11) == texts(other, 11) == texts(talker, 11) == expected
    site.groups.close(token, 4000, "over")
    ends = [client.read_frame() for client in (one, other, talker)]
    assert [(end.opcode, end.payload) for end in ends] == [(CLOSE, b"\x0f\xa0over")] * 3


def test_members_are_counted_over_all_workers(site: Site, token: str) -> None:
    """A connection that ends is no member any more."""
    site.members(f"/groups/{token}/listening/")
    site.members(f"/groups/{token}/")

    def counted() -> set[int]:
        return {int(site.server.get(f"/groups/{token}/count/").body) for _ in range(4)} | {site.groups.count(token)}

    number = len(site.clients)
    eventually(lambda: counted() == {number}, f"{number} members in all processes")
    site.clients[0].send(close_frame())
    site.clients[-1].reset()
    eventually(lambda: counted() == {number - 2}, f"{number - 2} members in all processes")


def test_limits_count_all_workers(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    """``site_limits``."""
    groups = f"sqlite://{tmp_path_factory.mktemp('g')}/groups"
    env = {"GWS": json.dumps({"groups": groups, "site_limits": True, "max_connections": 6})}
    with (
        launch("worker", tmp_path / "server", APP, options=["--workers", "3"], env=env) as server,
        ExitStack() as stack,
    ):
        statuses = []
        for _ in range(10):
            client = stack.enter_context(server.connect())
            client.send(upgrade_request("/echo/"))
            statuses.append(client.read_response().status)
        assert statuses == [101] * 6 + [503] * 4


def test_transactions_of_requests_decide_about_messages(site: Site) -> None:
    """Ten are committed, and ten are rolled back."""
    members = site.members(f"/groups/{ROOM}/")
    assert site.server.get(f"/groups/{ROOM}/send/in-transactions/").status == 200
    for member in members:
        assert texts(member, 10) == [str(number) for number in range(0, 20, 2)]


def test_coroutines_of_a_view_send(site: Site, token: str) -> None:
    """With ``asend``, each after the other, or many at the same time."""
    members = site.members(f"/groups/{token}/listening/")
    assert site.server.get(f"/groups/{token}/send/by-coroutines/").status == 200
    for member in members:
        assert texts(member, 40) == [*map(str, range(20)), *["at once"] * 20]


def test_handler_keeps_no_database_connection(site: Site, token: str) -> None:
    """It queries in a greenlet, which ends."""
    members = site.members(f"/groups/{token}/handling/")
    for number in range(3):
        site.groups.send(token, number)
    for member in members:
        assert texts(member, 3) == ["0 1", "1 1", "2 1"]
    workers = psutil.Process(site.server.process.pid).children()

    def opened() -> list[str]:
        return [file.path for worker in workers for file in worker.open_files() if file.path == site.database]

    eventually(lambda: not opened(), "no open database")


PRELOADING = """
from gevent import monkey

monkey.patch_all()

preload_app = True
workers = 2


def when_ready(server):
    from gws_middleware.django import groups

    groups.send("room.1", "from the arbiter")
"""


def test_workers_of_a_preloaded_project_share_groups(tmp_path: Path) -> None:
    """Which the arbiter has used before it has forked them."""
    conf, url = tmp_path / "gunicorn.conf.py", f"sqlite://{tmp_path}/groups"
    conf.write_text(PRELOADING)
    env = {"GWS": json.dumps({"groups": {"url": url, "history": {"room": {}}}})}
    with launch("worker", tmp_path / "server", APP, options=["--config", str(conf)], env=env) as server:
        site = Site(server, url, "")
        members = site.members(f"/groups/{ROOM}/")
        for number in range(10):
            server.get(f"/groups/{ROOM}/send/?text={number}")
            members[number % 2].send(frame(TEXT, str(number).encode()))
            for member in members:
                assert texts(member, 2) == [str(number)] * 2
        history = [publication.data for publication in site.groups.history(ROOM)]
        assert history == ["from the arbiter", *(str(number) for number in range(10) for _ in range(2))]
        site.close()


def test_member_of_a_worker_that_is_killed_resumes_in_another(site: Site, token: str) -> None:
    """Nothing of a group with history is missed."""
    path = f"/groups/room.{token}/"
    client, pid = site.join(path)
    site.groups.send(f"room.{token}", "one")
    assert texts(client, 1) == ["one"]
    position = site.groups.position(f"room.{token}")
    os.kill(int(pid), signal.SIGKILL)
    site.server.log.expect(r"\[ERROR\] Worker \(pid:\d+\) was sent SIGKILL")
    site.server.get(f"{path}send/?text=two")
    again, missed = site.join(f"{path}?since={position}")
    assert missed == b"two"
    assert texts(again, 1) != [pid.decode()]
    eventually(lambda: site.groups.count(f"room.{token}") == 1, "one member")


class TestPresence:
    def users(self, site: Site, name: str) -> list[str]:
        """What each of the workers sees; nothing where they differ."""
        found = {site.server.get(f"/groups/{name}/members/").body for _ in range(8)}
        users: list[str] = json.loads(found.pop())
        return [] if found else users

    def test_members_of_all_workers_are_seen_by_each(self, site: Site, token: str) -> None:
        """And by this process, which is none of them; members get events of others, whatever workers those are in."""
        name = f"hall.{token}"
        one, other = site.members(f"/groups/{name}/present/?user=ada")
        extra = len(site.clients) - 2
        last, _ = site.join(f"/groups/{name}/present/?user=bob")
        eventually(lambda: site.groups.count(name) == 3 + extra, "the members")
        assert self.users(site, name) == ["ada"] * (2 + extra) + ["bob"]
        assert sorted(member.info["user"] for member in site.groups.members(name))[-2:] == ["ada", "bob"]
        for client in (one, other):
            while "bob" not in (joined := [change["info"]["user"] for change in self.event(client)["joined"]]):
                assert set(joined) == {"ada"}
        last.reset()
        for client in (one, other):
            assert [change["info"]["user"] for change in self.event(client)["left"]] == ["bob"]

    def event(self, client: RawClient) -> Any:
        """The next one."""
        [text] = texts(client, 1)
        return json.loads(text)

    def test_members_of_a_killed_worker(self, site: Site, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """They are none at once. Their leaves are events later, but for that of a page that has connected again."""
        monkeypatch.setattr(hub, "SETTLE", 0.1)
        monkeypatch.setattr(hub, "CHECK_EVERY", 0.1)  # this process removes what a dead worker had
        name = f"hall.{token}"
        path = f"/groups/{name}/present/"
        _, pid = site.join(f"{path}?user=lost")
        living = 0
        while site.join(f"{path}?user=back")[1] != pid:
            living += 1
        eventually(lambda: site.groups.count(name) == living + 2, "the members")
        events = site.groups.listen(presence_group(name), timeout=30)
        os.kill(int(pid), signal.SIGKILL)
        site.server.log.expect(r"\[ERROR\] Worker \(pid:\d+\) was sent SIGKILL")
        site.join(f"{path}?user=back")
        eventually(lambda: self.users(site, name) == ["back"] * (living + 1), "the members that are left")
        changes = next(events).data
        assert [change["info"]["user"] for change in changes["left"]] == ["lost"]
        assert changes["joined"] == []


# --- runserver and commands ----------------------------------------------------------------------------------------

URLS = """

from gws_middleware.django import groups


def waiting(request):
    groups.join("orders", request.websocket)
    request.websocket.send("joined")
    request.websocket.receive()


def listening(request):
    groups.join("orders", request.websocket)
    request.websocket.send("joined")
    request.websocket.detach()


urlpatterns += [path("waiting/", waiting), path("listening/", listening)]
"""
COMMAND = """
from django.core.management import BaseCommand

from gws_middleware.django import groups, instance


class Command(BaseCommand):
    def handle(self, **options):
        groups.send("orders", {"from": "a command"})
"""


def test_pages_of_runserver_get_what_a_command_sends(fresh_project: Path, tmp_path: Path) -> None:
    """Nothing is configured: both find the same file, whatever their working directories are."""
    commands = fresh_project / "site1" / "management" / "commands"
    commands.mkdir(parents=True)
    (commands / "notify.py").write_text(COMMAND)
    with (fresh_project / "site1" / "urls.py").open("a") as file:
        file.write(URLS)
    with (
        automatic_groups(fresh_project),
        running(fresh_project, "0") as server,
        server.connect("/waiting/") as page,
        server.connect("/listening/") as other,
    ):
        assert page.recv(10) == other.recv(10) == "joined"
        command = [sys.executable, str(fresh_project / "manage.py"), "notify"]
        subprocess.run(command, cwd=tmp_path, env=environment(), check=True, timeout=60)
        assert json.loads(page.recv(10)) == json.loads(other.recv(10)) == {"from": "a command"}


# --- the live server -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def database(environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Make the test database of this module a file."""
    path = tmp_path_factory.mktemp("database") / "test.sqlite3"
    in_memory = connections["default"]
    on_disk: Any = type(in_memory)({**in_memory.settings_dict, "NAME": str(path)}, "default")
    connections["default"] = on_disk
    call_command("migrate", verbosity=0)
    yield
    on_disk.close()
    connections["default"] = in_memory


class Command(BaseCommand):
    """A management command, for ``call_command``."""

    def handle(self, *args: Any, **options: Any) -> None:
        groups.send(ROOM, "a command")


def tell(instance: User, **arguments: Any) -> None:
    """A receiver of ``post_save``."""
    groups.send(user_group(instance), {"saved": instance.username})


def in_a_child() -> None:
    """What a prefork worker of a task queue runs."""
    with transaction.atomic():
        groups.send(ROOM, "a child")


class TestLiveServer(WebSocketLiveServerTestCase):
    """Server and tests have the same groups."""

    @classmethod
    def setUpClass(cls) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DJANGO_SETTINGS_MODULE", "tests.django.project.settings")
            super().setUpClass()

    @contextmanager
    def page(self, name: str = ROOM) -> Iterator[ClientConnection]:
        with connect(f"{self.live_server_ws_url}/groups/{name}/", proxy=None) as page:
            assert page.recv(10)
            yield page

    def receives(self, send: Callable[[], object], name: str = ROOM) -> Any:
        """What a page gets."""
        with self.page(name) as page:
            send()
            return page.recv(10)

    def test_page_and_test_send_to_each_other(self) -> None:
        """With the functions of the module."""
        with self.page() as page:
            groups.send(ROOM, {"n": 1})
            assert page.recv(10) == '{"n":1}'
            listener = groups.listen(ROOM, timeout=10)
            page.send("from the page")
            assert next(listener).data == page.recv(10) == "from the page"
            eventually(lambda: groups.count(ROOM) == 1, "one member in all processes")

    def test_page_gets_what_a_command_sends(self) -> None:
        """By ``call_command``."""
        assert self.receives(lambda: call_command(Command())) == "a command"

    def test_page_gets_what_a_receiver_of_a_signal_sends(self) -> None:
        """At the commit of what it is about."""
        user = User.objects.create(username="ada")
        post_save.connect(tell, sender=User)
        try:
            with self.page(user_group(user)) as page:
                with transaction.atomic():
                    user.save()
                    transaction.set_rollback(True)
                user.username = "bob"
                user.save()
                assert json.loads(page.recv(10)) == {"saved": "bob"}
        finally:
            post_save.disconnect(tell, sender=User)

    def test_page_gets_what_a_thread_sends(self) -> None:
        """Of the operating system."""

        def run() -> None:
            thread = threading.Thread(target=groups.send, args=(ROOM, "a thread"))
            thread.start()
            thread.join()

        assert self.receives(run) == "a thread"

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Python 3.12: this process has threads
    def test_page_gets_what_forked_children_send(self) -> None:
        """As a task queue forks its workers: the parent has sent before, and goes on."""
        groups.send("other", "x")
        context = multiprocessing.get_context("fork")
        children = [context.Process(target=in_a_child) for _ in range(4)]
        with self.page() as page:
            for child in children:
                child.start()
            groups.send(ROOM, "the parent")
            for child in children:
                child.join(20)
            assert [child.exitcode for child in children] == [0] * 4
            assert sorted(page.recv(10) for _ in range(5)) == ["a child"] * 4 + ["the parent"]

    def test_override_of_another_setting_has_no_effect(self) -> None:
        """The directory is that of the class."""
        with override_settings(GWS={"max_message_size": 5}):
            assert self.receives(lambda: groups.send(ROOM, "x")) == "x"

    def test_nothing_is_left_after_the_class(self) -> None:
        """A class of its own."""

        class Other(WebSocketLiveServerTestCase):
            """Is not run by pytest."""

            __test__ = False

        url = groups.get_groups().url
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DJANGO_SETTINGS_MODULE", "tests.django.project.settings")
            Other.setUpClass()
        other = Path(groups.get_groups().url.removeprefix("sqlite://"))
        groups.send(ROOM, "x")
        assert other.is_dir() and str(other) != url
        Other.tearDownClass()
        Other.doClassCleanups()
        assert (other.exists(), groups.get_groups().url) == (False, "memory://")
        instance.use_in_tests(url)
