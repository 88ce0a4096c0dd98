"""FLOP/s of modules beside device peaks, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modtrace.analysis.roofline import HOST, Point
from modtrace.device_peaks.cache import DevicePeaks
from modtrace.text import fit, pad, plain
from modtrace.units import count, duration, scaled

MANY = 40


NO_DEVICE_TIME = "  ? in time and speed: the time on the accelerator is not known"
ON_DEVICE = "  times are those on the device, gaps between its kernels included"
COUNTED = "  * includes counting the operations: it ran no other time"


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
        return ["  no FLOPs are known: they are counted in the first call of each module, unless --no-flops"]
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
    return [*lines, *_notes(points, reached, utilised)]


def _notes(points: Sequence[Point], reached: Mapping[str, DevicePeaks], utilised: float | None) -> list[str]:
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
