"""The command line: finds the command and hands over. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, NoReturn

from modtrace.errors import ModtraceError, PathTakenError, TraceError, UsageError

VERBS: Final = {
    "run": "run a script and record its module calls",
    "live": "look at a run while it goes on",
    "view": "browse a trace in the terminal",
    "ranks": "show which rank of a job failed first, hangs or is waited for",
    "info": "show the summary, the tree or the modules of a trace",
    "report": "write one HTML file that shows a trace anywhere",
    "diff": "show what changed between two runs, or fail where too much did",
    "compare": "run two commands in turns and show what changed",
    "check": "fail where a run exceeds limits",
    "baseline": "write a small file to compare runs with later",
    "ls": "list the traces in a directory",
    "export": "write a trace in a form that other tools read",
    "device": "measure what the devices here reach",
}

_USAGE: Final = (
    "usage: modtrace COMMAND ...    (modtrace COMMAND --help)\n\ncommands:\n"
    + "".join(f"  {verb:8} {text}\n" for verb, text in VERBS.items())
    + """
examples:
  modtrace run train.py --lr 1e-3    record it, and say where the time went
  modtrace view                      browse the newest trace here
  modtrace report --open             the same as a page

COLUMNS=120 sets the width of texts, NO_COLOR=1 takes the colour off.
docs: README.md, docs/index.md
"""
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; leaves through SystemExit, or through whatever the script that is run raises."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        command, prepared = _prepared(words)
        if command.VERB.name != "run":
            command.execute(prepared)
            sys.stdout.flush()
            return
    except ModtraceError as error:
        _fail(_message(error), error.exit_code)
    except MemoryError:
        _fail("the trace does not fit into memory", TraceError.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        from modtrace.systems.this_process import end_by_interrupt

        end_by_interrupt()
    command.execute(prepared)


def _prepared(words: list[str]) -> tuple[Any, Any]:
    """The module of the command, and its command line as it has read it.

    Raises:
        UsageError: there is no such command, or its command line cannot be read.
        SystemExit: after a help or the version.
    """
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    if not words or words[0] in ("-h", "--help"):
        print(_USAGE, end="")
        raise SystemExit(0 if words else 2)
    if words[0] == "--version":
        from modtrace._version import __version__

        print(f"modtrace {__version__}")
        raise SystemExit(0)
    if words[0] not in VERBS and _is_trace(words[0]):
        words = ["view", *words]
    if words[0] not in VERBS:
        raise UsageError(_unknown(words))
    command = import_module(f"modtrace.cli.{words[0]}")
    return command, command.prepare(words[1:])


def _is_trace(word: str) -> bool:
    return word.rstrip("/" + os.sep).endswith(".mtrace") or os.path.isfile(os.path.join(word, "run.json"))


def _unknown(words: Sequence[str]) -> str:
    """The message for a first word that is no command: a script to run, a word mistyped, an option."""
    import shlex
    from difflib import get_close_matches

    from modtrace.systems.open_files import is_path
    from modtrace.text import plain

    word = words[0]
    shown = plain(word, 60)
    if word in ("-m", "-c") or os.path.exists(word):
        command = plain(" ".join(map(shlex.quote, words)), 200)
        return f"to run {shown if os.path.exists(word) else 'it'} and record it: modtrace run {command}"
    if word.startswith("-"):
        return f"there is no option {shown}; modtrace --help lists the commands"
    if word.endswith((".py", ".pyw")) or is_path(word):
        return f"there is no command and no file {shown}; a script is run by: modtrace run script.py"
    near = get_close_matches(word.lower(), VERBS, n=1, cutoff=0.6)
    meant = f"did you mean modtrace {near[0]}? " if near else ""
    return f"there is no command {shown}; {meant}modtrace --help lists them"


def _message(error: ModtraceError) -> str:
    """An error as the command line says it: with an option where code has an argument."""
    if isinstance(error, PathTakenError):
        return f"{error.path} exists already; -f replaces it, -o names another place"
    return str(error)


def _fail(message: str, status: int) -> NoReturn:
    from modtrace.cli.output import say

    say(f"modtrace: {message}")
    raise SystemExit(status)
