"""Steps that were left out (`--keep`): which, and how views say so."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.left_out import left_out
from modtrace.analysis.timeline import timeline
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.units import count

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FULL: Final = "full"
"""In the table `asked`: steps that are recorded in full."""


@once
def every_of(stored: Stored, process: int) -> Ints:
    """Of how many steps around each step of a process one was recorded, -1 for one that was recorded besides because
    it was remarkable; 1 for one that somebody asked for. An array element a step, made once.
    """
    stretches, number = left_out(stored, process), np.arange(len(timeline(stored).steps[process]))
    if not len(stretches):
        return np.ones(len(number), np.int64)
    behind = np.searchsorted(stretches[:, 0], number, side="right")
    every: Ints = np.append(stretches[:, 4], stretches[-1, 4])[np.maximum(behind - 1, 0)]
    every[number < stretches[0, 0]] = 1
    recorded = timeline(stored).steps[process].recorded
    every[asked_for(stored, process) & recorded] = 1
    return np.where(recorded & (number % every != 0), -1, every)


def asked_for(stored: Stored, process: int) -> Bools:
    """The steps of a process that somebody who looked at the run asked for in full."""
    table = stored.table("asked")
    wanted = np.zeros(len(timeline(stored).steps[process]), np.bool_)
    columns = (table.column(name).to_pylist() for name in ("process", "what", "first_step", "end_step"))
    for number, what, first, end in zip(*columns, strict=True):
        if number == process and what == FULL:
            wanted[max(first, 0) : max(end, 0)] = True
    return wanted


def thinned_text(stored: Stored, process: int) -> str:
    """`steps 41 to 8,191: 1 in 8 in full`; of a trace that became thinner `1 in 2 to 1 in 8`, and the number of those
    that are recorded besides: `and 14 remarkable and 3 asked for`. Empty where none was left out.
    """
    if process >= len(stored.processes):
        return ""
    stretches = left_out(stored, process)
    if not len(stretches):
        return ""
    first, last = int(stretches[0, 0]), int(stretches[-1, 1]) - 1
    least, most = int(stretches[:, 4].min()), int(stretches[:, 4].max())
    often = f"1 in {count(most)}" if least == most else f"1 in {count(least)} to 1 in {count(most)}"
    besides = int(np.count_nonzero(every_of(stored, process)[first : last + 1] < 0))
    steps = timeline(stored).steps[process]
    asked = np.count_nonzero((asked_for(stored, process) & steps.recorded)[first : last + 1])
    parts = [f"{count(besides)} remarkable"] if besides else []
    parts += [f"{count(int(asked))} asked for"] if asked else []
    more = f", and {' and '.join(parts)}" if parts else ""
    return f"steps {count(first)} to {count(last)}: {often} in full{more}"
