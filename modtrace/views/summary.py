"""The summary: what `modtrace run` prints at the end."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace

from modtrace.analysis.compilations import compiled
from modtrace.analysis.device_memory import wholes
from modtrace.analysis.device_times import launch_timed
from modtrace.analysis.failure import Failure, last_failure
from modtrace.analysis.findings import findings
from modtrace.analysis.findings.process_rules import unrecorded_children
from modtrace.analysis.flat_profile import FlatProfile, flat_profile
from modtrace.analysis.memory_peaks import peaks
from modtrace.analysis.nonfinite import first_fault, nonfinite
from modtrace.analysis.out_of_memory import autopsy
from modtrace.analysis.outcome import outcome
from modtrace.analysis.recording_end import headline_of, when_it_ended, why_nothing
from modtrace.analysis.saved_totals import most_kept
from modtrace.analysis.summary import Summary, failure_ended_run, summarise
from modtrace.analysis.watching import KERNELS, MEMORY, notes
from modtrace.text import and_more, fit, pad, plain
from modtrace.text import width as width_of
from modtrace.trace.reader import Stored
from modtrace.units import count, duration, plural
from modtrace.views.compilations import compilations_summary
from modtrace.views.cost import cost_text
from modtrace.views.device import device_summary
from modtrace.views.findings import findings_lines
from modtrace.views.memory import device_memory_summary, memory_summary
from modtrace.views.models.nonfinite_texts import nonfinite_lines
from modtrace.views.models.nonfinite_texts import notes as nonfinite_notes
from modtrace.views.out_of_memory import autopsy_lines
from modtrace.views.profile import profile_lines
from modtrace.views.steps import steps_summary, took_text
from modtrace.views.styled_lines import HEADING, WARNING, Line, plain_lines
from modtrace.views.tensor_memory import kept_summary

MAX_LINES = 30
MAX_ROWS = 14
_SAME = 8


def summary_lines(
    stored: Stored,
    *,
    width: int,
    shown_path: str | None,
    whole_run: bool = False,
    cut: bool = True,
    ranks: Sequence[str] = (),
) -> list[Line]:
    """The lines of a summary.

    Args:
        stored: the trace.
        width: columns that it is laid out for.
        shown_path: where the trace is, as it is to be printed; None for no such line.
        whole_run: where the time went in the whole run, not in the steps that count.
        cut: whether what does not fit is cut; where nobody's screen limits a line its last column is whole.
        ranks: lines about all ranks of the job.
    """
    lines = _lines(stored, width=width, shown_path=shown_path, whole_run=whole_run, ranks=ranks)
    if not cut:
        return [replace(line, text=line.text.rstrip()) for line in lines]
    return [replace(line, text=fit(line.text.rstrip(), width)) for line in lines]


def _lines(
    stored: Stored, *, width: int, shown_path: str | None, whole_run: bool, ranks: Sequence[str]
) -> list[Line]:
    summary = summarise(stored)
    if summary is None:
        nothing = "  nothing was recorded: the trace holds no process"
        return [Line(title(stored, None, width), HEADING), *plain_lines([nothing, *_notes(stored)])]
    head = [Line(title(stored, summary, width), HEADING)]
    cut_short = headline_of(stored)
    if cut_short:
        head.append(Line(f"  ! {plain(cut_short)}", WARNING))
    ended = outcome(stored)
    if ended.open_calls:
        head.append(Line(f"  ! {plain(ended.headline)}", WARNING))
    if not summary.calls:
        nothing_lines = [*_nothing(stored, summary, width), *_notes(stored), *_saved(shown_path)]
        return [*head, *plain_lines(nothing_lines)]
    head += plain_lines(_facts(summary, width))
    failure = last_failure(stored)
    failed = failure is not None and failure_ended_run(summary, failure)
    facts = [*_numbers(stored, summary, width), *plain_lines(ranks)]
    caught = caught_lines(summary, failure) if failure is not None and not failed else []
    warnings = plain_lines([*caught, *_warnings(summary), *_notes(stored)])
    tail = plain_lines(_tail(shown_path, width))
    room = MAX_LINES - len(head) - len(facts) - len(warnings) - len(tail) - 1
    first: list[Line] = []
    if failed and failure is not None:
        memory_report = autopsy(stored, failure)
        memory_lines = [] if memory_report is None else autopsy_lines(memory_report, width=width)
        most = max(room - 5 if memory_lines else room - 7, 3)
        first = [Line(""), *plain_lines([*failure_lines(failure, width), *memory_lines][:most]), Line("")]
    fault = first_fault(stored)
    if fault is not None:
        first = [Line(""), *plain_lines(nonfinite_lines(fault, width)), *(first or [Line("")])]
    warnings += plain_lines(nonfinite_notes(nonfinite(stored), width))
    worth = [] if failed or fault is not None else plain_lines(_worth(stored, width))
    profile = flat_profile(stored, whole_run=whole_run)
    launches = launch_timed(stored) is not None
    spacer = [Line("")] if warnings else []
    around = len(head) + len(first) + len(facts) + len(worth) + len(spacer) + len(warnings) + len(tail)
    table = _fitting(profile, width, MAX_LINES - around - 1, launches)
    return [*head, *first, *facts, *worth, Line(""), *table, *spacer, *warnings, *tail]


def _fitting(profile: FlatProfile, width: int, most: int, launches: bool) -> list[Line]:
    """The table with as many rows as leave `most` lines, at least two; what is behind them may take several lines."""
    for limit in range(MAX_ROWS, 2, -1):
        lines = profile_lines(profile, width=width, limit=limit, launches=launches)
        if len(lines) <= most:
            return lines
    return profile_lines(profile, width=width, limit=2, launches=launches)[: max(most, 3)]


def _numbers(stored: Stored, summary: Summary, width: int) -> list[Line]:
    """Of a step: its times, phases and FLOPs; memory, devices, compilations."""
    launches = launch_timed(stored)
    lines = steps_summary(summary.steps, summary.work, summary.chosen, width, timed=launches is None)
    lines += device_summary(
        summary.chosen.steps, summary.device_busy_ns, summary.device_idle_ns, summary.device_dry
    )
    if launches is not None:
        lines.append(f"  ! {launches}")
    lines += compilations_summary(compiled(stored), width)
    lines += device_memory_summary(wholes(stored))
    lines += memory_summary(peaks(stored)) + kept_summary(most_kept(stored))
    return plain_lines([*lines, *(f"  {line}" for line in notes(stored, MEMORY, KERNELS))])


def _nothing(stored: Stored, summary: Summary, width: int) -> list[str]:
    """Lines that say why no call was recorded, children that did the work, and what failed all the same."""
    unseen = unrecorded_children(stored)
    why = why_nothing(summary.process) if unseen is None else "no module was called in this process"
    children = findings_lines([unseen], width=width) if unseen is not None else []
    failure = last_failure(stored)
    return [
        *textwrap.wrap(plain(why), max(width, 30), initial_indent="  ", subsequent_indent="  "),
        *children,
        *(["", *failure_lines(failure, width), ""] if failure is not None else []),
    ]


def _worth(stored: Stored, width: int) -> list[str]:
    """WORTH A LOOK: the three findings that matter most, or nothing."""
    lines = findings_lines(findings(stored), width=width, limit=3)
    return ["", "  WORTH A LOOK", *lines] if lines else []


def title(stored: Stored, summary: Summary | None, width: int) -> str:
    """The command, and how it ended: exit status, wall time, number and time of the steps."""
    run = stored.run
    words = " ".join(plain(word) for word in (run.script or "trace", *run.argv))
    right = ""
    if summary is not None:
        times = duration(summary.wall_ns)
        if summary.steps.by != "root" and len(summary.steps):
            times += f", {plural(len(summary.steps), 'step')}{took_text(summary.steps)}"
        elif summary.roots:
            spent_ns = summary.wall_ns - summary.outside_ns
            times += f", {plural(summary.roots, 'call')}" + (f" in {duration(spent_ns)}" if spent_ns else "")
        right = "   ".join(filter(None, (plain(outcome(stored).state), times)))
    command = fit(f"modtrace  {words}", max(width - len(right) - 2, 8))
    return pad(command, max(width - len(right) - 1, len(command))) + " " + right if right else command


def _facts(summary: Summary, width: int) -> list[str]:
    """The model, devices, and what tracing cost: a step, where there is room for it."""
    model, parameters = summary.models[0]
    others = f" (+{len(summary.models) - 1} more)" if len(summary.models) > 1 else ""
    size_text = "no parameters" if parameters == 0 else f"{count(parameters)} parameters"
    devices = ", ".join(plain(device, 40) for device in summary.devices[:3])
    facts = [f"{plain(model)}  {size_text}{others}", devices]
    cost = f"tracing cost {cost_text([summary.step_cost])}"
    shorter = (cost, cost.partition(" (")[0], cost.partition(" of ")[0])
    texts = ("  " + "   ".join(filter(None, [*facts, text])) for text in shorter)
    return [next((text for text in texts if width_of(text) <= width), "  " + "   ".join(filter(None, facts)))]


def caught_lines(summary: Summary, failure: Failure) -> list[str]:
    """That exceptions left calls and the program went on."""
    subject = f"a {failure.phase}" if failure.phase else plural(summary.raised_roots, "root call")
    return [f"  {subject} raised and went on, last {plain(failure.error)}"]


def failure_lines(failure: Failure, width: int) -> list[str]:
    """WHERE IT FAILED: the way through the modules, what each was given, and why."""
    step = "" if failure.step is None else f"step {failure.step}   "
    phase = f"{failure.phase}   " if failure.phase else "outside modules   " if failure.outside else ""
    lines = [f"  WHERE IT FAILED   {step}{phase}{plain(failure.error, 300)}"]
    if failure.called is not None:
        function, arguments = failure.called
        lines.append(f"    {plain(function)} got {plain(arguments)}")
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
        name, class_name, returned = failure.sibling
        lines.append(
            f"    last that worked before it: {plain(name)} {plain(class_name)} returned {plain(returned)}"
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


def _warnings(summary: Summary) -> list[str]:
    lines = []
    broken = [
        (summary.aborted, "interrupted"),
        (summary.unfinished, f"still running {when_it_ended(summary.process)}"),
    ]
    unfinished = ", ".join(f"{plural(number, 'call')} {state}" for number, state in broken if number)
    if unfinished:
        lines.append(f"  ! {unfinished}: their times are not known")
    if summary.own_call:
        lines.append(f"  ! not seen where a class has a __call__ of its own: {_names_text(summary.own_call)}")
    if summary.called_directly:
        lines.append(
            f"  ! only parts were called, or .forward() itself: {_names_text(summary.called_directly)}"
        )
    return lines


def _names_text(names: list[str]) -> str:
    return and_more([plain(name) for name in names], 3)


def _notes(stored: Stored) -> list[str]:
    gaps = stored.table("gaps").column("reason").to_pylist()
    notes = [f"  ! {plain(gap)}" for gap in gaps[:3]]
    notes += [f"  ! {plain(note)}" for note in stored.notes[:4]]
    if stored.process_count > 1:
        rank, number = stored.processes[0].rank, stored.process_count
        notes.append(f"  rank {rank} of {count(number)} is shown; modtrace ranks has all of them")
    return notes


def _tail(shown_path: str | None, width: int) -> list[str]:
    """Where the trace is and what to do with it; on one line where that fits."""
    then = "next  modtrace view   modtrace report --open"
    for saved in _saved(shown_path):
        together = f"{saved}     {then}"
        return [together] if width_of(together) <= width else [saved, f"  {then}"]
    return []


def _saved(shown_path: str | None) -> list[str]:
    """Where the trace is; alone where there is nothing in it to look at."""
    return [] if shown_path is None else [f"  saved  {plain(shown_path)}"]
