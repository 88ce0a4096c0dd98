"""The calls of a trace as one tree that adds up: steps, phases and what was recorded in them.

What follows from the recorded calls is put in as rows of their own: a step around all that belongs to it, `forward` or
`eval` around a root call, `loss` from the last forward to the backward. Without a training loop there is nothing to
put in, and every root call is a step.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.analysis import phases
from modtrace.analysis.columns import begun, column, values_and_known
from modtrace.analysis.phases import Calls, Division, Steps, divide
from modtrace.trace.build import array
from modtrace.trace.reader import Process, Stored
from modtrace.trace.schema import MODULE, OK, PHASE, STEP, UNFINISHED

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_STEP, _INNER = 0, 1
"""Levels of rows that are put in: steps around all else."""
_MADE: Final = ("step", "forward", "eval", "loss")


@dataclass(frozen=True)
class Timeline:
    """A trace with steps and phases.

    calls: as `Stored.table("calls")`, in one numbering with the rows that were put in, with the columns `step` (null
    outside of steps) and `phase` (index into phases.NAMES, null outside of phases).
    labels: (name, type) of each label, those of the rows put in among them.
    places: (file, line, instruction) of each label of a function, None for others.
    steps: those of each process.
    place: where each call of `Stored.table("calls")` stands; marks of steps, which are taken out, where they stood.
    """

    calls: pa.Table
    labels: list[tuple[str, str]]
    places: list[tuple[str, int, int] | None]
    steps: list[Steps]
    place: Ints


_made: weakref.WeakKeyDictionary[Stored, Timeline] = weakref.WeakKeyDictionary()


def timeline(stored: Stored) -> Timeline:
    """The timeline of a trace; made once."""
    if stored not in _made:
        _made[stored] = _timeline(stored)
    return _made[stored]


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
    table = stored.table("calls")
    found = stored.table("labels")
    labels = list(zip(found.column("name").to_pylist(), found.column("type").to_pylist(), strict=True))
    made = {name: len(labels) + at for at, name in enumerate(_MADE)}
    labels += [(name, "") for name in _MADE]
    places = [*_places(found), *[None] * len(_MADE)]
    process = column(table, "process")
    edges = np.searchsorted(process, np.arange(len(stored.processes) + 1))
    step = np.full(len(table), phases.NONE, np.int64)
    phase = np.full(len(table), phases.NONE, np.int64)
    steps, pieces, drop = [], [], []
    whole = _calls(stored, table, labels)
    parts = zip(edges[:-1].tolist(), edges[1:].tolist(), stored.processes, strict=True)
    for low, high, about in parts:
        calls = _part(whole, low, high)
        division = divide(calls, over=_is_over(about))
        step[low:high] = division.step
        phase[low:high] = division.phase
        steps.append(division.steps)
        if division.steps.by != "root":
            pieces.append((_rows(calls, division, made), low))
            drop.append(np.flatnonzero(calls.kind == STEP) + low)
    table = table.append_column("step", _nullable(step)).append_column("phase", _nullable(phase))
    place = np.arange(len(table))
    if pieces:
        table, place = _with_rows(table, whole, _joined(pieces), np.concatenate(drop))
    return Timeline(table, labels, places, steps, place)


def _is_over(process: Process) -> bool:
    """Whether a program came to its end, not by an error, and was recorded until then."""
    end = process.end
    return end is not None and process.stop is None and end.exception is None and not end.exit_status


def _places(labels: pa.Table) -> list[tuple[str, int, int] | None]:
    columns = [labels.column(f"source_{name}").to_pylist() for name in ("file", "line", "offset")]
    return [
        None if file is None else (file, line or 0, -1 if offset is None else offset)
        for file, line, offset in zip(*columns, strict=True)
    ]


def _nullable(values: Ints) -> pa.Array:
    return pa.array(values, pa.int64(), mask=values < 0)


def _calls(stored: Stored, table: pa.Table, labels: list[tuple[str, str]]) -> Calls:
    kind = column(table, "kind").astype(np.int64)
    label, has_label = values_and_known(table, "label")
    module, _ = values_and_known(table, "module")
    forward, has_forward = values_and_known(table, "forward")
    duration, known = values_and_known(table, "duration_ns")
    start = column(table, "start_ns")
    name_code = np.array([phases.NAMES.index(n) if n in phases.NAMES else phases.NONE for n, _ in labels])
    counts, counted = values_and_known(stored.table("modules"), "parameter_count")
    has_some = np.append((counts > 0) | ~counted, False)
    return Calls(
        kind=kind,
        module=np.where(kind == MODULE, module, -1),
        parent=column(table, "parent"),
        last=column(table, "last_call"),
        depth=column(table, "depth"),
        thread=column(table, "thread"),
        label=np.where((kind == PHASE) & has_label, name_code[label], phases.NONE),
        maker=np.where(has_label, label, -1),
        forward=np.where(has_forward, forward, -1),
        mode=values_and_known(table, "mode")[0],
        start=start,
        end=start + duration,
        known=known,
        status=column(table, "status").astype(np.int64),
        parameters=has_some[module] & (kind == MODULE),
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


def _rows(calls: Calls, division: Division, made: dict[str, int]) -> _Rows:
    """The rows to put into one process, in the order in which they will stand."""
    units, steps = division.units, division.steps
    roots = units[calls.kind[units] == MODULE]
    roots = roots[(division.phase[roots] == phases.FORWARD) | (division.phase[roots] == phases.EVAL)]
    rows = []
    for root in roots.tolist():
        phase = int(division.phase[root])
        label = made[phases.NAMES[phase]]
        rows.append((_INNER, label, phase, OK, root, int(calls.last[root]), root, -1, -1))
    for forward, backward in division.losses:
        start, end = int(calls.end[forward]), int(calls.start[backward])
        first = int(calls.last[forward]) + 1
        rows.append(
            (_INNER, made["loss"], phases.LOSS, OK, first, backward - 1, backward, start, max(start, end))
        )
    for at in range(len(steps)):
        first, last = int(steps.first[at]), int(steps.last[at])
        while first <= last and calls.kind[first] == STEP:
            first += 1
        if first <= last and _holds(calls, first, last):
            status = OK if steps.whole[at] else UNFINISHED
            start, end = int(steps.start[at]), int(steps.end[at])
            rows.append((_STEP, made["step"], phases.NONE, status, first, last, first, start, end))
    rows.sort(key=lambda row: (row[4], row[0]))
    return _Rows(*np.array(rows, np.int64).reshape(-1, 9).T)


def _holds(calls: Calls, first: int, last: int) -> bool:
    """Whether a range of calls is whole rows side by side: no span begins in it and ends behind it."""
    if last < first:
        return False
    level = calls.depth[first]
    return bool(
        (calls.depth[first : last + 1] >= level).all() and (calls.last[first : last + 1] <= last).all()
    )


def _joined(parts: list[tuple[_Rows, int]]) -> _Rows:
    """The rows of all processes, each with the number of its first call."""
    columns = []
    for name in _Rows.__dataclass_fields__:
        shift = name in ("first", "last", "before")
        columns.append(np.concatenate([getattr(rows, name) + (low if shift else 0) for rows, low in parts]))
    return _Rows(*columns)


class _Cover:
    """Which of some disjoint ranges each call is in, and at its top level."""

    def __init__(self, rows: _Rows, chosen: Bools, depth: Ints) -> None:
        self.at = np.flatnonzero(chosen)
        first, last = rows.first[self.at], rows.last[self.at]
        filled = np.flatnonzero(last >= first)
        self.at, first, last = self.at[filled], first[filled], last[filled]
        place = begun(first, len(depth)) - 1
        if not len(first):
            self.row, self.top = place, np.zeros(len(depth), np.bool_)
            return
        over = np.maximum(place, 0)
        inside = (place >= 0) & (last[over] >= np.arange(len(depth)))
        self.row = np.where(inside, self.at[over], -1)
        self.top = inside & (depth == depth[rows.before[self.at]][over])


def _with_rows(table: pa.Table, calls: Calls, rows: _Rows, drop: Ints) -> tuple[pa.Table, Ints]:
    """The table with rows put in and others (marks of steps, which hold nothing) taken out, in one numbering, and
    where each of the calls stands in it.
    """
    count = len(calls)
    step = _Cover(rows, rows.level == _STEP, calls.depth)
    inner = _Cover(rows, rows.level == _INNER, calls.depth)
    kept = np.ones(count, np.bool_)
    kept[drop] = False
    gone = np.concatenate([[0], np.cumsum(~kept)])
    place = np.arange(count + 1) - gone + begun(rows.first, count + 1)
    row_place = rows.first - gone[rows.first] + np.arange(len(rows))

    over = np.where(calls.parent >= 0, place[calls.parent], -1)
    parent = np.where(step.top, row_place[step.row], over) if len(rows) else over
    parent = np.where(inner.top, row_place[inner.row], parent) if len(rows) else parent
    in_step = (rows.level == _INNER) & (step.row[rows.before] >= 0)
    row_parent = over[rows.before]
    at_top = in_step & step.top[rows.before]
    row_parent[at_top] = row_place[step.row[rows.before[at_top]]]
    final = place[:count] - ~kept  # the last call up to each that is still there
    last = np.where(rows.last >= rows.first, final[np.maximum(rows.last, 0)], row_place)
    duration = np.where(rows.start < 0, (calls.end - calls.start)[rows.before], rows.end - rows.start)
    unknown = (rows.start < 0) & ~calls.known[rows.before]

    spent, lost = np.zeros((2, count + len(rows) + 1), np.int64)
    np.add.at(spent, parent, np.where(calls.known, calls.end - calls.start, 0))
    np.add.at(lost, parent, ~calls.known)
    np.add.at(spent, row_parent, np.where(unknown, 0, duration))
    np.add.at(lost, row_parent, unknown)

    own = np.maximum(duration - spent[row_place], 0)
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
        "self_ns": (own, unknown | (lost[row_place] > 0)),
        "tracer_ns": (np.zeros(len(rows), np.int64), none),
        "status": (rows.status, none),
        "phase": (np.maximum(rows.phase, 0), rows.phase < 0),
    }
    changed = {
        "call": place[:count],
        "parent": parent,
        "last_call": final[calls.last],
        "depth": calls.depth + (step.row >= 0) + (inner.row >= 0),
        "forward": place[calls.forward],
        **_without(table, calls, drop, own, (row_place, row_parent), place[:count]),
    }
    together = _Together(place[:count][kept], row_place, kept if len(drop) else None)
    return _woven(table, rows, together, new, changed), place[:count]


def _without(
    table: pa.Table, calls: Calls, drop: Ints, own: Ints, rows: tuple[Ints, Ints], place: Ints
) -> dict[str, Ints]:
    """Self and tracer times of calls without what rows put in below them, at any depth, have of it, and with that of
    rows taken out.

    It is not known how much of modtrace's own time was in such a row: the call's self time is taken first.

    Args:
        table, calls: the calls.
        drop: those that are taken out.
        own: self time of each row put in.
        rows: where each of these stands, and its parent.
        place: where each call stands.
    """
    row_place, parent = rows
    over = np.full(len(place) + len(own) + 1, -1, np.int64)
    over[row_place] = parent
    taken = np.zeros(len(over), np.int64)
    while (parent >= 0).any():  # a row in a row in a call, at most
        np.add.at(taken, parent, np.where(parent >= 0, own, 0))
        parent = over[parent]
    lost = taken[place]
    inner = drop[calls.parent[drop] >= 0]
    np.subtract.at(lost, calls.parent[inner], (calls.end - calls.start)[inner])
    self_ns, tracer_ns = values_and_known(table, "self_ns")[0], values_and_known(table, "tracer_ns")[0]
    beyond = np.maximum(lost - self_ns, 0)
    return {"self_ns": np.maximum(self_ns - lost, 0), "tracer_ns": np.maximum(tracer_ns - beyond, 0)}


class _Together:
    """Columns of calls and rows put together: where each stands, and which calls are kept."""

    def __init__(self, target: Ints, row_place: Ints, kept: Bools | None) -> None:
        self.target, self.row_place, self.kept = target, row_place, kept

    def __call__(self, old: Any, more: Any) -> Any:
        column = np.empty(len(self.target) + len(self.row_place), old.dtype)
        column[self.target] = old if self.kept is None else old[self.kept]
        column[self.row_place] = more
        return column


def _woven(
    table: pa.Table,
    rows: _Rows,
    together: _Together,
    new: dict[str, tuple[Any, Bools]],
    changed: dict[str, Any],
) -> pa.Table:
    none, every_one = np.zeros(len(rows), np.bool_), np.ones(len(rows), np.bool_)
    count = len(table)
    arrays = []
    for field in table.schema:
        held = table.column(field.name)
        null = ~np.asarray(held.is_valid().to_numpy(), np.bool_) if held.null_count else None
        if held.null_count:
            held = held.fill_null(False if field.type == pa.bool_() else 0)
        old = np.asarray(held.to_numpy())
        if field.name in ("thread", "rank", "process", "step"):
            values, mask = old[rows.before], none if null is None else null[rows.before]
        else:
            values, mask = new.get(field.name, (np.zeros(len(rows), old.dtype), every_one))
        if null is not None or mask.any():
            null = together(np.zeros(count, np.bool_) if null is None else null, mask)
        arrays.append(array(together(changed.get(field.name, old), values), field.type, null))
    return pa.table(arrays, names=table.schema.names)
