"""One rank reduced to a few numbers from the sums that it wrote (`--rollups`): none of its calls is opened.

Sums are of windows of steps that get longer. Ranks are held against each other in *bins*: as many steps in each, their
mean as its time. Windows that are shorter are put together; a longer one stands for several bins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa

from modtrace.analysis.columns import column, nullable_codes, values_and_known
from modtrace.analysis.outcome import state_of
from modtrace.analysis.ranks.process_groups import attempt_of
from modtrace.analysis.ranks.rank_end import RankEnd, rank_end
from modtrace.analysis.ranks.rank_names import names_without_calls
from modtrace.analysis.ranks.rank_numbers import (
    Bools,
    Floats,
    Ints,
    RankNumbers,
    RankStepTimes,
    median_of,
    places_of,
)
from modtrace.analysis.ranks.rank_waits import last_collectives
from modtrace.analysis.recording_end import recorded_until
from modtrace.analysis.timeline import timeline
from modtrace.trace.batch_columns import lists_of
from modtrace.trace.histogram import LEVEL_WINDOWS, added_up, quantiles, windows_of
from modtrace.trace.reader import Process, Stored
from modtrace.trace.schema import PHASES
from modtrace.trace.side_tables import rollups as checked_rollups
from modtrace.trace.table_keys import ints, last_of_each

FEW_BINS: Final = 8
"""Bins are as long as the longest windows, or half so long where there are fewer of these."""
_SHORTER: Final = 8
"""Bins of a rank are no shorter than this part of those that suit it."""
_BUCKET_BITS: Final = 12
_HOST: Final = "cpu"
_OF_STEPS: Final = -1
_SHOWN: Final = ("data", "forward", "backward", "optimizer")


@dataclass(frozen=True)
class _Sums:
    """The table `rollups` of one process, an array element a row; windows are numbered by their first step.

    window: position of the row's window.
    phase: index into PHASES, _OF_STEPS for the steps themselves; of modules neither.
    module: row of `modules`, -1 for none.
    first, end, calls: of each window, the last the steps whose time is known.
    """

    table: pa.Table
    window: Ints
    phase: Ints
    module: Ints
    first: Ints
    end: Ints
    calls: Ints

    def total(self, rows: Ints, name: str) -> Floats:
        """The sums of a column over some rows by window, NaN for one of which a part is not known."""
        values, known = values_and_known(self.table, name)
        weights = values[rows].astype(np.float64)
        spent = np.bincount(self.window[rows], weights=weights, minlength=len(self.first)).astype(np.float64)
        spent[self.window[rows[~known[rows]]]] = np.nan
        return spent.astype(np.float32)

    def phase_rows(self, number: int) -> Ints:
        """The rows of a phase, or of the steps."""
        return np.flatnonzero((self.module < 0) & (self.phase == number))


@dataclass(frozen=True)
class _Bins:
    """Bins of steps: the first step of each, how many steps it has, and from which windows it is.

    window, bin, part: for pairs of a window and a bin that is of it, or of a part of it, what part that is; in order.
    """

    first: Ints
    steps: Floats
    window: Ints
    bin: Ints
    part: Floats

    def means(self, by_window: Floats) -> Floats:
        """Sums by window, shape (windows, ...), as means of a step in each bin."""
        columns = (-1, *(1 for _ in by_window.shape[1:]))
        starts = np.searchsorted(self.bin, np.arange(len(self.first)))
        total = np.add.reduceat(by_window[self.window] * self.part.reshape(columns), starts, axis=0)
        means: Floats = (total / self.steps.reshape(columns)).astype(np.float32)
        return means


def reduced_from_sums(stored: Stored, width: int) -> RankNumbers | None:
    """The numbers of the process of a trace of one, from the sums that it wrote; None where these do not do.

    Args:
        stored: the trace, of one process.
        width: so many steps have the bins of the other ranks; 0 where this is the first.

    Raises:
        TraceError: it cannot be read, or contradicts itself.
    """
    raw = stored.unmerged("rollups").combine_chunks()
    if not len(raw) or raw.column("forward_self_ns").null_count == len(raw):
        return None
    modules = last_of_each(stored.unmerged("modules"), "module")
    table = checked_rollups(raw, ints(modules, "module"), 0)
    sums = _sums_of(table)
    usable = (sums.calls == sums.end - sums.first) & (sums.first > 0)
    if not usable.any():
        return None
    bins = _bins(sums, usable, width)
    names, roots = names_without_calls(modules, stored.unmerged("names"))
    places, role, place_of = places_of(modules, names, roots)
    own = bins.means(_own(sums, place_of, len(places)))
    ran = np.flatnonzero(np.nansum(own, axis=0) > 0) if len(places) else np.zeros(0, np.int64)
    phases = {name: _phase(sums, name) for name in PHASES}
    about = stored.process_without_calls()
    duration = bins.means(sums.total(sums.phase_rows(_OF_STEPS), "forward_ns"))
    times = RankStepTimes(
        number=bins.first,
        counts=~np.isnan(duration),
        duration_ns=duration,
        data_ns=bins.means(phases["data"]),
        wait_ns=bins.means(_wait(sums, place_of)),
        own_ns=own[:, ran],
        width=int(bins.steps.max()),
    )
    whole = int(sums.end.max())
    end, begun = _end(stored, about, whole)
    return RankNumbers(
        folder=about.folder,
        rank=about.rank,
        attempt=attempt_of(about.folder),
        world_size=about.world_size,
        end=end,
        steps=begun,
        whole_steps=whole,
        phases_ns=_medians(sums, {name: bins.means(spent) for name, spent in phases.items()}, times),
        places=tuple(places[place] for place in ran.tolist()),
        role=role,
        times=times,
        devices=_devices(stored),
        from_sums=True,
        collectives=last_collectives(stored),
    )


def _sums_of(table: pa.Table) -> _Sums:
    module = nullable_codes(table, "module")
    first, window = np.unique(ints(table, "first_step"), return_inverse=True)
    end = np.zeros(len(first), np.int64)
    np.maximum.at(end, window, ints(table, "end_step"))
    phase = nullable_codes(table, "phase").astype(np.int64)
    of_steps = (module < 0) & (phase < 0)
    calls = np.bincount(window[of_steps], weights=ints(table, "calls")[of_steps], minlength=len(first))
    return _Sums(table, window, phase, module, first, end, calls.astype(np.int64))


def _bins(sums: _Sums, usable: Bools, width: int) -> _Bins:
    """The bins of the windows that are usable: all their steps have a time."""
    windows = np.flatnonzero(usable)
    nominal_first, nominal_end = windows_of(sums.first[windows])
    length = nominal_end - nominal_first
    own_width = int(length.max())
    if own_width > 1 and np.count_nonzero(length == own_width) < FEW_BINS:
        own_width //= 2
    width = max(width, own_width // _SHORTER, 1) if width else own_width
    base = LEVEL_WINDOWS * (width - 1)
    several = np.maximum(length // width, 1)
    owner = np.repeat(np.arange(len(windows)), several)
    offset = np.arange(len(owner)) - np.repeat(np.cumsum(several) - several, several)
    first = sums.first[windows][owner] + offset * width
    steps = np.minimum(sums.end[windows][owner] - first, np.minimum(width, length[owner]))
    keep = steps > 0  # a last window may have ended early
    owner, first, steps = owner[keep], first[keep], steps[keep]
    numbers, which = np.unique((first - base) // width, return_inverse=True)
    total = np.bincount(which, weights=steps)
    filled = 2 * total >= width
    place = np.cumsum(filled) - 1
    keep = filled[which]
    part = steps / (sums.end - sums.first)[windows][owner]
    return _Bins(
        first=np.maximum(numbers[filled] * width + base, 0),
        steps=total[filled].astype(np.float32),
        window=windows[owner[keep]],
        bin=place[which[keep]],
        part=part[keep].astype(np.float32),
    )


def _own(sums: _Sums, place_of: Ints, places: int) -> Floats:
    """Own time of each place by window: shape (windows, places)."""
    rows = np.flatnonzero((sums.module >= 0) & (sums.module < len(place_of)))
    rows = rows[place_of[sums.module[rows]] >= 0]
    cell = sums.window[rows] * places + place_of[sums.module[rows]]
    spent = np.zeros(len(sums.first) * places, np.float64)
    # A null of a module that was called says that a part is not known, of both sides.
    ran, unknown = column(sums.table, "calls") > 0, np.zeros(len(sums.table), np.bool_)
    for direction, side in enumerate(("forward", "backward")):
        values, known = values_and_known(sums.table, f"{side}_self_ns")
        spent += np.bincount(cell + direction, weights=values[rows].astype(np.float64), minlength=len(spent))
        if side == "forward":
            unknown = ran & ~known
        spent[(cell + direction)[unknown[rows]]] = np.nan
    return spent.reshape(len(sums.first), places).astype(np.float32)


def _phase(sums: _Sums, name: str) -> Floats:
    return sums.total(sums.phase_rows(PHASES.index(name)), "forward_ns")


def _wait(sums: _Sums, place_of: Ints) -> Floats:
    """Own time of the phase `backward` and of modules that wrap others for several ranks."""
    waited = sums.total(sums.phase_rows(PHASES.index("backward")), "forward_self_ns")
    of_module = np.flatnonzero((sums.module >= 0) & (sums.module < len(place_of)))
    of_wrappers = of_module[place_of[sums.module[of_module]] < 0]
    for side in ("forward", "backward"):
        values, known = values_and_known(sums.table, f"{side}_self_ns")
        rows = of_wrappers[known[of_wrappers]]
        waited += np.bincount(sums.window[rows], weights=values[rows], minlength=len(sums.first)).astype(
            np.float32
        )
    return waited


def _medians(sums: _Sums, phases: dict[str, Floats], times: RankStepTimes) -> dict[str, int | None]:
    """Medians of a step, from histograms within 1 %; of what has none over bins. The first step is left out."""
    steps = int(sums.calls[sums.first > 0].sum())
    ends, buckets = lists_of(sums.table.column("forward_buckets"))
    _, counts = lists_of(sums.table.column("forward_steps"))
    row = np.repeat(np.arange(len(sums.phase)), np.diff(ends, prepend=0))
    chosen = ((sums.module < 0) & (sums.first[sums.window] > 0))[row]
    code = (sums.phase[row[chosen]] + 1) << _BUCKET_BITS | buckets[chosen]
    codes, counts = added_up(code, counts[chosen])

    def median(phase: int) -> int:
        """The median of a time over all steps, 0 in those that it has none in."""
        low, high = np.searchsorted(codes, [phase + 1 << _BUCKET_BITS, phase + 2 << _BUCKET_BITS]).tolist()
        own, number = codes[low:high] & ((1 << _BUCKET_BITS) - 1), counts[low:high]
        without = steps - int(number.sum())
        if without > 0:
            own, number = added_up(np.append(own, 0), np.append(number, without))
        return quantiles(own, number, (50,))[0]

    other = times.duration_ns - sum(phases[name] for name in _SHOWN)
    return {
        "step_ns": median(_OF_STEPS),
        **{f"{name}_ns": median(PHASES.index(name)) for name in _SHOWN},
        "other_ns": median_of(np.maximum(other, 0)),
        "modules_ns": median_of(times.own_ns[times.counts].sum(axis=1)),
    }


def _devices(stored: Stored) -> tuple[str, ...]:
    """The kinds of devices other than the processor that tensors were on."""
    tensors = stored.unmerged("signatures").column("tensors").combine_chunks().flatten()
    kinds = {device.partition(":")[0] for device in tensors.field("device").unique().to_pylist() if device}
    return tuple(sorted(kinds - {_HOST}))


def _end(stored: Stored, about: Process, whole: int) -> tuple[RankEnd, int]:
    """The end of a process, and how many steps began. The calls of one that did not end well are opened for it."""
    state, failed = state_of(about)
    if about.end is not None and not failed:
        until = recorded_until(about) or ""
        ended_ns = about.started_unix_ns
        ended = RankEnd(
            state=state,
            failed=False,
            running=False,
            at_unix_ns=None if ended_ns is None else ended_ns + about.end.ended_ns,
            step=whole - 1,
            recorded=until,
        )
        return ended, whole
    end = rank_end(stored)
    begun = max(whole, len(timeline(stored).steps[0]))
    return (end if end.step is None else replace(end, step=max(end.step, whole - 1))), begun
