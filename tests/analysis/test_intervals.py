"""Covered time against a count of each nanosecond."""

from __future__ import annotations

import random

import numpy as np
import pytest

from modtrace.analysis.intervals import covered, covered_between


@pytest.mark.parametrize("seed", range(60))
def test_every_nanosecond(seed):
    rng = random.Random(seed)
    spans = [
        (start, start + rng.randint(0, 12))
        for start in (rng.randint(-5, 40) for _ in range(rng.randint(0, 8)))
    ]
    inside = {moment for start, end in spans for moment in range(start, end)}
    start, end = (np.array([span[side] for span in spans], np.int64) for side in (0, 1))
    assert covered(start, end - start) == len(inside)
    stretches = [(low, low + rng.randint(0, 20)) for low in (rng.randint(-10, 50) for _ in range(6))]
    low, high = (np.array([stretch[side] for stretch in stretches], np.int64) for side in (0, 1))
    expected = [len(inside & set(range(*stretch))) for stretch in stretches]
    assert covered_between(start, end, low, high).tolist() == expected
