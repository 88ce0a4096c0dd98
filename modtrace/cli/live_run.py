"""`modtrace run --live`: the script as a child on a terminal of its own, looked at while it runs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from modtrace.cli.options import Option, ParsedOptions, takes_next
from modtrace.cli.output import say
from modtrace.errors import ModtraceError
from modtrace.launch.rank import Launch
from modtrace.systems.open_files import path_from_here, read_at
from modtrace.systems.terminals import has_pseudo_terminals, moves_cursor
from modtrace.text import plain

_VARIABLE: Final = "MODTRACE_LIVE"


@dataclass(frozen=True)
class LiveRun:
    """A run that can be looked at: the command of the child, and the trace that it will make."""

    name: str
    command: tuple[str, ...]
    trace: Path


def against(launched: Launch) -> str | None:
    """Reason for which a run cannot be looked at from here; None where it can."""
    if launched.key is not None:
        return "is for one process: use modtrace live in another shell"
    if not has_pseudo_terminals():
        return "needs pseudo-terminals, which this system has not"
    if not moves_cursor():
        return "needs a terminal that can move its cursor (TERM says it cannot)"
    try:
        terminals = [stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)]
    except ValueError:  # closed
        terminals = [False]
    if not all(terminals):
        return "needs a terminal for input, output and errors"
    return None


def plan(
    words: Sequence[str], parsed: ParsedOptions, options: Sequence[Option], *, name: str, trace: Path
) -> LiveRun:
    """The command that runs the same without --live: same interpreter, same flags, same entry."""
    before = list(words[: len(words) - len(parsed.words)])
    words_before, skip = [], False
    for word in before:
        if skip or word != "--live":
            words_before.append(word)
        skip = not skip and takes_next(word, options)
    return LiveRun(name, (*_entry(), "run", "-o", str(trace), *words_before, *parsed.words), trace)


def execute(prepared: LiveRun) -> None:
    """Start it, show it, and end as it ended; after a detach with 0."""
    from modtrace.views.live.pty_process import Script, die

    env = {name: value for name, value in os.environ.items() if name != _VARIABLE}
    columns, rows = shutil.get_terminal_size()
    try:
        script = Script(prepared.command, prepared.trace, env=env, size=(rows, columns))
    except ModtraceError as error:
        say(f"modtrace: {error}")
        raise SystemExit(error.exit_code) from None
    script.watch_signals()
    outcome = _show(prepared, script)
    if outcome == "detached":
        shown = plain(path_from_here(prepared.trace))
        say(
            f"modtrace: {plain(prepared.name)} goes on as process {script.pid}\n"
            f"  look again  modtrace live {shown}\n  stop it     kill -INT {script.pid}"
        )
        raise SystemExit(0)
    _finish(script, from_start=outcome is None)
    die(1 if script.returncode is None else script.returncode)


def _show(prepared: LiveRun, script: Any) -> str | None:
    """The user's choice, None where the view itself has failed."""
    try:
        from modtrace.views.tui.app import watch

        return watch(prepared.trace, script=script, name=prepared.name)
    except Exception as fault:
        say(
            f"modtrace: the live view failed: {type(fault).__name__}: {plain(str(fault), 200)}; the output follows"
        )
        return None


def _finish(script: Any, *, from_start: bool) -> None:
    """Copy what the script prints until it has ended: all of it where nothing was shown, else the end of it."""
    import time

    from modtrace.views.live.scrollback import OutputFile

    position = 0
    while True:
        ended = script.poll() is not None or script.lost
        if ended:
            script.wait_for_output()
        while from_start and (data := read_at(script.output, 1 << 16, position)):
            position += len(data)
            os.write(1, data.replace(b"\r\n", b"\n"))
        if ended:
            break
        time.sleep(0.05)
    if not from_start:
        output = OutputFile(script.output_path, script.output)
        output.look()
        for line in output.lines.last(max(shutil.get_terminal_size()[1] - 2, 10)):
            print(line)


def _entry() -> list[str]:
    """The words that started this very command, up to its command."""
    import subprocess

    arguments, original = sys.argv[1:], list(getattr(sys, "orig_argv", []))
    if arguments and original[-len(arguments) :] == arguments and len(original) > len(arguments):
        return [sys.executable, *original[1 : -len(arguments)]]
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001
    return [sys.executable, *flags, "-m", "modtrace"]
