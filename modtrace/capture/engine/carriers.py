"""Carriers, which tell the tracer that a call begins and ends: the choice of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from modtrace.capture.engine.calibrate import frame_depth
from modtrace.capture.engine.call_carrier import CallCarrier
from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.costs import cost_of_calls
from modtrace.capture.engine.decode import Costs
from modtrace.capture.engine.engines import CALLS, checked_engine
from modtrace.capture.engine.global_hooks import PlacedHooks
from modtrace.capture.engine.hooks import build


class Carrier(Protocol):
    """Calls of modules are told of between `start` and `remove`, but not between `hide` and `show`.

    gaps: what was lost, from `remove` on.
    """

    gaps: list[str]

    def costs(self, clock: Callable[[], int]) -> Costs:
        """Cost of recording a call, measured with nothing of the trace in it. Comes before `start`."""

    def start(self) -> None:
        """Begin."""

    def hide(self) -> None:
        """Stand out of the way for a while."""

    def show(self) -> None:
        """Be back."""

    def remove(self) -> None:
        """End; does nothing the second time."""


class HookCarrier(PlacedHooks):
    """Hooks that torch runs around every call."""

    def __init__(self, context: TraceContext) -> None:
        super().__init__()
        self._context = context
        self.gaps: list[str] = []

    def costs(self, clock: Callable[[], int]) -> Costs:
        """Cost of recording a call."""
        self._depth = frame_depth()
        return cost_of_calls(self._depth, clock)

    def start(self) -> None:
        """Begin."""
        self.place(*build(self._context, self._depth))


def carrier_of(engine: str, context: TraceContext) -> Carrier:
    """The carrier of a name among ENGINES.

    Raises:
        UsageError: there is no such carrier.
    """
    return CallCarrier(context) if checked_engine(engine) == CALLS else HookCarrier(context)
