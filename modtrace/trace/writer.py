"""Appends record batches to the Arrow streams of one process folder.

A batch is made in memory and written by one `write`, so what a killed process leaves is whole batches. Every batch
carries a control total of its content and the time of its writing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.errors import SizeLimitError, UsageError, WriteError
from modtrace.systems.open_files import open_file
from modtrace.trace.arrow import CONTROL, WRITTEN, arrow_schema, control_total
from modtrace.trace.arrow_arrays import array
from modtrace.trace.atomic_file import write_whole
from modtrace.trace.schema import BEYOND_LIMIT, LATEST_SUFFIX, STREAM_SUFFIX, TABLES

_OPTIONS: Final = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
_END: Final = b"\xff\xff\xff\xff\x00\x00\x00\x00"

Column = npt.NDArray[Any] | Sequence[Any]


class _Stream:
    """One table's file: its descriptor, the length of what is whole, the schema it begins with, and the length of the
    file beside it that holds rows that are not final.
    """

    def __init__(self, path: Path, table: str) -> None:
        self.table = table
        self.latest = path.with_suffix(LATEST_SUFFIX)
        self.latest_length = 0
        self.schema = arrow_schema(table)
        self.descriptor = open_file(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL)
        self.length = 0
        self.rows = 0
        sink = pa.BufferOutputStream()
        pa.ipc.new_stream(sink, self.schema, options=_OPTIONS).close()
        self.header = bytes(sink.getvalue())[:-8]  # without the end-of-stream marker


class Writer:
    """The only writer of a process folder. Not for use by two threads at once.

    After the first failure nothing more is written: what is on disk stays a trace that can be read. Every file is
    opened at once, while there are descriptors left to the process.

    Args:
        folder: the process folder.
        max_bytes: how large the trace may get.
        sums_bytes: how much of that is for tables of BEYOND_LIMIT alone.
    """

    def __init__(self, folder: Path, *, max_bytes: int | None = None, sums_bytes: int = 0) -> None:
        self.rows: dict[str, int] = {}
        self.bytes_written = 0
        self.single_bytes = 0
        """Without the tables of BEYOND_LIMIT."""
        self._max_bytes = max_bytes
        self._sums_bytes = sums_bytes
        self._streams: dict[str, _Stream] = {}
        self._broken: tuple[str, str | None] | None = None
        """Reason and cause of the end. No exception: its traceback would hold the frames of the program."""
        try:
            for table in TABLES:
                self._streams[table] = _Stream(folder / f"{table}{STREAM_SUFFIX}", table)
        except OSError as error:
            self._broken = _no_further(error)

    def room_bytes(self, growth: float = 1.0) -> int | None:
        """The size that all tables may have that are not of BEYOND_LIMIT; None for any size.

        Args:
            growth: times as large those of BEYOND_LIMIT will be in the end. Room is left for that, two thirds at most.
        """
        if self._max_bytes is None:
            return None
        sums_bytes = int(growth * (self.bytes_written - self.single_bytes))
        return self._max_bytes - max(self._sums_bytes, min(sums_bytes, self._max_bytes * 2 // 3))

    def append(
        self,
        table: str,
        columns: Mapping[str, Column],
        *,
        nulls: Mapping[str, npt.NDArray[np.bool_]] | None = None,
        at_ns: int,
    ) -> None:
        """Write one batch.

        Args:
            table: a key of schema.TABLES.
            columns: every column of the table, all of one length; arrays in the column's type or lists.
            nulls: for columns given as arrays, where they hold nothing.
            at_ns: now, in nanoseconds since the start of recording.

        Raises:
            SizeLimitError: the batch is not on disk; those of BEYOND_LIMIT still can be written.
            WriteError: the batch is not on disk, and no later one will be.
        """
        if self._broken is not None:
            raise WriteError(*self._broken)
        try:
            stream = self._streams[table]
            batch = _batch(stream.schema, table, columns, nulls or {})
            message = _message(stream, batch, at_ns)
            self._put(stream, message if stream.length else stream.header + message)
        except OSError as error:
            self._broken = _no_further(error)
            raise WriteError(*self._broken) from None
        stream.rows += batch.num_rows
        self.rows[table] = stream.rows

    def replace(self, table: str, columns: Mapping[str, Column], *, at_ns: int) -> None:
        """Write rows that are not final, in place of those that this method has written before.

        Args:
            table, at_ns: as in `append`.
            columns: likewise; none to take those away that are there.

        Raises:
            WriteError: what was there before is there still, and nothing more will be written.
        """
        if self._broken is not None:
            raise WriteError(*self._broken)
        stream = self._streams[table]
        try:
            content = b""
            if columns:
                batch = _batch(stream.schema, table, columns, {})
                content = stream.header + _message(stream, batch, at_ns) + _END
                self._check_size(table, len(content) - stream.latest_length)
                write_whole(stream.latest, [content])
            elif stream.latest_length:
                stream.latest.unlink(missing_ok=True)
        except OSError as error:
            self._broken = _no_further(error)
            raise WriteError(*self._broken) from None
        except UsageError as error:
            self._break(str(error), "the trace was removed")
        self.bytes_written += len(content) - stream.latest_length
        stream.latest_length = len(content)

    def close(self) -> None:
        """End every stream and close it; does nothing the second time."""
        streams, self._streams = self._streams, {}
        if self._broken is None:
            self._broken = ("the trace is closed", None)
        for stream in streams.values():
            try:
                os.write(stream.descriptor, (b"" if stream.length else stream.header) + _END)
            except OSError:
                pass  # a stream without its end is read like one that has it
            finally:
                os.close(stream.descriptor)

    def _put(self, stream: _Stream, data: bytes) -> None:
        self._check_size(stream.table, len(data))
        status = os.fstat(stream.descriptor)
        if status.st_nlink == 0 or status.st_size != stream.length:
            self._break("the trace was removed or changed by another program", "the trace was removed")
        written = 0
        try:
            while written < len(
                data
            ):  # at a limit a part is taken, and the next write says which limit it is
                written += os.write(stream.descriptor, memoryview(data)[written:])
        finally:
            if written != len(data):
                _cut_back(stream)
        stream.length += written
        self.bytes_written += written
        if stream.table not in BEYOND_LIMIT:
            self.single_bytes += written

    def _check_size(self, table: str, more_bytes: int) -> None:
        """Raise where the trace would get larger than it may."""
        if self._max_bytes is None:
            return
        left = self._max_bytes - self.bytes_written - more_bytes
        reason = f"the trace has reached its limit of {self._max_bytes:,} bytes"
        cause = f"limit of {_round_size(self._max_bytes)}"
        if left < 0:
            self._break(reason, cause)
        room_bytes = self._max_bytes - self._sums_bytes
        if table not in BEYOND_LIMIT and self._sums_bytes and self.single_bytes + more_bytes > room_bytes:
            raise SizeLimitError(reason, cause)

    def _break(self, reason: str, cause: str) -> None:
        self._broken = (reason, cause)
        raise WriteError(reason, cause)


def _no_further(error: OSError) -> tuple[str, str]:
    """Reason and cause."""
    reason = str(error.strerror or error)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"the trace cannot be written any further: {reason}", "the disk is full" if full else reason


def _round_size(size_bytes: int) -> str:
    """A limit as it is given: `200 KB`, `4 GB`, powers of ten."""
    for unit in ("B", "KB", "MB", "GB"):
        if size_bytes < 1000 or size_bytes % 1000:
            return f"{size_bytes:,} {unit}"
        size_bytes //= 1000
    return f"{size_bytes:,} TB"


def _cut_back(stream: _Stream) -> None:
    """Take away a batch that was written in part."""
    try:
        os.ftruncate(stream.descriptor, stream.length)
    except OSError:
        pass  # a reader leaves out what is not whole


def _batch(
    schema: pa.Schema, table: str, columns: Mapping[str, Column], nulls: Mapping[str, npt.NDArray[np.bool_]]
) -> pa.RecordBatch:
    arrays = []
    for column, field in zip(TABLES[table], schema, strict=False):
        arrays.append(array(columns[column.name], field.type, nulls.get(column.name)))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _message(stream: _Stream, batch: pa.RecordBatch, at_ns: int) -> bytes:
    """One batch as an encapsulated message, with its metadata."""
    sink = pa.BufferOutputStream()
    writer = pa.ipc.new_stream(sink, stream.schema, options=_OPTIONS)
    metadata = {CONTROL: b"%08x" % control_total(batch), WRITTEN: b"%d" % at_ns}
    writer.write_batch(batch, custom_metadata=metadata)
    return memoryview(sink.getvalue())[len(stream.header) :].tobytes()
