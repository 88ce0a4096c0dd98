"""What modules compute, as people read it."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import modtrace
from modtrace import units
from modtrace.analysis.operations import runs
from modtrace.views import console


class Norm(nn.Module):
    def forward(self, x):
        norm = torch.pow(torch.sum(torch.pow(x, 2), 1) + 1e-6, 0.5).unsqueeze(1).expand_as(x)
        return torch.div(x, norm)


class Late(nn.Module):
    """Calls a part in two steps that are not counted, and nothing goes back through it."""

    def __init__(self):
        super().__init__()
        self.always = nn.Linear(8, 4)
        self.late = nn.Linear(4, 4)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        x = self.always(x)
        if self.calls > 4:
            self.late(x.detach())
        return x


@pytest.fixture(scope="module")
def trace():
    blocks = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.1)) for _ in range(3)])
    model = nn.Sequential(Norm(), blocks, Late())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace() as found:
        for _ in range(6):
            optimizer.zero_grad()
            model(torch.ones(2, 8)).sum().backward()
            optimizer.step()
    return found


def test_a_line_a_module_with_its_operations(trace):
    text = console.operations_text(trace._read(), width=120)
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert lines["0"].endswith("pow, sum, add, pow, unsqueeze, expand, div")
    assert "  *.*.* x3  Linear                        18    256 FLOP  t, addmm" in text
    assert lines["2.late"].split()[-2:] == ["?", "?"]
    assert "not called while operations were counted" in text


@pytest.mark.parametrize("columns", [0, 20, 60, 80, 200])
def test_fits(trace, columns):
    for line in console.operations_text(trace._read(), width=columns, ascii=True).splitlines():
        assert len(line) <= max(columns, 20)


def test_steps_that_were_counted_are_marked(trace):
    text = console.steps_table(trace._read(), width=120)
    rows = [line for line in text.splitlines() if line.strip()[:1].isdigit() and "steps," not in line]
    assert [row.split()[0] for row in rows] == ["0*", "1*", "2", "3*", "4", "5"]
    assert "FLOP/s" in text
    assert "* operations were counted in it" in text


def test_what_is_not_known_is_unknown_everywhere(trace):
    """From the fifth step on a part runs that was never counted, so the steps are not known, and no sum is."""
    steps = trace.steps
    assert steps["flops"].isna().tolist() == [False] * 4 + [True] * 2
    each = int(steps["flops"][0])
    assert steps["flops_at_least"].tolist() == [each] * 6
    assert steps["uncounted"].tolist() == [[]] * 4 + [["Linear"]] * 2
    facts = json.loads(console.info_json(trace._read()))
    assert (facts["flops"], facts["flops_at_least"]) == (None, 6 * each)
    assert f"at least {units.scaled(each, 'FLOP')}, without Linear" in trace.summary()
    late = trace.modules.set_index("name").loc["2.late"]
    assert late["forward_flops"] is not late["forward_flops"] or late.isna()["forward_flops"]


def test_flops_in_the_summary():
    model = nn.Linear(64, 64)
    with modtrace.trace() as found:
        for _ in range(4):
            model(torch.ones(8, 64))
    assert "65.5 kFLOP  " in found.summary()
    assert json.loads(console.info_json(found._read()))["flops"] == 4 * 2 * 8 * 64 * 64


def test_modules_ranked_by_flops(trace):
    lines = console.modules_table(trace._read(), sort="flops", width=100).splitlines()
    assert "FLOPs" in lines[1]
    assert "FLOP " in lines[2]


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 FLOP"), (999, "999 FLOP"), (1000, "1.00 kFLOP"), (38_700_000_000, "38.7 GFLOP"), (None, "?"),
     (999_600, "1.00 MFLOP"), (10**21, "1000 EFLOP"), (10**12, "1.00 TFLOP")],
)  # fmt: skip
def test_numbers_with_prefixes(number, text):
    assert units.scaled(number, "FLOP") == text


def test_runs_of_equal_names():
    assert runs([]) == []
    assert runs(["add", "add", "mm", "add"]) == ["add x2", "mm", "add"]
