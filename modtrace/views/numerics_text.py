"""The first call whose values part, as text."""

from __future__ import annotations

from modtrace.analysis.comparing.first_parting import Numerics, Parting, TensorFacts
from modtrace.text import plain
from modtrace.units import count, plural
from modtrace.views.styled_lines import HEADING, HOT, WARM, Line


def numerics_lines(found: Numerics, names: tuple[str, str]) -> list[Line]:
    """Where values stop being the same bit for bit, and where they are further apart than rounding explains."""
    lines = [Line(f"modtrace diff  {plain(names[0])} -> {plain(names[1])}   values", HEADING)]
    steps = _steps(found.steps)
    alone = ", ".join(
        f"{count(number)} of the {side} alone"
        for side, number in zip(("baseline", "candidate"), found.alone, strict=True)
        if number
    )
    lines.append(
        Line(f"  compared  {plural(found.compared, 'tensor')} in {steps}" + (f"; {alone}" if alone else ""))
    )
    if not found.compared:
        return lines
    exactly = "bit for bit" if found.hashed else "by their ranges (--values-with hash compares bits)"
    if found.exact is None:
        return [*lines, Line(f"  the same {exactly}")]
    if found.beyond is not None and _place(found.exact) == _place(found.beyond):
        lines += [
            Line(""),
            Line(f"  the same {exactly} until {_place(found.beyond)}", HOT),
            *_sides(found.beyond),
        ]
    else:
        lines += [
            Line(""),
            Line(f"  the same {exactly} until {_place(found.exact)}", WARM),
            *_sides(found.exact),
        ]
        tolerance = f"within {100 * found.tolerance:g}% of the largest value ({found.tolerance_type})"
        if found.beyond is None:
            return [*lines, Line(""), Line(f"  {tolerance} all the same")]
        lines += [
            Line(""),
            Line(f"  {tolerance} the same until {_place(found.beyond)}", HOT),
            *_sides(found.beyond),
        ]
    later = found.parted - 1
    if later > 0:
        lines.append(Line(f"    and {plural(later, 'tensor')} after it"))
    return lines


def _steps(steps: tuple[int, ...]) -> str:
    inside = [step for step in steps if step >= 0]
    if not inside:
        return "calls outside of steps"
    if len(inside) == 1:
        return f"step {inside[0]}"
    if inside[-1] - inside[0] + 1 == len(inside):
        return f"steps {inside[0]}-{inside[-1]}"
    return f"{len(inside)} steps from {inside[0]} to {inside[-1]}"


def _place(parting: Parting) -> str:
    """`layers.3.attn  Attention, output, step 0`."""
    name, kind = plain(parting.name), plain(parting.type)
    title = "  ".join(dict.fromkeys(part for part in (name, kind) if part))
    path = f" {plain(parting.path)}" if parting.path not in ("", "0") or parting.kind == "parameter" else ""
    call = f", call {parting.nth + 1}" if parting.nth else ""
    step = f", step {parting.step}" if parting.step >= 0 else ""
    return f"{title + ', ' if title else ''}{parting.kind.replace('_', ' ')}{path}{call}{step}"


def _sides(parting: Parting) -> list[Line]:
    one, other = parting.baseline, parting.candidate
    if one.elements != other.elements:
        text = f"{count(one.elements)} elements against {count(other.elements)}"
        return [Line(f"    {text}"), Line(f"    {parting.compared:,} tensors before it are alike")]
    return [
        Line(f"    {_range(one)} against {_range(other)}"),
        Line(f"    {plural(parting.compared, 'tensor')} before it compared"),
    ]


def _range(facts: TensorFacts) -> str:
    text = f"{facts.dtype} [{facts.minimum:.6g}, {facts.maximum:.6g}]"
    return f"{text} norm {facts.norm:.6g}" if facts.norm is not None else text
