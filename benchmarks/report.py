"""Size of reports and how soon they are there: 20 training steps of the GPT-2, and a trace of about 1,000,000 calls.

Needs chromium and the `test` extra. The large trace takes minutes to record; give a trace to use it instead:
`python benchmarks/report.py [LARGE.mtrace]`. Times are what the browser says from the start of loading the page.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from gpt2 import GPT2, Size
from playwright.sync_api import sync_playwright

import modtrace

ARGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
ROUNDS = 5


def train(size: Size, steps: int, tokens: tuple[int, int]) -> modtrace.Trace:
    """Some steps of training."""
    torch.manual_seed(0)
    model = GPT2(size)
    optimizer = torch.optim.AdamW(model.parameters())
    x = torch.randint(0, size.vocabulary, tokens)
    with modtrace.trace() as found:
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(x).flatten(0, 1), x.flatten()).backward()
            optimizer.step()
    return found


def opened(browser: Any, path: Path) -> tuple[float, float, float]:
    """Milliseconds to the first paint, until tree and charts are drawn, and of a search; medians."""
    times = []
    for _ in range(ROUNDS):
        page = browser.new_page()
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready=yes]")
        painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        shown = page.evaluate("performance.getEntriesByName('modtrace-shown')[0].startTime")
        searched = page.evaluate(
            """() => { const find = document.getElementById("find"); find.value = "c_"; const start = performance.now();
            find.dispatchEvent(new Event("input")); return performance.now() - start; }"""
        )
        times.append((painted, shown, searched))
        page.close()
    return tuple(statistics.median(column) for column in zip(*times, strict=True))  # type: ignore[return-value]


def main() -> None:
    """Print the table."""
    small = train(Size(), 20, (2, 32))
    if len(sys.argv) > 1:
        large = modtrace.load(sys.argv[1])
    else:
        large = train(Size(width=8, heads=2, vocabulary=64), 3_200, (1, 4))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=ARGS)
        print(f"{'':34}{'bytes':>10} {'write s':>8} {'paint ms':>9} {'shown ms':>9} {'search ms':>10}")
        cases: list[tuple[str, modtrace.Trace, dict[str, Any]]] = [
            ("GPT-2, 20 training steps", small, {}),
            ("large trace", large, {}),
            ("large trace, every call", large, {"full": True}),
        ]
        for name, trace, options in cases:
            path = Path(folder) / "report.html"
            start = time.process_time()
            trace.to_html(path, **options)
            spent = time.process_time() - start
            painted, shown, searched = opened(browser, path)
            size = path.stat().st_size
            print(f"{name:34}{size:>10,} {spent:8.2f} {painted:9.0f} {shown:9.0f} {searched:10.1f}")
        browser.close()


if __name__ == "__main__":
    main()
