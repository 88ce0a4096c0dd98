"""Runs from where they are kept: traces and baseline files."""

from __future__ import annotations

from pathlib import Path

from modtrace.analysis.comparing.baseline_file import read_baseline
from modtrace.analysis.comparing.run_extraction import run_numbers
from modtrace.analysis.comparing.run_numbers import RunNumbers
from modtrace.trace.reader import open_trace


def runs_in(path: Path, *, max_memory_bytes: int | None = None) -> list[RunNumbers]:
    """The run of a trace, or the runs of a baseline file. The trace is let go of.

    Raises:
        TraceError: there is none, or it cannot be read.
    """
    if path.is_file():
        return read_baseline(path)
    return [run_numbers(open_trace(path, max_memory_bytes=max_memory_bytes))]
