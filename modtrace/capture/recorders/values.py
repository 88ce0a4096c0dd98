"""Ranges of values: outputs, gradients, losses, parameters and their gradients, in some steps."""

from __future__ import annotations

from modtrace.capture.engine.recorder import RecorderOption, Rows
from modtrace.capture.mechanisms.asked_steps import asked_row, every_of, steps_of
from modtrace.capture.mechanisms.value_recorder import ValueRecorder
from modtrace.capture.recorders import register
from modtrace.errors import UsageError


def checked_steps(text: str) -> None:
    """Raise UsageError for a text that names no steps."""
    if every_of(text) is None:
        steps_of(text)


def checked_measure(text: str) -> None:
    """Raise UsageError for what is not measured."""
    if text != "norm":
        raise UsageError(f"{text!r} is not measured; there is norm")


@register
class Values(ValueRecorder):
    """Reduces each floating tensor to its extremes, on its device."""

    name = "values"
    tables = ("values", "asked")
    order = 60
    option = RecorderOption(
        argument="values",
        flag="--values",
        value="STEPS",
        default=None,
        help="note the range of outputs, gradients and parameters in these steps (2:5, auto, every 50)",
        doc="steps in which the range of every output, gradient and parameter is noted: as for memory, or `every 50`.",
        check=checked_steps,
    )
    further_options = (
        RecorderOption(
            argument="values_with",
            flag="--values-with",
            value="norm",
            default=None,
            help="with norm: the 2-norm of each too",
            doc='"norm": the 2-norm of each too.',
            check=checked_measure,
        ),
    )
    lost = "ranges of values are not noted"

    def start(self) -> None:
        super().start()
        text, norm = str(self.value), self.further["values_with"] == "norm"
        every = every_of(text)
        self._asked: tuple[int, int] | None = (0, 1 << 40) if every else steps_of(text)
        self._every = every
        first, end = self._asked
        if every:
            self._watch.ask_steps(lambda step: step % every == 0, 0, None, norm=norm)
        else:
            self._watch.ask_steps(lambda step: first <= step < end, first, end, norm=norm)

    def rows(self) -> list[tuple[str, Rows]]:
        asked, self._asked = self._asked, None
        return [("values", self._watch.value_rows()), ("asked", asked_row("values", asked, self._every))]
