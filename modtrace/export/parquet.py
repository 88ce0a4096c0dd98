"""Parquet: types kept, units and descriptions with each column."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from modtrace._version import __version__
from modtrace.analysis.calls import CallRows
from modtrace.analysis.recording_end import headline_of
from modtrace.analysis.tables import exported
from modtrace.export.lines import ranges
from modtrace.export.target import Tick, silent
from modtrace.trace.dataframes import EXPORTED, INDEX, exported_columns
from modtrace.trace.reader import Stored
from modtrace.trace.schema import VERSION

_GROUP_PARTS: Final = 8
"""Parts in a row group: 262,144 rows, large enough to be read at speed and small enough to be held in memory."""
_TYPES: Final = {
    "int64": pa.int64(),
    "Int64": pa.int64(),
    "Float64": pa.float64(),
    "boolean": pa.bool_(),
    "bool": pa.bool_(),
    "list": pa.list_(pa.string()),
    "str": pa.string(),
    "category": pa.dictionary(pa.int32(), pa.string()),
}


def table_schema(table: str) -> pa.Schema:
    """Columns of a table as Arrow has them, `unit` and `description` as metadata; texts that repeat are dictionaries.

    Args:
        table: a name of `dataframes.EXPORTED`.
    """
    fields = []
    for shown in exported_columns(table):
        about = {"description": shown.doc} | ({"unit": shown.unit} if shown.unit else {})
        about |= {"null": shown.null} if shown.null else {}
        fields.append(pa.field(shown.name, _TYPES[shown.type], nullable=bool(shown.null), metadata=about))
    return pa.schema(fields)


def parquet(stored: Stored, tick: Tick = silent, *, table: str = "calls") -> Iterator[bytes]:
    """A table of a trace as a Parquet file, compressed with Snappy.

    Args:
        stored: the trace.
        tick: told of the progress.
        table: a name of `dataframes.EXPORTED`.
    """
    (count, rows), sink = _rows(stored, table), _Pieces()
    about = {"format": VERSION, "modtrace": __version__, "script": stored.run.script, "notes": stored.notes}
    about |= {"gaps": stored.table("gaps").column("reason").to_pylist(), "recorded": headline_of(stored)}
    about |= {"table": table}
    for_pandas = _about_pandas(rows(0, 0), table)
    schema = table_schema(table).with_metadata({"modtrace": json.dumps(about), b"pandas": for_pandas})
    batches: list[pa.RecordBatch] = []
    with pq.ParquetWriter(pa.PythonFile(sink, "w"), schema, compression="snappy") as writer:
        for low, high in ranges(count, tick):
            batches.append(_batch(rows(low, high), schema))
            if len(batches) == _GROUP_PARTS or high == count:
                group = pa.Table.from_batches(batches, schema)
                writer.write_table(group, row_group_size=len(group))
                batches.clear()
                yield from sink.taken()
    yield from sink.taken()


def _rows(stored: Stored, table: str) -> tuple[int, Callable[[int, int], pd.DataFrame]]:
    """The number of rows of a table, and a function that gives those of a range with the columns of the file."""
    if table == "calls":
        calls = CallRows(stored)
        return len(calls), lambda low, high: calls.frame(low, high).reset_index()
    frame = exported(stored, table)
    return len(frame), lambda low, high: frame.iloc[low:high]


def _about_pandas(rows: pd.DataFrame, table: str) -> bytes:
    """Metadata that pandas reads of the file: its nullable types and its index."""
    index = INDEX.get(EXPORTED[table])
    if index is not None:
        rows = rows.set_index(index)
        rows.index = pd.Index([], dtype="int64", name=index)
    rows.attrs = {}
    about: bytes = pa.Schema.from_pandas(rows, preserve_index=index is not None).metadata[b"pandas"]
    return about


def _batch(part: pd.DataFrame, schema: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for field in schema:
        column = part[field.name]
        if not pa.types.is_dictionary(field.type):
            arrays.append(pa.array(column, field.type, from_pandas=True))
            continue
        codes = column.cat.codes.to_numpy()
        words = pa.array([str(text) for text in column.cat.categories], pa.string())
        arrays.append(pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32(), mask=codes < 0), words))
    return pa.record_batch(arrays, schema=schema)


class _Pieces:
    """A file that is taken away piece by piece. A pipe cannot tell where it is, which Parquet's footer has to say."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._length = 0

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        self._length += len(data)
        return len(data)

    def tell(self) -> int:
        return self._length

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def taken(self) -> Iterator[bytes]:
        pieces, self._pieces = self._pieces, []
        return iter(pieces)
