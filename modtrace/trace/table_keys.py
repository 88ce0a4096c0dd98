"""Keys of the tables of a trace, and where they stand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.errors import TraceError
from modtrace.trace.arrow_arrays import array
from modtrace.trace.batch_columns import values_of

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def ints(table: pa.Table, column: str) -> Ints:
    """A column that has no nulls."""
    values: Ints = values_of(table.column(column)).astype(np.int64, copy=False)
    return values


def last_of_each(table: pa.Table, key: str) -> pa.Table:
    """The last row of each key, sorted by key."""
    rows = last_rows(ints(table, key), key)
    return table if rows is None else table.take(array(rows, pa.int64()))


def last_rows(keys: Ints, key: str) -> Ints | None:
    """The last row of each key, in the order of keys; None where that is all rows as they are."""
    if len(keys) and int(keys.min()) < 0:
        raise TraceError(f"a {key} has a number below zero")
    if bool((keys[1:] > keys[:-1]).all()):
        return None
    order = np.argsort(keys, kind="stable")
    last = np.ones(len(order), np.bool_)
    last[:-1] = keys[order[1:]] != keys[order[:-1]]
    return order[last]


def position(values: Ints, keys: Ints) -> tuple[Ints, Bools]:
    """Where each value stands among sorted distinct keys, and whether it is there at all."""
    if not len(keys):
        return np.zeros(len(values), np.int64), np.zeros(len(values), np.bool_)
    if gapless(keys):
        if len(values) and int(values.min()) >= 0 and int(values.max()) < len(keys):
            return values, np.ones(len(values), np.bool_)
        index = np.clip(values, 0, len(keys) - 1)
        return index, index == values
    index = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    return index, keys[index] == values


def gapless(keys: Ints) -> bool:
    """True if sorted distinct keys are 0, 1, 2, ...: then no search is needed, which is most of opening a trace."""
    return len(keys) > 0 and int(keys[0]) == 0 and int(keys[-1]) == len(keys) - 1
