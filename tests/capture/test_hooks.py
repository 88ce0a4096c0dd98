"""The pair of hooks around every module call: what each row says, however calls are nested, given and left."""

from __future__ import annotations

import contextlib
import random

import pytest
import torch
from torch import nn

import modtrace
from modtrace.capture.engine.signatures import Signatures, arguments_key, keywords_key, value_key


class Stop(BaseException):
    """Passes without any hook being run."""


class Plays(nn.Module):
    """Calls others as it is told, notes each call in `account`, and ends as it is told."""

    def __init__(self, account):
        super().__init__()
        self.account = account
        self.inner = nn.ModuleList()

    def forward(self, plan, *args, **kwargs):
        # Keyword arguments are read at the end of a call.
        inputs = self.account.inputs((plan, *args), {} if plan.ends is Stop else kwargs)
        row = {"depth": self.account.depth, "inputs": inputs, "status": "aborted"}
        self.account.rows.append(row)
        self.account.depth += 1
        try:
            for number, inner_plan, inner_args, inner_kwargs in plan.steps:
                with contextlib.suppress(Stop, ValueError):
                    self.inner[number](inner_plan, *inner_args, **inner_kwargs)
            if plan.ends is ValueError:
                row["status"] = "raised"
            if plan.ends is not None:
                raise plan.ends
        finally:
            self.account.depth -= 1
        row["status"] = "ok"
        row["outputs"] = self.account.text(value_key(plan.output))
        return plan.output


class Plan:
    """What a module does; of a class that no signature looks into."""

    __slots__ = ("ends", "output", "steps")

    def __init__(self, rng, depth):
        self.steps = []
        for _ in range(rng.randint(0, 3) if depth < 4 else 0):
            values = [VALUES[rng.choice(sorted(VALUES))]() for _ in range(rng.choice((0, 0, 1, 2)))]
            names = rng.sample("abc", rng.choice((0, 0, 1, 2)))
            kwargs = {name: VALUES[rng.choice(sorted(VALUES))]() for name in names}
            self.steps.append((rng.randrange(2), Plan(rng, depth + 1), values, kwargs))
        self.ends = rng.choice((None, None, None, None, ValueError, Stop))
        self.output = VALUES[rng.choice(sorted(VALUES))]()


VALUES = {
    "small": lambda: torch.ones(2), "large": lambda: torch.ones(3, 4),
    "graded": lambda: torch.ones(2, requires_grad=True),
    "double": lambda: torch.ones(2, dtype=torch.float64), "pair": lambda: (torch.ones(2), 1), "none": lambda: None,
    "dict": lambda: {"k": [torch.ones(1)]},
}  # fmt: skip


class Account:
    """What a test knows of the calls, in order of their start."""

    def __init__(self):
        self.depth, self.rows = 0, []

    @staticmethod
    def text(*keys):
        interned = Signatures()
        interned.rows()
        numbers = [interned.number(key) for key in keys]
        if len(numbers) > 1:
            interned.joined(*numbers)
        return interned.rows()["text"][-1]

    def inputs(self, args, kwargs):
        return (
            self.text(arguments_key(args), keywords_key(kwargs)) if kwargs else self.text(arguments_key(args))
        )


@pytest.mark.parametrize("graded", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_random_calls(seed, graded):
    rng, account = random.Random(seed), Account()
    modules = [Plays(account) for _ in range(3)]
    modules[0].inner.extend(modules[1:])
    modules[1].inner.extend([modules[2], modules[1]])  # one calls itself
    modules[2].inner.extend([modules[1], modules[2]])
    plans = [Plan(rng, 0) for _ in range(10)]
    with torch.set_grad_enabled(graded), modtrace.trace(engine="hooks", flops=False) as trace:
        for plan in plans * 2:  # known shapes, and those that were seen before
            with contextlib.suppress(Stop, ValueError):
                modules[0](plan)
    calls = trace.calls
    calls = calls[calls["kind"] == "module"]
    assert len(calls) == len(account.rows) > 20
    for row, expected in zip(calls.to_dict("records"), account.rows, strict=True):
        outputs = expected.pop("outputs", None)
        assert {name: row[name] for name in expected} == expected
        assert (row["outputs"] if outputs is not None else None) == outputs
        assert outputs is not None or row["outputs"] != row["outputs"]
    assert not len(trace._read().table("gaps"))


def test_requires_grad_is_told_apart_in_every_mode():
    """A guard made in one mode is used in another."""
    model = nn.Identity()
    plain, graded = torch.ones(2), torch.ones(2, requires_grad=True)
    order = [
        (mode, value)
        for mode in (True, False, True)
        for value in (plain, plain, graded, graded, graded, plain)
    ]
    with modtrace.trace() as trace:
        for mode, value in order:
            with torch.set_grad_enabled(mode):
                model(value)
    stored = trace._read()
    tensors = stored.table("signatures")["tensors"].to_pylist()
    calls = stored.table("calls").to_pylist()
    assert [tensors[row["inputs"]][0]["requires_grad"] for row in calls] == [
        value is graded for _, value in order
    ]
    assert [tensors[row["outputs"]][0]["requires_grad"] for row in calls] == [
        value is graded for _, value in order
    ]


def test_calls_thought_open_are_closed_when_the_next_one_comes():
    """Whoever catches it may be a function, a module further out, or nobody in a module."""

    class Catches(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.after = inner, nn.ReLU()

        def forward(self, x):
            try:
                self.inner(x)
            except Stop:
                pass
            return self.after(x)

    class Raises(nn.Module):
        def forward(self, x):
            raise Stop

    model = Catches(nn.Sequential(nn.Sequential(Raises())))
    with modtrace.trace(flops=False) as trace:
        model(torch.ones(1))
        with pytest.raises(Stop):
            model.inner(torch.ones(1))
        model.after(torch.ones(1))
    calls = trace.calls
    calls = calls[calls["kind"] == "module"]
    assert calls["depth"].tolist() == [0, 1, 2, 3, 1, 0, 1, 2, 0]
    assert calls["status"].tolist() == ["ok", *["aborted"] * 3, "ok", *["aborted"] * 3, "ok"]


@pytest.mark.parametrize("engine", ["hooks", "calls"])
def test_an_exception_at_the_address_of_the_last_one_is_another(engine):
    """Python gives the memory of one that is gone to the next."""

    class Raises(nn.Module):
        def forward(self, error):
            raise error(error.__name__)

    model, addresses = nn.Sequential(Raises()), []
    with modtrace.trace(engine=engine) as trace:
        for number in range(40):
            try:
                model((ValueError, KeyError)[number % 2])
            except (ValueError, KeyError) as error:
                addresses.append(id(error))
    assert len(set(addresses)) < 40
    roots = trace.calls[trace.calls["depth"] == 0]
    assert roots["error"].tolist() == ["ValueError: ValueError", "KeyError: 'KeyError'"] * 20
    inner = trace.calls[trace.calls["depth"] == 1]
    assert inner["error"].tolist() == roots["error"].tolist()
    assert len(trace._read().table("errors")) == 40
