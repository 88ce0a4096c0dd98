"""Collectives of all ranks, joined: the same one in each rank, who launched it late, and in which call."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.analysis.columns import column, nullable, nullable_codes
from modtrace.analysis.memory import placed
from modtrace.analysis.ranks.process_groups import GroupFacts, attempt_of, group_facts
from modtrace.analysis.timeline import timeline
from modtrace.trace.arrow_arrays import array
from modtrace.trace.reader import Stored
from modtrace.trace.schema import STEP, UNFINISHED

if TYPE_CHECKING:
    import pandas as pd

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_FAR_NS: Final = 1 << 57


@dataclass(frozen=True)
class Arrivals:
    """Collectives beside those of the other ranks, an array element a row.

    late_ns: after the first rank; wait_ns: until the last one. Both -1 where not known.
    ranks: how many ranks have a row of it.
    """

    late_ns: Ints
    wait_ns: Ints
    ranks: Ints


def arrivals(key: Ints, process: Ints, unix_ns: Ints, expected: Ints, comparable: Bools) -> Arrivals:
    """Each row beside those of the same key.

    Args:
        key: of the collective, the same in all ranks; -1 for one that is not joined.
        process: number of the process of each row.
        unix_ns: when it was launched, by a clock that is the same for all rows that are comparable.
        expected: so many ranks its group has; -1 where not known.
        comparable: of each row, whether its clock is that of the other ranks.
    """
    late, wait, ranks = (np.full(len(key), -1, np.int64) for _ in range(3))
    order = np.lexsort((process, key))
    order = order[key[order] >= 0]
    if not len(order):
        return Arrivals(late, wait, np.ones(len(key), np.int64))
    own, of_process = key[order], process[order]
    again = np.zeros(len(order), np.bool_)  # of one rank: pieces that were launched as one have one number
    again[1:] = (own[1:] == own[:-1]) & (of_process[1:] == of_process[:-1])
    starts = np.flatnonzero(np.append(True, own[1:] != own[:-1]))
    which = np.cumsum(np.append(True, own[1:] != own[:-1])) - 1
    first, last = (reduce.reduceat(unix_ns[order], starts) for reduce in (np.minimum, np.maximum))
    count = np.add.reduceat((~again).astype(np.int64), starts)
    known = (count == expected[order][starts]) & np.logical_and.reduceat(comparable[order], starts)
    known &= ~np.logical_or.reduceat(again, starts)
    late[order] = np.where(known[which], unix_ns[order] - first[which], -1)
    wait[order] = np.where(known[which], last[which] - unix_ns[order], -1)
    ranks[order] = count[which]
    return Arrivals(late, wait, np.maximum(ranks, 1))


def launched_in(stored: Stored, process: int, at_ns: Ints, thread: Ints) -> tuple[Ints, Ints]:
    """The innermost call that was open on a thread at a moment, as its row in the timeline, and the step; -1 for none.

    What was launched on a thread without calls belongs to a backward, if one ran then: autograd's engine launches those
    of DistributedDataParallel on a device from a thread of its own.
    """
    line = timeline(stored)
    low, high = np.searchsorted(column(line.calls, "process"), [process, process + 1]).tolist()
    calls = line.calls.slice(low, high - low)
    is_open = column(calls, "status") == UNFINISHED
    if is_open.any():  # a call that never ended is open until the end of time
        spent = np.where(is_open, _FAR_NS, column(calls, "duration_ns"))
        calls = calls.with_column("duration_ns", spent)
    inner = placed(calls, at_ns, thread)
    is_step = np.append(column(calls, "kind") == STEP, False)
    call = np.where((inner >= 0) & ~is_step[inner], inner + low, -1)
    steps, step = line.steps[process], np.full(len(at_ns), -1, np.int64)
    if len(steps):
        index = np.searchsorted(steps.start, at_ns, side="right") - 1
        inside = (index >= 0) & (at_ns < steps.end[np.maximum(index, 0)])
        step[inside] = index[inside]
        row_step = np.append(nullable_codes(calls, "step"), -1)[inner]
        step = np.where((step < 0) & (inner >= 0), row_step, step)
    return call, step


def _facts(stored: Stored) -> dict[tuple[int, int], GroupFacts]:
    """The process groups of all processes, by the number of the process and the group's key in it."""
    groups = stored.table("process_groups")
    of_process = column(groups, "process")
    return {
        (number, group): fact
        for number, about in enumerate(stored.processes)
        for group, fact in group_facts(groups.filter(array(of_process == number, pa.bool_())), about).items()
    }


def joined(stored: Stored) -> Arrivals:
    """The collectives of a trace beside those of the other ranks, in the order of the table `collectives`."""
    table, facts = stored.table("collectives"), _facts(stored)
    process, own_group = (
        column(table, "process").astype(np.int64),
        column(table, "process_group").astype(np.int64),
    )
    numbers: dict[Hashable, int] = {}
    group, expected = (np.full(len(table), -1, np.int64) for _ in range(2))
    for (number, torch_number), fact in facts.items():
        rows = (process == number) & (own_group == torch_number)
        group[rows] = numbers.setdefault(fact.key, len(numbers))
        expected[rows] = len(fact.ranks) if fact.ranks is not None else -1
    started = np.array([about.started_unix_ns or 0 for about in stored.processes] or [0], np.int64)
    unix_ns = column(table, "at_ns") + started[process]
    sequence = nullable_codes(table, "sequence").astype(np.int64)
    of_operation = np.unique(table.column("operation").to_pylist(), return_inverse=True)[1]
    same = np.unique(np.stack([group, sequence, of_operation]), axis=1, return_inverse=True)[1].reshape(-1)
    key = np.where((group >= 0) & (sequence >= 0), same, -1)
    clocks = {about.clock for about in stored.processes}
    one_clock = len(clocks) == 1 and None not in clocks
    return arrivals(key, process, unix_ns, expected, np.full(len(table), one_clock, np.bool_))


def collectives(stored: Stored) -> pd.DataFrame:
    """One row a collective and rank, by rank and in order of launch; columns as in dataframes.COLLECTIVES."""
    import pandas as pd

    table = stored.table("collectives")
    process, at_ns = column(table, "process").astype(np.int64), column(table, "at_ns").astype(np.int64)
    call, step = (np.full(len(table), -1, np.int64) for _ in range(2))
    for number in np.unique(process).tolist():
        rows = np.flatnonzero(process == number)
        thread = nullable_codes(table, "thread")[rows].astype(np.int64)
        call[rows], step[rows] = launched_in(stored, number, at_ns[rows], thread)
    facts = _facts(stored)
    own = [
        facts.get(pair)
        for pair in zip(process.tolist(), column(table, "process_group").tolist(), strict=True)
    ]
    beside = joined(stored)
    ranks = np.array([about.rank for about in stored.processes] or [0], np.int64)
    attempts = np.array([attempt_of(about.folder) for about in stored.processes] or [0], np.int64)
    members = np.array(
        [len(group.ranks) if group and group.ranks is not None else -1 for group in own], np.int64
    )
    columns: dict[str, Any] = {
        "rank": ranks[process],
        "attempt": attempts[process],
        "step": _nullable(step),
        "call": _nullable(call),
        "group": pd.Series([group.name if group else "" for group in own], dtype="str"),
        "description": pd.Series([_said(group.description) if group else None for group in own], dtype="str"),
        "sequence": nullable(table, "sequence"),
        "operation": pd.Series(table.column("operation").to_pylist(), dtype="str"),
        "start_ns": at_ns,
        "late_ns": _nullable(beside.late_ns),
        "wait_ns": _nullable(beside.wait_ns),
        "ended": pd.Series(table.column("ended").to_pylist(), dtype="boolean"),
        "seen_ns": column(table, "seen_ns").astype(np.int64),
        "ranks": beside.ranks,
        "group_ranks": _nullable(members),
        "input_bytes": nullable(table, "input_bytes"),
        "output_bytes": nullable(table, "output_bytes"),
    }
    frame = pd.DataFrame(columns)
    return frame.sort_values(["rank", "attempt", "start_ns"], kind="stable", ignore_index=True)


def _said(description: str | None) -> str | None:
    """torch writes `undefined` where the program gives no description."""
    return description if description not in (None, "", "undefined") else None


def _nullable(values: Ints) -> Any:
    import pandas as pd

    return pd.arrays.IntegerArray(np.maximum(values, 0), values < 0)
