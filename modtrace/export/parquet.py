"""Parquet: types kept, units and descriptions with each column."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from modtrace._version import __version__
from modtrace.analysis.calls import CallRows
from modtrace.analysis.cut import headline_of
from modtrace.export.lines import ranges
from modtrace.export.target import Tick, silent
from modtrace.trace.frames import CALLS, Shown
from modtrace.trace.reader import Stored
from modtrace.trace.schema import VERSION

_GROUP_PARTS: Final = 8
"""Parts in a row group: 262,144 rows, large enough to be read at speed and small enough to be held in memory."""
_CALL: Final = Shown("call", "int64", "order of start; what `parent`, `last_call` and `forward` point at")
_TYPES: Final = {"int64": pa.int64(), "Int64": pa.int64(), "boolean": pa.bool_()}


def call_schema() -> pa.Schema:
    """Columns of `calls` as Arrow has them; texts are dictionaries. `unit` and `description` are metadata of each."""
    texts = pa.dictionary(pa.int32(), pa.string())
    fields = []
    for shown in (_CALL, *CALLS):
        about = {"description": shown.doc} | ({"unit": shown.unit} if shown.unit else {})
        about |= {"null": shown.null} if shown.null else {}
        kind = _TYPES.get(shown.type, texts)
        fields.append(pa.field(shown.name, kind, nullable=bool(shown.null), metadata=about))
    return pa.schema(fields)


def parquet(stored: Stored, tick: Tick = silent) -> Iterator[bytes]:
    """The calls of a trace as a Parquet file, compressed with Snappy."""
    rows, sink = CallRows(stored), _Pieces()
    about = {"format": VERSION, "modtrace": __version__, "script": stored.run.script, "notes": stored.notes}
    about |= {"gaps": stored.table("gaps").column("reason").to_pylist(), "recorded": headline_of(stored)}
    kinds = rows.frame(0, 0)
    kinds.index = pd.Index([], dtype="int64", name="call")
    for_pandas = pa.Schema.from_pandas(kinds).metadata[b"pandas"]  # its nullable types and its index
    schema = call_schema().with_metadata({"modtrace": json.dumps(about), b"pandas": for_pandas})
    batches: list[pa.RecordBatch] = []
    with pq.ParquetWriter(pa.PythonFile(sink, "w"), schema, compression="snappy") as writer:
        for low, high in ranges(len(rows), tick):
            batches.append(_batch(rows.frame(low, high), schema))
            if len(batches) == _GROUP_PARTS or high == len(rows):
                table = pa.Table.from_batches(batches, schema)
                writer.write_table(table, row_group_size=len(table))
                batches.clear()
                yield from sink.taken()
    yield from sink.taken()


def _batch(part: pd.DataFrame, schema: pa.Schema) -> pa.RecordBatch:
    arrays = [pa.array(part.index.to_numpy(), pa.int64())]
    for field in list(schema)[1:]:
        column = part[field.name]
        if not pa.types.is_dictionary(field.type):
            arrays.append(pa.array(column, field.type))
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
