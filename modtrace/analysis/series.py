"""Curves: one module over the steps, and memory over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modtrace.analysis import recompute
from modtrace.analysis.call_values import VALUE_COLUMNS, call_values, extremes
from modtrace.analysis.columns import categorical, column, floats, nullable_codes, values_and_known
from modtrace.analysis.device_times import device_times
from modtrace.analysis.flops import work
from modtrace.analysis.memory import NEVER, Memory, memory, of_calls
from modtrace.analysis.phases import RECOMPUTE, Steps
from modtrace.analysis.series_rows import rows_named, rows_of_number
from modtrace.analysis.thinned_steps import every_of
from modtrace.analysis.timeline import timeline
from modtrace.trace.call_table import CallTable
from modtrace.trace.dataframes import MODULE_SERIES
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, CATEGORIES, MODULE

if TYPE_CHECKING:
    import pandas as pd

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def module_series(stored: Stored, name: str | int, class_name: str | None = None) -> pd.DataFrame:
    """A module, or a phase, in each step in which it ran, indexed by `step`; columns as in frames.MODULE_SERIES.

    Args:
        stored: the trace.
        name: the number of a module, or a name as `rows_named` takes it.
        class_name: only what is of this class.

    Raises:
        UsageError: nothing has that name, or several unlike things have.
    """
    import pandas as pd

    table = timeline(stored).calls
    step = nullable_codes(table, "step")
    named = rows_of_number(stored, name) if isinstance(name, int) else rows_named(stored, name, class_name)
    rows = np.flatnonzero(named & (step >= 0))
    part = table.take(rows)
    duration, timed = values_and_known(part, "duration_ns")
    again_ns, again_known = recompute.inside_of(table, *values_and_known(table, "duration_ns"))
    below, timed = again_ns[rows], timed & again_known[rows]
    self_ns, self_timed = values_and_known(part, "self_ns")
    call_kind, again = column(part, "kind"), nullable_codes(part, "phase") == RECOMPUTE
    forward, backward = (call_kind == MODULE) & ~again, call_kind == BACKWARD
    of_label = ~part.known("module")
    again = ((call_kind == MODULE) & again) | (backward & (below > 0))
    pairs, group = np.unique(column(part, "rank") << 40 | step[rows], return_inverse=True)
    sums = _Sums(group, len(pairs))
    on_device, computed = device_times(stored).device_ns[rows], work(stored).flops[rows]
    least = work(stored).least[rows]
    allocated = of_calls(stored)
    peak = np.zeros(len(pairs), np.int64)
    np.maximum.at(peak, group, allocated.peak_bytes[rows])
    every = np.ones(len(rows), np.bool_)
    data: dict[str, Any] = {
        "rank": pairs >> 40,
        "every": _every(stored, part, pairs, group),
        "calls": np.bincount(group[forward | of_label], minlength=len(pairs)),
        "total_ns": sums.of(duration, values_and_known(part, "duration_ns")[1], every),
        "forward_ns": sums.of(duration, timed, forward),
        "backward_ns": sums.of(duration - below, timed, backward),
        "recompute_ns": sums.of(np.where(backward, below, duration), timed, again),
        "self_ns": sums.of(self_ns, self_timed, every),
        "device_ns": sums.of(on_device, on_device >= 0, every),
        "flops": sums.of(computed, computed >= 0, every),
        "flops_at_least": sums.of(least, least >= 0, every),
        "memory_peak_bytes": pd.arrays.IntegerArray(peak, ~sums.known(allocated.known[rows], every)),
    }
    for key in VALUE_COLUMNS:
        values, read = call_values(stored).of(key, rows)
        least_of = key == "output_minimum"
        data[key] = floats(*extremes(group[read], values[read], len(pairs), least=least_of))
    index = pd.Index(pairs & ((1 << 40) - 1), name="step")
    return pd.DataFrame({shown.name: data[shown.name] for shown in MODULE_SERIES}, index=index)


def _every(stored: Stored, part: CallTable, pairs: Ints, group: Ints) -> pd.arrays.IntegerArray:
    """Of how many steps around each one is recorded; that of its last process, where a rank was restarted."""
    import pandas as pd

    process, every = np.zeros(len(pairs), np.int64), np.ones(len(pairs), np.int64)
    process[group] = column(part, "process")
    for number in np.unique(process).tolist():
        of_process = process == number
        every[of_process] = every_of(stored, number)[(pairs & ((1 << 40) - 1))[of_process]]
    return pd.arrays.IntegerArray(np.maximum(every, 0), every < 0)


class _Sums:
    """Sums over groups of rows, null for a group without rows or with one that is not known."""

    def __init__(self, group: Ints, count: int) -> None:
        self._group, self._count = group, count

    def known(self, known: Bools, chosen: Bools) -> Bools:
        """Groups that have rows of `chosen`, all of them known."""
        rows = np.bincount(self._group[chosen], minlength=self._count)
        lacking = np.bincount(self._group[chosen & ~known], minlength=self._count)
        every: Bools = (rows > 0) & (lacking == 0)
        return every

    def of(self, values: Ints, known: Bools, chosen: Bools) -> pd.arrays.IntegerArray:
        import pandas as pd

        total = np.zeros(self._count, np.int64)
        np.add.at(total, self._group[chosen & known], values[chosen & known])
        return pd.arrays.IntegerArray(total, ~self.known(known, chosen))


def memory_series(stored: Stored) -> pd.DataFrame:
    """Bytes held over time on each device of each process, one row a change; columns as in frames.MEMORY_SERIES.

    Empty where memory was not watched.
    """
    import pandas as pd

    line = timeline(stored)
    devices = sorted({allocations.device for allocations in memory(stored)})
    parts = [
        _of_device(
            allocations,
            stored.processes[allocations.process].rank,
            devices,
            line.steps[allocations.process],
        )
        for allocations in memory(stored)
    ]
    if parts:
        return pd.concat(parts, ignore_index=True)
    nobody = Memory(0, "", *(np.zeros(0, np.int64) for _ in range(5)))
    return _of_device(nobody, 0, [""], None)


def _of_device(allocations: Memory, rank: int, devices: list[str], steps: Steps | None) -> pd.DataFrame:
    import pandas as pd

    freed = allocations.freed_ns < NEVER
    times = np.concatenate([allocations.at_ns, allocations.freed_ns[freed]])
    change = np.concatenate([allocations.size_bytes, -allocations.size_bytes[freed]])
    category = np.concatenate([allocations.category, allocations.category[freed]])
    order = np.argsort(times, kind="stable")
    times, change, category = times[order], change[order], category[order]
    last = np.append(times[1:] != times[:-1], True)[
        : len(times)
    ]  # of several changes at once what comes of them
    moments = times[last]
    step = np.full(len(moments), -1, np.int64)
    if steps is not None and len(steps):
        index = np.searchsorted(steps.start, moments, side="right") - 1
        step = np.where((index >= 0) & (moments < steps.end[np.maximum(index, 0)]), index, -1)
    data: dict[str, Any] = {
        "rank": np.full(len(moments), rank, np.int64),
        "device": categorical(np.full(len(moments), devices.index(allocations.device), np.int64), devices),
        "at_ns": moments,
        "step": pd.arrays.IntegerArray(np.maximum(step, 0), step < 0),
        "held_bytes": np.cumsum(change)[last],
        **{
            f"{name}_bytes": np.cumsum(np.where(category == number, change, 0))[last]
            for number, name in enumerate(CATEGORIES)
        },
    }
    return pd.DataFrame(data)
