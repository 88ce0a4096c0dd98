"""The trace that a verb is about: the one named, or the newest here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from modtrace.cli.options import Option, Parsed, size
from modtrace.errors import UsageError
from modtrace.trace.folder import find

if TYPE_CHECKING:
    from modtrace.trace.reader import Stored

MAX_MEMORY: Final = Option(
    ("--max-memory",), "SIZE", "open a trace that takes up to this in memory (default 2GB)"
)


def memory_limit() -> int | None:
    """What the tables of a trace may take in memory, from the environment; None where it says nothing."""
    return memory_limit_of(Parsed({MAX_MEMORY.key: os.environ.get("MODTRACE_MAX_MEMORY", "")}))


def memory_limit_of(parsed: Parsed) -> int | None:
    """The same from a command line, which the environment has been read into."""
    text = parsed.values.get(MAX_MEMORY.key, "")
    return size(text) if text else None


def opened(parsed: Parsed) -> Stored:
    """The trace that a command line names, or the newest here, open.

    Raises:
        UsageError: there is none, or more than one is named.
        TraceError: it cannot be read.
    """
    from modtrace.trace.reader import open_trace

    stored = open_trace(chosen(parsed.rest), max_memory_bytes=memory_limit_of(parsed))
    stored.table("calls")  # what is wrong with it is said before anything is printed or written
    return stored


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
