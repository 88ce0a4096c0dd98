"""Keys of the tables of a trace, and where they stand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.errors import TraceError

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def ints(table: pa.Table, column: str) -> Ints:
    """A column that has no nulls."""
    values: Ints = table.column(column).to_numpy().astype(np.int64, copy=False)
    return values


def last_of_each(table: pa.Table, key: str) -> pa.Table:
    """The last row of each key, sorted by key."""
    keys = ints(table, key)
    if len(keys) and int(keys.min()) < 0:
        raise TraceError(f"a {key} has a number below zero")
    if bool((keys[1:] > keys[:-1]).all()):
        return table
    order = np.argsort(keys, kind="stable")
    last = np.ones(len(order), np.bool_)
    last[:-1] = keys[order[1:]] != keys[order[:-1]]
    return table.take(pa.array(order[last]))


def position(values: Ints, keys: Ints) -> tuple[Ints, Bools]:
    """Where each value stands among sorted distinct keys, and whether it is there at all."""
    if not len(keys):
        return np.zeros(len(values), np.int64), np.zeros(len(values), np.bool_)
    if gapless(keys):
        at = np.clip(values, 0, len(keys) - 1)
        return at, at == values
    at = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    return at, keys[at] == values


def gapless(keys: Ints) -> bool:
    """Whether sorted distinct keys are 0, 1, 2, ...: then no search is needed, which is most of opening a trace."""
    return len(keys) > 0 and int(keys[0]) == 0 and int(keys[-1]) == len(keys) - 1
