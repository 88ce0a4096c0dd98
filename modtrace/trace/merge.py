"""Tables of several processes and threads -> one numbering, with every key and range checked.

Keys are renumbered to positions: after this a key of `modules` is the row of that module, and a call is its row in
`calls`. All checks are vectorised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from modtrace.errors import TraceError
from modtrace.trace.arrow import arrow_schema
from modtrace.trace.schema import (
    BACKWARD,
    CATEGORIES,
    KINDS,
    MODULE,
    MOMENTS,
    OPERATOR_KINDS,
    STATUSES,
    THREAD_SHIFT,
    UNFINISHED,
)

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_INTERNED: Final = {"modules": "module", "signatures": "signature", "labels": "label", "errors": "error"}
_REFERENCES: Final = {
    "module": "modules", "root": "modules", "label": "labels", "inputs": "signatures", "outputs": "signatures",
    "error": "errors",
}  # fmt: skip
_TIMES: Final = ("duration_ns", "self_ns", "tracer_ns", "hooks_ns")
_LIMIT: Final = 1 << 62
_SAVED_LIMIT: Final = 1 << 50
_MANY: Final = 1 << 40
_DEVICE_LIMIT: Final = 1 << 55
"""A year. Sums of a few of them fit into 64 bits."""


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
        parts = [_last_of_each(part, key) for part in raw[name]]
        keys[name] = [_ints(part, key) for part in parts]
        tables[name] = _numbered(parts, key)
    offsets = {name: np.cumsum([0, *map(len, found)]) for name, found in keys.items()}
    tables["names"] = _names(raw["names"], keys["modules"], offsets["modules"])
    tables["gaps"] = _with_process(raw["gaps"])
    for name in ("allocations", "operators", "watched"):
        tables[name] = _with_process(raw[name])
    _check_memory(tables["allocations"], tables["watched"])
    _check_operators(tables["operators"])
    parts, work, device_times, device_memory, saved = [], [], [], [], []
    start = 0
    for index, (calls, opened) in enumerate(zip(raw["calls"], raw["open"], strict=False)):
        columns, left_out = _calls(calls, opened, {name: keys[name][index] for name in keys}, damaged=damaged)
        if left_out:
            notes.append(f"{left_out:,} calls are left out: what they belong to is lost")
        for column, table in _REFERENCES.items():
            columns[column] = columns[column] + offsets[table][index]
        ids = columns.pop("ids")
        work.append(_work(raw["work"][index], ids, start))
        device_times.append(_device_times(raw["device_times"][index], ids, start))
        device_memory.append(_device_memory(raw["device_memory"][index], ids, start))
        saved.append(_saved(raw["saved"][index], ids, start))
        count = len(columns["call"])
        for column in ("call", "last_call"):
            columns[column] = columns[column] + start
        columns["parent"] = np.where(columns["parent"] >= 0, columns["parent"] + start, -1)
        columns["forward"] = columns["forward"] + start
        columns["rank"] = np.full(count, ranks[index], np.int32)
        columns["process"] = np.full(count, index, np.int32)
        parts.append(columns)
        start += count
    tables["calls"] = _calls_table(parts)
    tables["device_memory"] = _with_process(device_memory, "device_memory")
    for name, found in (("work", work), ("device_times", device_times), ("saved", saved)):
        tables[name] = pa.concat_tables(found) if found else arrow_schema(name).empty_table()
    return tables, notes


def _check_operators(operators: pa.Table) -> None:
    """Raise TraceError for times and kinds that cannot be true."""
    at, own, kind = (_ints(operators, name) for name in ("at_ns", "self_ns", "kind"))
    if bool(((np.abs(at) > _LIMIT) | (own < 0) | (own > _LIMIT)).any()):
        raise TraceError("the trace contradicts itself: the time of an operator is impossible")
    if bool(((kind < 0) | (kind >= len(OPERATOR_KINDS))).any()):
        raise TraceError("the trace contradicts itself: a kind of operator is unknown")


def _check_memory(allocations: pa.Table, watched: pa.Table) -> None:
    """Raise TraceError for times and sizes that cannot be true."""
    at, size = _ints(allocations, "at_ns"), _ints(allocations, "size_bytes")
    freed = _ints(
        allocations.set_column(
            1, "freed_ns", pc.coalesce(allocations.column("freed_ns"), allocations.column("at_ns"))
        ),
        "freed_ns",
    )
    category = pc.fill_null(allocations.column("category"), 0).to_numpy()
    times = [at, freed, _ints(watched, "from_ns"), _ints(watched, "to_ns")]
    if any(bool((np.abs(some) > _LIMIT).any()) for some in times) or bool((freed < at).any()):
        raise TraceError("the trace contradicts itself: memory was freed before it was allocated")
    if bool(((size < 0) | (size > _LIMIT)).any()) or bool(
        ((category < 0) | (category >= len(CATEGORIES))).any()
    ):
        raise TraceError("the trace contradicts itself: an allocation is impossible")


def _work(part: pa.Table, ids: Ints, start: int) -> pa.Table:
    """What was counted in the calls that are there, by their positions among all; sorted by call."""
    if len(part) and int(_ints(part, "flops").min()) < 0:
        raise TraceError("the trace contradicts itself: a number of FLOPs is below zero")
    return _of_calls(part, ids, start)


def _device_times(part: pa.Table, ids: Ints, start: int) -> pa.Table:
    """Times on the device of the calls that are there, by their positions among all; sorted by call."""
    spent = _ints(part, "device_ns")
    began = pc.fill_null(part.column("start_ns"), 0).to_numpy()
    if bool(((spent < 0) | (spent > _DEVICE_LIMIT)).any()) or bool((np.abs(began) > _DEVICE_LIMIT).any()):
        raise TraceError("the trace contradicts itself: a time on the device is impossible")
    return _of_calls(part, ids, start)


def _device_memory(part: pa.Table, ids: Ints, start: int) -> pa.Table:
    """Readings in order of time, their calls by position among all; null for a call that is not there."""
    at, moment = _ints(part, "at_ns"), _ints(part, "moment")
    sizes = [_ints(part, name) for name in ("allocated_bytes", "reserved_bytes", "peak_bytes")]
    sizes.append(pc.fill_null(part.column("total_bytes"), 0).to_numpy())
    if any(bool(((some < 0) | (some > _DEVICE_LIMIT)).any()) for some in sizes):
        raise TraceError("the trace contradicts itself: memory of a device is impossible")
    if bool(((at < -_LIMIT) | (at > _LIMIT)).any()) or bool(((moment < 0) | (moment >= len(MOMENTS))).any()):
        raise TraceError("the trace contradicts itself: when memory of a device was read is impossible")
    place, known = _position(pc.fill_null(part.column("call"), -1).to_numpy().astype(np.int64), ids)
    part = part.set_column(1, "call", pa.array(place + start, pa.int64(), mask=~known))
    return part.take(pa.array(np.argsort(at, kind="stable")))


def _saved(part: pa.Table, ids: Ints, start: int) -> pa.Table:
    """What calls that are there kept for backwards that are there, by their positions among all."""
    for name, most in (("saved_bytes", _SAVED_LIMIT), ("storages", _MANY), ("packed", _MANY)):
        values = _ints(part, name)
        if bool(((values < 0) | (values > most)).any()):
            raise TraceError(f"the trace contradicts itself: {name} is impossible")
    at, known = {}, np.ones(len(part), np.bool_)
    for name in ("backward", "call"):
        at[name], there = _position(_ints(part, name), ids)
        known &= there
    kept = part.take(pa.array(np.flatnonzero(known)))
    for place, name in enumerate(at):
        kept = kept.set_column(place, name, pa.array(at[name][known] + start, pa.int64()))
    return kept


def _of_calls(part: pa.Table, ids: Ints, start: int) -> pa.Table:
    """The last row of each call that is there, by their positions among all; sorted by call."""
    part = _last_of_each(part, "call")
    at, known = _position(_ints(part, "call"), ids)
    kept = part.take(pa.array(np.flatnonzero(known)))
    return kept.set_column(0, "call", pa.array(at[known] + start, pa.int64()))


def _ints(table: pa.Table, column: str) -> Ints:
    values: Ints = table.column(column).to_numpy().astype(np.int64)
    return values


def _last_of_each(table: pa.Table, key: str) -> pa.Table:
    """The last row of each key, sorted by key."""
    keys = _ints(table, key)
    if len(keys) and int(keys.min()) < 0:
        raise TraceError(f"a {key} has a number below zero")
    order = np.argsort(keys, kind="stable")
    last = np.ones(len(order), np.bool_)
    last[:-1] = keys[order[1:]] != keys[order[:-1]]
    return table.take(pa.array(order[last]))


def _numbered(parts: Sequence[pa.Table], key: str) -> pa.Table:
    whole = pa.concat_tables(parts) if parts else arrow_schema(f"{key}s").empty_table()
    position = whole.schema.get_field_index(key)
    return whole.set_column(position, key, pa.array(np.arange(len(whole)), pa.int64()))


def _names(parts: Sequence[pa.Table], modules: Sequence[Ints], offsets: Ints) -> pa.Table:
    found = []
    for index, part in enumerate(parts):
        root, module = _ints(part, "root"), _ints(part, "module")
        root_at, root_known = _position(root, modules[index])
        module_at, module_known = _position(module, modules[index])
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


def _with_process(parts: Sequence[pa.Table], name: str = "gaps") -> pa.Table:
    found = [
        part.append_column("process", pa.array(np.full(len(part), index, np.int32)))
        for index, part in enumerate(parts)
    ]
    return pa.concat_tables(found) if found else arrow_schema(name).empty_table()


def _position(values: Ints, keys: Ints) -> tuple[Ints, Bools]:
    """Where each value stands among sorted keys, and whether it is there at all."""
    if not len(keys):
        return np.zeros(len(values), np.int64), np.zeros(len(values), np.bool_)
    at = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    return at, keys[at] == values


def _calls(
    calls: pa.Table, opened: pa.Table, keys: Mapping[str, Ints], *, damaged: bool
) -> tuple[dict[str, Any], int]:
    """Columns of one process, in order of start within each thread, ids as positions; and how many are left out."""
    calls = _last_of_each(calls, "call")
    opened = _last_of_each(opened, "call")
    _, ended = _position(_ints(opened, "call"), _ints(calls, "call"))
    columns, nulls = _with_unfinished(calls, opened.take(pa.array(np.flatnonzero(~ended))))
    columns, nulls = _chosen(columns, nulls, ~_behind_a_hole(columns))
    total = len(columns["call"])
    columns, nulls = _chosen(columns, nulls, _keep_known(columns, nulls, keys, damaged=damaged))
    ids = columns["call"].copy()
    columns["thread"] = (ids >> THREAD_SHIFT).astype(np.int32)
    parent_at, _ = _position(columns["parent"], ids)
    columns["parent"] = np.where(columns["parent"] >= 0, parent_at, -1)
    columns["last_call"] = np.searchsorted(ids, columns["last_call"], side="right") - 1
    columns["call"] = np.arange(len(ids))
    columns["ids"] = ids
    for name, table in _REFERENCES.items():
        columns[name], _ = _position(columns[name], keys[table])
    columns["forward"], known = _position(columns["forward"], ids)
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
        column = calls.column(field.name).combine_chunks()
        mask = np.asarray(column.is_null().to_numpy(zero_copy_only=False), np.bool_)
        values = pc.fill_null(column, False if field.type == pa.bool_() else 0).to_numpy(zero_copy_only=False)
        if field.name in opened.schema.names:
            other = opened.column(field.name).combine_chunks()
            other_mask = np.asarray(other.is_null().to_numpy(zero_copy_only=False), np.bool_)
            other_values = pc.fill_null(other, 0).to_numpy(zero_copy_only=False)
        else:
            other_mask = np.full(more, field.name not in ("status", "last_call"))
            other_values = np.zeros(more, values.dtype)
        columns[field.name] = np.concatenate([values, other_values])
        nulls[field.name] = np.concatenate([mask, other_mask])
    columns["status"][count:] = UNFINISHED
    columns["last_call"][count:] = columns["call"][count:]
    order = np.argsort(columns["call"], kind="stable")
    wide = {
        name: values if values.dtype in (np.bool_, np.int8) else values.astype(np.int64)
        for name, values in columns.items()
    }
    return {name: values[order] for name, values in wide.items()}, {n: m[order] for n, m in nulls.items()}


def _chosen(
    columns: Mapping[str, Any], nulls: Mapping[str, Bools], rows: Bools
) -> tuple[dict[str, Any], dict[str, Bools]]:
    return {name: column[rows] for name, column in columns.items()}, {
        n: mask[rows] for n, mask in nulls.items()
    }


def _behind_a_hole(columns: Mapping[str, Any]) -> Bools:
    """Open calls of a block whose calls are not there, because the process was killed between the two writes or the
    file is damaged: without them, what remains is all that happened up to a moment.
    """
    ids = columns["call"]
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
        _, known = _position(columns[name], keys[table])
        keep &= known | nulls[name]
    at, known = _position(columns["parent"], ids)
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
        "a time is impossible": np.abs(columns["start_ns"]) > _LIMIT,
    }
    for name in _TIMES:
        rules[f"{name} is impossible"] = ~nulls[name] & ((columns[name] < 0) | (columns[name] > _LIMIT))
    for reason, broken in rules.items():
        if bool(np.any(broken)):
            raise TraceError(f"the trace contradicts itself: {reason} (call {int(np.argmax(broken))})")


def _calls_table(parts: Sequence[dict[str, Any]]) -> pa.Table:
    schema = arrow_schema("calls")
    names = [*schema.names, "thread", "rank", "process"]
    arrays = []
    for name in names:
        values = np.concatenate([part[name] for part in parts]) if parts else np.zeros(0, np.int64)
        mask = None
        if name in schema.names and parts:
            mask = np.concatenate([part["nulls"][name] for part in parts])
        kind = (
            pa.bool_()
            if name == "output_replaced"
            else pa.int8()
            if name in ("kind", "status", "mode")
            else pa.int64()
        )
        arrays.append(pa.array(values, type=kind, mask=mask))
    return pa.table(arrays, names=names)
