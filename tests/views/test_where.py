"""`info --where`: what a filter lets through, beside the same worked out from the DataFrames."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import modtrace
from modtrace.errors import UsageError
from modtrace.views import console
from modtrace.views.filtered import filtered_modules, filtered_tree


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)

    def forward(self, x):
        return x + self.down(self.act(self.up(x)))


@pytest.fixture(scope="module")
def trace():
    model = nn.Sequential(Block(), Block(), nn.LayerNorm(8))
    with modtrace.trace(model) as found:
        for _ in range(3):
            model(torch.ones(2, 8))
    return found


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ("type:Linear", lambda row: row["type"] == "Linear"),
        ("down", lambda row: "down" in row["name"]),
        ("type:Linear -down", lambda row: row["type"] == "Linear" and "down" not in row["name"]),
        ("/^0\\./", lambda row: row["name"].startswith("0.")),
        ("calls>2 path:*.act", lambda row: row["name"].endswith(".act")),
    ],
)
def test_modules_and_tree(trace, where, wanted):
    frame = trace.modules
    expected = [wanted(row) for _, row in frame.iterrows()]
    assert any(expected)
    assert filtered_modules(frame, where).tolist() == expected
    text = console.modules_table(trace._read(), where=where)
    assert len(text.splitlines()) == 1 + sum(expected)


def test_what_is_above_stays_in_the_tree(trace):
    tree = filtered_tree(trace._read(), "type:GELU")
    assert tree.label == ["model", "*", "act"]
    assert tree.calls.tolist() == [3, 6, 6]
    assert filtered_tree(trace._read(), "nothing-like-this").label == []


def test_what_a_module_does_not_have(trace):
    with pytest.raises(UsageError, match="use it with --tree"):
        filtered_modules(trace.modules, "step:1")
    with pytest.raises(UsageError, match="compared with"):
        filtered_tree(trace._read(), "self>")


def test_a_backward_that_could_not_be_counted_is_not_nothing(monkeypatch):
    model, x = nn.Linear(4, 4), torch.ones(2, 4)
    with modtrace.trace() as forward_only, torch.no_grad():
        model(x)
    with modtrace.trace() as both:
        model(x).sum().backward()
    assert "64 FLOP" in console.modules_table(forward_only._read())
    assert "128 FLOP" in console.modules_table(both._read())
    frame = both.modules.copy()
    frame["backward_flops"] = frame["backward_flops"].mask(frame["backward_flops"] == 64)
    monkeypatch.setattr(console, "modules", lambda stored: frame)
    assert ">128 FLOP" in console.modules_table(both._read())
