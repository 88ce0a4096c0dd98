"""The trace that a command is about: the one named, or the newest here."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from modtrace.cli.options import Option, ParsedOptions
from modtrace.cli.output import say
from modtrace.errors import UsageError
from modtrace.text import plain
from modtrace.trace.size_limit import size_bytes

if TYPE_CHECKING:
    from modtrace.trace.reader import Stored

MAX_MEMORY: Final = Option(
    ("--max-memory",), "SIZE", "open a trace that takes up to this in memory (default 2GB)", mirrored=True
)

MANY_CALLS: Final = 200_000
"""From so many on a terminal is told that they are being read."""


def memory_limit() -> int | None:
    """Bytes that the tables of a trace may take in memory, from the environment; None where it is not set."""
    return memory_limit_of(ParsedOptions({MAX_MEMORY.key: os.environ.get("MODTRACE_MAX_MEMORY", "")}))


def memory_limit_of(parsed: ParsedOptions) -> int | None:
    """The same from a command line, which the environment has been read into."""
    text = parsed.values.get(MAX_MEMORY.key, "")
    return size_bytes(text) if text else None


RANK: Final = Option(("--rank",), "N", "of several ranks this one, else the first")


def opened(
    parsed: ParsedOptions, *, most_processes: int | None = None, most_calls: int | None = None
) -> Stored:
    """The trace that a command line names, or the newest here, open; with --rank that rank of it alone.

    Args:
        parsed: the command line.
        most_processes, most_calls: of a trace with more, of several processes, the first is opened alone.

    Raises:
        UsageError: more than one is named, or the rank is not there.
        TraceError: there is none, or it cannot be read.
    """
    from modtrace.trace.newest import noted_calls
    from modtrace.trace.reader import folder_of_rank, open_trace

    stored = open_trace(chosen(parsed.words), max_memory_bytes=memory_limit_of(parsed))
    folders, rank = stored.folders(), parsed.number(RANK.key)
    if rank is not None:
        stored = stored.alone(folder_of_rank(folders, rank))
    elif len(folders) > 1 and (
        (most_processes is not None and len(folders) > most_processes)
        or (most_calls is not None and noted_calls(folders) > most_calls)
    ):
        stored = stored.alone(folders[0])
    number = noted_calls(stored.folders())
    if number >= MANY_CALLS and sys.stderr.isatty():
        say(f"modtrace: reading {number:,} calls")
    stored.table("modules")  # what is wrong with it is said before anything is printed or written
    return stored


def chosen(words: Sequence[str]) -> Path:
    """The path of the trace.

    Raises:
        UsageError: more than one is named.
        TraceError: none is here that holds a call.
    """
    if len(words) > 1:
        raise UsageError(f"one trace at a time, not {len(words)}: {plain(' '.join(words), 200)}")
    if words:
        return Path(words[0])
    from modtrace.trace.newest import newest  # pyarrow is not imported before a script is run

    return newest(Path.cwd())
