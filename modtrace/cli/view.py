"""`modtrace view`: the terminal viewer; where there is no terminal, the tree as text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from modtrace.cli.chosen import MAX_MEMORY, chosen, memory_limit_of, opened
from modtrace.cli.options import Option, Parsed, parse, usage
from modtrace.cli.terminal import has_terminal
from modtrace.errors import TraceError, UsageError

OPTIONS: Final = (
    Option(("--plain",), None, "the tree as text: ASCII, no color, 80 columns"),
    MAX_MEMORY,
    Option(("-h", "--help"), None, "this text"),
)
_TEXT: Final = (
    "Browse a trace; without TRACE the newest one here. ? shows the keys. Where the output is no terminal it prints\n"
    "what modtrace info --tree does."
)


def prepare(words: Sequence[str]) -> Parsed:
    """Read the command line."""
    parsed = parse(words, OPTIONS, verb="view")
    if parsed.on("help"):
        print(usage("modtrace view [TRACE] [options]", _TEXT, OPTIONS), end="")
        raise SystemExit(0)
    return parsed


def execute(parsed: Parsed) -> None:
    """Show it until the user leaves.

    Raises:
        UsageError: there is no trace, or none that can be read.
    """
    try:
        if parsed.on("plain") or not has_terminal():
            _print(parsed)
            return
        from modtrace.views.tui.app import run

        run(chosen(parsed.rest), max_memory_bytes=memory_limit_of(parsed))
    except TraceError as error:
        raise UsageError(str(error)) from None


def _print(parsed: Parsed) -> None:
    from modtrace.views import console

    style = console.style_of(sys.stdout)
    if parsed.on("plain"):
        style = console.Style(width=80, color=False, ascii=True)
    text = console.tree(opened(parsed), **style)
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    print(text.encode(encoding, "backslashreplace").decode(encoding), end="")
