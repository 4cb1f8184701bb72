"""The page "WebSockets" of the admin: in one process, with two workers, and in a browser.

The pictures that the last tests take are in ``tests/screenshots/``; two of them are in ``docs/images/``.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from html.parser import HTMLParser
from io import StringIO
from typing import Any
from unittest.mock import patch
from urllib.parse import urlencode

import pytest
import requests
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core import checks
from django.core.management import call_command
from django.test import TestCase
from playwright.sync_api import Browser, BrowserContext, Page, expect

from gws_middleware.django import admin as page_module
from gws_middleware.django import groups, models
from gws_middleware.django.test import WebSocketClient, WebSocketTestMixin
from gws_middleware.django.users import find_key
from gws_middleware.groups import GroupsUnavailable
from gws_middleware.groups.survey import ConnectionInfo, Survey, WorkerInfo
from tests.support.browsing import SIZES, TIMEOUT, browser, needs_chromium
from tests.support.documents import url
from tests.support.inprocess import until
from tests.support.programs import run_python
from tests.support.rawclient import CLOSE, TEXT, RawClient, close_frame, upgrade_request
from tests.support.servers import ROOT, Server, launch
from tests.support.waiting import eventually

from .support import refusal

__all__ = ["browser"]

PAGE = "/admin/gws_middleware/connection/"
LIVE = f"{PAGE}live/"
SCREENSHOTS = ROOT / "tests" / "screenshots"


def row(html: str, path: str) -> str:
    """The row of the connection with this path."""
    [found] = [each for each in re.findall(r"<tr id=\"gws-\w+\">.*?</tr>", html, re.DOTALL) if f">{path}<" in each]
    return found


def number_of(html: str, path: str) -> str:
    """The id of that connection."""
    [found] = re.findall(r'name="id" value="(\w+)"', row(html, path))
    return found


class AdminCase(WebSocketTestMixin, TestCase):
    """Three users of the admin: with all rights, with the right to see, without any."""

    client: WebSocketClient

    def setUp(self) -> None:
        self.ada = User.objects.create_superuser("ada")
        self.viewer = User.objects.create_user("viewer", is_staff=True)
        self.viewer.user_permissions.add(Permission.objects.get(codename="view_connection"))
        self.clerk = User.objects.create_user("clerk", is_staff=True)
        self.client.force_login(self.ada)

    def page(self, query: str = "") -> str:
        """The page."""
        response = self.client.get(PAGE + query)
        assert response.status_code == 200
        return response.content.decode()

    def post(self, *ids: str, query: str = "", **fields: Any) -> str:
        """The page after its form was sent."""
        response = self.client.post(PAGE + query, {"id": ids, **fields}, follow=True)
        return response.content.decode()


class TestPermissions(AdminCase):
    def test_anonymous_user_is_sent_to_the_login(self) -> None:
        """For the page, its form and its WebSocket."""
        self.client.logout()
        for response in (self.client.get(PAGE), self.client.post(PAGE), refusal(self.client, LIVE)):
            assert (response.status_code, response.headers["Location"].partition("?")[0]) == (302, "/admin/login/")

    def test_user_without_permission_sees_nothing(self) -> None:
        """The page is not in the index, and neither page, form nor WebSocket can be had."""
        self.client.force_login(self.clerk)
        assert PAGE not in self.client.get("/admin/").content.decode()
        for response in (self.client.get(PAGE), self.client.post(PAGE), refusal(self.client, LIVE)):
            assert response.status_code == 403

    def test_user_who_may_see_may_not_close(self) -> None:
        """There is no form, and one that is sent all the same has no effect."""
        with self.client.websocket("/ws/room/7/") as ws:
            ws.receive()
            number = number_of(self.page(), "/ws/room/7/")
            self.client.force_login(self.viewer)
            html = self.page()
            assert "/ws/room/7/" in html and 'name="id"' not in html and 'name="do"' not in html
            for do in ("close", "send"):
                fields = {"id": number, "do": do, "code": 1008, "message": "x"}
                assert self.client.post(PAGE, fields).status_code == 403
            with self.client.websocket(LIVE) as live:
                assert 'name="id"' not in live.receive()
            ws.send("x")
            assert ws.receive() == "x"

    def test_user_who_may_change_may_close(self) -> None:
        """The permission that the admin calls ``change``."""
        self.viewer.user_permissions.set([Permission.objects.get(codename="change_connection")])
        self.client.force_login(self.viewer)
        with WebSocketClient().websocket("/ws/room/7/") as ws:
            ws.receive()
            self.post(number_of(self.page(), "/ws/room/7/"), do="close", code=4000)
            assert ws.receive() is None

    def test_permissions_are_those_of_the_documentation(self) -> None:
        """All of them, by their names."""
        names = re.findall(r"gws_middleware\.\w+_connection", (ROOT / "docs" / "django.md").read_text("utf-8"))
        assert sorted(set(names)) == sorted(f"gws_middleware.{action}_connection" for action in ("change", "view"))
        assert self.ada.has_perms(names) and set(names) <= {
            f"{one.content_type.app_label}.{one.codename}" for one in Permission.objects.all()
        }

    def test_form_of_another_site_is_refused(self) -> None:
        """By the token against forged requests."""
        client = WebSocketClient(enforce_csrf_checks=True)
        client.force_login(self.ada)
        assert client.post(PAGE, {"id": "1", "do": "close", "code": 1008}).status_code == 403

    def test_page_is_in_the_index(self) -> None:
        """Under "WebSockets", without links to add something."""
        html = self.client.get("/admin/").content.decode()
        assert f'href="{PAGE}"' in html and "WebSockets" in html
        assert f"{PAGE}add/" not in html

    def test_another_admin_site_has_the_page(self) -> None:
        """With links to itself."""
        html = self.client.get(PAGE.replace("admin", "staff-admin", 1)).content.decode()
        assert 'data-live="/staff-admin/gws_middleware/connection/live/"' in html
        assert 'href="/staff-admin/"' in html and 'href="/admin/' not in html
        with self.client.websocket(LIVE.replace("admin", "staff-admin", 1)) as live:
            assert "gws-rows" in live.receive()


class TestList(AdminCase):
    def test_page_has_the_facts_of_a_connection(self) -> None:
        """User, address, path, worker, messages and groups; and the worker."""
        with self.client.websocket("/ws/room/7/", REMOTE_ADDR="10.1.2.3") as ws:
            for _ in range(3):
                ws.send("x")
            assert [ws.receive() for _ in range(4)]
            html = self.page()
            found = row(html, "/ws/room/7/")
            for fact in (">ada<", "10.1.2.3", f":{os.getpid()}<", ">room.7<", f">user.{self.ada.pk}<", ">3<br>"):
                assert fact in found, fact
            assert re.search(rf'<tr id="gws-worker-[^"]*:{os.getpid()}">.*?<td>1</td><td>2</td>', html)
            assert "1 connection." in html

    def test_page_without_connections(self) -> None:
        """It has a sentence in place of rows."""
        html = self.page()
        assert "No connections." in html and "0 connections." in html

    def test_filters(self) -> None:
        """By user, path, worker and group, and several at once."""
        other = WebSocketClient()
        other.force_login(self.clerk)
        with self.client.websocket("/ws/room/7/") as one, other.websocket("/ws/room/8/") as two:
            assert one.receive() and two.receive()
            worker = re.findall(r"\?worker=([^\"]+)\"", self.page())[0]
            for query, seven, eight in (
                (f"?user={self.ada.pk}", True, False),
                ("?user=clerk", False, True),
                ("?user=unknown", False, False),
                ("?user=" + "9" * 40, False, False),
                ("?path=/ws/room/8/", False, True),
                (f"?worker={worker}", True, True),
                ("?worker=other:1", False, False),
                ("?group=room.7", True, False),
                (f"?group=room.7&user={self.clerk.pk}", False, False),
                ("?user=&path=&worker=&group=", True, True),
            ):
                html = self.page(query)
                assert (">/ws/room/7/<" in html, ">/ws/room/8/<" in html) == (seven, eight), query
            with self.client.websocket(f"{LIVE}?group=room.7") as live:
                html = live.receive()
                assert (">/ws/room/7/<" in html, ">/ws/room/8/<" in html) == (True, False)

    def test_primary_key_comes_before_a_name(self) -> None:
        """A user who is called like the key of another one does not take its place; a deleted user is found."""
        other = User.objects.create_user(str(self.ada.pk))
        assert find_key(str(self.ada.pk)) == str(self.ada.pk)
        assert find_key("ada") == str(self.ada.pk)
        other.username = "123456"
        other.save()
        assert find_key("123456") == str(other.pk)
        assert (find_key("654321"), find_key("nemo")) == ("654321", None)

    def test_hostile_texts_are_text(self) -> None:
        """Of clients, users, workers and fields, in the page and over its WebSocket."""
        text = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>"
        names = dict.fromkeys(("user", "user_name", "address", "path", "worker"), text)
        worker = WORKER._replace(name=text, version=text)
        survey = Survey([info(**names, groups=(text,))], [worker], [text], False)
        query = "?" + urlencode(dict.fromkeys(("user", "path", "worker", "group", "page"), text))
        with patch.object(groups, "survey", lambda **_: survey), self.client.websocket(LIVE + query) as live:
            for html in (self.page(), self.page(query), live.receive(), self.post("1", query=query, do="close")):
                assert "&lt;script&gt;alert(1)" in html
                parser = Elements()
                parser.feed(html)
                assert "img" not in parser.found and "onerror" not in parser.attributes
                assert parser.found.count("script") == html.count("<script src=")

    def test_worker_that_has_not_answered_is_named(self) -> None:
        """Its connections may be missing."""
        survey = Survey([info()], [WORKER], ["web2:20"], False)
        with patch.object(groups, "survey", lambda **_: survey):
            html = self.page()
        assert "Worker <bdi>web2:20</bdi> has not answered" in html
        assert ">3 ms</td><td>1.2.3</td>" in html and "12 ms</td>" in row(html, "/1/")

    def test_groups_that_cannot_be_used_are_reported(self) -> None:
        """In the page, at its form, and over the WebSocket, which stays."""

        def unavailable(**arguments: Any) -> None:
            raise GroupsUnavailable("no connection")

        with patch.object(groups, "survey", unavailable), self.client.websocket(LIVE) as live:
            for html in (self.page(), live.receive(), self.post("1", do="send", message="x")):
                assert "no connection" in html

    def test_long_list_has_pages(self) -> None:
        """The newest first; the filters stay."""
        survey = Survey([info(number) for number in range(250)], [WORKER], [], False)
        with patch.object(groups, "survey", lambda **_: survey):
            first, last = self.page("?user=7"), self.page("?user=7&page=3")
            with self.client.websocket(f"{LIVE}?page=3") as live:
                assert live.receive().count('name="id"') == 50
        assert re.findall(r'name="id" value="(\d+)"', first) == [str(number) for number in range(249, 149, -1)]
        assert "250 connections found." in first and '?user=7&amp;page=2" rel="next"' in first
        assert last.count('name="id"') == 50 and '?user=7&amp;page=2" rel="prev"' in last

    def test_survey_that_has_not_all_states_it(self) -> None:
        """More than are asked for."""
        asked: dict[str, Any] = {}

        def survey(**arguments: Any) -> Survey:
            asked.update(arguments)
            return Survey([info(number) for number in range(1000)], [WORKER], [], True)

        with patch.object(groups, "survey", survey):
            html = self.page("?path=/x/&group=all")
        assert "1000 connections found: those that were opened first; there are more." in html
        assert asked == {"path": "/x/", "group": "all", "limit": 1000}

    def test_groups_are_counted(self) -> None:
        """The largest first, and no more than fifty."""
        connections = [info(n, groups=("all", f"room.{n}")) for n in range(60)]
        with patch.object(groups, "survey", lambda **_: Survey(connections, [WORKER], [], False)):
            html = self.page()
        found = re.findall(r'<tr id="gws-group-([^"]+)">.*?<td>(\d+)</td></tr>', html)
        assert found[0] == ("all", "60") and len(found) == 50 and "61, of which these have the most members" in html


class Elements(HTMLParser):
    """The names of all elements and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.attributes.update(name for name, _ in attrs)


class TestActions(AdminCase):
    def test_selected_connections_are_closed(self) -> None:
        """With code and reason, and no other. The log of the admin has each of them."""
        with ExitStack() as stack:
            one, two, three = (stack.enter_context(self.client.websocket(f"/ws/room/{n}/")) for n in range(3))
            assert one.receive() and two.receive() and three.receive()
            html = self.page()
            ids = [number_of(html, f"/ws/room/{n}/") for n in (0, 1)]
            html = self.post(*ids, query="?group=room.0", do="close", code=4000, reason="maintenance")
            assert "2 connections. Closed with 4000: maintenance" in html and 'value="room.0"' in html
            for ws in (one, two):
                assert ws.receive() is None
                assert (ws.close_code, ws.close_reason) == (4000, "maintenance")
            three.send("x")
            assert three.receive() == "x"
        logged = list(LogEntry.objects.order_by("pk"))
        assert [(each.user, each.object_id, each.change_message) for each in logged] == [
            (self.ada, number, "Closed with 4000: maintenance") for number in ids
        ]
        assert logged[0].object_repr == "ada at 127.0.0.1: /ws/room/0/"
        assert "ada at 127.0.0.1" in self.client.get("/admin/").content.decode()

    def test_wrong_code_closes_nothing(self) -> None:
        """The page says what is wanted, and the connection stays selected."""
        with self.client.websocket("/ws/room/7/") as ws:
            ws.receive()
            number = number_of(self.page(), "/ws/room/7/")
            for fields in ({"code": 1006}, {"code": ""}, {"code": 1000, "reason": "ü" * 62}):
                html = self.post(number, do="close", **fields)
                assert "errorlist" in html
                assert "checked" in row(html, "/ws/room/7/")
            ws.send("x")
            assert ws.receive() == "x"
        assert not LogEntry.objects.exists()

    def test_message_is_sent_to_the_selected_connection(self) -> None:
        """As text, to no other, and it is logged."""
        with self.client.websocket("/ws/room/7/") as ws, self.client.websocket("/ws/room/8/") as other:
            assert ws.receive() and other.receive()
            html = self.post(number_of(self.page(), "/ws/room/7/"), do="send", message=' {"a": 1} ')
            assert "1 connection. Sent" in html
            assert ws.receive() == ' {"a": 1} '
            other.send("y")
            assert other.receive() == "y"
            assert "errorlist" in self.post("1", do="send", message="")
        assert LogEntry.objects.get().change_message == 'Sent:  {"a": 1} '

    def test_nothing_is_selected(self) -> None:
        """The page says so."""
        assert "No connection is selected." in self.post(do="close", code=1008)


class TestLive(AdminCase):
    def test_page_is_sent_again_and_again(self) -> None:
        """With connections that come and go."""
        with patch.object(page_module, "INTERVAL", 0.05), self.client.websocket(LIVE) as live:
            assert ">/ws/room/7/<" not in live.receive()
            with self.client.websocket("/ws/room/7/") as ws:
                ws.receive()
                until(lambda: ">/ws/room/7/<" in live.receive())
            until(lambda: ">/ws/room/7/<" not in live.receive())

    def test_websocket_ends_after_its_lifetime(self) -> None:
        """The page then opens another, which is checked as any request."""
        with (
            patch.object(page_module, "LIFETIME", 0.1),
            patch.object(page_module, "INTERVAL", 0.05),
            self.client.websocket(LIVE) as live,
        ):
            while live.receive() is not None:
                pass
            assert live.close_code == 1000

    def test_websocket_ends_with_a_message(self) -> None:
        """A page sends none; no peer can ask for surveys faster."""
        with self.client.websocket(LIVE) as live:
            assert live.receive()
            live.send("x")
            assert live.receive() is None

    def test_websocket_ends_with_the_logout(self) -> None:
        """As all of that session."""
        with self.client.websocket(LIVE) as live:
            assert live.receive()
            self.client.logout()
            while live.receive() is not None:
                pass
            assert live.close_code == 4401


# --- the model -----------------------------------------------------------------------------------------------------


class TestModel(TestCase):
    def test_no_project_needs_a_migration(self) -> None:
        """The model has no table."""
        call_command("makemigrations", "--check", "--dry-run", verbosity=0)

    def test_data_can_be_dumped(self) -> None:
        """Django reads models without a table, too."""
        for use_base_manager in (False, True):
            out = StringIO()
            call_command("dumpdata", "gws_middleware", use_base_manager=use_base_manager, stdout=out)
            assert json.loads(out.getvalue()) == []

    def test_migrate_makes_the_permissions(self) -> None:
        """Two, and no more."""
        found = Permission.objects.filter(content_type__app_label="gws_middleware").values_list("codename", flat=True)
        assert set(found) == {"view_connection", "change_connection"}

    def test_system_checks_have_nothing_to_say(self) -> None:
        """Of the model and the page."""
        assert checks.run_checks(tags=["admin", "models"]) == []


def test_modules_name_what_is_public() -> None:
    """Django loads them once apps are ready, so ``test_architecture`` cannot."""
    for module in (models, page_module):
        assert module.__doc__
        assert [name for name in module.__all__ if not hasattr(module, name)] == []


def info(number: int = 1, **facts: Any) -> ConnectionInfo:
    """A connection as a survey has it."""
    usual = ConnectionInfo(
        str(number), "web1:10", "7", "ada", "10.0.0.1", f"/{number}/", 1e9 + number, 1e9, 3, 4, 50, 60, 0, 0.012, ()
    )
    return usual._replace(**facts)


WORKER = WorkerInfo("web1:10", "web1", 10, 1e9, 1, 2, 0.0034, "1.2.3")


# --- two workers ---------------------------------------------------------------------------------------------------

PREPARE = """
import json

import django

django.setup()

from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client

call_command("migrate", verbosity=0)
sessions = {}
for name in ("ada", "bob", "grace", "katherine"):
    is_of_staff = name in ("ada", "bob")
    user = User.objects.create_user(name, is_superuser=is_of_staff, is_staff=is_of_staff)
    client = Client()
    client.force_login(user)
    sessions[name] = client.cookies["sessionid"].value
print(json.dumps(sessions))
"""
APP = "tests.django.project.wsgi_static:application"


class Site:
    """A gunicorn with two workers, and the sessions of users; ada and bob are superusers."""

    def __init__(self, server: Server, sessions: dict[str, str]) -> None:
        self.server, self.sessions = server, sessions
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.headers["Connection"] = "close"  # each request may come to the other worker
        self.http.cookies.set("sessionid", sessions["ada"], domain="127.0.0.1")
        self.address = url(server, PAGE, "http")
        self._stack = ExitStack()
        self._stack.callback(self.http.close)

    def open(self, path: str = "/ws/room/7/", user: str = "grace") -> tuple[RawClient, int]:
        """A WebSocket of a user, and the process that it is in."""
        client = self._stack.enter_context(self.server.connect())
        client.send(upgrade_request(path, ("Cookie", f"sessionid={self.sessions[user]}")))
        assert client.read_response().status == 101
        return client, int(client.read_frame().payload)

    def members(self, path: str = "/ws/room/7/") -> dict[int, RawClient]:
        """One WebSocket in each worker, by process."""
        found: dict[int, RawClient] = {}
        while len(found) < 2:
            client, pid = self.open(path)
            if pid in found:
                client.reset()
            found.setdefault(pid, client)
        eventually(lambda: self.page("?path=" + path).count('name="id"') == 2, "two connections")
        return found

    def page(self, query: str = "") -> str:
        """The page, as ada gets it from either worker."""
        response = self.http.get(self.address + query, timeout=20)
        assert response.status_code == 200
        return response.text

    def post(self, html: str, **fields: Any) -> str:
        """The page after its form was sent for all its connections."""
        token = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', html)[0]
        fields |= {"csrfmiddlewaretoken": token, "id": re.findall(r'name="id" value="(\w+)"', html)}
        return self.http.post(self.address, fields, timeout=20).text

    def close(self) -> None:
        """Disconnect all."""
        self._stack.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, dict[str, str]]]:
    """The server, and the session of each user."""
    folder = tmp_path_factory.mktemp("s")
    env = {
        "DJANGO_SETTINGS_MODULE": "tests.django.project.settings",
        "DATABASE": json.dumps({"NAME": str(folder / "db.sqlite3")}),
        "GWS": json.dumps({"groups": f"sqlite://{folder}/groups"}),
    }
    prepared = run_python("-c", PREPARE, env=env)
    assert prepared.returncode == 0, prepared.stderr
    with launch("worker", folder / "server", APP, options=["--workers", "2"], env=env) as server:
        yield server, json.loads(prepared.stdout)


@pytest.fixture
def site(running: tuple[Server, dict[str, str]]) -> Iterator[Site]:
    """The shared server, for one test."""
    site = Site(*running)
    yield site
    site.close()
    site.server.log.check()


def test_page_has_the_connections_of_all_workers(site: Site) -> None:
    """Whichever worker serves it."""
    pids = site.members()
    for html in (site.page() for _ in range(6)):
        for pid in pids:
            assert re.search(rf'<tr id="gws-worker-[^"]+:{pid}">', html)
            assert re.search(rf'<tr id="gws-\w+">.*?/ws/room/7/.*?:{pid}<', html)


def test_close_reaches_the_connections_of_all_workers(site: Site) -> None:
    """From one of them."""
    members = site.members()
    html = site.post(site.page("?path=/ws/room/7/"), do="close", code=4000, reason="maintenance")
    assert "2 connections. Closed with 4000: maintenance" in html
    for client in members.values():
        frame = client.read_frame()
        assert (frame.opcode, frame.code, frame.reason) == (CLOSE, 4000, "maintenance")


def test_message_reaches_the_connections_of_all_workers(site: Site) -> None:
    """The same."""
    members = site.members()
    site.post(site.page("?path=/ws/room/7/"), do="send", message="is it there?")
    for client in members.values():
        frame = client.read_frame()
        assert (frame.opcode, frame.payload) == (TEXT, b"is it there?")


def test_worker_that_is_stopped_is_missing(site: Site) -> None:
    """By name, with its connections; until it goes on."""
    _, pid = site.open()
    eventually(lambda: f":{pid}<" in site.page("?path=/ws/room/7/"), "the connection")
    os.kill(pid, signal.SIGSTOP)
    try:
        missing = re.compile(rf"Worker <bdi>[^<]+:{pid}</bdi> has not answered")
        eventually(lambda: missing.search(site.page()), "the name of the worker")
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: not missing.search(site.page()), "the answer of the worker")
    assert f":{pid}<" in site.page("?path=/ws/room/7/")


# --- in a browser ----------------------------------------------------------------------------------------------------

REFUSED = "WebSocket connection to"
FAILED = "Failed to load resource"
"""How Chromium's console begins to tell of a request that failed; a page cannot keep it from that."""

Open = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser, site: Site) -> Iterator[Open]:
    """``opened(query)``: the page of a superuser. An error on its console fails the test, unless it begins as
    ``expected``.
    """
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def come(
        query: str = "", user: str = "ada", expected: tuple[str, ...] = (), live: bool = True, **options: Any
    ) -> Page:
        context = browser.new_context(**options)
        context.set_default_timeout(TIMEOUT)
        cookie = {"name": "sessionid", "value": site.sessions[user], "url": url(site.server, "/", "http")}
        context.add_cookies([cookie])

        def note(text: str) -> None:
            if not expected or not text.startswith(expected):
                errors.append(text)

        context.on("console", lambda message: note(message.text) if message.type == "error" else None)
        context.on("weberror", lambda error: note(str(error.error)))
        contexts.append(context)
        page = context.new_page()
        if not live:
            page.route_web_socket("**/live/**", lambda route: route.close())
        page.goto(site.address + query)
        return page

    yield come
    for context in contexts:
        context.close()
    assert errors == []


def state(page: Page, text: str) -> None:
    """The page says how it is updated."""
    expect(page.locator("#gws-state")).to_have_text(text)


def rows(page: Page) -> Any:
    """The rows of the connections of the tests."""
    return page.locator("#gws-rows tr").filter(has_text="/ws/")


@needs_chromium
@pytest.mark.parametrize("size", SIZES)
def test_page_is_live(site: Site, opened: Open, size: str) -> None:
    """Connections come, change and disappear without a reload; what is selected stays selected and has the focus."""
    page = opened("?path=/ws/room/7/", viewport=SIZES[size])
    state(page, "Live")
    expect(rows(page)).to_have_count(0)
    one, _ = site.open()
    expect(rows(page)).to_have_count(1)
    box = rows(page).get_by_role("checkbox")
    box.check()
    box.focus()
    two, _ = site.open(user="katherine")
    expect(rows(page)).to_have_count(2)
    expect(rows(page).first).to_contain_text("katherine")
    box = rows(page).filter(has_text="grace").get_by_role("checkbox")
    expect(box).to_be_checked()
    expect(box).to_be_focused()
    one.text("hello")
    expect(rows(page).filter(has_text="grace").locator("td").nth(4)).to_contain_text(re.compile("^1"))
    two.reset()
    expect(rows(page)).to_have_count(1)
    expect(page.locator("#gws-groups tr")).to_have_count(2)


@needs_chromium
def test_connection_is_closed_by_the_page(site: Site, opened: Open) -> None:
    """Selected, closed, and no longer in the list. Enter in a field does nothing."""
    client, _ = site.open()
    page = opened("?path=/ws/room/7/")
    expect(rows(page)).to_have_count(1)
    page.get_by_label("Select grace").check()
    page.get_by_label("Reason").fill("maintenance")
    page.keyboard.press("Enter")
    page.get_by_label("Code").fill("4000")
    page.get_by_label("Message:").fill("is it there?")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("1 connection. Sent: is it there?")).to_be_visible()
    page.get_by_label("Select grace").check()
    page.get_by_label("Code").fill("4000")
    page.get_by_label("Reason").fill("maintenance")
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_text("1 connection. Closed with 4000: maintenance")).to_be_visible()
    expect(page).to_have_url(f"{site.address}?path=/ws/room/7/")
    assert client.read_frame().payload == b"is it there?"
    assert client.read_frame().reason == "maintenance"
    client.send(close_frame(4000))  # without an answer it is listed for the ten seconds of close_timeout
    state(page, "Live")
    expect(rows(page)).to_have_count(0)


@needs_chromium
def test_selection_outlasts_a_wrong_code(site: Site, opened: Open) -> None:
    """The updates that follow leave it as it is."""
    site.open()
    page = opened("?path=/ws/room/7/")
    page.get_by_label("Select grace").check()
    page.get_by_label("Code").fill("1006")
    page.get_by_role("button", name="Close").click()
    expect(page.locator(".errorlist")).to_contain_text("wanted a code of 1000-1003")
    state(page, "Live")
    site.open(user="katherine")
    expect(rows(page)).to_have_count(2)
    expect(page.get_by_label("Select grace")).to_be_checked()


@needs_chromium
def test_page_without_a_websocket_is_fetched_again(site: Site, opened: Open) -> None:
    """E.g. where a proxy does not pass it on."""
    page = opened("?path=/ws/room/7/", live=False)
    state(page, "Not live: updated every 5 seconds")
    site.open()
    expect(rows(page)).to_have_count(1)


@needs_chromium
def test_page_without_javascript(site: Site, opened: Open) -> None:
    """It can be reloaded, searched and used."""
    client, _ = site.open()
    page = opened(java_script_enabled=False)
    state(page, "Reload this page for newer data.")
    page.get_by_label("Path begins with").fill("/ws/room/7/")
    page.get_by_role("button", name="Search").click()
    page.get_by_label("Select grace").check()
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_text("1 connection. Closed with 1008")).to_be_visible()
    assert client.read_frame().code == 1008


@needs_chromium
def test_page_goes_on_with_another_worker(site: Site, opened: Open) -> None:
    """When its own is killed."""
    page = opened(expected=(REFUSED, FAILED))
    state(page, "Live")
    own = page.locator("#gws-rows tr").filter(has_text="/live/")
    expect(own).to_have_count(1)
    pid = int((own.locator("a[href^='?worker=']").text_content() or "").rpartition(":")[2])
    with page.expect_websocket():
        os.kill(pid, signal.SIGKILL)
    expect(page.locator("#gws-workers")).not_to_contain_text(f":{pid}")
    state(page, "Live")
    site.server.log.expect(r"\[ERROR\] Worker \(pid:\d+\) was sent SIGKILL")


@needs_chromium
def test_all_of_a_page_are_selected_at_once(site: Site, opened: Open) -> None:
    """And none again."""
    for _ in range(3):
        site.open()
    page = opened("?path=/ws/room/7/")
    expect(rows(page)).to_have_count(3)
    for wanted in (True, False):
        page.get_by_label("Select all on this page").set_checked(wanted)
        assert rows(page).get_by_role("checkbox").evaluate_all("all => all.map(one => one.checked)") == [wanted] * 3


@needs_chromium
@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_page_fits_the_screen(site: Site, opened: Open, size: str, scheme: str) -> None:
    """Tables scroll, and the page itself does not scroll sideways; a picture is taken."""
    for path, user in (
        ("/ws/order/4711/", "grace"),
        ("/ws/room/lobby/", "grace"),
        ("/ws/room/lobby/", "katherine"),
        ("/ws/price/EUR-USD/", "katherine"),
        ("/ws/room/support/", "katherine"),
    ):
        client, _ = site.open(path, user)
        client.text("hello")
        assert client.read_frame().payload == b"hello"
    page = opened("?path=/ws/", viewport=SIZES[size], color_scheme=scheme)
    state(page, "Live")
    expect(rows(page)).to_have_count(5)
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"admin-{size}-{scheme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") == 0
    for label in ("User", "Path begins with", "Worker", "Group", "Code", "Reason", "Message"):
        expect(page.get_by_label(f"{label}:", exact=True)).to_be_visible()


@needs_chromium
def test_logout_ends_the_updates(site: Site, opened: Open) -> None:
    """The page says what to do."""
    page = opened(user="bob", expected=(REFUSED, FAILED))
    state(page, "Live")
    other = page.context.new_page()
    other.goto(url(site.server, "/admin/", "http"))
    other.get_by_role("button", name="Log out").click()
    state(page, "Not live: log in again, and reload this page")
