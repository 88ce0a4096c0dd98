"""FLOP/s of modules beside device peaks, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modtrace.analysis.roofline import Point
from modtrace.device_peaks.cache import DevicePeaks
from modtrace.text import fit, pad, plain
from modtrace.units import count, duration, scaled
from modtrace.views.models.roofline_notes import MANY, NO_FLOPS, roofline_notes


def reach_lines(reach: DevicePeaks) -> list[str]:
    """Measured bytes/s and FLOP/s of a device."""
    lines = [f"  {plain(reach.device)}", f"  copies     {scaled(reach.bytes_per_s, 'B/s')}, read and written"]
    lines += [f"  {plain(name):10} {scaled(rate, 'FLOP/s')}" for name, rate in reach.flops_per_s.items()]
    return lines


def roofline_lines(
    points: Sequence[Point], reached: Mapping[str, DevicePeaks], utilised: float | None, *, width: int
) -> list[str]:
    """A line a group of modules: FLOP/s, FLOPs a byte, and the share of what its device reaches there; and the model
    FLOPs utilisation of a step, where it is known.
    """
    if not points:
        return [f"  {NO_FLOPS}"]
    name_width = max(min(34, width - 56), 12)
    head = f"  {pad('MODULE', name_width)}     {'calls':>7} {'time':>8} {'speed':>13} {'FLOP/B':>7} {'reached':>8}"
    lines = [head]
    for point in points[:MANY]:
        class_text = f"  {plain(point.type)}" if point.type != point.name else ""
        name = pad(f"{fit(plain(point.name), name_width, keep_end=True)}{class_text}", name_width)
        direction = "bwd" if point.backward else "fwd"
        each = f"{point.flops / point.bytes:.1f}" if point.bytes and point.flops is not None else "?"
        share = f"{100 * point.share:.1f}%" if point.share is not None else "?"
        rate = point.flops_per_s
        speed = "?" if rate is None else scaled(round(rate), "FLOP/s")
        took = f"{duration(point.spent_ns)}{'*' if point.counted and point.spent_ns is not None else ''}"
        lines.append(
            f"  {name} {direction} {count(point.calls):>7} {took:>8} {speed:>13} {each:>7} {share:>8}"
        )
    if len(points) > MANY:
        lines.append(f"  {len(points) - MANY} more")
    return [*lines, *roofline_notes(points, reached, utilised)]
