"""When memory ran out: what was asked for, what there was, and what this step had made by then.

torch says the first in the exception's message; the rest follows from shapes, so it is there without having been
watched: the outputs of modules that had run in the step when it failed, which a training step keeps for backward.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column, nullable_codes, values_and_known
from modtrace.analysis.device_memory import UNKNOWN, of_steps, when_failed
from modtrace.analysis.failure import Failure
from modtrace.analysis.findings.allocator_rules import alloc_conf
from modtrace.analysis.memory_from_shapes import optimizers
from modtrace.analysis.memory_peaks import signature_bytes
from modtrace.analysis.module_repeats import folded
from modtrace.analysis.timeline import timeline
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, MODULE, NO_GRAD, OK, OUT_OF_MEMORY

Ints = npt.NDArray[np.int64]

_UNITS: Final = {"bytes": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_MOST: Final = 1 << 60
_SIZE: Final = r"(?<![\d.])(\d{1,20}(?:\.\d{1,6})?) (bytes|B|KiB|MiB|GiB|TiB)\b"
_PLACES: Final = {
    "asked": re.compile(r"[Tt]ried to allocate " + _SIZE),
    "capacity": re.compile(r"total capacity of " + _SIZE),
    "free": re.compile(r"of which " + _SIZE + " is free"),
    "allocated": re.compile(_SIZE + " is allocated by PyTorch"),
    "unused": re.compile(_SIZE + " is reserved by PyTorch but unallocated"),
}
_KINDS: Final = ("OutOfMemoryError", "RuntimeError", "MemoryError")
_TELLING: Final = re.compile("|".join(OUT_OF_MEMORY), re.IGNORECASE)
STEPS: Final = 5


@dataclass(frozen=True)
class AllocatorMessage:
    """Bytes in torch's message; None for a number that it lacks. `unused` is reserved by torch and not allocated."""

    asked: int | None
    capacity: int | None
    free: int | None
    allocated: int | None
    unused: int | None

    def completed(self, allocated: int, reserved: int) -> AllocatorMessage:
        """With what the allocator's counters said when it failed, where the message says nothing."""
        if self.allocated is not None and self.unused is not None:
            return self
        return replace(self, allocated=allocated, unused=max(reserved - allocated, 0))

    @property
    def elsewhere(self) -> int | None:
        """Held on the device by other processes, and by this one outside of torch's allocator."""
        if self.capacity is None or self.free is None or self.allocated is None or self.unused is None:
            return None
        remaining = self.capacity - self.free - self.allocated - self.unused
        return remaining if remaining >= 0 else None


@dataclass(frozen=True)
class OutputGroup:
    """Outputs of one group of leaf modules in the failing step."""

    name: str
    type: str
    calls: int
    output_bytes: int


@dataclass(frozen=True)
class Autopsy:
    """Facts about a failed allocation.

    parameter_bytes, trainable_bytes: of the root module; None where a size is not known.
    gradients: a backward had run, so gradients may be held: as much as what is trainable.
    optimizers: class and estimated bytes of state of those that had made a step; None where that is not known.
    kept: gradients were recorded, so outputs are kept for backward; None where that is not known.
    made: leaf modules whose outputs are most, the first the largest; `made_bytes` is of all.
    steps_bytes: outputs of leaf modules in each of the last steps, the failing one last.
    ends_bytes: what the allocators of devices had given out at the end of each of the last steps that ended before.
    block: the group of repeated modules around the largest outputs, which checkpointing would not keep; None for none.
    setting: the environment variable that this torch's allocator is set by.
    """

    told: AllocatorMessage
    parameter_bytes: int | None
    trainable_bytes: int | None
    gradients: bool
    optimizers: list[tuple[str, int | None]]
    kept: bool | None
    made: list[OutputGroup]
    made_bytes: int
    steps_bytes: list[int]
    ends_bytes: list[int]
    block: str | None
    setting: str


def told(error_type: str, message: str | None) -> AllocatorMessage | None:
    """The numbers in the message of an exception; None for one that is about something else."""
    if (
        error_type not in _KINDS
        or message is None
        or not (error_type != "RuntimeError" or _TELLING.search(message))
    ):
        return None
    matches = {name: pattern.search(message) for name, pattern in _PLACES.items()}
    return AllocatorMessage(**{name: _bytes(match) for name, match in matches.items()})


def _bytes(match: re.Match[str] | None) -> int | None:
    if match is None:
        return None
    value = round(float(match[1]) * _UNITS[match[2]])
    return value if value <= _MOST else None


def autopsy(stored: Stored, failure: Failure) -> Autopsy | None:
    """Facts about the failed allocation that a failure was; None for another failure, or if no model had run."""
    errors = stored.table("errors").slice(failure.error_row, 1).to_pylist()[0]
    message = told(errors["type"], errors["message"])
    if message is None or failure.root is None:
        return None
    counters = when_failed(stored, failure.left)
    if counters is not None:
        message = message.completed(*counters)
    table, groups = timeline(stored).calls, folded(stored)
    call_kind, status = column(table, "kind"), column(table, "status")
    step, start = nullable_codes(table, "step"), column(table, "start_ns")
    outputs = nullable_codes(table, "outputs")
    sizes = np.append(signature_bytes(stored), 0)[outputs]
    leaf = (
        (call_kind == MODULE)
        & (column(table, "last_call") == column(table, "call"))
        & (status == OK)
        & (sizes > 0)
    )
    process = int(column(table, "process")[failure.root])
    of_process = leaf & (column(table, "process") == process)
    failing_step = step[failure.root]
    inside = (step == failing_step) if failing_step >= 0 else (start >= start[failure.root])
    now = np.flatnonzero(of_process & inside & (start <= start[failure.call]))
    totals = np.bincount(groups.group[now], weights=sizes[now], minlength=len(groups.name)).astype(np.int64)
    calls = np.bincount(groups.group[now], minlength=len(groups.name))
    largest = [group for group in np.argsort(-totals, kind="stable").tolist() if totals[group] > 0]
    made = [
        OutputGroup(groups.title(group), groups.type[group], int(calls[group]), int(totals[group]))
        for group in largest
    ]
    root = stored.table("modules").slice(int(nullable_codes(table, "module")[failure.root]), 1).to_pylist()[0]
    trainable = root["trainable_bytes"]
    before = (column(table, "process") == process) & (start < start[failure.call])
    mode, mode_known = values_and_known(table, "mode")
    return Autopsy(
        told=message,
        parameter_bytes=root["parameter_bytes"],
        trainable_bytes=trainable,
        gradients=bool((before & (call_kind == BACKWARD)).any()),
        optimizers=optimizers(stored, before, trainable),
        kept=not int(mode[failure.root]) & NO_GRAD if mode_known[failure.root] else None,
        made=made[:5],
        made_bytes=int(totals.sum()),
        steps_bytes=_by_step(step[of_process], sizes[of_process], int(failing_step)),
        ends_bytes=_ends(stored, process, int(failing_step)),
        block=_block(made),
        setting=alloc_conf(stored),
    )


def _by_step(step: Ints, sizes: Ints, last: int) -> list[int]:
    if last < 0:
        return []
    totals = np.bincount(
        step[(step >= 0) & (step <= last)], weights=sizes[(step >= 0) & (step <= last)], minlength=last + 1
    )
    return [int(total) for total in totals[max(last + 1 - STEPS, 0) :]]


def _ends(stored: Stored, process: int, last: int) -> list[int]:
    """Bytes allocated at the ends of the last steps before one, as far as that is known."""
    allocated_bytes = of_steps(stored, process, timeline(stored).steps[process]).allocated_bytes
    before = allocated_bytes[: max(last, 0)] if last >= 0 else allocated_bytes[:0]
    return [int(size_bytes) for size_bytes in before[before != UNKNOWN][-STEPS:]]


def _block(made: list[OutputGroup]) -> str | None:
    """The repeated part of the largest name: `h.*` of `h.*.mlp.c_fc`."""
    for largest in made[:1]:
        before, star, _ = largest.name.partition("*")
        return before + star if star else None
    return None
