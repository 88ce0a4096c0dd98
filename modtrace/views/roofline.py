"""How fast modules compute, as text."""

from __future__ import annotations

from collections.abc import Sequence

from modtrace.analysis.roofline import Point
from modtrace.text import fit, pad, plain
from modtrace.trace.reach import Reach
from modtrace.units import count, duration, scaled

MANY = 40


def reach_lines(found: Reach) -> list[str]:
    """What a device reaches."""
    lines = [f"  {plain(found.device)}", f"  copies     {scaled(found.bytes_per_s, 'B/s')}, read and written"]
    lines += [f"  {plain(name):10} {scaled(rate, 'FLOP/s')}" for name, rate in found.flops_per_s.items()]
    return lines


def roofline_lines(
    points: Sequence[Point], reached: Reach | None, utilised: float | None, *, width: int
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
        each = f"{one.flops / one.bytes:.1f}" if one.bytes else "?"
        share = f"{100 * one.share:.1f}%" if one.share is not None else "?"
        speed = scaled(round(one.flops_per_s), "FLOP/s")
        lines.append(
            f"  {name} {count(one.calls):>7} {duration(one.spent_ns):>8} {speed:>13} {each:>7} {share:>8}"
        )
    if len(points) > MANY:
        lines.append(f"  {len(points) - MANY} more")
    if reached is None:
        lines.append("  ? what this device reaches is measured by: modtrace info --device")
    else:
        lines.append("  reached: of what the device does at so many FLOPs a byte, which is at the most")
        peak = max(reached.flops_per_s.values())
        lines.append(f"  {scaled(peak, 'FLOP/s')} on {plain(reached.device)}")
        if utilised is not None:
            lines.append(
                f"  MFU of a step {100 * utilised:.1f}% (its FLOPs over float32 products in the same time)"
            )
    return lines
