"""Memory as text: the peak, what it was made of, and who held it."""

from __future__ import annotations

from collections.abc import Sequence

from modtrace.analysis.device_memory import Whole
from modtrace.analysis.holders import Holder, Peak
from modtrace.text import fit, pad, plain
from modtrace.units import count, percent, plural, size

MANY = 20
MANY_DEVICES = 4


def memory_lines(found: Sequence[Peak], *, width: int) -> list[str]:
    """The peak of each device that was watched."""
    lines: list[str] = []
    for peak in found:
        lines += [*([""] if lines else []), *_peak(peak, width)]
    return lines


def _peak(peak: Peak, width: int) -> list[str]:
    where = f" in {plain(peak.where[0])} {plain(peak.where[1])}" if peak.where is not None else ""
    step = f" of step {peak.step}" if peak.step >= 0 else ""
    lines = [f"  {peak.device}   peak {size(peak.held_bytes)}{where}{step}   end {size(peak.end_bytes)}"]
    parts = [
        f"{name.replace('_', ' ')} {size(held)} ({percent(held, peak.held_bytes)}%)"
        for name, held in sorted(peak.by_category.items(), key=lambda one: -one[1])
    ]
    line = "  of which"
    for part in parts:
        if len(line) + len(part) + 3 > width:
            lines.append(line)
            line = "          "
        line += f"  {part}"
    lines += [line, ""]
    name_width = max(min(34, width - 46), 12)
    lines.append(f"  {pad('HELD AT THE PEAK', name_width)} {'bytes':>9} {'%':>5} {'pieces':>7}  for")
    for holder in peak.holders[:MANY]:
        lines.append(_holder(holder, peak.held_bytes, name_width))
    rest = peak.holders[MANY:]
    if rest:
        held = sum(one.held_bytes for one in rest)
        name = pad(f"{len(rest)} more", name_width)
        lines.append(f"  {name} {size(held):>9} {percent(held, peak.held_bytes):>5}")
    return lines


def _holder(holder: Holder, total: int, name_width: int) -> str:
    name = plain(holder.name) or "outside of calls"
    kind = f"  {plain(holder.type)}" if holder.type not in ("", holder.name) else ""
    shown = pad(f"{fit(name, name_width, keep_end=True)}{kind}", name_width)
    made = ", allocated in its backward" if holder.backward else ""
    what = f"{holder.category.replace('_', ' ')}{made}"
    share = percent(holder.held_bytes, total)
    return f"  {shown} {size(holder.held_bytes):>9} {share:>5} {count(holder.allocations):>7}  {what}"


def memory_summary(found: Sequence[Peak]) -> list[str]:
    """A line for the summary, nothing where memory was not watched."""
    lines = []
    for peak in found[:1]:
        where = f" in {plain(peak.where[0])}" if peak.where is not None else ""
        step = f" (step {peak.step})" if peak.step >= 0 else ""
        more = f"   {plural(len(found), 'device')}" if len(found) > 1 else ""
        lines.append(
            f"  memory    peak {size(peak.held_bytes)}{where}{step}   end {size(peak.end_bytes)}{more}"
        )
    return lines


def device_memory_summary(found: Sequence[Whole]) -> list[str]:
    """A line a device whose allocator told, at most MANY_DEVICES."""
    lines = []
    for one in found[:MANY_DEVICES]:
        peak = f"at least {size(one.least_bytes)}" if one.peak_bytes is None else size(one.peak_bytes)
        held = f"end {size(one.allocated_bytes)} of {size(one.reserved_bytes)} reserved"
        lines.append(f"  memory    {plain(one.device)} peak {peak}   {held}")
        if one.resets:
            lines.append(f"            peak since the program last reset it {size(one.counter_bytes)}")
    if len(found) > MANY_DEVICES:
        lines.append(f"  memory    of {plural(len(found) - MANY_DEVICES, 'device')} more")
    return lines
