"""Steps as text: where an iteration goes."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.phases import Steps
from modtrace.analysis.statistics import Chosen, quantile
from modtrace.analysis.work import StepWork
from modtrace.text import plain
from modtrace.trace.schema import PHASES
from modtrace.units import count, duration, percent, plural, scaled

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_ENDS: Final = {
    "mark": "ended by modtrace.step()",
    "optimizer": "ended by the optimizer",
    "forward": "ended by the next forward",
    "root": "each root call is one",
}
_SHORT: Final = {"optimizer": "optim", "zero_grad": "zero", "backward": "bwd", "forward": "fwd"}
MANY: Final = 40
"""More steps than that are not all shown: the first, the slowest and the last are."""


def steps_summary(
    found: Steps, work: StepWork, chosen: Chosen, width: int, *, timed: bool = True
) -> list[str]:
    """How long steps take, what they are made of, what they compute, and which steps these figures are of."""
    if not len(found):
        return []
    some = chosen.steps
    took, number = (found.end - found.start)[some], np.flatnonzero(some)
    computed = _computed(found.end - found.start, work, some, timed=timed)
    of = [f"  of        {chosen.text}"]
    if found.by == "root":
        return [*computed, *of] if computed else []
    p50, p95 = (quantile(took, share) for share in (50, 95))
    at = int(took.argmax())
    total = int(took.sum())
    spent = [(name, int(found.spent[code][some].sum())) for code, name in enumerate(PHASES)]
    spent.append(("other threads", int(found.threads[some].sum())))
    spent.append(("other", total - sum(ns for _, ns in spent)))
    parts = [f"{name} {percent(ns, total)}%" for name, ns in spent if ns]
    longest = f"max {duration(int(took[at]))} at step {number[at]}"
    lines = [f"  step      p50 {duration(p50)}   p95 {duration(p95)}   {longest}"]
    line = "  of which "
    for part in parts:
        if len(line) + len(part) + 2 > width:
            lines.append(line)
            line = "           "
        line += f" {part} "
    return [*lines, line.rstrip(), *computed, *of]


def _computed(took: Ints, work: StepWork, chosen: Bools, *, timed: bool) -> list[str]:
    """FLOPs of a step and how fast they were; of steps of which a part is not known the least that they can be, and
    what that leaves out. No line where nothing is computed, or nothing was counted. No speed where times are not those
    of the work (`timed`) but of its launch.
    """
    flops, least = work.flops[chosen], work.least[chosen]
    if not len(flops) or (least < 0).any():
        return []
    if (flops >= 0).all():
        if not flops.sum():
            return []
        rate = int(flops.sum()) * 10**9 // max(int(took[chosen].sum()), 1)
        speed = f"   {scaled(rate, 'FLOP/s')}" if timed else ""
        return [f"  computes  {scaled(int(np.median(flops)), 'FLOP')} a step{speed}"]
    names = dict.fromkeys(name for at in np.flatnonzero(chosen) for name in work.uncounted[at])
    return [
        f"  computes  at least {scaled(int(np.median(least)), 'FLOP')} a step, without {_named(list(names))}"
    ]


def _named(names: list[str]) -> str:
    """Operations by their own names, without the library's."""
    shown = list(dict.fromkeys(plain(name.rpartition(".")[2]) for name in names))
    more = f" and {len(shown) - 4} more" if len(shown) > 4 else ""
    return ", ".join(shown[:4]) + more


def steps_lines(
    found: Steps,
    samples: Ints,
    work: StepWork,
    chosen: Chosen,
    *,
    width: int,
    timed: bool = True,
) -> list[str]:
    """A line a step: its time, that of each phase, samples and FLOPs a second; `*` where operations were counted.

    Args:
        found: the steps of one process.
        samples: of each step, -1 where they are not known.
        work: what each step computes; `>` stands before the least that it can be.
        chosen: the steps that the figures below are of.
        width: columns; phases that do not fit are left out, the smallest first.
        timed: times are those of the work, not of its launch on a device.
    """
    head = f"  {plural(len(found), 'step')}, {_ENDS[found.by]}"
    if not len(found):
        return [head]
    took = found.end - found.start
    spent = {name: found.spent[code] for code, name in enumerate(PHASES) if found.spent[code].any()}
    if found.threads.any():
        spent["threads"] = found.threads
    spent["other"] = took - found.spent.sum(axis=0) - found.threads
    rates = [("samples/s", samples, "")] if (samples >= 0).any() else []
    rates += [("FLOP/s", work.least, "FLOP/s")] if timed and (work.least > 0).any() and width >= 100 else []
    room = max((width - 20 - 13 * len(rates)) // 9, 1)
    largest = sorted(spent, key=lambda name: -int(spent[name].sum()))[:room]
    shown = [name for name in spent if name in largest]
    cells = "".join(f" {_SHORT.get(name, name):>8}" for name in shown)
    tail = "".join(f" {name:>12}" for name, _, _ in rates)
    lines = [head, f"  {'step':>6} {'total':>8}{cells}{tail}"]
    before = -1
    for at in _chosen(took):
        if at != before + 1:
            lines.append(f"  {'...':>6}")
        before = at
        row = "".join(f" {duration(int(spent[name][at])):>8}" for name in shown)
        rate = "".join(
            f" {_bound(unit, work, at) + _rate(int(values[at]), int(took[at]), unit):>12}"
            for _, values, unit in rates
        )
        mark = "*" if work.counted[at] else " "
        lines.append(
            f"  {at:>6}{mark}{duration(int(took[at])):>8}{row}{rate}{'' if found.whole[at] else ' unfinished'}"
        )
    hidden = len(took) - len(_chosen(took))
    if hidden:
        lines.append(f"  {plural(hidden, 'step')} between are not shown: modtrace.load(...).steps has all")
    if work.counted.any():
        lines.append("  * operations were counted in it, which its times include")
    return [*lines, *steps_summary(found, work, chosen, width, timed=timed)]


def _bound(unit: str, work: StepWork, at: int) -> str:
    return ">" if unit == "FLOP/s" and work.flops[at] < 0 <= work.least[at] else ""


def _rate(amount: int, took_ns: int, unit: str) -> str:
    if amount < 0 or took_ns <= 0:
        return "?"
    rate = round(amount * 1e9 / took_ns)
    return scaled(rate, unit) if unit else count(rate)


def _chosen(took: Ints) -> list[int]:
    """All steps, or of many the first and last three and the slowest."""
    if len(took) <= MANY:
        return list(range(len(took)))
    slowest = np.argsort(-took, kind="stable")[: MANY - 6].tolist()
    return sorted({0, 1, 2, *slowest, len(took) - 3, len(took) - 2, len(took) - 1})
