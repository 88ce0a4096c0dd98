"""Trees that are no trees: sharing, recursion, cycles, growth, width, depth, names from a stranger."""

from __future__ import annotations

import copy
import gc
import io
import sys

import torch
from torch import nn

from tests.torture.case import case


@case(grad=True)
def plain() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)), nn.Linear(8, 2)
    )


@case(grad=True)
class SharedModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = self.first

    def forward(self, x):
        return self.second(self.first(x))


@case(grad=True)
class TiedWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(4, 4)
        self.decode = nn.Linear(4, 4)
        self.decode.weight = self.encode.weight

    def forward(self, x):
        return self.decode(self.encode(x))


@case(grad=True)
def repeated_in_list() -> nn.Module:
    block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    return nn.Sequential(block, block, nn.Sequential(block, block))


@case(grad=True, run=lambda model: model(torch.randn(2, 4), 6))
class Recursive(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, times):
        x = self.linear(x)
        return self(x, times - 1) if times else x


class _Pong(nn.Module):
    def forward(self, ping, x, times):
        return ping(x + 1, times - 1)


@case(run=lambda model: model(torch.randn(2, 4), 5))
class MutualRecursion(nn.Module):
    def __init__(self):
        super().__init__()
        self.pong = _Pong()

    def forward(self, x, times):
        return self.pong(self, x * 2, times) if times else x


@case()
class CycleInTree(nn.Module):
    """A child whose registered child is its parent: `state_dict()` recurses for ever."""

    def __init__(self):
        super().__init__()
        self.child = nn.Linear(4, 4)
        self.child.parent = self

    def forward(self, x):
        return self.child(x)


@case(fixed_tree=False)
class HiddenChildren(nn.Module):
    """Modules kept in a plain list and in a closure are in nobody's tree."""

    def __init__(self):
        super().__init__()
        self.plain_list = [nn.Linear(4, 4), nn.ReLU()]

    def forward(self, x):
        inner = nn.Sigmoid()
        for layer in self.plain_list:
            x = layer(x)
        return inner(x)


@case()
class UnusedAndNone(nn.Module):
    def __init__(self):
        super().__init__()
        self.used = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 400)
        self.register_module("absent", None)
        self.register_parameter("bias", None)

    def forward(self, x):
        return self.used(x)


HOSTILE_NAMES = (
    "\x1b]0;title\x07",
    "\x1b[31mred\x9b0m",
    "</script><script>alert(1)</script>",
    "[@click=app.quit]press[/]",
    '=HYPERLINK("x")',
    "@SUM(A1)",
    "a\x00b",
    "line\nbreak\ttab\r",
    "\ud800lone surrogate",
    "\u202eright to left",
    "\N{PILE OF POO}",
    "../../etc/passwd",
    "a.b..c",
    "",
    "%s{}{0}$x`y`",
    "x" * 100_000,
)


@case()
def hostile_names() -> nn.Module:
    model = nn.Sequential()
    for name in HOSTILE_NAMES:
        model._modules[name] = nn.Identity()
    return model


@case(fixed_tree=False)
def hostile_class_names() -> nn.Module:
    kinds = [
        type(name.replace("\x00", "") or "_", (nn.Identity,), {"__doc__": None}) for name in HOSTILE_NAMES[:8]
    ]
    return nn.Sequential(*[kind() for kind in kinds])


def _three_times(model):
    return [model(torch.randn(2, 4)) for _ in range(3)]


@case(fixed_tree=False, run=_three_times)
class CreatedInForward(nn.Module):
    def forward(self, x):
        for _ in range(40):
            x = nn.Tanh()(nn.Linear(4, 4)(x))
        return x


@case(fixed_tree=False, run=_three_times)
class ReplacedInForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        x = self.layer(x)
        self.layer = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        x = self.layer(x)
        self.layer = nn.Linear(4, 4)
        return x


@case(fixed_tree=False, run=_three_times)
class GrowsAndShrinks(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4)])
        self.extra = nn.ReLU()

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        self.layers.append(nn.Linear(4, 4))
        if hasattr(self, "extra"):
            x = self.extra(x)
            del self.extra
        return x


@case(fixed_tree=False, run=_three_times)
class CollectsGarbage(nn.Module):
    """Modules in reference cycles die in the middle of a call, and their ids are used again."""

    def forward(self, x):
        for index in range(10):
            layer = nn.Identity() if index % 2 else nn.Tanh()
            layer.cycle = [layer]
            x = layer(x)
            del layer
            gc.collect(0)
        return x


@case(fixed_tree=False)
class CopiesItself(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x):
        twin = copy.deepcopy(self.layer)
        saved = io.BytesIO()
        torch.save(self.layer.state_dict(), saved)
        return twin(self.layer(x)), len(saved.getvalue())


@case()
def wide() -> nn.Module:
    return nn.Sequential(*[nn.Identity() for _ in range(2_000)])


class Nest(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.inner = None
        node = self
        for _ in range(depth):
            node.inner = Nest(0)
            node = node.inner

    def forward(self, x):
        return x + 1 if self.inner is None else self.inner(x)


@case()
def deep_120() -> nn.Module:
    return Nest(120)


def _with_room(model):
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(30_000)
    try:
        return model(torch.randn(2, 4))
    finally:
        sys.setrecursionlimit(limit)


# Whatever the limit is set to, C code of 3.12 may nest 212 modules and no more, that of 3.13 1,420 beside any hook.
if sys.version_info[:2] != (3, 12):

    @case(run=_with_room)
    def deep_500() -> nn.Module:
        return Nest(500)


if sys.version_info < (3, 12):

    @case(run=_with_room)
    def deep_3000() -> nn.Module:
        return Nest(3_000)


@case(run=lambda model: [model(torch.randn(2, 4)) for _ in range(20)])
def many_root_calls() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU())


def _two_roots(model):
    other = nn.Sequential(nn.Linear(4, 4))
    return model(torch.randn(2, 4)), other(torch.randn(1, 4)), model[0](torch.randn(3, 4))


@case(run=_two_roots, fixed_tree=False)
def several_roots() -> nn.Module:
    """A second model, and a submodule called by itself."""
    return nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 4))


@case(fixed_tree=False)
class CalledInInit(nn.Module):
    """A module that finds its sizes by a dry run when it is made, as many vision models do."""

    def forward(self, x):
        class Probe(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Linear(4, 3)
                self.head = nn.Linear(self.body(torch.zeros(1, 4)).shape[1], 2)

            def forward(self, x):
                return self.head(self.body(x))

        return Probe()(x)
