"""Memory as text: the peak, what it was made of, and who held it."""

from __future__ import annotations

from collections.abc import Sequence

from modtrace.analysis.device_memory import RecordingMemory
from modtrace.analysis.memory_peaks import MemoryHolder, Peak
from modtrace.text import fit, pad, plain
from modtrace.units import count, percent, plural, size

MANY = 20
MANY_DEVICES = 4


def memory_lines(peaks: Sequence[Peak], *, width: int) -> list[str]:
    """The peak of each device that was watched."""
    lines: list[str] = []
    for peak in peaks:
        lines += [*([""] if lines else []), *_peak(peak, width)]
    return lines


def _peak(peak: Peak, width: int) -> list[str]:
    where = f" in {plain(peak.where[0])} {plain(peak.where[1])}" if peak.where is not None else ""
    step = f" of step {peak.step}" if peak.step >= 0 else ""
    head = [f"{peak.device}", f"peak {size(peak.held_bytes)}{where}{step}", f"end {size(peak.end_bytes)}"]
    lines = joined(head, width)
    parts = [
        f"{name.replace('_', ' ')} {size(held_bytes)} ({percent(held_bytes, peak.held_bytes)}%)"
        for name, held_bytes in sorted(peak.by_category.items(), key=lambda category: -category[1])
    ]
    line = "  of which"
    for part in parts:
        if len(line) + len(part) + 3 > width:
            lines.append(line)
            line = "          "
        line += f"  {part}"
    lines += [line, ""]
    longest = max((len(_purpose(holder)) for holder in peak.holders[:MANY]), default=0)
    name_width = max(min(34, width - 28 - longest), 12)
    lines.append(f"  {pad('HELD AT THE PEAK', name_width)} {'bytes':>9} {'%':>5} {'pieces':>7}  for")
    for holder in peak.holders[:MANY]:
        lines.append(_holder(holder, peak.held_bytes, name_width))
    remaining = peak.holders[MANY:]
    if remaining:
        held_bytes = sum(holder.held_bytes for holder in remaining)
        name = pad(f"{len(remaining)} more", name_width)
        lines.append(f"  {name} {size(held_bytes):>9} {percent(held_bytes, peak.held_bytes):>5}")
    return lines


def joined(parts: Sequence[str], width: int) -> list[str]:
    """Parts on one line, three columns apart, or on as many lines as they need, so that no number is cut."""
    lines = [""]
    for part in parts:
        if lines[-1] and len(lines[-1]) + len(part) + 3 > width:
            lines.append("")
        indent = "    " if len(lines) > 1 else "  "
        lines[-1] += f"   {part}" if lines[-1] else f"{indent}{part}"
    return lines


def _holder(holder: MemoryHolder, total: int, name_width: int) -> str:
    name = plain(holder.name) or "outside of calls"
    class_text = f"  {plain(holder.type)}" if holder.type not in ("", holder.name) else ""
    shown = pad(f"{fit(name, name_width, keep_end=True)}{class_text}", name_width)
    share = percent(holder.held_bytes, total)
    return f"  {shown} {size(holder.held_bytes):>9} {share:>5} {count(holder.allocations):>7}  {_purpose(holder)}"


def _purpose(holder: MemoryHolder) -> str:
    """The category of the memory, and that it was allocated in the backward of its module."""
    return f"{holder.category.replace('_', ' ')}{', in its backward' if holder.backward else ''}"


def memory_summary(peaks: Sequence[Peak]) -> list[str]:
    """A line for the summary, nothing where memory was not watched."""
    lines = []
    for peak in peaks[:1]:
        where = f" in {plain(peak.where[0])}" if peak.where is not None else ""
        step = f" (step {peak.step})" if peak.step >= 0 else ""
        others = f"   {plural(len(peaks), 'device')}" if len(peaks) > 1 else ""
        lines.append(
            f"  memory    peak {size(peak.held_bytes)}{where}{step}   end {size(peak.end_bytes)}{others}"
        )
    return lines


def device_memory_summary(devices: Sequence[RecordingMemory]) -> list[str]:
    """A line a device whose allocator told, at most MANY_DEVICES."""
    lines = []
    for device in devices[:MANY_DEVICES]:
        peak = (
            f"at least {size(device.least_bytes)}" if device.peak_bytes is None else size(device.peak_bytes)
        )
        end_text = f"end {size(device.allocated_bytes)} of {size(device.reserved_bytes)} reserved"
        lines.append(f"  memory    {plain(device.device)} peak {peak}   {end_text}")
        if device.resets:
            lines.append(f"            peak since the program last reset it {size(device.counter_bytes)}")
    if len(devices) > MANY_DEVICES:
        lines.append(f"  memory    of {plural(len(devices) - MANY_DEVICES, 'device')} more")
    return lines
