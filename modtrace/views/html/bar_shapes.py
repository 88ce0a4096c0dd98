"""Bars as shapes in the page itself: drawn without a script, without styles of their own, and on paper too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modtrace.text import markup

Ints = npt.NDArray[np.int64]

WIDTH = 1_000


@dataclass(frozen=True)
class BarPart:
    """A stretch of a bar: its CSS class, its size, and what it is in words."""

    color: str
    amount: int
    text: str


def stacked_bar(parts: Sequence[BarPart], total: int, label: str, *, css: str = "stack") -> str:
    """Parts side by side, in all as wide as their share of `total`."""
    shapes, x = [], 0.0
    for part in parts:
        wide = WIDTH * max(part.amount, 0) / total if total > 0 else 0.0
        if wide > 0:
            shapes.append(
                f'<rect class="{part.color}" x="{x:.4g}" width="{max(wide, 1):.4g}" height="10">'
                f"<title>{markup(part.text)}</title></rect>"
            )
        x += wide
    return (
        f'<svg class="chart {css}" viewBox="0 0 {WIDTH} 10" preserveAspectRatio="none" role="img" '
        f'aria-label="{markup(label)}">{"".join(shapes)}</svg>'
    )


def legend(parts: Sequence[BarPart]) -> str:
    """The legend of the colors of a bar."""
    items = "".join(
        f'<li><span class="mark {part.color}"></span>{markup(part.text)}</li>'
        for part in parts
        if part.amount
    )
    return f'<ul class="legend">{items}</ul>'


def columns_chart(amounts: Sequence[tuple[str, Ints]], limit: int, label: str) -> str:
    """Columns side by side, each a stack; what is above `limit` is cut, with a mark on its top.

    Args:
        amounts: (CSS class, amount in each column), the lowest first.
        limit: amount that is as high as the chart.
        label: what it shows, in words.
    """
    count = len(amounts[0][1]) if amounts else 0
    limit = max(limit, 1)
    wide = 0.8 if count < 400 else 1.0
    floor, shapes = np.zeros(count), []
    for color, values in amounts:
        top = np.minimum(floor + np.maximum(values, 0) * 100 / limit, 100)
        path = "".join(
            f"M{column} {100 - low:.4g}h{wide}V{100 - high:.4g}h-{wide}z"
            for column, (low, high) in enumerate(zip(floor.tolist(), top.tolist(), strict=True))
            if high > low
        )
        shapes.append(f'<path class="{color}" d="{path}"/>' if path else "")
        floor = top
    total = np.sum([np.maximum(values, 0) for _, values in amounts], axis=0) if amounts else floor
    marks = "".join(f"M{column} 0h{wide}v3h-{wide}z" for column in np.flatnonzero(total > limit).tolist())
    shapes.append(f'<path class="cut" d="{marks}"/>' if marks else "")
    return (
        f'<svg id="steps-chart" class="chart columns" viewBox="0 0 {max(count, 1)} 100" preserveAspectRatio="none" '
        f'role="img" aria-label="{markup(label)}">{"".join(shapes)}</svg>'
    )
