"""`modtrace diff`: what changed between two runs, or between several runs a side."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modtrace.cli.chosen_trace import MAX_MEMORY, memory_limit_of
from modtrace.cli.compared_runs import (
    AGAINST,
    BETWEEN,
    MODES,
    SHARED_OPTIONS,
    check_options,
    compared,
    parsed_sides,
    runs_of,
    show_comparison,
    side_name,
)
from modtrace.cli.options import Option, ParsedOptions, Verb, check_modes
from modtrace.cli.output import show
from modtrace.errors import UsageError

OPTIONS: Final = (
    AGAINST,
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
    parsed, candidate = parsed_sides(words, VERB)
    baseline = parsed.words
    if candidate is None:
        if len(parsed.words) != 2:
            raise UsageError(
                f"diff takes two traces, not {len(parsed.words)}; several a side: modtrace diff A1 A2 --against B1 B2"
            )
        baseline, candidate = parsed.words[:1], parsed.words[1:]
    if not baseline:
        raise UsageError(BETWEEN)
    check_modes(parsed.values, VERB)
    check_options(parsed)
    if parsed.on("numerics"):
        if (len(baseline), len(candidate)) != (1, 1):
            raise UsageError("--numerics looks at one trace a side")
        if "fail-on" in parsed.values:
            raise UsageError("--numerics has no limits: leave --fail-on out")
    return PreparedDiff(baseline, candidate, parsed)


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
