"""Time of devices in calls, and time in which they had nothing to do, nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column, distinct_keys, nullable_codes, values_and_known
from modtrace.analysis.phases import EVAL, FORWARD
from modtrace.analysis.timeline import timeline
from modtrace.trace.batch_columns import values_of
from modtrace.trace.call_table import same
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, FUNCTION, MODULE, PHASE, SPAN, STEP

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

UNKNOWN: Final = -1
HOST: Final = "cpu"
BUCKET_NS: Final = 500_000_000
REACH: Final = 5
WINDOW_NS: Final = (2 * REACH + 1) * BUCKET_NS
"""The least difference of two clocks is looked for among rows that were launched at about the same time."""
WITH_CLOCK: Final = frozenset({"cuda", "xpu"})
"""Kinds of devices whose time is recorded, by events."""


@dataclass(frozen=True)
class CallDeviceTimes:
    """Times on devices, an array element a row of the timeline.

    device_ns: of the row; UNKNOWN where not known.
    placed: whether it is known when it began on the device.
    clock_ns: that, by the device's own clock. Two of one device can be compared, not one with times of the host.
    start_ns: the same by the host's clock, never before the host launched it (`on_host_clock`).
    device: index into `devices`, -1 for none.
    """

    device_ns: Ints
    placed: Bools
    clock_ns: Ints
    start_ns: Ints
    device: Ints
    devices: list[str]


@once
def device_times(stored: Stored) -> CallDeviceTimes:
    """The times on devices of a trace; made once."""
    return _device_times(stored)


@once
def accelerators(stored: Stored) -> list[str]:
    """The kinds of devices other than the CPU (`cuda`, `mps`) that outputs of module calls were on."""
    table = timeline(stored).calls
    outputs = nullable_codes(table, "outputs")
    tensors = stored.table("signatures").column("tensors")
    kinds: set[str] = set()
    for code in distinct_keys(outputs[column(table, "kind") == MODULE]).tolist():
        kinds.update(tensor["device"].partition(":")[0] for tensor in tensors[code].as_py() or ())
    return sorted(kinds - {HOST})


def launch_timed(stored: Stored) -> str | None:
    """Reason for which times are those of the host, which tells a device what to do and goes on; None where they are
    more.
    """
    timed = {name.partition(":")[0] for name in device_times(stored).devices}
    untimed = [name for name in accelerators(stored) if name not in timed]
    if not untimed:
        return None
    names = " and ".join(untimed)
    if WITH_CLOCK.isdisjoint(untimed):
        return f"times are launch times: {names} {'has' if len(untimed) == 1 else 'have'} no clock"
    return f"times are launch times: the time on {names} was not recorded"


def _device_times(stored: Stored) -> CallDeviceTimes:
    line, table = timeline(stored), stored.table("device_times")
    count = len(line.calls)
    if not len(table):
        unknown, zero = same(UNKNOWN, np.int64, count), same(0, np.int64, count)
        return CallDeviceTimes(unknown, same(False, np.bool_, count), zero, zero, unknown, [])
    spent, device = np.full((2, count), UNKNOWN, np.int64)
    (clock, start), placed = np.zeros((2, count), np.int64), np.zeros(count, np.bool_)
    timed_rows, table_rows = rows_of(stored, "device_times")
    spent[timed_rows] = column(table, "device_ns")[table_rows]
    clock[timed_rows], placed[timed_rows] = (
        values[table_rows] for values in values_and_known(table, "start_ns")
    )
    names = table.column("device").combine_chunks().dictionary_encode()
    device[timed_rows] = values_of(names.indices)[table_rows]
    rows = np.flatnonzero(placed)
    process = column(line.calls, "process").astype(np.int64)[rows]
    launched, key = column(line.calls, "start_ns")[rows], process << 32 | device[rows]
    for device_key in np.unique(key).tolist():
        of_device = key == device_key
        chosen = rows[of_device]
        start[chosen] = on_host_clock(launched[of_device], clock[chosen], spent[chosen])
    # The phase of a forward is put in around its root call, which is the row after it.
    call_kind, phase = column(line.calls, "kind"), nullable_codes(line.calls, "phase")
    around = np.flatnonzero((call_kind[:-1] == PHASE) & ((phase[:-1] == FORWARD) | (phase[:-1] == EVAL)))
    around = around[column(line.calls, "parent")[around + 1] == around]
    spent[around] = spent[around + 1]
    return CallDeviceTimes(spent, placed, clock, start, device, names.dictionary.to_pylist())


def rows_of(stored: Stored, table: str) -> tuple[Ints, Ints]:
    """The rows of the timeline that rows of a table with `call` are about, and which of them those are: the mark of a
    step is no row.
    """
    call = column(stored.table(table), "call")
    if not len(call):
        return call, call
    rows = np.flatnonzero(column(stored.calls, "kind")[call] != STEP)
    return timeline(stored).place[call[rows]], rows


def on_host_clock(launched_ns: Ints, clock_ns: Ints, took_ns: Ints) -> Ints:
    """When rows of one device began, by the host's clock.

    The two clocks were compared once, when recording began, possibly behind a queue full of work, and run apart since.
    What is sure is that nothing begins before its launch: the difference of the clocks is at least (launch - begin) of
    every row. So it is taken to be the greatest such difference within WINDOW_NS: right for a row that the device began
    at once, and too small by the shortest wait in the queue there. Where it falls again, rows keep their order and
    move closer together only where the device did nothing between them.

    Args:
        launched_ns: when the host came to each row.
        clock_ns: when the device began it, by its own clock.
        took_ns: how long the device took.
    """
    least, bucket = launched_ns - clock_ns, launched_ns // BUCKET_NS
    buckets, of = np.unique(bucket, return_inverse=True)
    of_bucket = np.full(len(buckets), least.min(initial=0), np.int64)
    np.maximum.at(of_bucket, of, least)
    greatest = of_bucket.copy()
    for shift in range(-REACH, REACH + 1):
        near = np.minimum(np.searchsorted(buckets, buckets + shift), len(buckets) - 1)
        present = buckets[near] == buckets + shift
        greatest = np.where(present, np.maximum(greatest, of_bucket[near]), greatest)
    order = np.argsort(clock_ns, kind="stable")
    begin, wanted = clock_ns[order], greatest[of][order]
    reach = np.maximum.accumulate(begin + took_ns[order])
    idle = np.cumsum(np.append(0, np.maximum(begin[1:] - reach[:-1], 0)))
    begun_ns = np.empty(len(order), np.int64)
    begun_ns[order] = begin + np.maximum.accumulate(wanted + idle) - idle
    return begun_ns


def self_device_ns(stored: Stored) -> Ints:
    """Of each module call and backward the time on its device without that of calls and backwards inside it. UNKNOWN
    for other rows, and where a part is not known, was on another device or, on another stream, adds up to more.
    """
    times, table = device_times(stored), timeline(stored).calls
    call_kind, parent = column(table, "kind"), column(table, "parent").astype(np.int64)
    works = (call_kind == MODULE) | (call_kind == BACKWARD)
    passes = np.append((call_kind == FUNCTION) | (call_kind == SPAN), False)
    around = parent
    while passes[around].any():
        around = np.where(passes[around], np.append(parent, -1)[around], around)
    inner = np.flatnonzero(works & (around >= 0) & np.append(works, False)[around])
    outer = around[inner]
    inside, lacking = np.zeros((2, len(table)), np.int64)
    np.add.at(inside, outer, np.maximum(times.device_ns[inner], 0))
    np.add.at(lacking, outer, (times.device_ns[inner] < 0) | (times.device[inner] != times.device[outer]))
    self_ns = times.device_ns - inside
    return np.where(works & (times.device_ns >= 0) & (lacking == 0) & (self_ns >= 0), self_ns, UNKNOWN)


@once
def device_of_steps(stored: Stored, low: int, high: int, count: int) -> tuple[Ints, Ints]:
    """For how long the device worked on what was recorded in each step, and for how long on nothing, up to the begin of
    the next step on the device; of several devices the one that worked longest. UNKNOWN where nothing is known.

    Args:
        stored: the trace.
        low, high: the rows of the process in its timeline.
        count: how many steps it has.
    """
    times = device_times(stored)
    busy, idle = np.full((2, count), UNKNOWN, np.int64)
    step = nullable_codes(timeline(stored).calls.slice(low, high - low), "step")
    placed, device = times.placed[low:high], times.device[low:high]
    for number in range(len(times.devices)):
        rows = np.flatnonzero(placed & (device == number) & (step >= 0) & (step < count))
        if not len(rows):
            continue
        start = times.clock_ns[low:high][rows]
        worked, window = _worked(start, start + times.device_ns[low:high][rows], step[rows], count)
        longer = worked > busy
        busy = np.where(longer, worked, busy)
        idle = np.where(longer, np.maximum(window - worked, 0), idle)
    return busy, idle


def _worked(start: Ints, end: Ints, step: Ints, count: int) -> tuple[Ints, Ints]:
    """Nanoseconds covered by intervals of each step, each moment once and for the one that covered it first, and from
    the first of them to the first of the next step; UNKNOWN for a step without.
    """
    order = np.argsort(start, kind="stable")
    start, end, step = start[order], end[order], step[order]
    reach = np.maximum.accumulate(end)
    before = np.concatenate([start[:1], reach[:-1]])
    worked = np.zeros(count, np.int64)
    np.add.at(worked, step, np.maximum(end - np.maximum(start, before), 0))
    steps_present, first = np.unique(step, return_index=True)
    by_start = np.argsort(first, kind="stable")
    steps_present, begin = steps_present[by_start], start[first[by_start]]
    window = np.full(count, UNKNOWN, np.int64)
    window[steps_present] = np.append(begin[1:], reach[-1]) - begin
    worked[window < 0] = UNKNOWN
    return worked, window
