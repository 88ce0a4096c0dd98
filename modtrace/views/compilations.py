"""Compilations of torch as text."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, Final

from modtrace.analysis.compilations import Compiled
from modtrace.text import and_more, fit, pad, plain
from modtrace.units import duration, plural

if TYPE_CHECKING:
    import pandas as pd

MANY: Final = 40
MAX_LINES: Final = 3


def compilations_summary(compiled: Compiled | None, width: int) -> list[str]:
    """Number and time of compilations, and reasons of recompiles; nothing where torch compiled nothing."""
    if compiled is None:
        return []
    backward = f" and {plural(compiled.backward_graphs, 'backward')}" if compiled.backward_graphs else ""
    failed = f", {plural(compiled.failed, 'function')} could not be compiled" if compiled.failed else ""
    again = ""
    if compiled.recompiles:
        reasons = [
            f"{plain(reason)} in {plain(function)}{f' ({times}x)' if times > 1 else ''}"
            for reason, times, function in compiled.reasons
        ]
        again = f"; {plural(compiled.recompiles, 'recompile')}: {and_more(reasons, 1)}"
    text = f"{plural(compiled.graphs, 'graph')}{backward} in {duration(compiled.spent_ns)}{failed}{again}"
    lines = wrap(text, max(width - 12, 20))[:MAX_LINES]
    return [f"  {'compiled' if not index else '':<8}  {line}" for index, line in enumerate(lines)]


def compilations_lines(frame: pd.DataFrame) -> list[str]:
    """A line a compilation: when, how long, what and why again."""
    import pandas as pd

    if not len(frame):
        return ["  torch compiled nothing while this was recorded"]
    lines = [f"  {'step':>6} {'took':>8}  {pad('graph', 8)} {pad('what', 34)} why"]
    for row in frame.head(MANY).to_dict("records"):
        step = "" if pd.isna(row["step"]) else str(row["step"])
        took = "?" if pd.isna(row["duration_ns"]) else duration(int(row["duration_ns"]))
        known = {name: None if pd.isna(value) else value for name, value in row.items()}
        file, number = known["source_file"], known["source_line"]
        place = "" if file is None or number is None else f"  {file.rpartition('/')[2]}:{number}"
        subject = "its backward" if row["backward"] else f"{known['function'] or '?'}{place}"
        why = known["error"] or known["reason"] or ("again" if row["recompiled"] else "")
        graph, subject = pad(plain(row["compile"]), 8), pad(fit(plain(subject), 34), 34)
        lines.append(f"  {step:>6} {took:>8}  {graph} {subject} {plain(why)}".rstrip())
    if len(frame) > MANY:
        lines.append(f"  and {len(frame) - MANY} more: t.compilations has them all")
    return lines
