"""What torch compiled, as text."""

from __future__ import annotations

from textwrap import wrap
from typing import Final

import pandas as pd

from modtrace.analysis.compilations import Compiled
from modtrace.text import fit, pad, plain
from modtrace.units import duration, plural

MANY: Final = 40
MAX_LINES: Final = 3


def compilations_summary(found: Compiled | None, width: int) -> list[str]:
    """How much torch compiled, and why again; nothing where it compiled nothing."""
    if found is None:
        return []
    backward = f" and {plural(found.backward_graphs, 'backward')}" if found.backward_graphs else ""
    failed = f", {plural(found.failed, 'function')} could not be compiled" if found.failed else ""
    again = ""
    if found.recompiles:
        (reason, times, function), *others = found.reasons
        more = f" and {len(others)} more" if others else ""
        of = f" ({times}x)" if times > 1 else ""
        again = f"; {plural(found.recompiles, 'recompile')}: {plain(reason)} in {plain(function)}{of}{more}"
    text = f"{plural(found.graphs, 'graph')}{backward} in {duration(found.spent_ns)}{failed}{again}"
    lines = wrap(text, max(width - 12, 20))[:MAX_LINES]
    return [f"  {'compiled' if not at else '':<8}  {line}" for at, line in enumerate(lines)]


def compilations_lines(frame: pd.DataFrame, *, width: int) -> list[str]:
    """A line a compilation: when, how long, what and why again."""
    if not len(frame):
        return ["  torch compiled nothing while this was recorded"]
    lines = [f"  {'step':>6} {'took':>8}  {pad('graph', 8)} {pad('what', 34)} why"]
    for row in frame.head(MANY).to_dict("records"):
        step = "" if pd.isna(row["step"]) else str(row["step"])
        took = "?" if pd.isna(row["duration_ns"]) else duration(int(row["duration_ns"]))
        known = {name: None if pd.isna(value) else value for name, value in row.items()}
        file, number = known["source_file"], known["source_line"]
        place = "" if file is None or number is None else f"  {file.rpartition('/')[2]}:{number}"
        what = "its backward" if row["backward"] else f"{known['function'] or '?'}{place}"
        why = known["error"] or known["reason"] or ("again" if row["recompiled"] else "")
        cells = f"  {step:>6} {took:>8}  {pad(plain(row['compile']), 8)} {pad(fit(plain(what), 34), 34)} {plain(why)}"
        lines.append(fit(cells.rstrip(), width))
    if len(frame) > MANY:
        lines.append(f"  and {len(frame) - MANY} more: t.compilations has them all")
    return lines
