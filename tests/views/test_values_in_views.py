"""Ranges of values are one number in every view: the one that plain torch finds in a run beside the recorded one."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.call_values import VALUE_COLUMNS, call_values
from modtrace.analysis.filters import mask, parse
from modtrace.analysis.metrics import METRICS
from modtrace.trace.reader import open_trace
from modtrace.units import value
from modtrace.views import console
from modtrace.views.models.csv_sheet import tree_sheet
from modtrace.views.models.tree_model import TreeModel
from modtrace.views.models.viewer_model import ViewerModel
from modtrace.views.tui.detail import Detail
from modtrace.views.tui.tree_lines import TreeLines, sort_keys
from tests.views.reports import Page

KEYS = [metric.key for metric in METRICS.values() if metric.of_values]
STEPS = 5


class Largest(nn.Module):
    """Gives a tensor and integers: a range and nothing."""

    def forward(self, x):
        return {"values": -3 * x, "which": x.argmax(-1)}


class Which(nn.Module):
    def forward(self, parts):
        return parts["which"]


class Root(nn.Module):
    """Gives NaN where something is below zero."""

    def forward(self, x):
        return x.sqrt()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.largest, self.which, self.root = Largest(), Which(), Root()

    def forward(self, x):
        parts = self.largest(self.inner(x))
        self.which(parts)
        return self.root(parts["values"]), parts["values"]


def run(model):
    for number in range(STEPS):
        _, out = model(torch.full((2, 4), float(number)) * torch.tensor([[1.0], [-0.5]]))
        (out.sum() * 10.0**number).backward()


def model():
    torch.manual_seed(0)
    return Net()


def plain_ranges():
    """(step, name) -> minimum, maximum, absolute maximum of the output, and of the gradient at it; by plain torch."""
    ranges, count, net = {}, {}, model()

    def look(name):
        def hook(module, args, output):
            step = count[name] = count.get(name, -1) + 1
            tensors = output.values() if isinstance(output, dict) else output
            tensors = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
            flat = [one.detach().double().flatten() for one in tensors if one.is_floating_point()]
            if flat:
                every = torch.cat(flat)
                ranges[step, name] = [every.min().item(), every.max().item(), every.abs().max().item(), None]
                if name in ("inner.0", "inner.1"):
                    output.register_hook(lambda g: ranges[step, name].__setitem__(3, g.abs().max().item()))

        return hook

    for name, module in net.named_modules():
        module.register_forward_hook(look(name))
    run(net)
    return ranges


def is_same(number, wanted):
    if number is None or wanted is None:
        return number is wanted
    return math.isclose(number, wanted, rel_tol=1e-12) or (math.isnan(number) and math.isnan(wanted))


@pytest.fixture(scope="module")
def wanted():
    return plain_ranges()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("values") / "t.mtrace"
    with modtrace.trace(path=path, values=(0, STEPS)):
        run(model())
    return path


@pytest.fixture(scope="module")
def trace(path):
    return modtrace.load(path)


def over_steps(wanted, name, key):
    """The number of a module over all steps."""
    place = KEYS.index(key)
    numbers = [numbers[place] for (_, of), numbers in wanted.items() if of == name]
    numbers = [number for number in numbers if number is not None]
    if not numbers:
        return None
    if any(map(math.isnan, numbers)):
        return math.nan
    return min(numbers) if key == "out_min" else max(numbers)


def test_calls(trace, wanted):
    calls = trace.calls[trace.calls["kind"] == "module"]
    rows = 0
    for call in calls.itertuples():
        known = wanted.get((call.step, call.name), [None] * 4)
        for column, number in list(zip(VALUE_COLUMNS, known, strict=True))[
            : 4 if "inner." in call.name else 3
        ]:
            mine = getattr(call, column)
            assert is_same(None if mine is pd.NA else mine, number), (call.step, call.name, column)
            rows += number is not None
    assert rows > 80
    others = trace.calls[trace.calls["kind"] != "module"]
    assert others[list(VALUE_COLUMNS)].isna().all(axis=None)
    assert {str(trace.calls[column].dtype) for column in VALUE_COLUMNS} == {"Float64"}


def test_series(trace, wanted):
    for name in ("inner.0", "inner.1", "largest", "root"):
        series = trace.series(name)
        assert series.index.tolist() == list(range(STEPS))
        for column, place in zip(VALUE_COLUMNS, range(3 + ("inner" in name)), strict=False):
            for step in range(STEPS):
                assert is_same(series[column][step], wanted[step, name][place]), (name, column, step)
    assert trace.series("which")[list(VALUE_COLUMNS)].isna().all(axis=None)


def test_of_repeats_the_extremes_are_shown(tmp_path):
    net = nn.ModuleList([nn.Identity(), nn.Identity()])
    with modtrace.trace(path=tmp_path / "t.mtrace", values=(0, 9)):
        for layer, amount in zip(net, (2.0, -7.0), strict=True):
            layer(torch.tensor([amount, 1.0]))
    series = modtrace.load(tmp_path / "t.mtrace").calls
    assert series["output_minimum"].dropna().tolist() == [1.0, -7.0]


@pytest.mark.parametrize("key", KEYS)
def test_every_view_has_the_same_number(path, trace, wanted, key):
    metric, stored = METRICS[key], open_trace(path)
    rank = ViewerModel(path).rank(0)
    placed = rank.tree("merged", whole_run=True)
    nodes = placed.nodes
    lines = TreeLines(TreeModel(nodes), placed.base_ns, 300)
    assert key in lines.columns(300)
    assert key in sort_keys()
    page = Page(trace_page(path, trace)).columns("tree")
    sheet = tree_sheet(TreeModel(nodes), "tree")
    assert metric.name in sheet.columns
    tree = console.tree(stored, sort=key, whole_run=True, width=160)
    table = console.modules_table(stored, sort=key, whole_run=True, width=160)
    assert metric.title in tree.splitlines()[1]
    assert metric.title in table.splitlines()[1]
    shown = 0
    for node in range(len(nodes)):
        name = nodes.path(node)
        is_forward = nodes.phase_name(node) == "forward" and nodes.class_name(node)
        if key == "grad_abs" and not name.startswith("inner."):
            continue
        number = over_steps(wanted, name if name != "model" else "", key) if is_forward else None
        assert is_same(nodes.value(key, node), number), (name, node)
        if node < len(page["depth"]):
            assert is_same(page[metric.name][node], number)
        detail = ["".join(piece[0] for piece in line) for line in Detail(rank, placed, node).lines(60)]
        assert (f"{metric.title} {value(number)}" in detail) is (number is not None)
        if number is not None:
            shown += 1
            assert any(
                nodes.label(node) in line and f" {value(number)} " in line for line in tree.splitlines()
            )
            assert any(name in line and f" {value(number)} " in line for line in table.splitlines())
    assert shown >= 2


def trace_page(path, trace):
    target = path.parent / "r.html"
    if not target.exists():
        trace.to_html(target)
    return target.read_text(encoding="utf-8")


def test_filters_and_order(path, wanted):
    stored = open_trace(path)
    nodes = ViewerModel(path).rank(0).tree("merged", whole_run=True).nodes

    def passing(text):
        return {nodes.path(node) for node in np.flatnonzero(mask(parse(text), nodes.rows)).tolist()}

    names = {"inner", "inner.0", "inner.1", "largest", "root"}
    known = {name: over_steps(wanted, name, "out_abs") for name in names}
    for text, test in (
        ("out_abs>1", lambda number: number > 1),
        ("out_abs<=1", lambda number: number <= 1),
        ("-out_abs>1", lambda number: not number > 1),
        ("out_abs=nan", math.isnan),
    ):
        assert passing(text) & names == {name for name in names if test(known[name])}, text
    assert "which" not in passing("out_abs>=0") | passing("-out_abs>=0")
    rows = console.modules_table(stored, sort="out_abs", whole_run=True, width=160).splitlines()[2:]
    order = [name for row in rows for name in names if f"  {name}  " in row]
    inner = [name for name in order if name != "root"]
    assert order[0] == "root"  # NaN
    assert inner == sorted(inner, key=lambda name: -known[name]) or known["inner"] == known["inner.1"]


def test_files(path, trace, tmp_path):
    frame = trace.calls
    trace.to_csv(tmp_path / "c.csv")
    trace.to_parquet(tmp_path / "c.parquet")
    trace.to_json(tmp_path / "c.json")
    trace.to_chrome(tmp_path / "c.chrome.json")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "c.csv").read_text(encoding="utf-8"))))
    parquet = pq.read_table(tmp_path / "c.parquet")
    table = json.loads((tmp_path / "c.json").read_text())["tables"]["calls"]
    events = json.loads((tmp_path / "c.chrome.json").read_text())["traceEvents"]
    arguments = {
        event["args"]["call"]: event["args"]
        for event in events
        if event.get("args", {}).get("call") is not None
    }
    words = 0
    for column in VALUE_COLUMNS:
        place, of_parquet = table["columns"].index(column), parquet.column(column).to_pylist()
        for number, mine in enumerate(frame[column]):
            known = None if mine is pd.NA else float(mine)
            texts = rows[number][column], table["data"][number][place], arguments[number].get(column)
            assert is_same(of_parquet[number], known)
            assert is_same(float(texts[0]) if texts[0] else None, known)
            for text in texts[1:]:
                words += isinstance(text, str)
                assert is_same(None if text is None else float(text), known)
    assert words  # JSON has no NaN
    values = trace.values
    trace.to_csv(tmp_path / "v.csv", table="values")
    of_table = list(csv.DictReader(io.StringIO((tmp_path / "v.csv").read_text(encoding="utf-8"))))
    assert [row["minimum"] for row in of_table].count("nan") == int(
        np.isnan(values["minimum"].to_numpy(float, na_value=0)).sum()
    )


def test_a_trace_without_values_reads_nothing_and_shows_nothing(tmp_path):
    with modtrace.trace(path=tmp_path / "t.mtrace"):
        run(model())
    stored = open_trace(tmp_path / "t.mtrace")
    numbers = call_values(stored)
    assert all(array.strides == (0,) for array in (*numbers.values.values(), *numbers.known.values()))
    rank = ViewerModel(tmp_path / "t.mtrace").rank(0)
    for mode in ("merged", "instances", "calls"):
        placed = rank.tree(mode)
        assert not any(placed.nodes.has(key) for key in KEYS)
        lines = TreeLines(TreeModel(placed.nodes), placed.base_ns, 300)
        assert not {*KEYS} & {*lines.columns(300)}
        assert not {METRICS[key].name for key in KEYS} & {*tree_sheet(TreeModel(placed.nodes), "t").columns}
    trace = modtrace.load(tmp_path / "t.mtrace")
    page = Page(trace_page(tmp_path / "t.mtrace", trace))
    planes = {name: planes for name, planes, _ in page.meta["blobs"]["tree"]["columns"]}
    assert {planes[METRICS[key].name] for key in KEYS} == {0}
    assert trace.calls[list(VALUE_COLUMNS)].isna().all(axis=None)


def test_the_page_draws_sorts_filters_and_copies_them(browser, path, trace, wanted):
    trace_page(path, trace)
    page = browser.new_page(viewport={"width": 2200, "height": 900})
    page.add_init_script("navigator.clipboard.writeText = async (text) => { window.copied = text; };")
    page.goto((path.parent / "r.html").as_uri())
    page.wait_for_selector("html[data-ready]")
    page.click("#open-all")
    assert page.locator("#tree-grid .grid-head .c-out_min").inner_text() == "out min"
    page.click("#copy-tree")
    page.wait_for_function("window.copied")
    rows = list(csv.DictReader(io.StringIO(page.evaluate("window.copied"))))
    copied = {row["path"]: row for row in rows if row["phase"] == "forward"}
    for name in ("inner.0", "inner.1", "largest", "root"):
        for key in KEYS[: 4 if "inner" in name else 3]:
            text, number = copied[name][METRICS[key].name], over_steps(wanted, name, key)
            assert is_same(float(text), number), (name, key)
    assert copied["which"]["output_minimum"] == ""
    cells = page.locator("#tree-grid .grid-space .c-out_min").all_inner_texts()
    for name in ("inner.0", "largest", "root"):
        assert value(over_steps(wanted, name, "out_min")) in cells
    for text, count in (
        ("out_abs=nan type:Root", 1),
        ("out_min<-0.001 type:Linear", 1),
        ("out_min>-0.001 type:Linear", 0),
    ):
        page.fill("#filter", text)
        assert page.locator("#kept").inner_text().startswith(f"{count} of "), text
    page.fill("#filter", "")
    page.select_option("#sort", "out_abs")
    names = page.locator("#tree-grid .grid-space .c-name").all_inner_texts()
    inside = [
        next(w for w in ("root", "largest", "inner", "which") if w in name)
        for name in names
        if any(f"{w}" in name for w in ("root", "largest", "which"))
    ]
    assert inside.index("root") < inside.index("largest") < inside.index("which")
    page.close()
