"""The operation in a forward: what is kept of calls until they end, and which forwards are run again."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

import modtrace


class Root(nn.Module):
    """NaN of what is below zero. `runs` counts forwards, `change` is done to the arguments first."""

    def __init__(self, change=lambda x: None):
        super().__init__()
        self.runs, self.change = 0, change

    def forward(self, x, scale=None):
        self.runs += 1
        self.change(x if scale is None else scale)
        return torch.sqrt(x)


class Raises(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error


def kept():
    """States of random generators that are held for calls."""
    return sum(type(one).__name__ == "_Before" for one in gc.get_objects())


@pytest.mark.parametrize("engine", ["hooks", "calls"])
@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), StopIteration()])
def test_nothing_is_kept_of_calls_that_raise(engine, error):
    model = nn.Sequential(nn.Identity(), Raises(error))
    with modtrace.trace(nan_pin=True, engine=engine):
        for _ in range(20):
            with pytest.raises(type(error)):
                model(torch.ones(2))
        nn.Identity()(torch.ones(1))  # what a BaseException has left is seen now
        assert kept() == 0


@pytest.mark.parametrize("engine", ["hooks", "calls"])
def test_nothing_is_kept_of_a_generator_that_is_dropped(engine):
    def values(model):
        yield model(torch.ones(1))

    class Yields(nn.Module):
        def forward(self, x):
            return next(values(nn.Identity()))

    with modtrace.trace(nan_pin=True, engine=engine):
        for _ in range(5):
            Yields()(torch.ones(1))
        assert kept() == 0


def test_nothing_is_kept_of_calls_with_hooks_that_raise():
    def refuse(module, args, output):
        raise ValueError

    model = nn.Identity()
    model.register_forward_hook(refuse)
    with modtrace.trace(nan_pin=True):
        for _ in range(5):
            with pytest.raises(ValueError):
                model(torch.ones(1))
        assert kept() == 0


def pinned(model, *args, **kwargs):
    with modtrace.trace(nan_pin=True) as trace:
        model(*args, **kwargs)
    (row,) = trace.nonfinite.itertuples()
    return row.operation


def test_a_forward_is_run_once_more():
    model = Root()
    assert pinned(model, torch.tensor([-1.0])) == "sqrt"
    assert model.runs == 2


@pytest.mark.parametrize("name", [None, "scale"])
def test_one_that_changes_what_it_is_given_is_not_run_again(name):
    model = Root(lambda x: x.add_(1))
    x = torch.tensor([-5.0])
    operation = pinned(model, x) if name is None else pinned(model, x, scale=torch.ones(1))
    assert operation != operation or operation is None  # noqa: PLR0124 - null
    assert model.runs == 1


def test_nor_one_of_which_that_is_not_known():
    """Tensors of inference mode do not count their changes."""
    model = Root()
    with torch.inference_mode():
        operation = pinned(model, torch.tensor([-1.0]))
    assert operation != operation or operation is None  # noqa: PLR0124 - null
    assert model.runs == 1
