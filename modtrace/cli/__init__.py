"""The command line: finds the verb and hands over. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NoReturn

from modtrace.errors import ModtraceError, TraceError

_VERBS: Final = {
    "run": "run a script and record its module calls",
    "live": "look at a run while it goes on",
    "view": "browse a trace in the terminal",
    "info": "show the summary, the tree or the modules of a trace",
    "report": "write one HTML file that shows a trace anywhere",
    "ls": "list the traces in a directory",
    "export": "write a trace in a form that other tools read",
}

_USAGE: Final = "usage: modtrace VERB ...    (modtrace VERB --help)\n\nverbs:\n" + "".join(
    f"  {verb:8} {text}\n" for verb, text in _VERBS.items()
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; leaves through SystemExit, or through whatever the script that is run raises."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_USAGE, end="")
        raise SystemExit(0 if words else 2)
    if words[0] == "--version":
        from modtrace._version import __version__

        print(f"modtrace {__version__}")
        raise SystemExit(0)
    verb = words[0]
    if verb not in _VERBS and (os.path.isfile(verb) or verb in ("-m", "-c")):
        verb, words = "run", ["run", *words]
    if verb not in _VERBS:
        _fail(f"there is no verb {verb!r}; modtrace --help lists them", 2)
    try:
        command = import_module(f"modtrace.cli.{verb}")
        prepared = command.prepare(words[1:])
    except ModtraceError as error:
        _fail(str(error), error.exit_code)
    if verb == "run":
        command.execute(prepared)
        return
    try:
        command.execute(prepared)
        sys.stdout.flush()
    except ModtraceError as error:
        _fail(str(error), error.exit_code)
    except MemoryError:
        _fail("the trace does not fit into memory", TraceError.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(1) from None


def _fail(message: str, status: int) -> NoReturn:
    print(f"modtrace: {message}".encode("ascii", "backslashreplace").decode(), file=sys.stderr)
    raise SystemExit(status)
