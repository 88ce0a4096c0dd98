"""The report: one HTML file that needs nothing else, of a size that can be sent to somebody."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from modtrace.analysis.columns import column
from modtrace.analysis.device_times import accelerators
from modtrace.analysis.kernels import ran
from modtrace.analysis.phases import NAMES
from modtrace.analysis.timeline import timeline
from modtrace.errors import UsageError
from modtrace.text import plain
from modtrace.trace.reader import Stored
from modtrace.trace.schema import STATUSES
from modtrace.units import count, plural
from modtrace.views.html.aggregate import STEP_PARTS, Aggregate, aggregate
from modtrace.views.html.details import Details, details
from modtrace.views.html.encode import Blob, columns_blob, texts_blob
from modtrace.views.html.facts import Facts, facts
from modtrace.views.html.memory import Watched, categories, watched
from modtrace.views.html.page import page

DEFAULT_BYTES: Final = 1_000_000
MOST_CALLS: Final = 2_000_000
"""Of more calls not all are put into a page unless a size is named."""
_LEVELS: Final = ((2_000, 10_000), (200, 1_000), (50, 200))
"""Rows of modules and of steps that are tried, the first that leaves room for calls is kept."""
_ROOM: Final = 0.5
_OPERATORS: Final = 200


@dataclass(frozen=True)
class Report:
    """A page, and what was left out of it to keep it small."""

    html: str
    left_out: list[str]


@dataclass(frozen=True)
class _Parts:
    """All that a page is made of but single calls."""

    found: Aggregate
    facts: Facts
    memory: list[Watched]
    operators: list[list[Any]]
    operators_device: str

    def blobs(self) -> dict[str, Blob]:
        found = self.found
        blobs = {
            "tree": columns_blob(found.tree),
            "forms": columns_blob(found.forms),
            "modules": columns_blob(found.modules),
            "steps": columns_blob(found.steps),
        }
        for at, one in enumerate(self.memory):
            blobs |= {f"curve-{at}": one.curve, f"holders-{at}": one.holders}
        return blobs | {"texts": texts_blob(found.texts.all)}


def report(stored: Stored, *, full: bool = False, max_bytes: int | None = None) -> Report:
    """The page of a trace.

    Args:
        stored: the trace.
        full: with every call, whatever the size.
        max_bytes: its size at the most, DEFAULT_BYTES where nothing is said; the merged tree is always whole, though,
            so a page of very many modules may be larger.

    Raises:
        UsageError: `full` without a size, of more than MOST_CALLS rows.
    """
    if full and max_bytes is None:
        rows = stored.table("calls").num_rows
        if rows > MOST_CALLS:
            raise UsageError(
                f"{count(rows)} calls are too many for one page; say how large it may get, such as --max-size 20MB"
            )
    limit = max_bytes if max_bytes is not None else None if full else DEFAULT_BYTES
    words = facts(stored)
    if limit is None:
        parts = _parts(stored, words, None, None)
        return _assembled(stored, parts, details(stored, parts.found, None), [])
    for modules, steps in _LEVELS:
        parts = _parts(stored, words, modules, steps)
        bare = len(_assembled(stored, parts, Details(), []).html.encode())
        if bare < _ROOM * limit:
            break
    room = limit - bare - 2_000
    while True:
        made = _assembled(stored, parts, details(stored, parts.found, max(room, 0)), [])
        over = len(made.html.encode()) - limit
        if over <= 0:
            return made
        if room <= 0:
            told = f"This page is larger than the {count(limit)} bytes asked for: the tree alone takes more."
            return _assembled(stored, parts, Details(), [told])
        room = min(room - over, int(room * 0.9)) - 1


def write(
    stored: Stored, target: str | os.PathLike[str], *, full: bool = False, max_bytes: int | None = None
) -> Report:
    """Write the page to a file, whole or not at all and readable by the user alone.

    Raises:
        UsageError: the file cannot be written, or as `report` says.
    """
    made = report(stored, full=full, max_bytes=max_bytes)
    path = Path(target)
    try:
        descriptor, part = tempfile.mkstemp(prefix=".", suffix=".html", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
                file.write(made.html)
            os.replace(part, path)
        except BaseException:
            os.unlink(part)
            raise
    except OSError as error:
        raise UsageError(f"cannot write {plain(str(path))}: {error.strerror or error}") from None
    return made


def _parts(stored: Stored, words: Facts, modules: int | None, steps: int | None) -> _Parts:
    found = aggregate(stored, most_modules=modules, most_steps=steps)
    memory = watched(stored, found.texts)
    device, rows = ran(stored) if stored.table("operators").num_rows else ("", [])
    operators = [
        [
            plain(one.name, 200),
            plain(one.type, 200),
            one.forward_ns,
            one.backward_ns,
            one.executions,
            ", ".join(plain(name, 60) for name, _ in one.top),
        ]
        for one in rows[:_OPERATORS]
    ]
    return _Parts(found, words, memory, operators, plain(device, 100))


def _assembled(stored: Stored, parts: _Parts, calls: Details, told: list[str]) -> Report:
    left_out = [*_left_out(parts, calls, stored), *told]
    meta = {
        "wallNs": parts.facts.wall_ns,
        "accelerators": bool(accelerators(stored)),
        "rest": [[one.label, one.self_ns] for one in parts.facts.rest],
        "phases": list(NAMES),
        "stepParts": list(STEP_PARTS),
        "statuses": list(STATUSES),
        "categories": categories(),
        "ranks": [process.rank for process in stored.processes],
        "endsBy": _ends_by(stored),
        "memory": [one.facts for one in parts.memory],
        "operators": parts.operators,
        "operatorsDevice": parts.operators_device,
        "chunks": len(calls.chunks),
    }
    blobs = parts.blobs() | calls.blobs()
    html = page(
        parts.found.at,
        parts.facts,
        gaps=[*parts.facts.gaps, *left_out],
        meta=meta,
        blobs=blobs,
        memory=bool(parts.memory),
    )
    return Report(html, left_out)


def _ends_by(stored: Stored) -> list[str]:
    return [one.by for one in timeline(stored).steps]


def _left_out(parts: _Parts, calls: Details, stored: Stored) -> list[str]:
    """What is in the trace and not in the page."""
    found, lines = parts.found, []
    rows = len(column(stored.table("calls"), "call")) if not calls.all_rows else calls.all_rows
    if calls.rows < rows:
        there = len(calls.steps["step"]) if calls.steps else 0
        steps = calls.all_steps or found.step_count
        lines.append(
            f"The timeline shows {count(there)} of {plural(steps, 'step')} ({count(calls.rows)} of {count(rows)} "
            "rows); all totals are complete. modtrace report --full keeps every call."
        )
    for what, kept, whole in (
        ("modules", len(found.modules["calls"]), found.module_count),
        ("steps", len(found.steps["step"]), found.step_count),
    ):
        if kept < whole:
            lines.append(f"The table of {what} has {count(kept)} of {count(whole)} rows.")
    return lines
