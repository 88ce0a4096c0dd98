"""Runs scripts as a user would: with python, and with `modtrace run`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

PYTHON: Final = "python"
RUN: Final = "run"
WATCHED: Final = "run, watched"
VARIANTS: Final[dict[str, tuple[str, ...]]] = {
    PYTHON: (),
    RUN: ("-m", "modtrace", "run", "-q", "-f"),
    WATCHED: ("-m", "modtrace", "run", "-q", "-f", "--memory", "0:1", "--kernels", "0:1"),
}
"""Ways to run a script."""


@dataclass(frozen=True)
class Ran:
    """A script that has ended. `trace` is where its trace is, if it was traced."""

    status: int
    stdout: str
    stderr: str
    trace: Path

    @property
    def value(self) -> Any:
        """What it printed last, as JSON."""
        lines = self.stdout.strip().splitlines()
        if self.status or not lines:
            raise RuntimeError(f"exit status {self.status}:\n{self.stderr[-2_000:]}")
        return json.loads(lines[-1])


def run(
    folder: Path,
    script: str,
    *arguments: str,
    variant: str = PYTHON,
    before: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
) -> Ran:
    """Run a script to its end, in a folder.

    Args:
        folder: where it is written and runs, and where its trace goes.
        script: its text.
        arguments: its own.
        variant: one of VARIANTS.
        before: a program and options to run python under.
        environment: what is set beside this process's.
    """
    file = folder / "script.py"
    file.write_text(script)
    trace = folder / f"{variant.replace(', ', '-')}.mtrace"
    output = () if variant == PYTHON else ("-o", str(trace))
    command = [*before, sys.executable, *VARIANTS[variant], *output, str(file), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env=os.environ | (environment or {})
    )
    return Ran(done.returncode, done.stdout, done.stderr, trace)


def opened(trace: Path) -> tuple[Any, str]:
    """(the trace, "") or (None, why it cannot be opened)."""
    import modtrace
    from modtrace.errors import ModtraceError

    try:
        found = modtrace.load(trace)
        len(found.calls)
    except ModtraceError as error:
        return None, str(error)
    return found, ""


def gaps_of(trace: Any) -> list[str]:
    """The reasons in the gaps of a trace."""
    return [str(one) for one in trace._read().table("gaps").column("reason").to_pylist()]  # noqa: SLF001
