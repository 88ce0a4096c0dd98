"""Draws docs/viewer-hot.svg, -tree.svg and -flame.svg: the viewer on a trace of fixed numbers (benchmarks/synthetic.py)."""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from benchmarks.synthetic import write_gpt  # noqa: E402
from modtrace.views.models.viewer_model import ViewerModel  # noqa: E402
from modtrace.views.tui.app import Viewer  # noqa: E402


def _save(app: Viewer, name: str) -> None:
    picture = app.export_screenshot(title="modtrace view")
    # No font from another host: the reader's own fixed-width one does.
    picture = re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL)
    picture = re.sub(r"font-family: [^;]*;", "font-family: monospace;", picture)
    (DOCS / name).write_text(re.sub(r"[ \t]+\n", "\n", picture), encoding="utf-8")


async def _draw(trace: Path) -> None:
    app = Viewer(ViewerModel(trace), keys=DOCS / "none.toml")
    async with app.run_test(size=(120, 32)) as pilot:
        app.theme = "textual-dark"
        await app.workers.wait_for_complete()
        await pilot.pause(0.3)
        _save(app, "viewer-hot.svg")
        await pilot.press("3", "slash", *"c_fc", "enter", "escape")
        await pilot.pause(0.3)
        _save(app, "viewer-tree.svg")
        await pilot.press("4", "up")
        await pilot.pause(0.3)
        _save(app, "viewer-flame.svg")


def main() -> None:
    """Write all."""
    with tempfile.TemporaryDirectory() as folder:
        write_gpt(Path(folder) / "gpt2.mtrace", steps=40)
        asyncio.run(_draw(Path(folder) / "gpt2.mtrace"))


if __name__ == "__main__":
    main()
