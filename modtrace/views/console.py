"""Texts for a terminal: the entry to the other modules here."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO, TypedDict

import numpy as np

from modtrace.analysis.compilations import compilations
from modtrace.analysis.cut import headline_of, why_nothing
from modtrace.analysis.device_times import launch_timed
from modtrace.analysis.findings import findings
from modtrace.analysis.held import held
from modtrace.analysis.holders import peaks
from modtrace.analysis.kept import most_kept
from modtrace.analysis.kernels import ran
from modtrace.analysis.modules import modules
from modtrace.analysis.operations import operations
from modtrace.analysis.roofline import device_keys, roofline
from modtrace.analysis.statistics import chosen_steps
from modtrace.analysis.steps import steps
from modtrace.analysis.summary import summarise
from modtrace.analysis.syncs import places
from modtrace.analysis.timeline import timeline
from modtrace.analysis.tree import merged
from modtrace.analysis.watching import KERNELS, MEMORY, notes
from modtrace.analysis.work import StepWork
from modtrace.errors import TraceError, UsageError
from modtrace.text import fit, plain
from modtrace.text import width as width_of
from modtrace.trace.reach import Reach, cache_folder, cache_name, cached_of
from modtrace.trace.reader import Stored, open_trace
from modtrace.trace.schema import PHASES
from modtrace.units import bounded, count, duration, size
from modtrace.views.compilations import compilations_lines
from modtrace.views.filtered import filtered_modules, filtered_tree
from modtrace.views.findings import findings_lines
from modtrace.views.kept import held_lines, kept_lines
from modtrace.views.kernels import kernels_lines
from modtrace.views.memory import memory_lines
from modtrace.views.operations import operations_lines
from modtrace.views.roofline import reach_lines, roofline_lines
from modtrace.views.steps import steps_lines
from modtrace.views.summary import summary_lines
from modtrace.views.syncs import syncs_lines
from modtrace.views.tree import tree_lines

SORT_KEYS = ("self", "total", "calls", "flops", "output", "name")


class Style(TypedDict):
    """How a stream wants its text."""

    width: int
    color: bool
    ascii: bool


def style_of(stream: TextIO | None) -> Style:
    """The style for a stream: 80 columns and no color unless it is a terminal. COLUMNS, NO_COLOR, FORCE_COLOR count."""
    terminal = False
    columns = 80
    try:
        terminal = stream is not None and stream.isatty()
        if terminal and stream is not None:
            columns = os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        pass
    asked = os.environ.get("COLUMNS", "")
    if asked.isdigit() and int(asked):
        columns = int(asked)
    color = terminal and os.environ.get("TERM") != "dumb" and os.environ.get("CLICOLOR") != "0"
    if os.environ.get("NO_COLOR"):
        color = False
    elif os.environ.get("FORCE_COLOR"):
        color = True
    encoding = (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "")
    return Style(width=max(columns, 20), color=color, ascii=not encoding.startswith("utf"))


def summary(
    stored: Stored,
    *,
    width: int = 80,
    color: bool = False,
    ascii: bool = False,
    shown_path: str | None = None,
) -> str:
    """The summary of a trace, at most 30 lines."""
    return _finished(summary_lines(stored, width=max(width, 20), shown_path=shown_path), color, ascii)


def tree(
    stored: Stored,
    *,
    depth: int | None = None,
    where: str = "",
    width: int = 80,
    color: bool = False,
    ascii: bool = False,
) -> str:
    """The merged call tree; with `where` what a filter lets through, of the first process, with all above it."""
    found = summarise(stored)
    wall = found.wall_ns if found is not None else 0
    shown = filtered_tree(stored, where) if where else merged(stored)
    lines = tree_lines(shown, width=max(width, 20), wall_ns=wall, depth=depth)
    return _finished(_headed(stored, lines, width), color, ascii)


def steps_table(stored: Stored, *, width: int = 80, ascii: bool = False) -> str:
    """A line a step, for each process."""
    frame = steps(stored)
    lines: list[str] = []
    first = 0
    for number, (found, process) in enumerate(zip(timeline(stored).steps, stored.processes, strict=True)):
        if len(stored.processes) > 1:
            lines.append(f"  rank {process.rank}")
        rows = frame.iloc[first : first + len(found)]  # a restarted rank has several processes
        first += len(found)
        samples, flops, least = (
            rows[name].fillna(-1).to_numpy(int) for name in ("samples", "flops", "flops_at_least")
        )
        work = StepWork(flops, least, rows["counted"].to_numpy(bool), rows["uncounted"].tolist())
        timed = launch_timed(stored) is None
        chosen = chosen_steps(stored, number)
        lines += steps_lines(found, samples, work, chosen, width=max(width, 20), timed=timed)
    return _finished(_headed(stored, [fit(line, max(width, 20)) for line in lines], width), False, ascii)


def findings_text(stored: Stored, *, width: int = 80, color: bool = False, ascii: bool = False) -> str:
    """Everything that is worth a look; nothing at all when there is nothing."""
    lines = findings_lines(findings(stored), width=max(width, 20))
    lines = _headed(stored, [fit(line, max(width, 20)) for line in lines], width)
    return _finished(lines, color, ascii) if lines else ""


def operations_text(stored: Stored, *, width: int = 80, ascii: bool = False) -> str:
    """What each module does: its operations and their FLOPs."""
    lines = operations_lines(operations(stored), width=max(width, 20))
    return _finished(
        _headed(stored, [fit(line.rstrip(), max(width, 20)) for line in lines], width), False, ascii
    )


def roofline_text(stored: Stored, *, width: int = 80, ascii: bool = False) -> str:
    """How fast modules compute, beside what the device of the trace was measured to reach on this machine."""
    reached = cached_of(device_keys(stored))
    found = summarise(stored)
    utilised = None
    if found is not None and len(found.steps):
        frame = steps(stored, reached)
        shares = frame["mfu"].iloc[: len(found.steps)].to_numpy(float, na_value=np.nan)
        known = np.sort(shares[found.chosen.steps])
        known = known[~np.isnan(known)]
        utilised = float(known[len(known) // 2]) if len(known) else None
    lines = roofline_lines(roofline(stored, reached), reached, utilised, width=max(width, 20))
    return _finished(
        _headed(stored, [fit(line.rstrip(), max(width, 20)) for line in lines], width), False, ascii
    )


def reach_text(found: Sequence[Reach], *, width: int = 80, ascii: bool = False) -> str:
    """What devices reach, and where that is kept."""
    lines = [line for one in found for line in reach_lines(one)]
    lines += [
        "  kept in this file until it is measured again:",
        f"  {plain(str(cache_folder() / cache_name()))}",
    ]
    return _finished([fit(line, max(width, 20), keep_end=line is lines[-1]) for line in lines], False, ascii)


def kernels_text(stored: Stored, *, width: int = 80, ascii: bool = False) -> str:
    """Operators and kernels by module, where they were watched."""
    lines = kernels_lines(*ran(stored), width=max(width, 20))
    lines += [f"  {line}" for line in notes(stored, KERNELS)]
    return _finished(
        _headed(stored, [fit(line.rstrip(), max(width, 20)) for line in lines], width), False, ascii
    )


def syncs_text(stored: Stored, *, every: bool = False, width: int = 80, ascii: bool = False) -> str:
    """Where module calls waited for a device; with `every` also where they would have, on the CPU."""
    lines = syncs_lines(places(stored), every=every, width=max(width, 20))
    return _finished(
        _headed(stored, [fit(line.rstrip(), max(width, 20)) for line in lines], width), False, ascii
    )


def compilations_text(stored: Stored, *, width: int = 80, ascii: bool = False) -> str:
    """What torch compiled."""
    lines = compilations_lines(compilations(stored), width=max(width, 20))
    return _finished(_headed(stored, lines, width), False, ascii)


def memory_text(stored: Stored, *, width: int = 80, ascii: bool = False) -> str:
    """The peak of memory and who held it, what was kept for backward, and what shapes tell; how to see the others."""
    room = max(width, 20)
    watched, kept = memory_lines(peaks(stored), width=room), kept_lines(most_kept(stored), width=room)
    watched += [f"  {line}" for line in notes(stored, MEMORY)]
    parts = [part for part in (watched, kept, held_lines(held(stored), width=room)) if part]
    if not watched:
        parts.append(["  memory was not watched: modtrace run --memory 0:3 script.py"])
    if not kept:
        parts.append(["  what is kept for backward was not counted: modtrace run --saved 0:3 script.py"])
    lines = [line for part in parts for line in ("", *part)][1:]
    return _finished(
        _headed(stored, [fit(line.rstrip(), max(width, 20)) for line in lines], width), False, ascii
    )


def modules_table(
    stored: Stored,
    *,
    sort: str = "self",
    top: int | None = None,
    where: str = "",
    width: int = 80,
    ascii: bool = False,
) -> str:
    """A line a module: name, class, calls, self and total time, output."""
    if sort not in SORT_KEYS:
        raise UsageError(f"--sort takes {', '.join(SORT_KEYS)}, not {sort!r}")
    frame = modules(stored)
    backward = frame["backward_flops"].where(frame["backward_total_ns"].notna(), 0)  # none where none ran
    frame["flops"] = frame["forward_flops"] + backward
    least = frame["backward_flops_at_least"].where(frame["backward_total_ns"].notna(), 0)
    frame["flops_at_least"] = frame["forward_flops_at_least"] + least
    if where:
        frame = frame[filtered_modules(frame, where)]
    names = {"self": "self_ns", "total": "total_ns", "output": "output_bytes", "flops": "flops_at_least"}
    key = names.get(sort, sort)
    frame = frame.sort_values(key, ascending=sort == "name", kind="stable", na_position="last")
    if top is not None:
        frame = frame.head(top)
    last = "outputs" if sort == "output" else "FLOPs"
    lines = [f"  {'self':>8} {'total':>8} {'calls':>7} {last:>10}  module"]
    for row in frame.to_dict("records"):
        name = plain(row["name"] or f"({row['type']})")
        times = [duration(_int(row[key])) for key in ("self_ns", "total_ns")]
        output = plain(str(row["outputs"])) if isinstance(row["outputs"], str) else ""
        label = f"{name}  {plain(row['type'])}  {output}".rstrip()
        flops = bounded(_int(row["flops"]), _int(row["flops_at_least"]), "FLOP")
        returned = size(_int(row["output_bytes"]))
        computed = returned if sort == "output" else flops
        lines.append(f"  {times[0]:>8} {times[1]:>8} {count(int(row['calls'])):>7} {computed:>10}  {label}")
    return _finished(_headed(stored, [fit(line, max(width, 20)) for line in lines], width), False, ascii)


def _int(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def info_json(stored: Stored) -> str:
    """The facts of a trace for programs: counts and nanoseconds as integers, unknown as null."""
    found = summarise(stored)
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
                "recorded_until_ns": process.wall_ns,
                "stopped": None if process.stop is None else asdict(process.stop),
            }
            for process in stored.processes
        ],
        "recorded": headline_of(stored) or None,
        "notes": [*stored.table("gaps").column("reason").to_pylist(), *stored.notes],
    }
    if found is not None:
        data |= {
            "steps": len(found.steps),
            "steps_end_by": found.steps.by,
            "flops": int(found.flops.sum()) if len(found.flops) and (found.flops >= 0).all() else None,
            "flops_at_least": int(found.work.least.sum()) if (found.work.least >= 0).all() else None,
            "steps_counted": int(found.counted.sum()),
            "steps_in_statistics": {"count": int(found.chosen.steps.sum()), "which": found.chosen.text},
            "phases_ns": {name: int(found.steps.spent[at].sum()) for at, name in enumerate(PHASES)},
            "findings": [asdict(one) for one in findings(stored)],
            "calls": found.calls,
            "outside_ns": found.outside_ns,
            "tracer_ns": found.tracer_ns,
            "tracing_cost_ns": found.cost_ns,
            "raised_root_calls": found.raised_roots,
            "aborted_calls": found.aborted,
            "unfinished_calls": found.unfinished,
            "modules": [
                {
                    "name": r.name,
                    "type": r.type,
                    "instances": r.instances,
                    "calls": r.calls,
                    "self_ns": r.self_ns,
                }
                for r in found.rows
            ],
        }
    return json.dumps(data, indent=2, ensure_ascii=True, allow_nan=False)


def ls_table(
    paths: Sequence[Path], *, max_memory_bytes: int | None = None, width: int = 80, ascii: bool = False
) -> str:
    """A line a trace: when, script, wall time, steps, calls, exit status, size."""
    lines = [f"  {'when':16}  {'wall':>8} {'steps':>6} {'calls':>8} {'exit':>8} {'size':>9}  trace"]
    for path in paths:
        held = sum(file.lstat().st_size for file in path.rglob("*"))
        try:
            stored = open_trace(path, max_memory_bytes=max_memory_bytes)
            found = summarise(stored)
        except TraceError as error:
            lines.append(f"  {plain(path.name)}: {error}")
            continue
        began = stored.run.started_unix_ns
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(began / 1e9)) if began else "?"
        end = found.process.end if found is not None else None
        alive = found is not None and found.process.is_alive
        status = (
            "runs"
            if alive
            else "no end"
            if end is None
            else "?"
            if end.exit_status is None
            else str(end.exit_status)
        )
        wall, steps, calls = (
            (found.wall_ns, len(found.steps), found.calls) if found is not None else (None, 0, 0)
        )
        lines.append(
            f"  {when:16}  {duration(wall):>8} {count(steps):>6} {count(calls):>8} {status:>8} {size(held):>9}  "
            f"{plain(path.name)}"
        )
        cut = headline_of(stored)
        lines += [f"    {plain(cut)}"] if cut else []
    return _finished([fit(line, max(width, 40)) for line in lines], False, ascii)


def _headed(stored: Stored, lines: Sequence[str], width: int) -> list[str]:
    """Lines of a view, above them that the recording was cut short, where it was."""
    cut = headline_of(stored)
    found = stored.processes
    if not cut and found and not len(stored.table("calls")):
        cut = why_nothing(found[0])
    return [*([fit(f"  ! {plain(cut)}", max(width, 20))] if cut else []), *lines]


def _finished(lines: Sequence[str], color: bool, ascii: bool) -> str:
    if ascii:
        room = max(map(width_of, lines), default=0)
        lines = [fit(line.encode("ascii", "backslashreplace").decode(), room) for line in lines]
    text = "\n".join(lines) + "\n"
    if color:
        marked = [_colored(line) for line in text.splitlines()]
        text = "\n".join(marked) + "\n"
    return text


def _colored(line: str) -> str:
    """Headings bold, warnings yellow. The text itself holds no escapes: it went through `plain`."""
    word = line.strip()
    if word.startswith(("WHERE", "WORTH", "CALL T", "modtrace ")):
        return f"\x1b[1m{line}\x1b[0m"
    return f"\x1b[33m{line}\x1b[0m" if word.startswith(("!", "->")) else line


__all__ = [
    "findings_text",
    "info_json",
    "kernels_text",
    "ls_table",
    "memory_text",
    "modules_table",
    "operations_text",
    "reach_text",
    "roofline_text",
    "steps_table",
    "style_of",
    "summary",
    "syncs_text",
    "tree",
]
