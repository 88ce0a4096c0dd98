"""Which steps count in statistics: the one rule for every summary, table, view and finding.

The first step warms up. Steps in which operations were counted, memory or kernels were watched or torch compiled take
longer for it, and those that did not come to their end are cut short. All of them are left
out, as far as there are others.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column, nullable_codes
from modtrace.analysis.compilations import compiled_steps
from modtrace.analysis.timeline import timeline
from modtrace.analysis.work import work_of_steps
from modtrace.trace.reader import Stored
from modtrace.units import count

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Chosen:
    """The steps that count in statistics, as an array element a step, and in words: `steps 1-4; the first left out`."""

    steps: Bools
    text: str


def choose(
    whole: Bools, counted: Bools, watched: Bools, first: int = 0, *, compiled: Bools | None = None
) -> Chosen:
    """The steps that count.

    Args:
        whole: which came to their end.
        counted: in which operations were counted.
        watched: in which memory or kernels were watched.
        first: the number of the first of these steps; only of step 0 on is the first left out.
        compiled: in which torch compiled; None for none.
    """
    compiled = np.zeros(len(whole), np.bool_) if compiled is None else compiled
    later = whole.copy()
    if not first and whole.any():
        later[int(whole.argmax())] = False
    usual = later & ~compiled
    for some in (usual & ~counted & ~watched, usual & ~counted, later & ~counted, later, whole):
        if some.any():
            return Chosen(some, _text(some, (whole, later, counted, watched, compiled), first))
    return Chosen(np.ones(len(whole), np.bool_), "none of the steps came to its end" if len(whole) else "")


def _text(some: Bools, facts: tuple[Bools, Bools, Bools, Bools, Bools], first: int) -> str:
    whole, later, counted, watched, compiled = facts
    at = np.flatnonzero(some)
    low, high = int(at[0]) + first, int(at[-1]) + first
    if high - low + 1 > len(at):
        steps = f"{count(len(at))} of {count(len(some))} steps"
    else:
        steps = f"step {low}" if low == high else f"steps {low}-{high}"
    left = ["the first"] if bool((whole & ~later & ~some).any()) else []
    out = later & ~some
    numbers = (
        (out & counted, "with FLOP counting"),
        (out & ~counted & watched, "watched"),
        (out & ~counted & ~watched & compiled, "with compiling"),
        (~whole & ~some, "that did not end"),
    )
    left += [f"{count(int(which.sum()))} {what}" for which, what in numbers if which.any()]
    return f"{steps}; {_listed(left)} left out" if left else steps


def _listed(parts: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def quantile(values: Ints, share: int) -> int:
    """The value below which so many percent are, nearest rank."""
    return int(np.sort(values)[(len(values) * share + 99) // 100 - 1])


_made: weakref.WeakKeyDictionary[Stored, list[Chosen]] = weakref.WeakKeyDictionary()


def chosen_steps(stored: Stored, process: int) -> Chosen:
    """The steps of one process that count; made once."""
    if stored not in _made:
        _made[stored] = [_of_process(stored, number) for number in range(len(stored.processes))]
    return _made[stored][process]


def _of_process(stored: Stored, process: int) -> Chosen:
    line = timeline(stored)
    found = line.steps[process]
    low, high = np.searchsorted(column(line.calls, "process"), [process, process + 1]).tolist()
    counted = work_of_steps(stored, low, high, len(found)).counted
    table = stored.table("watched")
    own = column(table, "process") == process
    watched = np.zeros(len(found), np.bool_)
    for since, until in zip(
        column(table, "from_ns")[own].tolist(), column(table, "to_ns")[own].tolist(), strict=True
    ):
        watched |= (found.start < until) & (found.end > since)
    return choose(found.whole, counted, watched, compiled=compiled_steps(stored, process))


_rows: weakref.WeakKeyDictionary[Stored, Bools] = weakref.WeakKeyDictionary()


def rows_that_count(stored: Stored) -> Bools:
    """Which rows of the timeline are in steps that count; made once."""
    if stored not in _rows:
        _rows[stored] = _rows_that_count(stored)
    return _rows[stored]


def _rows_that_count(stored: Stored) -> Bools:
    table = timeline(stored).calls
    process, step = column(table, "process"), nullable_codes(table, "step")
    counts = np.zeros(len(table), np.bool_)
    for number in range(len(stored.processes)):
        chosen = np.append(chosen_steps(stored, number).steps, False)
        own = process == number
        counts[own] = chosen[np.minimum(step[own], len(chosen) - 1)]
    return counts & (step >= 0)
