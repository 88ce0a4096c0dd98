"""A trace in a notebook: a table that every viewer shows, and the whole report in a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from modtrace.analysis.tree import placed
from modtrace.text import markup
from modtrace.trace.reader import Stored
from modtrace.units import count
from modtrace.views.html import static
from modtrace.views.html.facts import facts
from modtrace.views.html.report import DEFAULT_BYTES, report

TABLE_BYTES: Final = 20_000
"""A notebook is text that is kept and compared: a cell that shows a trace stays below that."""
_ROWS: Final = ((20, 100), (12, 60), (6, 40), (0, 20))
_FINDINGS: Final = 5
_HEIGHT: Final = 760


@dataclass(frozen=True)
class Shown:
    """A report as notebooks show it. `text` is what is shown where there is no HTML."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def shown(stored: Stored) -> Shown:
    """The report in a frame that can run its own script and do nothing else: no storage, no links out, no forms."""
    made = report(stored).html
    text = f"<modtrace report of {count(stored.table('calls').num_rows)} calls, {count(len(made))} bytes>"
    if len(made.encode()) > DEFAULT_BYTES:
        told = "The report is too large to be kept in a notebook: write it with t.to_html('report.html')."
        return Shown(f"{table(stored)}<p>{markup(told)}</p>", text)
    page = made.replace("&", "&amp;").replace('"', "&quot;")
    frame = (
        f'<iframe sandbox="allow-scripts" title="modtrace report" width="100%" height="{_HEIGHT}" '
        f'style="border:1px solid #8888;border-radius:6px" srcdoc="{page}"></iframe>'
    )
    return Shown(frame, text)


def table(stored: Stored) -> str:
    """What was run, what stands out and the largest rows: no script, TABLE_BYTES at the most."""
    words, at = facts(stored), placed(stored)
    for most, limit in _ROWS:
        figures = " &nbsp; ".join(
            f"{markup(what, 40)} <b>{markup(value, limit)}</b>" for what, value in words.figures
        )
        found = "".join(
            f"<li>{markup(one.text, 3 * limit)}; {markup(one.remedy, 2 * limit)}</li>"
            for one in words.findings[:_FINDINGS]
        )
        missing = "".join(f"<li>{markup(gap, 2 * limit)}</li>" for gap in words.gaps[:_FINDINGS])
        parts = [
            f"<p><b>{markup(words.title, limit)}</b> {markup(words.status, 3 * limit)}<br>{figures}</p>",
            static.rows(at, words, most=most, limit=limit, indent="em") if most else "",
            f"<p>Worth a look</p><ul>{found}</ul>" if found else "",
            f"<p>What is missing</p><ul>{missing}</ul>" if missing else "",
        ]
        made = f"<div>{''.join(parts)}</div>"
        if len(made.encode()) < TABLE_BYTES:
            break
    return made
