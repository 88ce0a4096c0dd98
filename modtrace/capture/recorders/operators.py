"""Operators and kernels in some steps, as torch's profiler tells."""

from __future__ import annotations

from modtrace.capture.engine.recorder import RecorderOption, Rows
from modtrace.capture.mechanisms.asked_steps import asked_row, steps_of
from modtrace.capture.mechanisms.watched_steps import WatchedSteps
from modtrace.capture.recorders import register


@register
class Operators(WatchedSteps):
    """Asks for operators and kernels in the steps of `--kernels`."""

    name = "operators"
    tables = ("operators", "watched", "asked")
    order = 46
    option = RecorderOption(
        argument="kernels",
        flag="--kernels",
        value="STEPS",
        default=None,
        help="watch operators and kernels in these steps, such as 2:5; auto: two steps",
        doc="steps in which operators and kernels are watched, as for memory.",
        check=steps_of,
    )
    lost = "memory and kernels are not watched"
    kernels = True

    def rows(self) -> list[tuple[str, Rows]]:
        asked = asked_row("kernels", self.take_asked())
        return [("operators", self.window.operator_rows()), ("asked", asked), *self.window_rows()]
