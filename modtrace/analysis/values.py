"""Ranges of values by module and step (`--values`, `--nan`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column, floats, nullable_codes, taken, values_and_known
from modtrace.analysis.module_titles import module_titles
from modtrace.analysis.timeline import timeline
from modtrace.trace.batch_columns import doubles
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.trace.schema import VALUE_KINDS

if TYPE_CHECKING:
    import pandas as pd

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ValueRows:
    """Ranges of tensors, an element a tensor, in the order in which they came to be in each process.

    call: row of the timeline. step: -1 outside of steps. kind: index into VALUE_KINDS. module: -1 for none.
    place: number of the place (kind, module, path); `places` has each. minimum, maximum, norm: NaN where an element is;
    `read` and `with_norm` say where they are known. elements, hash: -1 where not known.
    """

    call: Ints
    step: Ints
    process: Ints
    kind: Ints
    module: Ints
    place: Ints
    places: list[tuple[int, int, str]]
    dtype: list[str]
    elements: Ints
    minimum: Floats
    maximum: Floats
    read: Bools
    norm: Floats
    with_norm: Bools
    hash: Ints
    reason: list[str | None]

    @property
    def largest(self) -> Floats:
        """The greatest absolute value."""
        return np.maximum(np.abs(self.minimum), np.abs(self.maximum))


@once
def value_rows(stored: Stored) -> ValueRows:
    """The ranges of a trace, in the steps that were asked for and in those that were noted beside them."""
    table, line = stored.table("values"), timeline(stored)
    order = np.argsort(column(table, "at_ns"), kind="stable")
    call = line.place[column(table, "call")[order]] if len(table) else np.zeros(0, np.int64)
    module, known = values_and_known(table, "module")
    module = np.where(known, module, -1)[order]
    kind = column(table, "kind")[order].astype(np.int64)
    paths = [str(table.column("path")[int(row)]) for row in order]
    numbers: dict[tuple[int, int, str], int] = {}
    place = [
        numbers.setdefault(key, len(numbers))
        for key in zip(kind.tolist(), module.tolist(), paths, strict=True)
    ]
    (minimum, unread), (maximum, _) = (doubles(table.column(name)) for name in ("minimum", "maximum"))
    norm, without = doubles(table.column("norm"))
    dtypes, reasons = table.column("dtype").to_pylist(), table.column("reason").to_pylist()
    return ValueRows(
        call=call,
        step=taken(nullable_codes(line.calls, "step"), call),
        process=column(line.calls, "process")[call] if len(call) else call,
        kind=kind,
        module=module,
        place=np.array(place, np.int64),
        places=list(numbers),
        dtype=[dtypes[row] for row in order],
        elements=nullable_codes(table, "elements")[order],
        minimum=minimum[order],
        maximum=maximum[order],
        read=~unread[order],
        norm=norm[order],
        with_norm=~without[order],
        hash=nullable_codes(table, "hash")[order],
        reason=[reasons[row] for row in order],
    )


def values(stored: Stored) -> pd.DataFrame:
    """One row a tensor that was read, in the order in which they came to be; columns as in dataframes.VALUES."""
    import pandas as pd

    rows = value_rows(stored)
    titles = module_titles(stored)
    ranks = np.array([process.rank for process in stored.processes] or [0], np.int64)
    named = [titles[module] if module >= 0 else ("", "") for module in rows.module.tolist()]
    data: dict[str, Any] = {
        "rank": ranks[rows.process],
        "step": pd.arrays.IntegerArray(np.maximum(rows.step, 0), rows.step < 0),
        "kind": pd.Series([VALUE_KINDS[kind] for kind in rows.kind.tolist()], dtype=object),
        "name": pd.Series([name for name, _ in named], dtype=object),
        "type": pd.Series([class_name for _, class_name in named], dtype=object),
        "path": pd.Series([rows.places[place][2] for place in rows.place.tolist()], dtype=object),
        "call": rows.call,
        "dtype": pd.Series(rows.dtype, dtype=object),
        "elements": pd.arrays.IntegerArray(np.maximum(rows.elements, 0), rows.elements < 0),
        "minimum": floats(rows.minimum, rows.read),
        "maximum": floats(rows.maximum, rows.read),
        "absolute_maximum": floats(rows.largest, rows.read),
        "norm": floats(rows.norm, rows.with_norm),
        "hash": pd.arrays.IntegerArray(np.maximum(rows.hash, 0), rows.hash < 0),
        "reason": pd.Series(rows.reason, dtype=object),
    }
    return pd.DataFrame(data)
