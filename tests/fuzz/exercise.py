# ruff: noqa: E501
"""Everything that can be asked of a trace, asked; and what must be true of every answer."""

from __future__ import annotations

import functools
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import modtrace
import modtrace.views.html.facts
import modtrace.views.summary
from modtrace.analysis.comparing.baseline_file import baseline_text, read_baseline
from modtrace.analysis.comparing.comparison import Comparison
from modtrace.analysis.comparing.run_extraction import run_numbers
from modtrace.analysis.comparing.run_numbers import RunNumbers
from modtrace.analysis.findings import findings
from modtrace.analysis.flat_profile import flat_profile
from modtrace.analysis.metrics import comparable
from modtrace.analysis.summary import summarise
from modtrace.analysis.timeline import timeline
from modtrace.errors import ModtraceError
from modtrace.export.difference_json import difference_json
from modtrace.export.methods import TYPES
from modtrace.export.target import silent
from modtrace.trace.dataframes import EXPORTED
from modtrace.trace.reader import Stored, open_trace
from modtrace.views import console
from modtrace.views.difference_markdown import difference_markdown
from modtrace.views.html.inline import table
from modtrace.views.html.report import report
from modtrace.views.live.plain_text import status_text
from modtrace.views.models.hot_rows import PARALLEL
from modtrace.views.models.op_rows import ops_of
from modtrace.views.models.tree_model import TreeModel
from modtrace.views.models.trees import MODES
from modtrace.views.models.viewer_model import Rank, ViewerModel
from modtrace.views.tui.detail import Detail
from modtrace.views.tui.op_lines import OpLines
from modtrace.views.tui.step_lines import StepLines
from modtrace.views.tui.tree_lines import TreeLines, sort_keys

UNSAFE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069]")
SECTIONS = (
    console.summary, console.tree, console.steps_table, console.findings_text, console.memory_text, console.kernels_text,
    console.syncs_text, console.ranks_text, console.operations_text, console.roofline_text,
    console.rollups_text,
)  # fmt: skip


KEYS = ("output", "name", *(metric.key for metric in comparable()))


class Wrong(AssertionError):
    """An answer that cannot be true."""


def demand(true: object, what: str) -> None:
    if not true:
        raise Wrong(what)


def exercise(path: Path) -> Stored | None:
    """Ask everything; the trace, or None where it was refused.

    Raises:
        Wrong: an answer cannot be true, or a refusal is not one clear line.
    """
    stored: Stored | None = None
    try:
        stored = open_trace(path)
        stored.table("calls")
    except ModtraceError as error:
        stored = None
        _clear(error)
    if stored is not None:
        with pytest.MonkeyPatch.context() as patch:
            once = functools.cache(lambda _: findings(stored))  # four views ask for them
            for module in (console, modtrace.views.summary, modtrace.views.html.facts):
                patch.setattr(module, "findings", once)
            for part in (_frames, _texts, _exports, _page, _compared):
                part(stored)
    for part in (_viewer, _live):
        try:
            part(path)
        except ModtraceError as error:
            _clear(error)
            demand(stored is None or part is _live, f"{part.__name__} refuses what was opened: {error}")
    return stored


def _clear(error: ModtraceError) -> None:
    text = str(error)
    demand("\n" not in text and 10 < len(text) < 2000, f"a refusal of many lines: {text!r}")
    demand(not UNSAFE.search(text), f"a refusal with control characters: {text!r}")


def _frames(stored: Stored) -> None:
    trace = modtrace.api.Trace(stored)
    for index in range(len(stored.processes)):
        _summary(stored, index)
    calls = trace.calls
    _never_below(
        calls,
        ("duration_ns", "self_ns", "tracer_ns", "hooks_ns", "device_ns", "flops", "depth", "saved_bytes"),
    )
    rows = np.arange(len(calls))
    demand(list(calls.index) == rows.tolist(), "calls are numbered 0, 1, 2, ...")
    demand(
        ((calls["parent"] < rows) & (calls["last_call"] >= rows)).all(),
        "parents come before, last calls after",
    )
    timed = calls[calls["duration_ns"].notna() & calls["self_ns"].notna()]
    demand(
        (timed["self_ns"].astype(float) <= timed["duration_ns"].astype(float)).all(),
        "self time within the duration",
    )
    modules = trace.modules
    _never_below(
        modules,
        [name for name in modules.columns if name.endswith(("_ns", "_bytes", "_count", "calls", "flops"))],
    )
    counted = calls[calls["kind"] == "module"]["module_id"].value_counts().sum()
    demand(
        modules["calls"].sum() + modules["recompute_calls"].sum() <= counted,
        "no more calls of modules than there are",
    )
    steps = trace.steps
    names = [
        name
        for name in steps.columns
        if name.endswith(("_ns", "_bytes")) and name not in ("start_ns", "other_ns")
    ]
    _never_below(steps, [*names, "calls", "samples", "tokens", "flops"])
    demand(trace.run.wall_ns >= 0, "wall_ns is below zero")
    repr(trace.failure)
    profile = trace.profile(whole_run=True)
    profile = profile[profile["name"] != PARALLEL]  # it is taken off
    for frame in (trace.findings, trace.operations, trace.holders, trace.gaps, profile):
        _never_below(
            frame, ["won_ns", "flops", "share", "calls", "lost_calls"] if "name" in frame else ["won_ns"]
        )
    for frame in (trace.kernels, trace.syncs, trace.ranks, trace.collectives, trace.rollups, trace.series()):
        _never_below(frame, [name for name in frame.columns if name.endswith(("_bytes", "count", "self_ns"))])
    for name in list(dict.fromkeys([*modules["name"].dropna(), *modules["type"].dropna()]))[:4]:
        try:
            trace.series(name)
        except modtrace.UsageError:
            pass
    repr(trace)


def _never_below(frame: pd.DataFrame, names: object) -> None:
    for name in names:
        if name in frame and len(frame) and pd.api.types.is_numeric_dtype(frame[name]):
            demand((frame[name].dropna() >= 0).all(), f"{name} is below zero")


def _summary(stored: Stored, index: int) -> None:
    for whole_run in (False, True):
        profile = flat_profile(stored, index, whole_run=whole_run)
        sides = [
            *(profile.tracer_ns, profile.unknown_ns),
            *(profile.before_ns, profile.left_out_ns, profile.outside_ns),
        ]
        numbers = [
            *sides,
            profile.parallel_ns,
            profile.window.base_ns,
            *(row.self_ns for row in profile.rows if row.self_ns is not None),
        ]
        demand(min(numbers) >= 0, f"times of the flat profile below zero: {numbers}")
        parts = sum(row.spent_ns for row in profile.rows) + sum(sides) - profile.parallel_ns
        demand(parts == profile.window.base_ns, "the flat profile adds up to its window")
    demand(summarise(stored, index).outside_ns >= 0, "time outside of calls is below zero")


def _without_ranges(text: str) -> str:
    """A text without ranges of values: `[-inf, 4]`, and the largest ones step by step. Those may be infinite."""
    return re.sub(r"\[\S+, \S+\]|step by step, largest: .*", "", text)


def _texts(stored: Stored) -> None:
    for section in SECTIONS:
        text = section(stored, width=80)
        demand(not UNSAFE.search(text), f"{section.__name__}: control characters")
        demand(not re.search(r"\bnan\b|\binf\b", _without_ranges(text)), f"{section.__name__}: {text[:2000]}")
        demand(
            not re.search(r" -\d[\d.]* (ns|us|ms|s|B|KiB|MiB|GiB|FLOP)", _without_parallel(text)),
            f"{section.__name__}: {text[:2000]}",
        )
    console.modules_table(stored, sort=KEYS[len(str(stored.notes)) % len(KEYS)], where="self>1us")
    console.tree(stored, where="Linear", depth=2, sort="p95")
    json.loads(console.info_json(stored), parse_constant=_refuse)
    console.ls_table([stored.path])


def _without_parallel(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if "in parallel, counted twice" not in line)


def _refuse(constant: str) -> None:
    raise Wrong(f"{constant} in JSON")


def _exports(stored: Stored) -> None:
    rows = len(timeline(stored).calls)
    for name, kind in TYPES.items():
        data = b"".join(kind.chunks(stored, silent))
        if name in ("chrome", "speedscope", "json"):
            parsed = json.loads(data, parse_constant=_refuse)
            if name == "json":
                demand(len(parsed["tables"]["calls"]["data"]) == rows, "a row a call in JSON")
        elif name == "parquet":
            demand(pq.read_table(io.BytesIO(data)).num_rows == rows, "a row a call in Parquet")
        elif name == "csv":
            for table in set(EXPORTED) - {"calls"}:
                b"".join(kind.chunks(stored, silent, table=table))
            demand(len(pd.read_csv(io.BytesIO(data))) == rows, "a row a call in CSV")
        else:
            for line in data.decode().splitlines():
                demand(re.search(r" \d+$", line), f"collapsed: {line!r}")


def _page(stored: Stored) -> None:
    for text in (report(stored, full=True).html, table(stored)):
        demand("\x1b" not in text and "\u202e" not in text, "control characters in the page")
        demand("<script>alert" not in text, "markup of a name in the page")


def _compared(stored: Stored) -> None:
    run = run_numbers(stored)
    (again,) = read_again(run)
    found = Comparison([run], [again])
    for text in (
        console.difference_text(found, ("a", "b"), every=True),
        difference_markdown(found, ("a", "b")),
        difference_json(found),
    ):
        demand(not UNSAFE.search(text), "control characters in a comparison")
    change = found.step_change
    if change is not None:
        parts = sum(line.change_ns for line in change.lines) + change.unmatched_ns + change.other_ns
        demand(parts == change.change_ns, "lines add up to the change of the step")
    demand(not found.structure, f"a run differs from itself: {found.structure[:3]}")
    demand(not found.numbers, f"a run differs from itself: {found.numbers[:3]}")


def read_again(run: RunNumbers) -> list[RunNumbers]:
    """The run out of a baseline file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "base.json"
        path.write_text(baseline_text([run]))
        return read_baseline(path)


def _viewer(path: Path) -> None:
    opened = ViewerModel(path)
    for process in range(min(opened.processes, 3)):
        rank = opened.rank(process)
        demand(not UNSAFE.search(opened.title(process)), "control characters in the title")
        list(_of_rank(rank))


def _of_rank(rank: Rank) -> Iterator[object]:
    for mode in MODES:
        placed = rank.tree(mode)
        model = TreeModel(placed.nodes)
        lines = TreeLines(model, placed.base_ns, 120, timed=mode == "calls")
        for key in sort_keys():
            model.sort(key)
            lines.head(120)
            yield [lines.line(row, 120) for row in range(min(len(lines), 40))]
        for node in range(min(len(placed.nodes), 6)):
            detail = Detail(rank, placed, node)
            yield detail.brief(80), detail.lines(60, full=True), detail.title, detail.place
    steps = StepLines(rank)
    for key in steps.keys:
        steps.sort(key, descending=True)
    yield steps.head(120), [steps.line(row, 120) for row in range(min(len(steps), 20))]
    ops = OpLines(ops_of(rank))
    yield [ops.line(row, 100) for row in range(min(len(ops), 60))]
    for icicle in (rank.icicle(), rank.icicle(inverted=True)):
        boxes = icicle.boxes
        for level in range(min(boxes.levels, 20)):
            yield boxes.cells(level, 0.0, float(boxes.end.max()), 80)
    for step in range(min(len(rank.steps), 10)):
        rows = rank.timeline_of(step)
        yield [
            rows.boxes.cells(level, rows.start_ns, rows.end_ns, 80)
            for level in range(min(rows.boxes.levels, 20))
        ]
    yield rank.peak_bytes


def _live(path: Path) -> None:
    text = status_text(path)
    demand(not UNSAFE.search(text), "control characters in the live view")
    demand(not re.search(r" -\d[\d.]* (ns|us|ms|s)\b", text), text)
