"""Holders of memory: at the peak, by what it is held for and by the modules that allocated it; sizes from shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column, nullable_codes, taken
from modtrace.analysis.memory import Memory, curve, memory, peak_at
from modtrace.analysis.module_repeats import folded
from modtrace.analysis.timeline import timeline
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, CATEGORIES, DTYPE_BYTES

Ints = npt.NDArray[np.int64]

UNKNOWN = -1
_MOST_BYTES = 1 << 60


@dataclass(frozen=True)
class MemoryHolder:
    """Bytes that calls of one group of modules (or one phase) hold for one purpose. `name` is "" for outside of any."""

    category: str
    name: str
    type: str
    backward: bool
    held_bytes: int
    allocations: int


@dataclass(frozen=True)
class Peak:
    """The moment at which most was held on a device while it was watched.

    before_bytes: held already when watching began.
    step: number of the step, -1 for none.
    where: (name, class) of the innermost call that ran; None for none.
    """

    device: str
    at_ns: int
    held_bytes: int
    end_bytes: int
    step: int
    where: tuple[str, str] | None
    by_category: dict[str, int]
    holders: list[MemoryHolder]


@once
def peaks(stored: Stored) -> list[Peak]:
    """The peak of each process and device that was watched."""
    return [_peak(stored, allocations) for allocations in memory(stored) if len(allocations.at_ns)]


def holders_at(stored: Stored, allocations: Memory, moment_ns: int) -> list[MemoryHolder]:
    """Holders of memory of a device at a moment, the largest first."""
    alive = allocations.alive(moment_ns)
    calls, groups = timeline(stored).calls, folded(stored)
    call_kind = column(calls, "kind")
    group = taken(groups.group, allocations.call)
    backward = taken(call_kind, allocations.call) == BACKWARD
    keys: dict[tuple[int, int, bool], list[int]] = {}
    for row in np.flatnonzero(alive).tolist():
        keys.setdefault((int(allocations.category[row]), int(group[row]), bool(backward[row])), []).append(
            row
        )
    holders = [
        MemoryHolder(
            CATEGORIES[category],
            groups.title(code) if code >= 0 else "",
            groups.type[code] if code >= 0 else "",
            behind,
            int(allocations.size_bytes[rows].sum()),
            len(rows),
        )
        for (category, code, behind), rows in keys.items()
    ]
    return sorted(holders, key=lambda holder: -holder.held_bytes)


def _peak(stored: Stored, allocations: Memory) -> Peak:
    line, moment = curve(allocations), peak_at(allocations)
    alive = allocations.alive(moment)
    calls, groups = timeline(stored).calls, folded(stored)
    steps = nullable_codes(calls, "step")
    last = np.flatnonzero(allocations.at_ns <= moment)[-1]
    call = int(allocations.call[last])
    group = taken(groups.group, allocations.call)
    totals = np.bincount(
        allocations.category[alive], weights=allocations.size_bytes[alive], minlength=len(CATEGORIES)
    )
    where = (groups.title(int(group[last])), groups.type[group[last]]) if call >= 0 else None
    return Peak(
        allocations.device,
        moment,
        int(line.held_bytes.max()),
        int(line.held_bytes[-1]),
        int(steps[call]) if call >= 0 else -1,
        where,
        {CATEGORIES[code]: int(total) for code, total in enumerate(totals.tolist()) if total},
        holders_at(stored, allocations, moment),
    )


@once
def signature_bytes(stored: Stored) -> Ints:
    """Bytes of all tensors of each signature, as far as their sizes and types tell; UNKNOWN where one does not."""
    table = stored.table("signatures").column("tensors").to_pylist()
    return np.array([tensors_bytes(tensors) for tensors in table], np.int64)


def tensors_bytes(tensors: Sequence[dict[str, object]] | None) -> int:
    """Bytes of some tensors as a trace describes them; UNKNOWN where one does not tell, or no machine could hold it."""
    sizes = [_bytes_of(tensor) for tensor in tensors or ()]
    return UNKNOWN if any(size < 0 for size in sizes) or sum(sizes) > _MOST_BYTES else sum(sizes)


def _bytes_of(tensor: dict[str, object]) -> int:
    shape, width = tensor["shape"], DTYPE_BYTES.get(str(tensor["dtype"]))
    if not isinstance(shape, list) or width is None or tensor["layout"] != "strided":
        return UNKNOWN
    if any(size is None or size < 0 for size in shape):
        return UNKNOWN
    return math.prod(shape) * width
