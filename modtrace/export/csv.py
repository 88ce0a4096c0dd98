"""CSV: one line a row of a table, as RFC 4180 has it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import pandas as pd

from modtrace.analysis.tables import exported
from modtrace.export.lines import TextColumns, content, digits, joined, parts, ranges
from modtrace.export.target import Tick, silent
from modtrace.text import cell, plain
from modtrace.trace.dataframes import PublicColumn, exported_columns
from modtrace.trace.reader import Stored
from modtrace.trace.schema import CALL_COLUMNS

_NEEDS_QUOTES: Final = re.compile(r'[",\r\n]|^ | $|^$')


def csv(stored: Stored, tick: Tick = silent, *, table: str = "calls", raw: bool = False) -> Iterator[bytes]:
    """A table of a trace as CSV: UTF-8, a header, lines that end in CR LF, nothing for null and `""` for no text.

    Control characters are escapes; a text that a spreadsheet would take for a formula gets a `'` in front. Lists are
    JSON.

    Args:
        stored: the trace.
        tick: told of the progress.
        table: a name of `dataframes.EXPORTED`.
        raw: leave texts that look like formulas as they are, for programs to read.
    """
    field = _field(raw)
    yield (",".join(column.name for column in exported_columns(table)) + "\r\n").encode()
    if table == "calls":
        yield from _calls(stored, tick, field)
        return
    frame, columns = exported(stored, table), exported_columns(table)
    for low, high in ranges(len(frame), tick):
        part = frame.iloc[low:high]
        texts = [_column(part[column.name], column, field) for column in columns]
        yield "".join(",".join(row) + "\r\n" for row in zip(*texts, strict=True)).encode()


def _calls(stored: Stored, tick: Tick, field: Callable[[str], str]) -> Iterator[bytes]:
    """The lines of the long table."""
    texts = TextColumns(field)
    for part in parts(stored, tick):
        columns = [texts.of(part, name) for name in CALL_COLUMNS]
        yield content(joined(joined(digits(part.index.to_numpy()), *columns, between=","), "\r\n"))


def _column(values: pd.Series[Any], shown: PublicColumn, field: Callable[[str], str]) -> list[str]:
    """The values of a column as cells."""
    if shown.type == "list":
        return [field(json.dumps(texts, ensure_ascii=False)) for texts in values]
    if shown.type in ("str", "category"):
        return [
            "" if unknown else field(str(text)) for text, unknown in zip(values, values.isna(), strict=True)
        ]
    if shown.type in ("bool", "boolean"):
        return ["" if pd.isna(flag) else "true" if flag else "false" for flag in values]
    unknown = values.isna()  # NaN among Float64 is a value
    return ["" if lacks else str(number) for number, lacks in zip(values.tolist(), unknown, strict=True)]


def _field(raw: bool) -> Callable[[str], str]:
    def field(text: str) -> str:
        text = plain(text) if raw else cell(plain(text))
        return '"' + text.replace('"', '""') + '"' if _NEEDS_QUOTES.search(text) else text

    return field
