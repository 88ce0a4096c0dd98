"""Device time as text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from modtrace.analysis.device_starts import DrySteps
from modtrace.units import percent, plural

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def device_summary(counts: Bools, busy_ns: Ints, idle_ns: Ints, dry: DrySteps) -> list[str]:
    """For how much of a step the device had nothing to do, over the steps that count, and at how many starts it had run
    dry; no line where it is not known. A gap between the kernels of one call is not seen, so it idles at least as long.
    """
    chosen = counts & (busy_ns >= 0)
    busy, idle = int(busy_ns[chosen].sum()), int(idle_ns[chosen].sum())
    lines = []
    if busy:
        share = percent(idle, busy + idle)
        lines.append(f"  device    idle at least {share}% of the step; gaps between kernels are not seen")
    if dry.starts:
        head = "" if lines else "device"
        starts = plural(dry.starts, "start")
        lines.append(f"  {head:9} had run dry at {dry.dry:,} of {starts} of root calls and phases")
    return lines
