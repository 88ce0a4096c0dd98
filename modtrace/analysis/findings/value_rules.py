"""Rules about ranges of values (`--values`): outputs near the end of their type, dead units, gradients that vanish."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.findings.base import Facts, Finding, listed
from modtrace.analysis.module_titles import module_titles
from modtrace.analysis.nonfinite import LARGEST, shown_title
from modtrace.analysis.values import ValueRows, value_rows
from modtrace.trace.schema import GRADIENT, OUTPUT

MIN_READ_STEPS: Final = 3
"""Ranges of fewer steps say nothing of a module."""
NEAR_END: Final = 0.5
"""Share of the largest number of a type from which on an output is near its end."""
VANISHING: Final = 1e-6
"""Gradients that are smaller than this, beside the largest of the same step, do not train."""
EXPLODING: Final = 1e3
"""Growth of the largest gradient of a module, from the first steps to the last."""
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


def _steps(rows: ValueRows, chosen: npt.NDArray[np.bool_]) -> int:
    return len(np.unique(rows.step[chosen]))


def _titles(facts: Facts, modules: Ints) -> dict[str, None]:
    """Names of modules, in the order in which they come."""
    titles = module_titles(facts.stored)
    return dict.fromkeys(
        shown_title(*titles[module]) for module in dict.fromkeys(modules.tolist()) if module >= 0
    )
