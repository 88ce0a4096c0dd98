"""Cost of recording one call on this machine, measured at the start of every trace.

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

from modtrace.capture.engine.decode import Costs
from modtrace.capture.engine.thread_buffer import ThreadBuffer, durations
from modtrace.capture.torch_private.contexts import hook_ids_from, without_dispatch, without_functions
from modtrace.capture.torch_private.names import CALL_CODE, call_impl, plain_call
from modtrace.capture.torch_private.spelled import (
    CALL,
    GLOBAL,
    HOOKS,
    HOOKS_ALWAYS_CALLED,
    HOOKS_WITH_KWARGS,
    PRE_HOOKS,
)

CALLS: Final = 200
ROUNDS: Final = 7
"""Together about 10 ms."""


class Probe(torch.nn.Module):
    """As cheap as a module can be."""

    def forward(self, value: Any) -> Any:
        return value


def private_call() -> tuple[Callable[..., Any], dict[str, Any]]:
    """A copy of `Module._call_impl` with empty global hook tables of its own, and those tables by name."""
    original = call_impl
    tables: dict[str, Any] = {
        name: OrderedDict()
        for name, value in original.__globals__.items()
        if name.startswith(GLOBAL) and isinstance(value, OrderedDict)
    }
    call = FunctionType(
        original.__code__,
        {**original.__globals__, **tables},
        original.__name__,
        original.__defaults__,
        original.__closure__,
    )
    return call, tables


def frame_depth() -> int:
    """Number of frames above a hook at which `_call_impl` runs when a call succeeds: 2 with a nested function, 1
    without.
    """
    call, _ = private_call()
    seen: list[int] = []

    def look(*_: Any) -> None:
        depth = 1
        while sys._getframe(depth).f_code is not CALL_CODE:
            depth += 1
        seen.append(depth)

    probe = Probe()
    with hook_ids_from(-1):
        probe.register_forward_pre_hook(look)
    call(probe, None)
    if len(seen) != 1:
        raise RuntimeError("this torch runs module hooks in a way that modtrace does not know")
    return seen[0]


def measure(
    build: Callable[[], tuple[Callable[..., None], Callable[..., None], ThreadBuffer]],
    register: Callable[[Any], None],
    clock: Callable[[], int],
) -> Costs:
    """Time the hooks around a call of nothing.

    Args:
        build: makes a pair of hooks that record into a thread buffer of their own.
        register: enters the probe as a known module of that pair.
        clock: nanoseconds.
    """
    call, tables = private_call()
    probe = Probe()
    with (
        without_dispatch(),
        without_functions(),
    ):  # out of sight of the program's modes
        value = torch.empty(2, 3, device="meta")
    bare, hooked, inside = [], [], []
    pre, post, buffer = build()
    register(probe)
    for _ in range(ROUNDS):
        bare.append(_round(call, probe, value, clock))
        tables[PRE_HOOKS][0] = pre
        tables[HOOKS][0] = post
        tables[HOOKS_ALWAYS_CALLED][0] = tables[HOOKS_WITH_KWARGS][0] = True
        hooked.append(_round(call, probe, value, clock))
        inside.append(_inside(buffer.take()))
        for table in tables.values():
            table.clear()
    total = max(median(hooked) - median(bare), 0)
    within = min(max(median(inside) - median(bare), 0), total)
    return Costs(inside_ns=round(within), outside_ns=round(total - within))


def measure_replaced(
    build: Callable[[], tuple[Callable[..., Any], ThreadBuffer]],
    register: Callable[[Any], None],
    clock: Callable[[], int],
) -> Costs:
    """Time what stands in for `Module.__call__` around a call of nothing; arguments as for `measure`."""
    private, _ = private_call()
    probe = type("ReplacedProbe", (Probe,), {CALL: private})()
    with without_dispatch(), without_functions():
        value = torch.empty(2, 3, device="meta")
    bare, replaced, inside = [], [], []
    call, buffer = build()
    register(probe)
    for _ in range(ROUNDS):
        bare.append(_round(plain_call, probe, value, clock))
        replaced.append(_round(call, probe, value, clock))
        inside.append(_inside(buffer.take()))
    total = max(median(replaced) - median(bare), 0)
    within = min(max(median(inside) - median(bare), 0), total)
    return Costs(inside_ns=round(within), outside_ns=round(total - within))


def _round(call: Callable[..., Any], probe: Probe, value: Any, clock: Callable[[], int]) -> float:
    started = clock()
    for _ in range(CALLS):
        call(probe, value)
    return (clock() - started) / CALLS


def _inside(words: list[int]) -> float:
    """The median time between the clocks of a call's two hooks."""
    spans = durations(words)
    return median(spans) if spans else 0.0
