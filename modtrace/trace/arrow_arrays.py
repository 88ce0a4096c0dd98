"""Columns -> Arrow arrays, from buffers alone.

`pyarrow.array` imports pandas the first time it is called, which takes half a second of the traced program's time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Bools = npt.NDArray[np.bool_]

_DTYPES: Final = {pa.int8(): np.int8, pa.int32(): np.int32, pa.int64(): np.int64, pa.float64(): np.float64}


class IntegerLists(NamedTuple):
    """A column of lists of integers: where the list of each row ends, and the elements of all one behind the other."""

    ends: npt.NDArray[np.int64]
    elements: npt.NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence[IntegerLists]) -> IntegerLists:
        """The rows of several columns, one below the other."""
        shifts = np.cumsum([0, *(len(part.elements) for part in parts[:-1])]).tolist()
        ends = [part.ends + shift for part, shift in zip(parts, shifts, strict=True)]
        return cls(np.concatenate(ends), np.concatenate([part.elements for part in parts]))


def array(values: Any, arrow_type: pa.DataType, nulls: Bools | None = None) -> pa.Array:
    """An Arrow array of a type of schema.py.

    Args:
        values: a NumPy array, with `nulls` where it holds nothing; IntegerLists; or a sequence with None for nothing.
        arrow_type: the type.
        nulls: only with a NumPy array.
    """
    if isinstance(values, np.ndarray):
        return _flat(values, arrow_type, nulls)
    if isinstance(values, IntegerLists):
        offsets = np.concatenate([[0], values.ends]).astype(np.int32)
        buffers = [None, pa.py_buffer(offsets)]
        child = array(values.elements, arrow_type.value_type)
        return pa.Array.from_buffers(arrow_type, len(values.ends), buffers, 0, children=[child])
    missing = np.fromiter((value is None for value in values), np.bool_, len(values))
    nulls = missing if missing.any() else None
    if pa.types.is_list(arrow_type):
        filled = [() if value is None else value for value in values]
        offsets = _offsets([len(value) for value in filled])
        child = array([item for value in filled for item in value], arrow_type.value_type)
        return pa.Array.from_buffers(
            arrow_type,
            len(values),
            [_validity(nulls), pa.py_buffer(offsets)],
            _null_count(nulls),
            children=[child],
        )
    if pa.types.is_struct(arrow_type):
        fields = [arrow_type.field(i) for i in range(arrow_type.num_fields)]
        children = [array([value[field.name] for value in values], field.type) for field in fields]
        return pa.Array.from_buffers(arrow_type, len(values), [None], 0, children=children)
    if pa.types.is_string(arrow_type):
        return _strings(values, nulls)
    fill = False if arrow_type == pa.bool_() else 0
    plain = [fill if value is None else value for value in values]
    return _flat(
        np.array(plain, np.bool_ if arrow_type == pa.bool_() else _DTYPES[arrow_type]), arrow_type, nulls
    )


def table_of(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """A table of columns as `array` takes them, in the order of a schema."""
    arrays = [
        array(columns[name], arrow_type) for name, arrow_type in zip(schema.names, schema.types, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _flat(values: npt.NDArray[Any], arrow_type: pa.DataType, nulls: Bools | None) -> pa.Array:
    if nulls is not None and not nulls.any():
        nulls = None
    if arrow_type == pa.bool_():
        data = np.packbits(values.astype(np.bool_), bitorder="little")
    else:
        data = np.ascontiguousarray(values, dtype=_DTYPES[arrow_type])
    return pa.Array.from_buffers(
        arrow_type, len(values), [_validity(nulls), pa.py_buffer(data)], _null_count(nulls)
    )


def _strings(values: Sequence[str | None], nulls: Bools | None) -> pa.Array:
    encoded = [b"" if value is None else value.encode("utf-8", "backslashreplace") for value in values]
    offsets = _offsets([len(text) for text in encoded])
    buffers = [_validity(nulls), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers, _null_count(nulls))


def _offsets(lengths: Sequence[int]) -> npt.NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)


def _validity(nulls: Bools | None) -> pa.Buffer | None:
    return None if nulls is None else pa.py_buffer(np.packbits(~nulls, bitorder="little"))


def _null_count(nulls: Bools | None) -> int:
    return 0 if nulls is None else int(nulls.sum())
