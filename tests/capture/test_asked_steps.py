"""Steps that `trace()` is asked to watch: a number, a range, a pair or the text of the command line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import modtrace
from modtrace.capture.mechanisms.asked_steps import steps_text

PAIRS = {
    "2:5": "2:5", "3": "3", "auto": "auto", 3: "3", 0: "0", np.int64(4): "4", range(2, 5): "2:5", (2, 5): "2:5",
    (np.int64(2), 5): "2:5",
}  # fmt: skip


@pytest.mark.parametrize("steps", PAIRS, ids=repr)
def test_ways_to_name_steps(steps):
    assert steps_text("memory", steps) == PAIRS[steps]


@pytest.mark.parametrize("steps", [None, False, ""], ids=repr)
def test_none_are_asked_for(steps):
    assert steps_text("memory", steps) is None


@pytest.mark.parametrize("option", ["memory", "kernels", "saved"])
@pytest.mark.parametrize(
    "steps", [True, -1, 2.5, "x", "5:2", range(0), range(5, 2), range(0, 9, 2), (2, 3, 4), (5, 2), (2,), [1]], ids=repr
)  # fmt: skip
def test_what_names_no_steps_is_refused_at_once(option, steps):
    with pytest.raises(modtrace.UsageError, match=rf"^{option}=.* names no steps; give "):
        modtrace.trace(**{option: steps})


@pytest.mark.parametrize("steps", [1, range(1, 2), (1, 2)], ids=repr)
def test_these_steps_are_watched(steps):
    model = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace(memory=steps) as t:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).sum().backward()
            optimizer.step()
    assert t.steps["memory_peak_bytes"].notna().tolist() == [False, True, False]
