"""`modtrace view`: the terminal viewer; where there is no terminal, the tree as text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from modtrace.cli.chosen_trace import MAX_MEMORY, RANK, chosen, memory_limit_of, opened
from modtrace.cli.compared_runs import (
    AGAINST,
    ShownTraces,
    pair_of,
    show_comparison,
    shown_traces,
)
from modtrace.cli.options import Option, ParsedOptions, Verb
from modtrace.cli.output import show
from modtrace.systems.terminals import has_terminal

OPTIONS: Final = (
    Option(("--plain",), None, "the tree as text: ASCII, no color, 80 columns"),
    AGAINST,
    RANK,
    MAX_MEMORY,
)
_TEXT: Final = (
    "Browse a trace; without TRACE the newest one here. ? shows the keys. Where the output is no terminal it prints "
    "what modtrace info --tree does."
)

VERB: Final = Verb(
    "view",
    "modtrace view [TRACE] [options]",
    _TEXT,
    OPTIONS,
    examples=(
        ("modtrace view", "the newest trace here"),
        ("modtrace view run.mtrace", "another one; modtrace run.mtrace does the same"),
        ("modtrace view --plain > tree.txt", "the tree as text"),
        ("modtrace view old*.mtrace --against new*.mtrace", "coloured by what changed"),
    ),
    docs="docs/viewer.md",
)


def prepare(words: Sequence[str]) -> ShownTraces:
    """Read the command line."""
    return shown_traces(words, VERB)


def execute(shown: ShownTraces) -> None:
    """Show it until the user leaves.

    Raises:
        TraceError: there is no trace, or none that can be read.
    """
    if shown.candidate:
        _show_pair(shown)
        return
    parsed = shown.parsed
    if parsed.on("plain") or not has_terminal():
        _print(parsed)
        return
    from modtrace.views.tui.app import run

    run(chosen(parsed.words), rank=parsed.number(RANK.key), max_memory_bytes=memory_limit_of(parsed))


def _print(parsed: ParsedOptions) -> None:
    from modtrace.views import console

    style = console.plain_style(sys.stdout) if parsed.on("plain") else console.style_of(sys.stdout)
    text = console.tree(opened(parsed, most_processes=1), **style)
    show(text)


def _show_pair(shown: ShownTraces) -> None:
    """Two runs beside each other; without a terminal the text of modtrace diff."""
    comparison, names = pair_of(shown)
    parsed = shown.parsed
    if parsed.on("plain") or not has_terminal():
        show_comparison(comparison, names, parsed)
        return
    from modtrace.views.tui.pair_viewer import PairViewer

    PairViewer(comparison, names).run()
