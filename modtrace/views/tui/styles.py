"""Styles: names of styles, and what they are on a dark and on a light terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.style import Style

from modtrace.analysis.phases import NAMES

Piece = tuple[str, str]
"""A text, safe to show, and the name of its style: a key of STYLES, or several with spaces between."""

HEAT: Final = ("#3B6FB6", "#8FA7C4", "#F0C35E", "#E07B39", "#C4302B")
"""From cold to hot; told apart by people who do not tell red from green."""
OTHER: Final = "other"
"""Hue of time in no phase, or in several."""
HUES: Final = {
    "forward": "#56B4E9", "backward": "#E69F00", "optimizer": "#009E73", "data": "#CC79A7", "h2d": "#CC79A7",
    "loss": "#F0E442", "eval": "#0072B2", "zero_grad": "#009E73", "recompute": "#D55E00", OTHER: "#999999",
    "slower": "#D55E00", "faster": "#0072B2", "same": "#C8C8C8", "unknown": "#777777", "alone": "#CC79A7",
}  # fmt: skip
"""A hue a phase, and one a verdict of a comparison, of Okabe and Ito."""
_STRENGTHS: Final = (0.38, 0.5, 0.66, 0.85)
"""Share of its hue that a box has, the rest being background: the larger the more."""
_LIMITS: Final = (0.02, 0.10, 0.30)
"""Shares of all that is shown from which on a box is stronger."""


def _mixed(color: str, other: str, strength: float) -> str:
    """A colour and another one, in parts of `strength` and what is missing to 1."""
    pairs = zip(_channels(color), _channels(other), strict=True)
    return "#" + "".join(f"{round(strength * front + (1 - strength) * back):02X}" for front, back in pairs)


def _channels(color: str) -> tuple[int, int, int]:
    red, green, blue = (int(color[place : place + 2], 16) for place in (1, 3, 5))
    return red, green, blue


def luminance(color: str) -> float:
    """Relative luminance of `#RRGGBB`, 0 to 1, as WCAG defines it."""
    parts = [channel / 255 for channel in _channels(color)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _phase_styles(*, dark: bool) -> dict[str, Style]:
    """`phase-forward` for text, `box-forward-0` to `-3` for boxes, the last for the largest."""
    styles: dict[str, Style] = {}
    ground = "#1C1C1C" if dark else "#FFFFFF"
    for name, hue in HUES.items():
        styles[f"phase-{name}"] = Style(color=hue if dark else _mixed(hue, "#000000", 0.6))
        for level, strength in enumerate(_STRENGTHS):
            back = _mixed(hue, ground, strength)
            # The colour with more contrast: at least 4.58 to 1 with either.
            styles[f"box-{name}-{level}"] = Style(
                color="#000000" if luminance(back) > 0.179 else "#FFFFFF", bgcolor=back
            )
    return styles


def _styles(*, dark: bool) -> dict[str, Style]:
    styles = {
        "": Style.null(),
        "bold": Style(bold=True),
        "dim": Style(dim=True),
        "head": Style(dim=True, underline=True),
        "cursor": Style(reverse=True),
        "marked": Style(bold=True, underline=True),
        "hit": Style(bold=True, underline=True),
        "warn": Style(color="yellow" if dark else "red", bold=True),
        "error": Style(color="red", bold=True),
        "type": Style(color="cyan" if dark else "blue"),
    }
    # The two palest of the ramp do not show on white.
    ramp = HEAT if dark else ("#2F5C9A", "#5A7088", "#8A6A10", "#A8501E", "#A02020")
    styles |= {f"heat{number}": Style(color=color) for number, color in enumerate(ramp)}
    return styles | _phase_styles(dark=dark)


_LOOKS: Final = {dark: _styles(dark=dark) for dark in (True, False)}


def style(names: str, *, dark: bool) -> Style:
    """The style of a name, or of several laid over one another."""
    look = _LOOKS[dark]
    if " " not in names:
        return look[names]
    return Style.combine([look[name] for name in names.split()])


def weight(share: float) -> str:
    """The style of a share: what is much is bold, what is next to nothing dim."""
    return "bold" if share >= 0.25 else "dim" if share < 0.02 else ""


def heat(share: float) -> str:
    """The style for a share of the whole."""
    return f"heat{sum(share >= limit for limit in (0.02, 0.10, 0.25, 0.50))}"


def phase_text(phase: str) -> str:
    """The style of text about a phase, "" for none."""
    return f"phase-{phase if phase in HUES else OTHER}"


def phase_box(phase: str, share: float) -> str:
    """The style of a box: a hue a phase, stronger the more of all that is shown it is."""
    return f"box-{phase if phase in HUES else OTHER}-{sum(share >= limit for limit in _LIMITS)}"


def legend(phases: Sequence[str]) -> list[Piece]:
    """Names of the phases that are shown, each in its hue; those of one hue are one entry."""
    by_hue: dict[str, list[str]] = {}
    for name in (*NAMES, OTHER):
        if name in phases or (name == OTHER and "" in phases):
            by_hue.setdefault(HUES[name], []).append(name)
    pieces: list[Piece] = []
    for names in by_hue.values():
        pieces += [("  ", ""), ("  ", f"box-{names[0]}-3"), (" " + ", ".join(names).replace("_", " "), "")]
    return pieces
