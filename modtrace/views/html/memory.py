"""Memory for a report: the curve, and who held it at some moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column, taken
from modtrace.analysis.memory import Curve, Memory, curve, memory, peak_at
from modtrace.analysis.paths import folded
from modtrace.analysis.timeline import timeline
from modtrace.text import plain
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, CATEGORIES
from modtrace.views.html.encode import Blob, Texts, columns_blob

Ints = npt.NDArray[np.int64]

CURVE_POINTS: Final = 4_096
MOMENTS: Final = 96
"""At so many moments of the curve, and at its peak, a page knows who held memory."""
HOLDERS: Final = 8


@dataclass(frozen=True)
class Watched:
    """The memory of one process and device.

    facts: `process`, `device`, `peak_ns`, `peak_bytes`, and the number of allocations.
    curve: `at_ns`, `held_bytes`.
    holders: `at_ns`, `category`, `name`, `type` (numbers of texts), `backward`, `held_bytes`, the most first; a
        moment at which nothing was held has one row with -1 for its category.
    """

    facts: dict[str, Any]
    curve: Blob
    holders: Blob


def watched(stored: Stored, texts: Texts) -> list[Watched]:
    """All memory that was watched."""
    return [_watched(stored, held, texts) for held in memory(stored) if len(held.at_ns)]


def decimated(line: Curve, points: int = CURVE_POINTS) -> Curve:
    """A curve of at most so many points, with the lowest and the highest of each stretch that is put together."""
    count = len(line.at_ns)
    if count <= points:
        return line
    edges = np.linspace(0, count, points // 2 + 1).astype(np.int64)[:-1]
    ends = np.append(edges[1:], count)
    kept = []
    for first, last in zip(edges.tolist(), ends.tolist(), strict=True):
        part = line.held_bytes[first:last]
        kept += sorted({first + int(part.argmin()), first + int(part.argmax())})
    at = np.array(kept, np.int64)
    return Curve(line.at_ns[at], line.held_bytes[at])


def _watched(stored: Stored, held: Memory, texts: Texts) -> Watched:
    line, peak = curve(held), peak_at(held)
    shown = decimated(line)
    facts = {
        "process": held.process,
        "device": plain(held.device, 80),
        "peak_ns": peak,
        "peak_bytes": int(line.held_bytes.max()),
        "allocations": len(held.at_ns),
    }
    holders = columns_blob(_holders(stored, held, line, peak, texts))
    points = {"at_ns": np.maximum(shown.at_ns, 0), "held_bytes": shown.held_bytes}
    return Watched(facts, columns_blob(points), holders)


def _holders(stored: Stored, held: Memory, line: Curve, peak: int, texts: Texts) -> dict[str, Ints]:
    groups = folded(stored)
    kind = column(timeline(stored).calls, "kind")
    count = len(groups.name) + 1
    group = taken(groups.group, held.call, count - 1)
    backward = taken(kind, held.call) == BACKWARD
    key = (held.category * count + group) * 2 + backward
    moments = np.linspace(int(line.at_ns[0]), int(line.at_ns[-1]), MOMENTS).astype(np.int64).tolist()
    rows: list[tuple[int, ...]] = []
    for moment in sorted({*moments, peak}):
        alive = held.alive(moment)
        total = np.bincount(key[alive], weights=held.size_bytes[alive], minlength=1)
        largest = [at for at in np.argsort(-total, kind="stable")[:HOLDERS].tolist() if total[at] > 0]
        rows += [(moment, -1, -1, -1, -1, -1)] if not largest else []
        for at in largest:
            category, code = at // 2 // count, at // 2 % count
            name = groups.title(code) if code < count - 1 else ""
            kind_of = groups.type[code] if code < count - 1 else ""
            numbers = (texts.number(plain(name, 200)), texts.number(plain(kind_of, 200)))
            rows.append((moment, category, *numbers, at % 2, int(total[at])))
    table = np.array(rows, np.int64).reshape(-1, 6).T
    names = ("at_ns", "category", "name", "type", "backward", "held_bytes")
    found = dict(zip(names, table, strict=True))
    found["at_ns"] = np.maximum(found["at_ns"], 0)
    return found


def categories() -> list[str]:
    """What memory is held for, as people read it."""
    return [name.replace("_", " ") for name in CATEGORIES]
