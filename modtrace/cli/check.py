"""`modtrace check`: limits held against one run, for budgets in CI."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from modtrace.cli.chosen_trace import MAX_MEMORY, opened
from modtrace.cli.compared_runs import FAIL_ON, JUNIT, UNKNOWN_OK, check_junit, end_with, limits_of
from modtrace.cli.options import Option, ParsedOptions, Verb, parse
from modtrace.cli.output import show
from modtrace.errors import UsageError

OPTIONS: Final = (
    Option(
        FAIL_ON.names,
        FAIL_ON.value,
        "what must hold, such as 'step.p50<50ms, peak<2GB, findings'",
        repeated=True,
    ),
    UNKNOWN_OK,
    Option(("--json",), None, "for programs"),
    JUNIT,
    Option(("--plain",), None, "ASCII, no color, 80 columns"),
    MAX_MEMORY,
)
_TEXT: Final = (
    "Hold limits against one run; without TRACE against the newest here. A limit on a number says what must hold: "
    "step.p95<80ms, encoder.*.forward<3ms, recompiles<1. findings fails where there is any, nan where a value was not "
    "finite. The exit status is 1 where a limit is exceeded, 5 where that cannot be told."
)
VERB: Final = Verb(
    "check",
    "modtrace check [TRACE] --fail-on LIMITS [options]",
    _TEXT,
    OPTIONS,
    examples=(
        ("modtrace check --fail-on 'step.p50<50ms'", "of the newest trace here"),
        ("modtrace check run.mtrace --fail-on 'peak<2GB, findings'", "memory, and no findings"),
    ),
    docs="docs/comparing.md",
)


def prepare(words: Sequence[str]) -> ParsedOptions:
    """Read the command line.

    Raises:
        UsageError: there are no limits, or one cannot be read or is about a change.
    """
    parsed = parse(words, VERB)
    if "fail-on" not in parsed.values:
        raise UsageError("check takes limits: modtrace check --fail-on 'step.p50<50ms, peak<2GB'")
    for limit in limits_of(parsed):
        if limit.is_change:
            raise UsageError(f"{limit.text!r} is about a change: modtrace diff has a baseline for that")
    check_junit(parsed)
    return parsed


def execute(parsed: ParsedOptions) -> None:
    """Print to stdout; the exit status is the verdict.

    Raises:
        TraceError: there is no trace, or it cannot be read.
        SystemExit: a limit is exceeded, or cannot be told.
    """
    from modtrace.analysis.comparing.gate import held_against_run
    from modtrace.analysis.comparing.run_extraction import run_numbers
    from modtrace.analysis.findings import findings

    stored = opened(parsed)
    results = held_against_run(run_numbers(stored), limits_of(parsed), lambda: len(findings(stored)))
    if parsed.on("json"):
        from modtrace.export.difference_json import check_json

        print(check_json(results, unknown_ok=parsed.on("unknown-ok")))
    else:
        from modtrace.views import console

        style = console.plain_style(sys.stdout) if parsed.on("plain") else console.style_of(sys.stdout)
        show(console.limits_text(results, **style))
    end_with(results, stored.path.name, parsed)
