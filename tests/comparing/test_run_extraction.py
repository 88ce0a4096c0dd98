"""The numbers of a run, against those that a second computation makes of its DataFrames."""

from __future__ import annotations

from statistics import median_low

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import modtrace
from modtrace.analysis.comparing.comparison import Comparison
from modtrace.analysis.comparing.run_extraction import run_numbers
from modtrace.analysis.comparing.run_numbers import RUN_NUMBERS


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.out = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        return self.out(torch.relu(self.fc(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.head, self.spare = nn.Linear(8, 2), nn.Linear(8, 5)

    def forward(self, x):
        for number, layer in enumerate(self.layers):
            x = checkpoint(layer, x, use_reentrant=False) if number == 1 else layer(x)
        return self.head(x)


def trained(wrap=lambda model: model, steps=8, **options):
    torch.manual_seed(0)
    model = wrap(Net())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    with modtrace.trace(**options) as t:
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.ones(4, 8)).sum().backward()
            optimizer.step()
    return t


@pytest.fixture(scope="module")
def t():
    return trained(functions=True, saved="2:4", nan=True)


@pytest.fixture(scope="module")
def run(t):
    return run_numbers(t._read())


def in_statistics(t):
    """(step -> duration) of the steps that count."""
    steps = t.steps[t.steps["in_statistics"]]
    return {int(step): int(ns) for step, ns in steps["duration_ns"].items()}


def numbers_of(run, name):
    return next(number for number, module in enumerate(run.modules) if module.name == name)


def test_modules_are_those_of_the_table(t, run):
    rows = [(row.root, row.name, row.type) for row in t.modules.itertuples()]
    assert [(module.root, module.name, module.type) for module in run.modules] == rows
    head = run.modules[numbers_of(run, "head")]
    assert head.shapes == (("weight", (2, 8)), ("bias", (2,)))
    assert run.dtypes[numbers_of(run, "head")] == "float32"
    assert run.outputs[numbers_of(run, "head")] == "f32[4,2]"


@pytest.mark.parametrize("way", ["forward", "backward"])
def test_times_are_those_of_the_table_of_modules(t, run, way):
    for number, row in enumerate(t.modules.itertuples()):
        for figure, values in (("p50", "p50_ns"), ("max", "most_ns"), ("mean", "mean_ns"), ("p95", "p95_ns")):
            expected = getattr(row, f"{way}_{figure}_ns")
            found = int(getattr(run.module_times[way], values)[number])
            assert found == (-1 if pd.isna(expected) else expected)


def test_time_of_a_subtree_is_all_self_time_in_it(t, run):
    """Functions and spans inside a module are its own; names say what is inside of what."""
    calls, counted = t.calls, in_statistics(t)
    owner = {}
    for call, row in calls.iterrows():
        of_module = row["kind"] in ("module", "backward")
        owner[call] = row["name"] if of_module else owner.get(row["parent"])
    for name in ("", "layers", "layers.0", "layers.1", "layers.1.fc", "head"):
        spent = dict.fromkeys(counted, 0)
        for call, row in calls.iterrows():
            inside = owner[call] is not None and (
                not name or owner[call] == name or owner[call].startswith(f"{name}.")
            )
            if inside and row["step"] in spent:
                spent[row["step"]] += int(row["self_ns"])
        times, number = run.module_times["subtree"], numbers_of(run, name)
        assert times.p50_ns[number] == median_low(spent.values()), name
        assert (times.least_ns[number], times.most_ns[number]) == (min(spent.values()), max(spent.values()))
        assert times.steps[number] == len(counted)


def test_all_of_a_step_is_in_modules_or_outside(t, run):
    """Of one step alone, where medians are the values themselves."""
    counted = in_statistics(t)
    assert run.step_times.p50_ns[0] == median_low(counted.values())
    one = trained(steps=2)
    numbers = run_numbers(one._read())
    assert numbers.steps == 1
    inside = sum(numbers.module_times["subtree"].p50_ns[top] for top in numbers.forest.tops)
    outside = numbers.outside_times.p50_ns.sum()
    assert inside + outside == pytest.approx(numbers.step_times.p50_ns[0], rel=1e-3)
    assert {"optimizer", "zero_grad", "between phases", "modtrace itself"} <= set(numbers.outside_names)


def test_phases_are_those_of_the_table_of_steps(t, run):
    steps = t.steps[t.steps["in_statistics"]]
    for place, name in enumerate(run.step_names[1:-1], 1):
        assert run.step_times.p50_ns[place] == median_low(steps[f"{name}_ns"].tolist()), name


def test_numbers_without_noise(t, run):
    head, block = numbers_of(run, "head"), numbers_of(run, "layers.0")
    assert run.totals["calls"] == 14  # 11 modules run, 3 of them again
    assert run.totals["parameters"] == sum(p.numel() for p in Net().parameters())
    assert run.totals["flops"] == t.steps["flops"].iloc[-1]
    assert run.module_numbers["flops"][head] == 3 * 2 * 4 * 8 * 2  # forward, and two products in backward
    assert run.module_numbers["calls"][block] == 1
    assert (
        run.module_numbers["calls"][numbers_of(run, "layers.1.fc")] == 1
    )  # not what checkpointing made again
    assert run.module_numbers["parameters"][head] == 18
    assert run.module_numbers["operations"][head] == len(t.modules["operations"][head])
    assert run.module_numbers["operations"][numbers_of(run, "spare")] == -1
    assert set(run.totals) == set(RUN_NUMBERS)
    assert run.totals["recompiles"] == 0


def test_facts_of_the_environment(run):
    facts = run.environment
    assert facts["torch"] == str(torch.__version__)
    assert facts["threads"] == str(torch.get_num_threads())
    assert facts["engine"] in ("hooks", "calls")
    assert facts["options"] == "functions=on saved=2:4 nan=on"
    assert (facts["optimizer"], facts["samples a step"], facts["parameter types"]) == ("Adam", "4", "float32")
    assert run.nonfinite is False


def test_a_run_in_a_wrapper_beside_a_plain_one():
    plain, wrapped = trained(), trained(nn.DataParallel)
    found = Comparison([run_numbers(plain._read())], [run_numbers(wrapped._read())])
    assert {(change.what, change.type, change.candidate) for change in found.structure} == {
        ("wrapped", "Net", "DataParallel")
    }
    assert len(found.modules) == len(Net()._modules) + 1 + 9
    assert all(module.times["forward"].baseline_ns for module in found.modules if "fc" in module.name)


def test_inference_has_steps_too():
    model = Net().eval()
    with modtrace.trace() as t, torch.no_grad():
        for _ in range(6):
            model(torch.ones(4, 8))
    run = run_numbers(t._read())
    assert not run.training
    assert run.steps >= 3
    assert run.step_names == ["step", "device"]
    assert run.module_times["subtree"].p50_ns[numbers_of(run, "")] > 0


def test_a_trace_of_nothing():
    with modtrace.trace() as t:
        pass
    run = run_numbers(t._read())
    assert run.modules == []
    found = Comparison([run], [run])
    assert found.step_change is None
    assert found.modules == []
