"""Rules about ranges of values (`--values`): outputs, dead units, gradients that vanish, drift."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.call_values import extremes
from modtrace.analysis.columns import column
from modtrace.analysis.findings.base import Facts, Finding, listed
from modtrace.analysis.module_titles import module_titles
from modtrace.analysis.nonfinite import LARGEST, shown_title
from modtrace.analysis.values import ValueRows, value_rows
from modtrace.trace.schema import GRADIENT, LOSS, OUTPUT

MIN_READ_STEPS: Final = 3
"""Ranges of fewer steps say nothing of a module."""
NEAR_END: Final = 0.5
"""Share of the largest number of a type from which on an output is near its end."""
VANISHING: Final = 1e-6
"""Gradients that are smaller than this, beside the largest of the same step, do not train."""
EXPLODING: Final = 1e3
"""Growth of the largest gradient of a module, from the first steps to the last."""
DRIFT_STEPS: Final = 8
"""Steps that must have been read before a trend is spoken of."""
DRIFT_FACTOR: Final = 4.0
"""Growth or shrinking from the first quarter of these steps to the last."""
TREND: Final = 0.6
"""Kendall's rank correlation with time."""
CERTAIN: Final = 3.0
"""Standard deviations of the Mann-Kendall test: 0.3 % of numbers in no order have such a trend."""
LIKELY: Final = 1.64
"""The same of one in twenty, in one direction."""
MANY_STEPS: Final = 20
"""In fewer a loss may fall and nobody sees it."""
GOES_ON: Final = 0.3
"""Share of the change, by its logarithm, in the second half of the steps: what settles has less."""
LARGE_OUTPUT: Final = 10.0
SMALL_OUTPUT: Final = 0.1
"""Outputs that grow or shrink to less than this are usual: layers begin at 0, signals are scaled."""
TREND_POINTS: Final = 200
"""Steps that are looked at, evenly spaced among those that were read."""
RECTIFIERS: Final = ("ReLU", "ReLU6", "LeakyReLU", "GELU", "SiLU")

Ints = npt.NDArray[np.int64]


def saturating(facts: Facts) -> Iterator[Finding]:
    """Outputs that come near the largest number of their type."""
    rows = value_rows(facts.stored)
    ends = np.array([LARGEST.get(dtype, np.inf) for dtype in rows.dtype])
    near = (rows.kind == OUTPUT) & rows.read & np.isfinite(rows.largest) & (rows.largest > NEAR_END * ends)
    if not near.any():
        return
    most = int(np.flatnonzero(near)[np.argmax((rows.largest / ends)[near])])
    titles = _titles(facts, rows.module[near])
    end = ends[most]
    text = (
        f"outputs come near the end of {rows.dtype[most]}: {listed(titles)}, "
        f"up to {rows.largest[most]:,.0f} of {end:,.0f}"
        if end < 1e6
        else f"outputs come near the end of {rows.dtype[most]}: {listed(titles)}"
    )
    yield Finding(
        "saturating", text, "keep these layers in float32, or scale what they are given", wrong=True
    )


def dead(facts: Facts) -> Iterator[Finding]:
    """Rectifiers whose output stays 0 in every step that was read."""
    rows = value_rows(facts.stored)
    types = facts.stored.table("modules").column("type").to_pylist()
    rectifies = np.array([*(name in RECTIFIERS for name in types), False], np.bool_)
    chosen = (rows.kind == OUTPUT) & rows.read & rectifies[rows.module]
    zero = [
        module
        for module in np.unique(rows.module[chosen]).tolist()
        if _steps(rows, chosen & (rows.module == module)) >= MIN_READ_STEPS
        and not rows.largest[chosen & (rows.module == module)].any()
    ]
    if zero:
        text = f"the output stays 0: {listed(_titles(facts, np.array(zero)))}"
        yield Finding("dead", text, "lower the learning rate, or look at how it is initialised", wrong=True)


def vanishing(facts: Facts) -> Iterator[Finding]:
    """Gradients that are next to nothing beside the largest of the same step, in every step that was read."""
    rows = value_rows(facts.stored)
    chosen = (
        (rows.kind == GRADIENT)
        & rows.read
        & (rows.module >= 0)
        & np.isfinite(rows.largest)
        & (rows.step >= 0)
    )
    if not chosen.any():
        return
    step, module, largest = rows.step[chosen], rows.module[chosen], rows.largest[chosen]
    greatest = np.zeros(int(step.max()) + 1)
    np.maximum.at(greatest, step, largest)
    share = np.divide(largest, greatest[step], out=np.ones_like(largest), where=greatest[step] > 0)
    small = [
        number
        for number in np.unique(module).tolist()
        if len(np.unique(step[module == number])) >= MIN_READ_STEPS
        and share[module == number].max() < VANISHING
    ]
    if small:
        least = share[np.isin(module, small)].max()
        text = f"gradients vanish: {listed(_titles(facts, np.array(small)))}, at most {least:.0e} of the largest one"
        yield Finding("vanishing", text, "add residual connections or normalisation, or change how it is initialised",
                      wrong=True)  # fmt: skip


def exploding(facts: Facts) -> Iterator[Finding]:
    """Gradients that have grown a thousandfold from the first steps that were read to the last."""
    rows = value_rows(facts.stored)
    chosen = (
        (rows.kind == GRADIENT)
        & rows.read
        & (rows.module >= 0)
        & np.isfinite(rows.largest)
        & (rows.step >= 0)
    )
    grown = []
    for module in np.unique(rows.module[chosen]).tolist():
        own = chosen & (rows.module == module)
        steps = np.unique(rows.step[own])
        if len(steps) < 2 * MIN_READ_STEPS:
            continue
        by_step = [rows.largest[own & (rows.step == step)].max() for step in steps.tolist()]
        first, last = np.median(by_step[:MIN_READ_STEPS]), np.median(by_step[-MIN_READ_STEPS:])
        if first > 0 and last > EXPLODING * first:
            grown.append((last / first, module))
    if grown:
        most = max(grown)[0]
        text = (
            f"gradients explode: {listed(_titles(facts, np.array([module for _, module in grown])))}, "
            f"{most:,.0f} times larger at the end"
        )
        yield Finding("exploding", text, "clip gradients, or lower the learning rate", wrong=True)


def values_drift(facts: Facts) -> Iterator[Finding]:
    """Outputs that grow or shrink step after step, and gradients that grow so, without a loss that falls.

    A model that learns changes its outputs and gradients manyfold, so nothing is said where the loss falls, and of what
    the model as a whole gives, of gradients and of few steps only where it rises. Nor where layers compute in float16:
    a GradScaler changes the scale of loss and gradients.
    """
    rows = value_rows(facts.stored)
    loss = loss_trend(rows)
    if loss is None or loss < -LIKELY or "float16" in rows.dtype:
        return
    rises, many = loss > CERTAIN, len(np.unique(rows.step[rows.step >= 0])) >= MANY_STEPS
    outputs = _by_step(rows, _readable(rows, OUTPUT) & (rows.elements > 1), rows.module)
    grown, small = {}, {}
    for module, largest in outputs.items():
        change, last = steady_change(largest), float(largest[-1])
        if change >= DRIFT_FACTOR and last >= LARGE_OUTPUT:
            grown[module] = change
        elif 0 < change <= 1 / DRIFT_FACTOR and last <= SMALL_OUTPUT:
            small[module] = 1 / change
    tops = column(facts.stored.table("names"), "root").tolist()
    results = [_quarters(outputs[top]) for top in set(tops) & set(outputs)]
    if grown and (rises or (many and not any(last >= DRIFT_FACTOR * first for first, _, last in results))):
        yield _drift(facts, grown, "grow", "larger", rises=rises)
    if small and (rises or many):
        yield _drift(facts, small, "shrink", "smaller", rises=rises)
    gradients = _readable(rows, GRADIENT) & (rows.module >= 0)
    for largest in _by_step(rows, gradients, np.zeros_like(rows.module)).values():
        change = steady_change(largest)
        if rises and DRIFT_FACTOR <= change <= EXPLODING:
            text = (
                f"gradients grow while the loss rises: the largest is {change:,.0f} times larger at the end"
            )
            yield Finding("values_drift", text, "clip gradients, or lower the learning rate", wrong=True)


def _drift(facts: Facts, changes: dict[int, float], way: str, than: str, *, rises: bool) -> Finding:
    names = listed(_titles(facts, np.array(list(changes))))
    loss = "the loss rises" if rises else "the loss does not fall"
    text = (
        f"outputs {way} step by step while {loss}: {names}, up to {max(changes.values()):,.0f} times {than}"
    )
    return Finding("values_drift", text, "look at learning rate, weight decay and normalisation", wrong=True)


def steady_change(values: npt.NDArray[np.float64]) -> float:
    """Change of positive numbers from their first quarter to the last, where it is steady and goes on; else 0.

    Args:
        values: one a step, in order, shape (steps,).
    """
    values = _thinned(values)
    count = len(values)
    if count < DRIFT_STEPS or values.min() <= 0:
        return 0.0
    half = count // 2
    first, between, last = _quarters(values)
    if first == last:
        return 0.0
    sign = 1 if last > first else -1
    if sign * kendall(values) < TREND or sign * mann_kendall(values) < CERTAIN:
        return 0.0
    if min(sign * kendall(values[:half]), sign * kendall(values[half:])) <= 0:
        return 0.0
    goes_on = np.log(last / between) / np.log(last / first) >= GOES_ON
    return last / first if goes_on else 0.0


def _quarters(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Medians of the first quarter of numbers, of one in the middle, and of the last."""
    count = len(values)
    quarter = max(count // 4, 1)
    first, middle, last = (
        float(np.median(values[start : start + quarter]))
        for start in (0, count // 2 - quarter // 2, count - quarter)
    )
    return first, middle, last


def kendall(values: npt.NDArray[np.float64]) -> float:
    """Kendall's rank correlation of numbers with their order, from -1 to 1; equal ones count for neither."""
    count = len(values)
    signs = np.sign(values[None, :] - values[:, None])
    return float(np.triu(signs, 1).sum() * 2 / max(count * (count - 1), 1))


def mann_kendall(values: npt.NDArray[np.float64]) -> float:
    """The Mann-Kendall statistic of a trend, in standard deviations; below 0 where numbers fall."""
    count = len(values)
    score = kendall(values) * count * (count - 1) / 2
    deviation = np.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    return float(np.sign(score) * max(abs(score) - 1, 0) / deviation) if count > 1 else 0.0


def loss_trend(rows: ValueRows) -> float | None:
    """The `mann_kendall` of the loss over the steps, of several in a step the one that falls most.

    None where too few are known, inf where it ends in NaN.
    """
    chosen = (rows.kind == LOSS) & rows.read & (rows.step >= 0)
    turns: dict[tuple[int, int], int] = {}
    series: dict[int, list[float]] = {}
    for row in np.flatnonzero(chosen).tolist():  # a step may have several: of two models, of parts of a batch
        key = (int(rows.process[row]), int(rows.step[row]))
        turns[key] = turns.get(key, -1) + 1
        series.setdefault(turns[key], []).append(float(rows.maximum[row]))
    trends = [_trend(np.array(losses)) for losses in series.values() if len(losses) >= DRIFT_STEPS]
    return min(trends, default=None)


def _trend(losses: npt.NDArray[np.float64]) -> float:
    return mann_kendall(_thinned(losses)) if np.isfinite(losses[-len(losses) // 4 :]).all() else np.inf


def _readable(rows: ValueRows, kind: int) -> npt.NDArray[np.bool_]:
    chosen: npt.NDArray[np.bool_] = (
        (rows.kind == kind) & rows.read & np.isfinite(rows.largest) & (rows.step >= 0)
    )
    return chosen


def _by_step(
    rows: ValueRows, chosen: npt.NDArray[np.bool_], group: Ints
) -> dict[int, npt.NDArray[np.float64]]:
    """The greatest absolute value of each step in which a group was read, in order, by group."""
    if not chosen.any():
        return {}
    pairs, which = np.unique(group[chosen] << 32 | rows.step[chosen], return_inverse=True)
    largest, _ = extremes(which, rows.largest[chosen], len(pairs))
    groups, starts = np.unique(pairs >> 32, return_index=True)
    return dict(zip(groups.tolist(), np.split(largest, starts[1:]), strict=True))


def _thinned(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    chosen = np.linspace(0, len(values) - 1, min(len(values), TREND_POINTS))
    thinned: npt.NDArray[np.float64] = values[chosen.astype(np.int64)]
    return thinned


def _steps(rows: ValueRows, chosen: npt.NDArray[np.bool_]) -> int:
    return len(np.unique(rows.step[chosen]))


def _titles(facts: Facts, modules: Ints) -> dict[str, None]:
    """Names of modules, in the order in which they come."""
    titles = module_titles(facts.stored)
    return dict.fromkeys(
        shown_title(*titles[module]) for module in dict.fromkeys(modules.tolist()) if module >= 0
    )
