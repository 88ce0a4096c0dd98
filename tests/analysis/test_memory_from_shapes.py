"""What shapes tell of memory, against sizes worked out by hand."""

from __future__ import annotations

import torch
from torch import nn

import modtrace
from modtrace.analysis.findings import findings
from modtrace.analysis.memory import memory
from modtrace.analysis.memory_from_shapes import sizes_by_shapes
from modtrace.views import console

FLOAT = 4


class Tied(nn.Module):
    """A parameter that two layers share, one that is frozen, and buffers."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.second.weight = self.first.weight
        self.second.bias.requires_grad_(False)

    def forward(self, x):
        return self.norm(self.second(self.first(x)))


def train(optimizer=torch.optim.Adam, steps=3, rows=4, **options):
    model = Tied()
    used = optimizer([one for one in model.parameters() if one.requires_grad], lr=0.01)
    with modtrace.trace(**options) as t:
        for _ in range(steps):
            model(torch.randn(rows, 8)).sum().backward()
            used.step()
    return t


def test_bytes_of_modules():
    modules = train().modules.set_index("name")
    returned = 4 * 8 * FLOAT
    assert modules["output_bytes"].tolist() == [3 * returned] * 4
    assert modules["output_max_bytes"].tolist() == [returned] * 4
    trainable = {"": 64 + 8 + 16, "first": 72, "second": 64, "norm": 16}
    assert modules["gradient_bytes"].to_dict() == {name: size * FLOAT for name, size in trainable.items()}
    assert modules["optimizer_state_bytes"].to_dict() == {
        name: 2 * size * FLOAT for name, size in trainable.items()
    }
    assert modules["saved_bytes"].isna().all()


def test_state_of_an_optimizer_that_does_not_tell():
    t = train(torch.optim.SGD)
    assert t.modules["optimizer_state_bytes"].isna().all()
    assert sizes_by_shapes(t._read()).optimizers == [("SGD", None)]


def test_outputs_without_a_known_size_are_null():
    class Sparse(nn.Module):
        def forward(self, x):
            return x.to_sparse()

    with modtrace.trace() as t:
        Sparse()(torch.eye(3))
    assert t.modules["output_bytes"].isna().all()
    assert sizes_by_shapes(t._read()).step_bytes is None
    assert "?" in console.memory_text(t._read())


def test_what_is_told_without_having_watched():
    t = train()
    found = sizes_by_shapes(t._read())
    assert found.step_bytes == 3 * 4 * 8 * FLOAT
    assert found.models[0].buffer_bytes == 16 * FLOAT + 8
    text = console.memory_text(t._read())
    assert "gradients up to 352 B" in text
    assert "Adam's state about 704 B" in text
    assert "--saved" in text
    assert "outputs" in console.modules_table(t._read(), sort="output")


def test_one_output_in_one_step_is_enough():
    with modtrace.trace() as t:
        nn.Linear(8, 3)(torch.ones(4, 8))
    assert sizes_by_shapes(t._read()).step_bytes == 4 * 3 * FLOAT


def test_what_is_kept_is_shown_and_found():
    t = train(rows=20_000, saved="1:2")
    kept = "1.83 MiB"  # inputs of three modules
    assert kept in console.memory_text(t._read())
    assert f"kept      {kept} for backward" in t.summary()
    rules = {one.rule: one.text for one in findings(t._read())}
    assert kept in rules["activations"]
    assert "activations" not in {one.rule for one in findings(train(saved="1:2")._read())}


def test_buffers_and_frozen_parameters_that_were_there_before_watching():
    t = train(memory="1:3")
    found = memory(t._read())[0]
    before = found.alive(int(found.at_ns[0]))
    assert int(found.size_bytes[before & (found.category == 1)].sum()) == 16 * FLOAT + 8
    assert int(found.size_bytes[before & (found.category == 0)].sum()) == (64 + 8 + 8 + 16) * FLOAT
