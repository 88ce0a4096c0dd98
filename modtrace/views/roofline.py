"""How fast modules compute, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modtrace.analysis.roofline import HOST, Point
from modtrace.text import fit, pad, plain
from modtrace.trace.reach import Reach
from modtrace.units import count, duration, scaled

MANY = 40


NO_DEVICE_TIME = "  ? in time and speed: the time on the accelerator is not known"
ON_DEVICE = "  times are those on the device, gaps between its kernels included"
COUNTED = "  * includes counting the operations: it ran no other time"


def reach_lines(found: Reach) -> list[str]:
    """What a device reaches."""
    lines = [f"  {plain(found.device)}", f"  copies     {scaled(found.bytes_per_s, 'B/s')}, read and written"]
    lines += [f"  {plain(name):10} {scaled(rate, 'FLOP/s')}" for name, rate in found.flops_per_s.items()]
    return lines


def roofline_lines(
    points: Sequence[Point], reached: Mapping[str, Reach], utilised: float | None, *, width: int
) -> list[str]:
    """A line a group of modules: FLOP/s, FLOPs a byte, and the share of what its device reaches there; and the model
    FLOPs utilisation of a step, where it is known.
    """
    if not points:
        return ["  no FLOPs are known: they are counted in the first call of each module, unless --no-flops"]
    name_width = max(min(34, width - 52), 12)
    head = (
        f"  {pad('MODULE', name_width)} {'calls':>7} {'time':>8} {'speed':>13} {'FLOP/B':>7} {'reached':>8}"
    )
    lines = [head]
    for one in points[:MANY]:
        kind = f"  {plain(one.type)}" if one.type != one.name else ""
        label = f"{plain(one.name)}{' bwd' if one.backward else ''}"
        name = pad(f"{fit(label, name_width, keep_end=True)}{kind}", name_width)
        each = f"{one.flops / one.bytes:.1f}" if one.bytes and one.flops is not None else "?"
        share = f"{100 * one.share:.1f}%" if one.share is not None else "?"
        rate = one.flops_per_s
        speed = "?" if rate is None else scaled(round(rate), "FLOP/s")
        took = f"{duration(one.spent_ns)}{'*' if one.counted and one.spent_ns is not None else ''}"
        lines.append(f"  {name} {count(one.calls):>7} {took:>8} {speed:>13} {each:>7} {share:>8}")
    if len(points) > MANY:
        lines.append(f"  {len(points) - MANY} more")
    return [*lines, *_notes(points, reached, utilised)]


def _notes(points: Sequence[Point], reached: Mapping[str, Reach], utilised: float | None) -> list[str]:
    """What the columns are beside, and why there is nothing in them."""
    lines = []
    if any(one.counted and one.spent_ns is not None for one in points):
        lines.append(COUNTED)
    devices = sorted({one.device for one in points} - {"?"})
    for name in devices:
        if name in reached:
            rates = reached[name].flops_per_s
            used = sorted({one.dtype for one in points if one.device == name} & set(rates))
            peaks = [f"{scaled(rates[dtype], 'FLOP/s')} in {plain(dtype)}, " for dtype in used]
            copied = scaled(reached[name].bytes_per_s, "B/s")
            lines.append(f"  {plain(name)} reaches {''.join(peaks)}copies {copied}")
    if any(one.share is not None for one in points):
        lines.append("  reached: of what the device does at so many FLOPs a byte, at the most")
    if any(name not in reached for name in devices):
        lines.append("  ? what this device reaches is measured by: modtrace info --device")
    if any(one.spent_ns is not None and one.device not in (HOST, "?") for one in points):
        lines.append(ON_DEVICE)
    if any(one.spent_ns is None for one in points):
        lines.append(NO_DEVICE_TIME)
    if utilised is not None:
        lines.append(
            f"  MFU of a step {100 * utilised:.1f}% (its FLOPs over products alone in the same time)"
        )
    return lines
