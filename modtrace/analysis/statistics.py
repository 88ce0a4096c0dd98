"""The steps that count in statistics: the one rule for every summary, table, view and finding.

The first step warms up. Steps in which operations were counted, memory or kernels were watched or torch compiled take
longer for it, and those that did not come to their end are cut short. Where steps were left out, those that are
recorded because they are remarkable would make all look so. All of them are left out, as far as there are others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column, nullable_codes
from modtrace.analysis.compilations import compiled_steps
from modtrace.analysis.flops import work_of_steps
from modtrace.analysis.thinned_steps import every_of
from modtrace.analysis.timeline import timeline
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.units import count

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Chosen:
    """The steps that count in statistics, as an array element a step, and in words: `steps 1-4; the first left out`.

    remarkable: further steps whose times are those of the program, which are recorded because they are not usual
        (`--keep`): the slowest of all is among them. None for none.
    """

    steps: Bools
    text: str
    remarkable: Bools | None = None


def choose(
    ended: Bools,
    counted: Bools,
    watched: Bools,
    first: int = 0,
    *,
    compiled: Bools | None = None,
    recorded: Bools | None = None,
    besides: Bools | None = None,
) -> Chosen:
    """The steps that count.

    Args:
        ended: which came to their end.
        counted: in which operations were counted.
        watched: in which memory or kernels were watched.
        first: the number of the first of these steps; only of step 0 on is the first left out.
        compiled: in which torch compiled; None for none.
        recorded: of which calls are recorded; None for all.
        besides: which are recorded because they are remarkable, where most are not; None for none.
    """
    besides = np.zeros(len(ended), np.bool_) if besides is None else besides
    recorded = np.ones(len(ended), np.bool_) if recorded is None else recorded
    compiled = np.zeros(len(ended), np.bool_) if compiled is None else compiled
    later = ended.copy()
    if not first and ended.any():
        later[int(ended.argmax())] = False
    usual = later & ~compiled & ~besides
    for chosen in (usual & ~counted & ~watched, usual & ~counted, later & ~counted, later, ended):
        if chosen.any():
            facts = (ended, later, counted, watched, compiled, recorded, besides)
            remarkable = later & besides & ~counted & ~watched & ~compiled if besides.any() else None
            return Chosen(chosen, _text(chosen, facts, first), remarkable)
    return Chosen(np.ones(len(ended), np.bool_), "none of the steps came to its end" if len(ended) else "")


def _text(chosen: Bools, facts: tuple[Bools, ...], first: int) -> str:
    ended, later, counted, watched, compiled, recorded, besides = facts
    numbers_chosen = np.flatnonzero(chosen)
    low, high = int(numbers_chosen[0]) + first, int(numbers_chosen[-1]) + first
    if high - low + 1 > len(numbers_chosen):
        steps = f"{count(len(numbers_chosen))} of {count(len(chosen))} steps"
    else:
        steps = f"step {low}" if low == high else f"steps {low}-{high}"
    left_out = ["the first"] if bool((ended & ~later & ~chosen).any()) else []
    out = later & ~chosen
    numbers = (
        (out & counted, "with FLOP counting"),
        (out & ~counted & watched, "watched"),
        (out & ~counted & ~watched & compiled, "with compiling"),
        (out & ~counted & ~watched & ~compiled & besides, "remarkable"),
        (~ended & ~chosen & recorded, "that did not end"),
        (~recorded, "not recorded in full"),
    )
    left_out += [f"{count(int(which.sum()))} {why}" for which, why in numbers if which.any()]
    return f"{steps}; {_listed(left_out)} left out" if left_out else steps


def _listed(parts: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def quantile(values: Ints, share: int) -> int:
    """The value below which so many percent are, nearest rank."""
    return int(np.sort(values)[(len(values) * share + 99) // 100 - 1])


@once
def chosen_steps(stored: Stored, process: int) -> Chosen:
    """The steps of one process that count; made once."""
    line = timeline(stored)
    steps = line.steps[process]
    low, high = np.searchsorted(column(line.calls, "process"), [process, process + 1]).tolist()
    counted = work_of_steps(stored, low, high, len(steps)).counted
    table = stored.table("watched")
    of_process = column(table, "process") == process
    watched = np.zeros(len(steps), np.bool_)
    for since, until in zip(
        column(table, "from_ns")[of_process].tolist(),
        column(table, "to_ns")[of_process].tolist(),
        strict=True,
    ):
        watched |= (steps.start < until) & (steps.end > since)
    compiled = compiled_steps(stored, process)
    return choose(
        steps.whole,
        counted,
        watched,
        compiled=compiled,
        recorded=steps.recorded,
        besides=every_of(stored, process) < 0,
    )


@once
def rows_that_count(stored: Stored) -> Bools:
    """Mask of the rows of the timeline in steps that count; made once."""
    table = timeline(stored).calls
    process, step = column(table, "process"), nullable_codes(table, "step")
    counts = np.zeros(len(table), np.bool_)
    for number in range(len(stored.processes)):
        chosen = np.append(chosen_steps(stored, number).steps, False)
        of_process = process == number
        counts[of_process] = chosen[np.minimum(step[of_process], len(chosen) - 1)]
    return counts & (step >= 0)
