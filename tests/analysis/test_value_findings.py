"""Remarks about ranges of values: each speaks of what it is for, and of nothing else."""

from __future__ import annotations

import torch
from torch import nn

import modtrace

RULES = {"saturating", "dead", "vanishing", "exploding"}


def remarks(model, count=6, between=lambda step: None, loss=lambda output: output.float().pow(2).mean()):
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    with modtrace.trace(values=(0, count)) as trace:
        for step in range(count):
            between(step)
            optimizer.zero_grad()
            loss(model(torch.randn(8, 4))).backward()
            optimizer.step()
    rows = trace.findings
    return {row.rule: row.text for row in rows.itertuples() if row.rule in RULES}


def small(*inside):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), *inside, nn.Linear(4, 2))


def test_a_healthy_model_is_not_spoken_of():
    assert remarks(small(nn.ReLU(), nn.LayerNorm(4))) == {}


def test_saturating():
    class Half(nn.Module):
        def forward(self, x):
            return (x * 0 + 60_000).half()

    class Back(nn.Module):
        def forward(self, x):
            return x.float() * 1e-6

    text = remarks(small(Half(), Back()))
    assert text["saturating"] == "outputs come near the end of float16: 1 (Half), up to 60,000 of 65,504"


def test_dead():
    model = small(nn.ReLU())
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    text = remarks(model)
    assert text["dead"] == "the output stays 0: 1 (ReLU)"


def test_vanishing():
    class Damp(nn.Module):
        def forward(self, x):
            return x * 1e-9

    assert "0 (Linear)" in remarks(small(Damp()))["vanishing"]


def test_exploding():
    scale = {"by": 1.0}

    def grow(step):
        scale["by"] = 10.0**step

    text = remarks(small(nn.Tanh()), between=grow, loss=lambda output: output.pow(2).mean() * scale["by"])
    assert "gradients explode" in text["exploding"]
    assert set(text) == {"exploding"}
