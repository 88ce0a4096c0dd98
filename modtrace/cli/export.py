"""`modtrace export`: a trace in a form that other tools read."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from modtrace.cli.chosen import MAX_MEMORY, opened
from modtrace.cli.options import Option, Parsed, parse, usage
from modtrace.errors import UsageError
from modtrace.export.methods import TYPES

OPTIONS: Final = (
    Option(("-t", "--type"), "TYPE", ", ".join(TYPES)),
    Option(("-o", "--to"), "PATH", "where to; - is stdout (default: the trace's name with .csv and so on, here)"),
    Option(("-f", "--force"), None, "replace a file that is there"),
    Option(("--raw",), None, "csv: leave cells that a spreadsheet takes for formulas as they are"),
    MAX_MEMORY,
    Option(("-h", "--help"), None, "this text"),
)  # fmt: skip

_TEXT: Final = (
    "types:\n"
    + "".join(f"  {name:12} {kind.doc}\n" for name, kind in TYPES.items())
    + "\nIn CSV, cells that a spreadsheet would run as formulas get a ' in front, unless --raw."
)


def prepare(words: Sequence[str]) -> Parsed:
    """Read the command line."""
    parsed = parse(words, OPTIONS, verb="export")
    if parsed.on("help"):
        print(usage("modtrace export [TRACE] -t TYPE [options]", _TEXT, OPTIONS), end="")
        raise SystemExit(0)
    name = parsed.values.get("type")
    if name not in TYPES:
        raise UsageError(f"say what to export to: {', '.join(f'-t {one}' for one in TYPES)}")
    if parsed.on("raw") and name != "csv":
        raise UsageError("--raw is about cells of CSV: -t csv")
    return parsed


def execute(parsed: Parsed) -> None:
    """Write the file, or to stdout."""
    from modtrace.cli.progress import Progress
    from modtrace.export.target import write
    from modtrace.text import plain
    from modtrace.units import size

    stored = opened(parsed)
    name = parsed.values["type"]
    kind = TYPES[name]
    target = parsed.values.get("to") or f"{stored.path.stem}{kind.suffix}"
    progress = Progress(sys.stderr, f"modtrace: {name}")
    options = {"raw": True} if parsed.on("raw") else {}
    try:
        if target == "-":
            if kind.binary and sys.stdout.isatty():
                raise UsageError(f"{name} is not for a terminal; name a file with -o")
            write(kind.chunks(stored, progress, **options), sys.stdout.buffer)
            return
        write(kind.chunks(stored, progress, **options), Path(target), force=parsed.on("force"))
    finally:
        progress.close()
    told = f"modtrace: wrote {plain(target)}, {size(os.path.getsize(target))}"
    print(told.encode("ascii", "backslashreplace").decode(), file=sys.stderr)
