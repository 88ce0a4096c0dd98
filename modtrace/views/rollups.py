"""Sums over windows of steps, as text."""

from __future__ import annotations

from typing import Final

from modtrace.analysis.rollup_windows import ModuleOverSteps, RollupFacts
from modtrace.text import fit, pad, plain
from modtrace.units import count, duration, plural

NONE: Final = "  no sums over steps were kept; they are with: modtrace run --rollups script.py"
_SHOWN: Final = 40


def rollups_lines(facts: RollupFacts | None, *, width: int, single_steps: int | None = None) -> list[str]:
    """A line a module and side, its times in each step.

    Args:
        facts: of one process.
        width: of a line.
        single_steps: of so many steps there are single calls; None where there are of all.
    """
    if facts is None:
        return [NONE]
    steps = f"{count(facts.first_step)} to {count(facts.last_step)}"
    lines = [f"  steps {steps}, all of them added up, in {plural(facts.windows, 'window')}"]
    if single_steps is not None:
        lines.append(f"  single calls are recorded of the first {plural(single_steps, 'step')} alone")
    name_width = max(min(34, width - 64), 12)
    head = " ".join(f"{title:>8}" for title in ("total", "p50", "p95", "p99", "max"))
    lines.append(f"  {pad('MODULE', name_width)} {'':8} {'steps':>7} {head}")
    lines += [_line(row, name_width) for row in facts.modules[:_SHOWN]]
    if len(facts.modules) > _SHOWN:
        lines.append(f"  and {count(len(facts.modules) - _SHOWN)} more: t.rollups has them all")
    lines.append("  total is of all steps, p50 to max are of one; p50 to p99 within 1 %")
    return lines


def _line(row: ModuleOverSteps, name_width: int) -> str:
    title = plain(row.name or row.type) or "the steps"
    side = row.side if row.type else ""
    times = (row.total_ns, row.p50_ns, row.p95_ns, row.p99_ns, row.max_ns)
    figures = " ".join(f"{duration(spent_ns):>8}" for spent_ns in times)
    return (
        f"  {pad(fit(title, name_width, keep_end=True), name_width)} {side:8} {count(row.steps):>7} {figures}"
    )
