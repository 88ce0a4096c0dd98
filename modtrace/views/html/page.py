"""One file that shows a trace anywhere: the parts without a script, the data, the script and the style.

The page may load nothing and send nothing: its policy allows one style and two scripts, by what they hash to.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from modtrace.text import markup, script_json
from modtrace.views.html import colors, static
from modtrace.views.html.aggregate import Aggregate
from modtrace.views.html.encode import Blob
from modtrace.views.html.facts import ReportTexts
from modtrace.views.html.overview import Overview
from modtrace.views.html.tree_paths import TreePaths

SCRIPTS: Final = (
    "data.js", "format.js", "filter.js", "grid.js", "charts.js", "card.js", "tree.js", "flat.js", "icicle.js",
    "timeline.js", "memory.js", "tables.js", "address.js", "report.js", "start.js",
)  # fmt: skip
"""In the order in which they stand in the page, as one script."""

_SECTIONS: Final = (
    ("summary", "Summary"), ("tree", "Tree"), ("flame", "Flame"), ("timeline", "Timeline"), ("memory", "Memory"),
    ("tables", "Tables"), ("environment", "Environment"),
)  # fmt: skip


_SCRIPTED: Final = ("flame", "timeline", "memory", "tables")
"""Sections that are empty without a script."""
_OF_CALLS: Final = ("tree", *_SCRIPTED)


@cache
def asset(name: str) -> str:
    """The text of a file of this folder."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


@cache
def script() -> str:
    """The page's script."""
    parts = "\n".join(asset(name) for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}\n}})();\n'


def page(
    numbers: Aggregate,
    facts: ReportTexts,
    first: Overview,
    paths: TreePaths,
    *,
    gaps: list[str],
    meta: Mapping[str, Any],
    blobs: Mapping[str, Blob],
    memory: bool,
) -> str:
    """The page.

    Args:
        numbers: of the trace.
        facts: its words.
        first: the first screen.
        paths: the addresses of the rows of the tree.
        gaps: what is missing.
        meta: what the script needs to know beside the data.
        blobs: the data by name.
        memory: whether memory was watched.
    """
    theme, code, style = asset("theme.js"), script(), asset("report.css") + colors.style()
    policy = (
        f"default-src 'none'; script-src {allowed(theme)} {allowed(code)}; style-src {allowed(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    page_meta = dict(meta) | {"blobs": {name: blob.layout() for name, blob in blobs.items()}}
    data = "".join(
        f'<script type="application/octet-stream" id="blob-{name}">{blob.text}</script>\n'
        for name, blob in blobs.items()
    )
    nothing = bool(facts.nothing)
    links = "".join(
        f'<a href="#{name}"{" class=js" if name in _SCRIPTED else ""}>{title}</a>'
        for name, title in _SECTIONS
        if (memory or name != "memory") and not (nothing and name in _OF_CALLS)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n<meta name="color-scheme" content="light dark">\n'
        f'<title>{markup(facts.title, 120)} - modtrace</title>\n<link rel="icon" href="data:,">\n'
        f"<style>{style}</style>\n<script>{theme}</script>\n</head>\n<body{' class=nothing' if nothing else ''}>\n"
        f'<header id="top"><div class="bar"><span class="brand">modtrace</span><nav aria-label="Sections">{links}</nav>'
        '<span class="actions js"><button type="button" id="help-button">Keys</button>'
        '<button type="button" id="theme-button">Theme</button></span></div>'
        f"{static.head(facts)}</header>\n"
        '<p id="trouble" role="alert" hidden></p>\n'
        '<p id="said" class="spoken" role="status" aria-live="polite"></p>\n<main>\n'
        f"{_summary(numbers, facts, first, paths, gaps)}"
        f"{asset('sections.html').replace('<!-- rows -->', static.rows(numbers, facts, paths))}"
        '<section id="environment" aria-labelledby="environment-title"><h2 id="environment-title">Environment</h2>'
        f"{static.environment(facts)}</section>\n</main>\n"
        f'<script type="application/json" id="meta">{script_json(page_meta)}</script>\n'
        f"{data}<script>{code}</script>\n</body>\n</html>\n"
    )


def _summary(
    numbers: Aggregate, facts: ReportTexts, first: Overview, paths: TreePaths, gaps: list[str]
) -> str:
    """The first screen: how it ended, then where the time went and what to do about it, side by side."""
    open_node = int(numbers.placed.node[facts.open_row]) if facts.open_row >= 0 else -1
    remarks = static.findings(facts, paths, first.quiet)
    look = f'<div class="panel look"><h2>Worth a look</h2>{remarks}</div>' if remarks else ""
    beside = f"{look}{first.memory}{first.ranks}{first.steps}"
    missing = f'<h2>What is missing</h2><div id="gaps">{static.gaps(gaps)}</div>' if gaps else ""
    return (
        '<section id="summary" aria-label="Summary">'
        f"{static.ending(facts, paths, open_node)}"
        f'<div class="first"><div>{first.step}{first.hottest}</div><div>{beside}</div></div>'
        f"{missing}</section>\n"
    )


def allowed(text: str) -> str:
    """The word of a policy that allows a script or a style of this text alone."""
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"
