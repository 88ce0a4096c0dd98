"""Which steps count in statistics, and that every view has one value for one quantity."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.live import LiveTrace
from modtrace.analysis.live_tree import LiveTree
from modtrace.analysis.statistics import choose, chosen_steps, quantile
from modtrace.units import duration
from modtrace.views import console
from modtrace.views.html.facts import facts
from modtrace.views.html.report import report as page_of
from modtrace.views.live import live_text
from modtrace.views.models.viewer_model import Rank
from modtrace.views.tui.detail import Detail

YES, NO = True, False


@pytest.mark.parametrize(
    ("whole", "counted", "watched", "first", "numbers", "text"),
    [
        ([1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [], 0, [1, 2, 3, 4], "steps 1-4; the first left out"),
        (
            [1, 1, 1, 1],
            [1, 0, 1, 0],
            [],
            0,
            [1, 3],
            "2 of 4 steps; the first and 1 with FLOP counting left out",
        ),
        (
            [1, 1, 1, 0],
            [],
            [0, 1, 0, 0],
            0,
            [2],
            "step 2; the first, 1 watched and 1 that did not end left out",
        ),
        ([1, 1], [1, 1], [], 0, [1], "step 1; the first left out"),
        ([1], [1], [], 0, [0], "step 0"),
        ([1, 0], [], [], 0, [0], "step 0; 1 that did not end left out"),
        ([0], [], [], 0, [0], "none of the steps came to its end"),
        ([1, 1, 1], [0, 1, 0], [], 40, [0, 2], "2 of 3 steps; 1 with FLOP counting left out"),
        ([], [], [], 0, [], ""),
    ],
)
def test_the_rule(whole, counted, watched, first, numbers, text):
    flags = [
        np.array([*some, *[0] * (len(whole) - len(some))], np.bool_) for some in (whole, counted, watched)
    ]
    found = choose(*flags, first)
    assert np.flatnonzero(found.steps).tolist() == numbers
    assert found.text == text


def train(model, steps=8, *, sizes=(4,)):
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for number in range(steps):
        model(torch.ones(sizes[number % len(sizes)], 8)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def plain(path):
    with modtrace.trace(path=path) as trace:
        train(net())
    return trace


def sizes_that_change(path):
    with modtrace.trace(path=path) as trace:
        train(net(), sizes=(4, 4, 5))
    return trace


def watched(path):
    with modtrace.trace(path=path, flops=False, kernels="2:4") as trace:
        train(net())
    return trace


def inference(path):
    model = net()
    with modtrace.trace(path=path) as trace, torch.no_grad():
        for _ in range(6):
            model(torch.ones(4, 8))
    return trace


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.parametrize("record", [plain, sizes_that_change, watched, inference])
def test_one_quantity_has_one_value(record, tmp_path):
    path = tmp_path / "t.mtrace"
    record(path)
    trace = modtrace.load(path)
    stored, steps = trace._read(), trace.steps
    chosen = chosen_steps(stored, 0)
    assert steps["in_statistics"].tolist() == chosen.steps.tolist()
    assert not steps["in_statistics"][0]
    some = steps[steps["in_statistics"]]
    if record is watched:
        assert not some.index.isin([2, 3]).any()
    p50 = duration(quantile(some["duration_ns"].to_numpy(np.int64), 50))
    summary, table = console.summary(stored, width=120), console.steps_table(stored)
    report = dict(facts(stored).figures)
    first_screen = page_of(stored).html
    if record is not inference:
        assert f">median {p50}" in first_screen
        assert f"Of {chosen.text}." in first_screen
        assert f"STEP  median {p50} " in summary
        assert f"STEP  median {p50} " in table
    for text in (summary, table):
        assert re.sub(r"\s+", " ", chosen.text) in re.sub(r"\s+", " ", text)
    # A module that runs once a step: the mean of its time over those steps.
    root = trace.modules[trace.modules["name"] == ""].iloc[0]
    rows = trace.calls[(trace.calls["kind"] == "module") & (trace.calls["name"] == "")]
    times = rows[rows["step"].isin(some.index)]["duration_ns"].to_numpy(np.int64)
    assert root["forward_p50_ns"] == quantile(times, 50)
    assert root["forward_max_ns"] == times.max()
    placed = Rank(stored, 0).tree("merged")
    node = next(
        at
        for at in range(len(placed.nodes))
        if "Sequential" in placed.nodes.class_name(at) + placed.nodes.label(at)
    )
    shown = " ".join(piece for line in Detail(Rank(stored, 0), placed, node).lines(80) for piece, _ in line)
    if record is not watched:  # the backward of a module is a node of its own
        assert f"p50 {duration(quantile(times, 50))} " in shown
    assert f"of {chosen.text}" in shown
    live = LiveTrace(path)
    for _ in range(4):
        live.look()
    tree = LiveTree(live)
    tree.refresh()
    assert live_text.cost(tree) in summary
    assert f"tracing cost {report['tracing cost']}" == live_text.cost(tree)
    if record is not watched:  # what was watched is not followed
        lines = live_text.step_lines(tree, 80, ascii=True)
        assert any(line.split() == ["of", *chosen.text.split()] for line in lines)
        assert any(f"p50 {p50} " in line for line in lines)
        assert f"{p50}/step" in live_text.title(live, None, tree, live.state)


def test_a_module_that_runs_in_none_of_these_has_the_times_of_its_steps():
    often, once = net(), nn.Linear(2, 2)
    optimizer = torch.optim.SGD(often.parameters(), 0.01)
    with modtrace.trace() as trace:
        for number in range(4):
            y = often(torch.ones(4, 8))
            (once(y) if number == 0 else y).sum().backward()
            optimizer.step()
    (row,) = [one for _, one in trace.modules.iterrows() if one["type"] == "Linear" and one["name"] == ""]
    assert row["calls"] == 1
    assert row["forward_p50_ns"] == row["forward_total_ns"]
