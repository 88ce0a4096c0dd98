"""The zoo without modtrace: cases do what they say, the same each time, and the oracle counts right."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.torture.models import CASE_LIST
from tests.torture.observe import observe
from tests.torture.oracle import Oracle


@pytest.mark.parametrize("case", CASE_LIST, ids=lambda case: case.name)
def test_case_is_repeatable(case):
    observe(case)  # torch gives some warnings once in a process
    first = observe(case)
    again = observe(case)

    assert ("exception" in first) == (case.raises is not None)
    if case.raises:
        assert first["exception"][0][0] == case.raises.__name__
    for key, value in first.items():
        assert again[key] == value, key


def test_fingerprint_sees_one_bit():
    model = nn.Linear(2, 2)
    other = torch.nextafter(model.weight.detach(), torch.tensor(9.0))

    from tests.torture.fingerprint import fingerprint

    assert fingerprint(model.weight.detach()) == fingerprint(model.weight.detach().clone())
    assert fingerprint(model.weight.detach()) != fingerprint(other)


def test_oracle_on_a_known_tree():
    model = nn.Sequential(nn.Identity(), nn.Sequential(nn.Linear(3, 3)))
    with Oracle() as oracle, pytest.raises(RuntimeError):
        model(torch.ones(2, 4))

    assert [(call.depth, call.type, call.parent, call.returned) for call in oracle.calls] == [
        (0, "Sequential", -1, False),
        (1, "Identity", 0, True),
        (1, "Sequential", 0, False),
        (2, "Linear", 2, False),
    ]
