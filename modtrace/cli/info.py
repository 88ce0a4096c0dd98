"""`modtrace info`: the summary, the tree, the steps, the operations or the modules of a trace."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final

from modtrace.cli.chosen import MAX_MEMORY, opened
from modtrace.cli.options import Option, Parsed, parse, usage
from modtrace.errors import UsageError
from modtrace.text import plain

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
    Option(("--all",), None, "with --syncs: those on the CPU too"),
    Option(("--compilations",), None, "what torch.compile compiled, for how long, and why again"),
    Option(("--operations",), None, "what each module does: its operations and FLOPs"),
    Option(("--roofline",), None, "how fast modules compute, beside what the device reaches"),
    Option(
        ("--device",), None, "measure what the devices here reach (or those named: cpu, cuda:0), and keep it"
    ),
    Option(("--depth",), "N", "no deeper than this"),
    Option(("--sort",), "KEY", "a table of modules by self, total, calls, flops, output or name"),
    Option(("--top",), "N", "only the first N modules"),
    Option(("--where",), "EXPR", "only what a filter lets through: 'type:Linear self>5ms -lm_head'"),
    Option(("--plain",), None, "ASCII, no color, 80 columns"),
    MAX_MEMORY,
    Option(("--json",), None, "for programs: times in ns, unknown is null"),
    Option(("-h", "--help"), None, "this text"),
)

_TABLES: Final = {
    "steps": "steps_table", "memory": "memory_text", "roofline": "roofline_text", "kernels": "kernels_text",
    "compilations": "compilations_text", "operations": "operations_text",
}  # fmt: skip
"""Option -> the function of `views.console` that makes its table."""


def prepare(words: Sequence[str]) -> Parsed:
    """Read the command line."""
    parsed = parse(words, OPTIONS, verb="info")
    if parsed.on("help"):
        print(usage("modtrace info [TRACE] [options]", "Without TRACE the newest one here.", OPTIONS), end="")
        raise SystemExit(0)
    return parsed


def execute(parsed: Parsed) -> None:
    """Print to stdout."""
    from modtrace.views import console

    style = console.style_of(sys.stdout)
    if parsed.on("device"):
        found = _measured(parsed.rest)
        _print(console.reach_text(found, width=style["width"], ascii=style["ascii"]))
        return
    stored = opened(parsed)
    if parsed.on("plain"):
        style = console.Style(width=80, color=False, ascii=True)
    where = parsed.values.get("where", "")
    if parsed.on("json"):
        print(console.info_json(stored))
    elif parsed.on("tree"):
        _print(console.tree(stored, depth=parsed.number("depth"), where=where, **style))
    elif chosen_table := next((name for name in _TABLES if parsed.on(name)), None):
        text = getattr(console, _TABLES[chosen_table])(stored, width=style["width"], ascii=style["ascii"])
        _print(text)
    elif parsed.on("findings"):
        _print(console.findings_text(stored, **style))
    elif parsed.on("syncs"):
        every = parsed.on("all")
        _print(console.syncs_text(stored, every=every, width=style["width"], ascii=style["ascii"]))
    elif where or "sort" in parsed.values or "top" in parsed.values:
        sort, top = parsed.values.get("sort", "self"), parsed.number("top")
        shown = console.modules_table(
            stored, sort=sort, top=top, where=where, width=style["width"], ascii=style["ascii"]
        )
        _print(shown)
    else:
        _print(console.summary(stored, shown_path=str(stored.path), **style))


def _measured(names: Sequence[str]) -> list[Any]:
    """What devices reach, all of this machine where none is named; torch is imported for this alone."""
    device = ""
    try:
        from modtrace.capture.reach import devices_here, measure

        found = []
        for device in names or devices_here():
            one = measure(device)
            if one not in found:
                found.append(one)
        return found
    except ImportError:
        raise UsageError("torch is not here, so nothing can be measured") from None
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"{plain(device)} cannot be measured: {plain(str(error), 200)}") from None


def _print(text: str) -> None:
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    print(text.encode(encoding, "backslashreplace").decode(encoding), end="")
