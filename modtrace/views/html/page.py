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

from modtrace.analysis.tree import Placed
from modtrace.text import markup, script_json
from modtrace.views.html import static
from modtrace.views.html.encode import Blob
from modtrace.views.html.facts import Facts

SCRIPTS: Final = (
    "inflate.js", "data.js", "format.js", "filter.js", "grid.js", "charts.js", "tree.js", "icicle.js", "timeline.js",
    "memory.js", "tables.js", "report.js", "start.js",
)  # fmt: skip
"""In the order in which they stand in the page, as one script."""

_SECTIONS: Final = (
    ("summary", "Summary"), ("tree", "Tree"), ("flame", "Flame"), ("timeline", "Timeline"), ("memory", "Memory"),
    ("tables", "Tables"), ("environment", "Environment"),
)  # fmt: skip


@cache
def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


@cache
def script() -> str:
    """The page's script."""
    parts = "\n".join(_file(name) for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}\n}})();\n'


def page(
    at: Placed,
    facts: Facts,
    *,
    gaps: list[str],
    meta: Mapping[str, Any],
    blobs: Mapping[str, Blob],
    memory: bool,
) -> str:
    """The page.

    Args:
        at: the merged tree.
        facts: its words.
        gaps: what is missing.
        meta: what the script needs to know beside the data.
        blobs: the data by name.
        memory: whether memory was watched.
    """
    theme, code, style = _file("theme.js"), script(), _file("report.css")
    policy = (
        f"default-src 'none'; script-src {_hash(theme)} {_hash(code)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    told = dict(meta) | {"blobs": {name: blob.layout() for name, blob in blobs.items()}}
    data = "".join(
        f'<script type="application/octet-stream" id="blob-{name}">{blob.text}</script>\n'
        for name, blob in blobs.items()
    )
    shown = [(name, title) for name, title in _SECTIONS if memory or name != "memory"]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title in shown)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n<meta name="color-scheme" content="light dark">\n'
        f'<title>{markup(facts.title, 120)} - modtrace</title>\n<link rel="icon" href="data:,">\n'
        f"<style>{style}</style>\n<script>{theme}</script>\n</head>\n<body>\n"
        f'<header id="top"><div class="bar"><span class="brand">modtrace</span><nav aria-label="Sections">{links}</nav>'
        '<span class="actions js"><button type="button" id="help-button">Keys</button>'
        '<button type="button" id="theme-button">Theme</button></span></div>'
        f"{static.head(facts)}</header>\n"
        '<p id="trouble" role="alert" hidden></p>\n'
        '<p id="said" class="spoken" role="status" aria-live="polite"></p>\n<main>\n'
        f'<section id="summary" aria-labelledby="summary-title"><h2 id="summary-title">Worth a look</h2>'
        f'{static.findings(facts)}<h3>What is missing</h3><div id="gaps">{static.gaps(gaps)}</div></section>\n'
        f"{_file('sections.html').replace('<!-- rows -->', static.rows(at, facts))}"
        '<section id="environment" aria-labelledby="environment-title"><h2 id="environment-title">Environment</h2>'
        f"{static.environment(facts)}</section>\n</main>\n"
        f'<script type="application/json" id="meta">{script_json(told)}</script>\n'
        f"{data}<script>{code}</script>\n</body>\n</html>\n"
    )


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"
