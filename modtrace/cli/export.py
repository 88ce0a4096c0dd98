"""`modtrace export`: a trace in a form that other tools read."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Final

from modtrace.cli.chosen_trace import MAX_MEMORY, opened
from modtrace.cli.options import Option, ParsedOptions, Verb, parse
from modtrace.cli.output import say
from modtrace.errors import UsageError
from modtrace.export.methods import TYPES
from modtrace.trace.dataframes import EXPORTED, known_table

OPTIONS: Final = (
    Option(("-t", "--type"), "TYPE", ", ".join(TYPES)),
    Option(("-o", "--output"), "PATH", "where to; - is stdout (default: the trace's name with .csv and so on, here)"),
    Option(("-f", "--force"), None, "replace a file that is there"),
    Option(("--table",), "NAME", "csv, parquet: another table than calls, such as modules, steps or folded"),
    Option(("--raw",), None, "csv: leave cells that a spreadsheet takes for formulas as they are"),
    MAX_MEMORY,
)  # fmt: skip

_TEXT: Final = (
    "A trace in a form that other tools read; without TRACE the newest one here.\n\ntypes:\n"
    + "".join(f"  {name:12} {exporter.doc}\n" for name, exporter in TYPES.items())
    + "\ntables of csv and parquet:\n  "
    + "\n  ".join(wrap(", ".join(EXPORTED), 56))
    + "\n\nIn CSV, cells that a spreadsheet would run as formulas get a ' in front, unless --raw."
)

VERB: Final = Verb(
    "export",
    "modtrace export [TRACE] -t TYPE [options]",
    _TEXT,
    OPTIONS,
    examples=(
        ("modtrace export -t chrome", "a timeline for ui.perfetto.dev"),
        ("modtrace export run.mtrace -t csv -o calls.csv", "one row a call"),
        ("modtrace export -t json -o - | gzip > x.gz", "to another program"),
    ),
    docs="docs/exports.md",
)


def prepare(words: Sequence[str]) -> ParsedOptions:
    """Read the command line."""
    parsed = parse(words, VERB)
    name = parsed.values.get("type")
    if name not in TYPES:
        raise UsageError(f"say what to export to: {', '.join(f'-t {type_name}' for type_name in TYPES)}")
    if parsed.on("raw") and name != "csv":
        raise UsageError("--raw is about cells of CSV: -t csv")
    if "table" in parsed.values:
        if not TYPES[name].any_table:
            raise UsageError(f"-t {name} takes no --table; csv and parquet do")
        known_table(parsed.values["table"])
    return parsed


def execute(parsed: ParsedOptions) -> None:
    """Write the file, or to stdout."""
    from modtrace.cli.progress import Progress
    from modtrace.export.target import write
    from modtrace.text import plain
    from modtrace.units import size

    stored = opened(parsed)
    name = parsed.values["type"]
    exporter = TYPES[name]
    table = parsed.values.get("table", "calls")
    middle = "" if table == "calls" else f".{table}"
    target = parsed.values.get("output") or f"{stored.path.stem}{middle}{exporter.suffix}"
    progress = Progress(sys.stderr, f"modtrace: {name}")
    options: dict[str, object] = {"raw": True} if parsed.on("raw") else {}
    if exporter.any_table:
        options["table"] = table
    try:
        if target == "-":
            if exporter.binary and sys.stdout.isatty():
                raise UsageError(f"{name} is not for a terminal; name a file with -o")
            write(exporter.chunks(stored, progress, **options), sys.stdout.buffer)
            return
        write(exporter.chunks(stored, progress, **options), Path(target), force=parsed.on("force"))
    finally:
        progress.close()
    say(f"modtrace: wrote {plain(target)}, {size(os.path.getsize(target))}")
