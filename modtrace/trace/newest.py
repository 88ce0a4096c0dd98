"""The newest trace of a directory that has something to show."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from modtrace.errors import TraceError
from modtrace.text import plain
from modtrace.trace.folder import find, find_denied, is_being_written, read_json
from modtrace.trace.schema import END_FILE
from modtrace.trace.stream_reader import Damage, ForeignSchema, read_batches


def newest(directory: Path) -> Path:
    """The newest trace in a directory that holds a call or is still being written.

    Raises:
        TraceError: there is none; the message says what is there instead.
    """
    traces = find(directory)
    for path in traces:
        if has_calls(path) or is_being_written(path):
            return path
    if traces:
        names = f"{plain(traces[0].name)}" + (f" and {len(traces) - 1} more" if len(traces) > 1 else "")
        raise TraceError(f"no trace here holds a call: {names}; name one to see why")
    unreadable = find_denied(directory)
    if unreadable:
        raise TraceError(f"{plain(unreadable[0].name)} cannot be read: permission denied")
    where = "here" if directory == Path.cwd() else f"in {plain(str(directory))}"
    raise TraceError(f"there is no trace {where}; make one with: modtrace run script.py")


def has_calls(path: Path) -> bool:
    """True where a process of a trace wrote a call, or where it cannot be told."""
    return any(_wrote_calls(folder) for folder in path.glob("rank-*"))


def noted_calls(folders: Iterable[Path]) -> int:
    """Calls of those processes of some folders that ended and noted how many they wrote."""
    return sum(_noted(folder) or 0 for folder in folders)


def _noted(folder: Path) -> int | None:
    """Calls that a process noted at its end; None where it did not."""
    rows = (read_json(folder / END_FILE) or {}).get("rows")
    number = rows.get("calls", 0) if isinstance(rows, dict) else None
    return number if type(number) is int else None


def _wrote_calls(folder: Path) -> bool:
    number = _noted(folder)
    if number is not None:
        return number > 0
    try:
        return any(len(batch.rows) for batch in read_batches(folder / "calls.arrows", "calls"))
    except (Damage, ForeignSchema):
        return True
