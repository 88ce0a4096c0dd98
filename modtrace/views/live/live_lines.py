"""The lines of the live tree: those of the viewer's tree, with columns of its own. No Textual."""

from __future__ import annotations

from modtrace.views.models.live_model import LiveModel
from modtrace.views.tui.tree_lines import TreeLines


def live_lines(live: LiveModel) -> TreeLines:
    """Lines of a live model; `fit_lines` brings their columns and title up to date."""
    return TreeLines(
        live.model,
        live.span_ns,
        texts={"calls": live.calls_text, "change": live.change_text},
    )


def fit_lines(lines: TreeLines, live: LiveModel, width: int, *, change: bool) -> None:
    """Choose the columns for a width; `change`: with the column that compares with the window before."""
    names = ["self", "share"]
    if width >= 60:
        names.insert(1, "total")
    if width >= 47:
        names += ["calls", "change"] if change else ["calls"]
    if width >= 100:
        names.append("bar")
    lines.names = tuple(names)
    lines.whole_ns = live.span_ns
    lines.title = live.window_text
