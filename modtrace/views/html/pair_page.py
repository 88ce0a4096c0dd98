"""One file that shows two sides of a comparison: what changed, the tree with both times, a flame coloured by change."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from modtrace.analysis.comparing.comparison import Comparison
from modtrace.analysis.comparing.run_numbers import STEP
from modtrace.analysis.comparing.time_changes import FASTER, SLOWER, UNCHANGED, UNTOLD
from modtrace.text import markup, script_json
from modtrace.trace.atomic_file import write_whole
from modtrace.units import duration, plural
from modtrace.views.difference_text import (
    interval_text,
    line_label,
    number_cells,
    ratio_text,
    signed,
    structure_cells,
    time_cells,
)
from modtrace.views.html.page import allowed, asset
from modtrace.views.models.pair_tree import ALONE, PairTree

COLORS: Final = {
    SLOWER: "#D1495B",
    FASTER: "#3A86C8",
    UNTOLD: "#9AA7B5",
    UNCHANGED: "#DADFE5",
    ALONE: "#CC79A7",
}
"""Verdict -> colour of a row and a box: red slower, blue faster, grey unknown, pale the same."""
INKS: Final = {
    SLOWER: "#FFFFFF",
    FASTER: "#000000",
    UNTOLD: "#000000",
    UNCHANGED: "#000000",
    ALONE: "#000000",
}
"""Verdict -> colour of a text on it."""
_WORDS: Final = {
    SLOWER: "slower", FASTER: "faster", UNTOLD: "cannot be told", UNCHANGED: "the same", ALONE: "of one side alone",
}  # fmt: skip
_MOST: Final = 60
_STATIC_ROWS: Final = 50


def pair_page(comparison: Comparison, names: tuple[str, str]) -> str:
    """The page.

    Args:
        comparison: of both sides.
        names: of them.
    """
    theme = asset("theme.js")
    code = f'(() => {{\n"use strict";\n{asset("format.js")}\n{asset("pair.js")}\n}})();\n'
    style = asset("report.css") + asset("pair.css")
    policy = (
        f"default-src 'none'; script-src {allowed(theme)} {allowed(code)}; style-src {allowed(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    tree = PairTree(comparison)
    title = f"{names[0]} -> {names[1]}"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n<meta name="color-scheme" content="light dark">\n'
        f'<title>{markup(title, 120)} - modtrace</title>\n<link rel="icon" href="data:,">\n'
        f"<style>{style}</style>\n<script>{theme}</script>\n</head>\n<body>\n"
        '<header id="top"><div class="bar"><span class="brand">modtrace</span><nav aria-label="Sections">'
        '<a href="#changed">What changed</a><a href="#tree">Tree</a><a href="#flame" class="js">Flame</a>'
        '<a href="#facts">Facts</a></nav><span class="actions js">'
        '<button type="button" id="theme-button">Theme</button></span></div>'
        f"{_head(comparison, names)}</header>\n"
        '<p id="said" class="spoken" role="status" aria-live="polite"></p>\n<main>\n'
        f"{_changed(comparison)}{_sections(tree)}{_facts(comparison)}</main>\n"
        f'<script type="application/json" id="pair">{script_json(_data(tree))}</script>\n'
        f"<script>{code}</script>\n</body>\n</html>\n"
    )


def write_pair(comparison: Comparison, names: tuple[str, str], target: str | os.PathLike[str]) -> None:
    """Write the page to a file, whole or not at all and readable by the user alone.

    Raises:
        UsageError: the file cannot be written.
    """
    write_whole(Path(target), [pair_page(comparison, names).encode("utf-8")])


def _data(tree: PairTree) -> dict[str, Any]:
    rows = [
        [
            node.label,
            node.name,
            node.type,
            node.parent,
            node.baseline_ns,
            node.candidate_ns,
            node.verdict,
            ratio_text(node.time.ratio) if node.time is not None else "",
            interval_text(node.time) if node.time is not None else "",
            node.time.reason if node.time is not None else "",
            node.depth,
        ]
        for node in tree.nodes
    ]
    opened = [number for number in range(len(tree.nodes)) if tree.is_open(number)]
    return {"nodes": rows, "open": opened, "colors": COLORS, "inks": INKS}


def _head(comparison: Comparison, names: tuple[str, str]) -> str:
    step = comparison.steps[STEP]
    runs = comparison.runs
    told = step.verdict + (f": {step.reason}" if step.reason else "")
    figures = (
        ("baseline", f"{names[0]}, {plural(runs[0], 'run')}"),
        ("candidate", f"{names[1]}, {plural(runs[1], 'run')}"),
        ("step", f"{duration(step.baseline_ns)} -> {duration(step.candidate_ns)}  {ratio_text(step.ratio)}"),
        ("interval", interval_text(step) or "none: too few runs"),
        ("noise", f"{100 * comparison.noise:g}%"),
    )
    cells = "".join(f"<div><dt>{name}</dt><dd>{markup(text, 400)}</dd></div>" for name, text in figures)
    notes = "".join(f'<p class="bad">{markup(note, 600)}</p>' for note in comparison.notes)
    css = "status bad" if step.verdict == SLOWER else "status"
    return (
        f"<h1>{markup(names[0], 100)} &rarr; {markup(names[1], 100)} "
        f'<span class="{css}">{markup(told, 200)}</span></h1>'
        f'<dl class="figures">{cells}</dl>{notes}'
    )


def _changed(comparison: Comparison) -> str:
    """The lines that the change of the step is made of."""
    change = comparison.step_change
    if change is None:
        unknown = "<p>The time of a step is not known in each run.</p>"
        return f'<section id="changed"><h2>What changed</h2>{unknown}</section>\n'
    rows = [
        (
            line_label(line),
            signed(line.change_ns),
            duration(line.time.baseline_ns),
            duration(line.time.candidate_ns),
            ratio_text(line.time.ratio),
            line.time.verdict,
        )
        for line in change.lines[:_MOST]
    ]
    hidden = sum(line.change_ns for line in change.lines[_MOST:])
    if change.unmatched_ns:
        rows.append(("modules of one side alone", signed(change.unmatched_ns), "", "", "", ""))
    rows.append(("all else", signed(change.other_ns + hidden), "", "", "", ""))
    rows.append(("the step", signed(change.change_ns), "", "", "", ""))
    table = _table(("", "change a step", "it took", "takes", "change", ""), rows)
    return f'<section id="changed"><h2>What changed, a step</h2>{table}</section>\n'


def _sections(tree: PairTree) -> str:
    """The tree and the flame; without a script the rows that changed most."""
    nodes = tree.nodes
    largest = sorted(range(1, len(nodes)), key=lambda number: -abs(nodes[number].change_ns))[:_STATIC_ROWS]
    rows = _table(
        ("module", "baseline", "candidate", "difference", "verdict"),
        [
            (
                f"{nodes[number].name} {nodes[number].type}".strip(),
                duration(nodes[number].baseline_ns),
                duration(nodes[number].candidate_ns),
                signed(nodes[number].change_ns),
                nodes[number].verdict,
            )
            for number in largest
        ],
    )
    mark = '<svg class="mark" viewBox="0 0 10 10" aria-hidden="true"><rect width="10" height="10" fill="{}"/></svg>'
    legend = "".join(f"<li>{mark.format(color)}{_WORDS[verdict]}</li>" for verdict, color in COLORS.items())
    return asset("pair_sections.html").replace("<!-- rows -->", rows).replace("<!-- legend -->", legend)


def _facts(comparison: Comparison) -> str:
    parts = [
        _titled("Environment", ("", "baseline", "candidate"), [
            (change.name, change.baseline, change.candidate) for change in comparison.environment
        ]),
        _titled("Structure", ("", "module", ""), [structure_cells(change) for change in comparison.structure]),
        _titled("Numbers", ("", "baseline", "candidate", "change"), [number_cells(one) for one in comparison.numbers]),
        _titled("Phases", ("", "baseline", "candidate", "change", "interval", ""), [
            time_cells(name, time) for name, time in comparison.steps.items()
        ]),
    ]  # fmt: skip
    return f'<section id="facts"><h2>Facts</h2>{"".join(parts)}</section>\n'


def _titled(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return f"<h3>{title}</h3><p>the same</p>"
    hidden = len(rows) - _MOST
    more = f"<p class=hint>and {hidden} more: modtrace diff --all</p>" if hidden > 0 else ""
    return f"<h3>{title}</h3>{_table(heads, rows[:_MOST])}{more}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{title}</th>' if title else "<td></td>" for title in heads)
    body = ""
    for first, *cells in rows:
        further = "".join(f"<td class=words>{markup(cell, 300)}</td>" for cell in cells)
        body += f'<tr><th scope="row">{markup(first, 300)}</th>{further}</tr>'
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
