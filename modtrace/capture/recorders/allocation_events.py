"""Allocations in some steps: each with its size, device and holder, as torch's profiler or allocator tells."""

from __future__ import annotations

from modtrace.capture.engine.recorder import RecorderOption, Rows
from modtrace.capture.mechanisms.asked_steps import asked_row, steps_of
from modtrace.capture.mechanisms.watched_steps import WatchedSteps
from modtrace.capture.recorders import register


@register
class AllocationEvents(WatchedSteps):
    """Asks for allocations in the steps of `--memory`."""

    name = "allocation_events"
    tables = ("allocations", "watched", "asked")
    order = 45
    option = RecorderOption(
        argument="memory",
        flag="--memory",
        value="STEPS",
        default=None,
        help="watch allocations in these steps, such as 0:3",
        doc='steps in which memory is watched: "0:3", range(0, 3), (0, 3), one number, or "auto" for two of the first.',
        check=steps_of,
    )
    lost = "memory and kernels are not watched"
    kernels = False

    def rows(self) -> list[tuple[str, Rows]]:
        asked = asked_row("memory", self.take_asked())
        return [("allocations", self.window.allocation_rows()), ("asked", asked), *self.window_rows()]
