"""JSON: one object with the tables of a trace, written as it is made."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

import pandas as pd

from modtrace._version import __version__
from modtrace.analysis.recording_end import headline_of
from modtrace.analysis.tables import exported
from modtrace.export.lines import TextColumns, content, digits, joined, parts
from modtrace.export.target import Tick, silent
from modtrace.trace.dataframes import (
    CALLS,
    PublicColumn,
    exported_columns,
    units,
)
from modtrace.trace.reader import Stored
from modtrace.trace.schema import VERSION

_ALWAYS: Final = ("modules", "steps", "folded", "findings", "operations")
_WHERE_RECORDED: Final = (
    "kernels",
    "syncs",
    "compilations",
    "values",
    "nonfinite",
    "collectives",
    "rollups",
    "holders",
    "memory",
)
"""Tables that are there where they have rows."""


def json_tables(stored: Stored, tick: Tick = silent) -> Iterator[bytes]:
    """A trace as one JSON object, all in ASCII.

    `format`, `version`, `modtrace`; `run` and `processes`, what is known of the program; `notes` and `gaps`, what is
    missing; `tables`, each with `columns` (names), `units` (by column), `index` (which columns tell rows apart) and
    `data`, a list of rows with values in the order of the columns. What is not known is null.
    """
    gaps = stored.table("gaps").to_pylist()
    about: dict[str, Any] = {
        "format": "modtrace-json",
        "version": VERSION,
        "modtrace": __version__,
        "run": asdict(stored.run),
        "processes": [asdict(process) for process in stored.processes],
        "notes": stored.notes,
        "recorded": headline_of(stored),
        "gaps": gaps,
    }
    yield json.dumps(about)[:-1].encode() + b',\n"tables": {\n'
    yield from _calls(stored, tick)
    for name, frame, columns in _tables(stored):
        yield b",\n" + _head(name, columns)
        for index, row in enumerate(_rows(frame, columns)):
            yield (b",\n" if index else b"\n") + row
        yield b"\n]}"
    yield b"\n}}\n"


def _tables(stored: Stored) -> Iterator[tuple[str, pd.DataFrame, tuple[PublicColumn, ...]]]:
    for name in _ALWAYS:
        yield name, exported(stored, name), exported_columns(name)
    for name in _WHERE_RECORDED:
        frame = exported(stored, name)
        if len(frame):
            yield name, frame, exported_columns(name)


def _head(name: str, columns: tuple[PublicColumn, ...]) -> bytes:
    about = {
        "columns": [column.name for column in columns],
        "units": units(columns),
    }
    return f'"{name}": {json.dumps(about)[:-1]}, "data": ['.encode()


def _calls(stored: Stored, tick: Tick) -> Iterator[bytes]:
    """The long table, a part at a time."""
    texts, first = TextColumns(json.dumps), True
    yield _head("calls", exported_columns("calls"))
    for part in parts(stored, tick):
        columns = [texts.of(part, column.name) for column in CALLS]
        values = joined(digits(part.index.to_numpy()), *columns, between=",", null="null")
        rows = content(joined(",\n[", values, "]"))
        yield rows[1:] if first else rows
        first = False
    yield b"\n]}"


def _rows(frame: pd.DataFrame, columns: tuple[PublicColumn, ...]) -> Iterator[bytes]:
    """A short table, row by row."""
    values: list[list[Any]] = []
    for column in columns:
        unknown = frame[column.name].isna().tolist()  # NaN in a column of Float64 is a value
        plain = frame[column.name].astype(object).tolist()
        values.append([None if lacks else value for value, lacks in zip(plain, unknown, strict=True)])
    for row in zip(*values, strict=True):
        yield json.dumps([_finite(value) for value in row], allow_nan=False).encode()


def _finite(value: Any) -> Any:
    """A value that JSON can hold: "nan", "inf" and "-inf" for numbers that it does not have."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
