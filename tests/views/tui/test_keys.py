"""What the keys do, in the viewer as a whole."""

from __future__ import annotations

import csv
import shutil

import pytest
from textual import events

from benchmarks.synthetic import write_gpt
from modtrace.analysis.metrics import METRICS
from modtrace.views.models.viewer_model import ViewerModel
from modtrace.views.tui.app import Viewer, binding_ids
from modtrace.views.tui.key_bindings import read_keys
from modtrace.views.tui.popups import HelpScreen, Popup
from tests.views.tui.screen import drive, press, text


def selected(app):
    model = app.tree_screen.call_tree.model
    return model.nodes.path(model.selected)


def test_sort_keeps_the_cursor_on_its_row(gpt):
    async def act(pilot, app):
        await press(pilot, *["down"] * 6)
        model, before = app.tree_screen.call_tree.model, selected(app)
        assert before == "h.*.ln_1"
        for _ in range(5):
            await press(pilot, "s")
            assert selected(app) == before
            assert f"sort:{model.key}" in text(app)
        await press(pilot, "r")
        assert selected(app) == before

    drive(gpt, act)


def test_search_counts_hits_and_goes_round(gpt):
    async def act(pilot, app):
        await press(pilot, "slash", *"c_proj")
        assert "hit 1 of 4" in text(app)
        rows = len(app.tree_screen.call_tree.model)
        await press(pilot, "enter")
        seen = []
        for _ in range(4):
            seen.append((app.tree_screen.call_tree.model.selected, selected(app)))
            await press(pilot, "n")
        assert len(set(seen)) == 4
        assert {path.rpartition(".")[2] for _, path in seen} == {"c_proj"}
        assert (app.tree_screen.call_tree.model.selected, selected(app)) == seen[0]
        await press(pilot, "N")
        assert (app.tree_screen.call_tree.model.selected, selected(app)) == seen[-1]
        assert len(app.tree_screen.call_tree.model) == rows
        await press(pilot, "escape", "n")
        assert app.tree_screen.hits is None

    drive(gpt, act)


def test_search_given_up_goes_back(gpt):
    async def act(pilot, app):
        await press(pilot, "down", "down")
        before = selected(app)
        await press(pilot, "slash", *"lm_head")
        assert selected(app) == "lm_head"
        await press(pilot, "escape")
        assert selected(app) == before

    drive(gpt, act)


def test_filter_tells_what_is_wrong_and_is_taken_off(gpt):
    async def act(pilot, app):
        tree = app.tree_screen.call_tree
        rows = len(tree.model)
        await press(pilot, "f", *"self>5x", "enter")
        assert "self is compared with something like 5ms" in text(app)
        await press(pilot, *["backspace"] * 7, *"type:linear", "enter")
        kinds = {
            tree.model.nodes.rows.types[tree.model.nodes.rows.type[at]]
            for at in tree.model.matches.nonzero()[0]
        }
        assert kinds == {"Linear"}
        assert len(tree.model) < rows
        await press(pilot, "F")
        assert len(tree.model) == rows

    drive(gpt, act, (80, 24))


@pytest.mark.parametrize("key", ["f", "slash"])
def test_what_is_typed_at_once_goes_where_it_is_asked_for(gpt, key):
    async def act(pilot, app):
        order = app.tree_screen.call_tree.model.key
        for name in (key, *"sers"):
            app.post_message(events.Key(name, None if name == "slash" else name))
        await press(pilot)
        assert app.screen.query_one("AskBar Input").value == "sers"
        assert app.tree_screen.call_tree.model.key == order

    drive(gpt, act)


def test_three_trees_keep_the_cursor_on_the_module(gpt):
    async def act(pilot, app):
        await press(pilot, "slash", *"mlp.act", "enter")
        assert selected(app) == "h.*.mlp.act"
        await press(pilot, "v")
        assert selected(app) == "h.0.mlp.act"
        await press(pilot, "v")
        assert selected(app) == "h.0.mlp.act"
        assert app.tree_screen.mode == "calls"
        nodes = app.tree_screen.call_tree.model.nodes
        assert len(nodes) > 10_000
        await press(pilot, "v")
        assert selected(app) == "h.*.mlp.act"

    drive(gpt, act)


def test_what_is_selected_is_marked_in_the_others(gpt):
    async def act(pilot, app):
        await press(pilot, "slash", *"mlp.c_fc", "enter", "4")
        flame = app.screen.chart
        assert app.rank.icicle().nodes.path(int(flame.boxes.owner[flame.selected])) == "h.*.mlp.c_fc"
        await press(pilot, "up", "3")
        assert selected(app) == "h.*.mlp"
        marked = app.tree_screen._linked(app.tree_screen.step.boxes.owner)
        assert marked.sum() == 12  # one a block in the step that is shown
        await press(pilot, "tab")
        while app.focused.id != "timeline":
            await press(pilot, "tab")
        await press(pilot, "down", "down", "down")
        chosen = app.tree_screen.timeline
        assert app.tree_screen.placed.node_of(int(chosen.boxes.owner[chosen.selected])) == (
            app.tree_screen.call_tree.model.selected
        )

    drive(gpt, act)


def test_flame_zooms_in_and_out_and_turns_round(gpt):
    async def act(pilot, app):
        await press(pilot, "4", "g", "down", "down", "enter")
        chart = app.screen.chart
        whole = app.rank.icicle().boxes.end.max()
        assert chart.view_end - chart.view_start < whole
        assert "zoom: " in text(app)
        await press(pilot, "enter")  # twice: who called it
        assert app.screen.inverted
        await press(pilot, "escape", "escape")
        assert not app.screen.inverted
        assert chart.view_end - chart.view_start == whole
        # Each box of a level can be reached, however narrow it is.
        await press(pilot, "g")
        for _ in range(4):
            await press(pilot, "down")
        low, high = chart.boxes.of_level(int(chart.boxes.level[chart.selected]))
        await press(pilot, "g", *["right"] * (high - low - 1))
        assert chart.selected == high - 1

    drive(gpt, act)


def test_steps_sort_and_lead_to_the_tree(gpt):
    async def act(pilot, app):
        await press(pilot, "5", "s")
        lines = app.screen.lines
        assert (lines.key, lines.descending) == ("total", True)
        took = lines.table.took[lines.order]
        assert (took[:-1] >= took[1:]).all()
        assert lines.order[app.screen.table.cursor] == app.step, "the cursor stays on its step"
        await press(pilot, "home", "down", "enter")
        assert app.screen is app.tree_screen
        assert f"step {int(lines.order[1])} of 40" in text(app)
        await press(pilot, "right_square_bracket")
        assert app.step == int(lines.order[1]) + 1

    drive(gpt, act)


def test_memory_jumps_between_peaks_of_steps(gpt):
    async def act(pilot, app):
        await press(pilot, "6", "home")
        held, line = app.rank.memory[0]
        moments = []
        for _ in range(3):
            await press(pilot, "right_square_bracket")
            moments.append(app.screen.curve.moment)
        starts = app.rank.steps.start
        for step, moment in enumerate(moments):
            assert starts[step] <= moment < starts[step + 1]
            alive = (held.at_ns <= moment) & ((held.freed_ns < 0) | (held.freed_ns > moment))
            total = int(held.size_bytes[alive].sum())
            assert sum(one.held_bytes for one in app.screen.holders) == total
            assert total == int(line.held_bytes[line.at_ns.searchsorted(moment, "right") - 1])

    drive(gpt, act)


def test_ops_lead_to_the_tree(gpt):
    async def act(pilot, app):
        await press(pilot, "7", "down", "down", "enter")
        assert app.screen is app.tree_screen
        assert selected(app) == "wte"

    drive(gpt, act)


def test_export_writes_what_is_shown_and_no_file_twice(gpt, tmp_path):
    async def act(pilot, app):
        await press(pilot, "f", *"c_fc", "enter", "x", "enter")
        assert [note.message for note in app._notifications] == ["wrote 11 rows to gpt-tree-merged.csv"]
        with (tmp_path / "gpt-tree-merged.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        model = app.tree_screen.call_tree.model
        assert [row["path"] for row in rows] == [
            model.nodes.path(model.node_at(at)) for at in range(len(model))
        ]
        assert int(rows[-1]["self_ns"]) == model.nodes.number("self", model.node_at(len(model) - 1))
        await press(pilot, "x")
        assert "gpt-tree-merged-2.csv" in text(app)
        await press(pilot, "escape")

    drive(gpt, act)


def test_copy_and_help(gpt):
    async def act(pilot, app):
        copied = []
        app.copy_to_clipboard = copied.append
        await press(pilot, *["down"] * 6, "y")
        assert copied == ["h.*.ln_1"]
        await press(pilot, "question_mark")
        assert isinstance(app.screen, HelpScreen)
        assert "tree.sort" in text(app) or "list.down" in text(app)
        await press(pilot, "escape", "exclamation_mark")
        assert isinstance(app.screen, Popup)
        assert "nothing is missing" in text(app)

    drive(gpt, act)


def test_source_opens_in_the_editor_at_the_line(tmp_path, monkeypatch):
    write_gpt(tmp_path / "gpt.mtrace", steps=2, layers=2)
    (tmp_path / "model.py").write_text("\n".join(f"line {at}" for at in range(1, 100)))
    from modtrace.views.tui import editing

    ran = []
    monkeypatch.setenv("EDITOR", "vi -R")
    monkeypatch.setattr(editing.subprocess, "run", lambda command, check: ran.append(command))

    async def act(pilot, app):
        import contextlib

        monkeypatch.setattr(app, "suspend", contextlib.nullcontext)
        await press(pilot, "slash", *"attn", "enter")
        assert "line 20" in text(app)  # beside the tree
        await press(pilot, "o")
        assert ran == [["vi", "-R", "+20", str(tmp_path / "model.py")]]

    drive(tmp_path / "gpt.mtrace", act)


def test_own_keys(gpt, tmp_path):
    file = tmp_path / "config" / "modtrace" / "keys.toml"
    file.parent.mkdir(parents=True)
    file.write_text('tree.sort = "w"\nnothing.here = "x"\n')

    async def act(pilot, app):
        await press(pilot, "s")
        assert app.tree_screen.call_tree.model.key == "order"
        await press(pilot, "w")
        assert app.tree_screen.call_tree.model.key == "self"
        await press(pilot, "question_mark")

    drive(gpt, act)
    keys, said = read_keys(file, set(binding_ids()))
    assert keys == {"tree.sort": "w"}
    assert "line 2: nothing is called nothing.here" in said


def test_every_binding_has_one_name():
    names = list(binding_ids())
    assert len(names) == len(set(names))


def test_palette_shows_views(gpt):
    app = Viewer(ViewerModel(gpt))
    assert app.ENABLE_COMMAND_PALETTE

    async def act(pilot, app):
        names = {command.title for command in app.get_system_commands(app.screen)}
        assert {
            "Hot",
            "Findings",
            "Tree",
            "Flame",
            "Steps",
            "Memory",
            "Ops",
            "Export",
            "Sort by self",
            "Read again",
        } <= names
        await press(pilot, "ctrl+p")
        assert app.screen is not app.tree_screen
        await press(pilot, "escape")

    drive(gpt, act)


def test_a_trace_that_goes_and_comes_again_while_open(tmp_path):
    path = tmp_path / "gpt.mtrace"
    write_gpt(path, steps=3, layers=2)

    async def act(pilot, app):
        shutil.rmtree(path)
        app._watch()
        await press(pilot, "1", "2", "4", "5", "6", "7", "3")
        assert "(deleted)" in text(app)
        await press(pilot, "ctrl+r")
        assert "not read again" in [*app._notifications][-1].message
        write_gpt(path, steps=5, layers=2)
        app._watch()
        await press(pilot, "ctrl+r")
        assert "5 steps" in text(app)
        assert len(app.rank.steps) == 5
        await press(pilot, "5", "3")
        assert "(" not in text(app).splitlines()[0]

    drive(path, act, (140, 32))


def test_mouse(gpt):
    async def act(pilot, app):
        await pilot.click("#tree", offset=(20, 5))
        await press(pilot)
        row = app.tree_screen.call_tree.cursor
        assert row > 0
        await pilot.click("HeadLine", offset=(119 - len("7Ops"), 0))
        await press(pilot)
        assert app.screen is app.views[7]

    drive(gpt, act)


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
def test_leaves(gpt, key):
    async def act(pilot, app):
        await pilot.press(key)
        assert app.return_value is None
        assert not app.is_running or app._exit

    drive(gpt, act)


def test_the_number_that_the_tree_is_sorted_by_has_a_column(gpt):
    async def act(pilot, app):
        tree = app.tree_screen.call_tree
        seen = {}
        for _ in tree.keys:
            await press(pilot, "s")
            seen[tree.model.key] = text(app)
        assert list(seen) == [*(key for key in tree.keys if tree.tells(key) and key != "order"), "order"]
        for key in ("p50", "p95", "max", "mem"):
            head = next(line for line in seen[key].splitlines() if "module" in line)
            assert f"{METRICS[key].title} v" in head
        await press(pilot, "v", "v")  # single calls have no median, and each is one call
        assert not {"p50", "p95", "max", "calls"} & {key for key in tree.keys if tree.tells(key)}

    drive(gpt, act, (80, 24))


def test_wide_trees_show_all_that_is_known(gpt):
    async def act(pilot, app):
        await press(pilot, "z")
        head = next(line for line in text(app).splitlines() if "module" in line)
        for title in ("self", "total", "calls", "median", "p95", "max", "peak", "bar"):
            assert title in head.split()
        assert "device" not in head.split()  # nothing is known of it
        nodes = app.tree_screen.placed.nodes
        node = app.tree_screen.call_tree.model.node_at(3)
        row = text(app).splitlines()[5]
        assert METRICS["p95"].text(nodes.number("p95", node)) in row

    drive(gpt, act, (170, 32))
