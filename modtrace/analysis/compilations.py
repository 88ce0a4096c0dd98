"""Compilations by torch: how often, for how long and why again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.analysis.columns import column, nullable, values_and_known
from modtrace.analysis.intervals import covered
from modtrace.analysis.timeline import timeline
from modtrace.trace.reader import Stored

if TYPE_CHECKING:
    import pandas as pd

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def compilations(stored: Stored) -> pd.DataFrame:
    """One row a time that torch compiled something, in order of start within each rank."""
    import pandas as pd

    table = stored.table("compilations")
    start, process = column(table, "start_ns").astype(np.int64), column(table, "process")
    ranks = np.array([about.rank for about in stored.processes] or [0], np.int64)
    step = _steps_at(stored, start, process)
    data: dict[str, Any] = {
        "rank": ranks[process],
        "step": pd.arrays.IntegerArray(np.maximum(step, 0), step < 0),
        "start_ns": start,
        "duration_ns": nullable(table, "duration_ns"),
        **{name: _texts(table, name) for name in ("compile", "function", "source_file")},
        "source_line": nullable(table, "source_line"),
        "backward": table.column("backward").to_pylist(),
        "operations": nullable(table, "operations"),
        "recompiled": table.column("recompiled").to_pylist(),
        "reason": _texts(table, "reason"),
        "error": _texts(table, "error"),
    }
    frame = pd.DataFrame(data)
    for name in ("backward", "recompiled"):
        frame[name] = frame[name].astype(bool)
    return frame.sort_values(["rank", "start_ns"], kind="stable", ignore_index=True)


def _texts(table: pa.Table, name: str) -> pd.Series[Any]:
    import pandas as pd

    return pd.Series(table.column(name).to_pylist(), dtype=object)


def _steps_at(stored: Stored, at_ns: Ints, process: Ints) -> Ints:
    """The step of its process that a moment is in, -1 for none."""
    step = np.full(len(at_ns), -1, np.int64)
    for number, steps in enumerate(timeline(stored).steps):
        of_process = process == number
        if not len(steps) or not of_process.any():
            continue
        index = np.searchsorted(steps.start, at_ns[of_process], side="right") - 1
        step[of_process] = np.where(
            (index >= 0) & (at_ns[of_process] < steps.end[np.maximum(index, 0)]), index, -1
        )
    return step


def compiled_steps(stored: Stored, process: int = 0) -> Bools:
    """Mask of the steps of a process in which torch compiled: their times are not those of the program."""
    steps = timeline(stored).steps
    if process >= len(steps):
        return np.zeros(0, np.bool_)
    table = stored.table("compilations")
    of_process = column(table, "process") == process
    start = column(table, "start_ns").astype(np.int64)[of_process]
    end = start + values_and_known(table, "duration_ns")[0][of_process]
    inside = np.zeros(len(steps[process]), np.bool_)
    for low, high in zip(start.tolist(), end.tolist(), strict=True):
        inside |= (steps[process].start < high) & (steps[process].end > low)
    return inside


@dataclass(frozen=True)
class Compiled:
    """Compilations of one process. `spent_ns` counts overlapping compilations once; `reasons` are those of
    compiling again, the commonest first, each with its number and the function.
    """

    graphs: int
    backward_graphs: int
    recompiles: int
    failed: int
    spent_ns: int
    reasons: list[tuple[str, int, str]]


def compiled(stored: Stored, process: int = 0) -> Compiled | None:
    """Compilations of one process; None where it compiled nothing."""
    table = stored.table("compilations")
    rows = [row for row in table.to_pylist() if row["process"] == process]
    if not rows:
        return None
    start = np.array([row["start_ns"] for row in rows], np.int64)
    spent = np.array([row["duration_ns"] or 0 for row in rows], np.int64)
    reasons: dict[tuple[str, str], int] = {}
    for row in rows:
        if row["recompiled"]:
            key = (row["reason"] or "?").partition(": ")[2] or row["reason"] or "?", row["function"] or "?"
            reasons[key] = reasons.get(key, 0) + 1
    return Compiled(
        graphs=sum(not row["backward"] and row["error"] is None and bool(row["operations"]) for row in rows),
        backward_graphs=sum(row["backward"] for row in rows),
        recompiles=sum(row["recompiled"] for row in rows),
        failed=sum(row["error"] is not None for row in rows),
        spent_ns=covered(start, spent),
        reasons=[
            (reason, times, function)
            for (reason, function), times in sorted(
                reasons.items(), key=lambda reason_count: -reason_count[1]
            )
        ],
    )
