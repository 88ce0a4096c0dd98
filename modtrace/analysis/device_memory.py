"""Memory of devices from the counters of their allocators: what was held, and how far peaks are known.

Between two readings the allocator's own peak either has risen: then it is what was reached there, exactly. Or it has
not: then what was reached is at least what was held at the readings; and at most that peak, and at most what was held
at the first with all that was allocated since. It is known where both are equal. Where the program has reset the peak
unseen, that is no bound.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column, nullable_codes, values_and_known
from modtrace.analysis.phases import EVAL, FORWARD, Steps
from modtrace.analysis.timeline import timeline
from modtrace.trace.reader import Stored
from modtrace.trace.schema import AT_END, AT_RECORDING, AT_RECOUNT, AT_RESET, AT_START, PHASE, STEP

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

UNKNOWN: Final = -1
UNBOUNDED: Final = 1 << 62


@dataclass(frozen=True)
class Readings:
    """The readings of one device in one process, an array element one, in order of time.

    call: row in the stored table `calls`, -1 for none.
    lower_bytes, upper_bytes: what the most that was held lies between, from each reading to the next.
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

    def peaks(self, first: Ints, last: Ints) -> Ints:
        """The most that was held between pairs of readings (positions); UNKNOWN where it is not known."""
        # What `reduceat` looks at ends before its second index; of two equal ones it takes the first element.
        pairs = np.stack([first, last], 1).ravel()
        if not len(pairs):
            return np.zeros(0, np.int64)
        lower, upper = (np.append(some, 0) for some in (self.lower_bytes, self.upper_bytes))
        least, most = np.maximum.reduceat(lower, pairs)[::2], np.maximum.reduceat(upper, pairs)[::2]
        found = np.where(least == most, least, UNKNOWN)
        return np.where(first == last, self.allocated_bytes[first], found)


@dataclass(frozen=True)
class OfRows:
    """What rows of the timeline did to the memory of devices; UNKNOWN in `peak_bytes`, not `known` in `delta_bytes`."""

    delta_bytes: Ints
    known: Bools
    peak_bytes: Ints


@dataclass(frozen=True)
class OfSteps:
    """Of each step: what was allocated and reserved when it ended, and its peak; UNKNOWN where not known."""

    allocated_bytes: Ints
    reserved_bytes: Ints
    peak_bytes: Ints


@dataclass(frozen=True)
class Whole:
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


_made: weakref.WeakKeyDictionary[Stored, list[Readings]] = weakref.WeakKeyDictionary()


def readings(stored: Stored) -> list[Readings]:
    """The readings of each process and device; made once."""
    if stored not in _made:
        _made[stored] = _readings(stored)
    return _made[stored]


def _readings(stored: Stored) -> list[Readings]:
    table = stored.table("device_memory")
    process = column(table, "process").astype(np.int64)
    devices = np.array(table.column("device").to_pylist(), object)
    names = ("at_ns", "moment", "allocated_bytes", "reserved_bytes", "peak_bytes")
    found = []
    for number, name in sorted({*zip(process.tolist(), devices.tolist(), strict=True)}):
        mine = np.flatnonzero((process == number) & (devices == name))
        at, moment, allocated, reserved, peak = (column(table, one).astype(np.int64)[mine] for one in names)
        call = nullable_codes(table, "call")[mine]
        total, counted = (some[mine] for some in values_and_known(table, "total_bytes"))
        lower, upper = _bounds(moment, allocated, peak, np.where(counted, total, UNKNOWN))
        found.append(Readings(number, name, at, call, moment, allocated, reserved, peak, lower, upper))
    return found


def _bounds(moment: Ints, allocated: Ints, peak: Ints, total: Ints) -> tuple[Ints, Ints]:
    """What was held at the most between each reading and the next: at least, and at most."""
    before = np.where(moment == AT_RESET, allocated, peak)[:-1]
    after = peak[1:]
    held = np.maximum(allocated[:-1], allocated[1:])
    lower = np.where(after > before, after, np.maximum(held, np.where(after < before, after, 0)))
    counted = np.where(moment == AT_RECOUNT, 0, total)[:-1]
    told = (total[:-1] >= 0) & (total[1:] >= counted)
    most = np.where(told, allocated[:-1] + total[1:] - counted, UNBOUNDED)
    return lower, np.minimum(most, np.where(after < before, UNBOUNDED, after))


def of_rows(stored: Stored) -> OfRows:
    """What rows of the timeline did to memory. Of several devices the changes are added up, and no peak is told."""
    line, stored_calls = timeline(stored), stored.table("calls")
    count = len(line.calls)
    delta, peak, devices = np.zeros(count, np.int64), np.full(count, UNKNOWN, np.int64), np.zeros(count, int)
    is_mark = column(stored_calls, "kind") == STEP
    for one in readings(stored):
        first, last = _ends(one, len(stored_calls))
        whole = np.flatnonzero((first >= 0) & (last >= 0) & ~is_mark)
        rows, first, last = line.place[whole], first[whole], last[whole]
        delta[rows] += one.allocated_bytes[last] - one.allocated_bytes[first]
        peak[rows] = one.peaks(first, last)
        devices[rows] += 1
    peak[devices != 1] = UNKNOWN
    known = devices > 0
    # The phase of a forward is put in around its root call, which is the row after it.
    kind, phase = column(line.calls, "kind"), nullable_codes(line.calls, "phase")
    around = np.flatnonzero((kind[:-1] == PHASE) & ((phase[:-1] == FORWARD) | (phase[:-1] == EVAL)))
    around = around[column(line.calls, "parent")[around + 1] == around]
    for some in (delta, peak, known):
        some[around] = some[around + 1]
    return OfRows(delta, known, peak)


def _ends(one: Readings, count: int) -> tuple[Ints, Ints]:
    """For each stored call the positions of its first and last reading, -1 for none."""
    ends = []
    for moment in (AT_START, AT_END):
        at = np.flatnonzero((one.moment == moment) & (one.call >= 0))
        position = np.full(count, -1, np.int64)
        position[one.call[at]] = at
        ends.append(position)
    first, last = ends
    last[last < first] = -1
    return first, last


def of_steps(stored: Stored, process: int, found: Steps) -> OfSteps:
    """The memory of each step of a process. A step begins and ends at an end of a call at which memory was read, the
    first also when recording began, the last when it ended. Several devices are added up, and no peak is told.
    """
    count = len(found)
    allocated, reserved, peak = np.full((3, count), UNKNOWN, np.int64)
    devices = np.zeros(count, np.int64)
    for one in readings(stored):
        if one.process != process or not count:
            continue
        moments, positions = _moments(stored, one)
        first, last = (_position(moments, positions, at) for at in (found.start, found.end))
        recording = np.flatnonzero(one.moment == AT_RECORDING)
        if len(recording) and recording[0] == 0 and first[0] < 0:
            first[0] = 0
        if len(recording) and recording[-1] == len(one.at_ns) - 1 and last[-1] < 0:
            last[-1] = recording[-1]
        ended = np.flatnonzero(last >= 0)
        allocated[ended] = np.maximum(allocated[ended], 0) + one.allocated_bytes[last[ended]]
        reserved[ended] = np.maximum(reserved[ended], 0) + one.reserved_bytes[last[ended]]
        whole = np.flatnonzero((last >= first) & (first >= 0))
        peak[whole] = one.peaks(first[whole], last[whole])
        devices += 1
    peak[devices != 1] = UNKNOWN
    return OfSteps(allocated, reserved, peak)


def _moments(stored: Stored, one: Readings) -> tuple[Ints, Ints]:
    """When the calls began and ended at whose ends memory was read, sorted, and the positions of these readings."""
    calls = stored.table("calls")
    start, (duration, timed) = column(calls, "start_ns"), values_and_known(calls, "duration_ns")
    row = np.maximum(one.call, 0)
    begun = (one.call >= 0) & (one.moment == AT_START)
    ended = (one.call >= 0) & (one.moment == AT_END) & timed[row]
    at = np.where(begun, start[row], start[row] + duration[row])
    chosen = np.flatnonzero(begun | ended)
    order = np.argsort(at[chosen], kind="stable")
    return at[chosen][order], chosen[order]


def _position(moments: Ints, positions: Ints, at: Ints) -> Ints:
    """The positions of the readings at moments, -1 where there is none."""
    if not len(moments):
        return np.full(len(at), -1, np.int64)
    found = np.minimum(np.searchsorted(moments, at), len(moments) - 1)
    return np.where(moments[found] == at, positions[found], -1)


def wholes(stored: Stored, process: int = 0) -> list[Whole]:
    """The memory of each device of a process over the whole recording."""
    return [_whole(one) for one in readings(stored) if one.process == process]


def _whole(one: Readings) -> Whole:
    ends = np.array([0]), np.array([len(one.at_ns) - 1])
    peak = int(one.peaks(*ends)[0])
    return Whole(
        one.device,
        peak if peak >= 0 else None,
        int(max(one.allocated_bytes.max(), one.lower_bytes.max(initial=0))),
        int(one.allocated_bytes[-1]),
        int(one.reserved_bytes[-1]),
        int(one.peak_bytes[-1]),
        int((one.moment == AT_RESET).sum()),
    )


def when_failed(stored: Stored, row: int) -> tuple[int, int] | None:
    """What was allocated and reserved when a row of the timeline had ended; None where it is not known, or which of
    several devices is meant.
    """
    place = timeline(stored).place
    found = []
    for one in readings(stored):
        at = np.flatnonzero((one.call >= 0) & (one.moment == AT_END))
        mine = at[place[one.call[at]] == row]
        found += [(int(one.allocated_bytes[n]), int(one.reserved_bytes[n])) for n in mine[-1:].tolist()]
    return found[0] if len(found) == 1 else None
