"""The views that a trace opens with: hottest modules, findings, the failing row; and what shares are of."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
import torch

import modtrace
from modtrace.analysis.failure import Failure
from modtrace.analysis.findings import Finding
from modtrace.analysis.flat_profile import flat_profile
from modtrace.analysis.outcome import OpenCall, Outcome
from modtrace.analysis.statistics import chosen_steps
from modtrace.trace.reader import open_trace
from modtrace.units import duration, percent
from modtrace.views.models.finding_rows import remark_lines, remarks
from modtrace.views.models.hot_rows import hot_rows
from modtrace.views.models.tree_model import TreeModel
from modtrace.views.models.trees import BEFORE, OUTSIDE
from modtrace.views.models.trouble import trouble_texts
from modtrace.views.models.viewer_model import ViewerModel
from modtrace.views.tui.hot_screen import HotScreen
from modtrace.views.tui.reading_line import reading_text
from modtrace.views.tui.styles import HUES, legend, luminance, style
from modtrace.views.tui.tree_lines import TreeLines
from tests.views.tui.screen import drive, press, text


def path_at(app):
    model = app.screen.call_tree.model
    return model.nodes.path(model.selected)


def test_it_opens_with_the_rows_of_the_flat_profile(gpt):
    profile = flat_profile(open_trace(gpt))
    first = profile.rows[0]

    async def act(pilot, app):
        assert isinstance(app.screen, HotScreen)
        model = app.screen.call_tree.model
        nodes = [model.node_at(row) for row in range(len(model))]
        assert [app.screen.hot.rows[node].name for node in nodes[: len(profile.rows)]] == [
            row.name for row in profile.rows if row.self_ns > 0
        ]
        line = next(line for line in text(app).splitlines() if first.label in line)
        per = profile.per
        for shown in (
            first.type,
            duration(first.self_ns // per),
            percent(first.self_ns, profile.window.base_ns),
            duration(first.forward_ns // per),
            duration(first.backward_ns // per),
            str(first.calls // per),
            first.output,
        ):
            assert shown in line
        assert (
            f"slowest {duration(max(app.screen.rank.steps.end - app.screen.rank.steps.start))}"
            not in text(app)
        )
        assert "forward #" in text(app)

    drive(gpt, act, view="")


def test_rows_of_the_profile_add_up(gpt):
    rank = ViewerModel(gpt).rank(0)
    for whole_run in (False, True):
        hot = hot_rows(rank.part, rank.profile(whole_run=whole_run))
        assert sum(row.self_ns for row in hot.rows) == hot.profile.window.base_ns


def test_enter_goes_to_the_module_in_the_tree(gpt):
    async def act(pilot, app):
        await press(pilot, "down", "down")
        name = path_at(app)
        await press(pilot, "enter")
        assert app.screen is app.tree_screen
        assert path_at(app) == name
        assert ">>" in next(line for line in text(app).splitlines() if "c_attn x12" in line)

    drive(gpt, act, view="")


@pytest.mark.parametrize("size", [(120, 32), (80, 24)], ids=["bordered", "plain"])
def test_a_click_on_a_head_sorts(gpt, size):
    async def act(pilot, app):
        lines = text(app).splitlines()
        row = next(row for row, line in enumerate(lines) if "backward" in line and "calls" in line)
        column = lines[row].index("backward") + 4
        await pilot.click(offset=(column, row))
        await press(pilot)
        model = app.screen.call_tree.model
        assert (model.key, model.descending) == ("backward", True)
        values, known = model.nodes.numbers("backward")
        shown = [int(values[model.node_at(at)]) for at in range(len(model)) if known[model.node_at(at)]]
        assert shown == sorted(shown, reverse=True)
        await pilot.click(offset=(column, row))
        await press(pilot)
        assert (model.key, model.descending) == ("backward", False)

    drive(gpt, act, size, view="")


@pytest.mark.parametrize("view", ["1", "3", "5"])
@pytest.mark.parametrize("size", [(120, 32), (100, 20)], ids=["bordered", "plain"])
def test_a_click_selects_the_row_under_the_pointer(gpt, view, size):
    async def act(pilot, app):
        lines = text(app).splitlines()
        if view == "5":
            row = next(row for row, line in enumerate(lines) if " total" in line) + 3
            wanted = int(lines[row].strip("│ >").split()[0].rstrip("*?"))
        else:
            wanted = {"1": "lm_head", "3": "wte"}[view]
            row = next(row for row, line in enumerate(lines) if wanted in line[:40] and row > 3)
        await pilot.click(offset=(12, row))
        await press(pilot)
        assert (app.step if view == "5" else path_at(app)) == wanted

    drive(gpt, act, size, view=view)


def test_a_click_selects_the_box_under_the_pointer(gpt):
    async def act(pilot, app):
        lines = text(app).splitlines()
        row = next(row for row, line in enumerate(lines) if "|backward" in line)
        await pilot.click(offset=(lines[row].index("|backward") + 3, row))
        await press(pilot)
        chart = app.screen.chart
        assert chart.boxes.label(int(chart.boxes.owner[chart.selected])) == "backward"

    drive(gpt, act, view="4")


def test_the_tree_adds_up_to_the_steps_and_to_the_whole_run(gpt):
    rank = ViewerModel(gpt).rank(0)
    for whole_run in (False, True):
        placed = rank.tree("merged", whole_run=whole_run)
        nodes = placed.nodes
        tops = [node for node in range(len(nodes)) if nodes.depth[node] == 0]
        assert sum(nodes.number("total", node) or 0 for node in tops) == placed.base_ns
        labels = [nodes.label(node) for node in tops]
        assert (BEFORE in labels and OUTSIDE in labels) is whole_run
    steps = rank.steps
    counts = chosen_steps(rank.stored, 0).steps
    assert rank.tree("merged").base_ns == int((steps.end - steps.start)[counts].sum())


def test_a_row_that_did_not_run_in_the_steps_has_no_share(failed, gpt):
    rank = ViewerModel(gpt).rank(0)
    nodes = rank.tree("calls").nodes
    outside = int(np.flatnonzero(~nodes.counted)[0])
    lines = TreeLines(TreeModel(nodes), rank.tree("calls").base_ns, 120, timed=True)
    assert "".join(piece for piece, _ in lines._cell(outside, "share")).strip() == "-"
    merged = rank.tree("merged")
    merged.nodes.counted[1] = False
    lines = TreeLines(TreeModel(merged.nodes), merged.base_ns, 120)
    for name in ("self", "total", "share", "p50"):
        assert "".join(piece for piece, _ in lines._cell(1, name)).strip() == "-"


def test_a_shows_the_whole_run_everywhere(gpt):
    async def act(pilot, app):
        assert BEFORE not in "\n".join(text(app).splitlines()[5:])
        await press(pilot, "a")
        assert "the whole run" in text(app)
        assert BEFORE in "\n".join(text(app).splitlines()[5:])
        await press(pilot, "3", "end")
        assert path_at(app) == OUTSIDE
        assert "% of the whole run" in text(app)
        await press(pilot, "4")
        assert "total time of the whole run" in text(app)
        await press(pilot, "a")
        assert "total time of steps 7-39" in text(app)
        await press(pilot, "3")
        assert path_at(app) != OUTSIDE
        assert "module, steps 7-39" in text(app)

    drive(gpt, act, view="")


def test_a_failed_run_opens_on_the_failing_row(failed):
    async def act(pilot, app):
        lines = text(app).splitlines()
        assert app.screen is app.tree_screen
        assert path_at(app) == "head"
        assert "exit 1" in lines[0]
        assert "! exit 1: RuntimeError: mat1 and mat2" in lines[1]
        assert "in head Linear, got f32[2,4]" in lines[2]
        assert "-> the input's last size is 4" in lines[3]
        assert any(line.startswith("│>>!") and "head" in line for line in lines)
        assert "raised once" in text(app)
        await press(pilot, "1")
        assert "! exit 1: RuntimeError" in text(app)

    drive(failed, act, view="")


def test_what_is_said_of_how_a_run_ended():
    failure = Failure(
        step=None, error="ValueError: no", path=[], parameters=[], sibling=None, reason=None, line="train.py:6",
        source=None, root=None, call=-1, left=-1, error_row=0,
    )  # fmt: skip
    failed = Outcome("exit 1", failed=True)
    assert trouble_texts(failed, failure, []) == ["exit 1: ValueError: no", "at train.py:6"]
    assert trouble_texts(failed, None, []) == [], "the title has the state"
    assert trouble_texts(Outcome("exit 0", failed=False), None, []) == []
    killed = Outcome("killed", failed=True, open_calls=(OpenCall("m", "Net", "f32[2]"),), at_least_ns=5)
    assert trouble_texts(killed, None, []) == ["killed while in m Net, f32[2], for at least 5 ns"]


def test_low_terminals_have_one_line_on_the_failure(failed):
    async def act(pilot, app):
        lines = text(app).splitlines()
        assert lines[1].startswith(" ! exit 1: RuntimeError")
        assert ">>!" in text(app)

    drive(failed, act, (60, 12), view="")


@pytest.mark.parametrize("steps", [2, 3, 8, 9])
def test_of_few_steps_it_opens_at_the_median(tmp_path, steps):
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace(path=tmp_path / "t.mtrace", flops=False):
        for _ in range(steps):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
    rank = ViewerModel(tmp_path / "t.mtrace").rank(0)
    frame = modtrace.load(tmp_path / "t.mtrace").steps
    took = frame[frame["in_statistics"]]["duration_ns"]
    assert frame.loc[rank.first_step, "duration_ns"] == statistics.median_low(took.tolist())


def test_it_opens_at_the_median_of_the_steps_that_count(gpt):
    rank = ViewerModel(gpt).rank(0)
    counts = chosen_steps(rank.stored, 0).steps
    took = (rank.steps.end - rank.steps.start)[counts]
    assert counts[rank.first_step]
    assert (rank.steps.end - rank.steps.start)[rank.first_step] == np.sort(took)[(len(took) - 1) // 2]

    async def act(pilot, app):
        assert f"step {rank.first_step} of 40" in text(app)

    drive(gpt, act)


def test_a_filter_that_does_not_parse_leaves_rows_and_cursor_alone(gpt):
    async def act(pilot, app):
        tree = app.screen.call_tree
        await press(pilot, *["down"] * 6)
        rows, path = len(tree.model), path_at(app)
        for text_so_far in ("self>", "nothing_is_called_so"):
            await press(pilot, "f", *text_so_far)
            assert (len(tree.model), path_at(app)) == (rows, path)
            await press(pilot, "enter")
            assert (len(tree.model), path_at(app)) == (rows, path)
            assert app.screen.ask_bar.is_open
            await press(pilot, "escape")
            assert (len(tree.model), path_at(app)) == (rows, path)
        await press(pilot, "f", *"type:Linear", "enter", "f", *" self>")
        assert len(tree.model) < rows
        assert {"c_fc", "c_proj"} <= {
            tree.model.nodes.path(tree.model.node_at(at)).rpartition(".")[2] for at in range(len(tree.model))
        }

    drive(gpt, act)


@pytest.mark.parametrize("size", [(120, 32), (80, 24)], ids=["wide", "narrow"])
@pytest.mark.parametrize("view", ["1", "3"])
def test_the_count_of_hits_stays_after_enter(gpt, view, size):
    async def act(pilot, app):
        await press(pilot, "slash", *"c_proj", "enter")
        assert "hit 1 of " in text(app)
        await press(pilot, "n")
        assert "hit 2 of " in text(app)
        await press(pilot, "escape")
        assert "hit " not in text(app)

    drive(gpt, act, size, view=view)


def test_search_and_filter_in_the_hottest_modules(gpt):
    async def act(pilot, app):
        rows = len(app.screen.call_tree.model)
        await press(pilot, "f", *"phase:optimizer", "enter")
        assert path_at(app) == "optimizer"
        await press(pilot, "a")
        assert len(app.screen.call_tree.model) == 1, "the filter holds for the whole run"
        await press(pilot, "a", "F")
        assert len(app.screen.call_tree.model) == rows
        await press(pilot, "x", "enter")
        assert [note.message for note in app._notifications if "wrote" in note.message] == [
            f"wrote {rows} rows to gpt-hot.csv"
        ]

    drive(gpt, act, view="")


def test_findings_lead_to_the_module(gpt):
    async def act(pilot, app):
        await press(pilot, "2")
        assert "! activations are" in text(app)
        assert "->" in text(app)
        assert "enter: h.*.mlp.c_fc x12 in the tree" in text(app)
        await press(pilot, "enter")
        assert app.screen is app.tree_screen
        assert path_at(app) == "h.*.mlp.c_fc"

    drive(gpt, act, view="")


def test_the_cursor_goes_from_finding_to_finding(gpt):
    rank = ViewerModel(gpt).rank(0)
    hot = hot_rows(rank.part, rank.profile())
    many = [
        Finding("one", "AdamW.step takes " + "long " * 40, "do less"),
        Finding("two", "h.*.mlp (MLP) is slow", "h.*.mlp.c_fc does most of it"),
        Finding("three", "nothing by name", ""),
    ]
    shown = remarks(many, ["a gap"], hot)
    assert [hot.rows[remark.node].name if remark.node >= 0 else "" for remark in shown] == [
        "optimizer", "h.*.mlp.c_fc", "", "",
    ]  # fmt: skip
    lines = remark_lines(shown, hot, 60)
    assert max(len(line.text) for line in lines) <= 60
    assert {line.remark for line in lines} == {0, 1, 2, 3}


def test_memory_shows_sizes_from_shapes_where_nothing_was_watched(failed):
    async def act(pilot, app):
        await press(pilot, "6")
        assert "modtrace run --memory 0:3" in text(app)
        assert "FROM SHAPES" in text(app)
        assert "OUTPUTS OF" in text(app)

    drive(failed, act, view="")


def test_zoomed_boxes_are_below_those_around_them(gpt):
    async def act(pilot, app):
        await press(pilot, "g", *["down"] * 5, "enter")
        chart = app.screen.chart
        shown = [line.strip("│ ") for line in text(app).splitlines()]
        labels = ["|step", "|backward", "|GPT", "|h.* x12", "|mlp x12", ">c_fc x12"]
        assert [line for line in shown if line.startswith(("|", ">"))][:6] == labels
        chart = app.screen.chart
        await pilot.click("#flame", offset=(20, 2))
        await press(pilot)
        assert chart.boxes.label(int(chart.boxes.owner[chart.selected])) == "backward"

    drive(gpt, act, view="4")


def test_the_legend_names_the_phases_that_are_drawn(gpt):
    async def act(pilot, app):
        line = text(app).splitlines()[-3]
        assert line.split() == ["data", "forward", "loss", "backward", "optimizer,", "zero", "grad", "other"]

    drive(gpt, act, view="4")
    assert [text for text, _ in legend(["forward", ""])][2::3] == [" forward", " other"]


def test_text_in_boxes_can_be_read():
    for dark in (True, False):
        for name in HUES:
            for level in range(4):
                look = style(f"box-{name}-{level}", dark=dark)
                front, back = (
                    luminance("#" + "".join(f"{part:02x}" for part in color.triplet))
                    for color in (look.color, look.bgcolor)
                )
                low, high = sorted((front, back))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (name, level, dark)


def test_what_is_read_is_said(gpt, tmp_path):
    assert reading_text(gpt) == f"reading {len(open_trace(gpt).table('calls')):,} calls"
    (tmp_path / "cut" / "rank-0").mkdir(parents=True)
    (tmp_path / "cut" / "rank-0" / "calls.arrows").write_bytes(b"0" * 2048)
    assert reading_text(tmp_path / "cut") == "reading 2.00 KiB"
    assert reading_text(tmp_path / "none") == "reading 0 B"


def test_200_columns_are_used(gpt):
    async def act(pilot, app):
        rows = [line for line in text(app).splitlines() if "h.*.mlp.c_fc x12" in line]
        label, class_name = rows[0].index("h.*"), rows[0].index("Linear")
        assert class_name - label < 32, "no gap between the name and its class"
        assert rows[0].count("#") + rows[0].count("=") > 40
        assert "f16[8,1024,3072]" in rows[0]

    drive(gpt, act, (200, 50), view="")
