"""What torch compiled is told, counted by torch itself, and is left out of what is said about speed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import modtrace
from modtrace.analysis.compilations import compiled, compiled_steps
from modtrace.analysis.findings import findings
from modtrace.views import console

pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 1)

    def forward(self, x):
        x = torch.relu(self.a(x))
        if x.sum() > 1e9:  # a graph break
            x = x * 2
        return self.b(x)


def loop(sizes=(8, 8, 5, 7, 9, 8, 8, 8, 8)):
    """Losses of a training whose sizes change, and torch's counters."""
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    net = Net()
    step = torch.compile(net, backend="aot_eager")
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    losses = []
    for size in sizes:
        loss = step(torch.randn(size, 4)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, {name: dict(found) for name, found in counters.items()}


@pytest.fixture(scope="module")
def recorded():
    untraced = loop()
    with modtrace.trace() as trace:
        traced = loop()
    return trace, traced, untraced


def test_the_program_compiles_as_often_as_untraced(recorded):
    _, (losses, counted), (untraced, expected) = recorded
    assert losses == untraced
    assert counted["stats"] == expected["stats"]


def test_graphs_and_recompiles_are_torchs(recorded):
    trace, (_, counted), _ = recorded
    frame = trace.compilations
    graphs = frame[~frame["backward"]]
    assert len(graphs) == counted["stats"]["unique_graphs"] == 4
    assert graphs["compile"].tolist() == ["0/0", "1/0", "0/1", "1/1"]
    assert graphs["step"].tolist() == [0, 0, 2, 2]
    assert graphs["recompiled"].tolist() == [False, False, True, True]
    assert graphs["reason"].iloc[2] == "0/0: tensor 'x' size mismatch at index 0. expected 8, actual 5"
    assert graphs["function"].iloc[0] == "forward"
    assert graphs["source_file"].iloc[0] == __file__
    assert (frame["duration_ns"] > 0).all()
    assert frame["start_ns"].between(0, trace._read().processes[0].wall_ns).all()


def test_it_is_told(recorded):
    trace = recorded[0]
    text = " ".join(trace.summary().split())
    assert "compiled 4 graphs and 2 backwards in " in text
    assert "2 recompiles: tensor 'x' size mismatch at index 0. expected 8, actual 5 in forward" in text
    table = console.compilations_text(trace._read(), width=120)
    assert "0/1" in table
    assert "size mismatch" in table


def test_it_is_left_out_of_findings_about_speed(recorded):
    trace = recorded[0]
    assert compiled_steps(trace._read()).nonzero()[0].tolist() == [0, 2]
    assert not {"first_step", "never_ran", "no_optimizer"} & {one.rule for one in findings(trace._read())}


def test_what_was_compiled_before_is_not_this_traces():
    loop()
    with modtrace.trace() as trace:
        nn.Linear(4, 4)(torch.randn(2, 4))
    assert len(trace.compilations) == 0
    assert compiled(trace._read()) is None
    assert "compiled" not in trace.summary()
    assert "nothing" in console.compilations_text(trace._read())


def test_reasons_are_messages():
    with modtrace.trace(messages=False) as trace:
        loop((8, 5))
    assert trace.compilations["recompiled"].sum() == 2
    assert trace.compilations["reason"].isna().all()


def test_torch_without_them_costs_them_alone(monkeypatch):
    def moved():
        raise AttributeError("start_time_us")

    monkeypatch.setattr(torch._dynamo.utils, "get_compilation_metrics", moved)
    with modtrace.trace() as trace:
        nn.Linear(4, 4)(torch.randn(2, 4))
    assert trace._read().table("gaps").column("reason").to_pylist() == [
        "how often and why torch compiled is not recorded: AttributeError"
    ]
    assert len(trace.calls) == 1
