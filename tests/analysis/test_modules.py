"""Figures of each module over its calls and its steps, against plain Python."""

from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.modules import over_steps, per_step, sums

MAX = 2**61


def ints(values):
    return np.array(values, np.int64)


def nearest_rank(values, share):
    """The smallest value that so many percent of all are not above."""
    ordered = sorted(values)
    return next(value for rank, value in enumerate(ordered, 1) if 100 * rank >= share * len(ordered))


def figures_of(values):
    return [
        sum(values) // len(values), nearest_rank(values, 50), nearest_rank(values, 95), max(values)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("least", "most"), [(0, 9), (0, 2**40), (-50, 50), (-(2**40), 2**40), (2**50, 2**50 + 7)]
)
@pytest.mark.parametrize("seed", range(4))
def test_over_steps(least, most, seed):
    rng = random.Random(seed)
    values = {}
    for key in rng.sample(range(12), 7):
        values[key] = [
            rng.randint(least, most) for _ in range(rng.choice((1, 2, 3, 19, 20, 21, 40, 100, 101)))
        ]
    pairs = [(key, value) for key, of_key in values.items() for value in of_key]
    rng.shuffle(pairs)
    figures = over_steps(ints([key for key, _ in pairs]), ints([value for _, value in pairs]), 12)
    assert figures.shape == (4, 12)
    for key in range(12):
        assert figures[:, key].tolist() == (figures_of(values[key]) if key in values else [-1] * 4)


@pytest.mark.parametrize("size", range(1, 45))
def test_the_ranks_of_each_size(size):
    """Of 1 to n the value is its rank."""
    values = list(range(1, size + 1))
    expected = [(size + 1) // 2, math.ceil(size * 0.5), math.ceil(size * 19 / 20), size]
    assert over_steps(ints([3] * size), ints(values[::-1]), 4)[:, 3].tolist() == expected
    assert statistics.median_low(values) == expected[1]


@pytest.mark.parametrize("key", [0, 1, 3, 2**20 - 1])
@pytest.mark.parametrize("value", [1, 2**40 - 1, 2**42, 2**61 - 1])
def test_keys_and_values_of_any_size_stay_apart(key, value):
    """Where a key and a value fit into one number and where they do not."""
    owner, values = ints([key, 0, key, 0, key]), ints([value, 5, 0, 7, value - 1])
    expected = {0: [5, 7], key: [value, 0, value - 1]} if key else {0: [value, 5, 0, 7, value - 1]}
    figures = over_steps(owner, values, key + 1)
    for each, of_key in expected.items():
        assert figures[1:, each].tolist() == figures_of(of_key)[1:]


def test_over_no_steps():
    assert over_steps(ints([]), ints([]), 3).tolist() == [[-1] * 3] * 4
    assert over_steps(ints([]), ints([]), 0).shape == (4, 0)


@pytest.mark.parametrize("seed", range(20))
def test_per_step(seed):
    """The time of a key in each of the steps that count; in all of its steps where it ran in none of those."""
    rng = random.Random(seed)
    usual = {step for step in range(6) if rng.random() < 0.5}
    rows = [
        (rng.choice((0, 2, 3, 900)), rng.choice((0, 1, 2, 3, 4, 5)), rng.randint(0, 99)) for _ in range(25)
    ]
    rows = [row for row in rows if row[0] != 3 or row[1] not in usual]
    total = {}
    for key, step, value in rows:
        total[key, step] = total.get((key, step), 0) + value
    expected = []
    for key in sorted({key for key, _ in total}):
        steps = {step: value for (owner, step), value in total.items() if owner == key}
        counted = {step: value for step, value in steps.items() if step in usual} or steps
        expected += [(key, counted[step]) for step in sorted(counted)]
    values, owner = per_step(
        ints([key for key, _, _ in rows]), ints([step for _, step, _ in rows]), ints([value for *_, value in rows]),
        np.array([step in usual for _, step, _ in rows]),
    )  # fmt: skip
    assert list(zip(owner.tolist(), values.tolist(), strict=True)) == expected


def test_per_step_of_nothing():
    values, owner = per_step(ints([]), ints([]), ints([]), np.zeros(0, np.bool_))
    assert len(values) == len(owner) == 0


def test_sums():
    assert sums(ints([3, 0, 3, 1]), ints([MAX // 2, 7, MAX // 2, -2]), 5).tolist() == [
        7,
        -2,
        0,
        MAX // 2 * 2,
        0,
    ]


class Uneven(nn.Module):
    """One layer once, another several times, and one in some steps only."""

    def __init__(self):
        super().__init__()
        self.once, self.often, self.seldom, self.never = (nn.Linear(4, 4) for _ in range(4))
        self.number = 0

    def forward(self, x):
        self.number += 1
        x = self.once(x)
        for _ in range(1 + self.number % 3):
            x = self.often(x)
        return self.seldom(x) if self.number % 4 == 0 else x


@pytest.fixture(scope="module")
def trace():
    model = Uneven()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with modtrace.trace(flops=False) as recorded:  # counting FLOPs leaves steps out
        for _ in range(23):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        model(torch.ones(2, 4))  # outside of steps
    return recorded


@pytest.mark.parametrize("prefix", ["forward", "backward"])
@pytest.mark.parametrize("name", ["", "once", "often", "seldom"])
def test_figures_of_a_recorded_module(trace, prefix, name):
    calls, steps, modules = trace.calls, trace.steps, trace.modules
    (module,) = (row for _, row in modules.iterrows() if row["name"] == name)
    call_kind = {"forward": "module", "backward": "backward"}[prefix]
    rows = [row for _, row in calls.iterrows() if row["name"] == name and row["kind"] == call_kind]
    usual = {number for number, row in steps.iterrows() if row["in_statistics"]}
    times = {}
    for row in rows:
        if not pd.isna(row["step"]):
            times.setdefault(int(row["step"]), []).append(int(row["duration_ns"]))
    counted = [sum(of_step) for step, of_step in times.items() if step in usual]
    assert len(counted) == (5 if name == "seldom" else len(usual))
    figures = [module[f"{prefix}_{figure}_ns"] for figure in ("mean", "p50", "p95", "max")]
    assert figures == figures_of(counted)
    assert module[f"{prefix}_total_ns"] == sum(int(row["duration_ns"]) for row in rows)
    assert module[f"{prefix}_self_ns"] == sum(int(row["self_ns"]) for row in rows)


def test_a_module_that_never_ran_has_no_times(trace):
    (row,) = (row for _, row in trace.modules.iterrows() if row["name"] == "never")
    assert row["calls"] == 0
    for prefix in ("forward", "backward"):
        for figure in ("mean", "p50", "p95", "max", "total", "self"):
            assert row[f"{prefix}_{figure}_ns"] is trace.modules[f"{prefix}_{figure}_ns"].dtype.na_value


def test_parameters_that_did_not_exist_at_first_are_counted():
    """Those of a lazy module are made in its first call, which is behind the moment at which it was first met."""
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyLinear(2))
    with modtrace.trace(flops=False) as recorded:
        for _ in range(2):
            model(torch.ones(5, 4))
    modules = recorded.modules.set_index("name")
    assert modules.loc[["", "0", "1"], "parameter_count"].tolist() == [15 + 8, 4 * 3 + 3, 3 * 2 + 2]
    assert modules.loc[["0", "1"], "type"].tolist() == ["Linear", "Linear"]
