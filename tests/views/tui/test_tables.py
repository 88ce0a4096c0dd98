"""Steps, operations and holders of memory as tables: filters, searches and sorting, as in the tree."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from modtrace.analysis.filters import FilterRows, mask, matching, parse
from modtrace.analysis.memory_peaks import MemoryHolder
from modtrace.analysis.roofline import device_keys
from modtrace.analysis.steps import steps as steps_frame
from modtrace.errors import UsageError
from modtrace.trace.reader import open_trace
from modtrace.views.models import op_rows, step_table
from modtrace.views.models.op_rows import OPERATIONS, SPEEDS, Op, ops_of
from modtrace.views.models.step_table import StepTable
from modtrace.views.models.viewer_model import ViewerModel
from modtrace.views.tui.holder_lines import HolderLines
from modtrace.views.tui.op_lines import OpLines
from modtrace.views.tui.step_lines import StepLines
from tests.views.tui.screen import drive, press, text

GOLDEN = Path(__file__).parents[2] / "golden" / "format-1.1" / "trace"


@pytest.fixture(scope="module")
def table(gpt):
    return StepTable(ViewerModel(gpt).rank(0))


@pytest.fixture
def peaks(tmp_path, monkeypatch):
    """A cache in which a call puts what the CPU of the golden trace was measured to reach."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def measure() -> None:
        (tmp_path / "cache" / "modtrace").mkdir(parents=True)
        entry = {"flops_per_s": {"float32": 10**9}, "bytes_per_s": 10**9}
        data = {device_keys(open_trace(GOLDEN))["cpu"]: entry}
        (tmp_path / "cache" / "modtrace" / "devices.json").write_text(json.dumps(data))

    return measure


def passing(table, wanted):
    return np.flatnonzero(mask(step_table.checked(parse(wanted)), table.nodes.rows)).tolist()


def test_filters_of_steps_are_those_of_the_data_frame(table):
    frame = steps_frame(table.rank.stored)
    for wanted, expected in {
        "total>199ms": frame["duration_ns"] > 199e6,
        "-total>199ms": ~(frame["duration_ns"] > 199e6),
        "calls>=100": frame["calls"] >= 100,
        "mem>1GiB": (frame["memory_peak_bytes"] > 1 << 30).fillna(False),
        "phase:data": frame["data_ns"] > 0,
        "phase:eval": frame["eval_ns"] > 0,
        "step:3": frame.index == 3,
        "rank:0": frame["rank"] == 0,
        "rank:1": frame["rank"] == 1,
        '"left out"': ~frame["in_statistics"],
        '-"left out" total>199ms': frame["in_statistics"] & (frame["duration_ns"] > 199e6),
        'path:"step 1?"': (frame.index >= 10) & (frame.index < 20),
        "/p 3[89]$/": frame.index >= 38,
        "flops>0": frame["flops"].notna(),
    }.items():
        assert passing(table, wanted) == np.flatnonzero(np.asarray(expected, bool)).tolist(), wanted


@pytest.mark.parametrize("wanted", ["self>1ms", "type:Linear", "p50>1ms"])
def test_a_step_says_what_it_does_not_have(table, wanted):
    with pytest.raises(UsageError, match=r"a step has total, calls, .* not "):
        passing(table, wanted)


def test_peaks_of_steps_are_those_of_the_data_frame(table):
    frame = steps_frame(table.rank.stored)
    assert table.values["peak"].tolist() == frame["memory_peak_bytes"].fillna(-1).tolist()


def test_unknown_peaks_are_last_in_both_orders(gpt):
    lines = StepLines(ViewerModel(gpt).rank(0))
    for descending in (True, False):
        lines.sort("peak", descending=descending)
        known = lines.table.values["peak"][lines.order] >= 0
        assert not (~known[:-1] & known[1:]).any()


def test_filter_in_steps(gpt, tmp_path):
    async def act(pilot, app):
        screen = app.screen
        await press(pilot, "f", *"total>", "enter")
        assert len(screen.lines) == 40
        assert screen.ask_bar.is_open
        await press(pilot, *"self", "enter")  # `total>self`
        assert len(screen.lines) == 40
        await press(pilot, "escape", "f", *"total>199ms", "enter")
        slow = np.flatnonzero(screen.lines.table.took > 199e6)
        assert screen.lines.order.tolist() == slow.tolist()
        assert f"filter: {len(slow)} of 40 rows" in text(app)
        assert app.step in slow
        assert f"Step {app.step} " in text(app), "the calls are those of the step under the cursor"
        await press(pilot, "s", "r", "home", "x", "enter")
        with (tmp_path / "gpt-steps.csv").open(newline="") as file:
            exported = [int(row["total_ns"]) for row in csv.DictReader(file)]
        assert exported == sorted(screen.lines.table.took[slow].tolist())
        await press(pilot, "F")
        assert len(screen.lines) == 40

    drive(gpt, act, view="5")


def test_brackets_stay_inside_of_the_filter(gpt):
    async def act(pilot, app):
        await press(pilot, "f", *"total>199ms", "enter", "home")
        steps = app.screen.lines.order.tolist()
        walked = [app.step]
        for _ in range(len(steps) + 1):
            await press(pilot, "right_square_bracket")
            walked.append(app.step)
        assert walked == [*steps, steps[-1], steps[-1]]
        await press(pilot, "left_square_bracket")
        assert app.step == steps[-2]
        assert app.screen.lines.tree.filter
        await press(pilot, "3", "left_square_bracket")  # elsewhere each step is the next
        assert app.step == steps[-2] - 1

    drive(gpt, act, (80, 24), view="5")


def test_search_in_steps(gpt):
    async def act(pilot, app):
        await press(pilot, "home", "slash", *"/step 2/", "enter")
        assert "hit 1 of 11" in text(app)
        before = app.step
        await press(pilot, "n", "n")
        assert app.step != before
        assert str(app.step).startswith("2")
        await press(pilot, "escape")
        assert "hit " not in text(app)

    drive(gpt, act, view="5")


@pytest.mark.parametrize("size_of", [(120, 32), (80, 24)], ids=["wide", "narrow"])
@pytest.mark.parametrize(
    ("view", "title", "key"),
    [
        ("5", " total", "total"),
        ("6", " bytes", "bytes"),
        ("6", " pieces", "pieces"),
        ("6", " for", "for"),
        ("6", "holder", "name"),
        ("7", " calls", "calls"),
        ("7", "name", "name"),
    ],
)
def test_a_click_on_a_head_sorts(gpt, size_of, view, title, key):
    async def act(pilot, app):
        tables = app.screen.table
        lines = text(app).splitlines()
        others = {"5": "forward", "6": "pieces", "7": "a call"}[view]
        row = next(row for row, line in enumerate(lines) if title in line and others in line)
        place = lines[row].index(title) + 2
        orders = []
        for _ in range(3):
            await pilot.click(offset=(place, row))
            await press(pilot)
            assert tables.model.key == key
            shown = text(app).splitlines()[row]
            assert " v" in shown or " ^" in shown
            orders.append((tables.model.descending, tables.model.shown_nodes.tolist()))
        assert orders[0][0] is not orders[1][0]
        assert orders[0] == orders[2]

    drive(gpt, act, size_of, view=view)


def test_holders_sort_and_filter(gpt):
    async def act(pilot, app):
        screen = app.screen
        held = [screen.lines.holder_at(row).held_bytes for row in range(len(screen.lines))]
        assert held == sorted(held, reverse=True)
        await press(pilot, "f", *"type:Linear mem>100MB", "enter")
        shown = [screen.lines.holder_at(row) for row in range(len(screen.lines))]
        assert {holder.type for holder in shown} == {"Linear"}
        assert min(holder.held_bytes for holder in shown) > 100e6
        await press(pilot, "tab", "home", "right")  # another moment
        assert screen.lines.tree.filter
        await press(pilot, "F", "f", *"step:3", "enter")
        assert "a holder of memory has mem" in text(app)
        await press(pilot, "escape", "f", *"parameter", "enter")
        assert {screen.lines.holder_at(row).category for row in range(len(screen.lines))} == {"parameter"}

    drive(gpt, act, view="6")


def test_texts_in_the_place_of_a_table_take_every_key(failed):
    async def act(pilot, app):
        for view in ("5", "6"):
            await press(
                pilot, view, "tab", "s", "S", "r", "n", "F", "f", *"mem>1MB", "enter", "escape", "escape"
            )
            await press(pilot, "slash", "x", "enter", "escape", "y", "x", "escape")
        assert "FROM SHAPES" in text(app)

    drive(failed, act, view="")


def rows_of(lines):
    return [lines.op_at(row) for row in range(len(lines))]


@pytest.fixture(scope="module")
def ops():
    return ops_of(ViewerModel(GOLDEN).rank(0))


def test_filter_in_ops():
    async def act(pilot, app):
        lines = app.screen.lines
        rows = len(lines)
        await press(pilot, "f", *"self>", "enter")
        assert len(lines) == rows
        await press(pilot, *["backspace"] * 5, *"step:1", "enter")
        assert "step is known of calls" in text(app)
        assert len(lines) == rows
        await press(pilot, *["backspace"] * 6, *"addmm -type:function", "enter")
        shown = [op for op in rows_of(lines) if op is not None]
        assert {op.section for op in shown} >= {OPERATIONS}
        assert all("addmm" in f"{op.name} {op.type} {op.description}".lower() for op in shown)
        assert f"filter: {len(shown)} of " in text(app)
        headings = [
            lines.table.sections[lines.tree.node_at(row)]
            for row in range(len(lines))
            if lines.op_at(row) is None
        ]
        assert headings == list(dict.fromkeys(op.section for op in shown)), "none stands above nothing"
        await press(pilot, "F", "slash", *"net.head", "enter")
        assert "hit 1 of " in text(app)
        assert lines.op_at(app.screen.table.cursor).name == "net.head"

    drive(GOLDEN, act, view="7")


@pytest.mark.parametrize("key", ["self", "calls", "flops", "name"])
def test_ops_sort_within_their_sections(ops, key):
    lines = OpLines(ops)
    sections = list(dict.fromkeys(op.section for op in ops))
    lines.sort_by(key)
    assert (
        list(dict.fromkeys(lines.table.sections[node] for node in lines.tree.shown_nodes.tolist()))
        == sections
    )
    for section in sections:
        shown = [op for op in rows_of(lines) if op is not None and op.section == section and not op.is_remark]
        if key == "name":
            assert [op.name for op in shown] == sorted(op.name for op in shown)
            continue
        values = [getattr(op, op_rows.COLUMNS[key]) for op in shown]
        known = [value for value in values if value is not None]
        assert values == [*sorted(known, reverse=True), *[None] * (len(values) - len(known))]


def test_operations_are_looked_for_and_sections_never(ops):
    rows = OpLines(ops).tree.nodes.rows
    assert mask(parse("-nothing_is_called_so"), rows).sum() == sum(not op.is_remark for op in ops)
    assert not matching("modules", rows).any()
    assert matching("/addmm$/", rows).any()
    assert mask(op_rows.checked(parse("rank:0")), rows).any()
    assert not mask(op_rows.checked(parse("rank:1")), rows).any()


def test_notes_and_headings_of_rows():
    every = np.arange(3)
    rows = FilterRows(
        every, ["a", "b", "c"], every, ["", "", ""], lambda _: None, note=np.array([0, 1, 1]), notes=["Mul", "add"],
        headings=np.array([False, False, True]),
    )  # fmt: skip
    for wanted, expected in {
        "add": [1],
        "-add": [0],
        "": [0, 1],
        "mul": [0],
        "/^A/": [],
        "path:c": [],
    }.items():
        assert np.flatnonzero(mask(parse(wanted), rows)).tolist() == expected, wanted
    assert np.flatnonzero(matching("add", rows)).tolist() == [1]


def test_speeds_are_shown_once_peaks_are_known(peaks):
    rank = ViewerModel(GOLDEN).rank(0)
    before = [op for op in ops_of(rank) if op.section == SPEEDS]
    assert [op.description for op in before] == ["what cpu reaches is not known: modtrace device measures it"]
    assert ops_of(rank)[-1].section == SPEEDS
    peaks()
    after = [op for op in ops_of(rank) if op.section == SPEEDS]
    assert ops_of(rank)[0].section == SPEEDS
    points = [op for op in after if not op.is_remark]
    # Worked out by hand: products of [2, 4] and [4, 8] forward, one add of bias a row; 10^9 FLOP/s and bytes/s.
    first = next(op for op in points if op.name == "net.body.2" and op.description.startswith("forward"))
    assert first.flops == 384
    assert first.flops_per_s == round(first.flops * first.calls * 1e9 / first.spent_ns)
    intensity = float(first.description.split(", ")[1].removesuffix(" FLOP/B"))
    assert first.reached / op_rows.SHARE_UNIT == pytest.approx(
        first.flops_per_s / (1e9 * min(intensity, 1)), rel=0.1
    )
    remarks = [op.description for op in after if op.is_remark]
    assert any("cpu reaches 1.00 GFLOP/s in float32, copies 1.00 GB/s" in remark for remark in remarks)
    assert any(remark.startswith("MFU of a step") for remark in remarks)


def test_speeds_in_ops(peaks):
    peaks()

    async def act(pilot, app):
        lines = text(app).splitlines()
        row = next(row for row, line in enumerate(lines) if "reached" in line and "what" in line)
        await pilot.click(offset=(lines[row].index("reached") + 2, row))
        await press(pilot)
        shown = [
            op
            for op in rows_of(app.screen.lines)
            if op is not None and op.section == SPEEDS and not op.is_remark
        ]
        assert app.screen.table.model.key == "reached"
        assert [op.reached for op in shown] == sorted((op.reached for op in shown), reverse=True)
        await press(pilot, "home", "down", "enter")
        assert app.screen is app.tree_screen
        assert (
            f"net.{app.screen.call_tree.model.nodes.path(app.screen.call_tree.model.selected)}"
            == shown[0].name
        )
        await pilot.resize_terminal(80, 24)
        await press(pilot, "7")
        assert "% reached" in text(app), "where there is no room for columns the description begins with it"

    drive(GOLDEN, act, (130, 40), view="7")


def test_a_rank_without_flops_says_so(gpt):
    speeds = [op for op in ops_of(ViewerModel(gpt).rank(0)) if op.section == SPEEDS]
    assert [op.description for op in speeds] == [op_rows.NO_FLOPS]


def test_hostile_holders_and_ops_are_made_harmless():
    bad = "\x1b[31m\u202e" * 3
    lines = OpLines([Op(OPERATIONS, bad, bad, 1, None, None, None, bad)])
    shown = "".join(piece for row in range(len(lines)) for piece, _ in lines.line(row, 80))
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    holder = MemoryHolder("activation", bad, bad, False, 1, 1)
    held = HolderLines([holder], 1, 80)
    assert "\x1b" not in "".join(piece for piece, _ in held.line(0, 80))
