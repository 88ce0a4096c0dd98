"""The table of the hottest modules and what stands above it, as lines. No Textual."""

from __future__ import annotations

from typing import Final

from modtrace.analysis.device_times import launch_timed
from modtrace.analysis.flops import work_of_steps
from modtrace.analysis.statistics import chosen_steps
from modtrace.text import fit
from modtrace.units import duration, percent
from modtrace.views.models.hot_rows import HotRows
from modtrace.views.models.tree_model import TreeModel
from modtrace.views.models.viewer_model import Rank
from modtrace.views.steps import phase_shares, steps_summary
from modtrace.views.tui.styles import Piece, phase_text
from modtrace.views.tui.tree_lines import TreeLines

SORTS: Final = ("self", "device", "forward", "backward", "calls", "name")
LONGEST_BAR: Final = 70


def hot_lines(hot: HotRows, model: TreeModel, width: int) -> TreeLines:
    """The lines of a table; `fit_hot_lines` fits them to another width."""
    lines = TreeLines(
        model,
        max(hot.base_ns // hot.profile.per, 1),
        share=hot.key,
        texts=hot.texts,
        bar=lambda node: [(name, share / (hot.largest or 1.0)) for name, share in hot.parts(node)],
        titles={"share": "%"},
    )
    fit_hot_lines(lines, hot, width)
    return lines


def fit_hot_lines(lines: TreeLines, hot: HotRows, width: int) -> None:
    """Choose the columns for a width, and say what times are of."""
    names = ["device", "share", "self"] if hot.on_device else ["self", "share"]
    if any(row.backward_ns for row in hot.rows) and width >= 56:
        names += ["forward", "backward"]
    if width >= 76:
        names.append("calls")
    if width >= 100:
        names.append("bar")
    if width >= 110:
        names.append("output")
    lines.names = tuple(names)
    window = hot.profile.window
    of = window.text.partition(";")[0]
    lines.title = f"a step, {of}" if window.steps else of


def step_text(rank: Rank, width: int) -> str:
    """Median, p95 and slowest step, what a step computes, and what was counted, as far as there is room."""
    steps, part = rank.steps, rank.part
    chosen = chosen_steps(rank.stored, rank.process)
    profile = rank.profile()
    parts: list[str] = []
    if len(steps):
        work = work_of_steps(rank.stored, part.low, part.high, len(steps))
        timed = launch_timed(rank.stored) is None
        lines = steps_summary(steps, work, chosen, 400, timed=timed)
        parts += [" ".join(lines[0].split("  ")).strip()] if lines else []
    parts.append(f"of {profile.window.text}")
    parts.append(f"before the first call {duration(profile.before_first_ns)}")
    shown = ""
    for text in parts:
        if shown and len(shown) + len(text) + 3 > width:
            continue
        shown += ("   " if shown else " ") + text
    return fit(shown, width)


def phase_pieces(rank: Rank, width: int) -> list[Piece]:
    """The phases of a step, each with a bar in its hue; those of less than 1 % are in `other`."""
    steps = rank.steps
    counts = chosen_steps(rank.stored, rank.process).steps
    if not len(steps) or steps.by == "root":
        return []
    shares = phase_shares(steps, counts)
    total = sum(ns for _, ns in shares)
    spent = [(name, ns) for name, ns in shares if name != "other" and 100 * ns >= total]
    if len(spent) < len(shares):
        spent.append(("other", total - sum(ns for _, ns in spent)))
    texts = [(f" {name}", f" {percent(ns, total)}% ") for name, ns in spent]
    while len(texts) > 1 and sum(len(before) + len(behind) for before, behind in texts) > width:
        texts.pop()  # the last is the least of them all, or what is in no phase
    room = max(width - sum(len(before) + len(behind) + 1 for before, behind in texts), 0)
    room = min(room, LONGEST_BAR)
    pieces: list[Piece] = []
    for (name, ns), (before, behind) in zip(spent, texts, strict=False):
        bar = "#" * round(room * ns / total) if total else ""
        pieces += [(before, ""), (f" {bar}" if bar else "", phase_text(name)), (behind, "")]
    return pieces
