"""What holds for every test: one thread for numbers, no clock in hypothesis, nothing compiled is left behind."""

from __future__ import annotations

import os
import sys

import hypothesis
import pytest

# Set before torch is imported and inherited by the scripts tests start: sums come out the same each time.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

# The same examples on every machine, and none of them fails for being slow.
hypothesis.settings.register_profile("modtrace", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("modtrace")


@pytest.fixture(autouse=True, scope="module")
def nothing_compiled():
    """What a file of tests has compiled is forgotten: functions are not recorded where something was compiled."""
    yield
    if "torch._dynamo" in sys.modules:
        sys.modules["torch"]._dynamo.reset()
        sys.modules["torch._dynamo.utils"].counters.clear()
