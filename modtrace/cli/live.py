"""`modtrace live`: look at a trace while it is written."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from modtrace.cli.chosen import chosen
from modtrace.cli.options import Option, Parsed, parse, usage
from modtrace.cli.terminal import has_terminal
from modtrace.errors import UsageError
from modtrace.text import plain
from modtrace.trace.folder import find, read_run

OPTIONS: Final = (
    Option(("--plain",), None, "print where it stands, once, as text"),
    Option(("-h", "--help"), None, "this text"),
)
_TEXT: Final = (
    "Look at a run while it goes on: from another shell, another machine that sees the files, or all ranks of a job.\n"
    "Without TRACE the newest one here; of a directory the newest one there. Nothing is sent to the run.\n"
    "Where the output is no terminal it prints where the run stands, and ends."
)


def prepare(words: Sequence[str]) -> Parsed:
    """Read the command line."""
    parsed = parse(words, OPTIONS, verb="live")
    if parsed.on("help"):
        print(usage("modtrace live [TRACE|DIR] [options]", _TEXT, OPTIONS), end="")
        raise SystemExit(0)
    return parsed


def execute(parsed: Parsed) -> None:
    """Show it until the user leaves.

    Raises:
        UsageError: there is no trace.
        TraceError: it is none that this version can read.
    """
    path = _trace(chosen(parsed.rest))
    if parsed.on("plain") or not has_terminal():
        from modtrace.views.live.plain_text import told

        encoding = getattr(sys.stdout, "encoding", None) or "ascii"
        print(told(path).encode(encoding, "backslashreplace").decode(encoding), end="")
        return
    from modtrace.views.live.app import view, watch

    if watch(path) == "view":
        view(path)


def _trace(path: Path) -> Path:
    if not path.exists():
        raise UsageError(f"there is no trace at {plain(str(path))}")
    if path.is_dir() and read_run(path) is None:
        here = find(path)
        if not here and not path.name.endswith(".mtrace"):
            raise UsageError(f"there is no trace in {plain(str(path))}")
        return here[0] if here else path
    return path
