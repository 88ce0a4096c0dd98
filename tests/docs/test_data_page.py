"""docs/data.md is what frames.py says, and its questions are answered as a second computation answers them."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from statistics import median

import pytest
import torch
from torch import nn

import modtrace
from modtrace.trace.dataframes import FRAMES

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "data.md").read_text(encoding="utf-8")
CODE = dict(re.findall(r"### \d+\. ([^\n]+)\n.*?```python\n(.*?)```", PAGE, re.DOTALL))
KEPT = 1000
PHASES = ("data", "h2d", "forward", "eval", "loss", "backward", "optimizer", "zero_grad", "other")


class Net(nn.Module):
    """Three of its layers are alike, one is wider inside; one never runs; each forward keeps 4,000 bytes."""

    def __init__(self):
        super().__init__()
        wide = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 4))
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), wide, nn.Linear(4, 4)])
        self.head, self.spare = nn.Linear(4, 2), nn.Linear(4, 3)
        self.kept = []

    def forward(self, x):
        self.kept.append(torch.zeros(KEPT))
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def trained(**options):
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace(**options) as recorded:
        for size in (8, 8, 8, 8, 3):
            optimizer.zero_grad()
            model(torch.ones(size, 4)).sum().backward()
            optimizer.step()
    return recorded


@pytest.fixture(scope="module")
def t():
    return trained()


@pytest.fixture(scope="module")
def watched():
    return trained(memory="0:5")


@pytest.fixture(scope="module")
def failed():
    with modtrace.trace() as recorded, pytest.raises(RuntimeError):
        Net()(torch.ones(1, 5))
    return recorded


@pytest.fixture
def answer(request):
    """What the code below the title in the page finds in a trace."""
    title, trace = request.param
    names = {"t": request.getfixturevalue(trace)}
    exec(CODE[title], names)
    return names["answer"]


def asked(title, trace="t"):
    assert title in CODE
    return pytest.mark.parametrize("answer", [(title, trace)], indirect=True, ids=["page"])


def rows_of(t):
    """The calls as plain dicts."""
    return [
        {"call": call, **row} for call, row in zip(t.calls.index, t.calls.to_dict("records"), strict=True)
    ]


def test_page_is_not_stale():
    made = runpy.run_path(str(DOCS / "data_page.py"))["page"]()
    assert made == PAGE, "run: python docs/data_page.py"
    assert len(CODE) == 10
    for name, columns in FRAMES.items():
        section = PAGE.partition(f"\n## `t.{name}`\n")[2].partition("\n## ")[0]
        assert re.findall(r"^\| `(\w+)`", section, re.MULTILINE) == [column.name for column in columns]


@pytest.mark.parametrize("made", ["t", "watched", "failed"])
def test_types_are_those_described(made, request):
    t = request.getfixturevalue(made)
    frames = {"calls": t.calls, "modules": t.modules, "steps": t.steps, "kernels": t.kernels, "syncs": t.syncs,
              "compilations": t.compilations, "folded": t.folded, "findings": t.findings, "gaps": t.gaps,
              "operations": t.operations, "holders": t.holders, "values": t.values, "nonfinite": t.nonfinite,
              "ranks": t.ranks, "collectives": t.collectives, "rollups": t.rollups,
              "series(name)": t.series("Net"), "series()": t.series()}  # fmt: skip
    for name, frame in frames.items():
        for shown in FRAMES[name]:
            kind = str(frame[shown.name].dtype)
            if shown.type == "list":
                assert all(isinstance(value, list) for value in frame[shown.name]), (name, shown.name)
            else:
                assert kind in ({"str", "object"} if shown.type == "str" else {shown.type}), (
                    name,
                    shown.name,
                )
            if not shown.null:
                assert frame[shown.name].notna().all(), (name, shown.name)


@asked("Which layers are the slowest by self time?")
def test_slowest_layers(t, answer):
    spent = {}
    for row in rows_of(t):
        if row["kind"] in ("module", "backward"):
            spent[row["name"]] = spent.get(row["name"], 0) + row["self_ns"]
    best = sorted(spent.items(), key=lambda pair: -pair[1])[:5]
    assert list(zip(answer["name"], answer["self_ns"], strict=True)) == best


@asked("Where does the time of a step go?")
def test_parts_of_steps(t, answer):
    assert answer.index.tolist() == [f"{name}_ns" for name in PHASES]
    assert answer.sum() == pytest.approx(1)
    whole = set(t.steps.index[t.steps["whole"]])
    assert len(whole) >= 5
    stepping = sum(
        row["duration_ns"]
        for row in rows_of(t)
        if row["kind"] == "phase" and row["name"] == "optimizer" and row["step"] in whole
    )
    total = sum(t.steps["duration_ns"][step] for step in whole)
    assert answer["optimizer_ns"] == pytest.approx(stepping / total)
    assert answer["backward_ns"] > 0


@asked("How much does memory grow per step?", "watched")
def test_growth_of_memory(answer):
    steps = answer.index.get_level_values("step").tolist()
    assert steps[:4] == [0, 1, 2, 3]
    assert answer.iloc[2:4].tolist() == [KEPT * 4] * 2  # gradients are there from the second step on


@asked("Which blocks differ from their siblings?")
def test_blocks_that_differ(answer):
    assert "layers.2" in answer["name"].tolist()
    assert not {"layers.0", "layers.1", "layers.3"} & set(answer["name"])
    assert answer.set_index("name").loc["layers.2", "parameter_count"] == 4 * 9 + 9 + 9 * 4 + 4


@asked("Which call raised first?", "failed")
def test_first_that_raised(answer):
    assert answer[["name", "type", "inputs"]].to_numpy().tolist() == [["layers.0", "Linear", "f32[1,5]"]]
    assert answer["error"].iloc[0].startswith("RuntimeError: mat1 and mat2 shapes cannot be multiplied")


@asked("Which modules were not called?")
def test_modules_that_were_not_called(answer):
    found = {name: (kind, count) for name, kind, count in answer.to_numpy().tolist()}
    assert found == {"spare": ("Linear", 15), "layers": ("ModuleList", 4 * 20 - 20 + 85)}


@asked("Which shapes did a layer see?")
def test_shapes_of_a_layer(answer):
    assert answer.to_dict() == {"f32[8,4]": 4, "f32[3,4]": 1}


@asked("How fast do layers compute?")
def test_speed_of_layers(t, answer):
    flops = 2 * 4 * 2 * (4 * 8 + 3)
    took = sum(row["duration_ns"] for row in rows_of(t) if row["kind"] == "module" and row["name"] == "head")
    assert answer["head"] == pytest.approx(flops / took)


@asked("Which steps are outliers?")
def test_outliers(t, answer):
    durations = {step: int(ns) for step, ns in t.steps["duration_ns"].dropna().items()}
    limit = 1.5 * median(durations.values())
    assert answer.to_dict() == {step: ns for step, ns in durations.items() if ns > limit}


@asked("What is inside the longest call?")
def test_inside_the_longest(t, answer):
    rows = {row["call"]: row for row in rows_of(t)}
    longest = max(
        (row for row in rows.values() if row["kind"] == "module"), key=lambda row: row["duration_ns"]
    )
    inside = []
    for call in rows:
        up = call
        while up not in (longest["call"], -1):
            up = rows[up]["parent"]
        if up == longest["call"]:
            inside.append(call)
    assert len(inside) > 5
    assert answer.index.tolist() == inside
