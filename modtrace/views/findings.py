"""Findings as text."""

from __future__ import annotations

from collections.abc import Sequence

from modtrace.analysis.findings import Finding
from modtrace.text import plain


def findings_lines(findings: Sequence[Finding], *, width: int, limit: int | None = None) -> list[str]:
    """Two lines a finding: what it is, and what to do; those that do not fit are broken between words.

    Args:
        findings: the most important first.
        width: columns.
        limit: at most so many findings.
    """
    lines = []
    for finding in findings[:limit]:
        lines += _broken(f"{plain(finding.text)}; {plain(finding.remedy)}", width - 4)
    return lines


def _broken(text: str, room: int) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > room:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return [f"  {'!' if not index else ' '} {line}" for index, line in enumerate(lines)]
