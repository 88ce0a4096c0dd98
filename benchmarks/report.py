"""How large a report is and how soon it can be read: `python benchmarks/report.py`.

Two traces: 20 training steps of the benchmark's GPT-2, and 1,000,000 calls of modules that do nothing, all of them in
the page (`--full`). Both are opened from disk in headless Chromium (needs Playwright and a Chromium). First paint is
the browser's own, from the start of navigation; `interactive` is when tree, flame and timeline are drawn; a search is
from the keystroke to the marked rows. Each is the median of several fresh pages.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from gpt2 import Size
from playwright.sync_api import Browser, sync_playwright
from torch import nn
from training_step import step_of

import modtrace

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
]
MARKS = """(() => {
    const of = (name) => performance.getEntriesByName(name)[0].startTime;
    return [of("first-contentful-paint"), of("modtrace-shown"), of("modtrace-ready")];
})()"""
SEARCH = """(() => {
    const field = document.getElementById("find");
    field.value = "mlp.c";
    const begin = performance.now();
    field.dispatchEvent(new Event("input"));
    return performance.now() - begin;
})()"""


class Block(nn.Module):
    """The modules of a block of a transformer, empty."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({name: nn.Identity() for name in ("c_attn", "c_proj", "drop")})
        self.mlp = nn.Sequential()
        for name in ("c_fc", "act", "c_proj", "drop"):
            self.mlp.add_module(name, nn.Identity())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same."""
        for part in self.attn.values():
            x = part(x)
        return self.mlp(x)


def gpt2(path: Path) -> None:
    """20 training steps."""
    step = step_of(Size())
    with modtrace.trace(path=path):
        for _ in range(20):
            step()


def million(path: Path, calls: int) -> int:
    """About so many calls, in steps of 24 blocks; returns how many."""
    model = nn.Sequential(*(Block() for _ in range(24)))
    each = 1 + 24 * 9
    x = torch.ones(1)
    with modtrace.trace(path=path), torch.no_grad():
        for _ in range(calls // each + 1):
            model(x)
    return (calls // each + 1) * each


def opened(browser: Browser, path: Path, rounds: int) -> list[float]:
    """Medians in ms: first paint, interactive, all there, a search."""
    found = []
    for _ in range(rounds):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]", timeout=60_000)
        found.append([*page.evaluate(MARKS), page.evaluate(SEARCH)])
        page.close()
    return [statistics.median(each) for each in zip(*found, strict=True)]


def main() -> int:
    """Measure, print, and say which bars are missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    lines, bars = [], []
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        small, large = Path(scratch, "gpt2.mtrace"), Path(scratch, "calls.mtrace")
        gpt2(small)
        count = million(large, chosen.calls)
        for what, trace, full in (
            ("GPT-2, 20 steps", small, False),
            (f"{count:,} calls, --full", large, True),
        ):
            page = Path(scratch, "page.html")
            begin = time.process_time()
            modtrace.load(trace).to_html(page, full=full, force=True)
            took = time.process_time() - begin
            paint, shown, ready, search = opened(browser, page, chosen.rounds)
            kilobytes = page.stat().st_size / 1000
            lines.append(
                f"{what:26}{kilobytes:8.0f} kB  written in {took:5.1f} s CPU  first paint {paint:5.0f} ms"
                f"  interactive {shown:5.0f} ms  all {ready:5.0f} ms  search {search:5.1f} ms"
            )
            if full:
                bars += [("interactive at 1,000,000 calls [ms]", shown, 600), ("search [ms]", search, 50)]
            else:
                bars += [("GPT-2, 20 steps [kB]", kilobytes, 400), ("GPT-2, interactive [ms]", shown, 300)]
        browser.close()
    print(
        f"Chromium, torch {torch.__version__}, Python {sys.version.split()[0]}, median of {chosen.rounds}\n"
    )
    print("\n".join(lines) + "\n")
    for what, value, bar in bars:
        print(f"{what:40}{value:8.1f}  at most {bar}{'' if value <= bar else '  MISSED'}")
    return any(value > bar for _, value, bar in bars)


if __name__ == "__main__":
    raise SystemExit(main())
