"""Tensors that autograd keeps for backward, by module, in some steps."""

from __future__ import annotations

from typing import Any

from modtrace.capture.engine.recorder import Recorder, RecorderOption, Rows
from modtrace.capture.mechanisms.asked_steps import asked_row, steps_of
from modtrace.capture.recorders import register


@register
class SavedTensors(Recorder):
    """Looks at the nodes of a graph when its backward begins."""

    name = "saved_tensors"
    tables = ("saved", "asked")
    order = 47
    option = RecorderOption(
        argument="saved",
        flag="--saved",
        value="STEPS",
        default=None,
        help="count what is kept for backward in these steps, by module",
        doc="steps in which what autograd keeps for backward is counted, as for memory.",
        check=steps_of,
    )
    lost = "what is kept for backward is not counted"

    def start(self) -> None:
        from modtrace.capture.mechanisms.saved_storages import SavedStorages
        from modtrace.capture.mechanisms.step_numbers import StepNumbers, trains
        from modtrace.capture.torch_private.lookup import SAVED, missing
        from modtrace.capture.torch_private.names import graph_task

        self._first, self._end = steps_of(str(self.value))
        self._asked: tuple[int, int] | None = (self._first, self._end)
        self._storages = SavedStorages(self.context)
        self._numbers = StepNumbers(self._first, self._end)
        self._trains, self._graph_task = trains, graph_task
        lacks = missing(SAVED)
        self.gaps += lacks
        self._off = bool(lacks)

    @property
    def _counts(self) -> bool:
        return not self._off and any(self._first <= step < self._end for step in self._numbers.possible)

    def root_began(self, buffer: Any, module: Any, *_: Any) -> int:
        if self._graph_task() == -1:
            self._numbers.root_begins(trains=self._trains(module))
        return 0

    def backward_requested(self) -> None:
        if self._graph_task() == -1:
            self._numbers.backward_begins()

    def backward_began(self, graph: Any) -> None:
        if self._counts:
            self._storages.count(graph)

    def optimizer_ended(self, optimizer: Any, number: int, end_ns: int) -> None:
        self._numbers.optimizer_ended(optimizer, number)

    def step_marked(self, end_ns: int) -> None:
        self._numbers.marked()

    def rows(self) -> list[tuple[str, Rows]]:
        asked, self._asked = self._asked, None
        return [("saved", self._storages.rows()), ("asked", asked_row("saved", asked))]

    @property
    def has_rows(self) -> bool:
        return True
