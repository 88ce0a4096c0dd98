"""Rules about processes: children with work of their own that were not recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from modtrace.analysis.findings.base import Facts, Finding
from modtrace.trace.reader import Stored
from modtrace.units import duration

CHILDREN_NS: Final = 1_000_000_000


def children(facts: Facts) -> Iterator[Finding]:
    """Child processes with work of their own used CHILDREN_NS of CPU time, and were not recorded."""
    finding = unrecorded_children(facts.stored)
    if finding is not None:
        yield finding


def unrecorded_children(stored: Stored) -> Finding | None:
    """As the rule `children`, of a trace without any call too."""
    end = stored.processes[0].end if stored.processes else None
    if end is None or not end.children or (end.children_cpu_ns or 0) < CHILDREN_NS:
        return None
    who, were = (
        ("1 child process", "was") if end.children == 1 else (f"{end.children} child processes", "were")
    )
    text = f"{who} used {duration(end.children_cpu_ns or 0)} of CPU and {were} not recorded"
    script = stored.run.script
    run = f"torchrun --nproc-per-node={end.children} -m modtrace run {script or 'script.py'}"
    remedy = f"if they train, start them with {run}, or put modtrace.trace(path=...) into them"
    return Finding("children", text, remedy)
