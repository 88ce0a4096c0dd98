"""Stretches of steps that were left out (`--keep`), as they were written."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column
from modtrace.errors import TraceError
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored

Ints = npt.NDArray[np.int64]

MANY_STEPS: Final = 1 << 24
"""More steps than that are not looked at: they would not fit into memory."""
_COLUMNS: Final = ("first_step", "end_step", "from_ns", "to_ns", "every")


@once
def left_out(stored: Stored, process: int) -> Ints:
    """The stretches of steps of a process of which no calls were written, in order; those that contradict an earlier
    one are left out; made once.

    Returns:
        First step, first step behind, when they began and ended, and of how many steps one was written then:
        shape (stretches, 5).

    Raises:
        TraceError: there are more steps than a trace can have.
    """
    table = stored.table("thinned")
    own = column(table, "process") == process
    rows = np.stack([column(table, name).astype(np.int64)[own] for name in _COLUMNS], 1)
    stretches: list[list[int]] = []
    step = at_ns = 0
    for first, end, from_ns, to_ns, every in rows[np.argsort(rows[:, 0], kind="stable")].tolist():
        if first >= step and end > first and at_ns <= from_ns <= to_ns:
            stretches.append([first, end, from_ns, to_ns, max(every, 1)])
            step, at_ns = end, to_ns
    if step > MANY_STEPS:
        raise TraceError(f"the trace contradicts itself: it says that it has {step:,} steps")
    return np.array(stretches, np.int64).reshape(-1, len(_COLUMNS))
