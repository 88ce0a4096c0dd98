"""Draws docs/images/report.png: a report of fixed numbers (benchmarks/synthetic.py) in Chromium: `python docs/report_picture.py`."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from playwright.sync_api import sync_playwright  # noqa: E402

import modtrace  # noqa: E402
from benchmarks.synthetic import write_gpt  # noqa: E402

SCREEN = {"width": 1200, "height": 1000}
HEIGHT = 2090  # of the picture: the page down to its timeline


def main() -> None:
    """Write the picture."""
    browser_path = (
        shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    )
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        write_gpt(Path(folder) / "gpt2.mtrace", steps=40)
        page_path = Path(folder) / "report.html"
        modtrace.load(Path(folder) / "gpt2.mtrace").to_html(page_path)
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport=SCREEN, color_scheme="light")
        page.goto(page_path.as_uri())
        page.wait_for_selector("canvas")
        page.locator("#tree").get_by_text("attn x12", exact=False).first.click()
        page.wait_for_timeout(500)  # milliseconds, in which the canvases are drawn
        clip = {"x": 0, "y": 0, "width": SCREEN["width"], "height": HEIGHT}
        page.screenshot(path=DOCS / "images" / "report.png", full_page=True, clip=clip)
        browser.close()


if __name__ == "__main__":
    main()
