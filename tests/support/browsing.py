"""Chromium, as the tests of pages use it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ViewportSize, expect, sync_playwright

from .notices import find_chromium

__all__ = ["ARGUMENTS", "SIZES", "TIMEOUT", "browser", "needs_chromium"]

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
