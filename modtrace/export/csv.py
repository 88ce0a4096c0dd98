"""CSV: one line a call."""

from __future__ import annotations

import csv
import os
import tempfile
from pathlib import Path
from typing import Any, TextIO

from modtrace.analysis.calls import calls
from modtrace.errors import UsageError
from modtrace.text import cell, plain
from modtrace.trace.reader import Stored

_TEXTS = ("kind", "name", "type", "root", "inputs", "outputs", "status", "error", "source_file")


def to_csv(stored: Stored, target: str | os.PathLike[str] | TextIO, *, raw: bool = False) -> None:
    """Write the calls of a trace as CSV, UTF-8, lines ending in a newline.

    Args:
        stored: the trace.
        target: a path, written whole or not at all and readable by the user alone; or a text stream.
        raw: leave texts that a spreadsheet would take for formulas as they are, for programs to read.

    Raises:
        UsageError: the path cannot be written.
    """
    frame = calls(stored)
    for name in _TEXTS:
        column: Any = frame[name]
        texts = [plain(str(text)) for text in column.cat.categories]
        frame[name] = column.cat.rename_categories(texts if raw else [cell(text) for text in texts])
    if hasattr(target, "write"):
        frame.to_csv(target, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
        return
    path = Path(target)
    try:
        descriptor, part = tempfile.mkstemp(prefix=".", suffix=".csv", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
                frame.to_csv(file, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
            os.replace(part, path)
        except BaseException:
            os.unlink(part)
            raise
    except OSError as error:
        raise UsageError(f"cannot write {plain(str(path))}: {error.strerror or error}") from None
