"""Shared by the commands that compare runs: options, reading runs, showing a comparison, ending with its verdict."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from modtrace.cli.chosen_trace import RANK, chosen, memory_limit_of
from modtrace.cli.options import Option, ParsedOptions, Verb, parse, takes_next
from modtrace.cli.output import say, show
from modtrace.errors import CannotTellError, RegressionError, UsageError
from modtrace.text import plain

if TYPE_CHECKING:
    from modtrace.analysis.comparing.comparison import Comparison
    from modtrace.analysis.comparing.gate import LimitResult
    from modtrace.analysis.comparing.limits import Limit
    from modtrace.analysis.comparing.run_numbers import RunNumbers

FAIL_ON: Final = Option(
    ("--fail-on",),
    "LIMITS",
    "limits such as 'step:+5%, peak:+1%, flops:+0': end with 1 where one is exceeded, with 5 where that "
    "cannot be told",
    repeated=True,
)
UNKNOWN_OK: Final = Option(("--unknown-ok",), None, "end with 0 where a limit cannot be told")
JUNIT: Final = Option(("--junit",), "F.xml", "write the limits as test cases for a CI system too")
AGAINST: Final = Option(
    ("--against",), "TRACE ...", "the runs of the candidate; those in front of it are the baseline"
)
BETWEEN: Final = "--against stands between the traces of the baseline and those of the candidate"
SHARED_OPTIONS: Final = (
    Option(
        ("--map",),
        "OLD=NEW",
        "names that changed: 'encoder.*=enc.*'; may be given several times",
        repeated=True,
    ),
    Option(("--noise",), "PERCENT", "changes of times by less are none (default 5%)"),
    FAIL_ON,
    UNKNOWN_OK,
    Option(("--all",), None, "every row of each table"),
    Option(("--json",), None, "for programs: times in ns, unknown is null"),
    Option(("--markdown",), None, "for a comment on a pull request"),
    JUNIT,
    Option(("--plain",), None, "ASCII, no color, 80 columns"),
)
"""Options of diff and compare."""
MODES: Final = ("json", "markdown")
STATUS_OF: Final = {
    "fine": 0,
    "exceeded": RegressionError.exit_code,
    "unknown": CannotTellError.exit_code,
}
"""Verdict on limits -> exit status."""


def check_options(parsed: ParsedOptions) -> None:
    """Read the values of shared options before anything is opened or run.

    Raises:
        UsageError: one cannot be read.
    """
    from modtrace.analysis.comparing.name_map import NameMap

    NameMap(parsed.values.get("map", "").split("\n"))
    noise_of(parsed)
    limits_of(parsed)
    check_junit(parsed)


def check_junit(parsed: ParsedOptions) -> None:
    """Refuse a JUnit file without limits, or in a folder that is not there.

    Raises:
        UsageError: it is so.
    """
    junit = parsed.values.get("junit")
    if junit is not None and "fail-on" not in parsed.values:
        raise UsageError("--junit goes with --fail-on: it has a test case for each limit")
    if junit is not None and not Path(os.path.abspath(junit)).parent.is_dir():
        raise UsageError(f"{plain(junit)} cannot be written: its folder is not there")


def noise_of(parsed: ParsedOptions) -> float:
    """The band in which nothing has changed, as a part.

    Raises:
        UsageError: it is no number of percent.
    """
    text = parsed.values.get("noise", "5%")
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)\s*%?", text.strip())
    if match is None:
        raise UsageError(f"--noise takes percent such as 5%, not {plain(text, 40)!r}")
    return float(match[1]) / 100


def limits_of(parsed: ParsedOptions) -> list[Limit]:
    """The limits of --fail-on; none where it is not given.

    Raises:
        UsageError: one cannot be read.
    """
    from modtrace.analysis.comparing.limits import parse_limits

    return parse_limits(parsed.values["fail-on"]) if "fail-on" in parsed.values else []


def runs_of(paths: Sequence[str], parsed: ParsedOptions) -> list[RunNumbers]:
    """The runs of traces and baseline files, one opened after the other.

    Raises:
        TraceError: one is not there or cannot be read.
    """
    from modtrace.analysis.comparing.run_files import runs_in

    runs: list[RunNumbers] = []
    for path in paths:
        if len(paths) > 2 and sys.stderr.isatty():
            say(f"modtrace: reading {plain(path)}")
        runs += runs_in(Path(path), max_memory_bytes=memory_limit_of(parsed))
    return runs


def compared(
    baseline: Sequence[RunNumbers], candidate: Sequence[RunNumbers], parsed: ParsedOptions
) -> Comparison:
    """Both sides as the options of a command line ask for it."""
    from modtrace.analysis.comparing.comparison import Comparison
    from modtrace.analysis.comparing.name_map import NameMap

    names = NameMap(parsed.values.get("map", "").split("\n"))
    return Comparison(baseline, candidate, names=names, noise=noise_of(parsed))


def parsed_sides(words: Sequence[str], verb: Verb) -> tuple[ParsedOptions, list[str] | None]:
    """Options and traces of the baseline, and those of the candidate: behind --against; None where that is not there.

    Raises:
        UsageError: an option cannot be read, or no trace stands behind --against.
    """
    before, behind = _divided(words, verb)
    parsed = parse(before, verb)
    if behind is None:
        return parsed, None
    further = parse(behind, verb)
    if not further.words:
        raise UsageError(BETWEEN)
    parsed.values |= further.values
    return parsed, further.words


def _divided(words: Sequence[str], verb: Verb) -> tuple[list[str], list[str] | None]:
    """The words in front of --against and those behind it; None where it is not there."""
    (against,) = AGAINST.names
    queue = list(words)
    before: list[str] = []
    while queue:
        word = queue.pop(0)
        if word == against:
            return before, queue
        if word.startswith(f"{against}="):
            return before, [word.partition("=")[2], *queue]
        before.append(word)
        if word == "--":
            return [*before, *queue], None
        if word.startswith("-") and queue and takes_next(word, verb.options):
            before.append(queue.pop(0))
    return before, None


@dataclass(frozen=True)
class ShownTraces:
    """Traces that a view is asked for.

    parsed: the options, and the traces in front of --against.
    candidate: those behind it; none where one trace is shown by itself.
    """

    parsed: ParsedOptions
    candidate: tuple[str, ...] = ()

    @property
    def baseline(self) -> tuple[str, ...]:
        """The traces in front of --against, or the newest here.

        Raises:
            TraceError: none is here that holds a call.
        """
        return tuple(self.parsed.words) or (str(chosen([])),)


def shown_traces(words: Sequence[str], verb: Verb) -> ShownTraces:
    """The command line of a view, which shows one trace, or runs of two sides.

    Raises:
        UsageError: an option cannot be read, or no trace stands behind --against.
    """
    parsed, candidate = parsed_sides(words, verb)
    if candidate and RANK.key in parsed.values:
        raise UsageError("--against compares the first ranks: --rank is for one trace")
    parsed.number(RANK.key)
    return ShownTraces(parsed, tuple(candidate or ()))


def pair_of(shown: ShownTraces) -> tuple[Comparison, tuple[str, str]]:
    """The runs of both sides compared; and the names of the sides.

    Raises:
        TraceError: one is not there, or cannot be read.
    """
    baseline, candidate = shown.baseline, shown.candidate
    sides = [runs_of(paths, shown.parsed) for paths in (baseline, candidate)]
    return compared(sides[0], sides[1], shown.parsed), (side_name(baseline), side_name(candidate))


def show_comparison(comparison: Comparison, names: tuple[str, str], parsed: ParsedOptions) -> None:
    """Print a comparison, and end with the verdict on its limits.

    Raises:
        UsageError: a limit names no module that is there.
        SystemExit: a limit is exceeded, or cannot be told.
    """
    from modtrace.analysis.comparing.gate import held_against

    results = held_against(comparison, limits_of(parsed))
    unknown_ok = parsed.on("unknown-ok")
    if parsed.on("json"):
        from modtrace.export.difference_json import difference_json

        print(difference_json(comparison, results, unknown_ok=unknown_ok))
    elif parsed.on("markdown"):
        from modtrace.views.difference_markdown import difference_markdown

        show(difference_markdown(comparison, names, results))
    else:
        from modtrace.views import console

        style = console.plain_style(sys.stdout) if parsed.on("plain") else console.style_of(sys.stdout)
        show(console.difference_text(comparison, names, limits=results, every=parsed.on("all"), **style))
    end_with(results, f"{names[0]} -> {names[1]}", parsed)


def end_with(results: Sequence[LimitResult], suite: str, parsed: ParsedOptions) -> None:
    """Write the JUnit file that is asked for, and end with the verdict on limits.

    Raises:
        SystemExit: a limit is exceeded, or cannot be told.
    """
    from modtrace.analysis.comparing.gate import verdict

    if not results:
        return
    unknown_ok = parsed.on("unknown-ok")
    if "junit" in parsed.values:
        from modtrace.export.junit import junit
        from modtrace.export.target import write
        from modtrace.views.difference_text import measured_text

        write(
            [junit(results, suite, measured_text, unknown_ok=unknown_ok)], parsed.values["junit"], force=True
        )
    status = STATUS_OF[verdict(results, unknown_ok=unknown_ok)]
    if status:
        sys.stdout.flush()
        raise SystemExit(status)


def side_name(paths: Sequence[str]) -> str:
    """The traces of a side in a word: `base.mtrace`, `base-1.mtrace and 4 more`."""
    first = os.path.basename(paths[0].rstrip("/")) or paths[0]
    return first if len(paths) == 1 else f"{first} and {len(paths) - 1} more"
