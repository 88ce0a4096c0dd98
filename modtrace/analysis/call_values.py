"""Ranges of values of calls (`--values`, `--nan`): of its output, and of the gradient that arrived at its backward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column
from modtrace.analysis.timeline import timeline
from modtrace.trace.batch_columns import doubles
from modtrace.trace.call_table import same
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.trace.schema import GRADIENT, OUTPUT

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

VALUE_COLUMNS: Final = (
    "output_minimum", "output_maximum", "output_absolute_maximum", "gradient_absolute_maximum",
)  # fmt: skip
"""Columns of `t.calls`."""


@dataclass(frozen=True)
class CallValues:
    """Values of VALUE_COLUMNS by name, and where they are known: an array element a row of the timeline.

    They are of all tensors in an output together, and NaN where an element is.
    """

    values: dict[str, Floats]
    known: dict[str, Bools]

    def of(self, name: str, rows: slice | Ints = slice(None)) -> tuple[Floats, Bools]:
        """A column in some rows, 0 where it is not known, and where it is."""
        return self.values[name][rows], self.known[name][rows]


def has_values(stored: Stored) -> bool:
    """True if values of any tensor were read."""
    return len(stored.table("values")) > 0


@once
def call_values(stored: Stored) -> CallValues:
    """The ranges of all calls. Of a trace without any nothing is read, and the arrays take no memory."""
    rows = len(timeline(stored).calls)
    if not has_values(stored):
        nothing, nowhere = same(0.0, np.float64, rows), same(False, np.bool_, rows)
        return CallValues(dict.fromkeys(VALUE_COLUMNS, nothing), dict.fromkeys(VALUE_COLUMNS, nowhere))
    table = stored.table("values")
    (minimum, unread), (maximum, _) = (doubles(table.column(name)) for name in ("minimum", "maximum"))
    call, kind = timeline(stored).place[column(table, "call")], column(table, "kind")
    largest = np.maximum(np.abs(minimum), np.abs(maximum))
    of_outputs, of_gradients = ((kind == wanted) & ~unread for wanted in (OUTPUT, GRADIENT))
    columns = [
        extremes(call[chosen], numbers[chosen], rows, least=numbers is minimum)
        for chosen, numbers in (
            (of_outputs, minimum), (of_outputs, maximum), (of_outputs, largest), (of_gradients, largest),
        )
    ]  # fmt: skip
    return CallValues(
        {name: values for name, (values, _) in zip(VALUE_COLUMNS, columns, strict=True)},
        {name: known for name, (_, known) in zip(VALUE_COLUMNS, columns, strict=True)},
    )


def extremes(group: Ints, values: Floats, count: int, *, least: bool = False) -> tuple[Floats, Bools]:
    """The greatest or the least value of each of `count` groups, 0 where it has none, and where it has any.

    NaN counts more than any number.
    """
    known = np.zeros(count, np.bool_)
    known[group] = True
    found = np.full(count, np.inf if least else -np.inf)
    with np.errstate(invalid="ignore"):
        (np.minimum if least else np.maximum).at(found, group, values)
    return np.where(known, found, 0.0), known
