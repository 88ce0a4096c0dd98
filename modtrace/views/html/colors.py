"""Colors of a report: phases are strong, classes of modules are pale, so that one is never taken for the other."""

from __future__ import annotations

from typing import Final

from modtrace.trace.schema import CATEGORIES

PHASE_COLORS: Final = {
    "data": "#F0E442", "h2d": "#CC79A7", "forward": "#56B4E9", "eval": "#3A86C8", "loss": "#009E73",
    "backward": "#E69F00", "optimizer": "#D55E00", "zero_grad": "#B37A47", "recompute": "#5C8BBD",
    "other_threads": "#788A9D", "other": "#9AA7B5", "device": "#8F78D6",
}  # fmt: skip
"""Of phases of a step, of what is in none (`other`), and of time on a device."""

CLASS_COLORS: Final = (
    "#C9B8F0", "#F6BFD0", "#CFE3A3", "#BFD2F7", "#EBD3B0", "#B5E3DA", "#E4B4E6", "#F3B9A6", "#D7D9A0", "#A9DDEB",
)  # fmt: skip
"""Of the classes of modules with most time, in this order."""

OTHER_CLASS_COLOR: Final = "#DADFE5"

CATEGORY_COLORS: Final = dict(
    zip(
        CATEGORIES, ("#7B61C9", "#A58FDD", "#D1495B", "#8C5A2B", "#2A9D8F", "#E9B44C"), strict=True,
    )
)  # fmt: skip
"""Of what memory is held for."""


def style() -> str:
    """Rules of CSS: `p-forward` and `m-parameter` fill a shape or a mark with the color of a phase or a category."""
    rules = [f".p-{name}{{fill:{color};background:{color}}}" for name, color in PHASE_COLORS.items()]
    rules += [f".m-{name}{{fill:{color};background:{color}}}" for name, color in CATEGORY_COLORS.items()]
    return "".join(rules)
