"""A headless Chromium for tests; without Playwright or a Chromium they are skipped, or fail if it is required."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.places import PACKAGE

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
HTML = PACKAGE / "views" / "html"


def launched() -> Iterator[Any]:
    """A browser, closed at the end; for a fixture."""
    required = bool(os.environ.get("MODTRACE_REQUIRE_BROWSER"))
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        assert not required, "Playwright is not installed"
        pytest.skip("Playwright is not installed")
    if EXECUTABLE is None:
        assert not required, "there is no Chromium"
        pytest.skip("there is no Chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=EXECUTABLE, args=ARGUMENTS)
        yield running
        running.close()


def evaluated(browser: Any, function: str, argument: Any) -> Any:
    """The value of a function of JavaScript in an empty page."""
    page = browser.new_page()
    try:
        return page.evaluate(function, argument)
    finally:
        page.close()
