"""Texts for a terminal: the entry to the other modules here."""

from __future__ import annotations

import json
import os
import textwrap
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO, TypedDict

from modtrace.analysis.comparing.comparison import Comparison
from modtrace.analysis.comparing.first_parting import Numerics
from modtrace.analysis.comparing.gate import LimitResult
from modtrace.analysis.compilations import compilations
from modtrace.analysis.device_times import launch_timed
from modtrace.analysis.failure import last_failure
from modtrace.analysis.findings import findings
from modtrace.analysis.flat_profile import flat_profile
from modtrace.analysis.flops import StepWork
from modtrace.analysis.kernels import ran
from modtrace.analysis.memory_from_shapes import sizes_by_shapes
from modtrace.analysis.memory_peaks import peaks
from modtrace.analysis.operations import operations
from modtrace.analysis.outcome import outcome
from modtrace.analysis.phases import Steps
from modtrace.analysis.ranks.rank_report import rank_report, soon_opened
from modtrace.analysis.recording_end import headline_of, why_nothing
from modtrace.analysis.rollup_windows import rollup_facts
from modtrace.analysis.roofline import device_keys, roofline
from modtrace.analysis.saved_totals import most_kept
from modtrace.analysis.statistics import chosen_steps
from modtrace.analysis.step_columns import copies_known
from modtrace.analysis.steps import all_steps, median_mfu
from modtrace.analysis.summary import summarise
from modtrace.analysis.syncs import places
from modtrace.analysis.timeline import timeline
from modtrace.analysis.tree import merged
from modtrace.analysis.watching import KERNELS, MEMORY, notes
from modtrace.device_peaks.cache import DevicePeaks, cache_folder, cache_name, cached_of
from modtrace.errors import TraceError
from modtrace.systems.terminals import shows_colors
from modtrace.text import fit, pad, plain
from modtrace.text import width as width_of
from modtrace.trace.reader import Stored, open_trace
from modtrace.trace.schema import PHASES
from modtrace.units import count, duration, size
from modtrace.views.compilations import compilations_lines
from modtrace.views.difference_text import difference_lines, limit_lines
from modtrace.views.filtered import checked_key, no_hit, tree_and_columns
from modtrace.views.findings import findings_lines
from modtrace.views.kernels import kernels_lines
from modtrace.views.memory import memory_lines
from modtrace.views.module_table import module_table, module_table_lines
from modtrace.views.numerics_text import numerics_lines
from modtrace.views.operations import operations_lines
from modtrace.views.profile import outside_texts, window_text
from modtrace.views.ranks import MANY_RANKS, ranks_lines, ranks_section
from modtrace.views.rollups import rollups_lines
from modtrace.views.roofline import reach_lines, roofline_lines
from modtrace.views.steps import steps_lines
from modtrace.views.styled_lines import Line, plain_lines
from modtrace.views.summary import failure_lines, summary_lines
from modtrace.views.syncs import syncs_lines
from modtrace.views.tensor_memory import held_lines, kept_lines
from modtrace.views.tree import tree_lines


class Style(TypedDict):
    """Width, color and character set of a stream; `cut` where a line that is wider is cut, as on a terminal."""

    width: int
    color: bool
    ascii: bool
    cut: bool


def style_of(stream: TextIO | None) -> Style:
    """The style for a stream: 80 columns, no color and nothing cut unless it is a terminal. COLUMNS, NO_COLOR,
    FORCE_COLOR count.
    """
    terminal = color = False
    columns = 80
    try:
        terminal = stream is not None and stream.isatty()
        if terminal and stream is not None:
            columns = os.get_terminal_size(stream.fileno()).columns or 80
            color = shows_colors(stream) and os.environ.get("CLICOLOR") != "0"
    except (OSError, ValueError):
        pass
    asked = os.environ.get("COLUMNS", "")
    if asked.isdigit() and int(asked):
        columns = int(asked)
    if os.environ.get("NO_COLOR"):
        color = False
    elif os.environ.get("FORCE_COLOR"):
        color = True
    encoding = (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "")
    return Style(width=max(columns, 20), color=color, ascii=not encoding.startswith("utf"), cut=terminal)


def plain_style(stream: TextIO | None) -> Style:
    """ASCII, no color, 80 columns."""
    return Style(width=80, color=False, ascii=True, cut=style_of(stream)["cut"])


def summary(
    stored: Stored,
    *,
    width: int = 80,
    color: bool = False,
    ascii: bool = False,
    cut: bool = True,
    shown_path: str | None = None,
    whole_run: bool = False,
    with_ranks: bool = False,
) -> str:
    """The summary of a trace, at most 30 lines; `cut` to the width, else with the whole of each last column.
    `with_ranks` opens all ranks where that is soon done, and says what is wrong with them.
    """
    room = max(width, 20)
    lines = summary_lines(
        stored,
        width=room,
        shown_path=shown_path,
        whole_run=whole_run,
        cut=cut,
        ranks=_ranks_summary(stored, room) if with_ranks else [],
    )
    return _finished(lines, width, color, ascii, cut)


def tree(
    stored: Stored,
    *,
    depth: int | None = None,
    where: str = "",
    sort: str = "",
    whole_run: bool = False,
    width: int = 80,
    color: bool = False,
    ascii: bool = False,
    cut: bool = True,
) -> str:
    """The merged call tree of the first process, its numbers those of the steps that count or of the whole run; with
    `where` what a filter lets through, with all above it; with `sort` siblings by a number, which has a column then.
    From 80 columns on it has the own times over ranks, where these are soon known.
    """
    profile = flat_profile(stored, whole_run=whole_run) if stored.processes else None
    rows = None if profile is None else profile.window.rows
    if soon_opened(stored.whole()):
        rank_report(stored.whole())  # from here on numbers over ranks are known
    shown, column, over_ranks = tree_and_columns(stored, where=where, sort=sort, rows=rows)
    if where and not len(shown.depth):
        lines = [no_hit(where, len(merged(stored, 0).depth))]
        return _finished(_headed(stored, lines), width, color, ascii, cut)
    base_ns = 0 if profile is None else profile.window.base_ns
    lines = tree_lines(
        shown, width=max(width, 20), base_ns=base_ns, depth=depth, column=column, over_ranks=over_ranks
    )
    if profile is not None:
        lines.insert(0, f"  {window_text(profile)}")
        lines += [] if where else [f"  {text}" for text in outside_texts(profile, 1)]
    return _finished(_headed(stored, [*lines, *_ranks(stored)]), width, color, ascii, cut)


def _ranks_summary(stored: Stored, width: int) -> list[str]:
    """Lines about all ranks of a job, where they are soon opened."""
    job = stored.whole()
    return ranks_section(rank_report(job), width) if soon_opened(job) else []


def _ranks(stored: Stored) -> list[str]:
    """That a table is of the first process alone, where there are others."""
    others = stored.process_count - 1
    rank = stored.processes[0].rank if stored.processes else 0
    return (
        [f"  rank {rank} of {others + 1} is shown: --rank N and modtrace view have the others"]
        if others > 0
        else []
    )


def steps_table(
    stored: Stored, *, width: int = 80, color: bool = False, ascii: bool = False, cut: bool = True
) -> str:
    """A line a step, for each process."""
    frame = all_steps(stored)
    lines: list[str] = []
    first = 0
    for number, (process_steps, process) in enumerate(
        zip(timeline(stored).steps, stored.processes, strict=True)
    ):
        if len(stored.processes) > 1:
            lines.append(f"  rank {process.rank}")
        rows = frame.iloc[first : first + len(process_steps)]  # a restarted rank has several processes
        first += len(process_steps)
        samples, flops, least = (
            rows[name].fillna(-1).to_numpy(int) for name in ("samples", "flops", "flops_at_least")
        )
        work = StepWork(flops, least, rows["counted"].to_numpy(bool), rows["uncounted"].tolist())
        timed = launch_timed(stored) is None
        chosen = chosen_steps(stored, number)
        lines += steps_lines(process_steps, samples, work, chosen, width=max(width, 20), timed=timed)
    return _finished(_headed(stored, lines), width, color, ascii, cut)


def findings_text(
    stored: Stored, *, width: int = 80, color: bool = False, ascii: bool = False, cut: bool = True
) -> str:
    """Everything that is worth a look, or that nothing is."""
    lines = findings_lines(findings(stored), width=max(width, 20)) or ["  nothing stands out"]
    return _finished(_headed(stored, lines), width, color, ascii, cut)


def operations_text(
    stored: Stored, *, width: int = 80, color: bool = False, ascii: bool = False, cut: bool = True
) -> str:
    """A line a group of modules: its operations and their FLOPs."""
    lines = operations_lines(operations(stored), width=max(width, 20))
    return _finished(_headed(stored, lines), width, color, ascii, cut)


def roofline_text(
    stored: Stored, *, width: int = 80, color: bool = False, ascii: bool = False, cut: bool = True
) -> str:
    """FLOP/s of modules beside the peaks that the device of the trace was measured to reach on this machine."""
    reached = cached_of(device_keys(stored))
    lines = roofline_lines(
        roofline(stored, reached), reached, median_mfu(stored, reached), width=max(width, 20)
    )
    return _finished(_headed(stored, lines), width, color, ascii, cut)


def reach_text(
    reaches: Sequence[DevicePeaks],
    *,
    width: int = 80,
    color: bool = False,
    ascii: bool = False,
    cut: bool = True,
) -> str:
    """Measured peaks of devices, and the file that keeps them."""
    lines = [line for reach in reaches for line in reach_lines(reach)]
    lines += [
        "  kept in this file until it is measured again:",
        f"  {plain(str(cache_folder() / cache_name()))}",
    ]
    return _finished(lines, width, color, ascii, cut)


def kernels_text(
    stored: Stored, *, width: int = 80, color: bool = False, ascii: bool = False, cut: bool = True
) -> str:
    """Operators and kernels by module, where they were watched."""
    lines = kernels_lines(*ran(stored), width=max(width, 20))
    lines += [f"  {line}" for line in notes(stored, KERNELS)]
    return _finished(_headed(stored, lines), width, color, ascii, cut)


def syncs_text(
    stored: Stored,
    *,
    every: bool = False,
    width: int = 80,
    color: bool = False,
    ascii: bool = False,
    cut: bool = True,
) -> str:
    """Where module calls waited for a device; with `every` also where they would have, on the CPU."""
    lines = syncs_lines(places(stored), every=every, width=max(width, 20))
    return _finished(_headed(stored, lines), width, color, ascii, cut)


def rollups_text(
    stored: Stored, *, width: int = 80, color: bool = False, ascii: bool = False, cut: bool = True
) -> str:
    """Modules over all steps of the first process, where sums over windows of steps were kept."""
    single = None
    if stored.processes and stored.processes[0].stop is not None and not len(stored.table("thinned")):
        single = len(timeline(stored).steps[0])
    facts = rollup_facts(stored)
    lines = rollups_lines(facts, width=max(width, 20), single_steps=single)
    return _finished(_headed(stored, [*lines, *_ranks(stored)]), width, color, ascii, cut)


def compilations_text(
    stored: Stored, *, width: int = 80, color: bool = False, ascii: bool = False, cut: bool = True
) -> str:
    """A line a compilation of torch."""
    lines = compilations_lines(compilations(stored))
    return _finished(_headed(stored, lines), width, color, ascii, cut)


def memory_text(
    stored: Stored, *, width: int = 80, color: bool = False, ascii: bool = False, cut: bool = True
) -> str:
    """The peak of memory and who held it, what was kept for backward, and what shapes tell; how to see the others."""
    room = max(width, 20)
    watched, saved = memory_lines(peaks(stored), width=room), kept_lines(most_kept(stored), width=room)
    watched += [f"  {line}" for line in notes(stored, MEMORY)]
    parts = [part for part in (watched, saved, held_lines(sizes_by_shapes(stored), width=room)) if part]
    if not watched:
        parts.append(["  memory was not watched: modtrace run --memory 0:3 script.py"])
    if not saved:
        parts.append(["  what is kept for backward was not counted: modtrace run --saved 0:3 script.py"])
    lines = [line for part in parts for line in ("", *part)][1:]
    return _finished(_headed(stored, lines), width, color, ascii, cut)


def modules_table(  # noqa: PLR0913 - an argument an option of `modtrace info`
    stored: Stored,
    *,
    sort: str = "self",
    top: int | None = None,
    where: str = "",
    instances: bool = False,
    whole_run: bool = False,
    width: int = 80,
    color: bool = False,
    ascii: bool = False,
    cut: bool = True,
) -> str:
    """A line a row of the flat profile of the first process, repeated modules in one row unless `instances`."""
    checked_key(sort, "modules")
    lines: list[str] = []
    if stored.processes:
        table = module_table(stored, instances=instances, whole_run=whole_run)
        lines = module_table_lines(table, sort=sort, top=top, where=where, width=max(width, 20))
    return _finished(_headed(stored, [*lines, *_ranks(stored)]), width, color, ascii, cut)


def ranks_text(
    stored: Stored,
    *,
    every: bool = False,
    width: int = 80,
    color: bool = False,
    ascii: bool = False,
    cut: bool = True,
) -> str:
    """The ranks of a job beside each other; with `every` each has a line."""
    report = rank_report(stored)
    lines = ranks_lines(report, max(width, 20), len(report.ranks) if every else MANY_RANKS)
    return _finished(lines, width, color, ascii, cut)


def _step_counts(steps: Steps) -> dict[str, int]:
    """The number of steps, and where some were left out that of those that are recorded."""
    recorded = int(steps.recorded.sum())
    return {"steps": len(steps)} | ({"steps_recorded": recorded} if recorded < len(steps) else {})


def _phases_ns(stored: Stored, of: Steps) -> dict[str, int | None]:
    """Phase -> nanoseconds in all steps; None for copies that were not recorded."""
    spent: dict[str, int | None] = {name: int(of.spent[code].sum()) for code, name in enumerate(PHASES)}
    if not copies_known(stored, of.spent[PHASES.index("h2d")]):
        spent["h2d"] = None
    return spent


def info_json(stored: Stored) -> str:
    """The facts of a trace for programs: counts and nanoseconds as integers, unknown as null."""
    totals = summarise(stored)
    run = stored.run
    data: dict[str, Any] = {
        "path": str(stored.path),
        "script": run.script,
        "argv": list(run.argv),
        "started_unix_ns": run.started_unix_ns,
        "python": run.python,
        "processes": [
            {
                "rank": process.rank,
                "wall_ns": process.wall_ns,
                "ended": process.end is not None,
                "exit_status": process.end.exit_status if process.end is not None else None,
                "torch": process.torch,
                "tracing_cost_ns": dict(process.end.cost_ns) if process.end is not None else None,
                "recorded_until_ns": process.wall_ns,
                "stopped": None if process.stop is None else asdict(process.stop),
            }
            for process in stored.processes
        ],
        "recorded": headline_of(stored) or None,
        "notes": [*stored.table("gaps").column("reason").to_pylist(), *stored.notes],
    }
    if totals is not None:
        profile = flat_profile(stored, whole_run=True)
        data |= {
            **_step_counts(totals.steps),
            "steps_end_by": totals.steps.by,
            "flops": int(totals.flops.sum()) if len(totals.flops) and (totals.flops >= 0).all() else None,
            "flops_at_least": int(totals.work.least.sum()) if (totals.work.least >= 0).all() else None,
            "steps_counted": int(totals.counted.sum()),
            "steps_in_statistics": {
                "count": int(totals.chosen.steps.sum()),
                "which": totals.chosen.text,
            },
            "phases_ns": _phases_ns(stored, totals.steps),
            "findings": [asdict(finding) for finding in findings(stored)],
            "calls": totals.calls,
            "outside_ns": totals.outside_ns,
            "tracer_ns": profile.tracer_ns,
            "tracing_cost_ns": totals.cost_ns,
            "raised_root_calls": totals.raised_roots,
            "aborted_calls": totals.aborted,
            "unfinished_calls": totals.unfinished,
            "modules": [
                {
                    "name": r.name,
                    "type": r.type,
                    "instances": r.instances,
                    "calls": r.calls,
                    "self_ns": r.self_ns,
                }
                for r in profile.rows
            ],
        }
    return json.dumps(data, indent=2, ensure_ascii=True, allow_nan=False)


def ls_table(
    paths: Sequence[Path],
    unreadable: Sequence[Path] = (),
    *,
    max_memory_bytes: int | None = None,
    color: bool = False,
    ascii: bool = False,
) -> str:
    """A line a trace: when, wall time, steps, calls, size, how it ended, and its name, which is never cut.

    Args:
        paths: traces.
        unreadable: those that this user may not read.
        max_memory_bytes: what the tables of one may take in memory.
        color, ascii: as in a Style.
    """
    listed = [_listed(path, max_memory_bytes) for path in paths]
    wide = max([len("end"), *(width_of(trace.end) for trace in listed)])
    lines = [f"  {'when':16}  {'wall':>8} {'steps':>6} {'calls':>8} {'size':>9}  {pad('end', wide)}  trace"]
    for trace in listed:
        if trace.fault:
            lines.append(f"  {trace.name}: {trace.fault}")
            continue
        lines.append(f"  {trace.figures}  {pad(trace.end, wide)}  {trace.name}")
        lines += [f"    {trace.cut}"] if trace.cut else []
    lines += [f"  {plain(path.name)}: permission denied" for path in unreadable]
    return _finished(lines, 0, color, ascii, cut=False)


@dataclass(frozen=True)
class _ListedTrace:
    """One trace of a list, as texts.

    figures: when, wall time, steps, calls, size.
    end: how it ended.
    cut: that its recording was cut short; "" for not.
    fault: why it cannot be read; "" for no fault.
    """

    name: str
    figures: str = ""
    end: str = ""
    cut: str = ""
    fault: str = ""


def _listed(path: Path, max_memory_bytes: int | None) -> _ListedTrace:
    name, size_bytes = plain(path.name), sum(file.lstat().st_size for file in path.rglob("*"))
    try:
        stored = open_trace(path, max_memory_bytes=max_memory_bytes)
        totals = summarise(stored)
    except TraceError as error:
        return _ListedTrace(name, fault=str(error))
    began = stored.run.started_unix_ns
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(began / 1e9)) if began else "?"
    wall, steps, calls = (
        (totals.wall_ns, len(totals.steps), totals.calls) if totals is not None else (None, 0, 0)
    )
    figures = f"{when:16}  {duration(wall):>8} {count(steps):>6} {count(calls):>8} {size(size_bytes):>9}"
    return _ListedTrace(name, figures, _end_text(stored), plain(headline_of(stored)))


def _end_text(stored: Stored) -> str:
    """The end of the first process that failed, with its rank; where none did that of the first."""
    ends = [outcome(stored, number) for number in range(len(stored.processes))]
    if not ends:
        return "?"
    number = next((place for place, end in enumerate(ends) if end.failed), 0)
    rank = f" (rank {stored.processes[number].rank})" if number else ""
    return f"{plain(ends[number].state, 40) or 'ended'}{rank}"


def _headed(stored: Stored, lines: Sequence[str]) -> list[str]:
    """Lines of a view, above them that the recording was cut short, where it was."""
    cut = headline_of(stored)
    processes = stored.processes
    if not cut and processes and not stored.call_count:
        cut = why_nothing(processes[0])
    return [*([f"  ! {plain(cut)}"] if cut else []), *lines]


def _fitted(line: Line, room: int) -> list[Line]:
    """A line cut to a width; a warning is broken between words instead."""
    if not line.text.startswith("  ! ") or width_of(line.text) <= room:
        return [replace(line, text=fit(line.text, room))]
    words = textwrap.wrap(line.text.strip(), room - 2, initial_indent="  ", subsequent_indent="    ")
    return [replace(line, text=fit(text, room)) for text in words]


def _finished(lines: Sequence[str | Line], width: int, color: bool, ascii: bool, cut: bool) -> str:
    """The lines as one text, `cut` to a width. They hold no escapes themselves: they went through `plain`."""
    marked = [line if isinstance(line, Line) else plain_lines([line])[0] for line in lines]
    if ascii:
        marked = [
            replace(line, text=line.text.encode("ascii", "backslashreplace").decode()) for line in marked
        ]
    marked = [replace(line, text=line.text.rstrip()) for line in marked]
    if cut:
        marked = [fitted for line in marked for fitted in _fitted(line, max(width, 20))]
    return "".join(f"{line.colored() if color else line.text}\n" for line in marked)


def failure_text(stored: Stored, *, width: int = 80) -> str:
    """WHERE IT FAILED, as the summary has it; "" where nothing failed."""
    failure = last_failure(stored)
    return "" if failure is None else "\n".join(failure_lines(failure, width))


def difference_text(
    comparison: Comparison,
    names: tuple[str, str],
    *,
    limits: Sequence[LimitResult] = (),
    every: bool = False,
    width: int = 80,
    color: bool = False,
    ascii: bool = False,
    cut: bool = True,
) -> str:
    """A comparison of two sides, with the limits that were held against it; with `every` all rows."""
    lines = difference_lines(comparison, names, width=max(width, 60), limits=limits, every=every)
    return _finished(lines, width, color, ascii, cut)


def limits_text(
    limits: Sequence[LimitResult],
    *,
    width: int = 80,
    color: bool = False,
    ascii: bool = False,
    cut: bool = True,
) -> str:
    """Limits that were held against one run, a line each."""
    return _finished(limit_lines(limits), width, color, ascii, cut)


def numerics_text(
    found: Numerics,
    names: tuple[str, str],
    *,
    width: int = 80,
    color: bool = False,
    ascii: bool = False,
    cut: bool = True,
) -> str:
    """The first call whose values part."""
    return _finished(numerics_lines(found, names), width, color, ascii, cut)


__all__ = [
    "difference_text",
    "failure_text",
    "findings_text",
    "info_json",
    "kernels_text",
    "limits_text",
    "ls_table",
    "memory_text",
    "modules_table",
    "numerics_text",
    "operations_text",
    "ranks_text",
    "reach_text",
    "rollups_text",
    "roofline_text",
    "steps_table",
    "style_of",
    "summary",
    "syncs_text",
    "tree",
]
