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
from modtrace.views.live.plain_text import status_text
from modtrace.views.models.live_model import LiveModel
from modtrace.views.tui.app import Viewer
from modtrace.views.tui.call_tree import CallTree
from modtrace.views.tui.hot_screen import HotScreen
from modtrace.views.tui.live_screen import LiveScreen
from modtrace.views.tui.output_pane import OutputPane
from modtrace.views.tui.popups import HelpScreen, Popup
from modtrace.views.tui.tree_screen import TreeScreen
from tests.live.made import Made
from tests.views.tui.screen import settled

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


def with_screen(path, size, act, script=None):
    """Hands the live screen of a trace and its pilot over."""

    async def run():
        screen = LiveScreen(LiveTrace(path), script=script)
        screen._ascii = True
        async with Viewer(None, live=screen).run_test(size=size) as pilot:
            await settled(pilot)
            screen.look()
            screen.show_trace()
            await settled(pilot)
            return await act(screen, pilot)

    return asyncio.run(run())


def path_at(screen):
    model = screen.call_tree.model
    return model.nodes.path(model.selected)


class Script:
    """A script that is only looked at: counts how often it was interrupted, keeps what was typed."""

    def __init__(self, trace):
        self.output_path = trace / "output.txt"
        self.output = os.open(trace / "output.txt", os.O_RDONLY | os.O_CREAT, 0o600)
        self.asked_to_end = self.lost = False
        self.returncode = None
        self.interrupts = 0
        self.typed = []

    def poll(self):
        return self.returncode

    def wait_for_output(self, seconds):
        pass

    def resize(self, rows, columns):
        self.size = (rows, columns)

    def type(self, text):
        self.typed.append(text)

    def interrupt(self):
        self.interrupts += 1


def same_as_file(name, text):
    file = HERE / "screens" / f"{name}.txt"
    if os.environ.get("MODTRACE_SNAPSHOTS"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize(
    "size", [(80, 24), (120, 32), (60, 12), (50, 10), (200, 50)], ids=lambda size: f"{size[0]}x{size[1]}"
)
@pytest.mark.parametrize("ended", [False, True], ids=["running", "ended"])
def test_screens(made, tmp_path, monkeypatch, size, ended):
    monkeypatch.setattr("modtrace.analysis.live.is_alive", lambda *_: True)
    (tmp_path / "t.mtrace" / "output.txt").write_bytes(
        b"epoch 1\r\n\x1b[31m 10%|#  \r 99%|###\r\nstep 49 loss 0.25\r\n"
    )
    if ended:
        made.end(3)

    async def act(screen, pilot):
        return screen_text(screen.app)

    text = with_screen(tmp_path / "t.mtrace", size, act)
    assert all(len(line) <= size[0] for line in text.splitlines())
    assert "\x1b" not in text
    assert "\u202e" not in text
    same_as_file(f"{size[0]}x{size[1]}-{'ended' if ended else 'running'}", text)


def test_keys(made, tmp_path, monkeypatch):
    monkeypatch.setattr("modtrace.analysis.live.is_alive", lambda *_: True)

    async def act(screen, pilot):
        tree, model = screen.live.tree, screen.call_tree.model
        assert tree.window == 20
        await pilot.press("w")
        assert tree.window == 100
        await pilot.press("down", "down", "down")
        row = path_at(screen)
        await pilot.press("s")
        assert model.key == "calls"
        assert path_at(screen) == row, "sorting keeps the row"
        await pilot.press("S", "S")
        assert model.key == "self"
        await pilot.press(*["less_than_sign"] * 3)
        assert screen.rate_hz == 1
        await pilot.press(*["greater_than_sign"] * 9)
        assert screen.rate_hz == 10
        await pilot.press("c")
        assert "change" not in screen_text(pilot.app)
        await pilot.press("p")
        made.step()
        screen.look()
        assert screen.trace.processes[0].steps.ended == 50, "paused"
        await pilot.press("p")
        screen.look()
        assert screen.trace.processes[0].steps.ended == 51
        assert path_at(screen) == row
        await pilot.press("t")
        assert isinstance(screen.focused, OutputPane)
        await pilot.press("escape")
        assert screen.focused is screen.call_tree
        await pilot.press("R")
        assert tree.window is None
        assert int(tree.numbers.now.calls.sum()) == 0, "nothing since the reset"
        made.step()
        screen.look()
        assert int(tree.numbers.now.calls.sum()) == 13

    with_screen(tmp_path / "t.mtrace", (120, 32), act)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
def test_it_becomes_the_viewer_of_the_run_that_ended(made, tmp_path, monkeypatch, size):
    monkeypatch.setattr("modtrace.analysis.live.is_alive", lambda *_: True)

    async def act(screen, pilot):
        app = pilot.app
        await pilot.press("1", "3", "ctrl+r")
        assert app.screen is screen, "there are no other views yet"
        await pilot.press("enter")
        assert isinstance(app.screen, Popup)
        assert "of one step" in screen_text(app)
        await pilot.press("escape")
        made.end()
        screen.look()
        screen.look()
        await settled(pilot)
        assert "FINISHED" in screen_text(app)
        assert "enter: viewer" in screen_text(app)
        await pilot.press("enter")
        await settled(pilot)
        assert isinstance(app.screen, HotScreen)
        assert app.opened.path == tmp_path / "t.mtrace"
        await pilot.press("3", "slash", *"GELU", "enter", "q")
        await pilot.pause()
        assert app.return_value == "finished"

    with_screen(tmp_path / "t.mtrace", size, act)


def test_a_trace_that_cannot_be_opened_leaves_the_screen(made, tmp_path, monkeypatch):
    monkeypatch.setattr("modtrace.analysis.live.is_alive", lambda *_: True)

    async def act(screen, pilot):
        made.end()
        screen.look()
        screen.look()
        (tmp_path / "t.mtrace" / "run.json").write_text("no")
        await pilot.press("enter")
        await settled(pilot)
        assert pilot.app.screen is screen
        assert "cannot be opened" in [*pilot.app._notifications][-1].message

    with_screen(tmp_path / "t.mtrace", (80, 24), act)


def test_search_filter_and_copy_are_those_of_the_viewer(made, tmp_path, monkeypatch):
    monkeypatch.setattr("modtrace.analysis.live.is_alive", lambda *_: True)

    async def act(screen, pilot):
        model, copied = screen.call_tree.model, []
        monkeypatch.setattr(pilot.app, "copy_to_clipboard", copied.append)
        rows = len(model)
        await pilot.press("slash", *"act")
        assert "hit 1 of 1" in screen_text(pilot.app)
        await pilot.press("enter", "y")
        assert "hit 1 of 1  last 20" in screen_text(pilot.app)
        assert copied == ["h.*.act"]
        made.step()
        screen.look()
        assert screen.hits.sum() == 1, "hits are found again in the tree that has grown"
        assert screen.hits[model.selected]
        await pilot.press("escape")
        assert screen.hits is None
        await pilot.press("f", *"type:Linear", "enter")
        assert {model.nodes.path(model.node_at(at)) for at in range(len(model))} == {
            "GPT", "h.*", "h.*.fc",
        }  # fmt: skip
        made.step()
        screen.look()
        assert len(model) == 3, "the filter holds for what is new"
        assert "1 of 10 rows  last 20" in screen_text(pilot.app)
        await pilot.press("f", *" step:3", "enter")
        assert "step is not known while a run goes on" in screen_text(pilot.app)
        await pilot.press("escape", "F")
        assert len(model) == rows
        await pilot.press("question_mark")
        assert isinstance(pilot.app.screen, HelpScreen)
        assert "w changes how many steps" in screen_text(pilot.app)
        for name in ("tree.sort", "tree.find", "list.down", "live.pause"):
            assert name in screen_text(pilot.app)

    with_screen(tmp_path / "t.mtrace", (120, 60), act)


def test_new_calls_keep_cursor_open_rows_and_scrolling(made, tmp_path, monkeypatch):
    monkeypatch.setattr("modtrace.analysis.live.is_alive", lambda *_: True)

    async def act(screen, pilot):
        tree = screen.call_tree
        closed = next(
            at for at in range(len(tree.model)) if tree.model.nodes.label(tree.model.node_at(at)) == "h.* x2"
        )
        tree.move_to(closed)
        await pilot.press("left", "end")
        row, top = path_at(screen), tree.scroll_offset.y
        assert top > 0
        rows = len(tree.model)
        for _ in range(25):
            made.step(4.0)
            screen.look()
        await settled(pilot)
        assert (path_at(screen), len(tree.model), tree.scroll_offset.y) == (row, rows, top)
        tree.scroll_to(y=0, animate=False)
        await settled(pilot)
        made.step()
        screen.look()
        await settled(pilot)
        assert tree.scroll_offset.y == 0, "what was scrolled away from the cursor stays so"
        await pilot.press("E")
        assert path_at(screen) == row

    with_screen(tmp_path / "t.mtrace", (60, 12), act)


def test_k_moves_and_only_an_answer_stops(made, tmp_path, monkeypatch):
    monkeypatch.setattr("modtrace.analysis.live.is_alive", lambda *_: True)
    script = Script(tmp_path / "t.mtrace")

    async def act(screen, pilot):
        await pilot.press("j", "j", "j", "k", "k", "y")
        assert screen.call_tree.cursor == 1
        assert script.interrupts == 0
        await pilot.press("tab", "tab", "k", "k", "K", "k", "k", "escape", "y")
        assert script.interrupts == 0
        await pilot.press("K")
        assert "stop the script?" in screen_text(pilot.app)
        await pilot.press("y")
        assert script.interrupts == 1
        await pilot.press("ctrl+c")
        assert script.interrupts == 1
        await pilot.press("ctrl+c")
        assert script.interrupts == 2
        await pilot.press("i", *"go k", "enter", *"on", "enter", "escape")
        assert script.typed == ["go k\n", "on\n"]
        assert script.interrupts == 2
        await pilot.press("q")
        await pilot.pause()
        assert pilot.app.return_value == "detached"

    with_screen(tmp_path / "t.mtrace", (120, 32), act, script)


def keys_of(*owners):
    """What each key does, by the name of its binding; those of the first owners come first."""
    names = {}
    for owner in owners:
        for key, bindings in owner._merged_bindings.key_to_bindings.items():
            for binding in bindings:
                if binding.id:
                    names.setdefault(key, binding.id)
    return names


def test_keys_are_the_same_in_both():
    live, view = keys_of(CallTree, LiveScreen, Viewer), keys_of(CallTree, TreeScreen, Viewer)
    letters = list("jkhlgGECesSrnNfFyxzq")
    common = ["up", "down", "left", "right", "space", "tab", "escape", "slash", "plus", "minus", "ctrl+z"]
    common += ["question_mark", "exclamation_mark", "percent_sign"]
    common += ["left_curly_bracket", "right_curly_bracket", "enter", *letters]
    for key in common:
        assert live[key] == view[key], key
    # No key of the viewer does another thing while a run goes on, but that ctrl+c ends what goes on.
    both = (live.keys() & view.keys()) - {"ctrl+c"}
    assert {key: (live[key], view[key]) for key in both if live[key] != view[key]} == {}
    assert not any(name == "live.stop" for key, name in live.items() if key not in ("K", "ctrl+c"))


def test_unfocused_it_looks_less_often(made, tmp_path):
    async def act(screen, pilot):
        pilot.app.on_app_blur()
        assert screen._timer._interval == 2.0
        pilot.app.on_app_focus()
        assert screen._timer._interval == 0.25

    with_screen(tmp_path / "t.mtrace", (80, 24), act)


def test_a_trace_that_goes_away_while_it_is_shown(made, tmp_path):
    import shutil

    async def act(screen, pilot):
        shutil.rmtree(tmp_path / "t.mtrace")
        screen.look()
        await pilot.pause()
        return screen_text(screen.app)

    text = with_screen(tmp_path / "t.mtrace", (80, 24), act)
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
    assert tree.numbers.now.total_ns[row] == 20 * 2 * 4.5e6
    before = (15 * 3.0 + 5 * 4.5) / 20
    assert tree.change(row) == pytest.approx(4.5 / before - 1)
    tree.rank = None
    tree.refresh()
    assert tree.instances[row] == 2
    assert tree.numbers.now.total_ns[row] == 20 * 2 * 4.5e6 + 20 * 2 * 9e6
    assert tree.numbers.steps == 40


def test_plain_twin(made, tmp_path):
    made.end(0)
    done = subprocess.run(
        [sys.executable, "-m", "modtrace", "live", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == status_text(tmp_path / "t.mtrace")
    assert done.stdout.isascii()
    assert all(len(line) <= 80 for line in done.stdout.splitlines()[1:])
    same_as_file("plain", done.stdout)


FAILING = """
import torch
net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(5, 2))
net(torch.ones(2, 4))
"""


def test_the_reason_of_a_failure_is_above_all_else_at_the_end(tmp_path):
    (tmp_path / "script.py").write_text(FAILING)
    trace = tmp_path / "t.mtrace"
    words = [sys.executable, "-m", "modtrace", "run", "-q", "-o", str(trace), "script.py"]
    assert subprocess.run(words, cwd=tmp_path, capture_output=True, check=False).returncode == 1

    async def act(screen, pilot):
        screen.look()
        await settled(pilot)
        return screen_text(pilot.app)

    lines = with_screen(trace, (100, 30), act).splitlines()
    assert "[exit 1]" in lines[0]
    assert "! exit 1: RuntimeError: mat1 and mat2 shapes" in lines[1]
    assert "in 1 Linear, got f32[2,4]" in lines[2]
    assert "-> the input's last size is 4" in lines[3]
    assert "FINISHED" in lines[0]


def test_a_row_that_is_next_to_nothing_shows_no_change(made, tmp_path):
    trace = LiveTrace(tmp_path / "t.mtrace")
    trace.look()
    live = LiveModel(LiveTree(trace))
    live.refresh()
    nodes = live.model.nodes
    by_label = {nodes.label(node): node for node in range(len(nodes))}
    assert live.change_text(by_label["h.* x2"]) == "^ +28%"
    assert nodes.number("total", by_label["zero_grad"]) < 0.01 * live.span_ns
    assert live.change_text(by_label["zero_grad"]) == ""


def test_what_is_not_there(tmp_path):
    for words, status in (([str(tmp_path / "no.mtrace")], 4), ([str(tmp_path)], 4)):
        done = subprocess.run(
            [sys.executable, "-m", "modtrace", "live", *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == status
        assert done.stderr.count("\n") == 1
