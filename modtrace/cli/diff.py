"""`modtrace diff`: what changed between two runs, or between several runs a side."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modtrace.cli.chosen_trace import MAX_MEMORY, memory_limit_of
from modtrace.cli.compared_runs import (
    MODES,
    SHARED_OPTIONS,
    check_options,
    compared,
    runs_of,
    show_comparison,
    side_name,
)
from modtrace.cli.options import Option, ParsedOptions, Verb, check_modes, parse, takes_next
from modtrace.cli.output import show
from modtrace.errors import UsageError

AGAINST: Final = "--against"
OPTIONS: Final = (
    Option((AGAINST,), "TRACE ...", "the runs of the candidate; those in front of it are the baseline"),
    *SHARED_OPTIONS,
    Option(
        ("--numerics",),
        None,
        "the first call whose values part; of two traces with --values",
        beside=("", "json"),
    ),
    MAX_MEMORY,
)
_TEXT: Final = (
    "What changed between a baseline and a candidate: environment, modules, numbers without noise, times. A baseline "
    "is a trace, several traces, or a file of modtrace baseline."
)
VERB: Final = Verb(
    "diff",
    "modtrace diff BASELINE CANDIDATE | BASELINE ... --against CANDIDATE ...  [options]",
    _TEXT,
    OPTIONS,
    examples=(
        ("modtrace diff old.mtrace new.mtrace", "two runs"),
        ("modtrace diff old*.mtrace --against new*.mtrace", "several: times can be told"),
        ("modtrace diff main.json new.mtrace --fail-on peak:+1%", "a gate for CI"),
        ("modtrace diff fp32.mtrace bf16.mtrace --numerics", "where values part"),
    ),
    docs="docs/comparing.md",
    modes=MODES,
)


@dataclass(frozen=True)
class PreparedDiff:
    """Traces of both sides, and the options."""

    baseline: list[str]
    candidate: list[str]
    parsed: ParsedOptions


def prepare(words: Sequence[str]) -> PreparedDiff:
    """Read the command line.

    Raises:
        UsageError: it does not say what to compare with what.
    """
    before, behind = _divided(words)
    parsed = parse(before, VERB)
    if behind is None:
        baseline, candidate = parsed.words[:1], parsed.words[1:]
        if len(parsed.words) != 2:
            raise UsageError(
                f"diff takes two traces, not {len(parsed.words)}; several a side: modtrace diff A1 A2 --against B1 B2"
            )
    else:
        further = parse(behind, VERB)
        parsed.values |= further.values
        baseline, candidate = parsed.words, further.words
        if not baseline or not candidate:
            raise UsageError("--against stands between the traces of the baseline and those of the candidate")
    check_modes(parsed.values, VERB)
    check_options(parsed)
    if parsed.on("numerics"):
        if (len(baseline), len(candidate)) != (1, 1):
            raise UsageError("--numerics looks at one trace a side")
        if "fail-on" in parsed.values:
            raise UsageError("--numerics has no limits: leave --fail-on out")
    return PreparedDiff(baseline, candidate, parsed)


def _divided(words: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """The words in front of --against and those behind it; None where it is not there."""
    queue = list(words)
    before: list[str] = []
    while queue:
        word = queue.pop(0)
        if word == AGAINST:
            return before, queue
        if word.startswith(f"{AGAINST}="):
            return before, [word.partition("=")[2], *queue]
        before.append(word)
        if word == "--":
            return [*before, *queue], None
        if word.startswith("-") and queue and takes_next(word, OPTIONS):
            before.append(queue.pop(0))
    return before, None


def execute(prepared: PreparedDiff) -> None:
    """Print to stdout; the exit status is the verdict on the limits.

    Raises:
        TraceError: a trace cannot be read.
        SystemExit: a limit is exceeded, or cannot be told.
    """
    if prepared.parsed.on("numerics"):
        _show_numerics(prepared)
        return
    baseline, candidate = (
        runs_of(paths, prepared.parsed) for paths in (prepared.baseline, prepared.candidate)
    )
    comparison = compared(baseline, candidate, prepared.parsed)
    show_comparison(
        comparison, (side_name(prepared.baseline), side_name(prepared.candidate)), prepared.parsed
    )


def _show_numerics(prepared: PreparedDiff) -> None:
    from modtrace.analysis.comparing.first_parting import numerics
    from modtrace.analysis.comparing.name_map import NameMap
    from modtrace.export.difference_json import numerics_json
    from modtrace.trace.reader import open_trace
    from modtrace.views import console

    parsed = prepared.parsed
    limit = memory_limit_of(parsed)
    paths = prepared.baseline[0], prepared.candidate[0]
    baseline, candidate = (open_trace(Path(path), max_memory_bytes=limit) for path in paths)
    found = numerics(baseline, candidate, NameMap(parsed.values.get("map", "").split("\n")))
    if parsed.on("json"):
        print(numerics_json(found))
        return
    style = console.plain_style(sys.stdout) if parsed.on("plain") else console.style_of(sys.stdout)
    show(console.numerics_text(found, (side_name(paths[:1]), side_name(paths[1:])), **style))
