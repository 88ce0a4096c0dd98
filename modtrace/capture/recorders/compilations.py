"""Compilations by torch: graphs, how long they took, and why one was compiled again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modtrace.capture.engine.recorder import Recorder, Rows
from modtrace.capture.recorders import register

if TYPE_CHECKING:
    from modtrace.capture.mechanisms.compile_metrics import CompileMetrics


@register
class Compilations(Recorder):
    """Reads what torch itself keeps about its compilations, at each flush."""

    name = "compilations"
    tables = ("compilations",)
    order = 11
    lost = "how often and why torch compiled is not recorded"

    def start(self) -> None:
        from modtrace.capture.mechanisms.compile_metrics import CompileMetrics

        context = self.context
        self._metrics: CompileMetrics = CompileMetrics(
            context.clock, context.origin_ns, messages=context.messages
        )
        self.gaps = self._metrics.gaps

    def rows(self) -> list[tuple[str, Rows]]:
        return [("compilations", self._metrics.rows())]
