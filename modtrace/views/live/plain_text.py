"""Where a run stands, once, as text: what is shown where there is no terminal."""

from __future__ import annotations

from pathlib import Path

from modtrace.analysis.live import LiveTrace
from modtrace.analysis.live_tree import LiveTree
from modtrace.text import plain
from modtrace.views.live import words

ROWS = 40
LOOKS = 10_000
"""A run that is written to without a pause is shown as it was then."""


def told(path: Path) -> str:
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
    tree.refresh()
    state = trace.state
    lines = [f"{words.title(trace, None, tree, state)}  {words.state_text(trace, state)}", words.cost(tree)]
    lines += words.step_lines(tree, 80, ascii=True)
    lines += ["", words.tree_head(tree, 80, trend=True)]
    lines += [words.tree_row(tree, row, 80, trend=True) for row in tree.visible[:ROWS]]
    if len(tree.visible) > ROWS:
        lines.append(f"{len(tree.visible) - ROWS} more rows")
    return "".join(f"{plain(line).rstrip()}\n" for line in lines if line or line == "")
