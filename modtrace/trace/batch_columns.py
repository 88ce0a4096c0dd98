"""Arrow columns as NumPy arrays, from their buffers: `to_numpy` and `fill_null` would import pandas."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.trace.call_table import same

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_DTYPES: Final[dict[int, Any]] = {1: np.bool_, 8: np.int8, 32: np.int32, 64: np.int64}
"""By the bits of a value."""


def integers(array: pa.Array) -> tuple[Ints, Bools]:
    """An integer column as values, 0 where unknown, and where they are known."""
    count, offset = len(array), array.offset
    known = np.ones(count, np.bool_)
    if not count:
        return np.zeros(0, np.int64), known
    validity, data = array.buffers()
    values = np.frombuffer(data, _DTYPES[array.type.bit_width])[offset : offset + count].astype(np.int64)
    if validity is not None and array.null_count:
        bits = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")
        known = bits[offset : offset + count].astype(np.bool_)
        values[~known] = 0
    return values, known


def codes(array: pa.Array) -> Ints:
    """A column of keys, -1 where there is none."""
    values, known = integers(array)
    values[~known] = -1
    return values


def values_of(column: pa.Array | pa.ChunkedArray) -> Any:
    """An integer or boolean column as an array, 0 where it holds nothing."""
    return values_and_nulls(column)[0]


def values_and_nulls(column: pa.Array | pa.ChunkedArray) -> tuple[Any, Bools]:
    """An integer or boolean column as an array, 0 where it holds nothing, and where that is.

    What is one value takes no memory. An array may be the column's own memory: it is not to be written to.
    """
    chunks = [
        chunk for chunk in (column.chunks if isinstance(column, pa.ChunkedArray) else [column]) if len(chunk)
    ]
    count, dtype = sum(map(len, chunks)), _DTYPES[column.type.bit_width]
    if count and column.null_count == count:
        return same(0, dtype, count), same(True, np.bool_, count)
    parts = [_stored(chunk) for chunk in chunks]
    values = parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, dtype), *parts])
    if not column.null_count:
        return values, same(False, np.bool_, count)
    nulls = np.concatenate([_nulls(chunk) for chunk in chunks])
    if len(parts) == 1:
        values = values.copy()
    values[nulls] = 0
    return values, nulls


def doubles(column: pa.Array | pa.ChunkedArray) -> tuple[npt.NDArray[np.float64], Bools]:
    """A column of doubles, 0 where it holds nothing, and where that is."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [
        np.frombuffer(c.buffers()[1], np.float64)[c.offset : c.offset + len(c)] for c in chunks if len(c)
    ]
    values = np.concatenate([np.zeros(0), *parts])
    nulls = np.concatenate([np.zeros(0, np.bool_), *(_nulls(chunk) for chunk in chunks if len(chunk))])
    values[nulls] = 0
    return values, nulls


def lists_of(column: pa.Array | pa.ChunkedArray) -> tuple[Ints, Ints]:
    """Where the list of integers of each row ends among the elements of all, and these one behind the other."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    lengths = [np.diff(values_of(chunk.offsets)) for chunk in chunks]
    elements = [values_of(chunk.flatten()) for chunk in chunks]
    none = np.zeros(0, np.int64)
    return np.cumsum(np.concatenate([none, *lengths])), np.concatenate([none, *elements])


def _stored(array: pa.Array) -> Any:
    """The values of an array as they are stored, anything where there is none."""
    count, offset, data = len(array), array.offset, array.buffers()[1]
    if array.type == pa.bool_():
        return _bits(data, offset, count)
    return np.frombuffer(data, _DTYPES[array.type.bit_width])[offset : offset + count]


def _nulls(array: pa.Array) -> Bools:
    """Where an array holds nothing."""
    if not array.null_count:
        return np.zeros(len(array), np.bool_)
    return ~_bits(array.buffers()[0], array.offset, len(array))


def _bits(data: pa.Buffer, offset: int, count: int) -> Bools:
    """Bits as booleans."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=offset + count, bitorder="little")
    return bits[offset:].view(np.bool_)


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Several sets of columns one below the other."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
