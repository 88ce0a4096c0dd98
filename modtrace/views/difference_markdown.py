"""A comparison as Markdown, for a comment on a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from modtrace.analysis.comparing.comparison import Comparison
from modtrace.analysis.comparing.gate import LimitResult
from modtrace.analysis.comparing.run_numbers import STEP
from modtrace.text import plain
from modtrace.units import duration
from modtrace.views.difference_text import (
    LINES,
    STATUS_WORDS,
    line_label,
    measured_text,
    number_cells,
    ratio_text,
    signed,
    structure_cells,
    time_cells,
)

_ESCAPED = str.maketrans(
    {char: f"\\{char}" for char in "\\`*_[]#|~"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " "}
)
_MOST = 30


def difference_markdown(
    comparison: Comparison, names: tuple[str, str], limits: Sequence[LimitResult] = ()
) -> str:
    """The verdicts first, then tables; what is long is folded away."""
    step = comparison.steps[STEP]
    told = step.verdict if not step.reason else f"{step.verdict} ({step.reason})"
    figures = f"{duration(step.baseline_ns)} → {duration(step.candidate_ns)}"
    runs = (
        "one run a side"
        if comparison.runs == (1, 1)
        else f"{comparison.runs[0]} runs against {comparison.runs[1]}"
    )
    parts = [
        f"### modtrace: step {ratio_text(step.ratio)}, {escaped(told)}",
        f"{figures}, {runs}, {escaped(names[0])} → {escaped(names[1])}",
        *(f"> {escaped(note)}" for note in comparison.notes),
        _table(("limit", "", "measured"), [_limit_cells(result) for result in limits]),
        _lines(comparison),
        _folded("Environment", ("", "baseline", "candidate"), [
            (change.name, change.baseline, change.candidate) for change in comparison.environment
        ]),
        _folded("Structure", ("", "module", ""), [structure_cells(change) for change in comparison.structure]),
        _folded("Numbers", ("", "baseline", "candidate", "change"), [number_cells(one) for one in comparison.numbers]),
        _folded("Phases", ("", "baseline", "candidate", "change", "interval", ""), [
            time_cells(name, time) for name, time in comparison.steps.items()
        ]),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def escaped(text: str) -> str:
    """A text in which Markdown and HTML see nothing but letters."""
    return plain(text).translate(_ESCAPED)


def _limit_cells(result: LimitResult) -> tuple[str, str, str]:
    worst = result.measured[0]
    name = f"{worst.name} " if worst.name else ""
    return result.limit.text, STATUS_WORDS[result.status], f"{name}{measured_text(worst)}"


def _lines(comparison: Comparison) -> str:
    change = comparison.step_change
    if change is None:
        return ""
    shown, hidden = change.lines[:LINES], change.lines[LINES:]
    rows = [
        (
            line_label(line),
            signed(line.change_ns),
            duration(line.time.baseline_ns),
            duration(line.time.candidate_ns),
            f"{ratio_text(line.time.ratio)} {line.time.verdict}",
        )
        for line in shown
    ]
    if change.unmatched_ns:
        rows.append(("modules of one side alone", signed(change.unmatched_ns), "", "", ""))
    rows.append(("all else", signed(change.other_ns + sum(line.change_ns for line in hidden)), "", "", ""))
    rows.append(("the step", signed(change.change_ns), "", "", ""))
    return _table(("what changed, a step", "change", "it took", "takes", ""), rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [heads, ["---"] * len(heads), *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _folded(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table behind a title that opens it."""
    if not rows:
        return ""
    more = f"\n\nand {len(rows) - _MOST} more" if len(rows) > _MOST else ""
    return f"<details><summary>{title}</summary>\n\n{_table(heads, rows[:_MOST])}{more}\n\n</details>"
