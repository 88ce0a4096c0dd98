"""An exception that leaves a backward or an optimizer's step: which module it was in, and what is told of memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.failure import last_failure


class Fails(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, reason):
        ctx.reason = reason
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if ctx.reason == "memory":
            torch.empty(1 << 50)
        if ctx.reason == "value":
            raise ValueError("no such thing")
        return gradient, None


class Bad(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(64))
        self.reason = ""

    def forward(self, x):
        return Fails.apply(x * self.scale, self.reason)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.bad, self.after = nn.Linear(64, 64), Bad(), nn.Linear(64, 8)

    def forward(self, x):
        return self.after(self.bad(self.before(x)))


class Stumbles(torch.optim.SGD):
    fails = False

    def step(self, closure=None):
        if self.fails:
            raise RuntimeError("the step failed")
        return super().step(closure)


def train(reason, *, fails_at=2, steps=3, goes_on=0):
    model = Net()
    optimizer = Stumbles(model.parameters(), lr=0.1)
    with modtrace.trace() as trace:
        for at in range(steps):
            model.bad.reason = reason if at == fails_at else ""
            try:
                model(torch.ones(32, 64)).sum().backward()
                optimizer.step()
            except (RuntimeError, ValueError):
                pass
        for _ in range(goes_on):
            model(torch.ones(32, 64)).sum().backward()
            optimizer.step()
    return trace


def test_the_module_whose_backward_failed():
    trace = train("value")
    failure = last_failure(trace._read())
    assert failure is not None
    assert (failure.phase, failure.step, failure.error) == ("backward", 2, "ValueError: no such thing")
    assert [(place.name, place.type, place.tensors) for place in failure.path] == [
        ("", "Net", "f32[32,8]"),
        ("bad", "Bad", "f32[32,64]"),
    ]
    assert failure.parameters == ["scale f32[64]"]
    text = trace.summary()
    assert "WHERE IT FAILED   step 2   backward   ValueError: no such thing" in text
    assert "OUT OF MEMORY" not in text


def test_rows_that_were_open_have_raised():
    calls = train("value").calls
    rows = calls[(calls["step"] == 2) & calls["kind"].isin(["backward", "phase"])]
    assert [(row["kind"], row["name"], row["status"]) for _, row in rows.iterrows()] == [
        ("phase", "forward", "ok"),
        ("phase", "loss", "ok"),
        ("phase", "backward", "raised"),
        ("backward", "", "raised"),
        ("backward", "after", "ok"),
        ("backward", "bad", "raised"),
    ]
    assert rows["error"].dropna().unique().tolist() == ["ValueError: no such thing"]


def test_memory_that_ran_out_in_a_backward():
    text = train("memory").summary()
    assert "   backward   RuntimeError" in text
    assert "OUT OF MEMORY   asked for 4096 TiB" in text
    assert "outputs made in this step 17.0 KiB" in text


def test_a_step_of_a_scaler_that_failed():
    """An optimizer's own step is closed as aborted: torch runs no hook after one that raises."""
    model, scaler = Net(), torch.amp.GradScaler("cpu")
    optimizer = Stumbles(model.parameters(), lr=0.1)
    with modtrace.trace() as trace:
        scaler.scale(model(torch.ones(32, 64)).sum()).backward()
        optimizer.fails = True
        with pytest.raises(RuntimeError):
            scaler.step(optimizer)
    failure = last_failure(trace._read())
    assert failure is not None
    assert (failure.phase, failure.path, failure.error) == (
        "optimizer",
        [],
        "RuntimeError: the step failed",
    )
    assert failure.root is not None


def test_a_backward_that_the_program_dealt_with():
    text = train("value", fails_at=0, goes_on=2).summary()
    assert "WHERE IT FAILED" not in text
    assert "a backward raised and went on, last ValueError: no such thing" in text


@pytest.mark.parametrize("reason", ["value", "memory"])
def test_without_a_model(reason):
    with modtrace.trace() as trace:
        nn.Linear(1, 1)  # is not called
        x = Fails.apply(torch.ones(64, requires_grad=True), reason)
        with pytest.raises((ValueError, RuntimeError)):
            x.sum().backward()
    assert "OUT OF MEMORY" not in trace.summary()
