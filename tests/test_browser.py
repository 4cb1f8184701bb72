"""The Django example's page in a real browser, served with ``gunicorn_conf.py``: a client that is not ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from .support.browsing import SIZES, TIMEOUT, browser, needs_chromium
from .support.documents import command, serve, url
from .support.servers import ROOT, Server
from .support.waiting import eventually

__all__ = ["browser"]

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The example, started with the command of its README."""
    arguments = command(ROOT / "examples" / "django_view" / "README.md", "gunicorn")
    with serve(arguments, tmp_path_factory.mktemp("browser")) as server:
        yield server


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty tab; an error on the page's console fails the test."""
    context = browser.new_context()
    context.set_default_timeout(TIMEOUT)
    page = context.new_page()
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


def visit(page: Page, server: Server) -> None:
    """Open the page and wait for its WebSocket."""
    page.goto(url(server, scheme="http"))
    expect(page.locator("#state")).to_have_text("Open")


def say(page: Page, text: str) -> None:
    """Type a message and press Enter."""
    page.fill("#message", text)
    page.press("#message", "Enter")


def websockets(server: Server) -> int:
    """How many WebSockets the access log has seen end."""
    return sum(line.status == 101 for line in server.access("GET /ws/ "))


def test_page_shows_the_echo(page: Page, server: Server) -> None:
    """What is typed is sent by the page's own JavaScript, and what comes back is shown with its time."""
    visit(page, server)
    say(page, "Grüße, 你好 👋")
    expect(page.locator("#log .echo")).to_contain_text("Grüße, 你好 👋")
    expect(page.locator("#sent")).to_have_text("1")
    expect(page.locator("#received")).to_have_text("1")
    expect(page.locator("#last")).to_contain_text(" ms")


def test_page_sends_a_hundred_at_once(page: Page, server: Server) -> None:
    """A burst comes back whole."""
    visit(page, server)
    page.click("#burst")
    expect(page.locator("#log .echo")).to_contain_text("All 100 are back")
    expect(page.locator("#received")).to_have_text("100")


def test_page_is_reloaded(page: Page, server: Server) -> None:
    """Each load has a WebSocket of its own, and the access log has a line with 101 for each."""
    before = websockets(server)
    visit(page, server)
    say(page, "first")
    expect(page.locator("#log .echo")).to_contain_text("first")
    page.reload()
    expect(page.locator("#state")).to_have_text("Open")
    say(page, "second")
    expect(page.locator("#log .echo")).to_contain_text("second")
    page.goto("about:blank")
    assert eventually(lambda: websockets(server) >= before + 2, "two lines with 101 in the access log")


def test_page_disconnects_and_connects(page: Page, server: Server) -> None:
    """The close frame of a browser is answered: the page sees 1000; then it comes back."""
    visit(page, server)
    page.click("#toggle")
    expect(page.locator("#state")).to_have_text("Closed (1000)")
    page.click("#toggle")
    expect(page.locator("#state")).to_have_text("Open")


def test_page_fetches_nothing_from_elsewhere(page: Page, server: Server) -> None:
    """The page and its WebSocket are all that the browser asks for."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda opened: asked.append(opened.url))
    visit(page, server)
    assert [address for address in asked if not address.startswith("data:")] == [
        url(server, scheme="http"),
        url(server, "/ws/"),
    ]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_the_screen(page: Page, server: Server, size: str, scheme: str, tmp_path: Path) -> None:
    """Everything can be reached without scrolling the page, on a desktop and on a phone."""
    page.set_viewport_size(SIZES[size])
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    visit(page, server)
    say(page, "a message that is longer than one line of a telephone " * 3)
    expect(page.locator("#log .echo")).to_have_count(1)
    page.screenshot(path=tmp_path / "page.png")
    for name in ("#state", "#median", "#log", "#message", "#send", "#burst", "#toggle"):
        expect(page.locator(name)).to_be_in_viewport(ratio=1)
    assert page.evaluate("[document.body.scrollWidth - innerWidth, document.body.scrollHeight - innerHeight]") == [0, 0]


def test_page_of_another_origin_is_refused(browser: Browser, server: Server) -> None:
    """A browser sends the Origin of the page, and the default lets only our own in: "localhost" is not "127.0.0.1"."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(url(server, scheme="http").replace("127.0.0.1", "localhost"))
    code = page.evaluate(
        """address => new Promise(done => {
            const foreign = new WebSocket(address);
            foreign.onopen = () => done("open");
            foreign.onclose = event => done(event.code);
        })""",
        url(server, "/ws/"),
    )
    context.close()
    assert code == 1006
    assert eventually(lambda: [line for line in server.access("/ws/") if line.status == 403], "the 403 in the log")


@pytest.fixture
def compressing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """The example with compression; ask for it before the page, so that the browser's connections end first."""
    arguments = command(ROOT / "examples" / "django_view" / "README.md", "gunicorn")
    with serve(arguments, tmp_path / "server", env={"GWS_COMPRESSION": request.param}) as server:
        yield server


@pytest.mark.parametrize(
    ("compressing", "agreed"),
    [
        ("shared", "permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
        ("dedicated", "permessage-deflate"),
    ],
    indirect=["compressing"],
)
def test_page_talks_with_compression(compressing: Server, page: Page, agreed: str) -> None:
    """A browser's permessage-deflate and ours understand each other."""
    long = "a message that can be compressed, " * 200
    visit(page, compressing)
    for text in (long, "short", long):
        say(page, text)
    expect(page.locator("#log .echo")).to_have_count(3)
    echoes = page.locator("#log .echo").evaluate_all("items => items.map(item => item.firstChild.data)")
    assert page.evaluate("socket.extensions").startswith(agreed)
    assert echoes == [long, "short", long]
