"""The live screen as text, at the sizes that people have."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modtrace.analysis.live import LiveTrace
from modtrace.analysis.live_tree import LiveTree
from modtrace.views.live.app import LiveApp
from modtrace.views.live.panes import OutputPane, TreePane
from modtrace.views.live.plain_text import told
from tests.live.made import Made

HERE = Path(__file__).parent


@pytest.fixture
def made(tmp_path):
    trace = Made(tmp_path / "t.mtrace")
    for number in range(50):
        trace.step(1.0 if number < 25 else 1.5)
    return trace


def screen_text(app):
    lines = ["".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips()]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def with_app(path, size, act):
    async def run():
        app = LiveApp(LiveTrace(path))
        app._ascii = True
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            app.look()
            app.show()
            await pilot.pause()
            return await act(app, pilot)

    return asyncio.run(run())


def same_as_file(name, text):
    file = HERE / "screens" / f"{name}.txt"
    if os.environ.get("MODTRACE_SNAPSHOTS"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize(
    "size", [(80, 24), (120, 32), (60, 12), (50, 10)], ids=lambda size: f"{size[0]}x{size[1]}"
)
@pytest.mark.parametrize("ended", [False, True], ids=["running", "ended"])
def test_screens(made, tmp_path, monkeypatch, size, ended):
    monkeypatch.setattr("modtrace.analysis.live.is_alive", lambda *_: True)
    (tmp_path / "t.mtrace" / "output.txt").write_bytes(
        b"epoch 1\r\n\x1b[31m 10%|#  \r 99%|###\r\nstep 49 loss 0.25\r\n"
    )
    if ended:
        made.end(3)

    async def act(app, pilot):
        return screen_text(app)

    text = with_app(tmp_path / "t.mtrace", size, act)
    assert all(len(line) <= size[0] for line in text.splitlines())
    assert "\x1b" not in text
    assert "\u202e" not in text
    same_as_file(f"{size[0]}x{size[1]}-{'ended' if ended else 'running'}", text)


def test_keys(made, tmp_path, monkeypatch):
    monkeypatch.setattr("modtrace.analysis.live.is_alive", lambda *_: True)

    async def act(app, pilot):
        tree = app.calls
        assert tree.window == 20
        await pilot.press("w")
        assert tree.window == 100
        await pilot.press("down", "down", "down")
        cursor = tree.cursor
        await pilot.press("s")
        assert tree.sort == "calls"
        assert tree.cursor == cursor, "sorting keeps the row"
        await pilot.press("S", "S")
        assert tree.sort == "self"
        await pilot.press("minus", "minus", "minus")
        assert app.rate_hz == 1
        await pilot.press(*["plus"] * 9)
        assert app.rate_hz == 10
        await pilot.press("x")
        assert not app.query_one(TreePane).trend
        await pilot.press("p")
        made.step()
        app.look()
        assert app.trace.processes[0].steps.ended == 50, "paused"
        await pilot.press("p")
        app.look()
        assert app.trace.processes[0].steps.ended == 51
        assert tree.cursor == cursor
        await pilot.press("l")
        assert isinstance(app.focused, OutputPane)
        await pilot.press("l")
        await pilot.press("r")
        assert tree.window is None
        assert int(tree.numbers.now.calls.sum()) == 0, "nothing since the reset"
        made.step()
        app.look()
        assert int(tree.numbers.now.calls.sum()) == 13
        await pilot.press("enter")
        assert app.is_running, "no viewer before the end"
        made.end()
        app.look()
        app.look()
        await pilot.pause()
        assert "FINISHED" in screen_text(app)
        await pilot.press("enter")
        await pilot.pause()
        return app.return_value

    assert with_app(tmp_path / "t.mtrace", (120, 32), act) == "view"


def test_unfocused_it_looks_less_often(made, tmp_path):
    async def act(app, pilot):
        app.on_app_blur()
        assert app._timer._interval == 2.0
        app.on_app_focus()
        assert app._timer._interval == 0.25

    with_app(tmp_path / "t.mtrace", (80, 24), act)


def test_a_trace_that_goes_away_while_it_is_shown(made, tmp_path):
    import shutil

    async def act(app, pilot):
        shutil.rmtree(tmp_path / "t.mtrace")
        app.look()
        await pilot.pause()
        return screen_text(app)

    text = with_app(tmp_path / "t.mtrace", (80, 24), act)
    assert "the trace was deleted" in text
    assert "GPT" in text


def test_change_and_ranks(made, tmp_path):
    """The last 20 steps beside the 20 before, 15 of which were at the old speed; two ranks are one tree."""
    other = Made(tmp_path / "t.mtrace", rank=1)
    for _ in range(60):
        other.step(3.0)
    trace = LiveTrace(tmp_path / "t.mtrace")
    trace.look()
    tree = LiveTree(trace)
    tree.rank = 0
    tree.refresh()
    row = next(at for at, one in enumerate(tree.rows) if one.label == "fc" and one.variant == 0)
    assert tree.instances[row] == 2
    assert tree.value(row) == 20 * 2 * 4.5e6
    before = (15 * 3.0 + 5 * 4.5) / 20
    assert tree.change(row) == pytest.approx(4.5 / before - 1)
    tree.rank = None
    tree.refresh()
    assert tree.instances[row] == 2
    assert tree.value(row) == 20 * 2 * 4.5e6 + 20 * 2 * 9e6
    assert tree.numbers.steps == 40


def test_plain_twin(made, tmp_path):
    made.end(0)
    done = subprocess.run(
        [sys.executable, "-m", "modtrace", "live", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == told(tmp_path / "t.mtrace")
    assert done.stdout.isascii()
    assert all(len(line) <= 80 for line in done.stdout.splitlines()[1:])
    same_as_file("plain", done.stdout)


def test_what_is_not_there(tmp_path):
    for words, status in (([str(tmp_path / "no.mtrace")], 2), ([str(tmp_path)], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "modtrace", "live", *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == status
        assert done.stderr.count("\n") == 1
