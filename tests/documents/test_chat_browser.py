"""The page of ``examples/chat`` in real browsers: people who talk to each other, lose their connection and come back.

The pictures that the last tests take are in ``tests/screenshots/``.
"""

from __future__ import annotations

import os
import re
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, WebSocketRoute, expect

from ..support.browsing import SIZES, TIMEOUT, browser, needs_chromium
from ..support.chat import Chat, serve_chat
from ..support.documents import url
from ..support.servers import ROOT
from ..support.waiting import eventually

SCREENSHOTS = ROOT / "tests" / "screenshots"
REFUSED = "WebSocket connection to"
"""How Chromium's console begins to tell of a handshake that failed; a page cannot keep it from that."""
OFFLINE = "Failed to load resource: net::ERR_INTERNET_DISCONNECTED"
"""What it says of a request without a network."""

__all__ = ["browser"]

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    """The example, set up and started with the commands of its README."""
    with serve_chat(tmp_path_factory.mktemp("chat")) as chat:
        yield chat


class Person:
    """A user in front of a browser."""

    def __init__(self, context: BrowserContext, page: Page, name: str) -> None:
        self.context, self.page, self.name = context, page, name
        self.is_known = False
        """Whether this browser is logged in."""

    def visit(self, chat: Chat, room: str = "") -> None:
        """Open the chat, and wait to be connected. A newcomer fills in the form first."""
        self.page.goto(url(chat.server, f"/rooms/{room}/" if room else "/", "http"))
        if not self.is_known:
            self.page.get_by_label("Name").fill(self.name)
            self.page.get_by_label("Password").fill("secret")
            self.page.get_by_role("button", name="Start chatting").click()
        self.is_connected()
        self.is_known = True

    def is_connected(self) -> None:
        """The page says so."""
        expect(self.page.get_by_role("status")).to_have_text("Connected")

    def reload(self) -> None:
        """Load the page again, and wait to be connected."""
        self.page.reload()
        self.is_connected()

    def say(self, text: str) -> None:
        """Type a message and press Enter."""
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.keyboard.press("Enter")

    def shows(self, *texts: str) -> None:
        """These are the messages on the page, and there is no other."""
        expect(self.bubbles).to_have_text(list(texts))

    @property
    def bubbles(self) -> Locator:
        """The messages."""
        return self.page.locator(".bubble")

    @property
    def notices(self) -> Locator:
        """The lines about users who joined and left."""
        return self.page.locator(".notice")


def open_browser(
    browser: Browser, errors: list[str], name: str = "", expected: str | tuple[str, ...] = "", **options: object
) -> Person:
    """A browser of its own; errors on its console, unless they begin like one of ``expected``, are added to a list."""

    def note(text: str) -> None:
        if not expected or not text.startswith(expected):
            errors.append(text)

    context = browser.new_context(**options)  # type: ignore[arg-type]
    context.set_default_timeout(TIMEOUT)
    context.on("console", lambda message: note(message.text) if message.type == "error" else None)
    context.on("weberror", lambda error: note(str(error.error)))
    return Person(context, context.new_page(), name or f"user-{uuid.uuid4().hex[:6]}")


Newcomer = Callable[..., Person]


@pytest.fixture
def newcomer(browser: Browser) -> Iterator[Newcomer]:
    """``newcomer(name)``: a browser of their own for each. An error on a page's console fails the test, unless it is
    one that ``expected`` names.
    """
    people: list[Person] = []
    errors: list[str] = []

    def come(name: str = "", **options: object) -> Person:
        people.append(open_browser(browser, errors, name, **options))  # type: ignore[arg-type]
        return people[-1]

    yield come
    for person in people:
        person.context.close()
    assert errors == []


class Regulars:
    """Users who log in once for all tests: a browser that starts and a password's hash take a second of the processor
    for each.
    """

    def __init__(self, browser: Browser, chat: Chat, *names: str) -> None:
        self._errors: list[str] = []
        self._people = [open_browser(browser, self._errors, name) for name in names]
        for person in self._people:
            person.visit(chat)

    def begin(self) -> list[Person]:
        """Each with one page, which is empty."""
        for person in self._people:
            for page in person.context.pages:
                page.close()
            person.page = person.context.new_page()
        return self._people

    def end(self) -> None:
        """An error on the console of a page fails the test."""
        errors, self._errors[:] = list(self._errors), []
        assert errors == []


@pytest.fixture(scope="module")
def regulars(browser: Browser, chat: Chat) -> Regulars:
    """Two of them."""
    return Regulars(browser, chat, "", "")


@pytest.fixture
def room(chat: Chat) -> str:
    """A room of this test's own."""
    return chat.room()


Pair = tuple[Person, Person]


@pytest.fixture
def couple(regulars: Regulars) -> Iterator[Pair]:
    """Two users, who are not in a room yet."""
    ada, bob = regulars.begin()
    yield ada, bob
    regulars.end()


@pytest.fixture
def pair(chat: Chat, couple: Pair, room: str) -> Pair:
    """Two users in that room; the first one came first."""
    for person in couple:
        person.visit(chat, room)
    return couple


def test_two_people_talk(pair: Pair) -> None:
    """Each sees the own messages as such and the other's under a name; markup is text."""
    ada, bob = pair
    expect(ada.notices).to_have_text([f"{bob.name} joined"])
    expect(ada.page.locator("#count")).to_have_text("2")
    ada.say("Grüße, 你好")
    bob.say("<img src=x onerror=alert(1)>")
    for person in (ada, bob):
        person.shows("Grüße, 你好", "<img src=x onerror=alert(1)>")
    expect(ada.page.locator(".mine .bubble")).to_have_text(["Grüße, 你好"])
    expect(ada.page.locator(".message:not(.mine) b")).to_have_text([bob.name])


def test_typing_is_seen_until_the_message_comes(pair: Pair) -> None:
    """The others see who is typing; the message takes its place."""
    ada, bob = pair
    bob.page.get_by_label("Message", exact=True).press_sequentially("hello")
    expect(ada.page.get_by_text(f"{bob.name} is typing…")).to_be_visible()
    expect(bob.page.locator("#typing")).to_be_hidden()
    bob.page.keyboard.press("Enter")
    ada.shows("hello")
    assert ada.page.locator("#typing").is_hidden()  # at once: after some seconds it disappears by itself


def test_reload_keeps_the_history_and_is_not_announced(pair: Pair) -> None:
    """The messages are shown again, and the others see neither a leave nor a join, until the page is closed."""
    ada, bob = pair
    ada.say("one")
    bob.shows("one")
    bob.page.reload()
    bob.is_connected()
    bob.shows("one")
    bob.say("two")
    ada.shows("one", "two")
    expect(ada.notices).to_have_text([f"{bob.name} joined"])
    bob.page.close()
    expect(ada.notices).to_have_text([f"{bob.name} joined", f"{bob.name} left"])
    expect(ada.page.locator("#count")).to_have_text("1")


def test_logout_ends_the_other_tab(chat: Chat, newcomer: Newcomer, room: str) -> None:
    """It says so and stays disconnected; other users go on."""
    ada, bob = newcomer(), newcomer()
    ada.visit(chat, room)
    bob.visit(chat, room)
    tab = ada.context.new_page()
    tab.goto(url(chat.server, "/rooms/lobby/", "http"))
    tab.get_by_role("button", name="Log out").click()
    expect(tab.get_by_role("button", name="Start chatting")).to_be_visible()
    expect(ada.page.get_by_text("You have been logged out.")).to_be_visible()
    expect(ada.page.get_by_role("status")).to_have_text("Disconnected")
    expect(ada.page.get_by_label("Message", exact=True)).to_be_hidden()
    bob.say("still here")
    bob.shows("still here")
    ada.page.get_by_role("link", name="Log in again").click()
    expect(ada.page).to_have_url(url(chat.server, f"/join/?next=/rooms/{room}/", "http"))


def test_restart_of_the_server_is_survived(newcomer: Newcomer, socket_path: Path) -> None:
    """Both come back by themselves, ask for what is new alone, and talk on; no user was seen to leave."""
    with serve_chat(socket_path) as chat:
        room = chat.room()
        ada, bob = newcomer(), newcomer()
        sockets: list[str] = []
        ada.page.on("websocket", lambda opened: sockets.append(opened.url.partition("?")[2]))
        ada.visit(chat, room)
        bob.visit(chat, room)
        ada.say("before")
        bob.shows("before")
        with ada.page.expect_websocket(), bob.page.expect_websocket():
            chat.server.kill(signal.SIGHUP)
        # A page that comes back quickly may meet an old worker, which closes that connection, too.
        chat.server.log.find("Worker exiting", 2)
        for person in (ada, bob):
            person.is_connected()
            expect(person.page.locator("#count")).to_have_text("2")
        bob.say("after")
        for person in (bob, ada):  # first the page that has sent it: so a failure tells whether it was
            person.shows("before", "after")
        expect(ada.notices).to_have_text([f"{bob.name} joined"])
        assert (sockets[0], sockets[-1].rpartition(".")[2]) == ("", "1")
        for person in (ada, bob):
            person.context.close()


def test_killed_worker_is_survived_by_both_pages(newcomer: Newcomer, socket_path: Path) -> None:
    """The pages are connected to different workers. They have one list in one order, before and after one is killed."""
    with serve_chat(socket_path) as chat:
        room = chat.room()
        ada, bob = newcomer(expected=REFUSED), newcomer(expected=REFUSED)
        ada.visit(chat, room)
        bob.visit(chat, room)
        eventually(lambda: number_of(ada) != number_of(bob) or bob.reload(), "two workers", interval=0.1)
        killed = worker_of(chat, bob)
        for number in range(10):
            (ada if number % 2 else bob).say(str(number))
        expect(ada.bubbles).to_have_count(10)
        expect(bob.bubbles).to_have_text(ada.bubbles.all_text_contents())
        with bob.page.expect_websocket():
            os.kill(killed, signal.SIGKILL)
            ada.say("meanwhile")
        bob.is_connected()
        bob.say("after")
        expect(ada.bubbles).to_have_count(12)
        expect(bob.bubbles).to_have_text(ada.bubbles.all_text_contents())
        assert [person.bubbles.nth(10).text_content() for person in (ada, bob)] == ["meanwhile"] * 2
        expect(bob.page.locator("#worker")).to_have_text(re.compile(r"Served by worker [12] of [12]\."))
        for person in (ada, bob):
            expect(person.page.locator("#count")).to_have_text("2")
        for person in (ada, bob):
            person.context.close()
        chat.server.log.expect("Worker .* was sent SIGKILL")


def test_ten_seconds_without_a_line_while_a_worker_is_killed(newcomer: Newcomer, socket_path: Path) -> None:
    """A page that was cut off, and one whose worker was killed meanwhile: both have one list in one order."""
    with serve_chat(socket_path) as chat:
        room = chat.room()
        ada, bob = newcomer(expected=(REFUSED, OFFLINE)), newcomer(expected=REFUSED)
        line = Line(ada.page)
        ada.visit(chat, room)
        bob.visit(chat, room)
        ada.say("before")
        for person in (ada, bob):
            person.shows("before")
        ada.context.set_offline(True)  # keeps requests from the server, but not an open WebSocket
        line.cut()
        begun, texts = time.monotonic(), ["before"]
        while time.monotonic() < begun + 10 or len(texts) < 12:
            if len(texts) == 5:
                with bob.page.expect_websocket():
                    os.kill(worker_of(chat, bob), signal.SIGKILL)
                bob.is_connected()
            texts.append(f"number {len(texts)}")
            bob.say(texts[-1])
            bob.shows(*texts)
            time.sleep(0.4)  # people write one after the other
        ada.shows("before")
        line.cut_off = False
        ada.context.set_offline(False)
        ada.shows(*texts)
        ada.is_connected()
        ada.say("after")
        for person in (ada, bob):
            person.shows(*texts, "after")
            person.context.close()
        chat.server.log.expect("Worker .* was sent SIGKILL")


def worker_of(chat: Chat, person: Person) -> int:
    """The process that this page is connected to."""
    return int(chat.database.with_suffix(f".worker-{number_of(person)}.lock").read_text())


def number_of(person: Person) -> str:
    """The worker that the page says it is connected to."""
    found = re.fullmatch(r"Served by worker (\d) of 2\.", person.page.locator("#worker").text_content() or "")
    return found[1] if found else ""


def test_second_tab_is_not_announced(chat: Chat, pair: Pair, room: str) -> None:
    """Its user is in the room already, and stays when one of the tabs is closed."""
    ada, bob = pair
    tab = Person(bob.context, bob.context.new_page(), bob.name)
    tab.page.goto(url(chat.server, f"/rooms/{room}/", "http"))
    tab.is_connected()
    tab.page.get_by_label("Message", exact=True).press_sequentially("hello")
    expect(ada.page.get_by_text(f"{bob.name} is typing…")).to_be_visible()  # sent after the join, in the same group
    tab.page.close()
    expect(ada.notices).to_have_text([f"{bob.name} joined"])
    expect(ada.page.locator("#count")).to_have_text("2")


def test_typing_that_comes_after_its_message_is_not_shown(pair: Pair) -> None:
    """They are sent to two groups, which have no common order."""
    ada, bob = pair
    bob.say("typed")
    ada.shows("typed")
    shown = """([after, id]) => {
        const user = {id, name: "bob"};
        handlers.typing({user, after});
        return document.querySelector("#typing").classList.contains("on");
    }"""
    last = int(ada.page.locator(".message").get_attribute("data-id") or 0)
    sender = int(ada.page.locator(".message").get_attribute("data-user") or 0)
    assert [ada.page.evaluate(shown, [after, sender]) for after in (last - 1, last)] == [False, True]


def test_messages_of_two_workers_are_sorted_by_id(pair: Pair) -> None:
    """Whichever order they come in; a message that comes twice is shown once."""
    ada, _ = pair
    ada.say("one")
    ada.shows("one")
    ada.page.evaluate(
        """for (const id of [900003, 900001, 900002, 900001]) handlers.message(
            {id, user: {id: 0, name: "eve"}, text: `number ${id}`, sent: new Date().toISOString(), position: "x.1"})"""
    )
    ada.shows("one", "number 900001", "number 900002", "number 900003")
    expect(ada.page.locator(".message.first")).to_have_count(2)  # a block of hers, and one of eve's


def test_page_that_was_away_for_too_long_shows_each_message_once(chat: Chat, couple: Pair, room: str) -> None:
    """Its position is not kept any more: it gets the newest messages, and says that some are not shown."""
    ada, bob = couple
    line = Line(ada.page)
    ada.visit(chat, room)
    bob.visit(chat, room)
    bob.say("one")
    ada.shows("one")
    line.cut()
    ada.page.evaluate("position = 'another.1'")
    for number in range(51):
        bob.say(f"number {number}")
    expect(bob.bubbles).to_have_count(52)
    line.cut_off = False
    expect(ada.bubbles).to_have_text(["one", *(f"number {number}" for number in range(1, 51))])
    expect(ada.page.get_by_text("Some messages in between are not shown")).to_be_visible()
    line.opened[-1].close(code=1012)
    eventually(
        lambda: "another" not in line.opened[-1].url, "a position", sleep=lambda _: ada.page.wait_for_timeout(50)
    )
    ada.is_connected()
    bob.say("two")
    expect(ada.bubbles.last).to_have_text("two")
    expect(ada.bubbles).to_have_count(52)


def test_addresses_are_links_and_nothing_else_is(pair: Pair) -> None:
    """Only http and https, without what ends a sentence; quotes and markup do not get out of them."""
    ada, bob = pair
    texts = (
        "See https://example.org/a_(b)?c=d&e#f, or http://example.net.",
        "javascript:alert(1) data:text/html,<script>alert(1)</script> vbscript:x",
        'https://example.org/"onmouseover="alert(1)',
        "https://example.org/<img src=x onerror=alert(1)>",
        "xhttps://[broken https://",
    )
    bob.page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    for text in texts:
        ada.say(text)
        expect(bob.bubbles.last).to_have_text(text)
    bob.shows(*texts)
    links = bob.page.locator(".bubble a")
    assert links.evaluate_all("all => all.map(one => [one.getAttribute('href'), one.rel, one.target])") == [
        [href, "noopener noreferrer nofollow", "_blank"]
        for href in (
            "https://example.org/a_(b)?c=d&e#f",
            "http://example.net",
            "https://example.org/",
            "https://example.org/",
        )
    ]
    assert bob.page.locator("#log").evaluate("log => log.querySelectorAll('script, img, [onmouseover]').length") == 0


def test_what_does_not_fit_is_counted(pair: Pair) -> None:
    """The browser cuts what is pasted; the page says how much."""
    ada, _ = pair
    writing = ada.page.get_by_label("Message", exact=True)
    writing.fill("x" * 1990)
    writing.press("End")
    ada.page.keyboard.insert_text("0123456789abc")
    expect(writing).to_have_value("x" * 1990 + "0123456789")
    expect(ada.page.get_by_text("Cut at 2000 characters: the last 3 did not fit.")).to_be_visible()
    writing.press("Backspace")
    expect(ada.page.locator(".cut")).to_be_empty()


def test_name_that_does_not_fit_is_counted(chat: Chat, newcomer: Newcomer) -> None:
    """The form says so before it is sent."""
    ada = newcomer()
    ada.page.goto(url(chat.server, "/", "http"))
    ada.page.get_by_label("Name").press_sequentially("n" * 25)
    expect(ada.page.get_by_label("Name")).to_have_value("n" * 24)
    expect(ada.page.get_by_text("Cut at 24 characters: the last 1 did not fit.")).to_be_visible()


@pytest.mark.parametrize("touch", [False, True])
def test_composer_has_the_focus_where_there_is_a_keyboard(
    chat: Chat, newcomer: Newcomer, room: str, touch: bool
) -> None:
    """On a telephone the focus would open one, which covers half of the page."""
    ada = newcomer(has_touch=touch, is_mobile=touch)
    ada.visit(chat, room)
    expect(ada.page.locator("#id_text:focus")).to_have_count(0 if touch else 1)


class Line:
    """What is between a page and the server: it can be cut, and stays so until it is mended."""

    def __init__(self, page: Page) -> None:
        self.cut_off = self.swallows = False
        self.opened: list[WebSocketRoute] = []
        page.route_web_socket("**/ws/**", self._open)

    def _open(self, route: WebSocketRoute) -> None:
        if self.cut_off:
            route.close(code=1012)
        else:
            server = route.connect_to_server()
            route.on_message(lambda message: None if self.swallows else server.send(message))
            self.opened.append(route)

    def cut(self) -> None:
        """End the connection, and every one that comes."""
        self.cut_off = True
        self.opened[-1].close(code=1012)


def test_what_was_missed_comes_when_the_line_is_back(chat: Chat, couple: Pair, room: str) -> None:
    """1012 is no end: the page tries again, until it has all messages, each once."""
    ada, bob = couple
    line = Line(ada.page)
    ada.visit(chat, room)
    bob.visit(chat, room)
    bob.say("one")
    ada.shows("one")
    line.cut()
    expect(ada.page.get_by_role("status")).to_contain_text("Reconnecting")
    bob.say("two")
    bob.say("three")
    bob.shows("one", "two", "three")
    ada.page.get_by_label("Message", exact=True).fill("written meanwhile")
    expect(ada.page.get_by_role("button", name="Send")).to_be_disabled()
    ada.shows("one")
    line.cut_off = False
    ada.shows("one", "two", "three")
    ada.is_connected()
    ada.page.get_by_role("button", name="Send").click()
    bob.shows("one", "two", "three", "written meanwhile")


def test_what_was_lost_on_the_way_is_in_the_composer_again(chat: Chat, couple: Pair, room: str) -> None:
    """A message that the server has not sent back is not forgotten; one that it has is not offered again."""
    ada, _ = couple
    line = Line(ada.page)
    ada.visit(chat, room)
    ada.say("arrives")
    ada.shows("arrives")
    line.swallows = True
    ada.say("is lost")
    line.cut()
    line.cut_off = line.swallows = False
    expect(ada.page.get_by_label("Message", exact=True)).to_have_value("is lost")
    ada.is_connected()
    ada.page.get_by_role("button", name="Send").click()
    ada.shows("arrives", "is lost")


def test_session_that_ended_meanwhile_ends_the_attempts(chat: Chat, newcomer: Newcomer, room: str) -> None:
    """A handshake that is answered with the login page is not tried again."""
    ada = newcomer(expected=REFUSED)
    ada.visit(chat, room)
    ada.context.clear_cookies()
    ada.page.evaluate("socket.close()")
    expect(ada.page.get_by_text("You have been logged out.")).to_be_visible()
    expect(ada.page.get_by_role("status")).to_have_text("Disconnected")


def test_unread_messages_show_in_the_title(pair: Pair, room: str) -> None:
    """While the page is hidden they are counted; the count is cleared when it is shown."""
    ada, bob = pair
    ada.page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    bob.say("one")
    bob.say("two")
    expect(ada.page).to_have_title(f"(2) {room} · Chat")
    ada.page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    expect(ada.page).to_have_title(f"{room} · Chat")


def test_long_history_is_read_in_peace(pair: Pair) -> None:
    """Who has scrolled up stays there, and is informed that there is more below."""
    ada, bob = pair
    for number in range(30):
        bob.say(f"message {number}")
    expect(ada.bubbles.last).to_be_in_viewport()
    expect(ada.bubbles).to_have_count(30)
    ada.page.locator("#scroll").evaluate("node => node.scrollTop = 0")
    bob.say("the newest")
    button = ada.page.get_by_role("button", name="New messages")
    expect(button).to_be_visible()
    expect(ada.bubbles.first).to_be_in_viewport()
    button.click()
    expect(ada.page.get_by_text("the newest")).to_be_in_viewport()
    expect(button).to_be_hidden()


def test_button_for_new_messages_covers_nothing(chat: Chat, couple: Pair, room: str) -> None:
    """It is one line above the composer, however much is written there, on the smallest of phones too."""
    ada, bob = couple
    ada.page.set_viewport_size({"width": 320, "height": 568})
    ada.visit(chat, room)
    bob.visit(chat, room)
    for number in range(20):
        bob.say(f"message {number}")
    expect(ada.bubbles).to_have_count(20)
    ada.page.get_by_label("Message", exact=True).fill("a line\n" * 12)
    ada.page.locator("#scroll").evaluate("node => node.scrollTop = 0")
    bob.say("the newest")
    expect(ada.page.locator("#newest")).to_be_visible()
    picture(ada.page, "chat-newest-phone")
    button, writing = (ada.page.locator(name).bounding_box() for name in ("#newest", "#composer"))
    assert button is not None and writing is not None
    assert button["y"] + button["height"] <= writing["y"]
    assert button["height"] < 40


def test_page_fetches_nothing_from_elsewhere(chat: Chat, newcomer: Newcomer) -> None:
    """All that the browser asks for comes from this server."""
    ada = newcomer()
    asked: list[str] = []
    ada.page.on("request", lambda request: asked.append(request.url))
    ada.page.on("websocket", lambda opened: asked.append(opened.url))
    ada.visit(chat)
    assert {address.partition("://")[2].partition("/")[0] for address in asked} == {url(chat.server, "", "")[3:]}


# --- how it looks --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    """A server without the rooms of other tests: one of the first three for each picture."""
    with serve_chat(tmp_path_factory.mktemp("gallery")) as chat:
        yield chat


@pytest.fixture(scope="module")
def sitters(browser: Browser, gallery: Chat) -> Regulars:
    """The users on the pictures."""
    return Regulars(browser, gallery, "Ada.Lovelace", "grace", "katherine.j")


@pytest.fixture
def three(sitters: Regulars) -> Iterator[list[Person]]:
    """They, who are not in a room yet."""
    yield sitters.begin()
    sitters.end()


@pytest.mark.parametrize(
    ("size", "scheme", "room"),
    [("desktop", "light", "lobby"), ("desktop", "dark", "coffee"), ("phone", "light", "help")],
)
def test_page_fits_the_screen(
    gallery: Chat, three: list[Person], size: str, scheme: Literal["light", "dark"], room: str
) -> None:
    """Everything can be reached without scrolling the page, and a picture is taken."""
    ada, grace, katherine = three
    ada.page.set_viewport_size(SIZES[size])
    ada.page.emulate_media(color_scheme=scheme)
    for person in three:
        person.visit(gallery, room)
    for speaker, text in (
        (ada, "Good morning! Did you try the new build?"),
        (ada, "It starts in about a second here."),
        (grace, "Yes. No second server, and forty lines of configuration less: it still works."),
        (katherine, "Same on my phone. It came back by itself after the tunnel."),
        (ada, "That is the real test."),
    ):
        speaker.say(text)
        expect(ada.bubbles.last).to_have_text(text)
    grace.page.get_by_label("Message", exact=True).press_sequentially("See")
    expect(ada.page.locator("#typing")).to_be_visible()
    picture(ada.page, f"chat-{size}-{scheme}")
    for name in ("#state", "#composer", "#send", "h1"):
        expect(ada.page.locator(name)).to_be_in_viewport(ratio=1)
    expect(ada.bubbles.last).to_be_in_viewport(ratio=1)
    root = "document.documentElement"
    assert ada.page.evaluate(f"[{root}.scrollWidth - innerWidth, {root}.scrollHeight - innerHeight]") == [0, 0]


def test_side_slides_in_on_a_phone(gallery: Chat, three: list[Person]) -> None:
    """A button shows rooms, users and the logout; Escape hides them."""
    ada = three[0]
    ada.page.set_viewport_size(SIZES["phone"])
    ada.visit(gallery)
    logout, menu = ada.page.locator("#logout"), ada.page.locator("#menu")
    expect(logout).to_be_hidden()
    menu.click()
    lobby = ada.page.get_by_role("link", name="Lobby")
    expect(lobby).to_be_focused()
    inside = (
        "document.querySelector('#side').contains(document.activeElement) || document.activeElement === document.body"
    )
    for _ in range(8):  # there are five in it; after the last one the browser's own controls have their turn
        ada.page.keyboard.press("Tab")
        assert ada.page.evaluate(inside)
    lobby.focus()
    ada.page.keyboard.press("Shift+Tab")
    assert ada.page.evaluate(inside)
    expect(logout).to_be_in_viewport(ratio=1)
    picture(ada.page, "chat-phone-side")
    ada.page.keyboard.press("Escape")
    expect(logout).to_be_hidden()
    expect(menu).to_be_focused()
    menu.click()
    ada.page.set_viewport_size({"width": 1100, "height": 760})
    ada.say("The page is not inert when there is no menu")
    expect(ada.bubbles.last).to_have_text("The page is not inert when there is no menu")


@pytest.mark.parametrize("width", [640, 844])
def test_users_can_be_reached_on_a_phone_on_its_side(gallery: Chat, three: list[Person], width: int) -> None:
    """With and without a menu: the list and the logout are below the rooms, and the side scrolls."""
    ada = three[0]
    ada.page.set_viewport_size({"width": width, "height": 360})
    ada.visit(gallery, gallery.room())
    if width == 640:
        ada.page.locator("#menu").click()
    person = ada.page.locator("#people li")
    person.scroll_into_view_if_needed()
    expect(person).to_be_in_viewport(ratio=0.95)  # it ends between two pixels
    picture(ada.page, f"chat-landscape-{width}")
    logout = ada.page.locator("#logout")
    logout.scroll_into_view_if_needed()
    expect(logout).to_be_in_viewport(ratio=1)
    if width == 640:
        ada.page.keyboard.press("Escape")
    for name in ("#state", "#composer", "#send"):
        expect(ada.page.locator(name)).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize("size", SIZES)
def test_form_fits_the_screen(chat: Chat, newcomer: Newcomer, size: str) -> None:
    """The first page, with the sentence about a name that is none."""
    ada = newcomer(viewport=SIZES[size])
    ada.page.goto(url(chat.server, "/", "http"))
    ada.page.get_by_label("Name").fill("two words")
    ada.page.get_by_label("Password").fill("x")
    ada.page.get_by_role("button", name="Start chatting").click()
    expect(ada.page.get_by_role("alert").first).to_contain_text("without spaces")
    expect(ada.page.get_by_role("button", name="Start chatting")).to_be_in_viewport(ratio=1)
    picture(ada.page, f"chat-form-{size}")


def test_unknown_address_has_a_way_back(chat: Chat, newcomer: Newcomer) -> None:
    """The page of a 404 is one of the chat's."""
    ada = newcomer(expected="Failed to load resource", viewport=SIZES["phone"])
    ada.visit(chat)
    ada.page.goto(url(chat.server, "/rooms/nowhere/", "http"))
    picture(ada.page, "chat-not-found-phone")
    ada.page.get_by_role("link", name="To the chat").click()
    ada.is_connected()


def picture(page: Page, name: str) -> None:
    """A screenshot that outlives the test."""
    SCREENSHOTS.mkdir(exist_ok=True)
    page.evaluate(
        "Promise.all(document.getAnimations().filter(one => one.effect.getTiming().iterations === 1).map("
        "one => one.finished))"
    )
    page.screenshot(path=SCREENSHOTS / f"{name}.png")
