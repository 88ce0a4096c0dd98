"""Lines of text for a terminal, and what each is: a heading, a warning, a hot row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

HEADING: Final = "heading"
WARNING: Final = "warning"
HOT: Final = "hot"
WARM: Final = "warm"
_HEADINGS: Final = ("WHERE", "WORTH", "CALL TREE", "LAUNCH TIMES", "TIME OF", "modtrace ")
_COLORS: Final = {HEADING: "1", WARNING: "33", HOT: "31", WARM: "33"}
"""Tone -> attribute of a terminal: bold, yellow, red, yellow."""


@dataclass(frozen=True)
class Line:
    """A line without escapes; `tone` is "" for plain text."""

    text: str
    tone: str = ""

    def colored(self) -> str:
        """The line with the escapes of its tone."""
        return f"\x1b[{_COLORS[self.tone]}m{self.text}\x1b[0m" if self.tone else self.text


def plain_lines(texts: Iterable[str]) -> list[Line]:
    """Lines whose tone is told by their first word: headings, `!` and `->`."""
    return [Line(text, _tone(text.strip())) for text in texts]


def _tone(text: str) -> str:
    if text.startswith(_HEADINGS):
        return HEADING
    return WARNING if text.startswith(("!", "->")) else ""
