"""``examples/notifications`` in real browsers, set up and started with the commands of its README: two workers.

The pictures that the tests take are in ``tests/screenshots/``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, StorageState, WebSocketRoute, expect

from ..support.brokers import broker
from ..support.browsing import SIZES, TIMEOUT, browser, needs_chromium, process_of, reload_until
from ..support.centrifuge import javascript, needs_npm
from ..support.documents import blocks, command, exported, serve, url
from ..support.programs import environment, run_python
from ..support.servers import ROOT, Server
from ..support.waiting import eventually

EXAMPLE = ROOT / "examples" / "notifications"
SCREENSHOTS = ROOT / "tests" / "screenshots"
CDN = "https://cdn.jsdelivr.net/npm/centrifuge@5.8.0/dist/centrifuge.js"

__all__ = ["browser", "javascript"]

pytestmark = [needs_chromium, needs_npm]


# --- the server -----------------------------------------------------------------------------------------------------


COMMANDS = """
import json, sys
from django.core.management import call_command
for line in sys.stdin:
    call_command(*json.loads(line))
    print("done", flush=True)
"""
"""Carries out a command for each line: one process starts, and not one for each command."""


@dataclass(frozen=True)
class Site:
    """The running example."""

    server: Server
    env: dict[str, str]
    commands: subprocess.Popen[str]

    def manage(self, *arguments: str) -> Any:
        """``manage.py`` with these arguments; how it ended."""
        return run_python(str(EXAMPLE / "manage.py"), *arguments, env=self.env)

    def notify(self, user: str, text: str) -> None:
        """The command ``notify``, in a process that is no worker."""
        assert self.commands.stdin is not None and self.commands.stdout is not None
        self.commands.stdin.write(json.dumps(["notify", user, text]) + "\n")
        self.commands.stdin.flush()
        while (line := self.commands.stdout.readline()) != "done\n":
            assert line, "the process of the commands has ended"

    def stored(self) -> int:
        """How many notifications there are."""
        with closing(sqlite3.connect(self.env["NOTIFICATIONS_DATABASE"])) as database:
            return int(database.execute("SELECT count(*) FROM notifications_notification").fetchone()[0])

    def empty(self) -> None:
        """Remove all notifications."""
        with closing(sqlite3.connect(self.env["NOTIFICATIONS_DATABASE"], timeout=10)) as database, database:
            database.execute("DELETE FROM notifications_notification")

    def address(self, path: str = "/") -> str:
        """Of a page."""
        return url(self.server, path, "http")


def lines() -> list[str]:
    """The commands of the README."""
    return [line for block in blocks(EXAMPLE / "README.md", "sh") for line in block.splitlines()]


@contextmanager
def served(directory: Path, **env: str) -> Iterator[Site]:
    """The example with a database of its own, as README's commands start it."""
    site_env = {"NOTIFICATIONS_DATABASE": str(directory / "notifications.sqlite3"), **env}
    (line,) = [line for line in lines() if "migrate" in line]
    ended = run_python(*shlex.split(line)[1:], env=site_env)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    shell = [sys.executable, str(EXAMPLE / "manage.py"), "shell", "-c", COMMANDS]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        serve(command(EXAMPLE / "README.md", "gunicorn"), directory / "server", env=site_env) as server,
        subprocess.Popen(shell, cwd=ROOT, env={**environment(), **site_env}, **pipes) as commands,
    ):
        yield Site(server, site_env, commands)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One server for all tests."""
    with served(tmp_path_factory.mktemp("s")) as site:
        yield site


@pytest.fixture
def site(running: Site) -> Site:
    """Its users have no notifications."""
    running.empty()
    return running


# --- its users ------------------------------------------------------------------------------------------------------


class User:
    """A user in a browser."""

    def __init__(self, context: BrowserContext, site: Site, name: str, is_known: bool = False) -> None:
        self.context, self.site, self.name = context, site, name
        self.page = context.new_page()
        self.page.goto(site.address())
        if not is_known:
            self.page.get_by_label("Username").fill(name)
            self.page.get_by_label("Password").fill("demo")
            self.page.get_by_role("button", name="Log in").click()

    def tab(self, path: str = "/") -> Page:
        """Another page of the same session."""
        page = self.context.new_page()
        page.goto(self.site.address(path))
        return page


Login = Callable[..., User]


@pytest.fixture(scope="module")
def sessions(browser: Browser, running: Site) -> dict[str, StorageState]:
    """The cookies of users who have logged in: to compute a password's hash takes long."""
    found = {}
    for name in ("ada", "grace"):
        context = browser.new_context()
        context.route(re.compile("^https:"), lambda route: route.abort())
        user = User(context, running, name)
        expect(user.page.get_by_role("button", name="Log out")).to_be_visible()
        found[name] = context.storage_state()
        context.close()
    return found


@pytest.fixture
def login(browser: Browser, site: Site, javascript: Path, sessions: dict[str, StorageState]) -> Iterator[Login]:
    """``login(name)``: a browser of its own for each user. In place of the CDN the package of npm is served.
    ``is_fresh``: the session is no other test's.
    """
    contexts: list[BrowserContext] = []

    def come(name: str, is_fresh: bool = False, **options: Any) -> User:
        session = None if is_fresh else sessions.get(name)
        context = browser.new_context(storage_state=session, **options)
        context.set_default_timeout(TIMEOUT)
        context.route(re.compile("^https:"), lambda route: from_package(route, javascript))
        contexts.append(context)
        return User(context, site, name, is_known=session is not None)

    yield come
    for context in contexts:
        context.close()


def from_package(route: Route, package: Path) -> None:
    """The file that the CDN has: the browser compares it with the hash in the page."""
    if route.request.url != CDN:
        pytest.fail(f"the page asks for {route.request.url}")
    headers = {"Access-Control-Allow-Origin": "*", "Content-Type": "text/javascript"}
    route.fulfill(path=package / "dist" / "centrifuge.js", headers=headers)


def connected(page: Page) -> None:
    """The page says so."""
    expect(page.locator("#state")).to_have_text("Connected")


def texts(page: Page) -> Locator:
    """The notifications on the page, the newest first."""
    return page.locator("#list .text")


def picture(page: Page, name: str) -> None:
    """A screenshot that outlives the test."""
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


# --- the pages ------------------------------------------------------------------------------------------------------


def test_notification_of_a_command_reaches_the_pages_of_its_user(site: Site, login: Login) -> None:
    """All tabs of that user, and no other user; markup is text. The counter counts."""
    ada, grace = login("ada"), login("grace")
    tabs = [grace.page, grace.tab()]
    for page in (ada.page, *tabs):
        connected(page)
    site.notify("grace", "<img src=x onerror=alert(1)> & co")
    site.notify("ada", "For ada alone")
    for page in tabs:
        expect(texts(page)).to_have_text(["<img src=x onerror=alert(1)> & co"])
        expect(page.locator("#count")).to_have_text("1 unread")
        expect(page).to_have_title("(1) Notifications")
    expect(texts(ada.page)).to_have_text(["For ada alone"])


def test_readmes_command(site: Site, login: Login) -> None:
    """The line of the README, in a process of its own."""
    (line,) = [line for line in lines() if "notify" in line]
    words = shlex.split(line)
    assert words[0] == ".venv-run/bin/python"
    user = login(words[-2])
    connected(user.page)
    ended = run_python(*words[1:], env=site.env)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    expect(texts(user.page)).to_have_text([words[-1]])


def test_view_sends_and_marks_as_read_in_all_tabs(site: Site, login: Login) -> None:
    """A form of one user reaches the other; "Mark all as read" reaches the other tab."""
    ada, grace = login("ada"), login("grace")
    tab = grace.tab()
    connected(tab)
    ada.page.get_by_label("To").select_option(label="grace")
    ada.page.get_by_label("Text").fill("Lunch?")
    ada.page.get_by_role("button", name="Send").click()
    for page in (tab, grace.page):
        expect(texts(page)).to_have_text(["Lunch?"])
        expect(page.locator("#list .unread")).to_have_count(1)
    grace.page.get_by_role("button", name="Mark all as read").click()
    for page in (tab, grace.page):
        expect(page.locator("#list .unread")).to_have_count(0)
        expect(page.locator("#count")).to_have_text("0 unread")
        expect(page).to_have_title("Notifications")


def test_what_was_sent_between_the_page_and_its_connection_comes_once(site: Site, login: Login) -> None:
    """The page begins at the position at which its list was read; what is in the list is not shown again."""
    grace = login("grace")
    connected(grace.page)
    site.notify("grace", "in the page")
    expect(texts(grace.page)).to_have_text(["in the page"])
    held: list[WebSocketRoute] = []

    def hold(route: WebSocketRoute) -> None:
        """The first connection waits here; the second one is made."""
        held.append(route)
        if len(held) > 1:
            route.connect_to_server()

    tab = grace.context.new_page()
    tab.route_web_socket("**/live/", hold)
    tab.goto(site.address())
    eventually(lambda: held or tab.wait_for_timeout(50), "the connection")
    site.notify("grace", "in between")
    expect(texts(grace.page)).to_have_text(["in between", "in the page"])
    expect(texts(tab)).to_have_text(["in the page"])
    held[0].close(code=1012)  # the client connects again
    expect(texts(tab)).to_have_text(["in between", "in the page"])
    expect(tab.locator("#count")).to_have_text("2 unread")


def test_what_is_in_the_page_and_comes_again_changes_nothing(site: Site, login: Login) -> None:
    """The position of the page is read before its list, so the list may have more."""
    grace = login("grace")
    connected(grace.page)
    site.notify("grace", "one")
    expect(texts(grace.page)).to_have_text(["one"])
    grace.page.get_by_role("button", name="Mark all as read").click()
    expect(grace.page.locator("#count")).to_have_text("0 unread")
    site.notify("grace", "two")
    tab = grace.context.new_page()
    # Before the script of the page runs.
    tab.add_init_script("""document.addEventListener("readystatechange", () => {
        document.getElementById("list").dataset.offset -= 2;
    }, {once: true})""")
    tab.goto(site.address())
    connected(tab)
    site.notify("grace", "three")  # it comes after those
    expect(texts(tab)).to_have_text(["three", "two", "one"])
    expect(tab.locator("#list .unread .text")).to_have_text(["three", "two"])
    expect(tab.locator("#count")).to_have_text("2 unread")


def test_killed_worker_is_survived(site: Site, login: Login) -> None:
    """Two pages of one user, at different workers. Both have one list in one order, before and after one is killed."""
    grace = login("grace")
    other = grace.tab()
    reload_until(other, lambda: process_of(grace.page) != process_of(other), "two workers")
    for number in range(3):
        site.notify("grace", f"before {number}")
    for page in (grace.page, other):
        expect(texts(page)).to_have_text([f"before {number}" for number in (2, 1, 0)])
    killed = process_of(other)
    os.kill(killed, signal.SIGKILL)
    expect(other.locator("#state")).not_to_have_text("Connected")
    site.notify("grace", "meanwhile")
    eventually(lambda: process_of(other) != killed, "another worker", sleep=lambda _: other.wait_for_timeout(50))
    connected(other)
    site.notify("grace", "after")
    for page in (grace.page, other):
        expect(texts(page)).to_have_text(["after", "meanwhile", *(f"before {number}" for number in (2, 1, 0))])
        expect(page.locator("#count")).to_have_text("5 unread")
    site.server.log.expect("Worker .* was sent SIGKILL")


def test_page_whose_position_is_lost_loads_itself_again(site: Site, login: Login) -> None:
    """The server cannot say what it has missed; the database has all."""
    grace = login("grace")
    connected(grace.page)
    site.notify("grace", "one")
    expect(texts(grace.page)).to_have_text(["one"])
    with grace.page.expect_navigation():
        grace.page.evaluate("""
            subscription.unsubscribe();
            client.removeSubscription(subscription);
            const lost = client.newSubscription(group, {since: {epoch: "another", offset: 1}});
            lost.on("subscribed", subscription.listeners("subscribed")[0]);
            lost.subscribe();
        """)
    connected(grace.page)
    expect(texts(grace.page)).to_have_text(["one"])


def test_logout_ends_the_other_tabs(site: Site, login: Login) -> None:
    """In both workers; they do not connect again. The other user's pages go on."""
    ada, grace = login("ada", is_fresh=True), login("grace")
    tabs = [ada.tab() for _ in range(4)] + [ada.tab("/dashboard/")]
    for page in (*tabs, grace.page):
        connected(page)
    ada.page.get_by_role("button", name="Log out").click()
    expect(ada.page.get_by_role("button", name="Log in")).to_be_visible()
    for page in tabs:
        expect(page.locator("#state")).to_have_text("Logged out")
    site.notify("grace", "still here")
    expect(texts(grace.page)).to_have_text(["still here"])


def test_site_of_several_hosts_uses_redis(browser: Browser, javascript: Path, tmp_path: Path) -> None:
    """With the variable of README, which the command has, too. Nothing is shared in a directory then."""
    assert exported(EXAMPLE / "README.md", "GROUPS_URL") == "redis://127.0.0.1:6379/0"
    with broker(tmp_path / "redis") as redis, served(tmp_path, GROUPS_URL=f"{redis.url}/0") as site:
        context = browser.new_context()
        context.set_default_timeout(TIMEOUT)
        context.route(re.compile("^https:"), lambda route: from_package(route, javascript))
        grace = User(context, site, "grace")
        tab = grace.tab()
        reload_until(tab, lambda: process_of(grace.page) != process_of(tab), "two workers")
        connected(grace.page)
        connected(tab)
        site.notify("grace", "by Redis")
        for page in (grace.page, tab):
            expect(texts(page)).to_have_text(["by Redis"])
        context.close()
        assert not (tmp_path / "notifications.groups").exists()


# --- the dashboard --------------------------------------------------------------------------------------------------


def rows(page: Page) -> list[str]:
    """User, text and state of each row."""
    found: list[str] = page.locator("#rows tr").evaluate_all(
        "all => all.map(row => [...row.cells].slice(0, 3).map(cell => cell.textContent.trim()).join(': '))"
    )
    return found


def shows(page: Page, *wanted: str) -> None:
    """These are the rows, and there is no other."""
    expect(page.locator("#rows tr")).to_have_count(len(wanted))
    eventually(lambda: rows(page) == list(wanted), f"{wanted}, not {rows(page)}", sleep=page.wait_for_timeout)


def test_dashboard_shows_all_and_is_for_staff(site: Site, login: Login) -> None:
    """New rows come on top, what changes is replaced; markup is text."""
    ada, grace = login("ada"), login("grace")
    dashboard = ada.tab("/dashboard/")
    connected(dashboard)
    site.notify("grace", "<script>alert(1)</script>")
    site.notify("ada", "two")
    shows(dashboard, "ada: two: unread", "grace: <script>alert(1)</script>: unread")
    grace.page.get_by_role("button", name="Mark all as read").click()
    shows(dashboard, "ada: two: unread", "grace: <script>alert(1)</script>: read")
    expect(grace.page.get_by_role("link", name="Dashboard")).to_have_count(0)
    answers = [user.context.request.get(site.address("/dashboard/")).status for user in (ada, grace)]
    assert answers == [200, 403]


def test_dashboard_gets_what_it_has_missed(site: Site, login: Login) -> None:
    """After a cut, from its position; two dashboards have one list in one order."""
    ada = login("ada")
    first, second = ada.tab("/dashboard/"), ada.context.new_page()
    opened: list[WebSocketRoute] = []

    def pass_on(route: WebSocketRoute) -> None:
        route.connect_to_server()
        opened.append(route)

    second.route_web_socket("**/live/dashboard/**", pass_on)
    second.goto(site.address("/dashboard/"))
    for page in (first, second):
        connected(page)
    site.notify("ada", "one")
    shows(second, "ada: one: unread")
    opened[-1].close(code=1012)
    site.notify("ada", "two")
    site.notify("grace", "three")
    for page in (first, second):
        shows(page, "grace: three: unread", "ada: two: unread", "ada: one: unread")


def test_dashboard_whose_position_is_lost_loads_itself_again(site: Site, login: Login) -> None:
    """The close code says so."""
    ada = login("ada")
    dashboard = ada.tab("/dashboard/")
    connected(dashboard)
    site.notify("ada", "one")
    shows(dashboard, "ada: one: unread")
    with dashboard.expect_navigation():
        dashboard.evaluate("rows.dataset.position = 'another.7'; connect()")
    connected(dashboard)
    shows(dashboard, "ada: one: unread")


# --- the command, and how it looks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("eve", "x"), "CommandError: there is no user 'eve'; wanted is one of ada, grace"),
        (("ada", ""), "CommandError: This field cannot be blank."),
        (("ada", "x" * 201), "CommandError: Ensure this value has at most 200 characters (it has 201)."),
    ],
)
def test_command_says_what_is_wrong(site: Site, arguments: tuple[str, str], sentence: str) -> None:
    """And stores nothing."""
    ended = site.manage("notify", *arguments)
    assert (ended.returncode, ended.stderr.strip(), site.stored()) == (1, sentence, 0)


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("desktop", "dark"), ("phone", "light")])
def test_pages_fit_the_screen(site: Site, login: Login, size: str, scheme: str) -> None:
    """Nothing is wider than the screen, and a picture of each page is taken."""
    options = {"viewport": SIZES[size], "color_scheme": scheme}
    ada = login("ada", **options)
    connected(ada.page)
    for text in (
        "Your parcel has arrived",
        "The build of main has passed",
        "Grace wrote: " + "well done! " * 9,
    ):
        site.notify("ada", text)
    site.notify("grace", "a" * 120)
    expect(texts(ada.page)).to_have_count(3)
    dashboard = ada.tab("/dashboard/")
    connected(dashboard)
    anonymous = login(uuid.uuid4().hex, **options).page
    expect(anonymous.get_by_role("alert")).to_be_visible()
    for name, page in (("mine", ada.page), ("dashboard", dashboard), ("login", anonymous)):
        picture(page, f"notifications-{name}-{size}-{scheme}")
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") == 0, name
