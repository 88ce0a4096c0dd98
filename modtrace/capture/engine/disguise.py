"""Makes a Python function stand in a traceback where a function of torch's stands that it does the work of."""

from __future__ import annotations

import dis
import functools
import sys
from collections.abc import Iterator
from types import CodeType
from typing import Any, Final

_HAS_COLUMNS: Final = sys.version_info >= (3, 11)
_LONGEST: Final = 8
"""Code units that one entry of python's table of positions tells of."""
_LONGEST_OLD: Final = 254
"""Bytes of code that one entry of the table of lines tells of, in Python 3.10."""
_LONG_FORM, _NO_COLUMNS = 14, 13
"""Forms of an entry: with columns and without, see `Objects/locations.md` of python."""


@functools.cache
def disguised(code: CodeType, torchs: CodeType) -> CodeType:
    """`code` with the file, the name and the first line of other code, and with the place of its last call on each
    instruction: a frame that runs it is printed as one of `torchs` that makes that call.
    """
    names: dict[str, Any] = {
        "co_filename": torchs.co_filename,
        "co_name": torchs.co_name,
        "co_firstlineno": torchs.co_firstlineno,
        "co_linetable": _table(len(code.co_code), torchs),
    }
    if _HAS_COLUMNS:
        names["co_qualname"] = torchs.co_qualname  # type: ignore[attr-defined, unused-ignore]
    return code.replace(**names)


def _table(length_bytes: int, torchs: CodeType) -> bytes:
    """A table that says of all of some code that it stands where other code makes its last call."""
    line, end_line, column, end_column = _last_call(torchs)
    delta = line - torchs.co_firstlineno
    table = bytearray()
    if not _HAS_COLUMNS:
        while length_bytes > 0:
            table += bytes((min(length_bytes, _LONGEST_OLD), delta & 0xFF))
            length_bytes -= _LONGEST_OLD
            delta = 0
        return bytes(table)
    units = length_bytes // 2
    while units > 0:
        count = min(units, _LONGEST)
        form = _NO_COLUMNS if column is None or end_column is None else _LONG_FORM
        table.append(0x80 | form << 3 | count - 1)
        table += bytes(_signed(delta))
        if column is not None and end_column is not None:
            table += bytes((*_varint(end_line - line), *_varint(column + 1), *_varint(end_column + 1)))
        units -= count
        delta = 0
    return bytes(table)


def _last_call(code: CodeType) -> tuple[int, int, int | None, int | None]:
    """(line, last line, column, last column) of the last call that code makes; columns are None where not known."""
    line, place = code.co_firstlineno, None
    for instruction in dis.get_instructions(code):
        if instruction.starts_line and not isinstance(instruction.starts_line, bool):
            line = instruction.starts_line
        if instruction.opname.startswith("CALL"):
            place = (line, getattr(instruction, "positions", None))
    if place is None:
        return line, line, None, None
    line, positions = place
    if positions is None or positions.lineno is None:
        return line, line, None, None
    end_line = positions.end_lineno if positions.end_lineno is not None else positions.lineno
    return positions.lineno, end_line, positions.col_offset, positions.end_col_offset


def _varint(value: int) -> Iterator[int]:
    while value >= 64:
        yield 0x40 | value & 0x3F
        value >>= 6
    yield value


def _signed(value: int) -> Iterator[int]:
    return _varint(-value << 1 | 1 if value < 0 else value << 1)
