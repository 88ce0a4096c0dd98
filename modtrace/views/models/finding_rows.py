"""Findings and notes of a trace as lines of a width, each with the row of the calls that it names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from modtrace.analysis.findings import Finding
from modtrace.text import fit, plain
from modtrace.views.models.hot_rows import HotRows

_TRIMMED: Final = ",;:()'\"`!?"
_SPLIT: Final = re.compile(r"\s+")


@dataclass(frozen=True)
class Remark:
    """A finding or a note.

    text, remedy: what was seen, and what to do; "" for nothing to do.
    node: the row of a table of the hottest modules that it names, -1 for none.
    """

    text: str
    remedy: str
    node: int


def remarks(findings: Sequence[Finding], notes: Sequence[str], hot: HotRows) -> list[Remark]:
    """Findings, most important first, then what is missing in the trace."""
    nodes = {row.name: node for node, row in reversed([*enumerate(hot.rows)]) if row.group >= 0}
    nodes |= {f"{row.type}.step": node for node, row in enumerate(hot.rows) if row.name == "optimizer"}
    shown = [
        Remark(plain(finding.text, 2000), plain(finding.remedy, 2000), _named(finding, nodes))
        for finding in findings
    ]
    return shown + [Remark(plain(note, 2000), "", -1) for note in notes]


def _named(finding: Finding, nodes: dict[str, int]) -> int:
    """The row whose name is a word of a finding: the longest name, of these the first."""
    words = [word.strip(_TRIMMED).rstrip(".") for word in _SPLIT.split(f"{finding.text} {finding.remedy}")]
    named = [word for word in words if word in nodes]
    return nodes[max(named, key=len)] if named else -1


@dataclass(frozen=True)
class RemarkLine:
    """A line: its remark, its text, and its tone: `warn`, `bold`, `dim` or ""."""

    remark: int
    text: str
    tone: str


def remark_lines(shown: Sequence[Remark], hot: HotRows, width: int) -> list[RemarkLine]:
    """Each remark broken between words: what was seen, what to do, which key leads where; a blank line between."""
    lines: list[RemarkLine] = []
    for number, remark in enumerate(shown):
        if number:
            lines.append(RemarkLine(number - 1, "", ""))
        parts = [(remark.text, "! ", "bold"), (remark.remedy, "-> ", "")]
        if remark.node >= 0:
            row = hot.rows[remark.node]
            parts.append((f"enter: {plain(row.label, 100)} in the tree", "", "dim"))
        for text, mark, tone in parts:
            indent = " " * (4 + len(mark))
            for index, piece in enumerate(_broken(text, max(width - len(indent) - 1, 10))):
                lines.append(RemarkLine(number, (indent if index else f"    {mark}") + piece, tone))
    return lines


def _broken(text: str, room: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(fit(word, room))
    return lines
