"""Which steps a loop has, and what stands outside of them, against what the loop itself counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import modtrace
from modtrace.analysis.step_columns import step_columns


def trains(model, optimizer, batch=4):
    loss = model(torch.randn(batch, 8)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def validates(model, times=1, mode=True):
    model.train(not mode)
    with torch.no_grad():
        for _ in range(times):
            model(torch.randn(3, 8))
    model.train()


def roots(trace):
    """(phase, step) of each root call in order; None outside of steps."""
    calls = trace.calls
    found = calls[(calls["kind"] == "module") & (calls["name"] == "")]
    steps = [step if step >= 0 else None for step in found["step"].fillna(-1).astype(int)]
    return list(zip(found["phase"].astype(str), steps, strict=True))


def evaluated_outside(trace, count):
    found = [step for phase, step in roots(trace) if phase == "eval"]
    assert found == [None] * count
    assert (trace.steps["eval_ns"] == 0).all()


@pytest.mark.parametrize("stages", [(6, 6, 6), (1, 1, 1), (3, 1, 2), (2, 5)])
@pytest.mark.parametrize("mode", [True, False])
def test_stages_with_an_optimizer_each(stages, mode):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    with modtrace.trace() as trace:
        for count in stages:
            optimizer = torch.optim.SGD(model.parameters(), 0.01)
            for _ in range(count):
                trains(model, optimizer)
            validates(model, mode=mode)
    assert len(trace.steps) == sum(stages)
    assert trace.steps["whole"].all()
    assert (trace.steps["samples"] == 4).all()
    evaluated_outside(trace, len(stages))


def test_optimizers_at_one_address():
    """Each trial has an optimizer of its own, made where an earlier one was freed."""
    with modtrace.trace() as trace:
        for _ in range(10):
            model = nn.Linear(8, 2)
            trains(model, torch.optim.SGD(model.parameters(), 0.01))
    assert len(trace.steps) == 10


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("epochs", [1, 4])
def test_validation_after_every_step(first, epochs):
    model = nn.Linear(8, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with modtrace.trace() as trace:
        validates(model, first)
        for _ in range(epochs):
            trains(model, optimizer)
            validates(model, 2)
    assert len(trace.steps) == epochs
    evaluated_outside(trace, first + 2 * epochs)


def test_a_policy_that_acts_before_each_update_stays():
    model = nn.Linear(8, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with modtrace.trace() as trace:
        for _ in range(4):
            with torch.no_grad():
                model(torch.randn(1, 8))
            trains(model, optimizer)
    assert [step for phase, step in roots(trace) if phase == "eval"] == [0, 1, 2, 3]


def test_a_teacher_and_validation():
    model, teacher = nn.Linear(8, 2), nn.Linear(8, 2).eval()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with modtrace.trace() as trace:
        for number in range(6):
            with torch.no_grad():
                teacher(torch.randn(4, 8))
            trains(model, optimizer)
            if number % 2:
                validates(model)
    evals = [step for phase, step in roots(trace) if phase == "eval"]
    assert evals == [0, 1, None, 2, 3, None, 4, 5, None]


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("graph", [False, True])
def test_a_call_behind_the_last_step_is_no_step(by_hand, graph):
    model = nn.Linear(8, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with modtrace.trace() as trace:
        for _ in range(3):
            if by_hand:
                model(torch.randn(4, 8)).sum().backward()
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter -= 0.1 * parameter.grad
                        parameter.grad = None
            else:
                trains(model, optimizer)
        with torch.set_grad_enabled(graph):
            model(torch.randn(4, 8))
    assert len(trace.steps) == 3
    assert trace.steps["whole"].all()
    assert (trace.steps["ends"] == ("forward" if by_hand else "optimizer")).all()
    assert [step for _, step in roots(trace)] == [0, 1, 2, None]


@pytest.mark.parametrize("how", ["backward", "raises"])
def test_a_step_that_did_not_come_to_its_end(how):
    model = nn.Linear(8, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with modtrace.trace() as trace:
        trains(model, optimizer)
        if how == "backward":
            model(torch.randn(4, 8)).sum().backward()
        else:
            with pytest.raises(RuntimeError):
                model(torch.randn(4, 9))
    assert trace.steps["whole"].tolist() == [True, False]


def test_a_loop_that_raises_outside_of_modules_was_in_a_step():
    model = nn.Linear(8, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with pytest.raises(ZeroDivisionError), modtrace.trace() as trace:
        trains(model, optimizer)
        model(torch.randn(4, 8)).sum() / (1 // 0)
    assert trace.steps["whole"].tolist() == [True, False]


@pytest.mark.parametrize("critic_steps", [1, 3])
def test_generator_and_critic(critic_steps):
    generator, critic = nn.Linear(8, 8), nn.Linear(8, 1)
    first, second = (torch.optim.Adam(part.parameters()) for part in (critic, generator))
    with modtrace.trace() as trace:
        for _ in range(4):
            for _ in range(critic_steps):
                critic(generator(torch.ones(2, 8)).detach()).sum().backward()
                first.step()
            critic(generator(torch.ones(2, 8))).sum().backward()
            second.step()
    assert len(trace.steps) == 4 * critic_steps
    optimizers = trace.calls[trace.calls["name"] == "optimizer"].groupby("step").size().tolist()
    assert optimizers == [*[1] * (critic_steps - 1), 2] * 4


def test_calls_that_are_made_again_are_counted_apart():
    """A checkpoint with reentry runs its block once more in backward: the block and the two modules in it."""

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 4)
            self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

        def forward(self, x):
            return checkpoint(self.block, self.head(x), use_reentrant=True)

    model = Checkpointed()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with modtrace.trace(flops=False) as trace:
        for _ in range(3):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
    forward, again = 1 + 1 + 3, 3
    assert trace.steps["calls"].tolist() == [forward + again] * 3
    assert step_columns(trace._read(), 0)["recomputed"].tolist() == [again] * 3
