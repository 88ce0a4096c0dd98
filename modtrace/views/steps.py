"""Steps as text: where an iteration goes."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.phases import Steps
from modtrace.trace.schema import PHASES
from modtrace.units import count, duration, percent, plural

Ints = npt.NDArray[np.int64]

_ENDS: Final = {
    "mark": "ended by modtrace.step()",
    "optimizer": "ended by the optimizer",
    "forward": "ended by the next forward",
    "root": "each root call is one",
}
_SHORT: Final = {"optimizer": "optim", "zero_grad": "zero", "backward": "bwd", "forward": "fwd"}
MANY: Final = 40
"""More steps than that are not all shown: the first, the slowest and the last are."""


def steps_summary(found: Steps, width: int) -> list[str]:
    """Two lines: how long steps take, and what they are made of; the first step is left out of the first."""
    if not len(found) or found.by == "root":
        return []
    took = found.end - found.start
    usual = took[found.whole][1:] if found.whole.sum() > 1 else took
    if not len(usual):
        usual = took
    ranked = np.sort(usual)
    p50, p95 = (int(ranked[(len(ranked) * share + 99) // 100 - 1]) for share in (50, 95))
    at = int(took.argmax())
    total = int(took.sum())
    spent = [(name, int(found.spent[code].sum())) for code, name in enumerate(PHASES)]
    spent.append(("other", total - sum(ns for _, ns in spent)))
    parts = [f"{name} {percent(ns, total)}%" for name, ns in spent if ns]
    lines = [
        f"  step      p50 {duration(p50)}   p95 {duration(p95)}   max {duration(int(took[at]))} at step {at}"
    ]
    line = "  of which "
    for part in parts:
        if len(line) + len(part) + 2 > width:
            lines.append(line)
            line = "           "
        line += f" {part} "
    return [*lines, line.rstrip()]


def steps_lines(found: Steps, samples: Ints, *, width: int) -> list[str]:
    """A line a step: its time, that of each phase, and samples a second.

    Args:
        found: the steps of one process.
        samples: of each step, -1 where they are not known.
        width: columns; phases that do not fit are left out, the smallest first.
    """
    head = f"  {plural(len(found), 'step')}, {_ENDS[found.by]}"
    if not len(found):
        return [head]
    took = found.end - found.start
    spent = {name: found.spent[code] for code, name in enumerate(PHASES) if found.spent[code].any()}
    spent["other"] = took - found.spent.sum(axis=0)
    room = max((width - 19 - (11 if (samples >= 0).any() else 0)) // 9, 1)
    largest = sorted(spent, key=lambda name: -int(spent[name].sum()))[:room]
    shown = [name for name in spent if name in largest]
    cells = "".join(f" {_SHORT.get(name, name):>8}" for name in shown)
    tail = f" {'samples/s':>10}" if (samples >= 0).any() else ""
    lines = [head, f"  {'step':>6} {'total':>8}{cells}{tail}"]
    before = -1
    for at in _chosen(took):
        if at != before + 1:
            lines.append(f"  {'...':>6}")
        before = at
        row = "".join(f" {duration(int(spent[name][at])):>8}" for name in shown)
        rate = ""
        if tail:
            known = samples[at] >= 0 and took[at] > 0
            rate = f" {count(round(int(samples[at]) * 1e9 / int(took[at]))) if known else '?':>10}"
        lines.append(
            f"  {at:>6} {duration(int(took[at])):>8}{row}{rate}{'' if found.whole[at] else ' unfinished'}"
        )
    hidden = len(took) - len(_chosen(took))
    if hidden:
        lines.append(f"  {plural(hidden, 'step')} between are not shown: modtrace.load(...).steps has all")
    return [*lines, *steps_summary(found, width)]


def _chosen(took: Ints) -> list[int]:
    """All steps, or of many the first and last three and the slowest."""
    if len(took) <= MANY:
        return list(range(len(took)))
    slowest = np.argsort(-took, kind="stable")[: MANY - 6].tolist()
    return sorted({0, 1, 2, *slowest, len(took) - 3, len(took) - 2, len(took) - 1})
