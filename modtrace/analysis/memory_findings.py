"""What is worth a look about memory that was watched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.held import held as held_by_shapes
from modtrace.analysis.holders import peaks
from modtrace.analysis.kept import most_kept
from modtrace.analysis.memory import NEVER, Memory, memory, of_stretches
from modtrace.analysis.paths import Folded, folded
from modtrace.trace.reader import Stored
from modtrace.trace.schema import ACTIVATION, CATEGORIES, TEMPORARY
from modtrace.units import percent, plural, size

if TYPE_CHECKING:
    from modtrace.analysis.findings import Facts, Finding

Ints = npt.NDArray[np.int64]

GROWTH_STEPS: Final = 5
"""Whole steps whose memory is known, the first two left out, that are needed to speak of growth."""
GROWTH_SHARE: Final = 0.01
GROWTH_BYTES: Final = 4096
ACTIVATION_SHARE: Final = 0.50
ACTIVATION_BYTES: Final = 1 << 20
_OUTSIDE: Final = "outside of modules"


def growth(facts: Facts) -> Iterator[Finding]:
    """What is held at the end of each step has grown with every one, by GROWTH_SHARE in all and GROWTH_BYTES a step."""
    from modtrace.analysis.findings import Finding

    watched = memory(facts.stored)
    for held in watched:
        ends = _ends(facts)
        at_end = np.array([int(held.size_bytes[held.alive(end)].sum()) for end in ends], np.int64)
        told = _grown(at_end)
        if told is not None:
            names = _still_held(facts.stored, held, ends)
            of = f", allocated {names}" if names else ""
            remedy = "look for outputs that are kept: use .item() or .detach()"
            yield Finding("growth", f"{told}{of}", remedy, wrong=True)
    if not watched:
        told = _grown(facts.whole["memory_allocated_bytes"].dropna().to_numpy(np.int64)[2:])
        if told is not None:
            remedy = "look for outputs that are kept (.item(), .detach()); --memory names the modules"
            yield Finding("growth", f"{told} on the device", remedy, wrong=True)


def _grown(at_end: Ints) -> str | None:
    """How memory has grown, by what was held at the ends of steps; None where it has not."""
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
    start, duration = (facts.whole[name].to_numpy(np.int64) for name in ("start_ns", "duration_ns"))
    process, timed = np.zeros(len(start), np.int64), np.ones(len(start), np.bool_)
    known = of_stretches(facts.stored, start, start + duration, process, timed).known
    ends: list[int] = (start + duration)[known].tolist()
    return ends[2:]


def _still_held(stored: Stored, held: Memory, ends: list[int]) -> str:
    """Where most of what was made in these steps and is held at the end of the last was allocated: `in 3 (Tanh)`.

    Repeats of a module go by one name, unless all that is held is of a single one. What no module allocated is told of
    where no module allocated any.
    """
    kept = (held.at_ns > ends[0]) & held.alive(ends[-1]) & np.isin(held.category, (ACTIVATION, TEMPORARY))
    kept &= (held.freed_ns == NEVER) & (held.call >= 0)
    call, size_bytes = held.call[kept], held.size_bytes[kept]
    groups, alone = folded(stored), folded(stored, repeats=False)
    of_module = np.array(groups.of_module, np.bool_)[groups.group[call]]
    if of_module.any():
        call, size_bytes = call[of_module], size_bytes[of_module]
    sums = np.bincount(groups.group[call], weights=size_bytes, minlength=len(groups.name))
    largest = [at for at in np.argsort(-sums, kind="stable").tolist() if sums[at] > 0.05 * sums.sum()][:3]
    names = []
    for group in largest:
        members = np.unique(alone.group[call[groups.group[call] == group]]).tolist()
        names.append(_named(alone, members[0]) if len(members) == 1 else _named(groups, group))
    if names == [_OUTSIDE]:
        return _OUTSIDE
    return f"in {', '.join(dict.fromkeys(names))}" if names else ""


def _named(groups: Folded, at: int) -> str:
    """A group as a finding names it: `3 (Tanh)`, a root by its name."""
    name, kind = groups.title(at), groups.type[at]
    if not groups.of_module[at]:
        return _OUTSIDE if name == "step" else name
    return f"{name} ({kind})" if name != kind else name


def activations(facts: Facts) -> Iterator[Finding]:
    """Activations kept for backward are ACTIVATION_SHARE of the peak; where memory was not watched but what is kept was
    counted, of that with parameters, gradients and the optimizer's state as shapes tell.
    """
    from modtrace.analysis.findings import Finding

    kept = CATEGORIES[ACTIVATION]
    found = peaks(facts.stored)
    if not found:
        yield from _kept(facts.stored)
    for peak in found:
        held = peak.by_category.get(kept, 0)
        if held < max(ACTIVATION_SHARE * peak.held_bytes, ACTIVATION_BYTES):
            continue
        first = next(one for one in peak.holders if one.category == kept)
        text = (
            f"activations are {percent(held, peak.held_bytes)}% of the peak of {size(peak.held_bytes)}; "
            f"{first.name or first.type or 'outside of calls'} holds {size(first.held_bytes)}"
        )
        yield Finding("activations", text, "checkpoint that block, or use smaller batches")


def _kept(stored: Stored) -> Iterator[Finding]:
    from modtrace.analysis.findings import Finding

    kept, beside = most_kept(stored), held_by_shapes(stored)
    if kept is None or not kept.keepers or not beside.models:
        return
    sizes = [held_bytes for one in beside.models for held_bytes in (one.parameter_bytes, one.gradient_bytes)]
    sizes += [held_bytes for _, held_bytes in beside.optimizers]
    if None in sizes:
        return
    total = kept.saved_bytes + sum(held_bytes or 0 for held_bytes in sizes)
    if kept.saved_bytes < max(ACTIVATION_SHARE * total, ACTIVATION_BYTES):
        return
    first = kept.keepers[0]
    least = "" if kept.whole else "at least "
    text = (
        f"{least}{size(kept.saved_bytes)} is kept for backward, {percent(kept.saved_bytes, total)}% of that with "
        f"parameters, gradients and the optimizer's state; {first.name or 'what is outside of modules'} keeps "
        f"{size(first.saved_bytes)}"
    )
    yield Finding("activations", text, "checkpoint that block, or use smaller batches")
