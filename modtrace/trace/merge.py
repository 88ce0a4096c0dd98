"""Tables of several processes and threads -> one numbering, with every key and range checked.

Keys are renumbered to positions: after this a key of `modules` is the row of that module, and a call is its row in
`calls`. All checks are vectorised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modtrace.errors import TraceError
from modtrace.trace import beside
from modtrace.trace.arrow import arrow_schema
from modtrace.trace.build import array
from modtrace.trace.keys import Bools, Ints, gapless, ints, last_of_each, position
from modtrace.trace.schema import (
    BACKWARD,
    KINDS,
    MODULE,
    RAISED,
    STATUSES,
    STEP,
    THREAD_SHIFT,
    UNFINISHED,
)

_INTERNED: Final = {"modules": "module", "signatures": "signature", "labels": "label", "errors": "error"}
_REFERENCES: Final = {
    "module": "modules", "root": "modules", "label": "labels", "inputs": "signatures", "outputs": "signatures",
    "error": "errors",
}  # fmt: skip
_TIMES: Final = ("duration_ns", "self_ns", "tracer_ns", "hooks_ns")
_LIMIT: Final = 1 << 62
_CLOCK_NS: Final = 100_000


def merge(
    raw: Mapping[str, Sequence[pa.Table]], ranks: Sequence[int], *, damaged: bool
) -> tuple[dict[str, pa.Table], list[str]]:
    """All tables over all processes.

    Args:
        raw: table -> its rows in each process.
        ranks: rank of each process.
        damaged: whether parts are known to be lost, so that rows may point at what is gone: such are left out. In a
            whole trace a row that points nowhere is a contradiction.

    Returns:
        The tables, and notes on what was left out.

    Raises:
        TraceError: rows contradict each other.
    """
    notes: list[str] = []
    tables: dict[str, pa.Table] = {}
    keys: dict[str, list[Ints]] = {}
    for name, key in _INTERNED.items():
        parts = [last_of_each(part, key) for part in raw[name]]
        keys[name] = [ints(part, key) for part in parts]
        tables[name] = _numbered(parts, key)
    offsets = {name: np.cumsum([0, *map(len, found)]) for name, found in keys.items()}
    tables["names"] = _names(raw["names"], keys["modules"], offsets["modules"])
    tables["parameters"] = _parameters(raw["parameters"], keys["modules"], offsets["modules"])
    tables["gaps"] = _with_process(raw["gaps"])
    for name in ("allocations", "operators", "watched", "asked", "compilations"):
        tables[name] = _with_process(raw[name], name)
    beside.check_memory(tables["allocations"], tables["watched"])
    beside.check_operators(tables["operators"])
    beside.check_compilations(tables["compilations"])
    parts = []
    found: dict[str, list[pa.Table]] = {name: [] for name in beside.OF_CALLS}
    start = 0
    for index, (calls, opened) in enumerate(zip(raw["calls"], raw["open"], strict=False)):
        columns, left_out = _calls(calls, opened, {name: keys[name][index] for name in keys}, damaged=damaged)
        if left_out:
            notes.append(f"{left_out:,} calls are left out: what they belong to is lost")
        for column, table in _REFERENCES.items():
            columns[column] = _shifted(columns[column], int(offsets[table][index]))
        ids = columns.pop("ids")
        for name, of_process in beside.OF_CALLS.items():
            found[name].append(of_process(raw[name][index], ids, start))
        count = len(columns["call"])
        for column in ("call", "last_call", "forward"):
            columns[column] = _shifted(columns[column], start)
        if start:
            columns["parent"] = np.where(columns["parent"] >= 0, columns["parent"] + start, -1)
        columns["rank"] = np.full(count, ranks[index], np.int32)
        columns["process"] = np.full(count, index, np.int32)
        parts.append(columns)
        start += count
    tables["calls"] = _calls_table(parts)
    for name, some in found.items():
        tables[name] = pa.concat_tables(some) if some else arrow_schema(name).empty_table()
    tables["device_memory"] = _with_process(found["device_memory"], "device_memory")
    return tables, notes


def _numbered(parts: Sequence[pa.Table], key: str) -> pa.Table:
    whole = pa.concat_tables(parts) if parts else arrow_schema(f"{key}s").empty_table()
    position = whole.schema.get_field_index(key)
    return whole.set_column(position, key, pa.array(np.arange(len(whole)), pa.int64()))


def _names(parts: Sequence[pa.Table], modules: Sequence[Ints], offsets: Ints) -> pa.Table:
    found = []
    for index, part in enumerate(parts):
        root, module = ints(part, "root"), ints(part, "module")
        root_at, root_known = position(root, modules[index])
        module_at, module_known = position(module, modules[index])
        known = np.flatnonzero(root_known & module_known)
        pair = (root_at[known] << 32) | module_at[known]
        order = np.argsort(pair, kind="stable")
        last = np.ones(len(order), np.bool_)
        last[:-1] = pair[order[1:]] != pair[order[:-1]]
        rows = known[order[last]]
        kept = part.take(pa.array(rows))
        kept = kept.set_column(0, "root", pa.array(root_at[rows] + offsets[index], pa.int64()))
        found.append(kept.set_column(1, "module", pa.array(module_at[rows] + offsets[index], pa.int64())))
    return pa.concat_tables(found) if found else arrow_schema("names").empty_table()


def _parameters(parts: Sequence[pa.Table], modules: Sequence[Ints], offsets: Ints) -> pa.Table:
    """The last row of each parameter, with the number of its process; keys of tensors are told apart by that."""
    found = []
    for index, part in enumerate(parts):
        module, of_none = _values_and_nulls(part.column("module"))
        at, known = position(module.astype(np.int64), modules[index])
        key = np.where(of_none, -1, module)
        pairs = zip(key.tolist(), part.column("name").to_pylist(), strict=True)
        usable = (known | of_none).tolist()
        last = {pair: row for row, pair in enumerate(pairs) if usable[row]}
        rows = np.array(sorted(last.values()), np.int64)
        kept = part.take(pa.array(rows))
        shifted = pa.array(at[rows] + offsets[index], pa.int64(), mask=of_none[rows])
        kept = kept.set_column(0, "module", shifted)
        found.append(kept.append_column("process", pa.array(np.full(len(rows), index, np.int32))))
    return pa.concat_tables(found) if found else _with_process([], "parameters")


def _with_process(parts: Sequence[pa.Table], name: str = "gaps") -> pa.Table:
    found = [
        part.append_column("process", pa.array(np.full(len(part), index, np.int32)))
        for index, part in enumerate(parts)
    ]
    return pa.concat_tables(found) if found else arrow_schema(name).empty_table()


def _calls(
    calls: pa.Table, opened: pa.Table, keys: Mapping[str, Ints], *, damaged: bool
) -> tuple[dict[str, Any], int]:
    """Columns of one process, in order of start within each thread, ids as positions; and how many are left out."""
    calls = last_of_each(calls, "call")
    opened = last_of_each(opened, "call")
    _, ended = position(ints(opened, "call"), ints(calls, "call"))
    columns, nulls = _with_unfinished(calls, opened.take(pa.array(np.flatnonzero(~ended))))
    columns, nulls = _chosen(columns, nulls, ~_behind_a_hole(columns))
    total = len(columns["call"])
    columns, nulls = _chosen(columns, nulls, _keep_known(columns, nulls, keys, damaged=damaged))
    ids = columns["call"].copy()
    columns["thread"] = (ids >> THREAD_SHIFT).astype(np.int32)
    parent_at, _ = position(columns["parent"], ids)
    columns["parent"] = np.where(columns["parent"] >= 0, parent_at, -1)
    columns["last_call"] = (
        np.clip(columns["last_call"], -1, len(ids) - 1)
        if gapless(ids)
        else np.searchsorted(ids, columns["last_call"], side="right") - 1
    )
    columns["call"] = np.arange(len(ids))
    columns["ids"] = ids
    for name, table in _REFERENCES.items():
        columns[name], _ = position(columns[name], keys[table])
    columns["forward"], known = position(columns["forward"], ids)
    nulls["forward"] |= ~known
    _close_unfinished(columns)
    _check(columns, nulls)
    columns["nulls"] = nulls
    return columns, total - len(ids)


def _with_unfinished(calls: pa.Table, opened: pa.Table) -> tuple[dict[str, Any], dict[str, Bools]]:
    columns: dict[str, Any] = {}
    nulls: dict[str, Bools] = {}
    count, more = len(calls), len(opened)
    for field in calls.schema:
        values, mask = _values_and_nulls(calls.column(field.name))
        if more:
            if field.name in opened.schema.names:
                other_values, other_mask = _values_and_nulls(opened.column(field.name))
            else:
                other_mask = np.full(more, field.name not in ("status", "last_call"))
                other_values = np.zeros(more, values.dtype)
            values, mask = np.concatenate([values, other_values]), np.concatenate([mask, other_mask])
        columns[field.name] = (
            values if values.dtype in (np.bool_, np.int8) else values.astype(np.int64, copy=False)
        )
        nulls[field.name] = mask
    if not more:
        return columns, nulls
    columns["status"][count:] = UNFINISHED
    columns["last_call"][count:] = columns["call"][count:]
    order = np.argsort(columns["call"], kind="stable")
    return {name: values[order] for name, values in columns.items()}, {n: m[order] for n, m in nulls.items()}


def _values_and_nulls(column: pa.ChunkedArray) -> tuple[Any, Bools]:
    """A column as an array, 0 where it holds nothing, and where that is."""
    fill = False if column.type == pa.bool_() else 0
    if not column.null_count:
        return column.to_numpy(), np.zeros(len(column), np.bool_)
    if column.null_count == len(column):
        return np.zeros(len(column), column.type.to_pandas_dtype()), np.ones(len(column), np.bool_)
    return pc.fill_null(column, fill).to_numpy(), np.asarray(column.is_null().to_numpy(), np.bool_)


def _chosen(
    columns: Mapping[str, Any], nulls: Mapping[str, Bools], rows: Bools
) -> tuple[dict[str, Any], dict[str, Bools]]:
    if bool(rows.all()):
        return dict(columns), dict(nulls)
    return {name: column[rows] for name, column in columns.items()}, {
        n: mask[rows] for n, mask in nulls.items()
    }


def _behind_a_hole(columns: Mapping[str, Any]) -> Bools:
    """Open calls of a block whose calls are not there, because the process was killed between the two writes or the
    file is damaged: without them, what remains is all that happened up to a moment.
    """
    ids = columns["call"]
    if not bool((columns["status"] == UNFINISHED).any()):
        return np.zeros(len(ids), np.bool_)
    number = ids & ((1 << THREAD_SHIFT) - 1)
    known_before = np.arange(len(ids)) - np.searchsorted(ids, ids - number)
    behind: Bools = (columns["status"] == UNFINISHED) & (number != known_before)
    return behind


def _keep_known(
    columns: Mapping[str, Any], nulls: Mapping[str, Bools], keys: Mapping[str, Ints], *, damaged: bool
) -> Bools:
    """Which calls have everything that they point at: their parent, module, signatures, error."""
    ids = columns["call"]
    keep = np.ones(len(ids), np.bool_)
    for name, table in _REFERENCES.items():
        _, known = position(columns[name], keys[table])
        keep &= known | nulls[name]
    at, known = position(columns["parent"], ids)
    top = columns["parent"] < 0
    keep &= top | known
    while len(ids):
        next_keep = keep & (top | keep[at])
        if bool((next_keep == keep).all()):
            break
        keep = next_keep
    if not damaged and not bool(keep.all()):
        raise TraceError("the trace contradicts itself: calls point at rows that are not there")
    return keep


def _close_unfinished(columns: dict[str, Any]) -> None:
    """The last descendant of calls that never ended: what follows deeper in the same thread."""
    depth, thread = columns["depth"], columns["thread"]
    for at in np.flatnonzero(columns["status"] == UNFINISHED)[::-1].tolist():
        end = int(np.searchsorted(thread, thread[at], side="right"))
        out = depth[at + 1 : end] <= depth[at]
        columns["last_call"][at] = at + int(np.argmax(out)) if out.any() else end - 1


def _check(columns: Mapping[str, Any], nulls: Mapping[str, Bools]) -> None:
    """Raise TraceError where rows cannot be true."""
    call, parent, last = columns["call"], columns["parent"], columns["last_call"]
    depth, thread = columns["depth"], columns["thread"]
    inside = parent >= 0
    over = np.where(inside, parent, 0)
    if not len(call):
        return
    rules = {
        "a call comes before its parent": parent >= call,
        "a call ends before it starts": last < call,
        "a call is deeper than its parent by another number than one": inside & (depth != depth[over] + 1),
        "a root call has a depth": ~inside & (depth != 0),
        "a call outlasts its parent": inside & (last > last[over]),
        "a call is in another thread than its parent": inside & (thread != thread[over]),
        "a thread has an impossible number": (thread < 0) | (thread >= 1 << 22),
        "a kind or status is unknown": (columns["kind"] < 0)
        | (columns["kind"] >= len(KINDS))
        | (columns["status"] < 0)
        | (columns["status"] >= len(STATUSES)),
        "a call is of no module": nulls["module"]
        & ((columns["kind"] == MODULE) | (columns["kind"] == BACKWARD)),
        "a module has no root": nulls["root"] != nulls["module"],
        "a row has no name": nulls["module"] & nulls["label"],
        "a call was left by an exception that is not there": (columns["status"] == RAISED) & nulls["error"],
        "the mark at the end of a step holds calls": (columns["kind"] == STEP) & (last != call),
        "a time is impossible": np.abs(columns["start_ns"]) > _LIMIT,
    }
    for name in _TIMES:
        rules[f"{name} is impossible"] = ~nulls[name] & ((columns[name] < 0) | (columns[name] > _LIMIT))
    took = np.where(nulls["duration_ns"], _LIMIT, columns["duration_ns"])
    own = [np.where(nulls[name], 0, columns[name]) for name in ("self_ns", "tracer_ns")]
    rules["a call takes less time than its own part of it"] = own[0] + own[1] > took
    rules["a call takes less time than what is inside it"] = _too_short(columns, nulls)
    if not any(bool(np.any(broken)) for broken in rules.values()):
        rules = {"a call is inside one that is none of its parents": _open_at(last) != depth}
    for reason, broken in rules.items():
        if bool(np.any(broken)):
            raise TraceError(f"the trace contradicts itself: {reason} (call {int(np.argmax(broken))})")


def _open_at(last: Ints) -> Ints:
    """How many calls begin before each call and end after its start: those that it is inside of, so its depth."""
    ended = np.cumsum(np.bincount(last, minlength=len(last))[: len(last)])
    open_at: Ints = np.arange(len(last)) - np.concatenate([[0], ended[:-1]])
    return open_at


def _too_short(columns: Mapping[str, Any], nulls: Mapping[str, Bools]) -> Bools:
    """Calls whose duration is less than their own time and that of the calls inside, by more than clocks explain."""
    known = ~nulls["duration_ns"]
    took = np.where(known, columns["duration_ns"], 0).astype(np.float64)
    inside = np.where(nulls["self_ns"], 0, columns["self_ns"]) + np.where(
        nulls["tracer_ns"], 0, columns["tracer_ns"]
    )
    below = columns["parent"] >= 0
    inside = inside + np.bincount(columns["parent"][below], weights=took[below], minlength=len(took))
    broken: Bools = known & (inside > took * 1.01 + _CLOCK_NS)
    return broken


def _calls_table(parts: Sequence[dict[str, Any]]) -> pa.Table:
    schema = arrow_schema("calls")
    names = [*schema.names, "thread", "rank", "process"]
    arrays = []
    for name in names:
        values = _one([part[name] for part in parts]) if parts else np.zeros(0, np.int64)
        mask = None
        if name in schema.names and parts:
            mask = _one([part["nulls"][name] for part in parts])
        kind = (
            pa.bool_()
            if name == "output_replaced"
            else pa.int8()
            if name in ("kind", "status", "mode")
            else pa.int64()
        )
        arrays.append(array(values, kind, mask))
    return pa.table(arrays, names=names)


def _shifted(values: Ints, by: int) -> Ints:
    """Most traces are of one process, whose numbers stay: a copy of a column costs more than all checks of it."""
    return values + by if by else values


def _one(parts: Sequence[Any]) -> Any:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
