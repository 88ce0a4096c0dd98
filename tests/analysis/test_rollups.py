"""Rollups of modules in steps, against sums over the `calls` DataFrame and against the curves of single modules."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import modtrace
from modtrace.analysis.rollups import UNKNOWN, rollup


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


def trained(path, steps):
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with modtrace.trace(path=str(path), memory="1:3"):
        for _ in range(steps):
            net(torch.ones(2, 4)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """A trace of two ranks of unequal length, whose modules have the same numbers as they are stored."""
    folder = tmp_path_factory.mktemp("rollups")
    trained(folder / "run.mtrace", 6)
    trained(folder / "longer.mtrace", 8)
    shutil.copytree(folder / "longer.mtrace" / "rank-0", folder / "run.mtrace" / "rank-1")
    about = folder / "run.mtrace" / "rank-1" / "process.json"
    about.write_text(about.read_text().replace('"rank": 0', '"rank": 1'))
    return modtrace.load(folder / "run.mtrace")


def test_each_module_in_each_step_is_one_row_in_order(trace):
    rows = rollup(trace._read())
    calls = trace.calls
    of_module = calls[calls["kind"].isin(["module", "backward"]) & calls["step"].notna()]
    expected = sorted(
        (int(rank), int(step), int(module))
        for rank, step, module in set(
            zip(of_module["rank"], of_module["step"], of_module["module_id"], strict=True)
        )
    )
    assert len(expected) > 100
    assert [*zip(rows.rank.tolist(), rows.step.tolist(), rows.module.tolist(), strict=True)] == expected
    assert rows.process.tolist() == rows.rank.tolist()
    assert np.unique(rows.rank).tolist() == [0, 1]


def test_numbers_are_those_of_the_curve_of_a_module(trace):
    rows = rollup(trace._read())
    checked = 0
    for module in np.unique(rows.module).tolist():
        own, series = rows.chosen(rows.module == module), trace.series(module)
        assert own.step.tolist() == series.index.tolist()
        assert own.calls.tolist() == series["calls"].tolist()
        of_series = {"peak_bytes": "memory_peak_bytes"}
        for name in ("forward_ns", "backward_ns", "device_ns", "peak_bytes", "flops"):
            values = getattr(own, name)
            expected = series[of_series.get(name, name)]
            assert values.tolist() == [UNKNOWN if pd.isna(value) else value for value in expected], name
            checked += int(np.count_nonzero(values != UNKNOWN))
    assert checked > 300


def test_what_is_not_known_is_unknown(trace):
    rows = rollup(trace._read())
    assert (rows.wait_ns == UNKNOWN).all()
    assert (rows.device_ns == UNKNOWN).all()
    watched = np.isin(rows.step, (1, 2))
    assert (rows.peak_bytes[~watched] == UNKNOWN).all()
    assert (rows.peak_bytes[watched] > 0).all()


def test_calls_that_raise_have_their_time_and_no_backward():
    class Fails(nn.Module):
        def forward(self, x):
            raise ValueError(x)

    fails = Fails()
    with modtrace.trace() as trace:
        for _ in range(3):
            with pytest.raises(ValueError):
                fails(torch.ones(1))
    rows = rollup(trace._read())
    assert rows.calls.tolist() == [1, 1, 1]
    assert rows.forward_ns.tolist() == trace.calls["duration_ns"].tolist()
    assert (rows.backward_ns == UNKNOWN).all()


def test_a_trace_of_nothing_has_no_rows():
    with modtrace.trace() as trace:
        pass
    assert len(rollup(trace._read())) == 0
