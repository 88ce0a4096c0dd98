"""Values of metrics, against sums and medians of plain lists; and that each is a column of `t.calls`."""

from __future__ import annotations

from statistics import median

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.metric_values import GroupNumbers, of_each_call, of_single_calls
from modtrace.analysis.metrics import METRICS, comparable, of_groups, shown, table_columns
from modtrace.analysis.statistics import rows_that_count
from modtrace.trace.dataframes import FRAMES
from modtrace.trace.reader import open_trace
from modtrace.trace.schema import CALL_COLUMNS


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    path = tmp_path_factory.mktemp("metrics") / "t.mtrace"
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with modtrace.trace(path=path, memory="1:3"):
        for number in range(6):
            model(torch.ones(3 + number % 2, 4)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    return modtrace.load(path)


@pytest.fixture(scope="module")
def stored(trace):
    return open_trace(trace.path)


def listed(column):
    return [None if pd.isna(value) else int(value) for value in column]


@pytest.mark.parametrize("key", [metric.key for metric in METRICS.values() if metric.column])
def test_each_is_a_column_of_calls(trace, stored, key):
    column = METRICS[key].column
    assert column in CALL_COLUMNS
    values = [None if value < 0 else value for value in of_each_call(stored, column).tolist()]
    assert values == listed(trace.calls[column])


def test_a_column_that_a_trace_does_not_have_is_unknown(stored):
    assert set(of_each_call(stored, "later_bytes").tolist()) == {-1}


def plain(adds, values, counts):
    """The number of a group from those of its calls; `counts` says of each whether it is in the statistics."""
    known = [value for value in values if value is not None]
    usual = sorted(
        value for value, used in zip(values, counts, strict=True) if used and value is not None
    ) or sorted(known)
    if adds == "calls":
        return len(values)
    if not known or adds == "single" or (adds == "full sum" and len(known) < len(values)):
        return None
    if adds in ("sum", "full sum"):
        return sum(known)
    if adds == "p50":
        return usual[(len(usual) - 1) // 2]
    return (
        max(known)
        if adds == "most"
        else usual[-1]
        if adds == "max"
        else usual[-(-len(usual) * 95 // 100) - 1]
    )


@pytest.mark.parametrize("key", list(METRICS))
@pytest.mark.parametrize("seed", range(4))
def test_groups(stored, trace, key, seed):
    metric = METRICS[key]
    random = np.random.default_rng(seed)
    rows, counts = len(trace.calls), rows_that_count(stored)
    low, high = (0, rows) if seed < 2 else (rows // 4, rows - 3)
    group = random.integers(-1, 9, high - low).astype(np.int32)
    group[group == 5] = 6  # nothing is in group 5
    each = listed(trace.calls[metric.column]) if metric.column else [None] * rows
    values, known = GroupNumbers(stored, group, 9, low, high).values(key)
    for number in range(9):
        members = low + np.flatnonzero(group == number)
        wanted = plain(metric.adds, [each[row] for row in members], [bool(counts[row]) for row in members])
        assert (int(values[number]) if known[number] else None) == wanted, number
    filled = GroupNumbers(stored, group, 9, low, high).filled(key)
    assert filled.tolist() == np.where(known, values, -1).tolist()


def test_the_median_is_a_time_that_a_call_took(stored, trace):
    durations = listed(trace.calls["duration_ns"])
    odd = [row for row, used in enumerate(rows_that_count(stored)) if used and durations[row] is not None][:5]
    group = np.full(len(durations), -1)
    group[odd] = 0
    assert GroupNumbers(stored, group, 1).filled("p50").tolist() == [median(durations[row] for row in odd)]


def test_single_calls(stored, trace):
    durations = listed(trace.calls["duration_ns"])
    for key in ("total", "p50", "p95", "max"):
        values, known = of_single_calls(stored, key, 2, 9)
        assert [int(value) if sure else None for value, sure in zip(values, known, strict=True)] == durations[
            2:9
        ]
    assert of_single_calls(stored, "calls", 2, 9)[0].tolist() == [1] * 7
    assert of_single_calls(stored, "start", 2, 9)[0].tolist() == trace.calls["start_ns"][2:9].tolist()


def test_the_registry():
    keys = [metric.key for metric in comparable()]
    assert {"self", "total", "calls", "p50", "p95", "max", "device", "flops", "mem"} <= set(keys)
    assert len({metric.name for metric in METRICS.values()}) == len(METRICS)
    assert [metric.key for metric in shown() if metric.adds == "single"] == ["start"]
    assert {metric.bound for metric in of_groups()} - {""} <= set(METRICS)
    described = {column.name for column in FRAMES["modules"]}
    assert {metric.module_column for metric in shown()} - {"", "flops"} <= described
    for frame in ("modules", "steps"):
        assert {column.key for column in table_columns(frame)} <= {column.name for column in FRAMES[frame]}
