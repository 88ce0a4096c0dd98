"""Random trees of calls: sharing, recursion, exceptions and interrupts at any place, caught or not."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import modtrace
from tests.torture.compare import assert_well_formed, one_to_one, oracle_rows, traced_rows
from tests.torture.observe import global_hooks
from tests.torture.oracle import Oracle


class Fault(Exception):
    pass


class Interrupt(BaseException):
    pass


ERRORS = (Fault, Interrupt)
CATCHES = ((), (Fault,), (Interrupt,), (Fault, Interrupt))


@dataclass
class Plan:
    """What one call does: which module it is, whom it calls, where it raises and what it catches."""

    slot: int
    children: list[Plan] = field(default_factory=list)
    raises_at: int | None = None
    error: type[BaseException] = Fault
    catches: tuple[type[BaseException], ...] = ()


class Planned(nn.Module):
    """Carries a plan out, calling whatever modules the plan says, itself included."""

    def __init__(self, slots):
        super().__init__()
        self.slots = slots

    def forward(self, x, plan):
        for index, child in enumerate(plan.children):
            if plan.raises_at == index:
                raise plan.error
            try:
                x = self.slots[child.slot](x, child)
            except plan.catches:
                x = x + 1
        if plan.raises_at is not None and plan.raises_at >= len(plan.children):
            raise plan.error
        return x


SLOTS = 4


def plans(children):
    """Plans whose list of children is drawn from `children`."""
    return st.builds(
        Plan,
        slot=st.integers(0, SLOTS - 1),
        children=children,
        raises_at=st.one_of(st.none(), st.integers(0, 4)),
        error=st.sampled_from(ERRORS),
        catches=st.sampled_from(CATCHES),
    )


trees = st.recursive(plans(st.just([])), lambda inner: plans(st.lists(inner, max_size=4)), max_leaves=25)


def expected_calls(plan, depth=0):
    """(depth, slot, status) of calls in order of start, and what leaves the first; from the plan alone."""
    calls = [(depth, plan.slot, "ok")]
    left = None
    for index, child in enumerate(plan.children):
        if plan.raises_at == index:
            left = plan.error
            break
        inner, raised = expected_calls(child, depth + 1)
        calls += inner
        if raised is not None and raised not in plan.catches:
            left = raised
            break
    else:
        if plan.raises_at is not None and plan.raises_at >= len(plan.children):
            left = plan.error
    if left is not None:
        calls[0] = (depth, plan.slot, "raised" if left is Fault else "aborted")
    return calls, left


@settings(max_examples=120)
@given(roots=st.lists(trees, min_size=1, max_size=3))
def test_any_tree_is_recorded_as_it_ran(roots):
    slots: list[nn.Module] = []
    slots += [Planned(slots) for _ in range(SLOTS)]
    with modtrace.trace() as trace, Oracle() as oracle:
        for plan in roots:
            try:
                slots[plan.slot](torch.ones(1), plan)
            except (Fault, Interrupt):
                continue

    expected = [call for plan in roots for call in expected_calls(plan)[0]]
    calls = trace.calls
    assert_well_formed(calls)
    told = [(depth, status) for depth, _, status in expected]
    assert list(zip(calls["depth"], calls["status"], strict=True)) == told
    one_to_one([slot for _, slot, _ in expected], list(calls["module_id"]))
    assert traced_rows(calls) == oracle_rows(oracle, oracle.calls)
    assert sum(global_hooks().values()) == 0
