"""What holds for every test: one thread for numbers, no clock in hypothesis."""

from __future__ import annotations

import os

import hypothesis

# Set before torch is imported and inherited by the scripts tests start: sums come out the same each time.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

# The same examples on every machine, and none of them fails for being slow.
hypothesis.settings.register_profile("modtrace", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("modtrace")
