"""Parameters that optimizers have, and those that had a gradient when one stepped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modtrace.capture.engine.recorder import Recorder, Rows
from modtrace.capture.recorders import register

if TYPE_CHECKING:
    from modtrace.capture.mechanisms.optimizer_parameters import OptimizerParameters


@register
class Parameters(Recorder):
    """Looks at parameters when an optimizer steps."""

    name = "parameters"
    tables = ("parameters",)
    order = 10
    lost = "which parameters are in an optimizer is not known"

    def start(self) -> None:
        from modtrace.capture.mechanisms.optimizer_parameters import OptimizerParameters

        self._parameters: OptimizerParameters = OptimizerParameters(self.context)
        self.gaps = self._parameters.gaps

    def module_entered(self, number: int, module: Any) -> None:
        self._parameters.module_entered(number, module)

    def optimizer_began(self, optimizer: Any, call: int) -> None:
        self._parameters.optimizer_began(optimizer, call)

    def optimizer_stepped(self, optimizer: Any) -> None:
        self._parameters.optimizer_stepped(optimizer)

    def stop(self) -> None:
        self._parameters.stop()

    def rows(self) -> list[tuple[str, Rows]]:
        return [("parameters", self._parameters.rows())]

    @property
    def cost_ns(self) -> int:
        return self._parameters.spent_ns
