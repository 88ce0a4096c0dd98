"""Device time as text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from modtrace.analysis.phases import Steps
from modtrace.units import percent
from modtrace.views.steps import usual

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def device_summary(found: Steps, counted: Bools, busy_ns: Ints, idle_ns: Ints) -> list[str]:
    """How much of a step the device had work, the first step and those in which operations were counted left out; no
    line where it is not known. A gap between the kernels of one call is not seen, so it idles at least as long.
    """
    chosen = (usual(found, counted) if len(found) else np.zeros(0, np.bool_)) & (busy_ns >= 0)
    busy, idle = int(busy_ns[chosen].sum()), int(idle_ns[chosen].sum())
    if not busy:
        return []
    both = busy + idle
    return [
        f"  device    busy at most {percent(busy, both)}% of the step, idle at least {percent(idle, both)}%"
    ]
