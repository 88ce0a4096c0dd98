"""Tables beside `calls`: their rows checked, and the calls in them as positions among all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modtrace.errors import TraceError
from modtrace.trace.keys import Ints, ints, last_of_each, position
from modtrace.trace.schema import CATEGORIES, MOMENTS, OPERATOR_KINDS

_LIMIT: Final = 1 << 62
_SAVED_LIMIT: Final = 1 << 50
_MANY: Final = 1 << 40
_DEVICE_LIMIT: Final = 1 << 55
"""A year. Sums of a few of them fit into 64 bits."""


def check_operators(operators: pa.Table) -> None:
    """Raise TraceError for times and kinds that cannot be true."""
    at, own, kind = (ints(operators, name) for name in ("at_ns", "self_ns", "kind"))
    if bool(((at < -_LIMIT) | (at > _LIMIT) | (own < 0) | (own > _LIMIT)).any()):
        raise TraceError("the trace contradicts itself: the time of an operator is impossible")
    if bool(((kind < 0) | (kind >= len(OPERATOR_KINDS))).any()):
        raise TraceError("the trace contradicts itself: a kind of operator is unknown")


def check_compilations(compilations: pa.Table) -> None:
    """Raise TraceError for times that cannot be true."""
    spent = pc.fill_null(compilations.column("duration_ns"), 0).to_numpy()
    for values in (ints(compilations, "start_ns"), spent):
        if bool(((values < 0) | (values > _LIMIT)).any()):
            raise TraceError("the trace contradicts itself: the time of a compilation is impossible")


def check_memory(allocations: pa.Table, watched: pa.Table) -> None:
    """Raise TraceError for times and sizes that cannot be true."""
    at, size = ints(allocations, "at_ns"), ints(allocations, "size_bytes")
    freed = ints(
        allocations.set_column(
            1, "freed_ns", pc.coalesce(allocations.column("freed_ns"), allocations.column("at_ns"))
        ),
        "freed_ns",
    )
    category = pc.fill_null(allocations.column("category"), 0).to_numpy()
    times = [at, freed, ints(watched, "from_ns"), ints(watched, "to_ns")]
    if any(bool(((some < -_LIMIT) | (some > _LIMIT)).any()) for some in times) or bool((freed < at).any()):
        raise TraceError("the trace contradicts itself: memory was freed before it was allocated")
    if bool(((size < 0) | (size > _LIMIT)).any()) or bool(
        ((category < 0) | (category >= len(CATEGORIES))).any()
    ):
        raise TraceError("the trace contradicts itself: an allocation is impossible")


def _work(part: pa.Table, ids: Ints, start: int) -> pa.Table:
    """What was counted in the calls that are there, by their positions among all; sorted by call."""
    if len(part) and int(ints(part, "flops").min()) < 0:
        raise TraceError("the trace contradicts itself: a number of FLOPs is below zero")
    return _of_calls(part, ids, start)


def _device_times(part: pa.Table, ids: Ints, start: int) -> pa.Table:
    """Times on the device of the calls that are there, by their positions among all; sorted by call."""
    spent = ints(part, "device_ns")
    began = pc.fill_null(part.column("start_ns"), 0).to_numpy()
    if bool(((spent < 0) | (spent > _DEVICE_LIMIT)).any()) or bool(
        ((began < -_DEVICE_LIMIT) | (began > _DEVICE_LIMIT)).any()
    ):
        raise TraceError("the trace contradicts itself: a time on the device is impossible")
    return _of_calls(part, ids, start)


def _device_memory(part: pa.Table, ids: Ints, start: int) -> pa.Table:
    """Readings in order of time, their calls by position among all; null for a call that is not there."""
    at, moment = ints(part, "at_ns"), ints(part, "moment")
    sizes = [ints(part, name) for name in ("allocated_bytes", "reserved_bytes", "peak_bytes")]
    sizes.append(pc.fill_null(part.column("total_bytes"), 0).to_numpy())
    if any(bool(((some < 0) | (some > _DEVICE_LIMIT)).any()) for some in sizes):
        raise TraceError("the trace contradicts itself: memory of a device is impossible")
    if bool(((at < -_LIMIT) | (at > _LIMIT)).any()) or bool(((moment < 0) | (moment >= len(MOMENTS))).any()):
        raise TraceError("the trace contradicts itself: when memory of a device was read is impossible")
    place, known = position(pc.fill_null(part.column("call"), -1).to_numpy().astype(np.int64), ids)
    part = part.set_column(1, "call", pa.array(place + start, pa.int64(), mask=~known))
    return part.take(pa.array(np.argsort(at, kind="stable")))


def _saved(part: pa.Table, ids: Ints, start: int) -> pa.Table:
    """What calls that are there kept for backwards that are there, by their positions among all."""
    for name, most in (("saved_bytes", _SAVED_LIMIT), ("storages", _MANY), ("packed", _MANY)):
        values = ints(part, name)
        if bool(((values < 0) | (values > most)).any()):
            raise TraceError(f"the trace contradicts itself: {name} is impossible")
    at, known = {}, np.ones(len(part), np.bool_)
    for name in ("backward", "call"):
        at[name], there = position(ints(part, name), ids)
        known &= there
    kept = part.take(pa.array(np.flatnonzero(known)))
    for place, name in enumerate(at):
        kept = kept.set_column(place, name, pa.array(at[name][known] + start, pa.int64()))
    return kept


def _syncs(part: pa.Table, ids: Ints, start: int) -> pa.Table:
    """Waits in the calls that are there, by their positions among all; sorted by call."""
    count, size = ints(part, "count"), pc.fill_null(part.column("size_bytes"), 0).to_numpy()
    if bool(((count < 0) | (count > _DEVICE_LIMIT) | (size < 0) | (size > _LIMIT)).any()):
        raise TraceError("the trace contradicts itself: a number of waits is impossible")
    return _placed(part, ids, start)


def _of_calls(part: pa.Table, ids: Ints, start: int) -> pa.Table:
    """The last row of each call that is there, by their positions among all; sorted by call."""
    return _placed(last_of_each(part, "call"), ids, start)


def _placed(part: pa.Table, ids: Ints, start: int) -> pa.Table:
    """The rows of calls that are there, by their positions among all; sorted by call."""
    part = part.take(pa.array(np.argsort(ints(part, "call"), kind="stable")))
    at, known = position(ints(part, "call"), ids)
    kept = part.take(pa.array(np.flatnonzero(known)))
    return kept.set_column(0, "call", pa.array(at[known] + start, pa.int64()))


OF_CALLS: Final[dict[str, Callable[[pa.Table, Ints, int], pa.Table]]] = {
    "work": _work,
    "device_times": _device_times,
    "device_memory": _device_memory,
    "saved": _saved,
    "syncs": _syncs,
}
"""What takes the rows of one process, its calls, and how many calls the processes before it have."""
