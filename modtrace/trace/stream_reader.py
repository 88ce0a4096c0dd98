"""Reads the batches of one stream file, trusting nothing in it.

Arrow's reader believes the sizes that a message declares, so they are checked here first: the metadata and body lie
inside the file, every buffer lies inside the body, and no compressed buffer declares more than it may. Layouts are from
Arrow's `Message.fbs` and the flatbuffers encoding.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Final, TypeVar

import pyarrow as pa

from modtrace.errors import TraceError
from modtrace.systems.open_files import open_file, read_at
from modtrace.trace.arrow import CONTROL, WRITTEN, arrow_schema, control_total
from modtrace.trace.schema import TABLES

T = TypeVar("T")

MAX_METADATA_BYTES: Final = 1 << 20
MAX_BODY_BYTES: Final = 1 << 30
MAX_BUFFER_BYTES: Final = 64 << 20
MAX_ROWS: Final = 1 << 23
MAX_COLUMNS: Final = 1_000
_MANY_BYTES: Final = 1 << 20
"""Smaller batches are unpacked by one thread: to wake others takes longer."""
_CONTINUATION: Final = 0xFFFFFFFF
_RECORD_BATCH: Final = 3
_SCHEMA: Final = 1


class Budget:
    """Bytes that the batches of a trace may take in memory, all together; counted before they are unpacked.

    Raises:
        TraceError: from `take`, when there are more.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.taken_bytes = 0

    def take(self, size_bytes: int) -> None:
        self.taken_bytes += size_bytes
        if self.taken_bytes > self.most_bytes:
            raise TraceError(
                f"the trace takes more than {self.most_bytes:,} bytes of memory; where it is meant to be so large, "
                "allow more: --max-memory 8GB, MODTRACE_MAX_MEMORY=8GB, load(path, max_memory_bytes=...)"
            )


@dataclass(frozen=True)
class Batch:
    """One verified batch and when it was written (nanoseconds since the start of recording).

    rows: with the columns of this version: those that the file lacks are null.
    unknown: the file's columns that this version does not have; they are left out of `rows`.
    """

    rows: pa.RecordBatch
    at_ns: int
    unknown: tuple[str, ...] = ()


class Damage(Exception):
    """The rest of a file cannot be used; the message says why."""


class Cut(Damage):
    """The file ends inside a message: it was cut there, or what follows has not been written yet."""


class ForeignSchema(Exception):
    """This version cannot read the file's columns: one that was always there is missing, or one is of another type."""


@dataclass(frozen=True)
class _Layout:
    """The columns of one file beside those of this version.

    header: the beginning of a stream with the file's columns.
    unknown: names of the columns that this version does not have.
    """

    header: bytes
    unknown: tuple[str, ...]

    def fitted(self, rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        """Rows with the columns of this version, null where the file has none."""
        if rows.schema.equals(schema):
            return rows
        columns = [
            rows.column(name) if name in rows.schema.names else pa.nulls(len(rows), arrow_type)
            for name, arrow_type in zip(schema.names, schema.types, strict=True)
        ]
        return pa.RecordBatch.from_arrays(columns, schema=schema)


def read_batches(path: Path, table: str, budget: Budget | None = None) -> Iterator[Batch]:
    """The batches of a stream, in order; nothing for a file that is missing or empty.

    Raises:
        TraceError: they take more than the budget allows.
        Damage: after the last whole batch, when something follows that is cut or not as it was written.
        ForeignSchema: before the first batch, when the columns cannot be read by this version.
    """
    opened = open_stream(path)
    if opened is None:
        return
    descriptor, status = opened
    try:
        for batch, _ in messages(descriptor, status.st_size, table, budget=budget):
            yield batch
    finally:
        os.close(descriptor)


def open_stream(path: Path) -> tuple[int, os.stat_result] | None:
    """A descriptor of a stream file, for the caller to close, and what the file is; None where there is none.

    Raises:
        Damage: it cannot be opened, or is no regular file.
    """
    try:
        descriptor = open_file(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Damage(f"cannot be opened ({error.strerror})") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise Damage("is not a regular file")
    return descriptor, status


def messages(
    descriptor: int,
    size: int,
    table: str,
    position: int = 0,
    number: int = 0,
    *,
    budget: Budget | None = None,
) -> Iterator[tuple[Batch, int]]:
    """The batches from a position on, each with the position behind it.

    Args:
        descriptor: of the file.
        size: its bytes; what is behind is not read.
        table: whose columns it has.
        position: where to begin: 0, or behind a batch.
        number: how many batches come before that.
        budget: what they may take in memory.

    Raises:
        Damage, Cut, ForeignSchema: as `read_batches` does.
    """
    schema = arrow_schema(table)
    layout = _layout_of(descriptor, size, table) if position else _Layout(b"", ())
    while position < size:
        metadata, body_at = _metadata(descriptor, position, size)
        if metadata is None:
            return  # end of stream
        message = _checked(partial(_Message, metadata))
        end = body_at + message.body_bytes
        if message.body_bytes < 0 or message.body_bytes > MAX_BODY_BYTES:
            raise Damage(f"batch {number} declares an impossible size")
        if end > size:
            raise Cut(f"is cut in batch {number}")
        content = _read(descriptor, position, end - position)
        if position == 0:
            layout = _layout(content, message, table)
        else:
            body = memoryview(content)[body_at - position :]
            plain_bytes = _checked(partial(message.check_buffers, body))
            if budget is not None:
                budget.take(plain_bytes)
            yield _batch(layout, content, schema, number), end
            number += 1
        position = end


def _metadata(descriptor: int, position: int, size: int) -> tuple[bytes | None, int]:
    prefix = _read(descriptor, position, min(8, size - position))
    if len(prefix) < 8:
        raise Cut("is cut in a message's first bytes")
    continuation, length = struct.unpack("<Ii", prefix)
    if continuation != _CONTINUATION or length < 0 or length > MAX_METADATA_BYTES:
        raise Damage("holds something that is no message")
    if length == 0:
        return None, position + 8
    if position + 8 + length > size:
        raise Cut("is cut in a message's description")
    return _read(descriptor, position + 8, length), position + 8 + length


def _checked(step: Callable[[], T]) -> T:
    try:
        return step()
    except (struct.error, IndexError, ValueError, OverflowError):
        raise Damage("holds a message that cannot be taken apart") from None


def _read(descriptor: int, position: int, count: int) -> bytes:
    parts = []
    while count > 0:
        part = read_at(descriptor, min(count, 1 << 26), position)
        if not part:
            raise Damage("became shorter while it was read")
        parts.append(part)
        position += len(part)
        count -= len(part)
    return b"".join(parts)


@cache
def _header(schema: pa.Schema) -> bytes:
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, schema).close()
    return bytes(sink.getvalue())[:-8]


def _layout_of(descriptor: int, size: int, table: str) -> _Layout:
    """The columns that a file begins with."""
    metadata, body_at = _metadata(descriptor, 0, size)
    if metadata is None:
        raise Damage("does not begin with its columns")
    return _layout(_read(descriptor, 0, body_at), _checked(partial(_Message, metadata)), table)


def _layout(content: bytes, message: _Message, table: str) -> _Layout:
    """The columns of a file, from the message that it begins with.

    Raises:
        Damage: that message is none, or names a column twice.
        ForeignSchema: this version cannot read them.
    """
    if message.header_type != _SCHEMA:
        raise Damage("does not begin with its columns")
    try:
        schema = pa.ipc.read_schema(pa.BufferReader(content)).remove_metadata()
        names = schema.names
    except (
        pa.ArrowException,
        OSError,
        ValueError,
    ) as error:  # UnicodeDecodeError too: a name that is no text
        raise Damage("has columns that cannot be read") from error
    known = arrow_schema(table)
    if schema.equals(known):
        return _Layout(_header(known), ())
    if len(set(names)) != len(names) or len(names) > MAX_COLUMNS:
        raise Damage("has columns that cannot be true")
    for column in TABLES[table]:
        missing = column.name not in names
        if (missing and not column.since) or not (
            missing or schema.field(column.name).type.equals(known.field(column.name).type)
        ):
            raise ForeignSchema
    unknown = tuple(name for name in names if name not in known.names)
    if not all(_is_plain(schema.field(name).type) for name in unknown):
        raise ForeignSchema
    return _Layout(_header(schema), unknown)


def _is_plain(arrow_type: pa.DataType) -> bool:
    """Numbers, texts, lists and structs of them: their buffers lie in the batch itself, as the checks here expect."""
    if pa.types.is_list(arrow_type):
        return _is_plain(arrow_type.value_type)
    if pa.types.is_struct(arrow_type):
        return all(_is_plain(arrow_type.field(index).type) for index in range(arrow_type.num_fields))
    return bool(
        pa.types.is_integer(arrow_type)
        or pa.types.is_floating(arrow_type)
        or arrow_type == pa.bool_()
        or arrow_type == pa.string()
    )


def _batch(layout: _Layout, message: bytes, schema: pa.Schema, number: int) -> Batch:
    try:
        threads = len(message) > _MANY_BYTES
        reader = pa.ipc.open_stream(
            layout.header + message, options=pa.ipc.IpcReadOptions(use_threads=threads)
        )
        rows, metadata = reader.read_next_batch_with_custom_metadata()
        rows.validate(full=True)
        control = int(metadata[CONTROL], 16)
        at_ns = int(metadata[WRITTEN])
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        if isinstance(error, MemoryError):
            raise
        raise Damage(f"batch {number} cannot be read") from None
    if control_total(rows) != control:
        raise Damage(f"batch {number} is not as it was written (its control total differs)")
    return Batch(layout.fitted(rows, schema), at_ns, layout.unknown)


class _Message:
    """The part of a flatbuffers `Message` that says how large things are. Every read is bounds-checked by struct."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._root = self._u32(0)
        self.header_type = self._u8(self._field(self._root, 1))
        self.body_bytes = self._i64(self._field(self._root, 3)) if self._has(self._root, 3) else 0
        self._header = self._follow(self._field(self._root, 2))

    def check_buffers(self, body: memoryview) -> int:
        """Bytes that the buffers of a batch take when they are unpacked; ValueError for sizes that cannot be true."""
        if self.header_type != _RECORD_BATCH:
            raise ValueError("not a record batch")
        rows = self._i64(self._field(self._header, 0)) if self._has(self._header, 0) else 0
        if not 0 <= rows <= MAX_ROWS:
            raise ValueError("row count")
        compressed = self._has(self._header, 3)
        vector = self._follow(self._field(self._header, 2))
        total = 0
        for index in range(self._u32(vector)):
            offset, length = struct.unpack_from("<qq", self._data, vector + 4 + 16 * index)
            if offset < 0 or length < 0 or offset + length > len(body) or length > MAX_BUFFER_BYTES:
                raise ValueError("buffer outside of its body")
            if compressed and length:
                (plain_bytes,) = struct.unpack_from("<q", body, offset)
                if plain_bytes != -1 and not 0 <= plain_bytes <= MAX_BUFFER_BYTES:
                    raise ValueError("declared size")
                total += plain_bytes if plain_bytes != -1 else length
            else:
                total += length
        return total

    def _u8(self, position: int) -> int:
        return int(struct.unpack_from("<B", self._data, position)[0])

    def _u32(self, position: int) -> int:
        return int(struct.unpack_from("<I", self._data, position)[0])

    def _i64(self, position: int) -> int:
        return int(struct.unpack_from("<q", self._data, position)[0])

    def _follow(self, position: int) -> int:
        return position + self._u32(position)

    def _slot(self, table: int, field: int) -> int:
        vtable = table - int(struct.unpack_from("<i", self._data, table)[0])
        if vtable < 0 or 4 + 2 * field + 2 > int(struct.unpack_from("<H", self._data, vtable)[0]):
            return 0
        return int(struct.unpack_from("<H", self._data, vtable + 4 + 2 * field)[0])

    def _has(self, table: int, field: int) -> bool:
        return self._slot(table, field) != 0

    def _field(self, table: int, field: int) -> int:
        slot = self._slot(table, field)
        if not slot:
            raise ValueError("missing field")
        return table + slot
