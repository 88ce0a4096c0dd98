"""Tables of several processes and threads -> one numbering, with every key and range checked.

Keys are renumbered to positions: after this a key of `modules` is the row of that module, and a call is its row in
`calls`. All checks are vectorised; only calls that contradict each other are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.errors import TraceError
from modtrace.trace import side_tables
from modtrace.trace.arrow import arrow_schema
from modtrace.trace.arrow_arrays import array, table_of
from modtrace.trace.batch_columns import values_and_nulls
from modtrace.trace.call_table import CODED, CallTable, constant, same
from modtrace.trace.contradictions import contradicting
from modtrace.trace.schema import THREAD_SHIFT, UNFINISHED
from modtrace.trace.table_keys import Bools, Ints, gapless, ints, last_of_each, last_rows, position
from modtrace.units import plural

_INTERNED: Final = {"modules": "module", "signatures": "signature", "labels": "label", "errors": "error"}
_REFERENCES: Final = {
    "module": "modules", "root": "modules", "label": "labels", "inputs": "signatures", "outputs": "signatures",
    "error": "errors",
}  # fmt: skip
_OF_MODULES: Final = {"values": ("module",), "nonfinite": ("module", "became_nan")}
"""Tables of rows of calls that point at modules too, and the columns that do."""
_WITH_PROCESS: Final = ("device_memory", "allocations")
"""Tables of rows of calls of which some are of none, so that their process is said."""
_LEFT_OUT: Final = "{} left out, for the trace contradicts itself: {}"
_NOT_THERE: Final = "they point at rows that are not there"
_ROUNDS: Final = 8
"""Two are enough: one for the tree, one for times."""


class _LeftOut(NamedTuple):
    """Rows of a process that are left out: reason, noun of one (`call`), number, and time of the first."""

    reason: str
    noun: str
    rows: int
    at_ns: int


def merge(
    raw: Mapping[str, list[pa.Table]], ranks: Sequence[int], *, damaged: bool
) -> tuple[dict[str, pa.Table], CallTable, list[str]]:
    """All tables over all processes; `raw` has no calls afterwards, which saves their memory.

    Args:
        raw: table -> its rows in each process.
        ranks: rank of each process.
        damaged: whether parts are known to be lost, so that rows may point at what is gone: such are left out with a
            note. In a whole trace a row that points nowhere is a contradiction.

    Returns:
        The tables, the calls, and notes on what was left out. Rows that contradict each other are left out too
        (`contradictions` says which), and `gaps` says how many and why.

    Raises:
        TraceError: a row has numbers that nothing can have.
    """
    notes: list[str] = []
    out: list[list[_LeftOut]] = [[] for _ in ranks]
    tables: dict[str, pa.Table] = {}
    keys: dict[str, list[Ints]] = {}
    for name, key in _INTERNED.items():
        parts = [last_of_each(part, key) for part in raw[name]]
        keys[name] = [ints(part, key) for part in parts]
        tables[name] = _numbered(parts, key, with_process=name == "modules")
    offsets = {name: np.cumsum([0, *map(len, of_processes)]) for name, of_processes in keys.items()}
    tables["names"] = _names(raw["names"], keys["modules"], offsets["modules"])
    tables["parameters"] = _parameters(raw["parameters"], keys["modules"], offsets["modules"])
    raw = {**raw, **_pointing_at_modules(raw, keys["modules"], offsets["modules"])}
    raw["allocations"] = _possible_allocations(raw["allocations"], out)
    for name in ("operators", "watched", "asked", "compilations"):
        tables[name] = _with_process(raw[name], name)
    side_tables.check_operators(tables["operators"])
    side_tables.check_compilations(tables["compilations"])
    ids_of: list[Ints] = []
    columns_of: list[dict[str, Any]] = []
    start = 0
    for index, rank in enumerate(ranks):
        columns, lost, wrong = _calls(raw, index, {name: keys[name][index] for name in keys}, damaged=damaged)
        out[index] += wrong
        if lost:
            notes.append(f"{plural(lost, 'call')} left out: what they belong to is lost")
        ids_of.append(ids := columns.pop("ids"))
        columns = _among_all(columns, {name: int(offsets[name][index]) for name in offsets}, start)
        columns["rank"], columns["process"] = (same(of, np.int32, len(ids)) for of in (rank, index))
        columns_of.append(columns)
        start += len(ids)
    tables |= _by_call(raw, ids_of)
    side_tables.check_memory(tables["allocations"], tables["watched"])
    others = [name for name in raw if name not in tables and name not in ("calls", "open")]
    tables |= {name: _with_process(raw[name], name) for name in others}
    tables["gaps"] = _with_process([_with_gaps(*pair) for pair in zip(raw["gaps"], out, strict=True)])
    return tables, _calls_table(columns_of), notes


def _by_call(raw: Mapping[str, list[pa.Table]], ids_of: Sequence[Ints]) -> dict[str, pa.Table]:
    """The tables whose rows are of calls, over all processes, with positions among all calls.

    Args:
        raw: table -> its rows in each process.
        ids_of: the ids of the calls of each process, by position.
    """
    starts = np.cumsum([0, *map(len, ids_of)]).tolist()
    tables = {}
    for name, of_process in side_tables.by_call(raw).items():
        parts = [
            of_process(part, ids, start) for part, ids, start in zip(raw[name], ids_of, starts, strict=False)
        ]
        if name in _WITH_PROCESS:
            tables[name] = _with_process(parts, name)
        else:
            tables[name] = pa.concat_tables(parts) if parts else arrow_schema(name).empty_table()
    return tables


def _among_all(columns: dict[str, Any], offsets: Mapping[str, int], start: int) -> dict[str, Any]:
    """Columns of the calls of one process with positions among those of all."""
    for column, table in _REFERENCES.items():
        columns[column] = _shifted(columns[column], offsets[table])
    for column in ("call", "last_call", "forward"):
        columns[column] = _shifted(columns[column], start)
    if start:
        columns["parent"] = np.where(columns["parent"] >= 0, columns["parent"] + start, -1)
    return columns


def _possible_allocations(parts: Sequence[pa.Table], out: Sequence[list[_LeftOut]]) -> list[pa.Table]:
    """The allocations that were not freed before they were made."""
    possible = []
    for part, wrong in zip(parts, out, strict=True):
        at_ns, (freed, held) = ints(part, "at_ns"), values_and_nulls(part.column("freed_ns"))
        false = ~held & (freed < at_ns)
        count = int(np.count_nonzero(false))
        if count:
            first = int(at_ns[false].min())
            wrong.append(_LeftOut("memory was freed before it was allocated", "allocation", count, first))
        possible.append(part.filter(array(~false, pa.bool_())) if count else part)
    return possible


def _with_gaps(gaps: pa.Table, out: Sequence[_LeftOut]) -> pa.Table:
    """The gaps of a process, rows that were left out before the others: they are the graver ones."""
    if not out:
        return gaps
    counted: dict[tuple[str, str], _LeftOut] = {}
    for rejected in out:
        before = counted.get((rejected.noun, rejected.reason), rejected._replace(rows=0))
        rows, at_ns = before.rows + rejected.rows, min(before.at_ns, rejected.at_ns)
        counted[rejected.noun, rejected.reason] = rejected._replace(rows=rows, at_ns=at_ns)
    columns = {
        "at_ns": [rejected.at_ns for rejected in counted.values()],
        "reason": [
            _LEFT_OUT.format(plural(rejected.rows, rejected.noun), rejected.reason)
            for rejected in counted.values()
        ],
        "lost_calls": [rejected.rows if rejected.noun == "call" else None for rejected in counted.values()],
    }
    return pa.concat_tables([table_of(columns, gaps.schema), gaps])


def _numbered(parts: Sequence[pa.Table], key: str, *, with_process: bool = False) -> pa.Table:
    if with_process:
        table = _with_process(parts, f"{key}s")
    else:
        table = pa.concat_tables(parts) if parts else arrow_schema(f"{key}s").empty_table()
    position = table.schema.get_field_index(key)
    return table.set_column(position, key, array(np.arange(len(table)), pa.int64()))


def _names(parts: Sequence[pa.Table], modules: Sequence[Ints], offsets: Ints) -> pa.Table:
    tables = []
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
        named = part.take(array(rows, pa.int64()))
        named = named.set_column(0, "root", array(root_at[rows] + offsets[index], pa.int64()))
        tables.append(named.set_column(1, "module", array(module_at[rows] + offsets[index], pa.int64())))
    return pa.concat_tables(tables) if tables else arrow_schema("names").empty_table()


def _pointing_at_modules(
    raw: Mapping[str, list[pa.Table]], modules: Sequence[Ints], offsets: Ints
) -> dict[str, list[pa.Table]]:
    """Rollups and the tables of _OF_MODULES, with positions among the modules of all processes."""
    rollups = zip(raw["rollups"], modules, offsets, strict=False)
    return {
        "rollups": [side_tables.rollups(part, of_process, int(start)) for part, of_process, start in rollups],
    } | {
        name: [
            _with_modules(part, columns, of_process, int(start))
            for part, of_process, start in zip(raw[name], modules, offsets, strict=False)
        ]
        for name, columns in _OF_MODULES.items()
    }


def _with_modules(part: pa.Table, columns: Sequence[str], modules: Ints, start: int) -> pa.Table:
    """Rows of one process with the positions of modules among those of all; null for a module that is not there."""
    for name in columns:
        values, of_none = values_and_nulls(part.column(name))
        place, known = position(values.astype(np.int64), modules)
        part = part.set_column(
            part.schema.get_field_index(name), name, array(place + start, pa.int64(), of_none | ~known)
        )
    return part


def _parameters(parts: Sequence[pa.Table], modules: Sequence[Ints], offsets: Ints) -> pa.Table:
    """The last row of each parameter, with the number of its process; keys of tensors are told apart by that."""
    tables = []
    for index, part in enumerate(parts):
        module, of_none = values_and_nulls(part.column("module"))
        module_at, known = position(module.astype(np.int64), modules[index])
        key = np.where(of_none, -1, module)
        pairs = zip(key.tolist(), part.column("name").to_pylist(), strict=True)
        usable = (known | of_none).tolist()
        last = {pair: row for row, pair in enumerate(pairs) if usable[row]}
        rows = np.array(sorted(last.values()), np.int64)
        latest = part.take(array(rows, pa.int64()))
        shifted = array(module_at[rows] + offsets[index], pa.int64(), of_none[rows])
        latest = latest.set_column(0, "module", shifted)
        tables.append(latest.append_column("process", array(same(index, np.int32, len(rows)), pa.int32())))
    return pa.concat_tables(tables) if tables else _with_process([], "parameters")


def _with_process(parts: Sequence[pa.Table], name: str = "gaps") -> pa.Table:
    tables = [
        part.append_column("process", array(same(index, np.int32, len(part)), pa.int32()))
        for index, part in enumerate(parts)
    ]
    return pa.concat_tables(tables) if tables else arrow_schema(name).empty_table()


def _calls(
    raw: Mapping[str, list[pa.Table]], index: int, keys: Mapping[str, Ints], *, damaged: bool
) -> tuple[dict[str, Any], int, list[_LeftOut]]:
    """Columns of one process, in order of start within each thread, ids as positions; how many calls are left out
    because what they point at is lost; and which because they contradict others.
    """
    parts: list[Any] = raw["calls"]
    calls, parts[index] = parts[index], None
    ids = ints(calls, "call")
    rows = last_rows(ids, "call")
    ids = ids if rows is None else ids[rows]
    opened = last_of_each(raw["open"][index], "call")
    _, ended = position(ints(opened, "call"), ids)
    unended = opened.take(array(np.flatnonzero(~ended), pa.int64()))
    by_name = {name: calls.column(name) for name in calls.schema.names}
    del calls
    columns, nulls = _with_unfinished(by_name, rows, unended)
    if not len(raw["thinned"][index]):  # calls of steps that were left out are no sign of a kill
        columns, nulls = _chosen(columns, nulls, ~_behind_a_hole(columns))
    known = _keep_known(columns, nulls, keys)
    lost, out = 0, []
    if damaged:
        lost = int((~known).sum())
    elif not bool(known.all()):
        out.append(_left_out(_NOT_THERE, columns, ~known))
    columns, nulls = _chosen(columns, nulls, known)
    positions, position_nulls = _positions(columns, nulls, keys)
    for _ in range(_ROUNDS):
        wrong = contradicting(positions, position_nulls)
        if not wrong:
            positions["nulls"] = position_nulls
            return positions, lost, out
        out += [_left_out(reason, columns, rows) for reason, rows in wrong.items()]
        columns, nulls = _chosen(columns, nulls, ~np.logical_or.reduce([*wrong.values()]))
        positions, position_nulls = _positions(columns, nulls, keys)
    raise TraceError(
        "the trace contradicts itself: " + "; ".join(dict.fromkeys(left_out.reason for left_out in out))
    )


def _positions(
    raw: Mapping[str, Any], raw_nulls: Mapping[str, Bools], keys: Mapping[str, Ints]
) -> tuple[dict[str, Any], dict[str, Bools]]:
    """The same columns with positions instead of ids and keys; the ids are in `ids`."""
    columns, nulls, ids = dict(raw), dict(raw_nulls), raw["call"]
    columns["thread"] = _threads(ids)
    if not _are_rows(columns["parent"], ids):
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
    nulls["forward"] = nulls["forward"] | ~known
    _close_unfinished(columns)
    return columns, nulls


def _threads(ids: Ints) -> npt.NDArray[np.int32]:
    """The thread of each call."""
    if len(ids) and ids[0] >> THREAD_SHIFT == ids[-1] >> THREAD_SHIFT:
        return same(ids[0] >> THREAD_SHIFT, np.int32, len(ids))
    return (ids >> THREAD_SHIFT).astype(np.int32)


def _are_rows(parent: Ints, ids: Ints) -> bool:
    """True if ids of parents are their rows already, -1 for none."""
    return gapless(ids) and int(parent.min()) >= -1 and int(parent.max()) < len(ids)


def _left_out(reason: str, columns: Mapping[str, Any], rows: Bools) -> _LeftOut:
    return _LeftOut(reason, "call", int(rows.sum()), int(columns["start_ns"][rows].min()))


def _with_unfinished(
    calls: dict[str, pa.ChunkedArray], rows: Ints | None, opened: pa.Table
) -> tuple[dict[str, Any], dict[str, Bools]]:
    """Columns of some rows (None for all) and their masks, with calls that never ended; `calls` is empty afterwards."""
    columns: dict[str, Any] = {}
    nulls: dict[str, Bools] = {}
    count, unended = len(calls["call"]) if rows is None else len(rows), len(opened)
    for name in list(calls):
        values, mask = (_rows_of(source, rows) for source in values_and_nulls(calls.pop(name)))
        if unended:
            if name in opened.schema.names:
                other_values, other_mask = values_and_nulls(opened.column(name))
            else:
                other_mask = np.full(unended, name not in ("status", "last_call"))
                other_values = np.zeros(unended, values.dtype)
            values, mask = np.concatenate([values, other_values]), np.concatenate([mask, other_mask])
        columns[name] = values
        nulls[name] = mask
    pa.default_memory_pool().release_unused()
    if not unended:
        return columns, nulls
    columns["status"][count:] = UNFINISHED
    columns["last_call"][count:] = columns["call"][count:]
    order = np.argsort(columns["call"], kind="stable")
    return {name: values[order] for name, values in columns.items()}, {n: m[order] for n, m in nulls.items()}


def _rows_of(values: Any, rows: Ints | None) -> Any:
    """Some rows of a column, None for all."""
    if rows is None:
        return values
    return same(values[0], values.dtype, len(rows)) if constant(values) else values[rows]


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


def _keep_known(columns: Mapping[str, Any], nulls: Mapping[str, Bools], keys: Mapping[str, Ints]) -> Bools:
    """Mask of the calls that have everything that they point at: their parent, module, signatures, error."""
    ids = columns["call"]
    keep = np.ones(len(ids), np.bool_)
    for name, table in _REFERENCES.items():
        _, known = position(columns[name], keys[table])
        keep &= known | nulls[name]
    if bool(keep.all()) and _are_rows(columns["parent"], ids):
        return keep
    parent_at, known = position(columns["parent"], ids)
    top = columns["parent"] < 0
    keep &= top | known
    while len(ids):
        next_keep = keep & (top | keep[parent_at])
        if bool((next_keep == keep).all()):
            break
        keep = next_keep
    return keep


def _close_unfinished(columns: dict[str, Any]) -> None:
    """The last descendant of calls that never ended: what follows deeper in the same thread."""
    depth, thread = columns["depth"], columns["thread"]
    for call in np.flatnonzero(columns["status"] == UNFINISHED)[::-1].tolist():
        end = int(np.searchsorted(thread, thread[call], side="right"))
        out = depth[call + 1 : end] <= depth[call]
        columns["last_call"][call] = call + int(np.argmax(out)) if out.any() else end - 1


def _calls_table(parts: Sequence[dict[str, Any]]) -> CallTable:
    """The calls of all processes; numbers of rows are of 32 bits where these are enough."""
    schema = arrow_schema("calls")
    rows = sum(len(part["call"]) for part in parts)
    columns: dict[str, Any] = {}
    nulls: dict[str, Bools] = {}
    for name in (*schema.names, "thread", "rank", "process"):
        values = _joined([part.pop(name) for part in parts]) if parts else np.zeros(0, np.int32)
        masks = [part["nulls"].pop(name) for part in parts] if name in schema.names else []
        mask = _joined(masks) if masks and any(bool(mask.any()) for mask in masks) else None
        if name in CODED:
            values = values if mask is None else _coded(values, mask)
        elif mask is not None:
            nulls[name] = mask
        columns[name] = values.astype(np.int32) if _fits(name, values, rows) else values
    return CallTable(columns, nulls, rows)


def _coded(values: Any, null: Bools) -> Any:
    """Values with -1 where they are null."""
    minus_one = values.dtype.type(-1)
    return same(-1, values.dtype, len(values)) if constant(null) else np.where(null, minus_one, values)


def _fits(name: str, values: Any, rows: int) -> bool:
    """True if a column counts rows or what is in them, in 64 bits where 32 are enough."""
    wide = values.dtype == np.int64 and not constant(values) and not name.endswith("_ns")
    return wide and rows < 1 << 31 and int(values.max(initial=0)) < 1 << 31


def _shifted(values: Ints, by: int) -> Ints:
    """Most traces are of one process, whose numbers stay: a copy of a column costs more than all checks of it."""
    return values + by if by else values


def _joined(parts: Sequence[Any]) -> Any:
    """One array of several; one value stays one value."""
    if len(parts) == 1:
        return parts[0]
    first = [part[0] for part in parts if len(part)]
    if first and all(constant(part) or not len(part) for part in parts) and len(set(first)) == 1:
        return same(first[0], parts[0].dtype, sum(map(len, parts)))
    return np.concatenate(parts)
