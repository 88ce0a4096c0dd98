"""The words of a report: what was run, what was found, what is missing, and on what machine."""

from __future__ import annotations

import time
from dataclasses import dataclass

from modtrace._version import __version__
from modtrace.analysis.cut import headline_of, when_it_ended, why_nothing
from modtrace.analysis.device_times import launch_timed
from modtrace.analysis.failure import Failure, last_failure
from modtrace.analysis.findings import Finding, findings
from modtrace.analysis.holders import peaks
from modtrace.analysis.statistics import quantile
from modtrace.analysis.summary import Summary, summarise
from modtrace.text import plain
from modtrace.trace.reader import Process, Stored
from modtrace.units import count, duration, percent, plural, size
from modtrace.views.cost import cost_text
from modtrace.views.html.aggregate import shown_path

ARGUMENTS_LIMIT = 2_000


@dataclass(frozen=True)
class Rest:
    """Time that is in no row of the tree, so that the column of self times adds up to the whole."""

    label: str
    self_ns: int


@dataclass(frozen=True)
class Facts:
    """Texts, made `plain`, to be shown as text.

    title, command, status: what was run and how it ended; figures: (what, value) for the head of the page.
    wall_ns: of all processes together: what shares are of.
    gaps: what was not recorded; environment: (what, value).
    """

    title: str
    command: str
    status: str
    figures: list[tuple[str, str]]
    findings: list[Finding]
    failure: Failure | None
    rest: list[Rest]
    wall_ns: int
    gaps: list[str]
    environment: list[tuple[str, str]]


def facts(stored: Stored) -> Facts:
    """The words of a trace."""
    found = [one for at in range(len(stored.processes)) if (one := summarise(stored, at)) is not None]
    run = stored.run
    script = plain(run.script or stored.path.stem, 300)
    words = " ".join(plain(word) for word in run.argv)
    if len(words) > ARGUMENTS_LIMIT:
        words = f"{words[:ARGUMENTS_LIMIT]}... ({count(len(words))} characters)"
    first = found[0] if found else None
    failed = first is not None and bool(first.calls)
    return Facts(
        title=script.replace("\\", "/").rpartition("/")[2] or script,
        command=f"{shown_path(script)} {words}".strip(),
        status=_status(stored, first),
        figures=_figures(stored, found),
        findings=[
            Finding(one.rule, plain(one.text, 600), plain(one.remedy, 600), one.won_ns, one.wrong)
            for one in (findings(stored) if failed else [])
        ],
        failure=last_failure(stored) if failed else None,
        rest=_rest(found),
        wall_ns=sum(one.wall_ns for one in found),
        gaps=_gaps(stored, found),
        environment=_environment(stored),
    )


def _status(stored: Stored, first: Summary | None) -> str:
    if first is None:
        return "nothing was recorded: the trace holds no process"
    end = first.process.end
    if end is None:
        status = "still running" if first.process.is_alive else "did not end"
    elif end.exception is not None:
        status = f"ended with {plain(end.exception, 100)}"
    else:
        status = "ended" if end.exit_status is None else f"exit {end.exit_status}"
    nothing = "" if first.calls else why_nothing(first.process)
    return ", ".join(plain(part, 300) for part in (status, headline_of(stored), nothing) if part)


def _figures(stored: Stored, found: list[Summary]) -> list[tuple[str, str]]:
    if not found:
        return []
    one = found[0]
    figures = [("time", duration(one.wall_ns))]
    if one.models:
        model, parameters = one.models[0]
        more = f" and {len(one.models) - 1} more" if len(one.models) > 1 else ""
        figures.append(("model", f"{plain(model, 80)}{more}, {count(parameters)} parameters"))
    figures += [("module calls", count(sum(each.calls for each in found))), *_of_steps(one)]
    busy = one.wall_ns - one.outside_ns
    what = "modules ran" if one.steps.by == "root" else "recorded"
    figures.append((what, f"{percent(busy, one.wall_ns)}% of the time"))
    figures.append(("tracing cost", cost_text([one.step_cost])))
    figures += [
        (f"memory peak, {plain(peak.device, 40)}", size(peak.held_bytes)) for peak in peaks(stored)[:2]
    ]
    launches = launch_timed(stored)
    if launches is not None:
        figures.append(("times", launches.removeprefix("times are ")))
    figures.append(("devices", ", ".join(plain(device, 40) for device in one.devices[:4]) or "?"))
    if len(found) > 1:
        figures.append(
            ("processes", f"{len(found)}; figures here are of rank {one.process.rank}, the tree is of all")
        )
    return figures


def _of_steps(one: Summary) -> list[tuple[str, str]]:
    steps = one.steps
    if not len(steps):
        return []
    p50 = quantile((steps.end - steps.start)[one.chosen.steps], 50)
    return [("steps", count(len(steps))), ("median step", f"{duration(p50)} ({one.chosen.text})")]


def _rest(found: list[Summary]) -> list[Rest]:
    unknown = any(one.aborted + one.unfinished for one in found)
    outside = "outside of what was recorded" + (", or interrupted" if unknown else "")
    sums = [
        ("modtrace itself", sum(one.tracer_ns for one in found)),
        ("around interrupted calls", sum(one.interrupted_ns for one in found)),
        (outside, sum(one.outside_ns for one in found)),
        ("in parallel, counted twice", -sum(one.parallel_ns for one in found)),
    ]
    return [Rest(label, ns) for label, ns in sums if ns]


def _gaps(stored: Stored, found: list[Summary]) -> list[str]:
    table = stored.table("gaps")
    lines = []
    for reason, lost in zip(
        table.column("reason").to_pylist(), table.column("lost_calls").to_pylist(), strict=True
    ):
        known = f" ({plural(lost, 'call')} lost)" if lost else ""
        lines.append(f"{plain(reason, 600)}{known}")
    lines += [plain(note, 600) for note in stored.notes]
    for one in found:
        broken = [
            (one.aborted, "interrupted"),
            (one.unfinished, f"still running {when_it_ended(one.process)}"),
        ]
        told = ", ".join(f"{plural(number, 'call')} {what}" for number, what in broken if number)
        lines += [f"{told}: their times are not known"] if told else []
    if found:
        one = found[0]
        if one.own_call:
            lines.append(f"not seen where a class has a __call__ of its own: {_some(one.own_call)}")
        if one.called_directly:
            lines.append(f"only parts were called, or .forward() itself: {_some(one.called_directly)}")
    return lines


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(plain(name, 100) for name in names[:10]) + more


def _environment(stored: Stored) -> list[tuple[str, str]]:
    run, processes = stored.run, stored.processes
    began = run.started_unix_ns
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(began / 1e9)) if began is not None else "?"
    rows = [
        ("started", when),
        ("Python", plain(run.python or "?", 200)),
        ("torch", ", ".join(sorted({plain(one.torch or "?", 80) for one in processes})) or "?"),
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
        [f"{name} {what}" for name, what in end.devices.items()] if end is not None and end.devices else []
    )
    parts = [plain(", ".join(devices or process.devices) or "?", 300), f"{duration(process.wall_ns)}"]
    if process.world_size is not None and process.world_size > 1:
        parts.append(f"world size {process.world_size}")
    return ", ".join(parts)
