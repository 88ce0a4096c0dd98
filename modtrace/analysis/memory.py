"""Memory while it was watched: the curve over time, who holds what at any moment, and the peak of each call.

An allocation belongs to the innermost call that ran on its thread when it was made: the one that the allocator itself
has noted, else by time. What a forward has allocated and still holds when its root call ends is kept for backward: an
activation. What is held for nothing known is temporary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.analysis.columns import (
    column,
    distinct_keys,
    nullable_codes,
    taken,
    values_and_known,
    values_at,
)
from modtrace.analysis.phases import BACK, EVAL, FORWARD
from modtrace.analysis.timeline import NAMES_PUT_IN, Timeline, timeline
from modtrace.analysis.watching import MEMORY, stretches, window
from modtrace.trace.arrow_arrays import array
from modtrace.trace.call_table import CallTable
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.trace.schema import ACTIVATION, MODULE, PHASE, SPAN, TEMPORARY

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

HOST = "cpu"
NEVER = (1 << 62) - 1
"""When memory that was still held at the end of watching is freed."""


@dataclass(frozen=True)
class Memory:
    """The allocations of one process on one device, an array element one; in order of time.

    call: row of the timeline that was innermost when it was made, -1 for none.
    category: index into schema.CATEGORIES.
    """

    process: int
    device: str
    at_ns: Ints
    freed_ns: Ints
    size_bytes: Ints
    category: Ints
    call: Ints

    def alive(self, moment_ns: int) -> Bools:
        """Mask of the allocations held at a moment."""
        allocated: Bools = (self.at_ns <= moment_ns) & (self.freed_ns > moment_ns)
        return allocated


@dataclass(frozen=True)
class Curve:
    """Bytes held over time: `held_bytes[i]` from `at_ns[i]` until the next."""

    at_ns: Ints
    held_bytes: Ints


@dataclass(frozen=True)
class CallMemory:
    """Change and peak of memory in calls, bytes: an array element a row of the timeline; -1 in `peak_bytes` where it is
    not known.
    """

    delta_bytes: Ints
    peak_bytes: Ints
    known: Bools


class _Noted(NamedTuple):
    """Notes of the allocator itself in one process: `call` of each allocation, below 0 for none, as positions among the
    calls of the process; `possible` is a mask of these: those that are noted where they run.
    """

    call: Ints
    possible: Bools


@once
def memory(stored: Stored) -> list[Memory]:
    """The allocations of each process and device that were watched; made once."""
    table, line = stored.table("allocations"), timeline(stored)
    calls, noted = line.calls, taken(line.place, nullable_codes(table, "call"))
    may_be_noted = _may_be_noted(line)
    devices = table.column("device").to_pylist()
    process = column(table, "process")
    call_process = column(calls, "process")
    by_device = []
    for number, name in sorted({*zip(process.tolist(), devices, strict=True)}):
        of_device = (process == number) & (np.array(devices, object) == name)
        low, high = np.searchsorted(call_process, [number, number + 1]).tolist()
        by_device.append(
            _of_device(
                table.filter(array(of_device, pa.bool_())),
                calls.slice(low, high - low),
                low,
                _Noted(noted[of_device] - low, may_be_noted[low:high]),
                number,
                name,
                stretches(stored, number, MEMORY),
                window(stored, number, MEMORY),
            )
        )
    return by_device


def _of_device(
    table: pa.Table,
    calls: CallTable,
    first: int,
    noted: _Noted,
    process: int,
    device: str,
    watched: tuple[Ints, Ints],
    wanted: tuple[int, int],
) -> Memory:
    order = np.argsort(column(table, "at_ns"), kind="stable")
    table = table.take(array(order, pa.int64()))
    at_ns = column(table, "at_ns").astype(np.int64)
    freed, known = values_and_known(table, "freed_ns")
    freed = np.where(known, freed, NEVER)
    category, named = values_and_known(table, "category")
    inner = placed(calls, at_ns, nullable_codes(table, "thread"))
    inner = _as_noted(calls, inner, _Noted(noted.call[order], noted.possible))
    saved = _kept_for_backward(calls, inner, freed)
    derived = np.where(saved, ACTIVATION, TEMPORARY)
    columns = (
        column(table, "size_bytes").astype(np.int64),
        np.where(named, category, derived).astype(np.int64),
        np.where(inner >= 0, inner + first, -1),
    )
    chosen, at_ns, freed = _cut(at_ns, freed, watched, wanted)
    return Memory(process, device, at_ns, freed, *(values[chosen] for values in columns))


def _cut(
    at_ns: Ints, freed: Ints, watched: tuple[Ints, Ints], wanted: tuple[int, int]
) -> tuple[Bools, Ints, Ints]:
    """Mask of the allocations that were held in a wanted interval, and from when to when in it.

    What was held at the end of one stretch of watching and is not known of in the next is over with it.
    """
    began, ended = watched
    low, high = wanted
    if len(began):
        stretch = np.maximum(np.searchsorted(began, at_ns, side="right") - 1, 0)
        overlap = (began < high) & (ended > low)
        last = stretch == (int(np.flatnonzero(overlap)[-1]) if overlap.any() else -1)
        freed = np.where((freed == NEVER) & ~last, ended[stretch], freed)
    chosen: Bools = (freed > low) & (at_ns < high)
    at_ns, freed = np.maximum(at_ns[chosen], low), freed[chosen]
    return chosen, at_ns, np.where(freed > high, NEVER, freed)


def _may_be_noted(line: Timeline) -> Bools:
    """Mask of the rows that the allocator is told of when they begin: modules, spans and recorded phases."""
    row_kind, label = line.calls.stored("kind")[0], line.calls.stored("label")[0]
    recorded = np.array([name not in (*NAMES_PUT_IN, "data") for name, _ in line.labels] + [False])
    noted: Bools = (row_kind == MODULE) | (row_kind == SPAN) | ((row_kind == PHASE) & recorded[label])
    return noted


def _as_noted(calls: CallTable, inner: Ints, noted: _Noted) -> Ints:
    """The innermost call of each allocation by time, `inner`, as long as it is, or is in, the one that was noted; else
    that one. Time alone is not true next to where a call begins or ends: the clock of the allocator is another one.
    """
    rows = np.flatnonzero(noted.call >= 0)
    if not len(rows):
        return inner
    parent, first = calls.stored("parent")[0], int(column(calls, "call")[0])
    around = inner[rows]
    while True:
        further = (around >= 0) & ~np.append(noted.possible, True)[around]
        if not further.any():
            break
        over = parent[around[further]].astype(np.int64)
        around[further] = np.where(over >= 0, over - first, -1)
    differs = rows[around != noted.call[rows]]
    inner[differs] = noted.call[differs]
    return inner


def placed(calls: CallTable, at_ns: Ints, thread: Ints) -> Ints:
    """As `innermost`. What is on no thread of calls belongs to a backward, if one ran then: autograd's engine has a
    thread of its own for a device, and the thread that called backward waits.
    """
    calls_at = innermost(calls, at_ns, thread)
    apart = np.flatnonzero(thread < 0)
    if len(apart) and len(calls):
        phase = nullable_codes(calls, "phase")
        for number in distinct_keys(column(calls, "thread")).tolist():
            other = innermost(calls, at_ns[apart], np.full(len(apart), number, np.int64))
            inside = (other >= 0) & (phase[other] == BACK)
            calls_at[apart[inside]] = other[inside]
    return calls_at


def innermost(calls: CallTable, at_ns: Ints, thread: Ints) -> Ints:
    """For moments on threads the innermost call that runs then, as its position in `calls`; -1 for none."""
    start, parent, duration, threads = (
        calls.stored(name)[0] for name in ("start_ns", "parent", "duration_ns", "thread")
    )  # a duration that is not known is 0
    innermost_call = np.full(len(at_ns), -1, np.int64)
    if not len(calls):
        return innermost_call
    first = int(column(calls, "call")[0])
    for number in np.unique(thread[thread >= 0]).tolist():
        on_thread = np.flatnonzero(thread == number)
        low, high = np.searchsorted(threads, [number, number + 1])
        position = np.searchsorted(start[low:high], at_ns[on_thread], side="right") - 1 + low
        position[position < low] = -1
        while True:
            out = (position >= 0) & (start[position] + duration[position] <= at_ns[on_thread])
            if not out.any():
                break
            over = parent[position[out]].astype(np.int64)
            position[out] = np.where(over >= 0, over - first, -1)
        innermost_call[on_thread] = position
    return innermost_call


def _kept_for_backward(calls: CallTable, inner: Ints, freed: Ints) -> Bools:
    """Mask of the allocations that were made in the forward of a training step and outlived its root call."""
    if not len(calls):
        return np.zeros(len(inner), np.bool_)

    def codes(name: str) -> Ints:
        return calls.stored(name)[0]

    phase, parent, last, first = (codes(name) for name in ("phase", "parent", "last_call", "call"))
    is_module = calls.stored("kind")[0] == MODULE
    roots = np.flatnonzero(is_module & ~np.append(is_module, False)[np.maximum(parent - first[0], -1)])
    if not len(roots):
        return np.zeros(len(inner), np.bool_)
    root_position = np.searchsorted(roots, inner, side="right") - 1
    root = roots[np.maximum(root_position, 0)]
    inside = (inner >= 0) & (root_position >= 0) & (last[root] - first[0] >= inner)
    end = values_at(calls, "start_ns", root)[0] + values_at(calls, "duration_ns", root)[0]
    saved: Bools = inside & (phase[root] == FORWARD) & (phase[root] != EVAL) & (freed > end)
    return saved


def curve(allocations: Memory) -> Curve:
    """Bytes held over time on one device."""
    freed = allocations.freed_ns < NEVER
    times = np.concatenate([allocations.at_ns, allocations.freed_ns[freed]])
    change = np.concatenate([allocations.size_bytes, -allocations.size_bytes[freed]])
    order = np.argsort(times, kind="stable")
    return Curve(times[order], np.cumsum(change[order]))


def peak_at(allocations: Memory) -> int:
    """The moment at which most was held, nanoseconds since the start of recording; -1 for no allocation."""
    line = curve(allocations)
    return int(line.at_ns[int(line.held_bytes.argmax())]) if len(line.at_ns) else -1


def of_calls(stored: Stored) -> CallMemory:
    """Change and peak of the memory of its process in each row of the timeline while it was watched: devices added up,
    or where there is none the host.
    """
    calls = timeline(stored).calls
    start = column(calls, "start_ns")
    duration, timed = values_and_known(calls, "duration_ns")
    return of_stretches(stored, start, start + duration, column(calls, "process"), timed)


def peak_of_steps(stored: Stored, low: int, high: int, start: Ints, end: Ints) -> Ints:
    """The most that was held in each step of one process, whose rows are those from `low` to `high`; -1 for unknown."""
    process = column(timeline(stored).calls.slice(low, high - low), "process")
    number = int(process[0]) if len(process) else -1
    each = np.full(len(start), number, np.int64)
    return of_stretches(stored, start, end, each, end > start).peak_bytes


def of_stretches(stored: Stored, start: Ints, end: Ints, process: Ints, timed: Bools) -> CallMemory:
    """Bytes held in intervals of processes, and their change; unknown where not `timed`."""
    delta, peak = np.zeros(len(start), np.int64), np.zeros(len(start), np.int64)
    known = np.zeros(len(start), np.bool_)
    for number in sorted(set(column(stored.table("watched"), "process").tolist())):
        low, high = stretches(stored, number, MEMORY)
        if not len(low):
            continue
        begin, over = window(stored, number, MEMORY)
        wanted = (start >= max(begin, int(low[0]))) & (end <= min(over, int(high.max())))
        rows = np.flatnonzero(wanted & timed & (process == number))
        stretch = np.searchsorted(low, start[rows], side="right") - 1
        known[rows] = end[rows] <= high[stretch]
    watched = memory(stored)
    on_device = {allocations.process for allocations in watched if allocations.device != HOST}
    for allocations in watched:
        if allocations.device == HOST and allocations.process in on_device:
            continue
        line, rows = curve(allocations), np.flatnonzero(known & (process == allocations.process))
        if not len(rows) or not len(line.at_ns):
            continue
        before = np.searchsorted(line.at_ns, start[rows], side="right") - 1
        after = np.searchsorted(line.at_ns, end[rows], side="right") - 1
        level = np.append(line.held_bytes, 0)  # nothing is held before the first: that is level[-1]
        delta[rows] += level[after] - level[before]
        pairs = np.stack([np.maximum(before, 0), np.maximum(after, 0) + 1], 1).ravel()
        peak[rows] += np.where(after >= 0, np.maximum.reduceat(level, pairs)[::2], 0)
    return CallMemory(delta, np.where(known, peak, -1), known)
