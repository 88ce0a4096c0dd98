"""FLOPs and operations of each module, counted in a few calls with inputs of a kind."""

from __future__ import annotations

from modtrace.capture.engine.recorder import RecorderOption, Rows
from modtrace.capture.mechanisms.counting_recorder import CountingRecorder
from modtrace.capture.recorders import register


@register
class Flops(CountingRecorder):
    """Counts the operations of a few root calls and backwards, in a dispatch mode."""

    name = "flops"
    tables = ("work",)
    order = 30
    option = RecorderOption(
        argument="flops",
        flag="--no-flops",
        value=None,
        default=True,
        help="do not count FLOPs and operations",
        doc="count FLOPs and operations of each module, in a few calls and backwards with inputs of a kind.",
    )
    lost = "FLOPs and operations are not counted"

    counts = True

    def start(self) -> None:
        from modtrace.capture.torch_private.lookup import FORMULAS, missing

        if self.begin_counting() is not None:
            self.gaps += missing(FORMULAS)

    def rows(self) -> list[tuple[str, Rows]]:
        return [("work", self._counting.work_rows())] if self._counting is not None else []
