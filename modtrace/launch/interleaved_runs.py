"""Two commands run in turns under modtrace, each into a trace of its own. Standard library only."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modtrace.errors import RunFailedError
from modtrace.launch.traced_command import TracedCommand
from modtrace.text import plain

SIDES: Final = ("a", "b")
_TAIL_LINES: Final = 12


@dataclass(frozen=True)
class FinishedRun:
    """One run: which side (0 or 1), its number from 1 on (0 for a warm-up), its trace, and how long it took."""

    side: int
    number: int
    trace: Path
    took_s: float


def interleaved(
    commands: Sequence[TracedCommand],
    folder: Path,
    *,
    runs: int,
    warm_ups: int = 1,
    options: Sequence[str] = (),
    enough: Callable[[], bool] = lambda: False,
) -> Iterator[FinishedRun]:
    """Run both commands in turns, A B A B. Warm-ups come first; their traces are removed.

    What a command prints goes to a file beside its trace.

    Args:
        commands: A and B.
        folder: where traces go: `a-1.mtrace`, `b-1.mtrace` ...
        runs: how often each is run, at most.
        warm_ups: how often each is run before.
        options: of `modtrace run`.
        enough: asked after each pair; True ends it.

    Raises:
        RunFailedError: a command has failed; the message has the end of what it printed.
    """
    for number in range(1 - warm_ups, runs + 1):
        for side, command in enumerate(commands):
            yield _run(command, folder, side, max(number, 0), options)
        if number > 0 and enough():
            return


def _run(command: TracedCommand, folder: Path, side: int, number: int, options: Sequence[str]) -> FinishedRun:
    name = f"{SIDES[side]}-{number or 'warm-up'}"
    trace, printed = folder / f"{name}.mtrace", folder / f"{name}.txt"
    force = [] if number else ["-f"]
    began = time.monotonic()
    with printed.open("wb") as output:
        try:
            status = subprocess.run(
                command.argv(trace, [*options, *force]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=command.folder,
                env=command.environment(),
                check=False,
            ).returncode
        except OSError as error:
            raise RunFailedError(f"{plain(command.text, 80)}: {error.strerror or error}") from None
    if status:
        tail = printed.read_text("utf-8", "replace").splitlines()[-_TAIL_LINES:]
        shown = "\n".join(f"  {plain(line, 200)}" for line in tail)
        how = f"exit status {status}" if status > 0 else f"signal {-status}"
        raise RunFailedError(
            f"{plain(command.text, 80)} ended with {how}; what it printed is in {plain(str(printed))}"
            + (f", and ends with\n{shown}" if shown else "")
        )
    return FinishedRun(side, number, trace, time.monotonic() - began)
