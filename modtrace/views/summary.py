"""The summary: what `modtrace run` prints at the end."""

from __future__ import annotations

import textwrap

from modtrace.analysis.compilations import compiled
from modtrace.analysis.cut import headline_of, when_it_ended, why_nothing
from modtrace.analysis.device_memory import wholes
from modtrace.analysis.device_times import launch_timed
from modtrace.analysis.failure import Failure, last_failure
from modtrace.analysis.findings import findings
from modtrace.analysis.holders import peaks
from modtrace.analysis.kept import most_kept
from modtrace.analysis.out_of_memory import autopsy
from modtrace.analysis.summary import Row, Summary, summarise
from modtrace.analysis.training_findings import unrecorded_children
from modtrace.analysis.tree import merged, without_functions
from modtrace.analysis.watching import KERNELS, MEMORY, notes
from modtrace.text import fit, pad, plain
from modtrace.text import width as width_of
from modtrace.trace.reader import Stored
from modtrace.units import count, duration, percent, plural
from modtrace.views.compilations import compilations_summary
from modtrace.views.cost import cost_text
from modtrace.views.device import device_summary
from modtrace.views.findings import findings_lines
from modtrace.views.kept import kept_summary
from modtrace.views.memory import device_memory_summary, memory_summary
from modtrace.views.out_of_memory import autopsy_lines
from modtrace.views.steps import steps_summary
from modtrace.views.tree import says_something, tree_lines

MAX_LINES = 30
_SAME = 8


def summary_lines(stored: Stored, *, width: int, shown_path: str | None) -> list[str]:
    """The lines of a summary; `width` columns at most."""
    found = summarise(stored)
    if found is None:
        return [
            _title(stored, None, width),
            "  nothing was recorded: the trace holds no process",
            *_notes(stored),
        ]
    head = [_title(stored, found, width)]
    cut = headline_of(stored)
    if cut:
        head.append(f"  ! {plain(cut)}")
    if not found.calls:
        head += _nothing(stored, found, width)
        return [fit(line, width) for line in [*head, *_notes(stored), *_tail(shown_path)]]
    head += _facts(found)
    head += device_summary(found.chosen.steps, found.device_busy_ns, found.device_idle_ns)
    launches = launch_timed(stored)
    head += steps_summary(found.steps, found.work, found.chosen, width, timed=launches is None)
    if launches is not None:
        head.append(f"  ! {launches}")
    head += compilations_summary(compiled(stored), width)
    head += device_memory_summary(wholes(stored))
    head += memory_summary(peaks(stored)) + kept_summary(most_kept(stored))
    head += [f"  {line}" for line in notes(stored, MEMORY, KERNELS)]
    failure = last_failure(stored)
    failed = failure is not None and _matters(found, failure)
    caught = _caught(found, failure) if failure is not None and not failed else []
    told = [*caught, *_warnings(found), *_notes(stored)]
    worth = [] if failed else _worth(stored, width)
    tail = _tail(shown_path)
    room = MAX_LINES - len(head) - len(told) - len(worth) - len(tail) - 2
    middle: list[str] = []
    if failed and failure is not None:
        found_dead = autopsy(stored, failure)
        told_of = [] if found_dead is None else autopsy_lines(found_dead, width=width)
        middle = ["", *_failure(failure, width), *told_of][: max(room - 4 if told_of else room - 6, 3)]
    else:
        nodes, limit = without_functions(merged(stored, 0)), min(14, max(room - 9, 3))
        if says_something(nodes, limit):
            middle = ["", *tree_lines(nodes, width=width, wall_ns=found.wall_ns, limit=limit)]
    heading = "WHERE THE TIME WENT" if launches is None else "LAUNCH TIMES"
    table = _table(found, width, max(room - len(middle) - 4, 2), heading)
    lines = [*head, *middle, "", *table, *worth, *([""] if told else []), *told, *tail]
    return [fit(line.rstrip(), width) for line in lines]


def _nothing(stored: Stored, found: Summary, width: int) -> list[str]:
    """Why no call was recorded, children that did the work, and what failed all the same."""
    unseen = unrecorded_children(stored)
    why = why_nothing(found.process) if unseen is None else "no module was called in this process"
    children = findings_lines([unseen], width=width) if unseen is not None else []
    failure = last_failure(stored)
    return [
        f"  {plain(why)}",
        *children,
        *(["", *_failure(failure, width), ""] if failure is not None else []),
    ]


def _worth(stored: Stored, width: int) -> list[str]:
    """WORTH A LOOK: the three findings that matter most, or nothing."""
    lines = findings_lines(findings(stored), width=width, limit=3)
    return ["", "  WORTH A LOOK", *lines] if lines else []


def _title(stored: Stored, found: Summary | None, width: int) -> str:
    run = stored.run
    words = " ".join(plain(word) for word in (run.script or "trace", *run.argv))
    end = found.process.end if found is not None else None
    if found is None:
        right = ""
    elif end is None:
        state = "still running" if found.process.is_alive else "did not end"
        right = f"{duration(found.wall_ns)}   {state}"
    else:
        status = "" if end.exit_status is None else f"   exit {end.exit_status}"
        right = f"{duration(end.ended_ns)}{status}"
    left = fit(f"modtrace  {words}", max(width - len(right) - 2, 8))
    return pad(left, max(width - len(right) - 1, len(left))) + " " + right if right else left


def _facts(found: Summary) -> list[str]:
    model, parameters = found.models[0]
    more = f" (+{len(found.models) - 1} more)" if len(found.models) > 1 else ""
    facts = [
        f"{plain(model)} {count(parameters)} params{more}",
        plural(len(found.steps), "step"),
        plural(found.calls, "call"),
        "fwd+bwd" if found.backwards else "fwd",
        ",".join(plain(device, 40) for device in found.devices[:3]),
    ]
    busy = found.wall_ns - found.outside_ns
    what = "modules ran" if found.steps.by == "root" else "recorded"
    return [
        "  " + "   ".join(fact for fact in facts if fact),
        f"  {what} {percent(busy, found.wall_ns)}% of the time, tracing cost {cost_text([found.step_cost])}",
    ]


def _table(found: Summary, width: int, limit: int, heading: str) -> list[str]:
    """Where the time went: groups of modules by self time, and all the rest, so that the column adds up."""
    wide = width >= 80
    wall = found.wall_ns
    name_width = max(30 + (width - 80) // 2 if wide else min(30, width - 27), 8)
    lines = [_cells(heading, "", "self", "%", "calls", "per call", "output", name_width, width)]
    rows = [row for row in found.rows if row.self_ns > 0]
    for row in rows[:limit]:
        each = duration(row.self_ns // row.calls) if row.calls else ""
        cells = (
            _folded(row),
            row.type,
            duration(row.self_ns),
            percent(row.self_ns, wall),
            count(row.calls),
            each,
        )
        lines.append(_cells(*cells, plain(row.output), name_width, width))
    left = sum(row.self_ns for row in rows[limit:])
    rest = [(f"{len(rows) - limit} more", left)] if len(rows) > limit else []
    unknown = found.aborted + found.unfinished
    outside = "outside modules" + (" or interrupted" if unknown else "")
    rest += [("modtrace itself", found.tracer_ns), ("around interrupted calls", found.interrupted_ns)]
    rest += [(outside, found.outside_ns), ("in parallel, counted twice", -found.parallel_ns)]
    for text, ns in rest:
        if ns or text == outside:
            share = percent(ns, wall) if ns >= 0 else f"-{percent(-ns, wall)}"
            lines.append(_cells(text, "", duration(ns), share, "", "", "", name_width, width))
    return lines


_LABELS = {"step": "between phases", "backward": "backward outside modules", "loss": "loss outside modules"}
"""What is left of these when what was recorded in them is taken out."""


def _folded(row: Row) -> str:
    name = plain(row.name) if row.of_module else _LABELS.get(row.name, plain(row.name))
    return f"{name} x{row.instances}" if row.instances > 1 else name


def _cells(
    name: str,
    kind: str,
    own: str,
    share: str,
    calls: str,
    each: str,
    output: str,
    name_width: int,
    width: int,
) -> str:
    left = _label(name, "" if kind == name else plain(kind), name_width)
    line = f"  {pad(left, name_width)} {own:>8} {share:>5}"
    if width >= 60:
        line += f" {calls:>7}"
    if width >= 80:
        line += f" {each:>8}  {output}"
    return line


def _label(name: str, kind: str, columns: int) -> str:
    """Name and class. Names of one model begin alike, so a long one keeps its end, and the class has what is left;
    headings and other words of ours have no class and keep their beginning.
    """
    if not kind:
        return fit(name, columns)
    name = fit(name, columns, keep_end=True)
    left = columns - width_of(name) - 2
    return f"{name}  {fit(kind, left)}" if kind and left >= 5 else name


def _matters(found: Summary, failure: Failure) -> bool:
    """Whether the failure is what the run ended with, rather than one that the program dealt with."""
    end = found.process.end
    last = len(found.steps) - 1
    return (
        failure.step is None
        or failure.step >= last
        or (end is not None and bool(end.exit_status or end.exception))
    )


def _caught(found: Summary, failure: Failure) -> list[str]:
    what = f"a {failure.phase}" if failure.phase else plural(found.raised_roots, "root call")
    return [f"  {what} raised and went on, last {plain(failure.error)}"]


def _failure(failure: Failure, width: int) -> list[str]:
    step = "" if failure.step is None else f"step {failure.step}   "
    phase = f"{failure.phase}   " if failure.phase else "outside modules   " if failure.outside else ""
    lines = [f"  WHERE IT FAILED   {step}{phase}{plain(failure.error, 300)}"]
    if failure.called is not None:
        function, given = failure.called
        lines.append(f"    {plain(function)} got {plain(given)}")
    verb = "returned" if failure.phase else "got"
    column = max(min(width // 2, 40), 12)
    path = failure.path
    shown = path if len(path) <= _SAME else [*path[:3], None, *path[-4:]]
    for depth, place in enumerate(shown):
        if place is None:
            lines.append(f"    ... {len(path) - 7} more modules")
            continue
        name = plain(place.name) if depth else ""
        label = f"{name} {plain(place.type)}".strip()
        lines.append(f"    {pad('  ' * min(depth, 6) + label, column)} {verb} {plain(place.tensors)}")
    if failure.parameters:
        lines.append(f"    its parameters: {', '.join(plain(p) for p in failure.parameters)}")
    if failure.sibling is not None:
        name, kind, returned = failure.sibling
        lines.append(
            f"    last that worked before it: {plain(name)} {plain(kind)} returned {plain(returned)}"
        )
    if failure.reason is not None:
        text = f"-> {plain(failure.reason)}"
        lines += textwrap.wrap(text, max(width, 30), initial_indent=" " * 4, subsequent_indent=" " * 7)
    if failure.line is not None:
        lines.append(f"    at {fit(plain(failure.line), max(width - 7, 20), keep_end=True)}")
    file = (failure.line or "").rpartition(":")[0]
    if failure.source is not None and failure.source.rpartition(":")[0] != file:
        lines.append(f"    forward in {fit(plain(failure.source), max(width - 15, 20), keep_end=True)}")
    return lines


def _warnings(found: Summary) -> list[str]:
    lines = []
    broken = [
        (found.aborted, "interrupted"),
        (found.unfinished, f"still running {when_it_ended(found.process)}"),
    ]
    told = ", ".join(f"{plural(number, 'call')} {what}" for number, what in broken if number)
    if told:
        lines.append(f"  ! {told}: their times are not known")
    if found.own_call:
        lines.append(f"  ! not seen where a class has a __call__ of its own: {_some(found.own_call)}")
    if found.called_directly:
        lines.append(f"  ! only parts were called, or .forward() itself: {_some(found.called_directly)}")
    return lines


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(plain, names[:3])) + more


def _notes(stored: Stored) -> list[str]:
    gaps = stored.table("gaps").column("reason").to_pylist()
    notes = [f"  ! {plain(gap)}" for gap in gaps[:3]]
    notes += [f"  ! {plain(note)}" for note in stored.notes[:4]]
    others = len(stored.processes) - 1
    if others > 0:
        notes.append(f"  rank 0 of {others + 1} is shown; the others are in the trace")
    return notes


def _tail(shown_path: str | None) -> list[str]:
    if shown_path is None:
        return []
    return [f"  saved  {plain(shown_path)}", "  next   modtrace view       modtrace report --open"]
