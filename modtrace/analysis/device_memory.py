"""Memory of devices from the counters of their allocators: what was held, and how far peaks are known.

Between two readings the allocator's own peak either has risen: then it is what was reached there, exactly. Or it has
not: then what was reached is at least what was held at the readings; and at most that peak, and at most what was held
at the first with all that was allocated since. It is known where both are equal. Where the program has reset the peak
unseen, that is no bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column, nullable_codes, values_and_known
from modtrace.analysis.phases import EVAL, FORWARD, Steps
from modtrace.analysis.timeline import timeline
from modtrace.trace.call_table import same
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.trace.schema import AT_END, AT_RECORDING, AT_RECOUNT, AT_RESET, AT_START, PHASE, STEP

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

UNKNOWN: Final = -1
UNBOUNDED: Final = 1 << 62
WITHOUT_PEAK: Final = ("mps",)
"""Kinds of devices whose allocator has no counter of a peak: `peak_bytes` is what is allocated then, no bound."""


@dataclass(frozen=True)
class Readings:
    """The readings of one device in one process, an array element one, in order of time.

    call: row in the stored table `calls`, -1 for none.
    lower_bytes, upper_bytes: what the most that was held lies between, from each reading to the next.
    retries, device_allocs: how often, since the first reading that says so, the allocator emptied its cache to go on,
    and took memory from the device; UNKNOWN before that, and behind a reading that does not say.
    inactive_bytes: free, in the midst of what is used; UNKNOWN where not known.
    """

    process: int
    device: str
    at_ns: Ints
    call: Ints
    moment: Ints
    allocated_bytes: Ints
    reserved_bytes: Ints
    peak_bytes: Ints
    lower_bytes: Ints
    upper_bytes: Ints
    retries: Ints
    device_allocs: Ints
    inactive_bytes: Ints

    def peaks(self, first: Ints, last: Ints) -> Ints:
        """The most that was held between pairs of readings (positions); UNKNOWN where it is not known."""
        # What `reduceat` looks at ends before its second index; of two equal ones it takes the first element.
        pairs = np.stack([first, last], 1).ravel()
        if not len(pairs):
            return np.zeros(0, np.int64)
        lower, upper = (np.append(bounds, 0) for bounds in (self.lower_bytes, self.upper_bytes))
        least, most = np.maximum.reduceat(lower, pairs)[::2], np.maximum.reduceat(upper, pairs)[::2]
        peak_bytes = np.where(least == most, least, UNKNOWN)
        return np.where(first == last, self.allocated_bytes[first], peak_bytes)


@dataclass(frozen=True)
class RowMemory:
    """Change and peak of device memory in rows of the timeline, bytes; UNKNOWN in `peak_bytes` and events (see
    `Readings`), not `known` in `delta_bytes`.
    """

    delta_bytes: Ints
    known: Bools
    peak_bytes: Ints
    retries: Ints
    device_allocs: Ints


@dataclass(frozen=True)
class StepMemory:
    """Of each step: what was allocated and reserved when it ended, its peak, and the events of allocators in it (see
    `Readings`); UNKNOWN where not known.
    """

    allocated_bytes: Ints
    reserved_bytes: Ints
    peak_bytes: Ints
    retries: Ints
    device_allocs: Ints


@dataclass(frozen=True)
class RecordingMemory:
    """The memory of one device over a whole recording, as far as it was read.

    peak_bytes: None where it is not known; it was `least_bytes` at the least.
    allocated_bytes, reserved_bytes: at the last reading.
    counter_bytes: what torch.cuda.max_memory_allocated() said then.
    resets: how often the program has reset that.
    """

    device: str
    peak_bytes: int | None
    least_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    counter_bytes: int
    resets: int


@once
def readings(stored: Stored) -> list[Readings]:
    """The readings of each process and device; made once."""
    table = stored.table("device_memory")
    process = column(table, "process").astype(np.int64)
    devices = np.array(table.column("device").to_pylist(), object)
    names = ("at_ns", "moment", "allocated_bytes", "reserved_bytes", "peak_bytes")
    by_device = []
    for number, name in sorted({*zip(process.tolist(), devices.tolist(), strict=True)}):
        rows = np.flatnonzero((process == number) & (devices == name))
        at_ns, moment, allocated, reserved, peak = (
            column(table, name_of_column).astype(np.int64)[rows] for name_of_column in names
        )
        call = nullable_codes(table, "call")[rows]
        total, counted = (column_values[rows] for column_values in values_and_known(table, "total_bytes"))
        lower, upper = _bounds(moment, allocated, peak, np.where(counted, total, UNKNOWN))
        if name.partition(":")[0] in WITHOUT_PEAK:
            lower, upper = np.maximum(allocated[:-1], allocated[1:]), np.full(len(upper), UNBOUNDED)
        retries, taken, inactive = (
            np.where(known, values, UNKNOWN)[rows]
            for values, known in (
                values_and_known(table, name_of_column)
                for name_of_column in ("retries", "device_allocs", "inactive_split_bytes")
            )
        )
        events = (_since_first(retries, moment), _since_first(taken, moment), inactive)
        by_device.append(
            Readings(number, name, at_ns, call, moment, allocated, reserved, peak, lower, upper, *events)
        )
    return by_device


def _since_first(count: Ints, moment: Ints) -> Ints:
    """Events since the first reading with a counter, which the program may set back to 0; UNKNOWN where not known."""
    events = np.full(len(count), UNKNOWN, np.int64)
    first = int((count >= 0).argmax()) if (count >= 0).any() else len(count)
    before, after = count[first:-1], count[first + 1 :]
    again = (moment[first:-1] == AT_RECOUNT) & (after < before)
    each = np.where(again, after, after - before)
    lost = np.logical_or.accumulate((each < 0) | (before < 0) | (after < 0))
    events[first : first + 1] = 0
    events[first + 1 :] = np.where(lost, UNKNOWN, np.cumsum(each))
    return events


def _bounds(moment: Ints, allocated: Ints, peak: Ints, total: Ints) -> tuple[Ints, Ints]:
    """Bounds (lower, upper), bytes, of the peak between each reading and the next."""
    before = np.where(moment == AT_RESET, allocated, peak)[:-1]
    after = peak[1:]
    highest_reading = np.maximum(allocated[:-1], allocated[1:])
    lower = np.where(after > before, after, np.maximum(highest_reading, np.where(after < before, after, 0)))
    counted = np.where(moment == AT_RECOUNT, 0, total)[:-1]
    counting = (total[:-1] >= 0) & (total[1:] >= counted)
    most = np.where(counting, allocated[:-1] + total[1:] - counted, UNBOUNDED)
    return lower, np.minimum(most, np.where(after < before, UNBOUNDED, after))


def of_rows(stored: Stored) -> RowMemory:
    """Changes and peaks of memory in rows of the timeline. Changes of several devices add up; their peak is unknown."""
    line = timeline(stored)
    count = len(line.calls)
    if not readings(stored):
        zero, unknown = same(0, np.int64, count), same(UNKNOWN, np.int64, count)
        return RowMemory(zero, same(False, np.bool_, count), unknown, unknown, unknown)
    stored_calls = stored.calls
    delta, peak, devices = np.zeros(count, np.int64), np.full(count, UNKNOWN, np.int64), np.zeros(count, int)
    retries, taken = np.full((2, count), UNKNOWN, np.int64)
    is_mark = column(stored_calls, "kind") == STEP
    for device_readings in readings(stored):
        first, last = _ends(device_readings, len(stored_calls))
        complete = np.flatnonzero((first >= 0) & (last >= 0) & ~is_mark)
        rows, first, last = line.place[complete], first[complete], last[complete]
        delta[rows] += device_readings.allocated_bytes[last] - device_readings.allocated_bytes[first]
        peak[rows] = device_readings.peaks(first, last)
        for events, counted in ((retries, device_readings.retries), (taken, device_readings.device_allocs)):
            totals = np.where(devices[rows] == 0, 0, events[rows])
            _add_events(totals, counted, first, last)
            events[rows] = totals
        devices[rows] += 1
    peak[devices != 1] = UNKNOWN
    known = devices > 0
    # The phase of a forward is put in around its root call, which is the row after it.
    call_kind, phase = column(line.calls, "kind"), nullable_codes(line.calls, "phase")
    around = np.flatnonzero((call_kind[:-1] == PHASE) & ((phase[:-1] == FORWARD) | (phase[:-1] == EVAL)))
    around = around[column(line.calls, "parent")[around + 1] == around]
    for values in (delta, peak, known, retries, taken):
        values[around] = values[around + 1]
    return RowMemory(delta, known, peak, retries, taken)


def _ends(device_readings: Readings, count: int) -> tuple[Ints, Ints]:
    """For each stored call the positions of its first and last reading, -1 for none."""
    ends = []
    for moment in (AT_START, AT_END):
        reading = np.flatnonzero((device_readings.moment == moment) & (device_readings.call >= 0))
        position = np.full(count, -1, np.int64)
        position[device_readings.call[reading]] = reading
        ends.append(position)
    first, last = ends
    last[last < first] = -1
    return first, last


def of_steps(stored: Stored, process: int, steps: Steps) -> StepMemory:
    """The memory of each step of a process. A step begins and ends at an end of a call at which memory was read, the
    first also when recording began, the last when it ended. Several devices are added up, and no peak is told.
    """
    count = len(steps)
    allocated, reserved, peak = np.full((3, count), UNKNOWN, np.int64)
    retries, taken = np.zeros((2, count), np.int64)
    devices = np.zeros(count, np.int64)
    for device_readings in readings(stored):
        if device_readings.process != process or not count:
            continue
        moments, positions = _moments(stored, device_readings)
        first, last = (_position(moments, positions, at_ns) for at_ns in (steps.start, steps.end))
        recording = np.flatnonzero(device_readings.moment == AT_RECORDING)
        if len(recording) and recording[0] == 0 and first[0] < 0:
            first[0] = 0
        if len(recording) and recording[-1] == len(device_readings.at_ns) - 1 and last[-1] < 0:
            last[-1] = recording[-1]
        ended = np.flatnonzero(last >= 0)
        allocated[ended] = np.maximum(allocated[ended], 0) + device_readings.allocated_bytes[last[ended]]
        reserved[ended] = np.maximum(reserved[ended], 0) + device_readings.reserved_bytes[last[ended]]
        complete = np.flatnonzero((last >= first) & (first >= 0))
        peak[complete] = device_readings.peaks(first[complete], last[complete])
        for events, counted in ((retries, device_readings.retries), (taken, device_readings.device_allocs)):
            _add_events(events, counted, first, last)
        devices += 1
    peak[devices != 1] = UNKNOWN
    retries[devices == 0] = taken[devices == 0] = UNKNOWN
    return StepMemory(allocated, reserved, peak, retries, taken)


def _add_events(events: Ints, counted: Ints, first: Ints, last: Ints) -> None:
    """Add what was counted between pairs of readings, of which -1 is none; what is UNKNOWN stays so."""
    known = (events >= 0) & (first >= 0) & (last >= first) & (counted[first] >= 0) & (counted[last] >= 0)
    events[:] = np.where(known, events + counted[last] - counted[first], UNKNOWN)


def _moments(stored: Stored, device_readings: Readings) -> tuple[Ints, Ints]:
    """When the calls began and ended at whose ends memory was read, sorted, and the positions of these readings."""
    calls = stored.calls
    start, (duration, timed) = column(calls, "start_ns"), values_and_known(calls, "duration_ns")
    row = np.maximum(device_readings.call, 0)
    begun = (device_readings.call >= 0) & (device_readings.moment == AT_START)
    ended = (device_readings.call >= 0) & (device_readings.moment == AT_END) & timed[row]
    at_ns = np.where(begun, start[row], start[row] + duration[row])
    chosen = np.flatnonzero(begun | ended)
    order = np.argsort(at_ns[chosen], kind="stable")
    return at_ns[chosen][order], chosen[order]


def _position(moments: Ints, positions: Ints, at_ns: Ints) -> Ints:
    """The positions of the readings at moments, -1 where there is none."""
    if not len(moments):
        return np.full(len(at_ns), -1, np.int64)
    nearest = np.minimum(np.searchsorted(moments, at_ns), len(moments) - 1)
    return np.where(moments[nearest] == at_ns, positions[nearest], -1)


def wholes(stored: Stored, process: int = 0) -> list[RecordingMemory]:
    """The memory of each device of a process over the whole recording."""
    return [
        _recorded(device_readings)
        for device_readings in readings(stored)
        if device_readings.process == process
    ]


def _recorded(device_readings: Readings) -> RecordingMemory:
    ends = np.array([0]), np.array([len(device_readings.at_ns) - 1])
    peak = int(device_readings.peaks(*ends)[0])
    return RecordingMemory(
        device_readings.device,
        peak if peak >= 0 else None,
        int(max(device_readings.allocated_bytes.max(), device_readings.lower_bytes.max(initial=0))),
        int(device_readings.allocated_bytes[-1]),
        int(device_readings.reserved_bytes[-1]),
        int(device_readings.peak_bytes[-1]),
        int((device_readings.moment == AT_RESET).sum()),
    )


def when_failed(stored: Stored, row: int) -> tuple[int, int] | None:
    """(bytes allocated, bytes reserved) on the device when a row of the timeline had ended; None where it is not known,
    or which of several devices is meant.
    """
    place = timeline(stored).place
    sizes_bytes = []
    for device_readings in readings(stored):
        at_end = np.flatnonzero((device_readings.call >= 0) & (device_readings.moment == AT_END))
        of_row = at_end[place[device_readings.call[at_end]] == row]
        sizes_bytes += [
            (int(device_readings.allocated_bytes[n]), int(device_readings.reserved_bytes[n]))
            for n in of_row[-1:].tolist()
        ]
    return sizes_bytes[0] if len(sizes_bytes) == 1 else None
