"""`modtrace ranks`: the ranks of a job beside each other."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from modtrace.cli.chosen_trace import MAX_MEMORY, chosen, memory_limit_of
from modtrace.cli.options import Option, ParsedOptions, Verb, parse
from modtrace.cli.output import show

OPTIONS: Final = (
    Option(("--all",), None, "a line for each rank, however many there are"),
    Option(("--json",), None, "for programs: times in ns, unknown is null"),
    Option(("--plain",), None, "ASCII, no color, 80 columns"),
    MAX_MEMORY,
)
_TEXT: Final = (
    "The ranks of a job beside each other: which one failed first, which one the others wait for and in what, a line a "
    "rank, modules over ranks. Without TRACE of the newest one here; also of a job that runs, hangs or was killed."
)
VERB: Final = Verb(
    "ranks",
    "modtrace ranks [TRACE] [options]",
    _TEXT,
    OPTIONS,
    examples=(
        ("modtrace ranks", "of the newest trace here"),
        ("modtrace ranks run.mtrace --json", "every rank and module"),
    ),
    docs="docs/ranks.md",
)


def prepare(words: Sequence[str]) -> ParsedOptions:
    """Read the command line."""
    return parse(words, VERB)


def execute(parsed: ParsedOptions) -> None:
    """Print to stdout.

    Raises:
        TraceError: there is no trace, or it cannot be read.
    """
    from modtrace.trace.reader import open_trace
    from modtrace.views import console

    style = console.plain_style(sys.stdout) if parsed.on("plain") else console.style_of(sys.stdout)
    stored = open_trace(chosen(parsed.words), max_memory_bytes=memory_limit_of(parsed))
    if parsed.on("json"):
        from modtrace.analysis.ranks.rank_report import rank_report
        from modtrace.export.ranks_json import ranks_json
        from modtrace.views.ranks import remarks

        report = rank_report(stored)
        print(ranks_json(report, remarks(report)))
    else:
        show(console.ranks_text(stored, every=parsed.on("all"), **style))
