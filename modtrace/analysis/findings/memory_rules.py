"""Rules about memory: growth from step to step, activations at the peak."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.findings.base import Facts, Finding
from modtrace.analysis.memory import NEVER, Memory, memory, of_stretches
from modtrace.analysis.memory_from_shapes import sizes_by_shapes
from modtrace.analysis.memory_peaks import peaks
from modtrace.analysis.module_repeats import Folded, folded
from modtrace.analysis.saved_totals import most_kept
from modtrace.trace.reader import Stored
from modtrace.trace.schema import ACTIVATION, CATEGORIES, TEMPORARY
from modtrace.units import percent, plural, size

Ints = npt.NDArray[np.int64]

GROWTH_STEPS: Final = 5
"""Whole steps whose memory is known, the first two left out, that are needed to speak of growth."""
GROWTH_SHARE: Final = 0.01
GROWTH_BYTES: Final = 4096
ACTIVATION_SHARE: Final = 0.50
ACTIVATION_BYTES: Final = 1 << 20
_OUTSIDE: Final = "outside of modules"


def growth(facts: Facts) -> Iterator[Finding]:
    """Memory allocated at the ends of steps grows with each, by GROWTH_SHARE in all and GROWTH_BYTES a step."""
    watched = memory(facts.stored)
    for device_memory in watched:
        ends = _ends(facts)
        at_end = np.array(
            [int(device_memory.size_bytes[device_memory.alive(end)].sum()) for end in ends], np.int64
        )
        growth_text = _grown(at_end)
        if growth_text is not None:
            names = _still_held(facts.stored, device_memory, ends)
            of = f", allocated {names}" if names else ""
            remedy = "look for outputs that are kept: use .item() or .detach()"
            yield Finding("growth", f"{growth_text}{of}", remedy, wrong=True)
    if not watched:
        growth_text = _grown(facts.complete.known("memory_allocated_bytes")[2:])
        if growth_text is not None:
            remedy = "look for outputs that are kept (.item(), .detach()); --memory names the modules"
            yield Finding("growth", f"{growth_text} on the device", remedy, wrong=True)


def _grown(at_end: Ints) -> str | None:
    """Growth of memory, by what was held at the ends of steps; None where it has not."""
    each = np.diff(at_end)
    if len(at_end) < GROWTH_STEPS or (each < GROWTH_BYTES).any():
        return None
    if at_end[-1] < (1 + GROWTH_SHARE) * at_end[0]:
        return None
    return (
        f"memory grows by {size(int(np.median(each)))} a step ({size(int(at_end[0]))} to {size(int(at_end[-1]))} "
        f"in {plural(len(at_end), 'step')})"
    )


def _ends(facts: Facts) -> list[int]:
    """The ends of the watched whole steps of rank 0 in order, the first two left out: state is made in those."""
    start, duration = (facts.complete[name] for name in ("start_ns", "duration_ns"))
    process, timed = np.zeros(len(start), np.int64), np.ones(len(start), np.bool_)
    known = of_stretches(facts.stored, start, start + duration, process, timed).known
    ends: list[int] = (start + duration)[known].tolist()
    return ends[2:]


def _still_held(stored: Stored, watched: Memory, ends: list[int]) -> str:
    """Where most of what was made in these steps and is held at the end of the last was allocated: `in 3 (Tanh)`.

    Repeats of a module go by one name, unless all that is held is of a single one. What no module allocated is told of
    where no module allocated any.
    """
    chosen = (
        (watched.at_ns > ends[0])
        & watched.alive(ends[-1])
        & np.isin(watched.category, (ACTIVATION, TEMPORARY))
    )
    chosen &= (watched.freed_ns == NEVER) & (watched.call >= 0)
    call, size_bytes = watched.call[chosen], watched.size_bytes[chosen]
    groups, alone = folded(stored), folded(stored, repeats=False)
    of_module = np.array(groups.of_module, np.bool_)[groups.group[call]]
    if of_module.any():
        call, size_bytes = call[of_module], size_bytes[of_module]
    sums = np.bincount(groups.group[call], weights=size_bytes, minlength=len(groups.name))
    largest = [
        index for index in np.argsort(-sums, kind="stable").tolist() if sums[index] > 0.05 * sums.sum()
    ][:3]
    names = []
    for group in largest:
        members = np.unique(alone.group[call[groups.group[call] == group]]).tolist()
        names.append(_named(alone, members[0]) if len(members) == 1 else _named(groups, group))
    if names == [_OUTSIDE]:
        return _OUTSIDE
    return f"in {', '.join(dict.fromkeys(names))}" if names else ""


def _named(groups: Folded, group: int) -> str:
    """A group as a finding names it: `3 (Tanh)`, a root by its name."""
    name, class_name = groups.title(group), groups.type[group]
    if not groups.of_module[group]:
        return _OUTSIDE if name == "step" else name
    return f"{name} ({class_name})" if name != class_name else name


def activations(facts: Facts) -> Iterator[Finding]:
    """Activations kept for backward are ACTIVATION_SHARE of the peak; where memory was not watched but what is kept was
    counted, of that with parameters, gradients and the optimizer's state as shapes tell.
    """
    label = CATEGORIES[ACTIVATION]
    device_peaks = peaks(facts.stored)
    if not device_peaks:
        yield from _saved_share(facts.stored)
    for peak in device_peaks:
        activation_bytes = peak.by_category.get(label, 0)
        if activation_bytes < max(ACTIVATION_SHARE * peak.held_bytes, ACTIVATION_BYTES):
            continue
        first = next(holder for holder in peak.holders if holder.category == label)
        text = (
            f"activations are {percent(activation_bytes, peak.held_bytes)}% of the peak of {size(peak.held_bytes)}; "
            f"{first.name or first.type or 'outside of calls'} holds {size(first.held_bytes)}"
        )
        yield Finding("activations", text, "checkpoint that block, or use smaller batches")


def _saved_share(stored: Stored) -> Iterator[Finding]:
    """The finding `activations` from saved bytes and the sizes that shapes give, where memory was not watched."""
    saved, by_shapes = most_kept(stored), sizes_by_shapes(stored)
    if saved is None or not saved.keepers or not by_shapes.models:
        return
    sizes = [
        held_bytes
        for model in by_shapes.models
        for held_bytes in (model.parameter_bytes, model.gradient_bytes)
    ]
    sizes += [held_bytes for _, held_bytes in by_shapes.optimizers]
    if None in sizes:
        return
    total = saved.saved_bytes + sum(held_bytes or 0 for held_bytes in sizes)
    if saved.saved_bytes < max(ACTIVATION_SHARE * total, ACTIVATION_BYTES):
        return
    first = saved.keepers[0]
    least = "" if saved.complete else "at least "
    text = (
        f"{least}{size(saved.saved_bytes)} is kept for backward, {percent(saved.saved_bytes, total)}% of that with "
        f"parameters, gradients and the optimizer's state; {first.name or 'what is outside of modules'} keeps "
        f"{size(first.saved_bytes)}"
    )
    yield Finding("activations", text, "checkpoint that block, or use smaller batches")
