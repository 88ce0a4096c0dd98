"""`modtrace diff`: what changed between two runs, or between several runs a side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from modtrace.cli.chosen_trace import MAX_MEMORY
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
from modtrace.errors import UsageError

AGAINST: Final = "--against"
OPTIONS: Final = (
    Option((AGAINST,), "TRACE ...", "the runs of the candidate; those in front of it are the baseline"),
    *SHARED_OPTIONS,
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
    baseline, candidate = (
        runs_of(paths, prepared.parsed) for paths in (prepared.baseline, prepared.candidate)
    )
    comparison = compared(baseline, candidate, prepared.parsed)
    show_comparison(
        comparison, (side_name(prepared.baseline), side_name(prepared.candidate)), prepared.parsed
    )
