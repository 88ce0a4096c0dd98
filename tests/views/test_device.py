"""How long a device idled, as text."""

from __future__ import annotations

import numpy as np

from modtrace.analysis.device_starts import DrySteps
from modtrace.views.device import device_summary


def test_a_device_that_idles():
    counts, busy, idle = (
        np.array([0, 1, 1, 1], np.bool_),
        np.array([5, 60, 15, -1]),
        np.array([50, 20, 5, 99]),
    )
    nothing = DrySteps(0, 0, {})
    (line,) = device_summary(counts, busy, idle, nothing)
    assert line.split()[:6] == ["device", "idle", "at", "least", line.split()[4], "of"]
    assert float(line.split()[4].rstrip("%")) == 25
    assert device_summary(counts, np.array([9, 0, 0, -1]), idle, nothing) == []
    (dry,) = device_summary(counts, busy - busy, idle, DrySteps(1, 1, {}))
    assert " ".join(dry.split()) == "device had run dry at 1 of 1 start of root calls and phases"
    both = device_summary(counts, busy, idle, DrySteps(40, 7, {}))
    assert " ".join(both[1].split()) == "had run dry at 7 of 40 starts of root calls and phases"
