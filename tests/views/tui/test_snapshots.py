"""Every screen as text at four sizes. `MODTRACE_SNAPSHOTS=write pytest tests/views/tui/test_snapshots.py` makes them
anew: look at the difference before it is committed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modtrace.text import width
from modtrace.views.tui.styles import HUES, OTHER, style
from tests.views.tui.screen import drive, press, styles, text

KEPT = Path(__file__).parent / "snapshots"
SIZES = [(80, 24), (120, 32), (60, 12), (200, 50)]
SCREENS = {  # one after the other
    "hot": ["1"],
    "hot_whole_run": ["a"],
    "hot_filter": ["a", "f", *"type:Linear", "enter"],
    "findings": ["F", "2"],
    "tree": ["3", *["down"] * 6],
    "tree_whole_run": ["a"],
    "details": ["a", "down", "enter"],
    "help": ["escape", "question_mark"],
    "search": ["escape", "g", "slash", *"c_fc"],
    "filter": ["escape", "f", *"Linear", "enter"],
    "instances": ["F", "v", "E"],
    "calls": ["v", "down", "right"],
    "flame": ["v", "4", "down", "down"],
    "flame_zoomed": ["down", "down", "enter"],
    "callers": ["escape", "i", "right"],
    "steps": ["5", "down", "down"],
    "memory": ["6"],
    "ops": ["7"],
}


@pytest.mark.parametrize("color", [True, False], ids=["color", "no_color"])
@pytest.mark.parametrize("size", SIZES, ids=[f"{wide}x{high}" for wide, high in SIZES])
def test_screens(gpt, size, color, monkeypatch):
    if not color:
        monkeypatch.setenv("NO_COLOR", "1")
    seen, colors = {}, {}

    async def act(pilot, app):
        for name, keys in SCREENS.items():
            await press(pilot, *keys)
            seen[name], colors[name] = text(app), styles(app)

    drive(gpt, act, size)
    for name, shown in seen.items():
        lines = shown.splitlines()
        assert len(lines) <= size[1], name
        assert max(map(width, lines)) <= size[0], name
        file = KEPT / f"{name}-{size[0]}x{size[1]}.txt"
        if os.environ.get("MODTRACE_SNAPSHOTS") == "write":
            file.parent.mkdir(exist_ok=True)
            file.write_text(shown + "\n", encoding="utf-8")
        # The same text with and without colour: colour alone never says anything.
        assert shown + "\n" == file.read_text(encoding="utf-8"), f"{name} is another one"
    drawn = " ".join(colors["flame"]).lower()
    hues = [style(f"box-{name}-3", dark=True).bgcolor.name for name in HUES if name != OTHER]
    assert any(hue.lower() in drawn for hue in hues) is color


@pytest.mark.parametrize(("wide", "high"), [(59, 12), (60, 11), (59, 40)])
def test_too_small(gpt, wide, high):
    async def act(pilot, app):
        assert text(app).split() == ["terminal", "too", "small", "(60x12", "needed)"]
        await pilot.resize_terminal(80, 24)
        await press(pilot, "down")
        assert "module" in text(app)
        assert "too small" not in text(app)

    drive(gpt, act, (wide, high))


@pytest.mark.parametrize("size", [(80, 24), (60, 12)])
def test_footer_is_not_cut_off(gpt, size):
    async def act(pilot, app):
        del pilot
        footer = text(app).splitlines()[-1]
        for word in ("Find", "Sort", "Filter", "Step", "Open", "Help", "Quit"):
            assert word in footer

    drive(gpt, act, size)
