"""`modtrace export`: a trace in a form that other tools read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from modtrace.cli.chosen import chosen
from modtrace.cli.options import Option, Parsed, parse, usage
from modtrace.errors import UsageError

OPTIONS: Final = (
    Option(("-t", "--type"), "TYPE", "csv"),
    Option(("-o", "--to"), "PATH", "where to; - is stdout (default: the trace's name with .csv, here)"),
    Option(("--raw",), None, "leave cells that a spreadsheet takes for formulas as they are"),
    Option(("-h", "--help"), None, "this text"),
)


def prepare(words: Sequence[str]) -> Parsed:
    """Read the command line."""
    parsed = parse(words, OPTIONS, verb="export")
    if parsed.on("help"):
        text = "Cells that a spreadsheet would run as formulas get a ' in front, unless --raw."
        print(usage("modtrace export [TRACE] -t csv [options]", text, OPTIONS), end="")
        raise SystemExit(0)
    if parsed.values.get("type") != "csv":
        raise UsageError("say what to export to: -t csv")
    return parsed


def execute(parsed: Parsed) -> None:
    """Write the file, or to stdout."""
    from modtrace.export.csv import to_csv
    from modtrace.trace.reader import open_trace

    path = chosen(parsed.rest)
    stored = open_trace(path)
    target = parsed.values.get("to") or f"{path.stem}.csv"
    if target == "-":
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
        to_csv(stored, sys.stdout, raw=parsed.on("raw"))
    else:
        to_csv(stored, Path(target), raw=parsed.on("raw"))
        print(f"modtrace: wrote {target}".encode("ascii", "backslashreplace").decode(), file=sys.stderr)
