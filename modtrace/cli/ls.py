"""`modtrace ls`: the traces in a directory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from modtrace.cli.chosen import memory_limit
from modtrace.cli.options import Option, Parsed, parse, usage
from modtrace.errors import UsageError
from modtrace.text import plain
from modtrace.trace.folder import find

OPTIONS: Final = (Option(("-h", "--help"), None, "this text"),)


def prepare(words: Sequence[str]) -> Parsed:
    """Read the command line."""
    parsed = parse(words, OPTIONS, verb="ls")
    if parsed.on("help"):
        print(usage("modtrace ls [DIRECTORY]", "The traces there, newest first.", OPTIONS), end="")
        raise SystemExit(0)
    return parsed


def execute(parsed: Parsed) -> None:
    """Print to stdout."""
    from modtrace.views import console

    directory = Path(parsed.rest[0]) if parsed.rest else Path.cwd()
    if not directory.is_dir():
        raise UsageError(f"{plain(str(directory))} is not a directory")
    style = console.style_of(sys.stdout)
    found = find(directory)
    if not found:
        print("no traces here")
        return
    print(
        console.ls_table(found, max_memory_bytes=memory_limit(), width=style["width"], ascii=style["ascii"]),
        end="",
    )
