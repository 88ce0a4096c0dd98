"""The words of a report: what was run, what was found, what is missing, and on what machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from modtrace._version import __version__
from modtrace.analysis.device_times import launch_timed
from modtrace.analysis.failure import Failure, last_failure
from modtrace.analysis.findings import Finding, findings
from modtrace.analysis.findings.process_rules import unrecorded_children
from modtrace.analysis.flat_profile import FlatProfile, flat_profile
from modtrace.analysis.nonfinite import first_fault
from modtrace.analysis.outcome import Outcome, outcome
from modtrace.analysis.recording_end import headline_of, when_it_ended, why_nothing
from modtrace.analysis.summary import Summary, failure_ended_run, summarise
from modtrace.text import and_more, plain
from modtrace.trace.reader import Process, Stored
from modtrace.units import count, duration, plural
from modtrace.views.cost import cost_text
from modtrace.views.html.aggregate import shown_path
from modtrace.views.models.nonfinite_texts import nonfinite_summary
from modtrace.views.steps import took_text
from modtrace.views.summary import caught_lines

ARGUMENTS_LIMIT = 2_000
_WIDE: Final = 200


@dataclass(frozen=True)
class TimeOutsideCalls:
    """Time that is in no row of the tree, so that the column of self times adds up to the whole."""

    label: str
    self_ns: int


@dataclass(frozen=True)
class ShareBase:
    """The window that shares are of: in words, its length, how much of it is before the first call, and its time that
    is in no row of the tree.
    """

    text: str
    base_ns: int
    before_ns: int
    outside: list[TimeOutsideCalls]


@dataclass(frozen=True)
class ReportTexts:
    """Texts, made `plain`, to be shown as text.

    title, command, status: what was run and how it ended; `bad`: it ended badly.
    headline: how it ended and where it was then, "" where it ended well; `open_row`: the row of the timeline of the
        module that it was in, -1 for none; `nothing`: why there are no calls.
    figures: (what, value) for the head of the page.
    failure: the exception that the run ended with; caught: a line on those that the program dealt with.
    nonfinite: lines on where NaN or infinities began, in `nonfinite_module`.
    counted, run: what shares are of, by default and on demand; of all processes together.
    gaps: what was not recorded; environment: (what, value).
    """

    title: str
    command: str
    status: str
    bad: bool
    headline: str
    open_row: int
    nothing: str
    figures: list[tuple[str, str]]
    findings: list[Finding]
    failure: Failure | None
    nonfinite: list[str]
    nonfinite_module: str
    caught: list[str]
    counted: ShareBase
    run: ShareBase
    gaps: list[str]
    environment: list[tuple[str, str]]


def facts(stored: Stored) -> ReportTexts:
    """The words of a trace."""
    totals = [summarise(stored, process) for process in range(len(stored.processes))]
    summaries = [summary for summary in totals if summary is not None]
    counted, run = _spans(stored)
    about = stored.run
    script = plain(about.script or stored.path.stem, 300)
    words = " ".join(plain(word) for word in about.argv)
    if len(words) > ARGUMENTS_LIMIT:
        words = f"{words[:ARGUMENTS_LIMIT]}... ({count(len(words))} characters)"
    first = summaries[0] if summaries else None
    ended = (
        outcome(stored) if summaries else Outcome("nothing was recorded: the trace holds no process", True)
    )
    fault = first_fault(stored)
    has_calls = first is not None and bool(first.calls)
    unseen = unrecorded_children(stored) if summaries else None
    failure = last_failure(stored) if first is not None else None
    ended_run = first is not None and failure is not None and failure_ended_run(first, failure)
    remarks = findings(stored) if has_calls else [] if unseen is None else [unseen]
    return ReportTexts(
        title=script.replace("\\", "/").rpartition("/")[2] or script,
        command=f"{shown_path(script)} {words}".strip(),
        status=", ".join(plain(part, 300) for part in (ended.state or "ended", headline_of(stored)) if part),
        bad=ended.failed,
        headline=plain(ended.headline, 600) if ended.open_calls else "",
        open_row=ended.row,
        nothing="" if has_calls or first is None else plain(why_nothing(first.process), 300),
        figures=_figures(stored, summaries),
        findings=[
            Finding(
                finding.rule,
                plain(finding.text, 600),
                plain(finding.remedy, 600),
                finding.won_ns,
                finding.wrong,
            )
            for finding in remarks
        ],
        failure=failure if ended_run else None,
        nonfinite_module=fault.module or fault.taker[0] if fault is not None else "",
        nonfinite=[line.strip() for line in nonfinite_summary(stored, _WIDE)],
        caught=[]
        if first is None or failure is None or ended_run
        else [line.strip() for line in caught_lines(first, failure)],
        counted=counted,
        run=run,
        gaps=_gaps(stored, summaries),
        environment=_environment(stored),
    )


def _figures(stored: Stored, summaries: list[Summary]) -> list[tuple[str, str]]:
    if not summaries:
        return []
    first = summaries[0]
    figures = [("wall time", duration(first.wall_ns))]
    if first.models:
        models, parameters = [plain(model, 80) for model, _ in first.models], first.models[0][1]
        figures.append(("model", f"{and_more(models, 1)}, {count(parameters)} parameters"))
    figures += [("module calls", count(sum(each.calls for each in summaries))), *_of_steps(first)]
    figures.append(("tracing cost", cost_text([first.step_cost])))
    launches = launch_timed(stored)
    if launches is not None:
        figures.append(("times", launches.removeprefix("times are ")))
    figures.append(("devices", ", ".join(plain(device, 40) for device in first.devices[:4]) or "?"))
    if len(summaries) > 1:
        figures.append(
            (
                "processes",
                f"{len(summaries)}; this screen is of rank {first.process.rank}, the tree of all",
            )
        )
    elif stored.process_count > 1:
        several = count(stored.process_count)
        figures.append(
            ("processes", f"{several}; this page is of rank {first.process.rank}: modtrace report --rank N")
        )
    return figures


def _of_steps(summary: Summary) -> list[tuple[str, str]]:
    steps = summary.steps
    if not len(steps):
        return []
    noun = "calls of the root" if steps.by == "root" else "steps"
    return [(noun, count(len(steps)) + took_text(steps))]


def _outside_rows(profiles: list[FlatProfile]) -> list[TimeOutsideCalls]:
    """Time that the tree has no rows for, of all processes together."""
    sums = [
        ("modtrace itself", sum(profile.tracer_ns for profile in profiles)),
        ("around calls whose times are not known", sum(profile.unknown_ns for profile in profiles)),
        ("before the first call (imports, data, models)", sum(profile.before_ns for profile in profiles)),
        ("steps that were left out", sum(profile.left_out_ns for profile in profiles)),
        ("outside of calls", sum(profile.outside_ns for profile in profiles)),
        ("in parallel, counted twice", -sum(profile.parallel_ns for profile in profiles)),
    ]
    return [TimeOutsideCalls(label, ns) for label, ns in sums if ns]


def _spans(stored: Stored) -> tuple[ShareBase, ShareBase]:
    """The steps that count, and the whole run."""
    numbers = range(len(stored.processes))
    counted = [flat_profile(stored, number) for number in numbers]
    run = [flat_profile(stored, number, whole_run=True) for number in numbers]
    before_ns = sum(profile.before_first_ns for profile in counted)
    outside = _outside_rows(counted)
    if before_ns:
        outside.append(
            TimeOutsideCalls("before the first call (imports, data, models), not in these", before_ns)
        )
    return (
        ShareBase(
            counted[0].window.text if counted else "",
            sum(profile.window.base_ns for profile in counted),
            0,
            outside,
        ),
        ShareBase(
            "the whole run",
            sum(profile.window.base_ns for profile in run),
            sum(profile.before_ns for profile in run),
            _outside_rows(run),
        ),
    )


def _gaps(stored: Stored, summaries: list[Summary]) -> list[str]:
    table = stored.table("gaps")
    lines = []
    for reason, lost in zip(
        table.column("reason").to_pylist(), table.column("lost_calls").to_pylist(), strict=True
    ):
        known = f" ({plural(lost, 'call')} lost)" if lost and plural(lost, "call") not in reason else ""
        lines.append(f"{plain(reason, 600)}{known}")
    lines += [plain(note, 600) for note in stored.notes]
    for summary in summaries:
        broken = [
            (summary.aborted, "interrupted"),
            (summary.unfinished, f"still running {when_it_ended(summary.process)}"),
        ]
        unfinished = ", ".join(f"{plural(number, 'call')} {state}" for number, state in broken if number)
        lines += [f"{unfinished}: their times are not known"] if unfinished else []
    if summaries:
        summary = summaries[0]
        if summary.own_call:
            lines.append(f"not seen where a class has a __call__ of its own: {_names_text(summary.own_call)}")
        if summary.called_directly:
            lines.append(
                f"only parts were called, or .forward() itself: {_names_text(summary.called_directly)}"
            )
    return lines


def _names_text(names: list[str]) -> str:
    return and_more([plain(name, 100) for name in names], 10)


def _environment(stored: Stored) -> list[tuple[str, str]]:
    run, processes = stored.run, stored.processes
    began = run.started_unix_ns
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(began / 1e9)) if began is not None else "?"
    rows = [
        ("started", when),
        ("Python", plain(run.python or "?", 200)),
        ("torch", ", ".join(sorted({plain(process.torch or "?", 80) for process in processes})) or "?"),
        ("platform", plain(run.platform or "?", 200)),
        ("recorded by", f"modtrace {plain(run.modtrace, 40)}"),
        ("report by", f"modtrace {__version__}"),
    ]
    rows += [(f"rank {process.rank}", _process(process)) for process in processes[:16]]
    if len(processes) > 16:
        rows.append(("more processes", str(len(processes) - 16)))
    return rows


def _process(process: Process) -> str:
    end = process.end
    devices = (
        [f"{name} {model}" for name, model in end.devices.items()] if end is not None and end.devices else []
    )
    parts = [plain(", ".join(devices or process.devices) or "?", 300), f"{duration(process.wall_ns)}"]
    if process.world_size is not None and process.world_size > 1:
        parts.append(f"world size {process.world_size}")
    return ", ".join(parts)
