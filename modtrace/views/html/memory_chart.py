"""Memory for a report: the curve, and who held it at some moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column, taken
from modtrace.analysis.memory import Curve, Memory, curve, memory, peak_at
from modtrace.analysis.module_repeats import folded
from modtrace.analysis.timeline import timeline
from modtrace.text import plain
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, CATEGORIES
from modtrace.views.html.encode import Blob, TextTable, columns_blob

Ints = npt.NDArray[np.int64]

CURVE_POINTS: Final = 4_096
MOMENTS: Final = 96
"""At so many moments of the curve, and at its peak, a page knows who held memory."""
HOLDERS: Final = 8


@dataclass(frozen=True)
class Watched:
    """The memory of one process and device.

    facts: `process`, `device`, `peak_ns`, `peak_bytes`, and the number of allocations;
        `from_ns`, when the first call began.
    curve: `at_ns`, `held_bytes`, and `held_0`, `held_1`, .. of each category.
    holders: `at_ns`, `category`, `name`, `type` (numbers of texts), `backward`, `held_bytes`, the most first; a
        moment at which nothing was held has one row with -1 for its category.
    """

    facts: dict[str, Any]
    curve: Blob
    holders: Blob


def watched(stored: Stored, texts: TextTable) -> list[Watched]:
    """All memory that was watched."""
    return [_watched(stored, device, texts) for device in memory(stored) if len(device.at_ns)]


def decimated(line: Curve, points: int = CURVE_POINTS) -> Curve:
    """A curve of at most so many points, with the lowest and the highest of each stretch that is put together."""
    count = len(line.at_ns)
    if count <= points:
        return line
    edges = np.linspace(0, count, points // 2 + 1).astype(np.int64)[:-1]
    ends = np.append(edges[1:], count)
    positions = []
    for first, last in zip(edges.tolist(), ends.tolist(), strict=True):
        part = line.held_bytes[first:last]
        positions += sorted({first + int(part.argmin()), first + int(part.argmax())})
    chosen = np.array(positions, np.int64)
    return Curve(line.at_ns[chosen], line.held_bytes[chosen])


def _watched(stored: Stored, device: Memory, texts: TextTable) -> Watched:
    line, peak = curve(device), peak_at(device)
    last = np.append(line.at_ns[1:] != line.at_ns[:-1], True)
    shown = decimated(Curve(line.at_ns[last], line.held_bytes[last]))
    facts = {
        "process": device.process,
        "device": plain(device.device, 80),
        "peak_ns": peak,
        "peak_bytes": int(line.held_bytes.max()),
        "allocations": len(device.at_ns),
        "from_ns": _first_call_ns(stored, device.process),
    }
    holders = columns_blob(_holders(stored, device, line, peak, texts))
    points = {
        "at_ns": np.maximum(shown.at_ns, 0),
        "held_bytes": shown.held_bytes,
        **_by_category(device, shown.at_ns),
    }
    return Watched(facts, columns_blob(points), holders)


def _by_category(device: Memory, at_ns: Ints) -> dict[str, Ints]:
    """Bytes of each category at moments: columns `held_0`, `held_1`, .. by the number of the category."""
    columns = {}
    for code in np.unique(device.category).tolist():
        of_code = device.category == code
        size_bytes, freed_ns = device.size_bytes[of_code], device.freed_ns[of_code]
        order = np.argsort(freed_ns, kind="stable")
        allocated = np.append(0, np.cumsum(size_bytes))
        freed = np.append(0, np.cumsum(size_bytes[order]))
        columns[f"held_{code}"] = (
            allocated[np.searchsorted(device.at_ns[of_code], at_ns, side="right")]
            - freed[np.searchsorted(freed_ns[order], at_ns, side="right")]
        )
    return columns


def _first_call_ns(stored: Stored, process: int) -> int:
    """When the first recorded call of a process began; 0 where there is none."""
    calls = timeline(stored).calls
    start_ns = column(calls, "start_ns")[column(calls, "process") == process]
    return int(start_ns.min(initial=1 << 62)) if len(start_ns) else 0


def _holders(stored: Stored, device: Memory, line: Curve, peak: int, texts: TextTable) -> dict[str, Ints]:
    groups = folded(stored)
    call_kind = column(timeline(stored).calls, "kind")
    count = len(groups.name) + 1
    group = taken(groups.group, device.call, count - 1)
    backward = taken(call_kind, device.call) == BACKWARD
    key = (device.category * count + group) * 2 + backward
    moments = np.linspace(int(line.at_ns[0]), int(line.at_ns[-1]), MOMENTS).astype(np.int64).tolist()
    rows: list[tuple[int, ...]] = []
    for moment in sorted({*moments, peak}):
        alive = device.alive(moment)
        total = np.bincount(key[alive], weights=device.size_bytes[alive], minlength=1)
        largest = [
            packed for packed in np.argsort(-total, kind="stable")[:HOLDERS].tolist() if total[packed] > 0
        ]
        rows += [(moment, -1, -1, -1, -1, -1)] if not largest else []
        for packed in largest:
            category, code = packed // 2 // count, packed // 2 % count
            name = groups.title(code) if code < count - 1 else ""
            kind_of = groups.type[code] if code < count - 1 else ""
            numbers = (texts.number(plain(name, 200)), texts.number(plain(kind_of, 200)))
            rows.append((moment, category, *numbers, packed % 2, int(total[packed])))
    table = np.array(rows, np.int64).reshape(-1, 6).T
    names = ("at_ns", "category", "name", "type", "backward", "held_bytes")
    columns = dict(zip(names, table, strict=True))
    columns["at_ns"] = np.maximum(columns["at_ns"], 0)
    return columns


def categories() -> list[str]:
    """The categories of memory, as people read them."""
    return [name.replace("_", " ") for name in CATEGORIES]
