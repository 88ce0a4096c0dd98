"""Ranges of values: outputs, gradients, losses, parameters and their gradients, in some steps."""

from __future__ import annotations

from typing import Final

from modtrace.capture.engine.recorder import RecorderOption, Rows
from modtrace.capture.mechanisms.asked_steps import asked_row, every_of, steps_of
from modtrace.capture.mechanisms.value_recorder import ValueRecorder
from modtrace.capture.recorders import register
from modtrace.errors import UsageError
from modtrace.text import plain


def checked_steps(text: str) -> None:
    """Raise UsageError for a text that names no steps."""
    if every_of(text) is None:
        steps_of(text)


MEASURES: Final = ("norm", "hash")


def checked_measure(text: str) -> None:
    """Raise UsageError for what is not measured."""
    for measure in text.split(","):
        if measure.strip() not in MEASURES:
            raise UsageError(f"{plain(measure, 40)!r} is not measured; there are {' and '.join(MEASURES)}")


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
            value="norm,hash",
            default=None,
            help="the 2-norm of each too, or a hash of its bits, by which runs are compared",
            doc='"norm": the 2-norm of each too; "hash": a hash of its bits, by which runs are compared; "norm,hash".',
            check=checked_measure,
        ),
    )
    lost = "ranges of values are not noted"

    def start(self) -> None:
        super().start()
        text = str(self.value)
        asked = [measure.strip() for measure in str(self.further["values_with"] or "").split(",")]
        measures = {"norm": "norm" in asked, "hashed": "hash" in asked}
        every = every_of(text)
        self._asked: tuple[int, int] | None = (0, 1 << 40) if every else steps_of(text)
        self._every = every
        first, end = self._asked
        if every:
            self._watch.ask_steps(lambda step: step % every == 0, 0, None, **measures)
        else:
            self._watch.ask_steps(lambda step: first <= step < end, first, end, **measures)

    def rows(self) -> list[tuple[str, Rows]]:
        asked, self._asked = self._asked, None
        return [("values", self._watch.value_rows()), ("asked", asked_row("values", asked, self._every))]
