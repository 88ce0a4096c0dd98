"""A recorder in one file: how often each step called a module."""

from __future__ import annotations

from typing import Any, ClassVar

from modtrace.capture.engine.recorder import Recorder, RecorderOption, Rows
from modtrace.capture.recorders import register
from modtrace.trace.schema import Column


@register
class Toy(Recorder):
    """Counts the module calls of each step."""

    name = "toy"
    new_tables: ClassVar = {"toy": (Column("step", "int64", "number"), Column("calls", "int64", "count"))}
    tables = ("toy",)
    option = RecorderOption("toy", "--toy", "LIMIT", None, "count calls; fail at LIMIT", "count calls.", int)
    lost = "calls are not counted"
    cost_ns = 7_000_000_000

    def start(self) -> None:
        self._counts: dict[int, int] = {}

    def call_began(self, buffer: Any, call: int, *_: Any) -> None:
        step = self.context.step
        self._counts[step] = self._counts.get(step, 0) + 1
        if sum(self._counts.values()) == int(self.value):
            raise ArithmeticError("made up")

    def rows(self) -> list[tuple[str, Rows]]:
        counts, self._counts = self._counts, {}
        return [("toy", {"step": [*counts], "calls": [*counts.values()]})]
