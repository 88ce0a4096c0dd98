"""A trace in a notebook: a table that every viewer shows, and the whole report in a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from modtrace.analysis.flat_profile import flat_profile
from modtrace.analysis.tree import MergedTree, placed
from modtrace.text import markup
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.units import count, duration
from modtrace.views.html.facts import ReportTexts, facts
from modtrace.views.html.overview import hot_rows
from modtrace.views.html.report import DEFAULT_BYTES, report
from modtrace.views.html.tree_paths import TreePaths

TABLE_BYTES: Final = 20_000
"""A notebook is text that is kept and compared: a cell that shows a trace stays below that."""
_ROWS: Final = ((20, 100), (12, 60), (6, 40), (0, 20))
_FINDINGS: Final = 5
_HEIGHT: Final = 760


@dataclass(frozen=True)
class InlineReport:
    """A report as notebooks show it. `text` is what is shown where there is no HTML."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def shown(stored: Stored) -> InlineReport:
    """The report in a frame that can run its own script and do nothing else: no storage, no links out, no forms."""
    html = report(stored).html
    text = f"<modtrace report of {count(stored.call_count)} calls, {count(len(html))} bytes>"
    if len(html.encode()) > DEFAULT_BYTES:
        message = "The report is too large to be kept in a notebook: write it with t.to_html('report.html')."
        return InlineReport(f"{table(stored)}<p>{markup(message)}</p>", text)
    page = html.replace("&", "&amp;").replace('"', "&quot;")
    frame = (
        f'<iframe sandbox="allow-scripts" title="modtrace report" width="100%" height="{_HEIGHT}" '
        f'style="border:1px solid #8888;border-radius:6px" srcdoc="{page}"></iframe>'
    )
    return InlineReport(frame, text)


@once
def table(stored: Stored) -> str:
    """The run's end, figures, findings and the hottest modules as HTML: no script, TABLE_BYTES at the most."""
    words, tree = facts(stored), placed(stored)
    paths = TreePaths(tree.tree)
    for most, limit in _ROWS:
        figures = " &nbsp; ".join(
            f"<span {_LINE}>{markup(title, 40)} <b>{markup(value, limit)}</b></span>"
            for title, value in words.figures
        )
        remarks = words.findings[:_FINDINGS]
        items = "".join(
            f"<li>{markup(finding.text, 3 * limit)}; {markup(finding.remedy, 2 * limit)}</li>"
            for finding in remarks
        )
        missing = "".join(f"<li>{markup(gap, 2 * limit)}</li>" for gap in words.gaps[:_FINDINGS])
        parts = [
            f"<p><b>{markup(words.title, limit)}</b> {markup(words.status, 3 * limit)}<br>{figures}</p>",
            _ending(words, limit),
            f"<p><b>Worth a look</b></p><ul>{items}</ul>" if items else "",
            _hottest(stored, tree, paths, most, limit) if most and not words.nothing else "",
            f"<p><b>What is missing</b></p><ul>{missing}</ul>" if missing else "",
        ]
        html = f"<div>{''.join(parts)}</div>"
        if len(html.encode()) < TABLE_BYTES:
            break
    return html


_LINE: Final = 'style="white-space:nowrap"'
_LEFT: Final = 'style="text-align:left;white-space:nowrap"'
_RIGHT: Final = 'style="text-align:right;white-space:nowrap"'
_BAR_SIGNS: Final = 20


def _ending(words: ReportTexts, limit: int) -> str:
    """Where it failed or was when it ended, or why nothing was recorded."""
    lines = [f"Ended: {words.headline}"] if words.headline else []
    lines += [words.nothing] if words.nothing else []
    parts = "".join(f"<p><b>{markup(line, 6 * limit)}</b></p>" for line in lines)
    if words.nonfinite:
        items = "".join(f"<li>{markup(line, 6 * limit)}</li>" for line in words.nonfinite[1:])
        parts += f"<p><b>{markup(words.nonfinite[0], 6 * limit)}</b></p><ul>{items}</ul>"
    failed = words.failure
    if failed is None:
        return parts
    path = " &gt; ".join(
        markup(" ".join(filter(None, (place.name, place.type))), limit) for place in failed.path[-_FINDINGS:]
    )
    inputs = f", {markup(failed.path[-1].tensors, limit)}" if failed.path else ""
    facts_of = [failed.reason, f"at {failed.line}" if failed.line else None]
    items = "".join(f"<li>{markup(text, 6 * limit)}</li>" for text in facts_of if text)
    where = f" in {path}{inputs}" if path else ""
    return f"{parts}<p><b>Failed: {markup(failed.error, 4 * limit)}</b>{where}</p><ul>{items}</ul>"


def _hottest(stored: Stored, tree: MergedTree, paths: TreePaths, most: int, limit: int) -> str:
    """The hottest modules; their bars are signs of text, which no viewer of notebooks takes away."""
    profile, rows = flat_profile(stored), hot_rows(stored, tree, paths, most)
    has_backward = any(row.backward_ns for row in rows)
    longest_ns = max((row.bar_ns for row in rows), default=0)
    titles = ["module", "class", "self", "%", "", *(["forward", "backward"] if has_backward else []), "calls"]
    head = "".join(
        f"<th {_LEFT if position in (0, 1, 4) else _RIGHT}>{title}</th>"
        for position, title in enumerate(titles)
    )
    body = ""
    for row in rows:
        signs = "\u2588" * max(round(_BAR_SIGNS * row.bar_ns / longest_ns), 0) if longest_ns else ""
        parts = [duration(ns) if ns else "" for ns in (row.forward_ns, row.backward_ns)]
        numbers = [*(parts if has_backward else []), row.calls]
        body += (
            f"<tr><td {_LEFT}>{markup(row.label, limit)}</td><td {_LEFT}>{markup(row.type, limit)}</td>"
            f"<td {_RIGHT}>{duration(row.spent_ns)}</td><td {_RIGHT}>{row.share}</td>"
            f'<td {_LEFT}><span style="color:#3A86C8">{signs}</span></td>'
            f"{''.join(f'<td {_RIGHT}>{text}</td>' for text in numbers)}</tr>"
        )
    each = ", a step" if profile.window.steps else ""
    title = f"<b>Where the time went{each}</b> ({markup(profile.window.text)})"
    return f"<p>{title}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
