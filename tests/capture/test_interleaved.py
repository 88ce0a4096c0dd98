"""Calls that do not nest on one thread, and calls that come near python's recursion limit."""

from __future__ import annotations

import asyncio
import sys
import warnings

import greenlet
import pytest
import torch
from torch import nn

import modtrace


class Switching(nn.Module):
    """Hands over to another greenlet in the middle of its forward."""

    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Identity(), nn.ReLU()
        self.other = None

    def forward(self, x):
        x = self.before(x)
        self.other.switch()
        return self.after(x)


def test_greenlets_that_take_turns_leave_a_gap_row():
    first, second = Switching(), Switching()
    x = torch.ones(2)
    done = []
    with modtrace.trace() as trace:
        one = greenlet.greenlet(lambda: done.append(first(x)))
        two = greenlet.greenlet(lambda: done.append(second(x)))
        first.other, second.other = two, one
        one.switch()  # first up to its switch, second up to its own, first to its end
        two.switch()

    assert len(done) == 2
    calls = trace.calls
    assert list(calls["type"]).count("Switching") == 2
    assert "ReLU" in set(calls["type"])
    aborted = calls[calls["status"] == "aborted"]
    assert len(aborted) >= 1
    assert aborted["duration_ns"].isna().all()
    assert "greenlets" in trace.summary()
    assert not first._forward_hooks


def test_coroutines_do_not_interleave():
    """`Module.__call__` of an `async` forward returns the coroutine; what runs in it later is a root of its own."""

    class Waiting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Identity())

        async def forward(self, x):
            x = self.inner(x)
            await asyncio.sleep(0)
            return self.inner(x)

    async def gathered():
        return await asyncio.gather(*(model(torch.ones(1)) for model in models))

    models = [Waiting() for _ in range(5)]
    with modtrace.trace() as trace:
        asyncio.run(gathered())

    calls = trace.calls
    assert set(calls["status"]) == {"ok"}
    assert list(calls["type"]).count("Waiting") == 5
    assert list(calls["type"]).count("Sequential") == 10
    roots = calls[calls["depth"] == 0]
    assert len(roots) == 15
    assert "greenlets" not in trace.summary()


def nested(depth):
    module = nn.Identity()
    for _ in range(depth):
        module = nn.Sequential(module)
    return module


@pytest.mark.parametrize(("depth", "warned"), [(60, False), (150, True)])
def test_one_warning_near_the_recursion_limit(depth, warned):
    model = nested(depth)
    limit = sys.getrecursionlimit()
    used = len(list(frames()))
    sys.setrecursionlimit(1_000 + used)
    try:
        with warnings.catch_warnings(record=True) as caught, modtrace.trace(engine="hooks") as trace:
            warnings.simplefilter("always")
            model(torch.ones(1))
            model(torch.ones(1))
    finally:
        sys.setrecursionlimit(limit)
    told = [str(warning.message) for warning in caught if "recursion limit" in str(warning.message)]
    assert len(told) == warned
    assert len(trace.calls) == 2 * (depth + 1)


def frames():
    frame = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back
