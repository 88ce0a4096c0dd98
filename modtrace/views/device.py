"""Device time as text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from modtrace.units import percent

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def device_summary(counts: Bools, busy_ns: Ints, idle_ns: Ints) -> list[str]:
    """How much of a step the device had work, over the steps that count; no
    line where it is not known. A gap between the kernels of one call is not seen, so it idles at least as long.
    """
    chosen = counts & (busy_ns >= 0)
    busy, idle = int(busy_ns[chosen].sum()), int(idle_ns[chosen].sum())
    if not busy:
        return []
    both = busy + idle
    return [
        f"  device    busy at most {percent(busy, both)}% of the step, idle at least {percent(idle, both)}%"
    ]
