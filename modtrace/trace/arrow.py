"""The columns of schema.py as Arrow types, and the control total of a batch."""

from __future__ import annotations

import zlib
from functools import cache
from typing import Final

import pyarrow as pa

from modtrace.systems.this_process import give_memory_back
from modtrace.trace.schema import TABLES, TENSOR_FIELDS

CONTROL: Final = b"control"
"""Key of the control total in a batch's metadata: CRC-32 of the content, 8 hexadecimal digits."""
WRITTEN: Final = b"at_ns"
"""Key of the time of writing, nanoseconds since the start of recording."""

_TYPES: Final = {
    "int8": pa.int8(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "list<string>": pa.list_(pa.string()),
    "list<int64>": pa.list_(pa.int64()),
}
_TENSOR: Final = pa.struct([pa.field(field.name, _TYPES[field.type]) for field in TENSOR_FIELDS])


@cache
def arrow_schema(table: str) -> pa.Schema:
    """The Arrow schema of a table of schema.TABLES."""
    types = _TYPES | {"tensors": pa.list_(_TENSOR)}
    return pa.schema([pa.field(column.name, types[column.type]) for column in TABLES[table]])


def control_total(batch: pa.RecordBatch) -> int:
    """CRC-32 over the buffers of a batch: validity and values as they are in memory, up to their logical ends."""
    total = zlib.crc32(b"%d" % batch.num_rows)
    for column in batch.columns:
        total = _array_total(column, total)
    return total


def _array_total(array: pa.Array, total: int) -> int:
    total = zlib.crc32(b"%d,%d" % (len(array), array.null_count), total)
    buffers = array.buffers()
    length = len(array)
    arrow_type = array.type
    if buffers[0] is not None and array.null_count:
        total = zlib.crc32(memoryview(buffers[0])[: (length + 7) // 8], total)
    if pa.types.is_list(arrow_type):
        total = zlib.crc32(memoryview(buffers[1])[: 4 * (length + 1)] if buffers[1] else b"", total)
        return _array_total(array.values, total)
    if pa.types.is_struct(arrow_type):
        for index in range(arrow_type.num_fields):
            total = _array_total(array.field(index), total)
        return total
    if pa.types.is_string(arrow_type):
        offsets = memoryview(buffers[1])[: 4 * (length + 1)] if buffers[1] else b""
        total = zlib.crc32(offsets, total)
        end = int.from_bytes(offsets[-4:], "little")
        return zlib.crc32(memoryview(buffers[2])[:end] if end else b"", total)
    size = (length + 7) // 8 if arrow_type == pa.bool_() else length * arrow_type.bit_width // 8
    return zlib.crc32(memoryview(buffers[1])[:size] if buffers[1] else b"", total)


def give_back() -> None:
    """Memory that was needed on the way goes back to the system: of a large trace that is as much as what stays."""
    pa.default_memory_pool().release_unused()
    give_memory_back()
