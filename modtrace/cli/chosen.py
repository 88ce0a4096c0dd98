"""The trace that a verb is about: the one named, or the newest here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modtrace.errors import UsageError
from modtrace.trace.folder import find


def chosen(words: Sequence[str]) -> Path:
    """The path of the trace.

    Raises:
        UsageError: more than one is named, or none is here.
    """
    if len(words) > 1:
        raise UsageError(f"one trace at a time, not {len(words)}")
    if words:
        return Path(words[0])
    here = find(Path.cwd())
    if not here:
        raise UsageError("there is no trace here; make one with: modtrace run script.py")
    return here[0]
