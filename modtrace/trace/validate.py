"""Rows of one table against what schema.py says of its columns: the one place where cells of a trace are checked.

What rows of several tables say of each other is checked in `merge`.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from modtrace.errors import TraceError
from modtrace.trace.schema import TABLES, TENSOR_FIELDS, Column, adds_up, bounds

_TOTAL: Final = 1 << 62
"""Sums of a column must fit into 64 bits."""


def check(table: str, rows: pa.Table | pa.RecordBatch, where: str) -> None:
    """Raise TraceError for a cell that cannot be true.

    Args:
        table: a key of schema.TABLES.
        rows: with its columns.
        where: the file, for the message.
    """
    for column in TABLES[table]:
        values = rows.column(column.name)
        if not column.nullable and values.null_count:
            raise TraceError(f"{where}: the trace contradicts itself: {column.name} is null in a row")
        if not len(values):
            continue
        if column.type in ("int8", "int32", "int64"):
            _check_integers(table, column, values, where)
        elif column.type == "list<string>":
            _check_no_null(_flat(values), f"{where}: {column.name}")
        elif column.type == "list<int64>":
            _check_no_null(_flat(values), f"{where}: {column.name}")
            _check_sizes(_flat(values), f"{where}: the trace contradicts itself: {column.name} is below zero")
        elif column.type == "tensors":
            _check_tensors(_flat(values), f"{where}: {column.name}")


def _check_integers(table: str, column: Column, values: pa.Array, where: str) -> None:
    least, most = bounds(table, column)
    extremes = pc.min_max(values).as_py()
    low, high = extremes["min"], extremes["max"]
    if low is None:
        return
    if low < least or high > most:
        wrong = low if low < least else high
        raise TraceError(
            f"{where}: the trace contradicts itself: {column.name} is {wrong}, which is impossible"
        )
    if adds_up(column) and max(-low, high) * len(values) > _TOTAL:
        total = pc.sum(pc.abs(pc.cast(values, pa.float64(), safe=False))).as_py()
        if total > _TOTAL:
            raise TraceError(
                f"{where}: the trace contradicts itself: {column.name} adds up to more than can be"
            )


def _flat(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The elements of all lists, one behind the other."""
    combined = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if isinstance(combined, pa.ChunkedArray):  # of no chunk, or of several that are too large for one
        combined = pa.concat_arrays(combined.chunks) if combined.num_chunks else pa.nulls(0, combined.type)
    return combined.flatten()


def _check_no_null(values: pa.Array, where: str) -> None:
    if values.null_count:
        raise TraceError(f"{where}: the trace contradicts itself: an element is null")


def _check_tensors(tensors: pa.Array, where: str) -> None:
    _check_no_null(tensors, where)
    for index, field in enumerate(TENSOR_FIELDS):
        values = tensors.field(index)
        if not field.nullable:
            _check_no_null(values, f"{where}.{field.name}")
        if field.type == "list<int64>" and len(values):
            _check_sizes(
                _flat(values), f"{where}: the trace contradicts itself: a tensor has a size below zero"
            )


def _check_sizes(values: pa.Array, reason: str) -> None:
    least = pc.min_max(values).as_py()["min"]
    if least is not None and least < 0:
        raise TraceError(reason)
