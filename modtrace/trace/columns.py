"""Columns of a record batch as NumPy arrays, from their buffers: `to_numpy` would import pandas."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_DTYPES: Final = {8: np.int8, 32: np.int32, 64: np.int64}


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


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Several sets of columns one below the other."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
