"""A command as people type it, and the same under `modtrace run`. Standard library only."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from modtrace.errors import UsageError
from modtrace.systems.open_files import command_words, is_path
from modtrace.text import plain

_PYTHON: Final = re.compile(r"python[0-9.]*\Z")
_SETTING: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_PYTHON_FLAGS: Final = frozenset("uBOsSEIqvbd")
_PYTHON_VALUES: Final = ("-W", "-X")
_LAUNCHERS: Final = frozenset({"torchrun", "mpirun", "mpiexec", "srun", "accelerate", "deepspeed"})


@dataclass(frozen=True)
class TracedCommand:
    """A command that runs a Python script, a module (`-m`) or code (`-c`).

    text: as it was typed.
    python: the interpreter, and its own options.
    words: the script, `-m MODULE` or `-c CODE`, and the arguments.
    settings: environment variables that it is given.
    folder: where it runs; None for here.
    """

    text: str
    python: tuple[str, ...]
    words: tuple[str, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None

    def argv(self, trace: Path, options: Sequence[str]) -> list[str]:
        """The command line that records it into a trace, with options of `modtrace run`."""
        run = [*self.python, "-m", "modtrace", "run", "--print", "none", *options, "-o", str(trace)]
        return [*run, *(["--"] if self.words[0] not in ("-m", "-c") else []), *self.words]

    def environment(self) -> dict[str, str]:
        """The environment that it runs in."""
        return {**os.environ, **self.settings}


def traced_command(text: str, settings: Sequence[str] = ()) -> TracedCommand:
    """Read a command: `[NAME=VALUE ...] [python [OPTIONS]] script.py [ARGUMENTS ...]`, as a shell would.

    Args:
        text: what was typed.
        settings: further environment variables, `NAME=VALUE`.

    Raises:
        UsageError: it does not run Python, or cannot be read.
    """
    shown = plain(text, 60)
    try:
        words = command_words(text)
    except ValueError as error:
        raise UsageError(f"{shown!r} cannot be read: {error}") from None
    given = []
    while words and _SETTING.match(words[0]):
        given.append(words.pop(0))
    given += settings
    for setting in given:
        if not _SETTING.match(setting):
            raise UsageError(f"--env takes NAME=VALUE, not {plain(setting, 40)!r}")
    environment = dict(setting.split("=", 1) for setting in given)
    python = [sys.executable]
    name = os.path.basename(words[0]).removesuffix(".exe") if words else ""
    if name in _LAUNCHERS:
        raise UsageError(
            f"{name} starts several processes: record runs with it, then modtrace diff A* --against B*"
        )
    if _PYTHON.match(name):
        python = [words[0] if is_path(words[0]) else sys.executable]
        words = words[1:]
        python += _python_options(words)
    elif words[:2] == ["modtrace", "run"]:
        raise UsageError(
            "compare runs the script under modtrace itself: leave modtrace run out; --run has its options"
        )
    if not words or (words[0] in ("-m", "-c") and len(words) < 2):
        raise UsageError(f"{shown!r} names no script")
    if words[0].startswith("-") and words[0] not in ("-m", "-c"):
        raise UsageError(f"{shown!r} has an option of python that is not known here: {plain(words[0], 40)}")
    return TracedCommand(text, tuple(python), tuple(words), environment)


def _python_options(words: list[str]) -> list[str]:
    """The options of python in front of the script, taken off."""
    options = []
    while words:
        if words[0] in _PYTHON_VALUES and len(words) > 1:
            options += [words.pop(0), words.pop(0)]
        elif _is_python_option(words[0]):
            options.append(words.pop(0))
        else:
            break
    return options


def _is_python_option(word: str) -> bool:
    """True for `-u`, `-Wdefault` and the like."""
    if len(word) < 2 or word[0] != "-":
        return False
    return (word.startswith(_PYTHON_VALUES) and len(word) > 2) or set(word[1:]) <= _PYTHON_FLAGS
