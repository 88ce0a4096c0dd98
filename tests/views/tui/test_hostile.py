"""Names as an attacker, or an unlucky person, would choose them; and a tree 5,000 deep."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import synthetic
from modtrace.text import width
from tests.views.tui.screen import drive, press, text

NAMES = {
    "escape": "\x1b[2J\x1b]0;owned\x07x",
    "markup": "[bold red]x[/] [@click=app.quit]y[/]",
    "wide": "\u6a21\u578b\uff28" * 20,
    "right_to_left": "\u202e\u05d0\u05d1x\u2066",
    "long": "n" * 10_000,
    "lines": "a\nb\rc\td\x00e\u2028f\x85g",
    "joined": "e\u0301\u200d\u200b\U0001f468\u200d\U0001f469",
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("size", [(80, 24), (120, 32)], ids=["80x24", "120x32"])
def test_hostile_names_are_shown_harmlessly(tmp_path, monkeypatch, kind, size):
    hostile = NAMES[kind]
    original = synthetic.Gpt.of.__func__

    def of(cls, layers):
        model = original(cls, layers)
        names = [name.replace("mlp", hostile.replace(".", "")) for name in model.name]
        return replace(model, name=names, type=[hostile if one == "MLP" else one for one in model.type])

    monkeypatch.setattr(synthetic.Gpt, "of", classmethod(of))
    path = tmp_path / "a.mtrace"
    synthetic.write_gpt(path, steps=3, layers=2)

    async def act(pilot, app):
        for keys in (
            ["slash", *"Linear", "enter"],
            ["v"],
            ["v"],
            ["enter"],
            ["escape", "1"],
            *([view] for view in "24567"),
        ):
            await press(pilot, *keys)
            lines = text(app).split("\n")
            assert len(lines) == size[1]
            assert max(map(width, lines)) <= size[0]
            assert all(char.isprintable() or char == "\u2800" for line in lines for char in line), keys
            assert not any(char in text(app) for char in "\x1b\x07\u202e\u2066\u2028\u200d")
        assert app.is_running

    drive(path, act, size)


def test_a_name_that_is_an_expression_is_searched_as_text(tmp_path):
    path = tmp_path / "a.mtrace"
    synthetic.write_gpt(path, steps=2, layers=2)

    async def act(pilot, app):
        await press(pilot, "slash", *"(*+[", "enter")
        assert app.is_running
        await press(pilot, "slash", *"/(/")
        assert "no expression" in text(app)

    drive(path, act)
