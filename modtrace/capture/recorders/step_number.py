"""The number of the step in progress, while the program runs."""

from __future__ import annotations

from typing import Any

from modtrace.capture.engine.recorder import Recorder
from modtrace.capture.recorders import register


@register
class StepNumber(Recorder):
    """Writes no table: `context.step` is for other recorders, which are told of `step_ended`.

    What ends a step is decided when all of the program is known, so the trace may number otherwise. Here it is the
    first that holds: each mark by the program; each round of the optimizers that step by turns; each root call behind
    a backward; each root call.
    """

    name = "step_number"
    order = 5
    lost = "the number of the step in progress is not known"

    def start(self) -> None:
        from modtrace.capture.mechanisms.live_step import LiveStep
        from modtrace.capture.mechanisms.step_numbers import optimizers_exist
        from modtrace.capture.torch_private.names import graph_task

        self._live, self._graph_task = LiveStep(optimizers_exist), graph_task

    def root_began(self, *_: Any) -> int:
        if self._graph_task() == -1:
            self._live.root_began()
            self._tell()
        return 0

    def backward_requested(self) -> None:
        self._live.backward_requested()

    def optimizer_ended(self, optimizer: Any, number: int, end_ns: int) -> None:
        self._live.optimizer_ended(number)
        self._tell()

    def step_marked(self, end_ns: int) -> None:
        self._live.step_marked()
        self._tell()

    def _tell(self) -> None:
        step = self._live.step
        ends, self.context.step = step > self.context.step, step
        self.context.step_is_known = self._live.is_known
        for ended in self.context.events.step_ended if ends else ():
            ended(step)
