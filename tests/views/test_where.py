"""`info --where` and `--sort`: rows and numbers beside the same worked out from the DataFrames."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.flat_profile import flat_profile
from modtrace.analysis.metrics import METRICS, comparable
from modtrace.errors import UsageError
from modtrace.units import percent
from modtrace.views import console
from modtrace.views.filtered import tree_and_columns
from modtrace.views.module_table import filtered_rows, module_table


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)

    def forward(self, x):
        return x + self.down(self.act(self.up(x)))


@pytest.fixture(scope="module")
def trace():
    model = nn.Sequential(Block(), Block(), nn.LayerNorm(8))
    with modtrace.trace(model, values=(0, 3)) as found:
        for _ in range(3):
            model(torch.ones(2, 8))
    return found


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ("type:Linear", lambda row: row["type"] == "Linear"),
        ("down", lambda row: "down" in row["name"]),
        ("type:Linear -down", lambda row: row["type"] == "Linear" and "down" not in row["name"]),
        ("/^0\\./", lambda row: row["name"].startswith("0.")),
        ("calls>2 path:*.act", lambda row: row["name"].endswith(".act")),
    ],
)
def test_modules_and_tree(trace, where, wanted):
    frame = trace.modules
    expected = {row["name"] for _, row in frame.iterrows() if wanted(row)}
    assert expected
    table = module_table(trace._read(), instances=True, whole_run=True)
    passed = filtered_rows(table, where).tolist()
    assert {row.name for row, passes in zip(table.rows, passed, strict=True) if passes} == expected
    text = console.modules_table(trace._read(), where=where, instances=True, whole_run=True)
    assert len(text.splitlines()) == 2 + len(expected)
    assert "before the first call" not in text


def test_what_is_above_stays_in_the_tree(trace):
    tree, *_ = tree_and_columns(trace._read(), where="type:GELU")
    assert tree.label == ["model", "*", "act"]
    assert tree.calls.tolist() == [3, 6, 6]
    assert tree_and_columns(trace._read(), where="nothing-like-this")[0].label == []


def test_what_a_module_does_not_have(trace):
    with pytest.raises(UsageError, match="use it with --tree"):
        console.modules_table(trace._read(), where="step:1")
    with pytest.raises(UsageError, match="compared with"):
        console.tree(trace._read(), where="self>")


@pytest.mark.parametrize("view", [console.tree, console.modules_table])
def test_a_filter_without_a_hit_says_so(trace, view):
    assert view(trace._read(), where="nothing-like-this") == (
        "  nothing passes the filter 'nothing-like-this': 0 of 6 rows\n"
    )
    assert "nothing passes" not in view(trace._read(), where="GELU")


def test_flops_are_those_of_forward_and_backward():
    model, x = nn.Linear(4, 4), torch.ones(2, 4)
    with modtrace.trace() as forward_only, torch.no_grad():
        model(x)
    with modtrace.trace() as both:
        model(x).sum().backward()
    assert "64 FLOP" in console.modules_table(forward_only._read(), sort="flops")
    assert "128 FLOP" in console.modules_table(both._read(), sort="flops")
    assert "FLOP" not in console.modules_table(both._read(), width=99)
    assert "128 FLOP" in console.modules_table(both._read(), width=100)


def siblings(tree):
    """The nodes below each node, in the order of the tree; -1 stands for the top."""
    above, below = [], {}
    for node, level in enumerate(tree.depth.tolist()):
        del above[level:]
        below.setdefault(above[-1] if above else -1, []).append(node)
        above.append(node)
    return below


@pytest.mark.parametrize("where", ["", "calls>2"])
@pytest.mark.parametrize("key", [metric.key for metric in comparable()])
def test_siblings_in_order_of_a_number(trace, key, where):
    stored = trace._read()
    tree, column, _ = tree_and_columns(stored, where=where, sort=key)
    usual, *_ = tree_and_columns(stored, where=where)
    assert sorted(tree.name) == sorted(usual.name)
    assert column.metric.key == key
    for nodes in siblings(tree).values():
        values, known = (part[nodes].tolist() for part in column.values)
        ranks = [(sure, value) for value, sure in zip(values, known, strict=True)]
        assert ranks == sorted(ranks, reverse=True)  # unknown ones are last
    for node in range(len(tree.depth)):
        if key in ("self", "total", "calls"):
            assert column.values[0][node] == getattr(tree, {"calls": "calls"}.get(key, f"{key}_ns"))[node]
    text = console.tree(stored, sort=key, where=where, whole_run=True)
    assert all(column.text(node) in text for node in range(len(tree.depth)))


def test_siblings_in_order_of_names(trace):
    stored = trace._read()
    tree, column, _ = tree_and_columns(stored, sort="name")
    assert column is None
    for nodes in siblings(tree).values():
        labels = [tree.label[node] for node in nodes]
        assert labels == sorted(labels)
    assert tree_and_columns(stored, sort="order")[0].label == tree_and_columns(stored)[0].label
    with pytest.raises(UsageError, match=r"--sort takes self, total, .* not 'output'"):
        tree_and_columns(stored, sort="output")


@pytest.mark.parametrize("key", [metric.key for metric in comparable()])
def test_modules_in_order_of_a_number(trace, key):
    stored = trace._read()
    table = module_table(stored)
    values, known = table.values(key)
    order = sorted(range(len(table.rows)), key=lambda row: -values[row] if known[row] else float("inf"))
    _, head, *lines = console.modules_table(stored, sort=key, width=200).splitlines()
    assert METRICS[key].title in head
    for row, line in zip(order, lines, strict=False):
        assert METRICS[key].text(values[row].item() if known[row] else None) in line
        assert f"{percent(table.rows[row].self_ns, table.profile.window.base_ns):>5}" in line
    if key == "p50":
        calls = trace.calls[(trace.calls["kind"] == "module") & (trace.calls["step"] > 0)]
        down = calls[calls["name"].isin(["0.down", "1.down"])]["duration_ns"].astype(int).tolist()
        assert values[[row.name for row in table.rows].index("*.down")] in down


def test_numbers_are_of_the_steps_that_count(trace):
    """The first call is left out; with the whole run it is in, as it is in the DataFrames."""
    stored, frame = trace._read(), trace.modules.set_index("name")
    calls = trace.calls[trace.calls["kind"] == "module"]
    steps = trace.steps
    in_statistics = set(steps.index[steps["in_statistics"]])
    assert 0 < len(in_statistics) < len(steps)
    for whole_run, counted in ((False, in_statistics), (True, set(steps.index))):
        table = module_table(stored, instances=True, whole_run=whole_run)
        total, known = table.values("total")
        assert known.all()
        for row, total_ns in zip(table.rows, total.tolist(), strict=True):
            rows = calls[
                (calls["name"] == ("" if row.name == "model" else row.name)) & calls["step"].isin(counted)
            ]
            assert (row.calls, total_ns) == (len(rows), rows["duration_ns"].sum())
            if whole_run:
                assert total_ns == frame.loc["" if row.name == "model" else row.name, "total_ns"]
        tree = console.tree(stored, whole_run=whole_run).splitlines()
        assert tree[1].startswith("  CALL TREE")
        assert tree[2].split()[:2] == ["model", "Sequential"]
        assert tree[2].split()[5] == str(len(counted))
        assert tree[0].startswith(
            "  the whole run" if whole_run else f"  {len(counted)} of 3 calls; the first"
        )
    assert "100.0" in console.tree(stored)
    assert "before the first call" in console.tree(stored)


class Late(nn.Module):
    """Calls one child in its first call alone."""

    def __init__(self):
        super().__init__()
        self.first, self.always, self.calls = nn.Linear(2, 2), nn.Linear(2, 2), 0

    def forward(self, x):
        self.calls += 1
        return self.always(self.first(x) if self.calls == 1 else x)


def test_what_did_not_run_in_the_window_has_no_numbers():
    model = Late()
    with modtrace.trace() as trace:
        for _ in range(3):
            model(torch.ones(1, 2))
    stored = trace._read()
    for text in (console.tree(stored), console.modules_table(stored), console.tree(stored, sort="p50")):
        line = next(line for line in text.splitlines() if "first  Linear" in line)
        assert line.split().count("-") >= 2
        assert "0" in line.split()
    assert module_table(stored).ran.tolist() == [True, True, False]


def test_repeats_are_rows_of_their_own_when_asked(trace):
    names = [row.label for row in module_table(trace._read()).rows]
    assert "*.down x2" in names
    names = [row.label for row in module_table(trace._read(), instances=True).rows]
    assert {"0.down", "1.down"} < set(names)


def test_the_table_has_the_self_times_of_the_summary(trace):
    stored = trace._read()
    profile, table = flat_profile(stored), module_table(stored)
    values, _ = table.values("self")
    assert values.tolist() == [row.self_ns for row in profile.rows]
    assert "2 more rows" in console.modules_table(stored, top=len(values) - 2)


def test_a_key_that_there_is_not(trace):
    with pytest.raises(UsageError, match=r"--sort takes self, .*p50.*device.*output, name, not 'speed'"):
        console.modules_table(trace._read(), sort="speed")
