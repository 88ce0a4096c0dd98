"""The report: one HTML file that needs nothing else, of a size that can be sent to somebody."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.device_times import accelerators
from modtrace.analysis.filters import grammar
from modtrace.analysis.flat_profile import flat_profile
from modtrace.analysis.kernels import ran
from modtrace.analysis.metrics import METRICS, OPERATOR_COLUMNS, SUMS, comparable, of_groups, table_columns
from modtrace.analysis.phases import NAMES
from modtrace.analysis.ranks.rank_report import few_to_open, has_sums, rank_report
from modtrace.analysis.statistics import chosen_steps
from modtrace.analysis.timeline import timeline
from modtrace.errors import UsageError
from modtrace.text import plain
from modtrace.trace.atomic_file import write_whole
from modtrace.trace.dataframes import FRAMES
from modtrace.trace.reader import Stored
from modtrace.trace.schema import STATUSES
from modtrace.units import count, plural
from modtrace.views.html.aggregate import DOUBLES, STEP_PARTS, Aggregate, aggregate
from modtrace.views.html.colors import CATEGORY_COLORS, CLASS_COLORS, OTHER_CLASS_COLOR, PHASE_COLORS
from modtrace.views.html.details import Details, detail_rows, details
from modtrace.views.html.encode import Blob, columns_blob, texts_blob
from modtrace.views.html.facts import ReportTexts, ShareBase, facts
from modtrace.views.html.memory_chart import Watched, categories, watched
from modtrace.views.html.overview import Overview, flat_columns, node_of_group, overview, strip_limit
from modtrace.views.html.page import page
from modtrace.views.html.tree_paths import TreePaths

Ints = npt.NDArray[np.int64]

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

    numbers: Aggregate
    facts: ReportTexts
    first: Overview
    paths: TreePaths
    flat: dict[str, dict[str, Ints]]
    memory: list[Watched]
    operators: list[list[Any]]
    operators_device: str

    def blobs(self) -> dict[str, Blob]:
        numbers = self.numbers
        blobs = {
            "tree": columns_blob(numbers.tree, doubles=DOUBLES),
            "forms": columns_blob(numbers.forms),
            "sets": columns_blob(numbers.sets),
            "modules": columns_blob(numbers.modules),
            "steps": columns_blob(numbers.steps),
            "flat-counted": columns_blob(self.flat["counted"]),
            "flat-run": columns_blob(self.flat["run"]),
        }
        for index, device in enumerate(self.memory):
            blobs |= {f"curve-{index}": device.curve, f"holders-{index}": device.holders}
        return blobs | {"texts": texts_blob(numbers.texts.all)}


def report(stored: Stored, *, full: bool = False, max_bytes: int | None = None) -> Report:
    """The page of a trace; of many ranks or of several with many calls that of the first, with numbers of the others.

    Args:
        stored: the trace, or one rank of it.
        full: with every call, whatever the size.
        max_bytes: its size at the most, DEFAULT_BYTES where nothing is said; the merged tree is always whole, though,
            so a page of very many modules may be larger.

    Raises:
        UsageError: `full` without a size, of more than MOST_CALLS rows.
    """
    if not few_to_open(stored):
        stored = stored.alone(stored.folders()[0])
    if full and max_bytes is None:
        rows = stored.call_count
        if rows > MOST_CALLS:
            raise UsageError(
                f"{count(rows)} calls are too many for one page; say how large it may get, such as --max-size 20MB"
            )
    job = stored.whole()
    if job.process_count > 1 and (few_to_open(job) or has_sums(job)):
        rank_report(job)  # the heat map has it; numbers over ranks are known by it
    limit = max_bytes if max_bytes is not None else None if full else DEFAULT_BYTES
    words = facts(stored)
    if limit is None:
        parts = _parts(stored, words, None, None)
        every_call = details(detail_rows(stored, parts.numbers), parts.numbers, None)
        return _assembled(stored, parts, every_call, [])
    for modules, steps in _LEVELS:
        parts = _parts(stored, words, modules, steps)
        bare = len(_assembled(stored, parts, Details(), []).html.encode())
        if bare < _ROOM * limit:
            break
    room = limit - bare - 2_000
    call_rows = detail_rows(stored, parts.numbers)
    while True:
        rendered = _assembled(stored, parts, details(call_rows, parts.numbers, max(room, 0)), [])
        over = len(rendered.html.encode()) - limit
        if over <= 0:
            return rendered
        if room <= 0:
            note = f"This page is larger than the {count(limit)} bytes asked for: the tree alone takes more."
            return _assembled(stored, parts, Details(), [note])
        room = min(room - over, int(room * 0.9)) - 1


def write(
    stored: Stored, target: str | os.PathLike[str], *, full: bool = False, max_bytes: int | None = None
) -> Report:
    """Write the page to a file, whole or not at all and readable by the user alone.

    Raises:
        UsageError: the file cannot be written, or as `report` says.
    """
    rendered = report(stored, full=full, max_bytes=max_bytes)
    write_whole(Path(target), [rendered.html.encode("utf-8")])
    return rendered


def _parts(stored: Stored, words: ReportTexts, modules: int | None, steps: int | None) -> _Parts:
    numbers = aggregate(stored, most_modules=modules, most_steps=steps)
    memory = watched(stored, numbers.texts)
    device, rows = ran(stored) if stored.table("operators").num_rows else ("", [])
    operators = [
        [
            plain(module.name, 200),
            plain(module.type, 200),
            *(getattr(module, column.key) for column in OPERATOR_COLUMNS),
            ", ".join(plain(name, 60) for name, _ in module.top),
        ]
        for module in rows[:_OPERATORS]
    ]
    paths = TreePaths(numbers.placed.tree)
    first = overview(stored, numbers.placed, paths)
    nodes = node_of_group(stored, numbers.placed)
    flat = (
        {
            name: flat_columns(flat_profile(stored, whole_run=whole_run), nodes, numbers.texts)
            for name, whole_run in (("counted", False), ("run", True))
        }
        if stored.processes
        else {name: {} for name in ("counted", "run")}
    )
    return _Parts(numbers, words, first, paths, flat, memory, operators, plain(device, 100))


def _share_base(span: ShareBase) -> dict[str, Any]:
    return {
        "text": span.text,
        "ns": span.base_ns,
        "before": span.before_ns,
        "outside": [[outside.label, outside.self_ns] for outside in span.outside],
    }


def _strip_limits(stored: Stored) -> list[int]:
    """The time of the highest column of the chart of steps, ns, of each process."""
    return [
        strip_limit(steps, chosen_steps(stored, process).steps) if len(steps) else 1
        for process, steps in enumerate(timeline(stored).steps)
    ]


def _assembled(stored: Stored, parts: _Parts, calls: Details, notes: list[str]) -> Report:
    left_out = [*_left_out(parts, calls, stored), *notes]
    meta = {
        "counted": _share_base(parts.facts.counted),
        "run": _share_base(parts.facts.run),
        "accelerators": bool(accelerators(stored)),
        "sums": [*(metric.name for metric in of_groups() if metric.adds in SUMS), "backward_ns"],
        "columns": parts.first.columns.numbers.tolist(),
        "stripLimits": _strip_limits(stored),
        "phaseColors": PHASE_COLORS,
        "classColors": list(CLASS_COLORS),
        "otherClassColor": OTHER_CLASS_COLOR,
        "categoryColors": list(CATEGORY_COLORS.values()),
        "phases": list(NAMES),
        "stepParts": list(STEP_PARTS),
        "metrics": _metrics(),
        "moduleColumns": _described("modules"),
        "stepColumns": _described("steps"),
        "operatorColumns": [asdict(column) for column in OPERATOR_COLUMNS],
        "grammar": grammar(),
        "statuses": list(STATUSES),
        "categories": categories(),
        "ranks": [process.rank for process in stored.processes],
        "endsBy": _ends_by(stored),
        "memory": [device.facts for device in parts.memory],
        "operators": parts.operators,
        "operatorsDevice": parts.operators_device,
        "chunks": len(calls.chunks),
    }
    blobs = parts.blobs() | calls.blobs()
    html = page(
        parts.numbers,
        parts.facts,
        parts.first,
        parts.paths,
        gaps=[*parts.facts.gaps, *left_out],
        meta=meta,
        blobs=blobs,
        memory=bool(parts.memory),
    )
    return Report(html, left_out)


def _described(frame: str) -> list[dict[str, str]]:
    """The columns of numbers of a table, with what each is."""
    docs = {described.name: described.doc for described in FRAMES[frame]}
    return [{**asdict(number), "doc": docs[number.key]} for number in table_columns(frame)]


def _metrics() -> list[dict[str, str]]:
    """The numbers of rows of the tree, as the page's script reads them; `bound` is the name of a column."""
    return [
        {
            **{
                name: getattr(metric, name)
                for name in ("key", "title", "unit", "adds", "name", "doc", "label")
            },
            "bound": METRICS[metric.bound].name if metric.bound else "",
        }
        for metric in comparable()
    ]


def _ends_by(stored: Stored) -> list[str]:
    return [steps.by for steps in timeline(stored).steps]


def _left_out(parts: _Parts, calls: Details, stored: Stored) -> list[str]:
    """A line for each table of the trace that is not whole in the page."""
    numbers, lines = parts.numbers, []
    rows = stored.call_count if not calls.all_rows else calls.all_rows
    if calls.rows < rows:
        shown_steps = len(calls.steps["step"]) if calls.steps else 0
        steps = calls.all_steps or numbers.step_count
        lines.append(
            f"The timeline shows {count(shown_steps)} of {plural(steps, 'step')} ({count(calls.rows)} of {count(rows)} "
            "rows); all totals are complete. modtrace report --full keeps every call."
        )
    for title, shown, total in (
        ("modules", len(numbers.modules["calls"]), numbers.module_count),
        ("steps", len(numbers.steps["step"]), numbers.step_count),
    ):
        if shown < total:
            lines.append(f"The table of {title} has {count(shown)} of {count(total)} rows.")
    return lines
