"""`modtrace report`: one HTML file that shows a trace in any browser, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from modtrace.cli.chosen_trace import MAX_MEMORY, RANK, opened
from modtrace.cli.compared_runs import AGAINST, ShownTraces, pair_of, shown_traces, side_name
from modtrace.cli.options import Option, Verb
from modtrace.cli.output import say
from modtrace.errors import UsageError
from modtrace.text import plain
from modtrace.trace.size_limit import size_bytes
from modtrace.units import count

if TYPE_CHECKING:
    from modtrace.trace.reader import Stored

OPTIONS: Final = (
    Option(("-o", "--output"), "F.html", "where to (default: the trace's name with .html, here)"),
    Option(("-f", "--force"), None, "replace a file that is there"),
    Option(("--full",), None, "with every call, however large the file gets"),
    Option(("--max-size",), "SIZE", "how large the file may get (default 1MB)"),
    Option(("--open",), None, "show it in a browser"),
    AGAINST,
    RANK,
    MAX_MEMORY,
)

VERB: Final = Verb(
    "report",
    "modtrace report [TRACE] [options]",
    "Write one HTML file that shows a trace in any browser, without a network; without TRACE of the newest one here.",
    OPTIONS,
    examples=(
        ("modtrace report --open", "of the newest trace here, shown in a browser"),
        ("modtrace report run.mtrace -o run.html --full", "with every call"),
        ("modtrace report --rank 3", "of a job of many ranks another than the first"),
        ("modtrace report old*.mtrace --against new*.mtrace", "coloured by what changed"),
    ),
    docs="docs/report.md",
)


def prepare(words: Sequence[str]) -> ShownTraces:
    """Read the command line.

    Raises:
        UsageError: options that do not go together.
    """
    shown = shown_traces(words, VERB)
    parsed = shown.parsed
    if "max-size" in parsed.values and parsed.on("full"):
        raise UsageError("--full writes every call, --max-size as many as fit: one of them")
    if "max-size" in parsed.values:
        size_bytes(parsed.values["max-size"])
    if shown.candidate and ("max-size" in parsed.values or parsed.on("full")):
        raise UsageError(
            "--against compares two runs: single calls, and so --full and --max-size, are not in that page"
        )
    return shown


def execute(shown: ShownTraces) -> None:
    """Write the file and say where it is, to stderr."""
    if shown.candidate:
        _write_pair(shown)
        return
    from modtrace.analysis.ranks.rank_report import FEW_CALLS, FEW_RANKS

    parsed = shown.parsed
    stored = opened(parsed, most_processes=FEW_RANKS, most_calls=FEW_CALLS)
    target = Path(parsed.values.get("output") or f"{stored.path.resolve().stem}.html")
    limit = size_bytes(parsed.values["max-size"]) if "max-size" in parsed.values else None
    text = written(
        stored,
        target,
        full=parsed.on("full"),
        max_bytes=limit,
        show=parsed.on("open"),
        force=parsed.on("force"),
    )
    say(text)


def _write_pair(shown: ShownTraces) -> None:
    from modtrace.export.target import refuse_existing
    from modtrace.views.html.pair_page import write_pair

    parsed = shown.parsed
    comparison, names = pair_of(shown)
    first = [side_name(paths[:1]).removesuffix(".mtrace") for paths in (shown.baseline, shown.candidate)]
    target = Path(parsed.values.get("output") or f"{first[0]}-against-{first[1]}.html")
    refuse_existing(target, force=parsed.on("force"))
    write_pair(comparison, names, target)
    say(
        "\n".join(
            [
                f"modtrace: wrote {plain(str(target))} ({count(target.stat().st_size)} bytes)",
                *_opened(target, parsed.on("open")),
            ]
        )
    )


def _opened(target: Path, show: bool) -> list[str]:
    """Show a file in a browser if asked to; a line where that cannot be done."""
    if not show:
        return []
    import webbrowser

    shown = webbrowser.open(target.resolve().as_uri())
    return [] if shown else ["  no browser could be started; open the file yourself"]


def written(
    stored: Stored,
    target: Path,
    *,
    full: bool = False,
    max_bytes: int | None = None,
    show: bool = False,
    force: bool = False,
) -> str:
    """Write a report, show it in a browser if asked to, and say so.

    Raises:
        UsageError: the file is there and not to be replaced, or cannot be written.
    """
    from modtrace.export.target import refuse_existing
    from modtrace.views.html.report import write

    refuse_existing(target, force=force)
    report = write(stored, target, full=full, max_bytes=max_bytes)
    lines = [f"modtrace: wrote {plain(str(target))} ({count(target.stat().st_size)} bytes)"]
    lines += [f"  {line}" for line in report.left_out]
    lines += _opened(target, show)
    return "\n".join(lines)
