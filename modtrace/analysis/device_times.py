"""How long devices took for calls, and how long they had nothing to do."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column, nullable_codes, values_and_known
from modtrace.analysis.phases import EVAL, FORWARD
from modtrace.analysis.timeline import timeline
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, FUNCTION, MODULE, PHASE, SPAN

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

UNKNOWN: Final = -1
HOST: Final = "cpu"
WITH_CLOCK: Final = frozenset({"cuda", "xpu"})
"""Kinds of devices whose time is recorded, by events."""


@dataclass(frozen=True)
class DeviceTimes:
    """Times on devices, an array element a row of the timeline.

    device_ns: of the row; UNKNOWN where not known.
    start_ns, placed: when it began by the device's clock, and whether that is known.
    device: index into `devices`, -1 for none.
    """

    device_ns: Ints
    start_ns: Ints
    placed: Bools
    device: Ints
    devices: list[str]


_made: weakref.WeakKeyDictionary[Stored, DeviceTimes] = weakref.WeakKeyDictionary()


def device_times(stored: Stored) -> DeviceTimes:
    """The times on devices of a trace; made once."""
    if stored not in _made:
        _made[stored] = _device_times(stored)
    return _made[stored]


def accelerators(stored: Stored) -> list[str]:
    """The kinds of devices other than the CPU (`cuda`, `mps`) that outputs of module calls were on."""
    table = stored.table("calls")
    outputs = nullable_codes(table, "outputs")
    tensors = stored.table("signatures").column("tensors")
    kinds: set[str] = set()
    for code in np.unique(outputs[(column(table, "kind") == MODULE) & (outputs >= 0)]).tolist():
        kinds.update(tensor["device"].partition(":")[0] for tensor in tensors[code].as_py() or ())
    return sorted(kinds - {HOST})


def launch_timed(stored: Stored) -> str | None:
    """Why times are those of the host, which tells a device what to do and goes on; None where they are more."""
    timed = {name.partition(":")[0] for name in device_times(stored).devices}
    untimed = [name for name in accelerators(stored) if name not in timed]
    if not untimed:
        return None
    names = " and ".join(untimed)
    if WITH_CLOCK.isdisjoint(untimed):
        return f"times are launch times: {names} {'has' if len(untimed) == 1 else 'have'} no clock"
    return f"times are launch times: the time on {names} was not recorded"


def _device_times(stored: Stored) -> DeviceTimes:
    line, found = timeline(stored), stored.table("device_times")
    count = len(line.calls)
    spent, device = np.full((2, count), UNKNOWN, np.int64)
    start, placed = np.zeros(count, np.int64), np.zeros(count, np.bool_)
    if not len(found):
        return DeviceTimes(spent, start, placed, device, [])
    at = line.place[column(found, "call")]
    spent[at] = column(found, "device_ns")
    start[at], placed[at] = values_and_known(found, "start_ns")
    names = found.column("device").combine_chunks().dictionary_encode()
    device[at] = names.indices.to_numpy()
    # The phase of a forward is put in around its root call, which is the row after it.
    kind, phase = column(line.calls, "kind"), nullable_codes(line.calls, "phase")
    around = np.flatnonzero((kind[:-1] == PHASE) & ((phase[:-1] == FORWARD) | (phase[:-1] == EVAL)))
    around = around[column(line.calls, "parent")[around + 1] == around]
    spent[around] = spent[around + 1]
    return DeviceTimes(spent, start, placed, device, names.dictionary.to_pylist())


def self_device_ns(stored: Stored) -> Ints:
    """Of each module call and backward the time on its device without that of calls and backwards inside it. UNKNOWN
    for other rows, and where a part is not known, was on another device or, on another stream, adds up to more.
    """
    times, table = device_times(stored), timeline(stored).calls
    kind, parent = column(table, "kind"), column(table, "parent").astype(np.int64)
    works = (kind == MODULE) | (kind == BACKWARD)
    passes = np.append((kind == FUNCTION) | (kind == SPAN), False)
    around = parent
    while passes[around].any():
        around = np.where(passes[around], np.append(parent, -1)[around], around)
    inner = np.flatnonzero(works & (around >= 0) & np.append(works, False)[around])
    outer = around[inner]
    inside, lacking = np.zeros((2, len(table)), np.int64)
    np.add.at(inside, outer, np.maximum(times.device_ns[inner], 0))
    np.add.at(lacking, outer, (times.device_ns[inner] < 0) | (times.device[inner] != times.device[outer]))
    own = times.device_ns - inside
    return np.where(works & (times.device_ns >= 0) & (lacking == 0) & (own >= 0), own, UNKNOWN)


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
        start = times.start_ns[low:high][rows]
        worked, window = _worked(start, start + times.device_ns[low:high][rows], step[rows], count)
        more = worked > busy
        busy = np.where(more, worked, busy)
        idle = np.where(more, np.maximum(window - worked, 0), idle)
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
    there, first = np.unique(step, return_index=True)
    by_start = np.argsort(first, kind="stable")
    there, begin = there[by_start], start[first[by_start]]
    window = np.full(count, UNKNOWN, np.int64)
    window[there] = np.append(begin[1:], reach[-1]) - begin
    worked[window < 0] = UNKNOWN
    return worked, window
