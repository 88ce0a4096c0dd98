"""`modtrace live`: look at a trace while it is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from modtrace.cli.chosen_trace import chosen
from modtrace.cli.options import Option, ParsedOptions, Verb, parse
from modtrace.cli.output import show
from modtrace.errors import TraceError, UsageError
from modtrace.systems.terminals import has_terminal
from modtrace.text import plain
from modtrace.trace.folder import denied, read_run
from modtrace.trace.newest import newest
from modtrace.trace.schema import SUFFIX

OPTIONS: Final = (
    Option(("--plain",), None, "print where it stands, once, as text"),
    Option(("--full",), "N", "ask the run for its next N steps in full, and print what it says"),
)
_TEXT: Final = (
    "Look at a run while it goes on: from another shell, another machine that sees the files, or all ranks of a job. "
    "Without TRACE the newest one here; of a directory the newest one there. Nothing is sent to the run. "
    "Where the output is no terminal it prints where the run stands, and ends."
)

VERB: Final = Verb(
    "live",
    "modtrace live [TRACE|DIR] [options]",
    _TEXT,
    OPTIONS,
    examples=(
        ("modtrace live", "the run that writes the newest trace here"),
        ("modtrace live --plain", "where it stands, once: for a log or a script"),
        ("modtrace live --full 3 run.mtrace", "three steps in full, of a run of which steps are left out"),
    ),
    docs="docs/live.md",
    modes=("plain", "full"),
)


def prepare(words: Sequence[str]) -> ParsedOptions:
    """Read the command line."""
    return parse(words, VERB)


def execute(parsed: ParsedOptions) -> None:
    """Show it until the user leaves; with --full ask it for steps, and print what it says.

    Raises:
        TraceError: there is no trace, or none that this version can read.
        UsageError: the run has ended, or does not answer.
    """
    path = _trace(chosen(parsed.words))
    if "full" in parsed.values:
        print(_asked(path, parsed.values["full"]))
        return
    if parsed.on("plain") or not has_terminal():
        from modtrace.views.live.plain_text import status_text

        show(status_text(path))
        return
    from modtrace.views.tui.app import watch

    watch(path)


def _asked(path: Path, steps: str) -> str:
    """The words of the processes of a run to the question for steps in full.

    Raises:
        UsageError: the run has ended, or none of them says anything.
    """
    import time

    from modtrace.trace.reader import run_of
    from modtrace.views.live.full_question import SECONDS, FullQuestion, number_of

    wanted = number_of(steps)
    run_of(path)
    question, until = FullQuestion(path, wanted), time.monotonic() + SECONDS
    while not question.look() and time.monotonic() < until:
        time.sleep(0.05)
    if not question.is_answered:
        raise UsageError(
            f"no answer within {SECONDS:.0f} s: the run does not go on, or calls no module now. "
            "It will answer when it does"
        )
    return question.text


def _trace(path: Path) -> Path:
    if denied(path):
        raise TraceError(f"{plain(str(path))} cannot be read: permission denied")
    if not path.exists():
        raise TraceError(f"there is no trace at {plain(str(path))}")
    if path.is_dir() and read_run(path) is None and not path.name.endswith(SUFFIX):
        return newest(path)
    return path
