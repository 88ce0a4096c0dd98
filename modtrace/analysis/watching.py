"""Steps asked to be watched (`--memory`, `--kernels`, `--saved`), and those that were, from begin to end.

While a program runs the number of a step is not always known, so more is watched than was asked for. Here it is cut to
the steps that were meant.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.analysis.columns import column
from modtrace.analysis.timeline import timeline
from modtrace.trace.arrow_arrays import array
from modtrace.trace.batch_columns import values_of
from modtrace.trace.reader import Stored

Ints = npt.NDArray[np.int64]

MEMORY, KERNELS, SAVED = "memory", "kernels", "saved"
ALWAYS: Final = (-(1 << 62), 1 << 62)
NEVER: Final = (0, -1)


def asked(stored: Stored, process: int, recorded: str) -> tuple[int, int] | None:
    """The first step of a process that was to be watched and the one after the last; None where that is not written."""
    table = stored.table("asked")
    for row in table.to_pylist():
        if row["process"] == process and row["what"] == recorded:
            return row["first_step"], row["end_step"]
    return None


def window(stored: Stored, process: int, recorded: str) -> tuple[int, int]:
    """From when to when the steps lasted that were to be watched, in nanoseconds since the start of recording."""
    meant = asked(stored, process, recorded)
    steps = timeline(stored).steps[process] if process < len(timeline(stored).steps) else None
    if meant is None or steps is None:
        return ALWAYS
    first, end = meant[0], min(meant[1], len(steps))
    if not len(steps) and not first:  # no module was called
        return ALWAYS
    return (int(steps.start[first]), int(steps.end[first:end].max())) if first < end else NEVER


def stretches(stored: Stored, process: int, recorded: str) -> tuple[Ints, Ints]:
    """When each stretch of watching began and ended, in order."""
    table = stored.table("watched")
    noted = values_of(table.column(recorded))
    table = table.filter(array((column(table, "process") == process) & noted, pa.bool_()))
    low, high = column(table, "from_ns").astype(np.int64), column(table, "to_ns").astype(np.int64)
    order = np.argsort(low, kind="stable")
    low, high = low[order], high[order]
    line = timeline(stored)
    if len(low) and line.steps[process].by == "forward":
        # Such a step ends where the next call begins: what is between the end of watching and that is our own doing.
        start = np.sort(column(line.calls, "start_ns")[column(line.calls, "process") == process])
        following = np.searchsorted(start, high)
        followed = following < len(start)
        high[followed] = start[following[followed]]
    return low, high


def watched_whole(stored: Stored, process: int, recorded: str) -> list[int]:
    """The steps that were to be watched and were, from begin to end."""
    meant = asked(stored, process, recorded)
    if meant is None:
        return []
    steps = timeline(stored).steps[process]
    low, high = stretches(stored, process, recorded)
    watched = []
    for step in range(meant[0], min(meant[1], len(steps))):
        index = int(np.searchsorted(low, steps.start[step], side="right")) - 1
        if index >= 0 and steps.end[step] <= high[index]:
            watched.append(step)
    return watched


def notes(stored: Stored, *kinds: str) -> list[str]:
    """Lines of text, one an option: the steps watched from begin to end, of the first process that has them."""
    lines: dict[str, str] = {}
    for process in range(len(stored.processes)):
        for recorded in kinds:
            meant = asked(stored, process, recorded)
            if meant is not None and recorded not in lines:
                watched = watched_whole(stored, process, recorded)
                steps_watched = (
                    steps_text(watched) if watched else f"none of {steps_text(list(range(*meant)))}"
                )
                lines[recorded] = f"{recorded:<9} watched whole: {steps_watched}"
    return list(lines.values())


def steps_text(steps: list[int]) -> str:
    """`step 3`, `steps 0 to 2`, `steps 0 to 2, 5`."""
    runs: list[list[int]] = []
    for step in steps:
        if runs and runs[-1][1] == step - 1:
            runs[-1][1] = step
        else:
            runs.append([step, step])
    texts = [str(low) if low == high else f"{low} to {high}" for low, high in runs]
    return f"{'step' if len(steps) == 1 else 'steps'} {', '.join(texts)}"
