"""The table of calls as NumPy arrays: what every analysis reads, a million rows of it.

As an Arrow table each reading of a nullable column would unpack its validity into new arrays. A column that is the same
in all rows (the rank of a trace of one process) takes no memory: it is one number, broadcast.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.trace.arrow_arrays import array

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CODED: Final = frozenset(
    {"module", "root", "label", "forward", "inputs", "outputs", "error", "mode", "step", "phase"}
)
"""Columns of keys and bits: -1 is null. Others that can be null have a mask."""
SMALL: Final = frozenset({"kind", "status", "mode"})
"""Columns of int8; `output_replaced` is of booleans, all others are of int64."""


class CallTable:
    """Columns of equal length by name. Arrays are shared: they cannot be written to.

    Args:
        columns: values; int32 where these are enough, -1 for null in columns of CODED.
        nulls: where other columns are null; a column without a mask never is.
        rows: how many rows.
    """

    def __init__(
        self, columns: Mapping[str, npt.NDArray[Any]], nulls: Mapping[str, Bools], rows: int
    ) -> None:
        self._columns = dict(columns)
        self._nulls = dict(nulls)
        self._rows = rows
        for values in (*self._columns.values(), *self._nulls.values()):
            values.setflags(write=False)

    def __len__(self) -> int:
        return self._rows

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self._columns)

    def stored(self, name: str) -> tuple[npt.NDArray[Any], Bools | None]:
        """A column as it is stored, and its mask; None where it is never null or a column of CODED."""
        return self._columns[name], self._nulls.get(name)

    def values(self, name: str) -> Ints:
        """A column, -1 (in CODED) or 0 where it is null."""
        values = self._columns[name]
        if values.dtype == np.int32:  # whoever asks once asks again: it is kept instead of the narrow one
            wide = same(values[0], np.int64, self._rows) if constant(values) else values.astype(np.int64)
            wide.setflags(write=False)
            self._columns[name] = values = wide
        return values

    def known(self, name: str) -> Bools:
        """Where a column is not null."""
        if name in CODED:
            known: Bools = self._columns[name] >= 0
            return known
        null = self._nulls.get(name)
        return np.ones(self._rows, np.bool_) if null is None else ~null

    def slice(self, low: int, count: int) -> CallTable:
        """Some rows one after another; nothing is copied."""
        if low == 0 and count == self._rows:
            return self
        part = slice(low, low + count)
        return self._with_rows_of(part, max(min(count, self._rows - low), 0))

    def copy(self) -> CallTable:
        """The same columns; what is kept in 64 bits for whoever reads the copy goes with it."""
        return CallTable(self._columns, self._nulls, self._rows)

    def filter(self, chosen: Bools) -> CallTable:
        """The rows that are chosen."""
        count = int(np.count_nonzero(chosen))
        return self if count == self._rows else self._with_rows_of(chosen, count)

    def take(self, rows: Ints) -> CallTable:
        """Some rows, in the order of their numbers."""
        return self._with_rows_of(rows, len(rows))

    def _with_rows_of(self, rows: Any, count: int) -> CallTable:
        return CallTable(
            {name: _rows_of(values, rows, count) for name, values in self._columns.items()},
            {name: _rows_of(mask, rows, count) for name, mask in self._nulls.items()},
            count,
        )

    def with_column(self, name: str, values: npt.NDArray[Any], null: Bools | None = None) -> CallTable:
        """This table with a column added or replaced."""
        nulls = {column: mask for column, mask in self._nulls.items() if column != name}
        if null is not None:
            nulls[name] = null
        return CallTable({**self._columns, name: values}, nulls, self._rows)

    def to_arrow(self) -> pa.Table:
        """A copy as an Arrow table."""
        arrays = []
        for name, values in self._columns.items():
            null = values < 0 if name in CODED else self._nulls.get(name)
            arrow_type = (
                pa.int8() if name in SMALL else pa.bool_() if values.dtype == np.bool_ else pa.int64()
            )
            arrays.append(array(np.maximum(values, 0) if name in CODED else values, arrow_type, null))
        return pa.table(arrays, names=self.names)


def constant(values: npt.NDArray[Any]) -> bool:
    """True if an array is one value, broadcast."""
    return values.strides == (0,) and len(values) > 0


def same(value: Any, dtype: Any, rows: int) -> npt.NDArray[Any]:
    """An array of one value that takes no memory."""
    return np.broadcast_to(np.asarray(value, dtype), rows)


def _rows_of(values: npt.NDArray[Any], rows: Any, count: int) -> npt.NDArray[Any]:
    return same(values[0], values.dtype, count) if constant(values) else values[rows]
