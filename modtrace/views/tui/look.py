"""How things look: names of styles, and what they are on a dark and on a light terminal."""

from __future__ import annotations

from typing import Final
from zlib import crc32

from rich.style import Style

Piece = tuple[str, str]
"""A text, safe to show, and the name of its style: a key of STYLES, or several with spaces between."""

HEAT: Final = ("#3B6FB6", "#8FA7C4", "#F0C35E", "#E07B39", "#C4302B")
"""From cold to hot; told apart by people who do not tell red from green."""
_CATEGORIES: Final = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""Okabe and Ito."""


def _styles(*, dark: bool) -> dict[str, Style]:
    found = {
        "": Style.null(),
        "bold": Style(bold=True),
        "dim": Style(dim=True),
        "head": Style(dim=True, underline=True),
        "cursor": Style(reverse=True),
        "marked": Style(bold=True, underline=True),
        "hit": Style(bold=True, underline=True),
        "warn": Style(color="yellow" if dark else "red", bold=True),
        "type": Style(color="cyan" if dark else "blue"),
    }
    # The two palest of the ramp do not show on white.
    ramp = HEAT if dark else ("#2F5C9A", "#5A7088", "#8A6A10", "#A8501E", "#A02020")
    found |= {f"heat{at}": Style(color=color) for at, color in enumerate(ramp)}
    for at, color in enumerate(_CATEGORIES):
        found[f"box{at}"] = Style(color="#FFFFFF" if color == "#0072B2" else "#000000", bgcolor=color)
    return found


_LOOKS: Final = {dark: _styles(dark=dark) for dark in (True, False)}


def style(names: str, *, dark: bool) -> Style:
    """The style of a name, or of several laid over one another."""
    look = _LOOKS[dark]
    if " " not in names:
        return look[names]
    return Style.combine([look[name] for name in names.split()])


def heat(share: float) -> str:
    """The style for a share of the whole."""
    return f"heat{sum(share >= limit for limit in (0.02, 0.10, 0.25, 0.50))}"


def category(text: str) -> str:
    """A style for a box of some class, the same wherever that class is."""
    return f"box{crc32(text.encode('utf-8', 'backslashreplace')) % len(_CATEGORIES)}"
