"""Backward: its phase, and a row for the backward of each module call. They are rows of `calls`."""

from __future__ import annotations

from typing import Final

from modtrace.capture.engine.recorder import Recorder
from modtrace.capture.recorders import register
from modtrace.units import plural

SEVERAL_THREADS: Final = "{} not divided by module: calls of several threads may have made the graph"


@register
class Backward(Recorder):
    """Replaces the function by which torch runs autograd, and those in which a checkpoint computes again."""

    name = "backward"
    tables = ("calls",)
    order = 15
    lost = "backward is not recorded"

    def start(self) -> None:
        from modtrace.capture.mechanisms.backward_calls import BackwardCalls

        self._calls = BackwardCalls(self.context)

    def install(self) -> None:
        self._calls.install()

    def remove(self) -> None:
        self._calls.replacements.remove()

    def stop(self) -> None:
        self._calls.replacements.remove()
        untold = self._calls.walk.untold
        if untold:
            self.gaps.append(SEVERAL_THREADS.format(plural(untold, "backward")))

    def hide(self) -> None:
        self._calls.replacements.hide()

    def show(self) -> None:
        self._calls.replacements.show()

    @property
    def cost_ns(self) -> int:
        return self._calls.walk.spent_ns
