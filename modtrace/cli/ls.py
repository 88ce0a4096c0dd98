"""`modtrace ls`: the traces in a directory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from modtrace.cli.chosen_trace import memory_limit
from modtrace.cli.options import ParsedOptions, Verb, parse
from modtrace.cli.output import show
from modtrace.errors import UsageError
from modtrace.text import plain
from modtrace.trace.folder import find, find_denied

VERB: Final = Verb(
    "ls",
    "modtrace ls [DIRECTORY]",
    "The traces in a directory, newest first; without DIRECTORY in this one.",
    (),
    examples=(("modtrace ls", "the traces here"), ("modtrace ls runs/", "those in another directory")),
    docs="docs/recording.md",
)


def prepare(words: Sequence[str]) -> ParsedOptions:
    """Read the command line."""
    parsed = parse(words, VERB)
    if len(parsed.words) > 1:
        raise UsageError(f"ls takes one directory, not {len(parsed.words)}")
    return parsed


def execute(parsed: ParsedOptions) -> None:
    """Print to stdout."""
    from modtrace.views import console

    directory = Path(parsed.words[0]) if parsed.words else Path.cwd()
    shown = plain(str(directory))
    try:
        if not directory.is_dir():
            raise UsageError(f"{shown} is not a directory" if directory.exists() else f"there is no {shown}")
        traces, unreadable = find(directory), find_denied(directory)
    except PermissionError:
        raise UsageError(f"{shown} cannot be read: permission denied") from None
    if not traces and not unreadable:
        print("no traces here")
        return
    style = console.style_of(sys.stdout)
    text = console.ls_table(
        traces, unreadable, max_memory_bytes=memory_limit(), color=style["color"], ascii=style["ascii"]
    )
    show(text)
