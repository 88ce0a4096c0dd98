"""Tables beside `calls`: their rows checked, and the calls in them as positions among all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
import pyarrow as pa

from modtrace.errors import TraceError
from modtrace.trace.arrow_arrays import array
from modtrace.trace.batch_columns import lists_of, values_and_nulls, values_of
from modtrace.trace.histogram import BUCKET_LIMIT
from modtrace.trace.schema import CATEGORIES, MOMENTS, OPERATOR_KINDS, TABLES
from modtrace.trace.table_keys import Ints, ints, last_of_each, position

_LIMIT: Final = 1 << 62
_SAVED_LIMIT: Final = 1 << 50
_MANY: Final = 1 << 40
_DEVICE_LIMIT: Final = 1 << 55
"""A year. Sums of a few of them fit into 64 bits."""


def check_operators(operators: pa.Table) -> None:
    """Raise TraceError for times and kinds that cannot be true."""
    at_ns, self_ns, operator_kind = (ints(operators, name) for name in ("at_ns", "self_ns", "kind"))
    if bool(((at_ns < -_LIMIT) | (at_ns > _LIMIT) | (self_ns < 0) | (self_ns > _LIMIT)).any()):
        raise TraceError("the trace contradicts itself: the time of an operator is impossible")
    if bool(((operator_kind < 0) | (operator_kind >= len(OPERATOR_KINDS))).any()):
        raise TraceError("the trace contradicts itself: a kind of operator is unknown")


def with_latest(rollups: pa.Table, latest: pa.Table) -> pa.Table:
    """Sums of the windows of one process, and of the one that was in progress last where that is not among them."""
    if len(rollups) and len(latest):
        newer = ints(latest, "first_step") > int(ints(rollups, "first_step").max())
        latest = latest.filter(array(newer, pa.bool_()))
    return pa.concat_tables([rollups, latest])


def rollups(part: pa.Table, modules: Ints, start: int) -> pa.Table:
    """Sums of the modules of one process that are there, by their positions among all; those of steps too.

    Raises:
        TraceError: a histogram is impossible.
    """
    for side in ("forward", "backward"):
        (bucket_ends, buckets), (ends, steps) = (
            lists_of(part.column(f"{side}_{name}")) for name in ("buckets", "steps")
        )
        same_lengths = len(bucket_ends) == len(ends) and bool((bucket_ends == ends).all())
        if not same_lengths or (
            len(buckets) and (int(buckets.max()) >= BUCKET_LIMIT or int(steps.max()) > _MANY)
        ):
            raise TraceError("the trace contradicts itself: a histogram of times is impossible")
    if len(part) and int(ints(part, "calls").max()) > _MANY:
        raise TraceError("the trace contradicts itself: a number of calls is impossible")
    module, of_steps = values_and_nulls(part.column("module"))
    place, known = position(module.astype(np.int64), modules)
    rows = np.flatnonzero(known | of_steps)
    shifted = array(place[rows] + start, pa.int64(), of_steps[rows])
    part = part if len(rows) == len(part) else part.take(array(rows, pa.int64()))
    return part.set_column(part.schema.get_field_index("module"), "module", shifted)


def check_compilations(compilations: pa.Table) -> None:
    """Raise TraceError for times that cannot be true."""
    spent = values_of(compilations.column("duration_ns"))
    for values in (ints(compilations, "start_ns"), spent):
        if bool(((values < 0) | (values > _LIMIT)).any()):
            raise TraceError("the trace contradicts itself: the time of a compilation is impossible")


def check_memory(allocations: pa.Table, watched: pa.Table) -> None:
    """Raise TraceError for times and sizes that cannot be true."""
    size, category = (
        ints(allocations, "size_bytes"),
        values_of(allocations.column("category")),
    )
    freed = values_of(allocations.column("freed_ns"))
    times = [ints(allocations, "at_ns"), freed, ints(watched, "from_ns"), ints(watched, "to_ns")]
    if any(bool(((values < -_LIMIT) | (values > _LIMIT)).any()) for values in times):
        raise TraceError("the trace contradicts itself: a time of memory is impossible")
    if bool(((size < 0) | (size > _LIMIT)).any()) or bool(
        ((category < 0) | (category >= len(CATEGORIES))).any()
    ):
        raise TraceError("the trace contradicts itself: an allocation is impossible")


def _work(part: pa.Table, ids: Ints, start: int) -> pa.Table:
    """Counted work of the calls that are there, by their positions among all; sorted by call."""
    if len(part) and int(ints(part, "flops").min()) < 0:
        raise TraceError("the trace contradicts itself: a number of FLOPs is below zero")
    return _of_calls(part, ids, start)


def _device_times(part: pa.Table, ids: Ints, start: int) -> pa.Table:
    """Times on the device of the calls that are there, by their positions among all; sorted by call."""
    spent = ints(part, "device_ns")
    began = values_of(part.column("start_ns"))
    if bool(((spent < 0) | (spent > _DEVICE_LIMIT)).any()) or bool(
        ((began < -_DEVICE_LIMIT) | (began > _DEVICE_LIMIT)).any()
    ):
        raise TraceError("the trace contradicts itself: a time on the device is impossible")
    return _of_calls(part, ids, start)


def _device_memory(part: pa.Table, ids: Ints, start: int) -> pa.Table:
    """Readings in order of time, their calls by position among all; null for a call that is not there."""
    at_ns, moment = ints(part, "at_ns"), ints(part, "moment")
    sizes = [ints(part, name) for name in ("allocated_bytes", "reserved_bytes", "peak_bytes")]
    sizes.append(values_of(part.column("total_bytes")))
    if any(bool(((values < 0) | (values > _DEVICE_LIMIT)).any()) for values in sizes):
        raise TraceError("the trace contradicts itself: memory of a device is impossible")
    if bool(((at_ns < -_LIMIT) | (at_ns > _LIMIT)).any()) or bool(
        ((moment < 0) | (moment >= len(MOMENTS))).any()
    ):
        raise TraceError("the trace contradicts itself: when memory of a device was read is impossible")
    part = _allocations(part, ids, start)
    return part.take(array(np.argsort(at_ns, kind="stable"), pa.int64()))


def _allocations(part: pa.Table, ids: Ints, start: int) -> pa.Table:
    """All rows, their calls by position among all; null for a call that is not there."""
    call, of_none = values_and_nulls(part.column("call"))
    place, known = position(np.where(of_none, -1, call), ids)
    of_call = array(place + start, pa.int64(), ~known)
    return part.set_column(part.schema.get_field_index("call"), "call", of_call)


def _saved(part: pa.Table, ids: Ints, start: int) -> pa.Table:
    """Saved tensors of calls that are there for backwards that are there, by their positions among all."""
    for name, most in (("saved_bytes", _SAVED_LIMIT), ("storages", _MANY), ("packed", _MANY)):
        values = ints(part, name)
        if bool(((values < 0) | (values > most)).any()):
            raise TraceError(f"the trace contradicts itself: {name} is impossible")
    positions, known = {}, np.ones(len(part), np.bool_)
    for name in ("backward", "call"):
        positions[name], is_known = position(ints(part, name), ids)
        known &= is_known
    rows = part.take(array(np.flatnonzero(known), pa.int64()))
    for place, name in enumerate(positions):
        rows = rows.set_column(place, name, array(positions[name][known] + start, pa.int64()))
    return rows


def _syncs(part: pa.Table, ids: Ints, start: int) -> pa.Table:
    """Waits in the calls that are there, by their positions among all; sorted by call."""
    count, size = ints(part, "count"), values_of(part.column("size_bytes"))
    if bool(((count < 0) | (count > _DEVICE_LIMIT) | (size < 0) | (size > _LIMIT)).any()):
        raise TraceError("the trace contradicts itself: a number of waits is impossible")
    return _placed(part, ids, start)


def _of_calls(part: pa.Table, ids: Ints, start: int) -> pa.Table:
    """The last row of each call that is there, by their positions among all; sorted by call."""
    return _placed(last_of_each(part, "call"), ids, start)


def _placed(part: pa.Table, ids: Ints, start: int) -> pa.Table:
    """The rows of calls that are there, by their positions among all; sorted by call."""
    part = part.take(array(np.argsort(ints(part, "call"), kind="stable"), pa.int64()))
    positions, known = position(ints(part, "call"), ids)
    rows = part.take(array(np.flatnonzero(known), pa.int64()))
    return rows.set_column(0, "call", array(positions[known] + start, pa.int64()))


OF_CALLS: Final[dict[str, Callable[[pa.Table, Ints, int], pa.Table]]] = {
    "work": _work,
    "device_times": _device_times,
    "device_starts": _of_calls,
    "device_memory": _device_memory,
    "allocations": _allocations,
    "saved": _saved,
    "syncs": _syncs,
}
"""Functions by table: each takes the rows of one process, its calls, and the number of calls of processes before it."""


def by_call(tables: Iterable[str]) -> dict[str, Callable[[pa.Table, Ints, int], pa.Table]]:
    """OF_CALLS, and the same for tables of registered recorders whose first column is `call`."""
    others = (name for name in tables if name not in OF_CALLS and name not in ("calls", "open"))
    return OF_CALLS | {name: _placed for name in others if TABLES[name][0].name == "call"}
