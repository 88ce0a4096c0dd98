"""What the terminal viewer costs at a million calls, in CPU time: `python benchmarks/viewer.py [--check]`.

The bars: first paint under 1.5 s, memory growth under 300 MB, a key under 20 ms, opening or
closing a row under 10 ms, sorting all siblings under 0.6 s, a filter under 50 ms. Imports are not counted. The trace is
made of fixed numbers (synthetic.py). Each number is the median of several, except those that happen once.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.synthetic import write_gpt

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from modtrace.views.tui.app import Viewer

ROUNDS = 15


def _rss_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS")


def _cost_ms(act: Callable[[], object]) -> float:
    begun = time.process_time()
    act()
    return (time.process_time() - begun) * 1e3


def _median_ms(act: Callable[[], object], rounds: int = ROUNDS) -> float:
    return statistics.median(_cost_ms(act) for _ in range(rounds))


async def _key_ms(pilot: Pilot[str], name: str) -> float:
    """A key and the frame after it."""
    start = time.process_time()
    await pilot.press(name)
    return (time.process_time() - start) * 1e3


async def _median_key_ms(pilot: Pilot[str], name: str) -> float:
    return statistics.median([await _key_ms(pilot, name) for _ in range(ROUNDS)])


async def _measured(path: Path) -> dict[str, float]:
    from modtrace.views.models.viewer_model import ViewerModel
    from modtrace.views.tui.app import Viewer

    class Measured(Viewer):
        """Notes when its first frame has been drawn, before trees and findings are made in the background."""

        painted_s = 0.0

        def _look_ahead(self) -> None:
            self.painted_s = time.process_time()
            super()._look_ahead()

    before = _rss_bytes()
    begun = time.process_time()
    app = Measured(ViewerModel(path), keys=Path("/nonexistent/keys.toml"))
    found: dict[str, float] = {}
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        found["first paint, s"] = app.painted_s - begun
        found["memory growth, MB"] = (_rss_bytes() - before) / 1e6
        await app.workers.wait_for_complete()
        await pilot.pause()
        found["trees and findings in the background, s"] = time.process_time() - app.painted_s
        found["with these, MB"] = (_rss_bytes() - before) / 1e6
        found["down, hottest modules, ms"] = await _median_key_ms(pilot, "down")
        found["3, the tree for the first time, ms"] = await _key_ms(pilot, "3")
        await pilot.pause()
        found["down, merged tree, ms"] = await _median_key_ms(pilot, "down")
        found["a, the whole run for the first time, ms"] = await _key_ms(pilot, "a")
        found["a, ms"] = await _median_key_ms(pilot, "a")
        await pilot.press("v", "v")  # a node a call
        await _all_open(app, pilot, found)
        found["with a row a call and all of them open, MB"] = (_rss_bytes() - before) / 1e6
    return found


async def _all_open(app: Viewer, pilot: Pilot[str], found: dict[str, float]) -> None:
    """Keys, sorting, filters and searches in a tree with a row a call."""
    from modtrace.analysis.filters import parse

    await pilot.pause()
    tree = app.tree_screen.call_tree
    model = tree.model
    model.set_filter(parse("-nothing-is-called-so"))  # all of them, and all open
    tree.synced()
    await pilot.pause()
    tree.action_go(0)
    for name in ("down", "pagedown", "end", "home"):
        found[f"{name}, all open, ms"] = await _median_key_ms(pilot, name)
    found["[ ] another step, ms"] = await _median_key_ms(pilot, "right_square_bracket")
    found["close or open the root, ms"] = _median_ms(lambda: model.toggle(0), 2 * ROUNDS)
    found["space: close or open, and draw, ms"] = await _median_key_ms(pilot, "space")
    found["close or open a row, ms"] = _median_ms(lambda: model.toggle(1), 2 * ROUNDS)
    found["sort by self, ms"] = _median_ms(lambda: model.sort("self"), 3)
    found["sort in order, ms"] = _median_ms(lambda: model.sort("order"), 3)
    for text in ("mlp.c_", "type:Linear self>500us -lm_head", "/h\\.\\d\\./"):
        wanted = parse(text)
        model.set_filter(wanted)
        found[f"filter {text}, ms"] = _median_ms(lambda wanted=wanted: model.set_filter(wanted), 5)
    model.set_filter(parse(""))
    model.hits("c_fc")
    found["search c_fc, ms"] = _median_ms(lambda: model.hits("c_fc"), 5)


BARS = {
    "first paint": 1.5, "memory growth": 300, "down": 20, "pagedown": 20, "end": 20, "home": 20, "[ ]": 20, "space": 20,
    "close or open": 10, "sort": 600, "filter": 50, "search": 50,
}  # fmt: skip


def main() -> int:
    """Print a table; with --check the exit status tells whether all bars are met."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--calls", type=int, default=1_000_000)
    options.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    chosen = options.parse_args()
    import textual.app  # noqa: F401  # not counted

    import modtrace.views.tui.app  # noqa: F401

    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gpt.mtrace"
        each = write_gpt(Path(folder) / "one.mtrace", steps=1)
        rows = write_gpt(path, steps=-(-chosen.calls // each))
        print(f"{rows:,} rows in the trace")
        for name, value in asyncio.run(_measured(path)).items():
            bar = next((most for start, most in BARS.items() if name.startswith(start)), None)
            missed += bar is not None and value > bar
            said = "" if bar is None else f"  bar {bar:g}{'' if value <= bar else '  MISSED'}"
            print(f"{name:45} {value:12,.2f}{said}")
    return 1 if chosen.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
