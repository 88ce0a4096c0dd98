"""Operators and kernels by module, as text."""

from __future__ import annotations

from collections.abc import Sequence

from modtrace.analysis.kernels import GroupKernels
from modtrace.text import fit, pad, plain
from modtrace.text import width as width_of
from modtrace.units import count, duration, percent


def kernels_lines(device: str, modules: Sequence[GroupKernels], *, width: int) -> list[str]:
    """A line a group of modules: time of what ran in forward and backward, how many, and the three longest names.

    On a device also `fills`: time in kernels over the time between the events around the calls.
    """
    if not modules:
        return ["  kernels were not watched: modtrace run --kernels auto script.py"]
    total = sum(module.forward_ns + module.backward_ns for module in modules)
    name_width = max(min(34, width - 58), 12)
    noun = "operators" if device == "cpu" else "kernels"
    lines = [f"  {duration(total)} of {noun} on {plain(device)}"]
    fills = f" {'fills':>5}" if any(module.kernel_share is not None for module in modules) else ""
    lines.append(
        f"  {pad('MODULE', name_width)} {'forward':>8} {'backward':>8} {'%':>5} {'ran':>7}{fills}  longest"
    )
    for module in modules:
        class_text = f"  {plain(module.type)}" if module.type not in ("", module.name) else ""
        name = pad(
            f"{fit(plain(module.name) or 'outside of calls', name_width, keep_end=True)}{class_text}",
            name_width,
        )
        times = f"{duration(module.forward_ns):>8} {duration(module.backward_ns) if module.backward_ns else '':>8}"
        share = percent(module.forward_ns + module.backward_ns, total)
        if fills:
            filled = module.kernel_share
            fill = f" {'' if filled is None else f'{min(filled, 1) * 100:.0f}%':>5}"
        else:
            fill = ""
        line = f"  {name} {times} {share:>5} {count(module.executions):>7}{fill}  "
        top = [(operator, spent) for operator, spent in module.top if spent]
        lines.append(f"{line}{_longest_operators(top, width - width_of(line))}")
    return lines


def _longest_operators(top: Sequence[tuple[str, int]], room: int) -> str:
    """As many names with their times as there is room for; a name that is too long is cut, a time never."""
    texts: list[str] = []
    for name, spent_ns in top:
        spent, shown = duration(spent_ns), plain(name)
        if not texts:
            shown = fit(shown, max(room - len(spent) - 1, 8))
        text = f"{shown} {spent}"
        if texts and width_of(", ".join([*texts, text])) > room:
            break
        texts.append(text)
    return ", ".join(texts)
