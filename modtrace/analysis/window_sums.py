"""Sums over windows of steps for all steps: as they were written, and before that from single calls.

With `--keep auto` sums are written from the first step on that may be left out. All steps before it are recorded, so
their sums follow from their calls: the same rows come of both. Of a trace of several ranks no call is opened but of
those that have such steps, one rank at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.analysis.columns import column, values_and_known
from modtrace.analysis.modules import module_names
from modtrace.analysis.phases import Steps
from modtrace.analysis.ranks.rank_names import names_without_calls
from modtrace.analysis.rollups import UNKNOWN, rollup
from modtrace.analysis.timeline import timeline
from modtrace.trace.arrow_arrays import IntegerLists, array
from modtrace.trace.derived import once
from modtrace.trace.histogram import added_up, buckets_of, windows_of
from modtrace.trace.reader import Stored, process_of
from modtrace.trace.side_tables import rollups as checked_rollups
from modtrace.trace.table_keys import ints, last_of_each

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_OF_STEPS: Final = 0
"""The key of the steps themselves; that of a module is its row and one."""
_KEY_BITS: Final = 32
_BUCKET_BITS: Final = 12


class _Times(NamedTuple):
    """A row a module in each step, and one a step itself: its key, how often it ran, and the time of each side, UNKNOWN
    where that is not known; `ran` are those that have that side.
    """

    step: Ints
    key: Ints
    calls: Ints
    spent: tuple[Ints, Ints]
    ran: tuple[Bools, Bools]


@dataclass(frozen=True)
class RankSums:
    """Sums over windows of steps of all ranks.

    table: as `window_sums` has it.
    name, type, root: of each module of all ranks, an element a row of the table `modules`.
    rank: that of each process.
    """

    table: pa.Table
    name: list[str]
    type: list[str]
    root: list[str]
    rank: Ints


@once
def rank_sums(stored: Stored) -> RankSums:
    """The sums of all ranks of a trace; made once. No call is opened where each wrote sums of all its steps.

    Names are those of `modules` where the trace is of one process. Of several they are of the trees alone: a module
    that is in none and was only called has none.
    """
    folders = stored.folders()
    if len(folders) == 1:
        name, _, root = module_names(stored)
        ranks = [process.rank for process in stored.processes]
        of_modules = stored.table("modules").column("type").to_pylist()
        return RankSums(window_sums(stored), name, of_modules, root, np.array(ranks, np.int64))
    tables: list[pa.Table] = []
    names: list[str] = []
    types: list[str] = []
    roots: list[str] = []
    for number, folder in enumerate(folders):
        one = stored.alone(folder)
        modules = last_of_each(one.unmerged("modules"), "module")
        own, top = names_without_calls(modules, one.unmerged("names"))
        tables.append(_among_all(_of_one(one, ints(modules, "module")), len(names), number))
        names, roots = names + own, roots + top
        types += modules.column("type").to_pylist()
    ranks = [process_of(folder, 0).rank for folder in folders]
    return RankSums(pa.concat_tables(tables), names, types, roots, np.array(ranks, np.int64))


def _of_one(one: Stored, modules: Ints) -> pa.Table:
    """The sums of a trace of one process, for which calls are opened only where there are none of its first steps."""
    written = checked_rollups(one.unmerged("rollups"), modules, 0)
    written = written.append_column("process", array(np.zeros(len(written), np.int64), pa.int32()))
    thinned = one.unmerged("thinned")
    firsts = np.concatenate([column(table, "first_step") for table in (written, thinned)])
    return window_sums(one) if len(thinned) and int(firsts.min()) > 0 else written


def _among_all(table: pa.Table, start: int, process: int) -> pa.Table:
    """Sums of one process with the positions of modules among those of all, and with its number."""
    for name, shift in (("module", start), ("process", process)):
        values, known = values_and_known(table, name)
        field = table.schema.field(name)
        shifted = array(values.astype(np.int64) + shift, field.type, ~known)
        table = table.set_column(table.schema.get_field_index(name), field, shifted)
    return table


@once
def window_sums(stored: Stored) -> pa.Table:
    """The table `rollups`, with windows before its first step from single calls; made once."""
    table, thinned = stored.table("rollups"), stored.table("thinned")
    process = column(table, "process")
    parts = [table]
    for number in np.unique(column(thinned, "process")).tolist():
        firsts = np.concatenate(
            [
                column(table, "first_step")[process == number],
                column(thinned, "first_step")[column(thinned, "process") == number],
            ]
        )
        if int(firsts.min()) > 0:
            parts.append(_from_calls(stored, number, int(firsts.min()), table.schema))
    if len(parts) == 1:
        return table
    joined = pa.concat_tables(parts)
    order = np.lexsort((column(joined, "first_step"), column(joined, "process")))
    return joined.take(array(order, pa.int64()))


def _from_calls(stored: Stored, process: int, end: int, schema: pa.Schema) -> pa.Table:
    """The windows of the steps of a process before one. Own times and phases are not in them: null, and no rows."""
    steps = timeline(stored).steps[process]
    times = _times(stored, process, min(end, len(steps)))
    first, _ = windows_of(times.step)
    group_key = first << _KEY_BITS | times.key
    groups, calls = added_up(group_key, times.calls)
    group = np.searchsorted(groups, group_key)
    window_end = np.zeros(len(groups), np.int64)
    np.maximum.at(window_end, group, times.step + 1)
    since = _since(steps)
    key = groups & ((1 << _KEY_BITS) - 1)
    columns: dict[str, pa.Array] = {
        "first_step": array(groups >> _KEY_BITS, pa.int64()),
        "end_step": array(window_end, pa.int64()),
        "from_ns": array(since[groups >> _KEY_BITS], pa.int64()),
        "to_ns": array(since[window_end], pa.int64()),
        "module": array(np.maximum(key - 1, 0), pa.int64(), key == _OF_STEPS),
        "calls": array(calls, pa.int64()),
        "process": array(np.full(len(groups), process), pa.int32()),
    }
    for name, spent, ran in zip(("forward", "backward"), times.spent, times.ran, strict=True):
        columns |= _side(name, group, len(groups), spent, ran)
    arrays = [
        columns[name].cast(field.type) if name in columns else pa.nulls(len(groups), field.type)
        for name, field in zip(schema.names, schema, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _since(steps: Steps) -> Ints:
    """When each step began, with the time since the end of the one before, and behind the last its end."""
    if not len(steps):
        return np.zeros(1, np.int64)
    if steps.by == "root":
        return np.append(steps.start, steps.end[-1])
    return np.append(steps.start[0], steps.end)


def _times(stored: Stored, process: int, end: int) -> _Times:
    """Modules and steps before one, as `_Times`."""
    sums = rollup(stored)
    sums = sums.chosen((sums.process == process) & (sums.step < end))
    since = _since(timeline(stored).steps[process])
    steps = np.arange(1, end)  # when the first one began is not known
    nothing = np.zeros(len(steps), np.int64)
    backward = sums.backward_ns != UNKNOWN
    return _Times(
        np.concatenate([sums.step, steps]),
        np.concatenate([sums.module + 1, nothing + _OF_STEPS]),
        np.concatenate([sums.calls, nothing + 1]),
        (
            np.concatenate([sums.forward_ns, np.diff(since)[1:end]]),
            np.concatenate([sums.backward_ns, nothing + UNKNOWN]),
        ),
        (
            np.concatenate([sums.calls > 0, nothing == 0]),
            np.concatenate([backward, nothing > 0]),
        ),
    )


def _side(name: str, group: Ints, count: int, spent: Ints, ran: Bools) -> dict[str, Any]:
    """The columns of one side of each group of rows."""
    known = ran & (spent != UNKNOWN)
    total, longest = np.zeros(count, np.int64), np.full(count, -1, np.int64)
    np.add.at(total, group[known], spent[known])
    np.maximum.at(longest, group[known], spent[known])
    is_null = (np.bincount(group[ran], minlength=count) == 0) | (
        np.bincount(group[ran & ~known], minlength=count) > 0
    )
    codes, counts = added_up(
        group[known] << _BUCKET_BITS | buckets_of(spent[known]), np.ones(int(known.sum()), np.int64)
    )
    ends = np.searchsorted(codes, np.arange(1, count + 1) << _BUCKET_BITS)
    lists = pa.list_(pa.int64())
    return {
        f"{name}_ns": array(total, pa.int64(), is_null),
        f"{name}_max_ns": array(np.maximum(longest, 0), pa.int64(), longest < 0),
        f"{name}_buckets": array(IntegerLists(ends, codes & ((1 << _BUCKET_BITS) - 1)), lists),
        f"{name}_steps": array(IntegerLists(ends, counts), lists),
    }
