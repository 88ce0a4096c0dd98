"""The cost of tracing as text."""

from __future__ import annotations

from collections.abc import Iterable

from modtrace.analysis.tracing_cost import StepCost
from modtrace.units import duration, percent


def cost_text(costs: Iterable[StepCost | None]) -> str:
    """`7.0% of the steps (4.1 ms each)`, of several processes together; `?` where one is not known.

    Without the share where it would be 100 % or more.
    """
    known = list(costs)
    total = steps = steps_ns = 0
    for step_cost in known:
        if step_cost is None:
            return "?"
        total, steps, steps_ns = (
            total + step_cost.cost_ns,
            steps + step_cost.steps,
            steps_ns + step_cost.steps_ns,
        )
    if not steps:
        return "?"
    each = duration(total // steps)
    if total >= steps_ns:  # a step or two that are mostly first looks: a share of them says nothing
        return each if steps == 1 else f"{each} a step"
    return f"{percent(total, steps_ns)}% of the steps ({each} each)"
