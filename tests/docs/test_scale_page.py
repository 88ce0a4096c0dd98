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


def test_queries(tmp_path, monkeypatch):
    duckdb, _ = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    del duckdb
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
    names = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(code, names)
    trace = modtrace.load("run.mtrace")
    calls = trace.calls[(trace.calls["kind"] == "module") & (trace.calls["step"] > 0)]
    own = calls.groupby(["name", "rank"], observed=True)["self_ns"].mean()
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
