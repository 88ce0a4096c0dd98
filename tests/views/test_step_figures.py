"""The lines of a step's time in the summary: shown for calls of one model, not for those of several."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import modtrace


def summary(models, *, flops):
    with modtrace.trace(flops=flops) as trace, torch.no_grad():
        for _ in range(4):
            for model in models:
                model(torch.ones(2, 3))
    return trace.summary()


@pytest.mark.parametrize("flops", [True, False])
def test_inference_shows_the_median_call_and_what_was_counted(flops):
    text = summary([nn.Sequential(nn.Linear(3, 3), nn.ReLU())], flops=flops)
    assert "CALL  median" in text
    assert "  counted  " in text


def test_calls_of_several_models_have_no_median_together():
    assert "CALL  median" not in summary([nn.Linear(3, 3), nn.Linear(3, 2)], flops=False)
