"""`modtrace compare`: two commands run in turns under modtrace, and what changed."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from modtrace.cli.chosen_trace import MAX_MEMORY, memory_limit_of
from modtrace.cli.compared_runs import (
    MODES,
    SHARED_OPTIONS,
    check_options,
    compared,
    noise_of,
    show_comparison,
)
from modtrace.cli.options import Option, ParsedOptions, Verb, parse
from modtrace.cli.output import say
from modtrace.errors import PathTakenError, UsageError
from modtrace.launch.git_worktree import worktree
from modtrace.launch.interleaved_runs import SIDES, FinishedRun, interleaved
from modtrace.launch.traced_command import TracedCommand, traced_command
from modtrace.text import plain
from modtrace.units import duration

if TYPE_CHECKING:
    from modtrace.analysis.comparing.run_numbers import RunNumbers

DEFAULT_RUNS: Final = 5
LEAST_RUNS: Final = 5
"""Pairs of runs before which nothing ends early: with fewer nothing can be told."""
OPTIONS: Final = (
    Option(("--against",), "COMMAND", "the candidate"),
    Option(("--git",), "REV", "the baseline is the same command in this revision, in a worktree that is removed again"),
    Option(("--env",), "NAME=VALUE", "the candidate is the same command with this; may be given again", repeated=True),
    Option(("--runs",), "N", f"how often each is run (default {DEFAULT_RUNS}); beyond {LEAST_RUNS} while it helps"),
    Option(("--warm-up",), "N", "how often each is run before, which does not count (default 1)"),
    Option(("--run",), "OPTIONS", "options of modtrace run: '--memory 0:3 --engine calls'"),
    Option(("-o", "--output"), "DIR", "where traces go (default: ./compare-DATE-TIME)"),
    Option(("-q", "--quiet"), None, "no progress on stderr"),
    *SHARED_OPTIONS,
    MAX_MEMORY,
)  # fmt: skip
_TEXT: Final = (
    "Run two commands in turns under modtrace, A B A B, and show what changed. A command is a script with arguments as "
    "after python: 'train.py --lr 1e-3', 'OMP_NUM_THREADS=1 python -m train'. Traces are kept."
)
VERB: Final = Verb(
    "compare",
    "modtrace compare [options] 'COMMAND' --against 'COMMAND' | --git REV | --env NAME=VALUE",
    _TEXT,
    OPTIONS,
    examples=(
        ("modtrace compare 'train.py' --against 'train.py --fused'", "two ways"),
        ("modtrace compare --git main 'train.py'", "what you changed since main"),
        ("modtrace compare --runs 10 'train.py' --env OMP_NUM_THREADS=1", "two environments"),
    ),
    docs="docs/comparing.md",
    modes=MODES,
)


@dataclass(frozen=True)
class PreparedComparison:
    """Commands that can be run; `revision` is what the first is run in, "" for the working tree."""

    commands: tuple[TracedCommand, TracedCommand]
    revision: str
    runs: int
    warm_ups: int
    options: list[str]
    folder: Path
    parsed: ParsedOptions


def prepare(words: Sequence[str]) -> PreparedComparison:
    """Read the command line; nothing is run.

    Raises:
        UsageError: it does not say what to compare with what, or a command cannot be read.
    """
    parsed = parse(words, VERB)
    if len(parsed.words) != 1:
        raise UsageError(
            f"compare takes one command in quotes, not {len(parsed.words)}: "
            "modtrace compare 'train.py' --against 'new.py'"
        )
    ways = [key for key in ("against", "git", "env") if key in parsed.values]
    if len(ways) != 1:
        problem = "--" + " and --".join(ways) + " are two ways" if ways else "compare with what"
        raise UsageError(f"{problem}: one of --against 'COMMAND', --git REV, --env NAME=VALUE")
    first = traced_command(parsed.words[0])
    settings = parsed.values["env"].split("\n") if "env" in parsed.values else []
    second = traced_command(parsed.values.get("against", parsed.words[0]), settings)
    runs = parsed.number("runs")
    warm_ups = parsed.number("warm-up")
    if runs == 0:
        raise UsageError("--runs takes 1 or more")
    check_options(parsed)
    folder = Path(parsed.values.get("output") or time.strftime("compare-%Y%m%d-%H%M%S"))
    if folder.exists():
        raise PathTakenError(plain(str(folder)))
    try:
        options = shlex.split(parsed.values.get("run", ""))
    except ValueError as error:
        raise UsageError(f"--run cannot be read: {error}") from None
    return PreparedComparison(
        (first, second),
        parsed.values.get("git", ""),
        DEFAULT_RUNS if runs is None else runs,
        1 if warm_ups is None else warm_ups,
        options,
        folder,
        parsed,
    )


def execute(prepared: PreparedComparison) -> None:
    """Run both, print the comparison to stdout; the exit status is the verdict on the limits.

    Raises:
        UsageError: there is no such revision, or the folder cannot be made.
        RunFailedError: a command has failed.
        SystemExit: a limit is exceeded, or cannot be told.
    """
    parsed, folder = prepared.parsed, Path(os.path.abspath(prepared.folder))
    commands = list(prepared.commands)
    names = [plain(command.text, 40) for command in commands]
    sides: tuple[list[RunNumbers], list[RunNumbers]] = ([], [])
    with ExitStack() as stack:
        if prepared.revision:
            tree = stack.enter_context(worktree(prepared.revision, Path.cwd()))
            commands[0] = replace(commands[0], folder=tree)
            names = [plain(prepared.revision, 40), "the working tree"]
        elif "env" in parsed.values:
            names = [names[0], " ".join(parsed.values["env"].split("\n"))]
        try:
            folder.mkdir()
        except OSError as error:
            raise UsageError(f"cannot make {plain(str(folder))}: {error.strerror or error}") from None
        for run in interleaved(
            commands,
            folder,
            runs=prepared.runs,
            warm_ups=prepared.warm_ups,
            options=prepared.options,
            enough=lambda: _is_enough(sides, parsed),
        ):
            _take(run, sides, prepared)
    comparison = compared(sides[0], sides[1], parsed)
    if not parsed.on("quiet"):
        shown = plain(str(prepared.folder))
        say(f"modtrace: traces are in {shown}: modtrace diff {shown}/a-*.mtrace --against {shown}/b-*.mtrace")
    show_comparison(comparison, (names[0], names[1]), parsed)


def _take(
    run: FinishedRun, sides: tuple[list[RunNumbers], list[RunNumbers]], prepared: PreparedComparison
) -> None:
    """Read what was recorded, say so, and let go of a warm-up."""
    from modtrace.analysis.comparing.run_files import runs_in

    if not run.number:
        shutil.rmtree(run.trace, ignore_errors=True)
        text = "warm-up"
    else:
        (numbers,) = runs_in(run.trace, max_memory_bytes=memory_limit_of(prepared.parsed))
        sides[run.side].append(numbers)
        step_ns = int(numbers.step_times.p50_ns[0]) if len(numbers.step_times) else -1
        text = f"{run.number} of {prepared.runs}   step {duration(step_ns if step_ns >= 0 else None)}"
    if not prepared.parsed.on("quiet"):
        say(f"modtrace: {SIDES[run.side].upper()}  {text}   ({run.took_s:.1f} s)")


def _is_enough(sides: tuple[list[RunNumbers], list[RunNumbers]], parsed: ParsedOptions) -> bool:
    """True if the interval of the step is no wider than the noise. How wide it is, not what it says, ends the runs: to
    stop at the first verdict would make false ones of chance.
    """
    if len(sides[1]) < LEAST_RUNS:
        return False
    step = compared(sides[0], sides[1], parsed).steps["step"]
    if step.low is None or step.high is None:
        return False
    return step.high / step.low <= 1 + noise_of(parsed)
