"""The first screen of a report: how a step divides, the hottest modules, memory at its peak, all steps side by side.

It is HTML without a script, of the first process; its numbers are those of the summary at the end of a run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column
from modtrace.analysis.device_memory import wholes
from modtrace.analysis.device_times import launch_timed
from modtrace.analysis.findings.base import MIN_STEPS
from modtrace.analysis.flat_profile import FlatProfile, ProfileRow, flat_profile, hottest
from modtrace.analysis.memory_peaks import peaks
from modtrace.analysis.module_repeats import folded
from modtrace.analysis.phases import Steps
from modtrace.analysis.ranks.heat_map import HeatColumn, HeatMap, heat_map
from modtrace.analysis.ranks.rank_report import few_to_open, has_sums, rank_report
from modtrace.analysis.statistics import chosen_steps, quantile
from modtrace.analysis.summary import Summary, summarise
from modtrace.analysis.timeline import timeline
from modtrace.analysis.tree import MergedTree
from modtrace.text import markup, plain
from modtrace.trace.reader import Stored
from modtrace.trace.schema import PHASES
from modtrace.units import count, duration, percent, plural, rounded, size
from modtrace.views.html.bar_shapes import BarPart, columns_chart, legend, stacked_bar
from modtrace.views.html.colors import PHASE_COLORS
from modtrace.views.html.encode import TextTable
from modtrace.views.html.tree_paths import TreePaths, quoted
from modtrace.views.memory import device_memory_summary, memory_summary
from modtrace.views.ranks import remarks
from modtrace.views.steps import phase_shares, steps_summary

Ints = npt.NDArray[np.int64]

HOTTEST: Final = 8
MOST_RANKS: Final = 16
MOST_RANK_MODULES: Final = 4
MOST_REMARKS: Final = 3
MOST_COLUMNS: Final = 240
"""Columns of the chart of steps; of more steps the longest of several is a column."""
_WIDE: Final = 400
_MEDIANS: Final = 3
"""A step of more than so many medians is cut in charts of steps, and one beyond the 99th percentile."""


@dataclass(frozen=True)
class HotRow:
    """A row of the hottest modules, a step. `spent_ns` is on the device where that is known, else self time; None where
    it is not known.
    """

    label: str
    type: str
    of_module: bool
    spent_ns: int | None
    share: str
    forward_ns: int
    backward_ns: int
    color: str
    calls: str
    output: str
    link: str

    @property
    def bar_ns(self) -> int:
        """Length of its bar: none where its time is not known."""
        return self.spent_ns or 0


@dataclass(frozen=True)
class ChartColumns:
    """Steps of the chart of steps: the numbers of those that are its columns, and how long the highest column is."""

    numbers: Ints
    limit_ns: int


@dataclass(frozen=True)
class Overview:
    """Parts of the first screen as HTML, "" for what there is nothing of; `columns` are the steps in the chart.

    quiet: where to begin in a run without findings.
    """

    step: str
    hottest: str
    quiet: str
    memory: str
    ranks: str
    steps: str
    columns: ChartColumns


def node_of_group(stored: Stored, placed: MergedTree) -> Ints:
    """The row of the merged tree with most time of its own of each group of modules, -1 for none."""
    groups = folded(stored)
    group = groups.group[column(timeline(stored).calls, "call")]
    order = np.argsort(placed.tree.self_ns[placed.node], kind="stable")
    nodes = np.full(len(groups.name) + 1, -1, np.int64)
    nodes[group[order]] = placed.node[order]
    return nodes


MOST_FLAT_ROWS: Final = 2_000


def flat_columns(profile: FlatProfile, nodes: Ints, texts: TextTable) -> dict[str, Ints]:
    """The rows of a flat profile for the page, -1 where a number is not known.

    Args:
        profile: of one process.
        nodes: see `node_of_group`.
        texts: that names and classes are numbers of.
    """
    rows = profile.rows[:MOST_FLAT_ROWS]

    def numbers(values: list[int | None]) -> Ints:
        return np.array([-1 if value is None else value for value in values], np.int64)

    def words(values: list[str]) -> Ints:
        return texts.numbers([plain(value, 512) or None for value in values])

    return {
        "label": words([row.label for row in rows]),
        "type": words([row.type if row.type != row.name else "" for row in rows]),
        "output": words([row.output for row in rows]),
        "self_ns": numbers([row.self_ns for row in rows]),
        "forward_ns": numbers([row.forward_ns for row in rows]),
        "backward_ns": numbers([row.backward_ns for row in rows]),
        "device_ns": numbers([row.device_ns for row in rows]),
        "calls": numbers([row.calls for row in rows]),
        "node": nodes[[row.group for row in rows]] if rows else numbers([]),
    }


def overview(stored: Stored, placed: MergedTree, paths: TreePaths) -> Overview:
    """The first screen of a trace."""
    summary = summarise(stored)
    nothing = ChartColumns(np.zeros(0, np.int64), 0)
    if summary is None or not summary.calls:
        return Overview("", "", "", "", "", "", nothing)
    columns = _columns(summary)
    rows = hot_rows(stored, placed, paths)
    return Overview(
        step=_step(stored, summary),
        hottest=_hottest_table(stored, rows),
        quiet=_quiet(stored, rows),
        memory=_memory(stored),
        ranks=_ranks(stored),
        steps=_steps_chart(summary, columns),
        columns=columns,
    )


def hot_rows(stored: Stored, placed: MergedTree, paths: TreePaths, most: int = HOTTEST) -> list[HotRow]:
    """The hottest modules and phases."""
    profile = flat_profile(stored)
    nodes = node_of_group(stored, placed)
    base_ns = sum(row.device_ns or 0 for row in profile.rows) if profile.on_device else profile.window.base_ns
    return [_hot_row(row, profile, base_ns, _link(row, nodes, paths)) for row in hottest(profile, most).rows]


def _hot_row(row: ProfileRow, profile: FlatProfile, base_ns: int, link: str) -> HotRow:
    per = profile.per
    spent_ns = row.device_ns if profile.on_device else row.self_ns
    return HotRow(
        label=plain(row.label, 300),
        type="" if row.type == row.name else plain(row.type, 200),
        of_module=row.of_module,
        spent_ns=None if spent_ns is None else spent_ns // per,
        share="?" if spent_ns is None else percent(spent_ns, base_ns),
        forward_ns=(row.forward_ns or 0) // per,
        backward_ns=(row.backward_ns or 0) // per,
        color=_color(row, profile.on_device),
        calls=count(row.calls // per) if row.calls % per == 0 else rounded(row.calls, per, 1),
        output=plain(row.output, 200),
        link=link,
    )


def _color(row: ProfileRow, on_device: bool) -> str:
    if on_device:
        return "p-device"
    name = row.name.split("  ")[0].split(" ")[0]
    return f"p-{name}" if name in PHASE_COLORS else "p-other"


def _link(row: ProfileRow, nodes: Ints, paths: TreePaths) -> str:
    if row.group < 0:
        return f"filter={quoted('type:' + row.name.removeprefix('other '))}"
    node = int(nodes[row.group])
    return f"row={paths.path(node)}" if node >= 0 else ""


def bar_parts(row: HotRow) -> list[BarPart]:
    """Parts of the bar of a row: forward and backward, where they are its time, else all of it as one."""
    if row.color == "p-device" or not row.forward_ns + row.backward_ns:
        return [BarPart(row.color, row.bar_ns, duration(row.spent_ns))]
    return [
        BarPart("p-forward", row.forward_ns, f"forward {duration(row.forward_ns)}"),
        BarPart("p-backward", row.backward_ns, f"backward {duration(row.backward_ns)}"),
    ]


def _quiet(stored: Stored, rows: list[HotRow]) -> str:
    """Where to begin in a run without findings: at the hottest module; and that steps lack, where they do."""
    profile = flat_profile(stored)
    first = next((row for row in rows if row.of_module and row.spent_ns), None)
    if first is None or launch_timed(stored) is not None:
        return "<p>Nothing stands out.</p>"
    base_ns = sum(row.device_ns or 0 for row in profile.rows) if profile.on_device else profile.window.base_ns
    alike = [
        row for row in profile.rows if row.of_module and first.type and plain(row.type, 200) == first.type
    ]
    spent_ns = sum((row.device_ns or 0) if profile.on_device else row.spent_ns for row in alike)
    of = "the time on the device" if profile.on_device else "a step" if profile.window.steps else "the time"
    together = f", all {markup(first.type)} {percent(spent_ns, base_ns)}%" if len(alike) > 1 else ""
    steps = int(chosen_steps(stored, 0).steps.sum())
    begin = (
        f"Most remarks need {MIN_STEPS} steps that count; this run has {count(steps)}."
        if steps < MIN_STEPS
        else "Nothing stands out."
    )
    class_name = f" {markup(first.type)}" if first.type else ""
    return f"<p>{begin} {_row_link(first)}{class_name} takes most: {first.share}% of {of}{together}. Begin there.</p>"


def _row_link(row: HotRow) -> str:
    text = markup(row.label, 300)
    return f'<a href="#{markup(row.link, 4_000)}" title="{text}">{text}</a>' if row.link else text


def _hottest_table(stored: Stored, rows: list[HotRow]) -> str:
    profile = flat_profile(stored)
    most_ns = max((row.bar_ns for row in rows), default=0)
    has_backward = any(row.backward_ns for row in rows)
    body = "".join(_hot_html(row, most_ns, has_backward) for row in rows)
    launches = launch_timed(stored) is not None
    heading = "Launch times" if launches else "Where the time went"
    each = ", a step" if profile.window.steps else ""
    spent = "device" if profile.on_device else "self"
    parts = '<th scope="col">forward</th><th scope="col">backward</th>' if has_backward else ""
    shown = hottest(profile, HOTTEST)
    further = f"{shown.further} more {duration(shown.further_ns // profile.per)}. " if shown.further else ""
    before = f"Before the first call: {duration(profile.before_first_ns)} (imports, data, models)."
    title = "time of its own, without the calls inside" if spent == "self" else "time on the device"
    # What a step is of stands above, where the bar of phases is.
    window = profile.window.text if profile.window.text != chosen_steps(stored, 0).text else ""
    of = f"% of {markup(window)}. " if window else ""
    return (
        f'<div class="panel hottest"><h2>{heading}{each}</h2><table class="hot"><thead><tr><th scope="col">module</th>'
        f'<th scope="col" class="barred"><span class="spoken">share</span></th><th scope="col" title="{title}">{spent}'
        f'</th><th scope="col">%</th>{parts}<th scope="col" class="wide">calls</th>'
        f'<th scope="col" class="wide words">output</th></tr></thead><tbody>{body}</tbody></table>'
        f'<p class="hint">{of}{further}{before}</p></div>'
    )


def _hot_html(row: HotRow, most_ns: int, has_backward: bool) -> str:
    class_name = f' <span class="type">{markup(row.type)}</span>' if row.type else ""
    bar = stacked_bar(bar_parts(row), most_ns, f"{row.share}%", css="row")
    parts = (
        "".join(f"<td>{duration(ns) if ns else ''}</td>" for ns in (row.forward_ns, row.backward_ns))
        if has_backward
        else ""
    )
    cut = "end" if row.of_module else "begin"
    head = f'<span class="named"><span class="{cut}"><bdi>{_row_link(row)}</bdi></span>{class_name}</span>'
    return (
        f'<tr><th scope="row">{head}</th><td class="barred">{bar}</td><td>{duration(row.spent_ns)}</td>'
        f'<td>{row.share}</td>{parts}<td class="wide">{row.calls}</td>'
        f'<td class="wide words"><span class="name">{markup(row.output)}</span></td></tr>'
    )


def _step(stored: Stored, summary: Summary) -> str:
    """Quantiles of a step, and how it divides into phases."""
    timed = launch_timed(stored) is None
    lines = steps_summary(summary.steps, summary.work, summary.chosen, _WIDE, timed=timed)
    if not lines:
        return ""
    by_root = summary.steps.by == "root"
    head, _, figures = lines[0].strip().partition(" ")
    figures = figures.strip() if head in ("STEP", "CALL") else ""
    title = "A call" if by_root else "A step"
    shown = "" if by_root else _phases(summary)
    return (
        f'<div class="panel step"><h2>{title} <span class="figures-text">{markup(figures)}</span></h2>{shown}'
        f'<p class="hint">Of {markup(summary.chosen.text)}.</p></div>'
    )


def _phases(summary: Summary) -> str:
    shares = phase_shares(summary.steps, summary.chosen.steps)
    total, steps = sum(ns for _, ns in shares), max(int(summary.chosen.steps.sum()), 1)
    parts = [
        BarPart(
            f"p-{name.replace(' ', '_')}",
            ns,
            f"{name} {percent(ns, total)}%, {duration(max(ns, 0) // steps)}",
        )
        for name, ns in shares
    ]
    label = "A step by phase: " + ", ".join(part.text for part in parts)
    return stacked_bar(parts, total, label) + legend(parts)


def _memory(stored: Stored) -> str:
    """Memory at its peak by what it is held for, or what the allocator told; "" where nothing is known."""
    watched = peaks(stored)
    lines = [line.strip() for line in (*device_memory_summary(wholes(stored)), *memory_summary(watched))]
    if not lines:
        return ""
    bars = ""
    for peak in watched[:1]:
        parts = [
            BarPart(
                f"m-{name}",
                held_bytes,
                f"{name.replace('_', ' ')} {size(held_bytes)} ({percent(held_bytes, peak.held_bytes)}%)",
            )
            for name, held_bytes in sorted(peak.by_category.items(), key=lambda category: -category[1])
        ]
        label = "Memory at its peak: " + ", ".join(part.text for part in parts)
        bars = stacked_bar(parts, peak.held_bytes, label) + legend(parts)
        largest = next((holder for holder in peak.holders if holder.name), None)
        if largest is not None:
            bars += (
                f'<p class="hint">Largest holder: {markup(f"{largest.name} {largest.type}".strip(), 300)}, '
                f"{size(largest.held_bytes)} of {largest.category.replace('_', ' ')}.</p>"
            )
    texts = "".join(
        f"<p>{markup(re.sub(r' {2,}', ', ', line.removeprefix('memory').strip()), 300)}</p>" for line in lines
    )
    return f'<div class="panel memory"><h2>Memory</h2>{texts}{bars}</div>'


def _ranks(stored: Stored) -> str:
    """Ranks beside phases and modules, darker where one takes longer than usual: which rank the others wait for, and in
    what; "" for a single process. A click on a rank that is in the page shows its steps. Where ranks are many and wrote
    no sums, none is opened for this.
    """
    job = stored.whole()
    if job.process_count < 2 or not (few_to_open(job) or has_sums(job)):
        return ""
    report = rank_report(job)
    heat = heat_map(report, MOST_RANK_MODULES)
    process_of = {about.folder: number for number, about in enumerate(stored.processes)}
    rows = _rank_rows(heat)
    phases, modules = (_heat_table(heat, part, rows, process_of) for part in (heat.phases, heat.modules))
    texts = "".join(f"<p>{markup(remark, 400)}</p>" for remark in remarks(report)[:MOST_REMARKS])
    further = len(heat.ranks) - MOST_RANKS
    note = f"; {plural(further, 'more rank')}: modtrace ranks --all" if further > 0 else ""
    return (
        '<div class="panel ranks"><h2>A step of each rank <span class="figures-text">median</span></h2>'
        f'{texts}<div class="scrolled">{phases}{modules}</div>'
        f'<p class="hint">Darker: 5, 10, 25, 50% more than usual. Modules: own time{note}.</p></div>'
    )


def _heat_table(
    heat: HeatMap, columns: Sequence[HeatColumn], rows: Sequence[int], process_of: Mapping[str, int]
) -> str:
    """Ranks below each other; "" without columns."""
    if not columns:
        return ""
    head = "".join(f'<th scope="col">{markup(column.title, 300)}</th>' for column in columns)
    body = ""
    for row in rows:
        rank = heat.ranks[row]
        cells = "".join(
            f'<td class="heat-{column.levels[row]}">{_heat_text(column.times_ns[row])}</td>'
            for column in columns
        )
        body += f'<tr><th scope="row">{_rank_name(rank.rank, process_of.get(rank.folder))}</th>{cells}</tr>'
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"


def _rank_name(rank: int, process: int | None) -> str:
    """Name of a rank; it leads to its steps where the page has them."""
    if process is None:
        return f'<span title="modtrace report --rank {rank}">rank {rank}</span>'
    return f'<a class="rank-link" href="#timeline" data-process="{process}">rank {rank}</a>'


def _rank_rows(heat: HeatMap) -> list[int]:
    """The ranks that have a row, in order: of many those that take the most more than usual anywhere."""
    rows = range(len(heat.ranks))
    if len(rows) <= MOST_RANKS:
        return [*rows]
    columns = (*heat.phases, *heat.modules)
    order = sorted(rows, key=lambda row: sorted(-column.levels[row] for column in columns))
    return sorted(order[:MOST_RANKS])


def _heat_text(spent_ns: int | None) -> str:
    return "?" if spent_ns is None else duration(spent_ns)


def strip_limit(steps: Steps, in_statistics: npt.NDArray[np.bool_]) -> int:
    """The time of the highest column of a chart of steps, ns: one very long step does not make the others flat."""
    took = (steps.end - steps.start)[in_statistics]
    if not len(took):
        return 1
    limit, longest = (
        min(quantile(took, 99), _MEDIANS * quantile(took, 50)),
        int((steps.end - steps.start).max()),
    )
    return max(longest if longest <= 1.5 * limit else limit, 1)


def _columns(summary: Summary) -> ChartColumns:
    """All steps that are recorded, or of many the longest of each stretch."""
    steps = summary.steps
    number = np.flatnonzero(steps.recorded)
    took = (steps.end - steps.start)[number]
    edges = np.linspace(0, len(number), min(len(number), MOST_COLUMNS) + 1).astype(np.int64)
    longest = [
        int(number[first + int(took[first:last].argmax())])
        for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    ]
    return ChartColumns(np.array(longest, np.int64), strip_limit(steps, summary.chosen.steps))


def _steps_chart(summary: Summary, columns: ChartColumns) -> str:
    steps, numbers = summary.steps, columns.numbers
    if len(numbers) < 2:
        return ""
    took = (steps.end - steps.start)[numbers]
    amounts = [(f"p-{name}", steps.spent[code][numbers]) for code, name in enumerate(PHASES)]
    amounts.append(("p-other_threads", steps.threads[numbers]))
    amounts.append(("p-other", took - sum(values for _, values in amounts)))
    cut = numbers[took > columns.limit_ns]
    longest = int(numbers[took.argmax()])
    most = f"step {longest} with {duration(int(took.max()))}"
    highest = duration(columns.limit_ns)
    note = (
        f"Cut at {highest}: {plural(len(cut), 'step')} took longer, most of all {most}."
        if len(cut)
        else f"As high as {highest}."
    )
    recorded = int(steps.recorded.sum())
    of_all = f" of {count(len(steps))}" if recorded < len(steps) else ""
    shown = (
        f"{plural(recorded, 'step')}{of_all}"
        if len(numbers) == recorded
        else f"{count(recorded)} steps{of_all}, the longest of each {count(round(recorded / len(numbers)))} shown"
    )
    calls = "Calls" if steps.by == "root" else "Steps"
    label = f"{shown}, the longest {most}. {note}"
    return (
        f'<div class="panel steps"><h2>{calls} <span class="figures-text">{shown}</span></h2>'
        f"{columns_chart(amounts, columns.limit_ns, label)}"
        f'<p class="hint">{note}</p></div>'
    )
