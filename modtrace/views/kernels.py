"""Operators and kernels by module, as text."""

from __future__ import annotations

from collections.abc import Sequence

from modtrace.analysis.kernels import Ran
from modtrace.text import fit, pad, plain
from modtrace.units import count, duration, percent


def kernels_lines(device: str, found: Sequence[Ran], *, width: int) -> list[str]:
    """A line a group of modules: time of what ran in forward and backward, how many, and the three longest names."""
    if not found:
        return ["  kernels were not watched: modtrace run --kernels 2:5 script.py"]
    total = sum(one.forward_ns + one.backward_ns for one in found)
    name_width = max(min(34, width - 58), 12)
    what = "operators" if device == "cpu" else "kernels"
    lines = [f"  {duration(total)} of {what} on {plain(device)}"]
    lines.append(f"  {pad('MODULE', name_width)} {'forward':>8} {'backward':>8} {'%':>5} {'ran':>7}  longest")
    for one in found:
        kind = f"  {plain(one.type)}" if one.type not in ("", one.name) else ""
        name = pad(
            f"{fit(plain(one.name) or 'outside of calls', name_width, keep_end=True)}{kind}", name_width
        )
        times = f"{duration(one.forward_ns):>8} {duration(one.backward_ns) if one.backward_ns else '':>8}"
        share = percent(one.forward_ns + one.backward_ns, total)
        top = ", ".join(f"{plain(operator)} {duration(spent)}" for operator, spent in one.top if spent)
        lines.append(f"  {name} {times} {share:>5} {count(one.executions):>7}  {top}")
    return lines
