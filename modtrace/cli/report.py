"""`modtrace report`: one HTML file that shows a trace in any browser, without a network."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from modtrace.cli.chosen import MAX_MEMORY, opened
from modtrace.cli.options import Option, Parsed, parse, size, usage
from modtrace.text import plain
from modtrace.units import count

if TYPE_CHECKING:
    from modtrace.trace.reader import Stored

OPTIONS: Final = (
    Option(("-o", "--output"), "F.html", "where to (default: the trace's name with .html, here)"),
    Option(("--full",), None, "with every call, however large the file gets"),
    Option(("--max-size",), "SIZE", "how large the file may get (default 1MB)"),
    Option(("--open",), None, "show it in a browser"),
    MAX_MEMORY,
    Option(("-h", "--help"), None, "this text"),
)


def prepare(words: Sequence[str]) -> Parsed:
    """Read the command line."""
    parsed = parse(words, OPTIONS, verb="report")
    if parsed.on("help"):
        print(
            usage("modtrace report [TRACE] [options]", "Without TRACE the newest one here.", OPTIONS), end=""
        )
        raise SystemExit(0)
    if "max-size" in parsed.values:
        size(parsed.values["max-size"])
    return parsed


def execute(parsed: Parsed) -> None:
    """Write the file and say where it is, to stderr."""
    stored = opened(parsed)
    target = Path(parsed.values.get("output") or f"{stored.path.resolve().stem}.html")
    limit = size(parsed.values["max-size"]) if "max-size" in parsed.values else None
    text = written(stored, target, full=parsed.on("full"), max_bytes=limit, show=parsed.on("open"))
    print(text.encode("ascii", "backslashreplace").decode(), end="", file=sys.stderr)


def written(
    stored: Stored, target: Path, *, full: bool = False, max_bytes: int | None = None, show: bool = False
) -> str:
    """Write a report, show it in a browser if asked to, and say so."""
    from modtrace.views.html.report import write

    made = write(stored, target, full=full, max_bytes=max_bytes)
    lines = [f"modtrace: wrote {plain(str(target))} ({count(target.stat().st_size)} bytes)"]
    lines += [f"  {line}" for line in made.left_out]
    if show:
        import webbrowser

        if not webbrowser.open(target.resolve().as_uri()):
            lines.append("  no browser could be started; open the file yourself")
    return "\n".join(lines) + "\n"
