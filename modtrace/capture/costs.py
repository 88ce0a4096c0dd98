"""What recording costs here, measured with recorders of their own that nothing else sees."""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median
from typing import Any, Final

import torch

from modtrace.capture.calibrate import measure
from modtrace.capture.decode import Costs
from modtrace.capture.functions import Functions
from modtrace.capture.hooks import build
from modtrace.capture.labels import Labels
from modtrace.capture.lanes import WORDS, Lane, Lanes, LaneTable
from modtrace.capture.raised import Errors
from modtrace.capture.registry import Registry
from modtrace.capture.seen import Entry
from modtrace.capture.signature import Signatures
from modtrace.capture.state import State
from modtrace.capture.torch_private.contexts import without_dispatch
from modtrace.capture.torch_private.names import MEASURES_COSTS, count_function_modes

CALLS: Final = 100
ROUNDS: Final = 7


def cost_of_calls(depth: int, clock: Callable[[], int]) -> Costs:
    """The cost of a module call; `depth` as for `hooks.build`."""
    if not MEASURES_COSTS:
        return Costs(0, 0)
    state = _apart(clock)

    def pair() -> tuple[Any, Any, Lane]:
        pre, post = build(state, depth)
        return pre, post, state.lanes.lane

    def register(probe: Any) -> None:
        state.registry.entries[id(probe)] = Entry(0)

    return measure(pair, register, clock)


def with_functions(costs: Costs, clock: Callable[[], int]) -> Costs:
    """Costs with those of a call of a function. 0 where a mode of the program's would see it being measured."""
    if count_function_modes():
        return costs
    state = _apart(clock)
    functions = Functions(state, Labels())
    lane = state.lanes.lane
    with without_dispatch():
        value = torch.empty(2, 0, device="cpu")  # the first operation on a meta tensor imports for a second
        bare, hooked, inside = [], [], []
        for _ in range(ROUNDS):
            bare.append(_round(value, clock))
            with functions.mode_alone():
                hooked.append(_round(value, clock))
            words = lane.take()
            inside.append(median(words[at + 7] - words[at + 4] for at in range(0, len(words), WORDS)))
    total = max(median(hooked) - median(bare), 0)
    within = min(max(median(inside) - median(bare), 0), total)
    return costs._replace(function_inside_ns=round(within), function_outside_ns=round(total - within))


def _round(value: Any, clock: Callable[[], int]) -> float:
    neg = torch.neg
    started = clock()
    for _ in range(CALLS):
        neg(value)
    return (clock() - started) / CALLS


def _apart(clock: Callable[[], int]) -> State:
    """What recorders need, with nothing of the trace in it."""
    state = State(
        lanes=Lanes(LaneTable()),
        registry=Registry(),
        signatures=Signatures(),
        errors=Errors(messages=False),
        clock=clock,
        flush=lambda _: None,
        fault=_raise,
        warn=lambda _: None,
        admits=None,
    )
    state.due = sys.maxsize
    return state


def _raise(fault: BaseException) -> None:
    raise fault
