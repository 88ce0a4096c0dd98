"""The number of the step in progress, against the numbers that the whole program gives."""

from __future__ import annotations

import itertools

import hypothesis
import pytest
import torch
from hypothesis import strategies
from torch import nn

import modtrace
from modtrace.capture.mechanisms import step_numbers
from modtrace.capture.mechanisms.live_step import MANY_ROOTS, LiveStep
from modtrace.trace.optimizer_turns import turns


def played(events, *, optimizers=False):
    """The number after each event: `r` a root call, `b` a backward, `m` a mark, a number that optimizer's step."""
    live = LiveStep(lambda: optimizers)
    numbers = []
    for event in events:
        if event == "r":
            live.root_began()
        elif event == "b":
            live.backward_requested()
        elif event == "m":
            live.step_marked()
        else:
            live.optimizer_ended(event)
        numbers.append(live.step)
    return numbers


@pytest.mark.parametrize(
    ("events", "numbers"),
    [
        (["r", "r", "r"], [0, 1, 2]),
        (["r", "b", "r", "b", "r"], [0, 0, 1, 1, 2]),
        (["r", "r", "b", "r", "r", "b"], [0, 1, 0, 1, 1, 1]),
        (["r", "b", 1, "r", "b", 1], [0, 0, 1, 1, 1, 2]),
        ([1, 2, 1, 2, 1, 2], [1, 1, 1, 2, 2, 3]),
        ([1, 1, 2, 2, 2], [1, 2, 2, 4, 5]),
        (["r", "m", "r", "r", "m"], [0, 1, 1, 1, 2]),
    ],
)
def test_numbers_of_small_programs(events, numbers):
    assert played(events) == numbers


def test_root_calls_before_the_first_optimizer_step_are_of_the_first_step():
    assert played(["r", "r", "r", 1], optimizers=True) == [0, 0, 0, 1]
    many = played(["r"] * (MANY_ROOTS + 1), optimizers=True)
    assert many[-2:] == [0, MANY_ROOTS]


@hypothesis.given(strategies.integers(1, 3), strategies.integers(2, 12))
def test_optimizers_that_step_by_turns(makers, steps):
    """After each round the number is that of training steps which the whole program has."""
    order = list(itertools.islice(itertools.cycle(range(makers)), makers * steps))
    numbers = played(order)
    assert numbers[-1] == len(turns(order, list(range(len(order)))).last) == steps
    assert numbers == sorted(numbers)
    assert numbers[makers * 2 - 1 :: makers] == list(range(2, steps + 1))


@pytest.mark.parametrize("kind", ["optimizer", "no optimizer", "inference", "marks"])
def test_a_module_knows_the_step_that_its_call_is_in(kind, monkeypatch):
    """The number while a call runs is that which the trace gives it."""
    seen = []
    # torch does not forget that another test has made an optimizer.
    monkeypatch.setattr(step_numbers, "optimizers_exist", lambda: kind == "optimizer")

    class Looks(nn.Linear):
        def forward(self, x):
            seen.append(trace._tracer._context.step)
            return super().forward(x)

    model = Looks(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1) if kind == "optimizer" else None
    with modtrace.trace() as trace:
        for _ in range(5):
            out = model(torch.ones(1, 2))
            if kind != "inference":
                out.sum().backward()
            if optimizer is not None:
                optimizer.step()
            if kind == "marks":
                modtrace.step()
    del optimizer
    calls = trace.calls
    assert list(calls[calls["kind"] == "module"]["step"]) == seen == [0, 1, 2, 3, 4]
