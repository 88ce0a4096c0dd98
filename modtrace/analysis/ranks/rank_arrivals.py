"""Waiting of ranks for each other in collectives, by step: from when each rank launched them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column, nullable_codes, values_and_known
from modtrace.analysis.ranks.joined_collectives import arrivals, launched_in
from modtrace.analysis.ranks.process_groups import GroupFacts, group_facts
from modtrace.analysis.timeline import timeline
from modtrace.trace.call_table import CallTable
from modtrace.trace.reader import Stored

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MANY_ROWS: Final = 20_000_000
"""Collectives of all ranks together that are joined: 1 GB."""
_FAR_NS: Final = 1 << 62


@dataclass(frozen=True)
class RankLaunches:
    """The collectives of one rank, an array element each, in order of launch.

    groups, operations: what `group` and `operation` are indexes into; `group` is -1 for one of an unknown group.
    sequence: number in the group, -1 for none.
    step: number of the step in its process, -1 outside of steps.
    started_unix_ns: of its recording; `at_ns` and `step_end_ns` count from there.
    step_end_ns: end of that step.
    place: of the module call in which it was launched, index into the places of the rank; -1 for none.
    free_ns: when the thread that launched it went on: with another call, or with the end of that one; -1 where not
        known.
    counts: of each step, whether statistics are of it.
    clock: name of its clock; None where not known.
    """

    groups: tuple[GroupFacts, ...]
    operations: tuple[str, ...]
    group: Ints
    operation: Ints
    sequence: Ints
    at_ns: Ints
    step: Ints
    step_end_ns: Ints
    place: Ints
    free_ns: Ints
    counts: Bools
    started_unix_ns: int
    clock: str | None


def rank_launches(stored: Stored, counts: Bools, place_of_call: Ints) -> RankLaunches | None:
    """The collectives of the process of a trace of one; None where there are none.

    Args:
        stored: the trace, of one process.
        counts: of each step of it, whether statistics are of it.
        place_of_call: of each call, index into the places of the rank; -1 for none.
    """
    table = stored.table("collectives")
    if not len(table):
        return None
    about, steps = stored.processes[0], timeline(stored).steps[0]
    facts = group_facts(stored.table("process_groups"), about)
    at_ns = column(table, "at_ns").astype(np.int64)
    order = np.argsort(at_ns, kind="stable")
    at_ns = at_ns[order]
    own_group = column(table, "process_group")[order]
    group = np.full(len(order), -1, np.int64)
    for place, number in enumerate(facts):
        group[own_group == number] = place
    operations, operation = np.unique(table.column("operation").to_pylist(), return_inverse=True)
    step, end_ns = (np.full(len(order), -1, np.int64) for _ in range(2))
    if len(steps):
        index = np.searchsorted(steps.start, at_ns, side="right") - 1
        inside = (index >= 0) & (at_ns < steps.end[np.maximum(index, 0)])
        step[inside], end_ns[inside] = index[inside], steps.end[index[inside]]
    thread = nullable_codes(table, "thread")[order].astype(np.int64)
    call, _ = launched_in(stored, 0, at_ns, thread)
    return RankLaunches(
        groups=tuple(facts.values()),
        operations=tuple(str(name) for name in operations),
        group=group,
        operation=operation[order].astype(np.int64),
        sequence=nullable_codes(table, "sequence")[order].astype(np.int64),
        at_ns=at_ns,
        step=step,
        step_end_ns=end_ns,
        place=np.append(place_of_call, -1)[call],
        free_ns=_free_ns(timeline(stored).calls, call, at_ns, thread),
        counts=counts,
        started_unix_ns=about.started_unix_ns or 0,
        clock=about.clock,
    )


def _free_ns(calls: CallTable, call: Ints, at_ns: Ints, thread: Ints) -> Ints:
    """When each thread that was in a call at a moment went on, -1 where that is not known."""
    start, threads = column(calls, "start_ns"), column(calls, "thread")
    spent, known = values_and_known(calls, "duration_ns")
    free = np.full(len(at_ns), -1, np.int64)
    for number in np.unique(thread[(thread >= 0) & (call >= 0)]).tolist():
        rows = np.flatnonzero((thread == number) & (call >= 0))
        low, high = np.searchsorted(threads, [number, number + 1]).tolist()
        following = np.append(start[low:high], _FAR_NS)
        behind = following[np.searchsorted(start[low:high], at_ns[rows], side="right")]
        ends = np.where(known, start + spent, _FAR_NS)[call[rows]]
        first = np.minimum(behind, ends)
        free[rows] = np.where(first < _FAR_NS, first, -1)
    return free


def waits_beside(ranks: Sequence[RankLaunches]) -> list[Ints] | None:
    """Of each rank and collective the time from its launch until that of the last rank, in nanoseconds; -1 where not
    known. None where clocks are several.
    """
    clocks = {rank.clock for rank in ranks}
    rows = sum(len(rank.at_ns) for rank in ranks)
    if not ranks or None in clocks or len(clocks) > 1 or rows > MANY_ROWS:
        return None
    numbers: dict[Hashable, int] = {}
    names: dict[str, int] = {}
    parts, expected = [], []
    for rank in ranks:
        own = [numbers.setdefault(group.key, len(numbers)) for group in rank.groups]
        sizes = [len(group.ranks) if group.ranks is not None else -1 for group in rank.groups]
        called = [names.setdefault(name, len(names)) for name in rank.operations]
        parts.append(
            np.stack([np.array([*own, -1])[rank.group], rank.sequence, np.array(called)[rank.operation]])
        )
        expected.append(np.array([*sizes, -1], np.int64)[rank.group])
    columns = np.concatenate(parts, axis=1)
    same = np.unique(columns, axis=1, return_inverse=True)[1].reshape(-1)
    key = np.where((columns[0] >= 0) & (columns[1] >= 0), same, -1)
    process = np.repeat(np.arange(len(ranks)), [len(rank.at_ns) for rank in ranks])
    unix_ns = np.concatenate([rank.at_ns + rank.started_unix_ns for rank in ranks])
    joined = arrivals(key, process, unix_ns, np.concatenate(expected), np.ones(rows, np.bool_))
    return np.split(joined.wait_ns, np.cumsum([len(rank.at_ns) for rank in ranks])[:-1])


def median_wait(rank: RankLaunches, wait_ns: Ints) -> int | None:
    """The median of the waiting of a rank in the steps that count and of which all is known, in nanoseconds; None where
    there are none.

    The waiting in a step is the time in which any of its collectives had been launched by this rank and not yet by the
    last one of its group. A step without collectives has none.

    Args:
        rank: its collectives.
        wait_ns: of each of these, as in `waits_beside`.
    """
    inside = rank.step >= 0
    step, at_ns = rank.step[inside], rank.at_ns[inside]
    wait, end_ns = wait_ns[inside], rank.step_end_ns[inside]
    until = np.minimum(at_ns + np.maximum(wait, 0), end_ns)
    before = np.maximum.accumulate(np.append(np.int64(-1), until))[:-1]
    waited = np.maximum(until - np.maximum(at_ns, before), 0)
    spent = np.bincount(step, weights=waited, minlength=len(rank.counts))
    unknown = np.bincount(step, weights=wait < 0, minlength=len(rank.counts)) > 0
    chosen = np.sort(spent[rank.counts & ~unknown])
    return int(chosen[(len(chosen) - 1) // 2]) if len(chosen) else None
