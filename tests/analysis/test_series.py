"""Curves of modules over steps, and of memory over time, against sums in plain Python."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import modtrace
from modtrace.analysis.memory import NEVER, memory
from modtrace.analysis.series import memory_series
from modtrace.errors import UsageError
from modtrace.trace.schema import CATEGORIES


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.often, self.seldom, self.again = (nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3))
        self.number = 0

    def forward(self, x):
        self.number += 1
        for _ in range(self.number % 3 + 1):
            x = self.often(x)
        x = checkpoint(self.again, x, use_reentrant=False)
        return self.seldom(x) if self.number % 2 else x


def train(memory_steps=None):
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    options = {} if memory_steps is None else {"memory": memory_steps}
    with modtrace.trace(**options) as trace:
        for _ in range(6):
            net(torch.ones(2, 4)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    return trace


@pytest.fixture(scope="module")
def trace():
    return train()


@pytest.fixture(scope="module")
def watched():
    return train("1:3")


def by_step(calls, name):
    rows = {}
    for call, row in calls.iterrows():
        if row["name"] == name and row["kind"] in ("module", "backward") and not pd.isna(row["step"]):
            rows.setdefault(int(row["step"]), []).append((call, row))
    return rows


def again_inside(calls, call):
    """Time of checkpoints that computed again inside a call."""
    total = 0
    for other, row in calls.iloc[call + 1 : calls.loc[call, "last_call"] + 1].iterrows():
        if row["kind"] == "phase" and row["phase"] == "recompute":
            above, outer = row["parent"], False
            while above != call and above >= 0:
                outer |= calls.loc[above, "kind"] == "phase" and calls.loc[above, "phase"] == "recompute"
                above = calls.loc[above, "parent"]
            total += 0 if outer else int(calls.loc[other, "duration_ns"])
    return total


@pytest.mark.parametrize("name", ["often", "often.0", "seldom", "seldom.1", "again", "again.0", ""])
def test_a_module_over_the_steps(trace, name):
    calls = trace.calls
    rows = by_step(calls, name)
    series = trace.series(name or "Net")
    assert series.index.tolist() == sorted(rows)
    assert (series["rank"] == 0).all()
    for step, of_step in rows.items():
        forward = [row for _, row in of_step if row["kind"] == "module" and row["phase"] != "recompute"]
        again = [row for _, row in of_step if row["kind"] == "module" and row["phase"] == "recompute"]
        backward = [(call, row) for call, row in of_step if row["kind"] == "backward"]
        below = [again_inside(calls, call) for call, _ in backward]
        at_step = series.loc[step]
        assert at_step["calls"] == len(forward)
        assert at_step["forward_ns"] == sum(int(row["duration_ns"]) for row in forward)
        assert at_step["backward_ns"] == sum(int(row["duration_ns"]) for _, row in backward) - sum(below)
        recomputed = [int(row["duration_ns"]) for row in again] + [spent for spent in below if spent]
        assert (at_step["recompute_ns"] if recomputed else 0) == sum(recomputed)
        assert pd.isna(at_step["recompute_ns"]) == (not recomputed)
        assert at_step["self_ns"] == sum(int(row["self_ns"]) for _, row in of_step)
        assert at_step["flops_at_least"] == sum(int(row["flops_at_least"]) for _, row in of_step)
        assert pd.isna(at_step["device_ns"])
        assert pd.isna(at_step["memory_peak_bytes"])


def test_a_module_by_its_number_and_behind_its_root(trace):
    modules = trace.modules
    (number,) = (index for index, row in modules.iterrows() if row["name"] == "often.0")
    expected = trace.series("often.0")
    pd.testing.assert_frame_equal(trace.series(int(number)), expected)
    pd.testing.assert_frame_equal(trace.series("net.often.0"), expected)
    pd.testing.assert_frame_equal(trace.series("net"), trace.series("Net"))
    pd.testing.assert_frame_equal(trace.series(""), trace.series("Net"))
    for unknown in ("often.7", "net.often.7", "Linear", 99):
        with pytest.raises(UsageError, match="ran"):
            trace.series(unknown)


def test_a_name_in_several_roots():
    first, second = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))
    with modtrace.trace() as trace:
        for _ in range(2):
            second(first(torch.ones(1, 2)))
    with pytest.raises(UsageError, match=r"several roots; which one: first\.0, second\.0"):
        trace.series("0")
    assert len(trace.series("first.0")) == len(trace.series("second.0")) > 0
    for of_roots in ("Sequential", ""):
        with pytest.raises(UsageError, match=r"which one: first, second$"):
            trace.series(of_roots)
    assert len(trace.series("first")) == len(trace.series("second")) > 0


def test_peak_memory_of_a_module(watched):
    calls, series = watched.calls, watched.series("often")
    for step in (1, 2):
        peaks = [row["memory_peak_bytes"] for _, row in by_step(calls, "often")[step]]
        assert not any(pd.isna(peak) for peak in peaks)
        assert series.loc[step, "memory_peak_bytes"] == max(peaks)
    assert pd.isna(series.loc[4, "memory_peak_bytes"])


def test_memory_over_time(watched):
    stored = watched._read()
    frame = memory_series(stored)
    (allocations,) = memory(stored)
    steps = watched.steps
    moments = sorted(
        {*allocations.at_ns.tolist(), *(freed for freed in allocations.freed_ns.tolist() if freed < NEVER)}
    )
    assert frame["at_ns"].tolist() == moments
    everything = list(
        zip(
            allocations.at_ns.tolist(), allocations.freed_ns.tolist(), allocations.size_bytes.tolist(),
            allocations.category.tolist(), strict=True,
        )
    )  # fmt: skip
    for row in frame.to_dict("records"):
        present = [
            (size, category) for begin, freed, size, category in everything if begin <= row["at_ns"] < freed
        ]
        assert row["held_bytes"] == sum(size for size, _ in present)
        for number, name in enumerate(CATEGORIES):
            assert row[f"{name}_bytes"] == sum(size for size, category in present if category == number)
        inside = [
            step
            for step, of_step in steps.iterrows()
            if of_step["start_ns"] <= row["at_ns"] < of_step["start_ns"] + of_step["duration_ns"]
        ]
        assert ([] if pd.isna(row["step"]) else [row["step"]]) == inside
    assert len(frame) > 20


def test_no_memory(trace):
    frame = memory_series(trace._read())
    assert len(frame) == 0
    assert set(memory_series(train("1:2")._read()).columns) == set(frame.columns)
