"""Operations of modules, as text."""

from __future__ import annotations

from collections.abc import Sequence

from modtrace.analysis.operations import GroupOperations
from modtrace.text import fit, pad, plain
from modtrace.units import bounded, count, plural


def operations_lines(rows: Sequence[GroupOperations], *, width: int) -> list[str]:
    """A line a group of modules: name, class, calls, FLOPs of a call, its own operations; long lists go on below.

    `>` stands before the least that a call computes, where a part of it is not known. A list with `?` is not known: the
    module was not called while operations were counted.
    """
    name_width = max(min(34, width - 46), 12)
    lines = [f"  {pad('MODULE', name_width)} {'calls':>7} {'a call':>11}  its own operations"]
    indent = name_width + 24
    for row in rows:
        folded = f"{row.name} x{row.instances}" if row.instances > 1 else row.name
        class_text = f"  {plain(row.type)}" if row.type != row.name else ""
        name = pad(f"{fit(plain(folded), name_width, keep_end=True)}{class_text}", name_width)
        flops = bounded(row.flops, row.least, "FLOP")
        head = f"  {name} {count(row.calls):>7} {flops:>11}  "
        words = ["?"] if row.operations is None else [plain(word) for word in row.operations]
        lines += _broken(head, words, indent, width)
        if row.uncounted:
            lines.append(" " * indent + f"! no formula for {', '.join(map(plain, row.uncounted))}")
    unknown = sum(row.operations is None for row in rows)
    if unknown:
        lines.append(f"  ? {plural(unknown, 'line')}: not called while operations were counted")
    return lines


def _broken(head: str, words: Sequence[str], indent: int, width: int) -> list[str]:
    lines, room = [head], max(width - indent, 10)
    used = 0
    for word in words:
        if used and used + len(word) + 2 > room:
            lines[-1] += ","
            lines.append(" " * indent)
            used = 0
        lines[-1] += (", " if used else "") + word
        used += len(word) + (2 if used else 0)
    return lines
