"""Chromium, as the tests of pages use it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from .notices import find_chromium
from .waiting import eventually

__all__ = ["ARGUMENTS", "SIZES", "TIMEOUT", "browser", "needs_chromium", "process_of", "reload_until"]

CHROMIUM = find_chromium()
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--renderer-process-limit=1",  # no process is started in advance for a page that may come: a third of the CPU time
]
TIMEOUT = 20_000
"""Milliseconds that a page may take for anything."""
SIZES = {"desktop": ViewportSize(width=1100, height=760), "phone": ViewportSize(width=360, height=640)}

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium was not found")
"""Without it the last lines of the run say so (``notices``)."""

expect.set_options(timeout=TIMEOUT)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a file, which imports this fixture."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def process_of(page: Page) -> int:
    """The process that an example's page says it is served by."""
    shown = page.locator("#process")
    expect(shown).to_contain_text("Served by process")
    return int(re.findall(r"\d+", shown.text_content() or "")[0])


def reload_until(page: Page, condition: Callable[[], bool], what: str) -> None:
    """Load a page again until ``condition()``; ``what`` says what that is, for the error."""

    def holds() -> bool:
        found = condition()
        if not found:
            page.reload()
        return found

    eventually(holds, what, interval=0.1)
