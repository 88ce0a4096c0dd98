"""Where module calls wait for a device, as text."""

from __future__ import annotations

from collections.abc import Sequence

from modtrace.analysis.syncs import SyncLine
from modtrace.text import fit, pad, plain
from modtrace.units import count, plural, size

NONE = "  no wait for a device is noted; they are with: modtrace run --syncs script.py"
ALL = "modtrace info --syncs --all"


def syncs_lines(places: Sequence[SyncLine], *, every: bool, width: int) -> list[str]:
    """A line a place of the code in a group of modules; with `every` those on the CPU too, which waited for nothing."""
    shown = [place for place in places if every or place.waits]
    would = len(places) - sum(place.waits for place in places)
    lines = []
    if shown:
        name_width = max(min(34, width - 60), 12)
        lines.append(f"  {pad('MODULE', name_width)} {'times':>7} {'copied':>9}  {pad('what', 24)} where")
    for place in shown:
        class_text = f"  {plain(place.type)}" if place.type != place.name else ""
        name = pad(f"{fit(plain(place.name), name_width, keep_end=True)}{class_text}", name_width)
        file = "?" if place.file is None else plain(place.file.replace("\\", "/").rpartition("/")[2])
        line = "?" if place.line is None else str(place.line)
        copied = "" if place.size_bytes is None else size(place.size_bytes)
        operation = pad(f"{plain(place.what)}, {plain(place.device)}", 24)
        lines.append(f"  {name} {count(place.count):>7} {copied:>9}  {operation} {file}:{line}")
    if every and would:
        lines.append("  cpu: nothing was waited for; with the tensor on a device it would be")
    elif would:
        lines.append(f"  {plural(would, 'place')} would wait if their tensors were on a device: {ALL}")
    return lines or [NONE]
