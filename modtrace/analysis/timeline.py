"""The calls of a trace as one tree that adds up: steps, phases and what was recorded in them.

What follows from the recorded calls is put in as rows of their own: a step around all that belongs to it, `forward` or
`eval` around a root call, `loss` from the last forward to the backward. Without a training loop there is nothing to
put in, and every root call is a step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.analysis import phases
from modtrace.analysis.call_arrays import Calls
from modtrace.analysis.columns import begun, column, values_and_known
from modtrace.analysis.left_out import left_out
from modtrace.analysis.phases import Division, Steps, Stretch, divide
from modtrace.trace.arrow import give_back
from modtrace.trace.call_table import CODED, CallTable, constant, same
from modtrace.trace.derived import once
from modtrace.trace.reader import Process, Stored
from modtrace.trace.schema import MODULE, OK, PHASE, STEP, UNFINISHED

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_STEP, _INNER = 0, 1
"""Levels of rows that are put in: steps around all else."""
_MANY: Final = 100_000
"""From so many rows on, memory that is free goes back to the system."""
_OF_STORED_CALLS: Final = ("device_times", "device_starts", "device_memory")
"""Tables that are looked at beside the calls as they are stored, which stay in memory for that."""
_NARROW: Final[Any] = np.int8
NAMES_PUT_IN: Final = ("step", "forward", "eval", "loss")
"""Names of the rows that are put in: nothing recorded is a phase of such a name."""


@dataclass(frozen=True)
class Timeline:
    """A trace with steps and phases.

    calls: as `Stored.calls`, in one numbering with the rows that were put in, with the columns `step` (null
    outside of steps) and `phase` (index into phases.NAMES, null outside of phases).
    labels: (name, type) of each label, those of the rows put in among them.
    places: (file, line, instruction) of each label of a function, None for others.
    steps: those of each process.
    place: where each call of `Stored.calls` stands; marks of steps, which are taken out, where they stood.
    """

    calls: CallTable
    labels: list[tuple[str, str]]
    places: list[tuple[str, int, int] | None]
    steps: list[Steps]
    place: Ints


@once
def timeline(stored: Stored) -> Timeline:
    """The timeline of a trace; made once."""
    line = _timeline(stored)
    if len(line.calls) > _MANY:
        is_copy = any(steps.by != "root" for steps in line.steps)
        if is_copy and not any(len(stored.table(name)) for name in _OF_STORED_CALLS):
            stored.release()
        give_back()
    return line


@dataclass(frozen=True)
class _Rows:
    """Rows to put in, in order. `first` and `last` are the calls around which each stands, last < first for none;
    `before` is the call whose parent and depth it takes. `start` and `end` are -1 where they are those of `before`.
    """

    level: Ints
    label: Ints
    phase: Ints
    status: Ints
    first: Ints
    last: Ints
    before: Ints
    start: Ints
    end: Ints

    def __len__(self) -> int:
        return len(self.level)


def _timeline(stored: Stored) -> Timeline:
    table = stored.calls
    label_table = stored.table("labels")
    labels = list(
        zip(label_table.column("name").to_pylist(), label_table.column("type").to_pylist(), strict=True)
    )
    label_of = {name: len(labels) + index for index, name in enumerate(NAMES_PUT_IN)}
    labels += [(name, "") for name in NAMES_PUT_IN]
    places = [*_places(label_table), *[None] * len(NAMES_PUT_IN)]
    process = column(table, "process")
    edges = np.searchsorted(process, np.arange(len(stored.processes) + 1))
    step = np.full(len(table), phases.NONE, np.int32)
    phase = np.full(len(table), phases.NONE, np.int32)
    steps: list[Steps] = []
    pieces, drop = [], []
    all_calls = _calls(stored, table, labels)
    parts = zip(edges[:-1].tolist(), edges[1:].tolist(), stored.processes, strict=True)
    for low, high, about in parts:
        calls = _part(all_calls, low, high)
        division = divide(calls, over=_is_over(about), stretches=_stretches(stored, len(steps)))
        step[low:high] = division.step
        phase[low:high] = division.phase
        steps.append(division.steps)
        if division.steps.by != "root":
            pieces.append((_rows(calls, division, label_of), low))
            drop.append(np.flatnonzero(calls.kind == STEP) + low)
        del calls, division  # of a million calls each array that nobody needs any more is 8 MB of the peak
    table = table.with_column("step", step).with_column("phase", phase)
    place = np.arange(len(table))
    if pieces:
        none = all_calls.module[:0]
        all_calls = replace(all_calls, module=none, label=none, maker=none, mode=none, status=none)
        table, place = _with_rows(table, all_calls, _joined(pieces), np.concatenate(drop))
    return Timeline(table, labels, places, steps, place)


def _stretches(stored: Stored, process: int) -> list[Stretch]:
    """The stretches of steps of a process that were left out."""
    return [
        Stretch(end - first, from_ns, to_ns)
        for first, end, from_ns, to_ns, _ in left_out(stored, process).tolist()
    ]


def _is_over(process: Process) -> bool:
    """True if a program came to its end, not by an error, and was recorded until then."""
    end = process.end
    return end is not None and process.stop is None and end.exception is None and not end.exit_status


def _places(labels: pa.Table) -> list[tuple[str, int, int] | None]:
    columns = [labels.column(f"source_{name}").to_pylist() for name in ("file", "line", "offset")]
    return [
        None if file is None else (file, line or 0, -1 if offset is None else offset)
        for file, line, offset in zip(*columns, strict=True)
    ]


def _calls(stored: Stored, table: CallTable, labels: list[tuple[str, str]]) -> Calls:
    """The calls of all processes, as narrow as they are stored."""
    call_kind, label, module, start = (
        table.stored(name)[0] for name in ("kind", "label", "module", "start_ns")
    )
    codes = [phases.NAMES.index(name) if name in phases.NAMES else phases.NONE for name, _ in labels]
    label_code: Ints = np.full(len(table), phases.NONE, _NARROW)
    rows = np.flatnonzero(call_kind == PHASE)
    label_code[rows] = np.array([*codes, phases.NONE], _NARROW)[label[rows]]
    counts, counted = values_and_known(stored.table("modules"), "parameter_count")
    has_some = np.append((counts > 0) | ~counted, False)
    module = np.where(call_kind == MODULE, module, module.dtype.type(-1))
    return Calls(
        kind=call_kind,
        module=module,
        parent=table.stored("parent")[0],
        last=table.stored("last_call")[0],
        depth=table.stored("depth")[0],
        thread=table.stored("thread")[0],
        label=label_code,
        maker=label,
        forward=table.stored("forward")[0],
        mode=np.maximum(table.stored("mode")[0], 0),
        start=start,
        end=start + table.stored("duration_ns")[0],
        known=table.known("duration_ns"),
        status=table.stored("status")[0],
        parameters=has_some[module],
    )


def _part(calls: Calls, low: int, high: int) -> Calls:
    """The calls of one process, numbered from 0."""
    if low == 0 and high == len(calls):
        return calls
    part = {name: getattr(calls, name)[low:high] for name in Calls.__dataclass_fields__}
    part["last"] = part["last"] - low
    for name in ("parent", "forward"):
        part[name] = np.where(part[name] >= 0, part[name] - low, -1)
    return Calls(**part)


def _rows(calls: Calls, division: Division, label_of: dict[str, int]) -> _Rows:
    """The rows to put into one process, in the order in which they will stand."""
    units, steps = division.units, division.steps
    roots = units[calls.kind[units] == MODULE]
    phase = division.phase[roots]
    chosen = (phase == phases.FORWARD) | (phase == phases.EVAL)
    roots, phase = roots[chosen], phase[chosen]
    label = np.where(phase == phases.EVAL, label_of["eval"], label_of["forward"])
    parts = [_table(_INNER, label, phase, OK, roots, calls.last[roots], roots, -1, -1)]
    forward, backward = np.array(division.losses, np.int64).reshape(-1, 2).T
    start, first = calls.end[forward], calls.last[forward] + 1
    end = np.maximum(start, calls.start[backward])
    parts.append(_table(_INNER, label_of["loss"], phases.LOSS, OK, first, backward - 1, backward, start, end))
    first, last = _behind_marks(calls, steps.first), steps.last
    numbers = np.flatnonzero(first <= last)
    numbers = numbers[_holds(calls, first[numbers], last[numbers])]
    first, last, start, end = (values[numbers] for values in (first, last, steps.start, steps.end))
    status = np.where(steps.whole[numbers], OK, UNFINISHED)
    parts.append(_table(_STEP, label_of["step"], phases.NONE, status, first, last, first, start, end))
    rows = np.concatenate(parts, axis=1)
    return _Rows(*rows[:, np.lexsort((rows[0], rows[4]))])


def _table(*columns: Ints | int) -> Ints:
    """Columns of one length, or of one value, below each other: shape (columns, rows)."""
    return np.stack([np.asarray(values, np.int64) for values in np.broadcast_arrays(*columns)])


def _behind_marks(calls: Calls, first: Ints) -> Ints:
    """The first calls of steps; where that is a mark at the end of a step, the first behind it that is none."""
    first = first.copy()
    call_kind = np.append(calls.kind, MODULE)
    while len(marks := np.flatnonzero(call_kind[np.minimum(first, len(calls))] == STEP)):
        first[marks] += 1
    return first


def _holds(calls: Calls, first: Ints, last: Ints) -> Bools:
    """Mask of the ranges of calls, none empty, that are rows side by side: no span begins in one and ends behind it."""
    if not len(first):
        return np.zeros(0, np.bool_)
    edges = np.stack([first, last + 1], 1).ravel()
    shallowest = np.minimum.reduceat(np.append(calls.depth, 0), edges)[::2]
    latest = np.maximum.reduceat(np.append(calls.last, 0), edges)[::2]
    holds: Bools = (shallowest >= calls.depth[first]) & (latest <= last)
    return holds


def _joined(parts: list[tuple[_Rows, int]]) -> _Rows:
    """The rows of all processes, each with the number of its first call."""
    columns = []
    for name in _Rows.__dataclass_fields__:
        shift = name in ("first", "last", "before")
        columns.append(np.concatenate([getattr(rows, name) + (low if shift else 0) for rows, low in parts]))
    return _Rows(*columns)


class _Cover:
    """Index of the disjoint range that each call is in, and at its top level."""

    def __init__(self, rows: _Rows, chosen: Bools, depth: Ints) -> None:
        self.row_numbers = np.flatnonzero(chosen)
        first, last = rows.first[self.row_numbers], rows.last[self.row_numbers]
        filled = np.flatnonzero(last >= first)
        self.row_numbers, first, last = self.row_numbers[filled], first[filled], last[filled]
        index = begun(first, len(depth)) - 1
        if len(first):
            index[last[index] < np.arange(len(depth))] = -1
        self.row = np.append(self.row_numbers, -1)[index]
        self.top = np.append(depth[rows.before[self.row_numbers]], -1)[index] == depth


def _with_rows(table: CallTable, calls: Calls, rows: _Rows, drop: Ints) -> tuple[CallTable, Ints]:
    """The table with rows put in and others (marks of steps, which hold nothing) taken out, in one numbering, and
    where each of the calls stands in it.
    """
    count = len(calls)
    step = _Cover(rows, rows.level == _STEP, calls.depth)
    inner = _Cover(rows, rows.level == _INNER, calls.depth)
    remaining = np.ones(count, np.bool_)
    remaining[drop] = False
    place, row_place, final = _places_of(rows, remaining)
    over = np.append(place, place.dtype.type(-1))  # with what -1 has: none
    parent = over[calls.parent]
    row_parent = parent[rows.before]
    for cover in (step, inner):
        tops = np.flatnonzero(cover.top)
        parent[tops] = row_place[cover.row[tops]]
    in_step = (rows.level == _INNER) & (step.row[rows.before] >= 0)
    at_top = in_step & step.top[rows.before]
    row_parent[at_top] = row_place[step.row[rows.before[at_top]]]
    last = np.where(rows.last >= rows.first, final[np.maximum(rows.last, 0)], row_place)
    took_before = calls.end[rows.before] - calls.start[rows.before]
    duration = np.where(rows.start < 0, took_before, rows.end - rows.start)
    unknown = (rows.start < 0) & ~calls.known[rows.before]

    spent, lost = np.zeros((2, count + len(rows) + 1), np.int64)
    below = np.flatnonzero(step.top | inner.top)  # others are in calls, whose own time is known already
    took = np.where(calls.known[below], calls.end[below] - calls.start[below], 0)
    np.add.at(spent, parent[below], took)
    np.add.at(lost, parent[below], ~calls.known[below])
    np.add.at(spent, row_parent, np.where(unknown, 0, duration))
    np.add.at(lost, row_parent, unknown)

    row_self_ns = np.maximum(duration - spent[row_place], 0)
    none = np.zeros(len(rows), np.bool_)
    new: dict[str, tuple[Any, Bools]] = {
        "call": (row_place, none),
        "parent": (row_parent, none),
        "last_call": (last, none),
        "kind": (np.where(rows.level == _STEP, STEP, PHASE), none),
        "label": (rows.label, none),
        "depth": (calls.depth[rows.before] + in_step, none),
        "start_ns": (np.where(rows.start < 0, calls.start[rows.before], rows.start), none),
        "duration_ns": (duration, unknown),
        "self_ns": (row_self_ns, unknown | (lost[row_place] > 0)),
        "tracer_ns": (np.zeros(len(rows), np.int64), none),
        "status": (rows.status, none),
        "phase": (np.maximum(rows.phase, 0), rows.phase < 0),
    }
    changed = {
        "call": place,
        "parent": parent,
        "last_call": final[calls.last],
        "depth": calls.depth + (step.row >= 0) + (inner.row >= 0),
        "forward": over[calls.forward],
        **_without(table, calls, drop, row_self_ns, (row_place, row_parent), place),
    }
    together = _Together(row_place, remaining)
    return _woven(table, rows, together, new, changed), place.astype(np.int64)


def _places_of(rows: _Rows, remaining: Bools) -> tuple[Ints, Ints, Ints]:
    """Where calls and rows stand together, in 32 bits where these are enough.

    Args:
        rows: those that are put in.
        remaining: the calls that are not taken out.

    Returns:
        The place of each call, of each row, and of the last call up to each that is still there.
    """
    count = len(remaining)
    dtype: Any = np.int32 if count + len(rows) < 1 << 31 else np.int64
    place = begun(rows.first, count)
    place += np.arange(count)
    row_place = rows.first + np.arange(len(rows))
    if remaining.all():
        place = place.astype(dtype)
        return place, row_place, place
    gone = np.concatenate([[0], np.cumsum(~remaining)])
    place -= gone[:-1]
    return place.astype(dtype), row_place - gone[rows.first], (place - ~remaining).astype(dtype)


def _without(
    table: CallTable, calls: Calls, drop: Ints, row_self_ns: Ints, rows: tuple[Ints, Ints], place: Ints
) -> dict[str, Ints]:
    """Self and tracer times of calls without what rows put in below them, at any depth, have of it, and with that of
    rows taken out.

    It is not known how much of modtrace's own time was in such a row: the call's self time is taken first.

    Args:
        table, calls: the calls.
        drop: those that are taken out.
        row_self_ns: self time of each row put in.
        rows: where each of these stands, and its parent.
        place: where each call stands.
    """
    row_place, parent = rows
    over = np.full(len(place) + len(row_self_ns) + 1, -1, np.int64)
    over[row_place] = parent
    taken = np.zeros(len(over), np.int64)
    while (parent >= 0).any():  # a row in a row in a call, at most
        np.add.at(taken, parent, np.where(parent >= 0, row_self_ns, 0))
        parent = over[parent]
    lost = taken[place]
    inner = drop[calls.parent[drop] >= 0]
    np.subtract.at(lost, calls.parent[inner], calls.end[inner] - calls.start[inner])
    if not lost.any():
        return {}
    self_ns, tracer_ns = values_and_known(table, "self_ns")[0], values_and_known(table, "tracer_ns")[0]
    beyond = np.maximum(lost - self_ns, 0)
    return {"self_ns": np.maximum(self_ns - lost, 0), "tracer_ns": np.maximum(tracer_ns - beyond, 0)}


class _Together:
    """Columns of calls and rows put together: where each row stands, and which calls are not taken out."""

    def __init__(self, row_place: Ints, remaining: Bools) -> None:
        self._row_place = row_place
        self._remaining = None if remaining.all() else remaining
        self._is_call = np.ones(int(np.count_nonzero(remaining)) + len(row_place), np.bool_)
        self._is_call[row_place] = False

    def __call__(self, old: Any, added: Any, dtype: Any) -> Any:
        column = np.empty(len(self), dtype)
        # A mask, not positions: what stands together is copied together, in a third of the time.
        column[self._is_call] = old if self._remaining is None else old[self._remaining]
        column[self._row_place] = added
        return column

    def __len__(self) -> int:
        return len(self._is_call)


def _woven(
    table: CallTable,
    rows: _Rows,
    together: _Together,
    new: dict[str, tuple[Any, Bools]],
    changed: dict[str, Any],
) -> CallTable:
    """The columns of calls and rows put together; a column that is one value stays one."""
    none, every_one = np.zeros(len(rows), np.bool_), np.ones(len(rows), np.bool_)
    columns: dict[str, Any] = {}
    nulls: dict[str, Bools] = {}
    for name in table.names:
        old, null = table.stored(name)
        old = changed.get(name, old)
        if name in ("thread", "rank", "process", "step"):
            values, mask = old[rows.before], none if null is None else null[rows.before]
        else:
            values, mask = new.get(name, (np.zeros(len(rows), old.dtype), every_one))
        if name in CODED:
            values, mask = (values if name == "step" else np.where(mask, -1, values)), none
        if null is not None or mask.any():
            before = same(False, np.bool_, len(table)) if null is None else null
            nulls[name] = _one_or_woven(together, before, mask)
        narrow = old.dtype == np.int64 and not name.endswith("_ns") and len(together) < 1 << 31
        columns[name] = _one_or_woven(together, old, values, np.int32 if narrow else old.dtype)
    return CallTable(columns, nulls, len(together))


def _one_or_woven(together: _Together, old: Any, added: Any, dtype: Any = np.bool_) -> Any:
    if constant(old) and bool((added == old[0]).all()):
        return same(old[0], dtype, len(together))
    return together(old, added, dtype)
