"""Findings about memory: each fires on what it is for and is silent on what is not."""

from __future__ import annotations

import torch
from torch import nn

import modtrace
from modtrace.analysis.findings import findings


def rules(keep, *, steps=10, watch="0:10", width=64, rows=64, depth=1):
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth)]
    model = nn.Sequential(*blocks, nn.Linear(width, width // 2))
    optimizer = torch.optim.Adam(model.parameters())
    kept = []
    with modtrace.trace(memory=watch) as t:
        for _ in range(steps):
            optimizer.zero_grad()
            output = model(torch.ones(rows, width))
            loss = output.sum()
            loss.backward()
            optimizer.step()
            kept.append(keep(output, loss))
    return {one.rule: one for one in findings(t._read())}


def test_growth():
    found = rules(lambda output, loss: output.detach())["growth"]
    assert "8.00 KiB a step" in found.text
    assert "allocated in 1" in found.text
    assert found.wrong


def test_numbers_that_are_kept_do_not():
    assert "growth" not in rules(lambda output, loss: loss.item())


def test_few_steps_say_nothing():
    assert "growth" not in rules(lambda output, loss: output.detach(), watch="0:5")


def test_activations():
    found = rules(lambda output, loss: None, rows=8192, width=32, depth=8, watch="0:3", steps=4)[
        "activations"
    ]
    assert "of the peak" in found.text
    assert "checkpoint" in found.remedy


def test_activations_beside_large_parameters():
    assert "activations" not in rules(lambda output, loss: None, rows=2, width=512, watch="0:3", steps=4)
