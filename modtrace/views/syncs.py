"""Where module calls wait for a device, as text."""

from __future__ import annotations

from collections.abc import Sequence

from modtrace.analysis.syncs import Place
from modtrace.text import fit, pad, plain
from modtrace.units import count, plural, size

NONE = "  no module call was seen to wait for a device: modtrace run --syncs script.py"
ALL = "modtrace info --syncs --all"


def syncs_lines(found: Sequence[Place], *, every: bool, width: int) -> list[str]:
    """A line a place of the code in a group of modules; with `every` those on the CPU too, which waited for nothing."""
    shown = [one for one in found if every or one.waits]
    would = len(found) - sum(one.waits for one in found)
    lines = []
    if shown:
        name_width = max(min(34, width - 60), 12)
        lines.append(f"  {pad('MODULE', name_width)} {'times':>7} {'copied':>9}  {pad('what', 24)} where")
    for one in shown:
        kind = f"  {plain(one.type)}" if one.type != one.name else ""
        name = pad(f"{fit(plain(one.name), name_width, keep_end=True)}{kind}", name_width)
        file = "?" if one.file is None else plain(one.file.replace("\\", "/").rpartition("/")[2])
        line = "?" if one.line is None else str(one.line)
        copied = "" if one.size_bytes is None else size(one.size_bytes)
        what = pad(f"{plain(one.what)}, {plain(one.device)}", 24)
        lines.append(f"  {name} {count(one.count):>7} {copied:>9}  {what} {file}:{line}")
    if every and would:
        lines.append("  cpu: nothing was waited for; with the tensor on a device it would be")
    elif would:
        lines.append(f"  {plural(would, 'place')} would wait if their tensors were on a device: {ALL}")
    return lines or [NONE]
