"""Remarks on speeds beside device peaks: what shares are of, and why a number is not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modtrace.analysis.roofline import HOST, Point
from modtrace.device_peaks.cache import DevicePeaks
from modtrace.text import plain
from modtrace.units import scaled

MANY = 40
"""Rows that a table of speeds has at the most."""
NO_FLOPS = "no FLOPs are known: they are counted in first calls, unless --no-flops"
NO_DEVICE_TIME = "  ? in time and speed: the time on the accelerator is not known"
ON_DEVICE = "  times are those on the device, gaps between its kernels included"
COUNTED = "  * includes counting the operations: it ran no other time"


def roofline_notes(
    points: Sequence[Point], reached: Mapping[str, DevicePeaks], utilised: float | None
) -> list[str]:
    """Device peaks that shares are of, and reasons of unknown cells."""
    lines = []
    if any(point.counted and point.spent_ns is not None for point in points):
        lines.append(COUNTED)
    devices = sorted({point.device for point in points} - {"?"})
    for name in devices:
        if name in reached:
            rates = reached[name].flops_per_s
            used = sorted({point.dtype for point in points if point.device == name} & set(rates))
            peaks = [f"{scaled(rates[dtype], 'FLOP/s')} in {plain(dtype)}, " for dtype in used]
            copied = scaled(reached[name].bytes_per_s, "B/s")
            lines.append(f"  {plain(name)} reaches {''.join(peaks)}copies {copied}")
    if any(point.share is not None for point in points):
        lines.append("  reached: of what the device does at so many FLOPs a byte, at the most")
    if any(name not in reached for name in devices):
        lines.append("  ? what this device reaches is measured by: modtrace device")
    if any(point.spent_ns is not None and point.device not in (HOST, "?") for point in points):
        lines.append(ON_DEVICE)
    if any(point.spent_ns is None for point in points):
        lines.append(NO_DEVICE_TIME)
    if utilised is not None:
        lines.append(
            f"  MFU of a step {100 * utilised:.1f}% (its FLOPs over products alone in the same time)"
        )
    return lines
