"""`modtrace info`: the summary, the tree, the steps, the operations or the modules of a trace."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from modtrace.analysis.metrics import comparable
from modtrace.cli.chosen_trace import MAX_MEMORY, RANK, opened
from modtrace.cli.options import Option, ParsedOptions, Verb, parse
from modtrace.cli.output import show
from modtrace.errors import UsageError

_KEYS: Final = ", ".join((*(metric.key for metric in comparable()), "name; modules by output too"))
_MODES: Final = (
    "tree", "steps", "findings", "memory", "kernels", "syncs", "compilations", "operations", "roofline",
    "rollups", "json",
)  # fmt: skip
_TABLE: Final = ("", "tree")
MOST_PROCESSES: Final = 8
"""Of a trace of more ranks one is opened, not all: each takes time and memory."""
OPTIONS: Final = (
    Option(("--tree",), None, "the call tree"),
    Option(("--steps",), None, "the steps and their phases"),
    Option(("--findings",), None, "what is worth a look, and what to do"),
    Option(
        ("--memory",),
        None,
        "the peak of memory and who held it, what is kept for backward, sizes from shapes",
    ),
    Option(("--kernels",), None, "operators and kernels by module, where they were watched"),
    Option(
        ("--syncs",),
        None,
        "where module calls waited for the device; --all: and where they would wait for one",
    ),
    Option(("--all",), None, "with --syncs: those on the CPU too", beside=("syncs",)),
    Option(("--compilations",), None, "what torch.compile compiled, for how long, and why again"),
    Option(("--operations",), None, "what each module does: its operations and FLOPs"),
    Option(("--roofline",), None, "how fast modules compute, beside what the device reaches"),
    Option(
        ("--rollups",), None, "modules over all steps, where sums were kept: totals and percentiles of a step"
    ),
    Option(("--json",), None, "for programs: times in ns, unknown is null"),
    Option(("--depth",), "N", "with --tree: no deeper than this", beside=("tree",)),
    Option(("--sort",), "KEY", f"a table of modules, or with --tree the tree. KEY: {_KEYS}", beside=_TABLE),
    Option(("--top",), "N", "a table of the first N modules", beside=("",)),
    Option(
        ("--where",),
        "EXPR",
        "only what a filter lets through: 'type:Linear self>5ms -lm_head'",
        beside=_TABLE,
    ),
    Option(("--instances",), None, "a table of modules in which none are folded", beside=("",)),
    Option(
        ("--whole-run",),
        None,
        "numbers of the whole run: with the first step, imports and all outside of steps",
        beside=_TABLE,
    ),
    RANK,
    Option(("--plain",), None, "ASCII, no color, 80 columns"),
    MAX_MEMORY,
)

_TABLES: Final = {
    "steps": "steps_table", "memory": "memory_text", "roofline": "roofline_text", "kernels": "kernels_text",
    "compilations": "compilations_text", "operations": "operations_text", "findings": "findings_text",
    "rollups": "rollups_text",
}  # fmt: skip
"""Option -> the function of `views.console` that makes its table."""

VERB: Final = Verb(
    "info",
    "modtrace info [TRACE] [options]",
    "The summary of a trace, or one of its tables; without TRACE of the newest one here.",
    OPTIONS,
    examples=(
        ("modtrace info", "the summary of the newest trace"),
        ("modtrace info --tree --depth 3 --sort total", "the call tree, slowest first"),
        ("modtrace info --top 20 --where type:Linear", "the 20 hottest linear layers"),
    ),
    docs="docs/index.md, docs/viewer.md (filters)",
    modes=_MODES,
)


def prepare(words: Sequence[str]) -> ParsedOptions:
    """Read the command line."""
    if "--device" in words:
        raise UsageError("measuring a device is a command of its own: modtrace device [NAME ...]")
    parsed = parse(words, VERB)
    parsed.number("depth")
    parsed.number("top")
    parsed.number(RANK.key)
    return parsed


def execute(parsed: ParsedOptions) -> None:
    """Print to stdout."""
    from modtrace.views import console

    style = console.plain_style(sys.stdout) if parsed.on("plain") else console.style_of(sys.stdout)
    stored = opened(parsed, most_processes=None if parsed.on("json") else MOST_PROCESSES)
    where, whole_run = parsed.values.get("where", ""), parsed.on("whole-run")
    if parsed.on("json"):
        print(console.info_json(stored))
    elif parsed.on("tree"):
        sort, depth = parsed.values.get("sort", ""), parsed.number("depth")
        show(console.tree(stored, depth=depth, where=where, sort=sort, whole_run=whole_run, **style))
    elif chosen_table := next((name for name in _TABLES if parsed.on(name)), None):
        show(getattr(console, _TABLES[chosen_table])(stored, **style))
    elif parsed.on("syncs"):
        show(console.syncs_text(stored, every=parsed.on("all"), **style))
    elif where or parsed.on("instances") or not parsed.values.keys().isdisjoint(("sort", "top")):
        text = console.modules_table(
            stored,
            sort=parsed.values.get("sort", "self"),
            top=parsed.number("top"),
            where=where,
            instances=parsed.on("instances"),
            whole_run=whole_run,
            **style,
        )
        show(text)
    else:
        path = str(stored.path)
        show(console.summary(stored, shown_path=path, whole_run=whole_run, with_ranks=True, **style))
