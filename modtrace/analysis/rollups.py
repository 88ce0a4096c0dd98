"""Rollups: a module in a step as one row of sums, the same whether it comes from raw calls or was written as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis import recompute
from modtrace.analysis.columns import column, distinct_pairs, nullable_codes, values_and_known
from modtrace.analysis.device_times import device_times
from modtrace.analysis.flops import work
from modtrace.analysis.memory import of_calls
from modtrace.analysis.phases import RECOMPUTE
from modtrace.analysis.timeline import timeline
from modtrace.trace.call_table import same
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, MODULE

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

UNKNOWN: Final = -1


@dataclass(frozen=True)
class Rollups:
    """Sums of each module in each step in which it ran, an array element a pair of both; ordered by process, step and
    module. UNKNOWN stands for a number of which a part is not known, and for that of nothing: `backward_ns` of a module
    without a backward. `process`, `rank`, `step`, `module` and `calls` are always known.

    process: index into `Stored.processes`.
    rank: that of the process.
    step: number of the step in its process. What ran outside of steps is in no row.
    module: row of the table `modules`.
    calls: module calls, those left out that checkpointing made again.
    forward_ns: time of these calls, with everything inside them.
    backward_ns: time of its backwards with everything inside them but what checkpoints computed again.
    wait_ns: time of both in which it waited in collectives.
    device_ns: time on the device, of backwards and of calls made again too.
    peak_bytes: the most that its process held during one of its calls or backwards, where memory was watched.
    flops: of the same as `device_ns`.
    """

    process: Ints
    rank: Ints
    step: Ints
    module: Ints
    calls: Ints
    forward_ns: Ints
    backward_ns: Ints
    wait_ns: Ints
    device_ns: Ints
    peak_bytes: Ints
    flops: Ints

    def __len__(self) -> int:
        return len(self.step)

    def chosen(self, rows: Bools | Ints) -> Rollups:
        """Some of the rows, by a mask or by their numbers."""
        return Rollups(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


@once
def rollup(stored: Stored) -> Rollups:
    """The rollups of all processes of a trace; made once."""
    table = timeline(stored).calls
    step, module = nullable_codes(table, "step"), nullable_codes(table, "module")
    call_kind = column(table, "kind")
    chosen = (step >= 0) & (module >= 0) & ((call_kind == MODULE) | (call_kind == BACKWARD))
    rows = np.flatnonzero(chosen)
    steps, modules, group = distinct_pairs(step[rows], module[rows])
    process = column(stored.table("modules"), "process").astype(np.int64)[modules]
    if len(stored.processes) > 1:  # modules of a later process have higher numbers, its steps have not
        order = np.argsort(process, kind="stable")
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        process, steps, modules, group = process[order], steps[order], modules[order], place[group]
    sums = _GroupSums(group, len(steps))
    duration, timed = values_and_known(table, "duration_ns")
    again_ns, again_timed = recompute.inside_of(table, duration, timed)
    spent, spent_known = (duration - again_ns)[rows], (timed & again_timed)[rows]
    backward = call_kind[rows] == BACKWARD
    forward = ~backward & (nullable_codes(table, "phase")[rows] != RECOMPUTE)
    every = np.ones(len(rows), np.bool_)
    on_device, flops, allocated = device_times(stored).device_ns, work(stored).flops, of_calls(stored)
    return Rollups(
        process=process,
        rank=np.array([known.rank for known in stored.processes], np.int64)[process],
        step=steps,
        module=modules,
        calls=np.bincount(group[forward], minlength=len(steps)),
        forward_ns=sums.of(spent, spent_known, forward),
        backward_ns=sums.of(spent, spent_known, backward),
        wait_ns=same(UNKNOWN, np.int64, len(steps)),
        device_ns=sums.of(on_device[rows], on_device[rows] >= 0, every),
        peak_bytes=sums.highest(allocated.peak_bytes[rows], allocated.known[rows]),
        flops=sums.of(flops[rows], flops[rows] >= 0, every),
    )


class _GroupSums:
    """Numbers of groups of rows, UNKNOWN for a group without rows or with one that is not known."""

    def __init__(self, group: Ints, count: int) -> None:
        self._group, self._count = group, count

    def _known(self, known: Bools, chosen: Bools) -> Bools:
        rows = np.bincount(self._group[chosen], minlength=self._count)
        lacking = np.bincount(self._group[chosen & ~known], minlength=self._count)
        every: Bools = (rows > 0) & (lacking == 0)
        return every

    def of(self, values: Ints, known: Bools, chosen: Bools) -> Ints:
        """The sum of each group over the rows that are chosen."""
        total = np.zeros(self._count, np.int64)
        counted = chosen & known
        np.add.at(total, self._group[counted], values[counted])
        return np.where(self._known(known, chosen), total, UNKNOWN)

    def highest(self, values: Ints, known: Bools) -> Ints:
        """The highest value of each group."""
        most = np.zeros(self._count, np.int64)
        np.maximum.at(most, self._group, values)
        return np.where(self._known(known, np.ones(len(values), np.bool_)), most, UNKNOWN)
