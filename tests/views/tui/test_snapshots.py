"""Every screen as text at three sizes. `MODTRACE_SNAPSHOTS=write pytest tests/views/tui/test_snapshots.py` makes them
anew: look at the difference before it is committed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modtrace.text import width
from tests.views.tui.screen import drive, press, styles, text

KEPT = Path(__file__).parent / "snapshots"
SIZES = [(80, 24), (120, 32), (60, 12)]
SCREENS = {  # one after the other
    "tree": ["down"] * 6,
    "details": ["down", "enter"],
    "help": ["escape", "question_mark"],
    "search": ["escape", "g", "slash", *"c_fc"],
    "filter": ["escape", "f", *"Linear", "enter"],
    "instances": ["F", "v", "E"],
    "calls": ["v", "down", "right"],
    "flame": ["v", "2", "down", "down"],
    "callers": ["i", "right"],
    "steps": ["3", "down", "down"],
    "memory": ["4"],
    "ops": ["5"],
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
    assert (
        any(hex_ in " ".join(colors["flame"]).lower() for hex_ in ("#e69f00", "#d55e00", "#cc79a7")) is color
    )


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
