"""At which starts of root calls and phases a device had run dry, and what it was kept waiting by.

A device that had run dry when the host came with more was faster than the host until then. Where the row before ended
tells why: the device got to the end of a forward when the host did (launching it, or a wait inside it, took the time);
or later, and had done all when the next row began (the host waited or did something else in between); or it had work
when the host began to get data, and none when it had got them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column, nullable_codes, values_and_known
from modtrace.analysis.device_times import device_times, rows_of
from modtrace.analysis.nesting import inside, root_calls
from modtrace.analysis.phases import BACK, DATA, EVAL, FORWARD, H2D, NAMES, OPTIMIZER, RECOMPUTE
from modtrace.analysis.timeline import timeline
from modtrace.trace.call_table import same
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.trace.schema import MODULE, PHASE

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

UNKNOWN: Final = -1
UNTOLD, LAUNCHING, GETTING_DATA, WAITING = range(4)
"""Reason for which a device had run dry: see above; UNTOLD where nothing of it is sure."""
LAG_NS: Final = 100_000
LAG_SHARE: Final = 0.1
"""A device ended behind the host if it was later by both, the second of its own time for the row."""


@dataclass(frozen=True)
class DeviceStarts:
    """An array element a row of the timeline. `dry` is 0 or 1, UNKNOWN where it was not asked; `cause` is one of the
    above for rows that are dry, and `before` the phase (index into phases.NAMES) of the row before them, else -1.
    """

    dry: Ints
    cause: Ints
    before: Ints


@dataclass(frozen=True)
class DrySteps:
    """Of some steps: how many starts were asked, at how many the device had run dry, and in how many steps it had for
    each pair of a cause and the phase before.
    """

    starts: int
    dry: int
    steps: dict[tuple[int, str], int]


@once
def device_starts(stored: Stored) -> DeviceStarts:
    """Starts of work on devices in a trace; made once."""
    line, table = timeline(stored), stored.table("device_starts")
    count = len(line.calls)
    if not len(table):
        unknown = same(UNKNOWN, np.int64, count)
        return DeviceStarts(unknown, same(UNTOLD, np.int64, count), unknown)
    dry, before = np.full((2, count), UNKNOWN, np.int64)
    cause = np.full(count, UNTOLD, np.int64)
    rows_asked, asked = rows_of(stored, "device_starts")
    dry[rows_asked] = column(table, "dry")[asked]
    rows = _outermost(stored)
    phase = nullable_codes(line.calls, "phase")
    phase = np.where((phase < 0) & (column(line.calls, "kind") == MODULE), FORWARD, phase)
    outermost = np.zeros(count, np.bool_)
    outermost[rows] = True
    dry[~outermost] = UNKNOWN
    if not len(rows):
        return DeviceStarts(dry, cause, before)
    process, thread = (column(line.calls, name)[rows] for name in ("process", "thread"))
    follows = np.append(False, (process[1:] == process[:-1]) & (thread[1:] == thread[:-1]))
    after, first = rows[follows], rows[np.flatnonzero(follows) - 1]
    is_dry = dry[after] == 1
    before[after[is_dry]] = phase[first[is_dry]]
    cause[after[is_dry]] = _causes(stored, first[is_dry], phase[first[is_dry]], dry[first[is_dry]])
    # The phase of a forward is put in around its root call, which is the row after it.
    around = np.flatnonzero((column(line.calls, "kind")[:-1] == PHASE) & np.isin(phase[:-1], (FORWARD, EVAL)))
    around = around[column(line.calls, "parent")[around + 1] == around]
    dry[around] = dry[around + 1]
    return DeviceStarts(dry, cause, before)


def _outermost(stored: Stored) -> Ints:
    """The rows of root calls and recorded phases that are in none other, and not made again in backward."""
    line, calls = timeline(stored), stored.calls
    call_kind, last = column(calls, "kind"), column(calls, "last_call")
    roots_and_phases = root_calls(call_kind, last) | (call_kind == PHASE)
    rows: Ints = line.place[np.flatnonzero(roots_and_phases & ~inside(roots_and_phases, last))]
    outermost: Ints = rows[nullable_codes(line.calls, "phase")[rows] != RECOMPUTE]
    return outermost


def _causes(stored: Stored, row: Ints, phase: Ints, dry: Ints) -> Ints:
    """Reason for which a device was dry behind each row."""
    times, calls = device_times(stored), timeline(stored).calls
    duration, timed = values_and_known(calls, "duration_ns")
    spent = times.device_ns[row]
    lag = times.start_ns[row] + spent - (column(calls, "start_ns") + duration)[row]
    known = timed[row] & times.placed[row] & (spent >= 0)
    works = np.isin(phase, (FORWARD, EVAL, BACK, OPTIMIZER))
    later = lag > np.maximum(LAG_NS, LAG_SHARE * spent)
    cause = np.where(works & known, np.where(later, WAITING, LAUNCHING), UNTOLD)
    return np.where(np.isin(phase, (DATA, H2D)) & (dry == 0), GETTING_DATA, cause)


def dry_of_steps(stored: Stored, process: int, count: int) -> tuple[Ints, Ints]:
    """At how many starts of each step of a process it was asked, and at how many the device had run dry."""
    if not len(stored.table("device_starts")):
        return np.zeros(count, np.int64), np.zeros(count, np.int64)
    calls, starts = timeline(stored).calls, device_starts(stored)
    step = nullable_codes(calls, "step")
    in_steps = (column(calls, "process") == process) & (step >= 0) & (step < count) & _own_starts(stored)
    asked = np.bincount(step[in_steps], minlength=count)
    return asked, np.bincount(step[in_steps & (starts.dry == 1)], minlength=count)


def _own_starts(stored: Stored) -> Bools:
    """Rows that were asked themselves, not those put in around them."""
    asked = np.zeros(len(timeline(stored).calls), np.bool_)
    asked[rows_of(stored, "device_starts")[0]] = True
    return asked & (device_starts(stored).dry >= 0)


def dry_in(stored: Stored, process: int, chosen: Bools) -> DrySteps:
    """Dry starts in the chosen steps of a process."""
    if not len(stored.table("device_starts")):
        return DrySteps(0, 0, {})
    calls, starts = timeline(stored).calls, device_starts(stored)
    step = nullable_codes(calls, "step")
    in_chosen = (column(calls, "process") == process) & (step < len(chosen)) & _own_starts(stored)
    in_chosen &= np.append(chosen, False)[np.where(step < len(chosen), step, -1)] & (step >= 0)
    dry = in_chosen & (starts.dry == 1)
    explained = np.flatnonzero(dry & (starts.cause != UNTOLD))
    triples = {
        *zip(
            starts.cause[explained].tolist(),
            starts.before[explained].tolist(),
            step[explained].tolist(),
            strict=True,
        )
    }
    steps: dict[tuple[int, str], int] = {}
    for cause, before, _ in triples:
        key = cause, NAMES[before]
        steps[key] = steps.get(key, 0) + 1
    return DrySteps(int(in_chosen.sum()), int(dry.sum()), steps)
