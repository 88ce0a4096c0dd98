"""What is shown of sums over windows of steps, against NumPy over the single calls of the same run."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.rollup_windows import rollup_facts
from modtrace.analysis.rollups import UNKNOWN, rollup
from modtrace.trace.histogram import windows_of
from modtrace.views.console import rollups_text

PERCENTS = (50, 95, 99)


def trained(**options):
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4)))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with warnings.catch_warnings(), modtrace.trace(rollups=True, **options) as trace:
        warnings.simplefilter("ignore")
        for number in range(200):
            net(torch.ones(2, 4)).sum().backward()
            optimizer.step()
            if number % 50 == 20:
                trace._tracer.flush()
    return trace


@pytest.fixture(scope="module")
def trace():
    return trained()


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    return trained(path=tmp_path_factory.mktemp("limit") / "t.mtrace", keep="all", max_bytes=170_000)


def percentiles(values):
    return np.percentile(values, PERCENTS, method="inverted_cdf")


def test_modules_over_all_steps(trace):
    stored = trace._read()
    of_calls, facts = rollup(stored), rollup_facts(stored)
    titles = dict(enumerate(trace.modules["name"]))
    assert (facts.first_step, facts.last_step) == (0, 199)
    assert facts.windows == len(np.unique(windows_of(np.arange(200))[0]))
    rows = {(row.name, row.type, row.side): row for row in facts.modules if row.type}
    checked = 0
    for module, name in titles.items():
        own = of_calls.chosen(of_calls.module == module)
        for side in ("forward", "backward"):
            spent = getattr(own, f"{side}_ns")
            spent = spent[spent != UNKNOWN]
            row = rows[name, trace.modules["type"][module], side]
            assert (row.steps, row.total_ns, row.max_ns) == (len(spent), spent.sum(), spent.max())
            np.testing.assert_allclose((row.p50_ns, row.p95_ns, row.p99_ns), percentiles(spent), rtol=0.01)
            checked += 1
    assert checked == len(rows) == 2 * len(titles)
    totals = [row.total_ns for row in facts.modules if row.type]
    assert totals == sorted(totals, reverse=True)


def test_a_row_a_module_and_window(trace):
    frame, of_calls = trace.rollups, rollup(trace._read())
    first, _ = windows_of(of_calls.step)
    rows = frame[frame["kind"] == "module"].set_index(["first_step", "module_id"])
    assert len(rows) == len(set(zip(first.tolist(), of_calls.module.tolist(), strict=True)))
    for (window, module), row in rows.iterrows():
        own = of_calls.chosen((first == window) & (of_calls.module == module))
        assert row["calls"] == own.calls.sum()
        assert row["end_step"] == own.step.max() + 1
        assert row["forward_ns"] == own.forward_ns.sum()
        assert row["backward_max_ns"] == own.backward_ns.max()
        found = [row[f"backward_p{percent}_ns"] for percent in PERCENTS]
        np.testing.assert_allclose(np.array(found, float), percentiles(own.backward_ns), rtol=0.01)
    steps = frame[frame["kind"] == "step"]
    assert steps["name"].isna().all()
    assert steps["calls"].sum() == 199


def test_the_text_says_which_steps_it_is_of(trace, limited):
    text = rollups_text(trace._read())
    assert "  steps 0 to 199, all of them added up, in 90 windows\n" in text
    assert "single calls" not in text
    assert ".." not in text
    text = rollups_text(limited._read())
    assert "  steps 0 to 199, all of them added up" in text
    of_calls = rollup(limited._read())
    assert 0 < of_calls.step.max() + 1 < 199
    assert f"  single calls are recorded of the first {of_calls.step.max() + 1} steps alone\n" in text
    assert "limit of 170 KB; sums go on" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_trace_without_sums_says_how_to_keep_them():
    with modtrace.trace() as trace:
        nn.Linear(2, 2)(torch.ones(1, 2))
    assert "modtrace run --rollups" in rollups_text(trace._read())
    assert len(trace.rollups) == 0
    assert rollup_facts(trace._read()) is None
