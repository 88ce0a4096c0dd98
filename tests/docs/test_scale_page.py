"""The queries of docs/scale.md, run as they stand there on a trace of two ranks."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import modtrace

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"


@pytest.fixture
def codes(tmp_path, monkeypatch):
    """The blocks of the page, where a trace of two ranks is: the first makes the dataset that the others read."""
    monkeypatch.chdir(tmp_path)
    for rank in range(2):
        net = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        with modtrace.trace(path=f"{rank}.mtrace", rollups=True):
            for _ in range(40):
                net(torch.ones(2, 4)).sum().backward()
                optimizer.step()
        about = Path(f"{rank}.mtrace/rank-0/process.json")
        about.write_text(json.dumps(json.loads(about.read_text()) | {"rank": rank, "world_size": 2}))
    shutil.move("0.mtrace", "run.mtrace")
    shutil.move("1.mtrace/rank-0", "run.mtrace/rank-1")
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def own_times(trace):
    """Of each module and rank the mean of its calls, without the first step."""
    calls = trace.calls[(trace.calls["kind"] == "module") & (trace.calls["step"] > 0)]
    return calls.groupby(["name", "rank"], observed=True)["self_ns"].mean()


# Dask's own call of what pandas 3.1 deprecates.
@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.reset_index")
def test_dask_in_two_processes(codes):
    pytest.importorskip("dask.dataframe")
    names = {}
    for code in (codes[0], *(code for code in codes if "dask" in code)):
        exec(code, names)
    expected = own_times(modtrace.load("run.mtrace"))
    assert len(expected) == 6  # three modules of two ranks
    processes = names["own"].compute(scheduler="processes", num_workers=2)
    assert {(name, int(rank)): pytest.approx(own_ns) for (name, rank), own_ns in processes.items()} == dict(
        expected.items()
    )


def test_queries(codes):
    pytest.importorskip("duckdb")
    pytest.importorskip("polars")
    names = {}
    for code in codes:
        if "dask" not in code:
            exec(code, names)
    trace = modtrace.load("run.mtrace")
    own = own_times(trace)
    shown = names["slowest"].set_index("name")
    for name in ("0", "1"):
        assert shown["most_ns"][name] == pytest.approx(own[name].max())
        assert shown["rank"][name] == own[name].idxmax()
    steps = names["steps"]
    assert steps["rank"].unique().to_list() == [0, 1]
    every = trace.rollups[trace.rollups["kind"] == "step"]
    assert (steps["step_ns"] * (steps["end_step"] - steps["first_step"])).sum() == pytest.approx(
        every["forward_ns"].sum()
    )
    spent = trace.calls[(trace.calls["kind"] == "module") & (trace.calls["name"] == "0")]["duration_ns"]
    exact = np.percentile(spent, 99, method="inverted_cdf")
    assert names["p99_ns"] == pytest.approx(exact, rel=0.01)
