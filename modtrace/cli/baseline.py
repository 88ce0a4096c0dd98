"""`modtrace baseline`: the numbers of runs as a small file to compare with later."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from modtrace.cli.chosen_trace import MAX_MEMORY, chosen
from modtrace.cli.compared_runs import runs_of
from modtrace.cli.options import Option, ParsedOptions, Verb, parse
from modtrace.cli.output import say
from modtrace.errors import UsageError
from modtrace.text import plain
from modtrace.units import plural, size

OPTIONS: Final = (
    Option(("-o", "--output"), "F.json", "where to"),
    Option(("-f", "--force"), None, "replace a file that is there"),
    MAX_MEMORY,
)
VERB: Final = Verb(
    "baseline",
    "modtrace baseline -o F.json [TRACE ...] [options]",
    "Write the numbers of runs to a small file that modtrace diff takes for a baseline. It holds no names of files and "
    "no arguments, so it can be committed. Without TRACE of the newest trace here.",
    OPTIONS,
    examples=(
        ("modtrace baseline -o main.json run.mtrace", "of one run"),
        ("modtrace baseline -f -o main.json runs/*.mtrace", "of several: times can be told"),
    ),
    docs="docs/comparing.md",
)


def prepare(words: Sequence[str]) -> ParsedOptions:
    """Read the command line.

    Raises:
        UsageError: there is no name for the file.
    """
    parsed = parse(words, VERB)
    if "output" not in parsed.values:
        raise UsageError("baseline needs a name for the file: modtrace baseline -o main.json TRACE")
    return parsed


def execute(parsed: ParsedOptions) -> None:
    """Write the file and say so, to stderr.

    Raises:
        UsageError: the file is there, or cannot be written.
        TraceError: a trace cannot be read.
    """
    from modtrace.analysis.comparing.baseline_file import baseline_text
    from modtrace.export.target import refuse_existing, write

    target = Path(parsed.values["output"])
    refuse_existing(target, force=parsed.on("force"))
    runs = runs_of(parsed.words or [str(chosen([]))], parsed)
    write([baseline_text(runs).encode()], target, force=parsed.on("force"))
    say(f"modtrace: wrote {plain(str(target))}, {plural(len(runs), 'run')}, {size(os.path.getsize(target))}")
