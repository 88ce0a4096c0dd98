"""Findings: what is worth a look in a trace, short, ranked, each with its number and what to do about it.

`base.py` has what rules share, a `*_rules.py` the rules of one topic, `ranked.py` their list and `findings(stored)`.
"""

from modtrace.analysis.findings.base import Finding
from modtrace.analysis.findings.ranked import findings

__all__ = ["Finding", "findings"]
