"""Steps as text: where an iteration goes."""

from __future__ import annotations

import textwrap
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.flops import StepWork
from modtrace.analysis.phases import Steps
from modtrace.analysis.statistics import Chosen, quantile
from modtrace.text import and_more, plain
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


BAR: Final = 40
"""Columns that the bars of the phases take together, where there is room."""


def steps_summary(
    steps: Steps, work: StepWork, chosen: Chosen, width: int, *, timed: bool = True
) -> list[str]:
    """Quantiles of step times with FLOPs of a step, bars of its phases, and the steps that these figures are of."""
    if not len(steps):
        return []
    in_statistics = chosen.steps
    took = (steps.end - steps.start)[in_statistics]
    ran = in_statistics if chosen.remarkable is None else in_statistics | chosen.remarkable
    computed = _computed(steps.end - steps.start, work, in_statistics, timed=timed)
    if not computed and len(np.unique(steps.modules)) > 1:  # calls of several modules have no median together
        return []
    if not steps.whole[in_statistics].any():
        return _counted(chosen, width)  # how long any took is not known
    p50, p95 = (quantile(took, share) for share in (50, 95))
    slowest = int(np.where(ran, steps.end - steps.start, -1).argmax())
    slowest_ns = int((steps.end - steps.start)[slowest])
    head = "CALL" if steps.by == "root" else "STEP"
    figures = f"  {head}  median {duration(p50)}"
    if len(took) > 1:
        tail, most = (_same_unit(duration(ns), duration(p50)) for ns in (p95, slowest_ns))
        figures += f"  p95 {tail}  slowest {most} at {slowest}"
    lines = [figures]
    if computed:
        together = f"{figures}     {computed}"
        lines = [together] if len(together) <= width else [figures, f"        {computed}"]
    if steps.by != "root":
        lines += _phase_bars(steps, in_statistics, int(took.sum()), width)
    return [*lines, *_counted(chosen, width)]


def _counted(chosen: Chosen, width: int) -> list[str]:
    """The steps that figures are of, in lines of this width."""
    return textwrap.wrap(
        f"counted  {chosen.text}", max(width, 40), initial_indent="  ", subsequent_indent=" " * 11
    )


def took_text(steps: Steps) -> str:
    """The time of steps behind their number: ` in 2.64 s`; where steps were left out `; 1,771 in full took 2.75 s`."""
    spent_ns = int((steps.end - steps.start).sum())
    recorded = int(steps.recorded.sum())
    if recorded < len(steps):
        return f"; {count(recorded)} in full took {duration(spent_ns)}"
    return f" in {duration(spent_ns)}" if spent_ns else ""


def _same_unit(text: str, before: str) -> str:
    """A time behind another one: its unit is said again only where it is another."""
    number, _, unit = text.partition(" ")
    return number if unit and unit == before.partition(" ")[2] else text


def phase_shares(steps: Steps, in_statistics: Bools) -> list[tuple[str, int]]:
    """(phase, nanoseconds) of the steps that count, in the order of a step; they add up to these steps."""
    spent = [(name, int(steps.spent[code][in_statistics].sum())) for code, name in enumerate(PHASES)]
    spent.append(("other threads", int(steps.threads[in_statistics].sum())))
    total = int((steps.end - steps.start)[in_statistics].sum())
    spent.append(("other", total - sum(ns for _, ns in spent)))
    return [(name, ns) for name, ns in spent if ns]


def _phase_bars(steps: Steps, in_statistics: Bools, total: int, width: int) -> list[str]:
    """`forward ######### 27.1%  backward ...`: phases of less than 1 % are in `other`."""
    shares = phase_shares(steps, in_statistics)
    spent = [(name, ns) for name, ns in shares if name != "other" and 100 * ns >= total]
    if len(spent) < len(shares):
        spent.append(("other", total - sum(ns for _, ns in spent)))
    texts = [f"{name}  {percent(ns, total)}%" for name, ns in spent]
    room = min(BAR, max(width - sum(map(len, texts)) - 2 * len(texts), 0))
    lines = [""]
    for name, ns in spent:
        bar = "#" * round(room * ns / total) if total else ""
        part = " ".join(filter(None, (name, bar, f"{percent(ns, total)}%")))
        if lines[-1] and len(lines[-1]) + len(part) + 2 > width:
            lines.append("")
        lines[-1] += f"  {part}"
    return lines


def _computed(took: Ints, work: StepWork, chosen: Bools, *, timed: bool) -> str:
    """FLOPs of a step and how fast they were; of steps of which a part is not known the least that they can be, and
    what that leaves out. "" where nothing is computed, or nothing was counted. No speed where times are not those
    of the work (`timed`) but of its launch.
    """
    flops, least = work.flops[chosen], work.least[chosen]
    if not len(flops) or (least < 0).any():
        return ""
    if (flops >= 0).all():
        if not flops.sum():
            return ""
        rate = int(flops.sum()) * 10**9 // max(int(took[chosen].sum()), 1)
        speed = f"  {scaled(rate, 'FLOP/s')}" if timed else ""
        return f"{scaled(int(np.median(flops)), 'FLOP')}{speed}"
    names = dict.fromkeys(name for step in np.flatnonzero(chosen) for name in work.uncounted[step])
    return f"at least {scaled(int(np.median(least)), 'FLOP')}, without {_named(list(names))}"


def _named(names: list[str]) -> str:
    """Operations by their own names, without the library's."""
    shown = list(dict.fromkeys(plain(name.rpartition(".")[2]) for name in names))
    return and_more(shown, 4)


def steps_lines(
    steps: Steps,
    samples: Ints,
    work: StepWork,
    chosen: Chosen,
    *,
    width: int,
    timed: bool = True,
) -> list[str]:
    """A line a step: its time, that of each phase, samples and FLOPs a second; `*` where operations were counted.

    Args:
        steps: the steps of one process.
        samples: of each step, -1 where they are not known.
        work: what each step computes; `>` stands before the least that it can be.
        chosen: the steps that the figures below are of.
        width: columns; phases that do not fit are left out, the smallest first.
        timed: times are those of the work, not of its launch on a device.
    """
    head = f"  {plural(len(steps), 'step')}, {_ENDS[steps.by]}"
    if not len(steps):
        return [head]
    took = steps.end - steps.start
    spent = {name: steps.spent[code] for code, name in enumerate(PHASES) if steps.spent[code].any()}
    if steps.threads.any():
        spent["threads"] = steps.threads
    spent["other"] = took - steps.spent.sum(axis=0) - steps.threads
    rates = [("samples/s", samples, "")] if (samples >= 0).any() else []
    rates += [("FLOP/s", work.least, "FLOP/s")] if timed and (work.least > 0).any() and width >= 100 else []
    room = max((width - 20 - 13 * len(rates)) // 9, 1)
    largest = sorted(spent, key=lambda name: -int(spent[name].sum()))[:room]
    shown = [name for name in spent if name in largest]
    cells = "".join(f" {_SHORT.get(name, name):>8}" for name in shown)
    tail = "".join(f" {name:>12}" for name, _, _ in rates)
    lines = [head, f"  {'step':>6} {'total':>8}{cells}{tail}"]
    before = -1
    shown_steps = _chosen(took, np.flatnonzero(steps.recorded))
    for step in shown_steps:
        if step != before + 1:
            lines.append(f"  {'...':>6}")
        before = step
        timed_ns = int(took[step]) if steps.whole[step] or took[step] else None
        row = "".join(
            f" {duration(None if timed_ns is None else int(spent[name][step])):>8}" for name in shown
        )
        rate = "".join(
            f" {_bound(unit, work, step) + _rate(int(values[step]), int(took[step]), unit):>12}"
            for _, values, unit in rates
        )
        mark = "*" if work.counted[step] else " "
        lines.append(
            f"  {step:>6}{mark}{duration(timed_ns):>8}{row}{rate}{'' if steps.whole[step] else ' unfinished'}"
        )
    lines += _not_shown(steps, len(shown_steps))
    if work.counted.any():
        lines.append("  * operations were counted in it, which its times include")
    return [*lines, *steps_summary(steps, work, chosen, width, timed=timed)]


def _not_shown(steps: Steps, shown: int) -> list[str]:
    """The number of steps that are not shown, and of those that are not recorded."""
    recorded, lines = int(steps.recorded.sum()), []
    if recorded > shown:
        lines.append(
            f"  {plural(recorded - shown, 'step')} between are not shown: modtrace.load(...).steps has all"
        )
    if recorded < len(steps):
        left_out = plural(len(steps) - recorded, "step")
        lines.append(f"  {left_out} were not recorded in full: modtrace info --rollups has sums of all")
    return lines


def _bound(unit: str, work: StepWork, step: int) -> str:
    return ">" if unit == "FLOP/s" and work.flops[step] < 0 <= work.least[step] else ""


def _rate(amount: int, took_ns: int, unit: str) -> str:
    if amount < 0 or took_ns <= 0:
        return "?"
    rate = round(amount * 1e9 / took_ns)
    return scaled(rate, unit) if unit else count(rate)


def _chosen(took: Ints, number: Ints) -> list[int]:
    """All steps of some numbers, or of many the first and last three and the slowest."""
    if len(number) <= MANY:
        chosen: list[int] = number.tolist()
        return chosen
    slowest = number[np.argsort(-took[number], kind="stable")[: MANY - 6]]
    return sorted({*number[:3].tolist(), *slowest.tolist(), *number[-3:].tolist()})
