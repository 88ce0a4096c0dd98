"""Memory while it was watched: the curve over time, who holds what at any moment, and the peak of each call.

An allocation belongs to the innermost call that ran on its thread when it was made. What a forward has allocated and
still holds when its root call ends is kept for backward: an activation. What is held for nothing known is temporary.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.analysis.columns import column, nullable_codes, values_and_known
from modtrace.analysis.phases import BACK, EVAL, FORWARD
from modtrace.analysis.timeline import timeline
from modtrace.analysis.watching import MEMORY, stretches, window
from modtrace.trace.reader import Stored
from modtrace.trace.schema import ACTIVATION, MODULE, TEMPORARY

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
        """Which are held at a moment."""
        held: Bools = (self.at_ns <= moment_ns) & (self.freed_ns > moment_ns)
        return held


@dataclass(frozen=True)
class Curve:
    """Bytes held over time: `held_bytes[i]` from `at_ns[i]` until the next."""

    at_ns: Ints
    held_bytes: Ints


@dataclass(frozen=True)
class OfCalls:
    """What calls did to memory, an array element a row of the timeline; -1 in `peak_bytes` where it is not known."""

    delta_bytes: Ints
    peak_bytes: Ints
    known: Bools


_made: weakref.WeakKeyDictionary[Stored, list[Memory]] = weakref.WeakKeyDictionary()


def memory(stored: Stored) -> list[Memory]:
    """The allocations of each process and device that were watched; made once."""
    if stored not in _made:
        _made[stored] = _memory(stored)
    return _made[stored]


def _memory(stored: Stored) -> list[Memory]:
    table, calls = stored.table("allocations"), timeline(stored).calls
    devices = table.column("device").to_pylist()
    process = column(table, "process")
    call_process = column(calls, "process")
    found = []
    for number, name in sorted({*zip(process.tolist(), devices, strict=True)}):
        mine = (process == number) & (np.array(devices, object) == name)
        low, high = np.searchsorted(call_process, [number, number + 1]).tolist()
        found.append(
            _of_device(
                table.filter(pa.array(mine)),
                calls.slice(low, high - low),
                low,
                number,
                name,
                stretches(stored, number, MEMORY),
                window(stored, number, MEMORY),
            )
        )
    return found


def _of_device(
    table: pa.Table,
    calls: pa.Table,
    first: int,
    process: int,
    device: str,
    watched: tuple[Ints, Ints],
    wanted: tuple[int, int],
) -> Memory:
    order = np.argsort(column(table, "at_ns"), kind="stable")
    table = table.take(pa.array(order))
    at = column(table, "at_ns").astype(np.int64)
    freed, known = values_and_known(table, "freed_ns")
    freed = np.where(known, freed, NEVER)
    category, named = values_and_known(table, "category")
    inner = placed(calls, at, nullable_codes(table, "thread"))
    kept = _kept_for_backward(calls, inner, freed)
    derived = np.where(kept, ACTIVATION, TEMPORARY)
    columns = (
        column(table, "size_bytes").astype(np.int64),
        np.where(named, category, derived).astype(np.int64),
        np.where(inner >= 0, inner + first, -1),
    )
    some, at, freed = _cut(at, freed, watched, wanted)
    return Memory(process, device, at, freed, *(values[some] for values in columns))


def _cut(
    at: Ints, freed: Ints, watched: tuple[Ints, Ints], wanted: tuple[int, int]
) -> tuple[Bools, Ints, Ints]:
    """Which allocations were held in a stretch of time that is wanted, and from when to when in it.

    What was held at the end of one stretch of watching and is not known of in the next is over with it.
    """
    began, ended = watched
    low, high = wanted
    if len(began):
        stretch = np.maximum(np.searchsorted(began, at, side="right") - 1, 0)
        overlap = (began < high) & (ended > low)
        last = stretch == (int(np.flatnonzero(overlap)[-1]) if overlap.any() else -1)
        freed = np.where((freed == NEVER) & ~last, ended[stretch], freed)
    some: Bools = (freed > low) & (at < high)
    at, freed = np.maximum(at[some], low), freed[some]
    return some, at, np.where(freed > high, NEVER, freed)


def placed(calls: pa.Table, at_ns: Ints, thread: Ints) -> Ints:
    """As `innermost`. What is on no thread of calls belongs to a backward, if one ran then: autograd's engine has a
    thread of its own for a device, and the thread that called backward waits.
    """
    found = innermost(calls, at_ns, thread)
    apart = np.flatnonzero(thread < 0)
    if len(apart) and len(calls):
        phase = nullable_codes(calls, "phase")
        for number in np.unique(column(calls, "thread")).tolist():
            other = innermost(calls, at_ns[apart], np.full(len(apart), number, np.int64))
            inside = (other >= 0) & (phase[other] == BACK)
            found[apart[inside]] = other[inside]
    return found


def innermost(calls: pa.Table, at_ns: Ints, thread: Ints) -> Ints:
    """For moments on threads the innermost call that runs then, as its position in `calls`; -1 for none."""
    start, parent = column(calls, "start_ns"), column(calls, "parent")
    duration, known = values_and_known(calls, "duration_ns")
    end = np.where(known, start + duration, start)
    threads = column(calls, "thread")
    found = np.full(len(at_ns), -1, np.int64)
    if not len(calls):
        return found
    first = int(column(calls, "call")[0])
    for number in np.unique(thread[thread >= 0]).tolist():
        here = np.flatnonzero(thread == number)
        low, high = np.searchsorted(threads, [number, number + 1])
        at = np.searchsorted(start[low:high], at_ns[here], side="right") - 1 + low
        at[at < low] = -1
        while True:
            out = (at >= 0) & (end[at] <= at_ns[here])
            if not out.any():
                break
            over = parent[at[out]]
            at[out] = np.where(over >= 0, over - first, -1)
        found[here] = at
    return found


def _kept_for_backward(calls: pa.Table, inner: Ints, freed: Ints) -> Bools:
    """Which allocations were made in the forward of a training step and outlived its root call."""
    if not len(calls):
        return np.zeros(len(inner), np.bool_)
    phase, kind = nullable_codes(calls, "phase"), column(calls, "kind")
    last, first = column(calls, "last_call"), int(column(calls, "call")[0])
    start = column(calls, "start_ns")
    end = start + values_and_known(calls, "duration_ns")[0]
    parent = column(calls, "parent") - first
    roots = np.flatnonzero((kind == MODULE) & ((parent < 0) | (kind[np.maximum(parent, 0)] != MODULE)))
    if not len(roots):
        return np.zeros(len(inner), np.bool_)
    at = np.searchsorted(roots, inner, side="right") - 1
    root = roots[np.maximum(at, 0)]
    inside = (inner >= 0) & (at >= 0) & (last[root] - first >= inner)
    kept: Bools = inside & (phase[root] == FORWARD) & (phase[root] != EVAL) & (freed > end[root])
    return kept


def curve(held: Memory) -> Curve:
    """Bytes held over time on one device."""
    freed = held.freed_ns < NEVER
    times = np.concatenate([held.at_ns, held.freed_ns[freed]])
    change = np.concatenate([held.size_bytes, -held.size_bytes[freed]])
    order = np.argsort(times, kind="stable")
    return Curve(times[order], np.cumsum(change[order]))


def peak_at(held: Memory) -> int:
    """The moment at which most was held, nanoseconds since the start of recording; -1 for no allocation."""
    line = curve(held)
    return int(line.at_ns[int(line.held_bytes.argmax())]) if len(line.at_ns) else -1


def of_calls(stored: Stored) -> OfCalls:
    """What each row of the timeline did to the memory of its process while it was watched: devices added up, or where
    there is none the host.
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


def of_stretches(stored: Stored, start: Ints, end: Ints, process: Ints, timed: Bools) -> OfCalls:
    """What was held and by how much it changed in stretches of time of processes; unknown where not `timed`."""
    delta, peak = np.zeros(len(start), np.int64), np.zeros(len(start), np.int64)
    known = np.zeros(len(start), np.bool_)
    for number in sorted(set(column(stored.table("watched"), "process").tolist())):
        mine = np.flatnonzero(timed & (process == number))
        low, high = stretches(stored, number, MEMORY)
        if not len(low):
            continue
        at = np.searchsorted(low, start[mine], side="right") - 1
        begin, over = window(stored, number, MEMORY)
        wanted = (start[mine] >= begin) & (end[mine] <= over)
        known[mine] = (at >= 0) & (end[mine] <= high[np.maximum(at, 0)]) & wanted
    watched = memory(stored)
    on_device = {held.process for held in watched if held.device != HOST}
    for held in watched:
        if held.device == HOST and held.process in on_device:
            continue
        line, rows = curve(held), np.flatnonzero(known & (process == held.process))
        if not len(rows) or not len(line.at_ns):
            continue
        before = np.searchsorted(line.at_ns, start[rows], side="right") - 1
        after = np.searchsorted(line.at_ns, end[rows], side="right") - 1
        level = np.append(line.held_bytes, 0)  # nothing is held before the first: that is level[-1]
        delta[rows] += level[after] - level[before]
        pairs = np.stack([np.maximum(before, 0), np.maximum(after, 0) + 1], 1).ravel()
        peak[rows] += np.where(after >= 0, np.maximum.reduceat(level, pairs)[::2], 0)
    return OfCalls(delta, np.where(known, peak, -1), known)
