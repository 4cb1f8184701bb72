"""``examples/stream`` in real browsers, started with the command of its README: two workers.

The pictures that the tests take are in ``tests/screenshots/``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from gws_middleware.groups import Groups, History

from ..support.browsing import SIZES, TIMEOUT, browser, needs_chromium, process_of, reload_until
from ..support.documents import TIMEOUT as SECONDS
from ..support.documents import close_frame, command, opened, serve, url
from ..support.servers import ROOT, Server
from ..support.waiting import eventually

EXAMPLE = ROOT / "examples" / "stream"
SCREENSHOTS = ROOT / "tests" / "screenshots"
ANSWER = 'You asked: "{}" This is no model: its tokens are made up, and travel as those of one.'

__all__ = ["browser"]


@contextmanager
def served(directory: Path, delay: float = 0.02) -> Iterator[Server]:
    """The example with groups of its own; ``delay``: seconds between two tokens."""
    env = {"STREAM_GROUPS": f"sqlite://{directory / 'groups'}", "STREAM_DELAY": str(delay)}
    with serve(command(EXAMPLE / "README.md", "gunicorn"), directory / "server", env=env) as server:
        yield server
        end_event_streams(env["STREAM_GROUPS"])


def end_event_streams(url: str) -> None:
    """Let the server notice that the pages were closed: it does when it sends. A stop would wait for their responses
    until the graceful timeout, and gunicorn may log that.
    """
    groups = Groups(url, history={"answers": History(size=5000, age=3600)})
    for number in range(5):  # the kernel takes the first one
        groups.send("answers.all", {"answer": str(number), "end": "complete"})
        time.sleep(0.05)
    groups.release()


@pytest.fixture
def server(socket_path: Path) -> Iterator[Server]:
    """A server of this test's own."""
    with served(socket_path) as server:
        yield server


@pytest.fixture
def slow(socket_path: Path) -> Iterator[Server]:
    """The same; an answer takes about three seconds."""
    with served(socket_path, delay=0.2) as server:
        yield server


Visit = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """``visit(server, path)``: a page in a browser of its own, when it is connected."""
    contexts: list[BrowserContext] = []

    def come(server: Server, path: str, **options: Any) -> Page:
        context = browser.new_context(**options)
        context.set_default_timeout(TIMEOUT)
        contexts.append(context)
        page = context.new_page()
        page.goto(url(server, path, "http"))
        expect(page.locator("#state")).to_have_text("Connected")
        return page

    yield come
    for context in contexts:
        context.close()


def ask(page: Page, question: str) -> None:
    """Write it and press Enter."""
    page.get_by_label("Question").fill(question)
    page.keyboard.press("Enter")


def apart(first: Page, second: Page) -> None:
    """Load the second page again until another process than the first one's serves it."""
    reload_until(second, lambda: process_of(first) != process_of(second), "two workers")
    expect(second.locator("#state")).to_have_text("Connected")


def answers(page: Page) -> list[str]:
    """All that the page shows, in order."""
    found: list[str] = page.locator("#answers p").all_text_contents()
    return found


def picture(page: Page, name: str) -> None:
    """A screenshot that outlives the test."""
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


# --- the pages ------------------------------------------------------------------------------------------------------


@needs_chromium
def test_answer_grows_on_both_pages(slow: Server, visit: Visit) -> None:
    """By WebSocket and by server-sent events, from different workers; markup is text. It is shown while it grows."""
    asks, watches = visit(slow, "/"), visit(slow, "/watch")
    apart(asks, watches)
    ask(asks, "<b>Why?</b>")
    for page in (asks, watches):
        expect(page.locator("#answers .answer")).to_contain_text("You asked")
        expect(page.locator("#answers [data-end]")).to_have_count(0)
    for page in (asks, watches):
        expect(page.locator("#answers [data-end=complete]")).to_have_count(1)
        assert answers(page) == ["<b>Why?</b>", ANSWER.format("<b>Why?</b>")]


@needs_chromium
def test_page_that_is_opened_later_shows_all(server: Server, visit: Visit) -> None:
    """What the group keeps, then what comes; a reload too."""
    asks = visit(server, "/")
    ask(asks, "one")
    expect(asks.locator("[data-end=complete]")).to_have_count(1)
    watches, another = visit(server, "/watch"), visit(server, "/")
    ask(asks, "two")
    for page in (asks, watches, another):
        expect(page.locator("[data-end=complete]")).to_have_count(2)
        assert answers(page) == ["one", ANSWER.format("one"), "two", ANSWER.format("two")]


@needs_chromium
def test_worker_that_is_killed_while_an_answer_grows(slow: Server, visit: Visit) -> None:
    """The page of that worker goes on at the other one, where it was: both pages have the same tokens in one order."""
    asks, watches = visit(slow, "/"), visit(slow, "/watch")
    apart(asks, watches)
    killed = process_of(watches)
    ask(asks, "first")
    expect(watches.locator(".answer")).to_contain_text("You asked")
    assert process_of(asks) != killed
    os.kill(killed, signal.SIGKILL)
    expect(asks.locator("[data-end=complete]")).to_have_count(1)
    eventually(lambda: process_of(watches) != killed, "another worker", sleep=lambda _: watches.wait_for_timeout(50))
    ask(asks, "second")
    for page in (asks, watches):
        expect(page.locator("[data-end=complete]")).to_have_count(2)
        assert answers(page) == ["first", ANSWER.format("first"), "second", ANSWER.format("second")]
    slow.log.expect("Worker .* was sent SIGKILL")


@needs_chromium
def test_answer_whose_worker_is_killed_is_shown_as_interrupted(slow: Server, visit: Visit) -> None:
    """Both pages say so after some seconds without a token, and the next question is answered."""
    asks, watches = visit(slow, "/"), visit(slow, "/watch")
    apart(asks, watches)
    killed = process_of(asks)
    ask(asks, "first")
    expect(watches.locator(".answer")).to_contain_text("You asked")
    os.kill(killed, signal.SIGKILL)
    for page in (asks, watches):
        expect(page.locator("[data-end=interrupted]")).to_have_count(1)
    expect(asks.locator("#state")).to_have_text("Connected")
    ask(asks, "second")
    for page in (asks, watches):
        expect(page.locator("[data-end=complete]")).to_have_count(1)
    assert answers(asks) == answers(watches)
    slow.log.expect("Worker .* was sent SIGKILL")


@needs_chromium
@pytest.mark.parametrize("path", ["/", "/watch"])
def test_page_whose_position_is_lost_loads_itself_again(server: Server, visit: Visit, path: str) -> None:
    """The server cannot send what it has missed."""
    page = visit(server, path)
    lost = {"/": "position = 'another.7'; connect()", "/watch": "watch('/events?since=another.7')"}[path]
    with page.expect_navigation():
        page.evaluate(lost)
    expect(page.locator("#state")).to_have_text("Connected")


@needs_chromium
@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("desktop", "dark"), ("phone", "light")])
def test_page_fits_the_screen(slow: Server, visit: Visit, size: str, scheme: str) -> None:
    """Nothing is wider than the screen, the last line is in view, and a picture is taken."""
    page = visit(slow, "/", viewport=SIZES[size], color_scheme=scheme)
    ask(page, "How does a token get to two pages?")
    expect(page.locator("[data-end=complete]")).to_have_count(1)
    ask(page, "x" * 120)
    expect(page.locator(".answer").last).to_contain_text("You asked")
    picture(page, f"stream-{size}-{scheme}")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") == 0
    expect(page.get_by_label("Question")).to_be_in_viewport(ratio=1)


# --- without a browser ----------------------------------------------------------------------------------------------


def test_events_have_the_form_of_the_standard(server: Server) -> None:
    """Each has the position as its id, which ``Last-Event-ID`` sends back."""
    with opened(url(server, "/socket")) as ws:
        assert list(json.loads(ws.recv(timeout=SECONDS))) == ["process"]
        ws.send("x")
        received = [json.loads(ws.recv(timeout=SECONDS))]
        while "end" not in received[-1]:
            received.append(json.loads(ws.recv(timeout=SECONDS)))
    positions = [event.pop("position") for event in received]
    with server.connect() as client:
        client.send(
            b"GET /events HTTP/1.1\r\nHost: localhost\r\n"
            b"Last-Event-ID: " + positions[2].encode() + b"\r\nConnection: close\r\n\r\n"
        )
        text = client.read_until(positions[-1].encode()).decode()
    assert "Content-Type: text/event-stream" in text
    assert re.findall(r"^id: (.*)$", text, re.MULTILINE) == positions[3:]


@pytest.mark.parametrize("question", ["", "x" * 501, b"bytes"])
def test_question_that_is_none_ends_the_connection(server: Server, question: str | bytes) -> None:
    """With what is wanted."""
    with opened(url(server, "/socket")) as ws:
        ws.send(question)
        assert close_frame(ws) == (1008, "a question is a text of at most 500 characters")


@pytest.mark.parametrize(
    ("path", "status"), [("/nothing", 404), ("/socket", 426), ("/events?since=soon", 400), ("/socket?since=1", 400)]
)
def test_wrong_address_is_answered(server: Server, path: str, status: int) -> None:
    """With a status, and without a traceback."""
    assert server.get(path).status == status


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example in this process, with groups in memory."""
    monkeypatch.setenv("STREAM_GROUPS", "memory://")
    monkeypatch.setenv("STREAM_DELAY", "0")
    spec = importlib.util.spec_from_file_location("stream_app", EXAMPLE / "app.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    module.groups.release()


def test_quiet_event_stream_sends_comments_and_goes_on(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment is written to a page that may be closed; what comes after it is not lost."""
    monkeypatch.setattr(module, "QUIET", 0.01)
    stream = module.events(None)
    assert [next(stream) for _ in range(4)] == [
        b"retry: 500\n\n",
        f"event: process\ndata: {os.getpid()}\n\n".encode(),
        b": nothing new\n\n",
        b": nothing new\n\n",
    ]
    position = module.groups.send(module.GROUP, {"token": "x"})  # while it does not listen
    assert next(stream) == f'id: {position}\ndata: {{"token":"x"}}\n\n'.encode()
    stream.close()


def test_model_that_fails_ends_its_answer(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The pages say so, and the log has the reason."""

    def tokens(question: str) -> Iterator[str]:
        yield question
        raise ConnectionError("the model is away")

    monkeypatch.setattr(module, "tokens", tokens)
    module.answer("x")
    sent = [publication.data for publication in module.groups.history(module.GROUP)]
    assert [next(iter(event.items() - {("answer", sent[0]["answer"])})) for event in sent] == [
        ("question", "x"),
        ("token", "x"),
        ("end", "failed"),
    ]
    assert "the model is away" in caplog.text
