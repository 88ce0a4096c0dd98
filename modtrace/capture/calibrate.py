"""What recording one call costs on this machine, measured at the start of every trace.

The probe runs torch's own `Module._call_impl` on an object that is no module, with hook tables of its own, so that
nothing the user has registered runs and no other thread sees the probe's hooks.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from statistics import median
from types import FunctionType
from typing import Any, Final

import torch

from modtrace.capture.decode import Costs
from modtrace.capture.lanes import WORDS, Lane

CALLS: Final = 200
ROUNDS: Final = 7
"""Together about 10 ms."""

_TABLES: Final = (
    "_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_pre_hooks",
    "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs",
)  # fmt: skip
_GLOBAL_TABLES: Final = (
    "_global_backward_pre_hooks", "_global_backward_hooks", "_global_forward_hooks", "_global_forward_pre_hooks",
    "_global_forward_hooks_always_called", "_global_forward_hooks_with_kwargs",
)  # fmt: skip


class Probe:
    """Something that `_call_impl` can call, as cheap as a module can be."""

    def __init__(self) -> None:
        for name in _TABLES:
            setattr(self, name, OrderedDict())

    def forward(self, value: Any) -> Any:
        return value


def private_call() -> tuple[Callable[..., Any], dict[str, Any]]:
    """A copy of `Module._call_impl` with empty global hook tables of its own, and those tables by name."""
    original: Any = torch.nn.Module._call_impl
    tables: dict[str, Any] = {name: OrderedDict() for name in _GLOBAL_TABLES}
    call = FunctionType(
        original.__code__,
        {**original.__globals__, **tables},
        "_call_impl",
        original.__defaults__,
        original.__closure__,
    )
    return call, tables


def frame_depth() -> int:
    """How many frames above a hook `_call_impl` runs when a call succeeds: 2 with a nested function, 1 without."""
    original = torch.nn.Module._call_impl.__code__
    call, tables = private_call()
    seen: list[int] = []

    def look(*_: Any) -> None:
        depth = 1
        while sys._getframe(depth).f_code is not original:
            depth += 1
        seen.append(depth)

    tables["_global_forward_pre_hooks"][0] = look
    call(Probe(), None)
    if len(seen) != 1:
        raise RuntimeError("this torch runs module hooks in a way that modtrace does not know")
    return seen[0]


def measure(
    build: Callable[[], tuple[Callable[..., None], Callable[..., None], Lane]],
    register: Callable[[Any], None],
    clock: Callable[[], int],
) -> Costs:
    """Time the hooks around a call of nothing.

    Args:
        build: makes a pair of hooks that record into a lane of their own.
        register: enters the probe as a known module of that pair.
        clock: nanoseconds.
    """
    call, tables = private_call()
    probe = Probe()
    with (
        torch._C._DisableTorchDispatch(),
        torch._C.DisableTorchFunction(),
    ):  # out of sight of the program's modes
        value = torch.empty(2, 3, device="meta")
    bare, hooked, inside = [], [], []
    pre, post, lane = build()
    register(probe)
    for _ in range(ROUNDS):
        bare.append(_round(call, probe, value, clock))
        tables["_global_forward_pre_hooks"][0] = pre
        tables["_global_forward_hooks"][0] = post
        tables["_global_forward_hooks_always_called"][0] = True
        tables["_global_forward_hooks_with_kwargs"][0] = True
        hooked.append(_round(call, probe, value, clock))
        inside.append(_inside(lane.take()))
        for table in tables.values():
            table.clear()
    total = max(median(hooked) - median(bare), 0)
    within = min(max(median(inside) - median(bare), 0), total)
    return Costs(inside_ns=round(within), outside_ns=round(total - within))


def _round(call: Callable[..., Any], probe: Probe, value: Any, clock: Callable[[], int]) -> float:
    started = clock()
    for _ in range(CALLS):
        call(probe, value)
    return (clock() - started) / CALLS


def _inside(words: list[int]) -> float:
    """The median time between the clocks of a call's two hooks."""
    spans = [words[i + 7] - words[i + 4] for i in range(0, len(words), WORDS)]
    return median(spans) if spans else 0.0
