"""The cost of tracing in words."""

from __future__ import annotations

import pytest

from modtrace.analysis.tracing_cost import StepCost
from modtrace.views.cost import cost_text

MS = 1_000_000


@pytest.mark.parametrize(
    ("costs", "text"),
    [
        ([StepCost(cost_ns=20 * MS, steps=5, steps_ns=200 * MS)], "10.0% of the steps (4.00 ms each)"),
        ([StepCost(cost_ns=13 * MS, steps=1, steps_ns=3 * MS)], "13.0 ms"),
        ([StepCost(cost_ns=30 * MS, steps=2, steps_ns=30 * MS)], "15.0 ms a step"),
        (
            [StepCost(cost_ns=MS, steps=1, steps_ns=9 * MS), StepCost(cost_ns=MS, steps=1, steps_ns=11 * MS)],
            "10.0% of the steps (1.00 ms each)",
        ),
        ([StepCost(cost_ns=MS, steps=1, steps_ns=9 * MS), None], "?"),
        ([], "?"),
    ],
)
def test_cost(costs, text):
    assert cost_text(costs) == text
