"""Where a run stands, once, as text: what is shown where there is no terminal."""

from __future__ import annotations

from pathlib import Path

from modtrace.analysis.live import LiveTrace
from modtrace.analysis.live_tree import LiveTree
from modtrace.text import plain
from modtrace.views.live import live_text
from modtrace.views.live.live_lines import fit_lines, live_lines
from modtrace.views.models.live_model import LiveModel
from modtrace.views.tui.tree_lines import CURSOR_COLUMNS

ROWS = 40
LOOKS = 10_000
"""A run that is written to without a pause is shown as it was then."""


def status_text(path: Path) -> str:
    """Title, steps and the rows of the last 20 steps: ASCII, 80 columns.

    Raises:
        TraceError: there is no trace that this version can read.
    """
    trace = LiveTrace(path)
    for _ in range(LOOKS):
        moment = trace.look()
        if not (moment.behind or moment.changed):
            break
    return text(trace)


def text(trace: LiveTrace) -> str:
    """The same of a trace that has been looked at."""
    tree = LiveTree(trace)
    live = LiveModel(tree)
    live.refresh()
    state = trace.state
    lines = [
        f"{live_text.title(trace, None, tree, state)}  {live_text.state_text(trace, state)}",
        live_text.cost(tree),
    ]
    lines += live_text.step_lines(tree, 80, ascii=True)
    drawn = live_lines(live)
    width = 80 + CURSOR_COLUMNS
    fit_lines(drawn, live, width, change=True)
    pieces = [drawn.head(width), *(drawn.line(row, width) for row in range(min(len(drawn), ROWS)))]
    lines += ["", *("".join(text for text, _ in line)[CURSOR_COLUMNS:] for line in pieces)]
    if len(drawn) > ROWS:
        lines.append(f"{len(drawn) - ROWS} more rows")
    return "".join(f"{plain(line).rstrip()}\n" for line in lines if line or line == "")
