"""Inputs and outputs of every shape an argument list can take."""

from __future__ import annotations

import enum
from collections import OrderedDict, UserDict, deque, namedtuple
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from tests.torture.case import case


class Echo(nn.Module):
    """Returns what it is given, the same object."""

    def forward(self, value=None, *args, **kwargs):
        return value


class Echoes(nn.Module):
    """Calls an Echo with each of the values."""

    def __init__(self):
        super().__init__()
        self.echo = Echo()

    def forward(self, *values):
        return [self.echo(value) for value in values]


@case(run=lambda model: model(query=torch.randn(2, 4), mask=torch.ones(2, dtype=torch.bool)), grad=True)
class KeywordsOnly(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, *, query, mask):
        return self.linear(input=query) * mask[:, None]


@case(run=lambda model: (model(), model(None), model(1, 2.0, "text", b"bytes", key=True)))
def no_tensors() -> nn.Module:
    return Echo()


@dataclass
class Batch:
    x: torch.Tensor
    mask: torch.Tensor | None = None
    extra: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class SlottedBatch:
    __slots__ = ("x",)
    x: torch.Tensor


class Pair(NamedTuple):
    left: torch.Tensor
    right: object


Plain = namedtuple("Plain", "a b")  # noqa: PYI024 - old code makes them this way


class ModelOutput(OrderedDict):
    """A dictionary with attributes, the way large model libraries return their outputs."""

    def __getattr__(self, name):
        if name in self:
            return self[name]
        raise AttributeError(name)

    def __getitem__(self, key):
        return dict(self.items())[key] if isinstance(key, str) else tuple(self.values())[key]


class Color(enum.Enum):
    RED = 1


def _structures(model):
    x = torch.randn(2, 4)
    return model(
        (x, [x, (x,)]),
        {"x": x, 1: {"deep": [x]}, (1, 2): None, Color.RED: x},
        Batch(x, x > 0, {"more": x}),
        SlottedBatch(x),
        Pair(x, [x]),
        Plain(x, 1),
        ModelOutput(logits=x, hidden_states=(x, x), loss=None),
        UserDict(x=x),
        deque([x, x]),
        {1, 2, 3},
        frozenset({"a"}),
        range(5),
        Color.RED,
        torch.Size([1, 2]),
        torch.float32,
        torch.device("cpu"),
        slice(None),
        ...,
        type,
        print,
    )


@case(run=_structures)
def structures() -> nn.Module:
    return Echoes()


def _endless(model):
    x = torch.randn(2)
    cycle: list[object] = [x]
    cycle.append(cycle)
    ring: dict[str, object] = {"x": x}
    ring["self"] = ring
    batch = Batch(x)
    batch.extra["self"] = batch
    deep: list[object] = [x]
    for _ in range(5_000):
        deep = [deep]
    long = list(range(1_000_000))
    wide = [x] * 10_000
    values = (cycle, ring, batch, deep, long, wide, {str(index): x for index in range(5_000)})
    model(*values)
    while len(deep) == 1 and isinstance(
        deep[0], list
    ):  # taken apart by hand: freeing it at once would recurse
        deep = deep[0]
    return x


@case(run=_endless)
def endless_structures() -> nn.Module:
    return Echoes()


class Hostile:
    """Everything that can be asked of it raises; what a tracer may do is look at its type."""

    def _raise(self, *args):
        raise RuntimeError("this object wants to be left alone")

    __len__ = __iter__ = __getitem__ = __repr__ = __str__ = __bool__ = __hash__ = __eq__ = __contains__ = (
        _raise
    )
    __dir__ = __sizeof__ = __format__ = __call__ = _raise

    @property
    def __class__(self):
        raise RuntimeError("not even its class")

    @property
    def shape(self):
        raise RuntimeError("no shape")

    def __getattr__(self, name):
        raise RuntimeError("no attributes")


class LyingClass:
    """Says that it is a tensor."""

    @property
    def __class__(self):
        return torch.Tensor


class RaisingTuple(tuple):
    __slots__ = ()

    def __len__(self):
        raise RuntimeError("no length")

    def __iter__(self):
        raise RuntimeError("no items")

    def __getitem__(self, index):
        raise RuntimeError("no item")


class RaisingDict(dict):
    def items(self):
        raise RuntimeError("no items")

    __len__ = __iter__ = keys = values = __getitem__ = items


@dataclass
class RaisingField:
    """A dataclass that has lost its field: reading it asks a class that raises."""

    x: int = 0

    def __getattribute__(self, name):
        raise RuntimeError("no field " + name)


def _hostile(model):
    values = (Hostile(), LyingClass(), RaisingTuple((1, 2)), RaisingDict(a=1), RaisingField(), Hostile)
    outputs = model(*values)
    return [left is right for left, right in zip(outputs, values, strict=True)]


@case(run=_hostile)
def hostile_objects() -> nn.Module:
    return Echoes()


def _hostile_keywords(model):
    x = torch.randn(2)
    name = "</script>\x1b[31m\ud800 \u202e" + "k" * 1_000
    return model(x, **{name: x, "": x, "self_": x, "args": x, "module": x, "output": x, "kwargs": x})


@case(run=_hostile_keywords)
def hostile_keywords() -> nn.Module:
    return Echo()


def _in_place(model):
    x = torch.randn(2, 4)
    return model(x), x


@case(run=_in_place)
def in_place() -> nn.Module:
    """Modules that return the very tensor they were given."""
    return nn.Sequential(nn.ReLU(inplace=True), nn.Identity(), nn.Hardtanh(inplace=True))
