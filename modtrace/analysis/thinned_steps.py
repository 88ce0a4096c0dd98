"""Steps that were left out (`--keep`): which, and how views say so."""

from __future__ import annotations

import numpy as np

from modtrace.analysis.phases import Stretch
from modtrace.trace.reader import Stored
from modtrace.trace.table_keys import ints


def stretches_of(stored: Stored, process: int) -> list[Stretch]:
    """The stretches of steps of a process of which no calls were written, in order; those that contradict an earlier
    one are left out.
    """
    table = stored.table("thinned")
    names = ("first_step", "end_step", "from_ns", "to_ns")
    rows = np.stack([ints(table, name)[ints(table, "process") == process] for name in names], 1)
    stretches: list[Stretch] = []
    step = at_ns = 0
    for first, end, from_ns, to_ns in rows[np.argsort(rows[:, 0], kind="stable")].tolist():
        if first >= step and end > first and at_ns <= from_ns <= to_ns:
            stretches.append(Stretch(end - first, from_ns, to_ns))
            step, at_ns = end, to_ns
    return stretches
