"""Cost of recording on this machine, measured with recorders of their own that nothing else sees."""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median
from typing import Any, Final

import torch

from modtrace.capture.engine.calibrate import measure, measure_replaced
from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.decode import Costs
from modtrace.capture.engine.exceptions import Errors
from modtrace.capture.engine.hooks import build
from modtrace.capture.engine.labels import Labels
from modtrace.capture.engine.modules import Registry
from modtrace.capture.engine.signatures import Signatures
from modtrace.capture.engine.tensor_guards import Entry
from modtrace.capture.engine.thread_buffer import BufferTable, ThreadBuffer, durations
from modtrace.capture.mechanisms.function_mode import FunctionMode
from modtrace.capture.torch_private.contexts import without_dispatch
from modtrace.capture.torch_private.names import MEASURES_COSTS, count_function_modes, plain_call

CALLS: Final = 100
ROUNDS: Final = 7


def cost_of_calls(depth: int, clock: Callable[[], int]) -> Costs:
    """The cost of a module call; `depth` as for `hooks.build`."""
    if not MEASURES_COSTS:
        return Costs(0, 0)
    context = _apart(clock)

    def pair() -> tuple[Any, Any, ThreadBuffer]:
        pre, post = build(context, depth)
        return pre, post, context.buffers.current

    def register(probe: Any) -> None:
        context.registry.entries[id(probe)] = Entry(0)

    return measure(pair, register, clock)


def cost_of_replaced_calls(
    replacement: Callable[[TraceContext], Callable[..., Any]], clock: Callable[[], int]
) -> Costs:
    """The cost of a module call where `replacement` makes what stands in for `Module.__call__`."""
    if plain_call is None:
        return Costs(0, 0)
    context = _apart(clock)

    def register(probe: Any) -> None:
        context.registry.entries[id(probe)] = Entry(0)

    return measure_replaced(lambda: (replacement(context), context.buffers.current), register, clock)


def with_functions(costs: Costs, clock: Callable[[], int]) -> Costs:
    """Costs with those of a call of a function. 0 where a mode of the program's would see it being measured."""
    if count_function_modes():
        return costs
    context = _apart(clock)
    functions = FunctionMode(context)
    buffer = context.buffers.current
    with without_dispatch():
        value = torch.empty(2, 0, device="cpu")  # the first operation on a meta tensor imports for a second
        bare, hooked, inside = [], [], []
        for _ in range(ROUNDS):
            bare.append(_round(value, clock))
            with functions.mode_alone():
                hooked.append(_round(value, clock))
            inside.append(median(durations(buffer.take())))
    total = max(median(hooked) - median(bare), 0)
    within = min(max(median(inside) - median(bare), 0), total)
    return costs._replace(function_inside_ns=round(within), function_outside_ns=round(total - within))


def _round(value: Any, clock: Callable[[], int]) -> float:
    neg = torch.neg
    started = clock()
    for _ in range(CALLS):
        neg(value)
    return (clock() - started) / CALLS


def _apart(clock: Callable[[], int]) -> TraceContext:
    """A context for measuring, with nothing of the trace in it."""
    context = TraceContext(
        threads=BufferTable(),
        registry=Registry(),
        signatures=Signatures(),
        errors=Errors(messages=False),
        labels=Labels(),
        clock=clock,
        fault=_raise,
        warn=lambda _: None,
        take_off=lambda _, fault: _raise(fault),
    )
    context.due = sys.maxsize
    return context


def _raise(fault: BaseException) -> None:
    raise fault
