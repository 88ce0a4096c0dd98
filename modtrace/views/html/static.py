"""The parts of a report that are in the page without a script: what was run, what was found, the largest rows.

Everything foreign goes through `markup`. There is no `style` attribute: the page's policy forbids them.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from modtrace.analysis.failure import Failure
from modtrace.analysis.metrics import METRICS
from modtrace.text import markup
from modtrace.units import count, duration, percent, plural
from modtrace.views.html.aggregate import COUNTED, Aggregate
from modtrace.views.html.facts import ReportTexts
from modtrace.views.html.tree_paths import TreePaths

TOP_ROWS: Final = 50
NAME_LIMIT: Final = 160
DEEPEST_INDENT: Final = 12
FAILURE_ROWS: Final = 20


_EXPLAINED: Final = {
    "wall time": "from the start of recording to the end of the program",
    "model": "class and parameters of the module that was called first with no module around it",
    "module calls": "calls of Module.__call__, of all processes",
    "steps": "training iterations; the first is left out of shares and medians",
    "tracing cost": "time that tracing added to the steps",
    "devices": "where the tensors were",
}


def head(facts: ReportTexts) -> str:
    """Title, how it ended, command line and figures."""
    figures = "".join(
        f'<div title="{markup(_EXPLAINED.get(title, title))}"><dt>{markup(title)}</dt><dd>{markup(value)}</dd></div>'
        for title, value in facts.figures
    )
    css = "status bad" if facts.bad else "status"
    command = (
        ""
        if facts.command == facts.title
        else f'<p class="command"><code>{markup(facts.command, 2400)}</code></p>'
    )
    return (
        f'<h1>{markup(facts.title, NAME_LIMIT)} <span class="{css}">{markup(facts.status)}</span></h1>'
        f'{command}<dl class="figures">{figures}</dl>'
    )


def ending(facts: ReportTexts, paths: TreePaths, open_node: int = -1) -> str:
    """Where it failed, or was when it ended, or why there are no calls; "" for a good end.

    Args:
        facts: the words of the trace.
        paths: of the rows of its tree.
        open_node: the row of the module that it was in when it ended, -1 for none.
    """
    parts = []
    if facts.headline:
        verb = "It was" if facts.headline.startswith("still") else "Ended:"
        path = markup(paths.path(open_node), 4_000)
        link = f' <a href="#row={path}">Show its row</a>' if open_node >= 0 else ""
        parts.append(f'<div class="failure"><p>{verb} {markup(facts.headline, 600)}{link}</p></div>')
    if facts.failure is not None:
        parts.append(failure(facts.failure, paths))
    if facts.nonfinite:
        parts.append(nonfinite(facts.nonfinite, facts.nonfinite_module, paths))
    if facts.nothing:
        parts.append(
            f'<div class="failure"><p>{markup(facts.nothing[:1].upper() + facts.nothing[1:], 400)}</p></div>'
        )
    return "".join(parts)


def findings(facts: ReportTexts, paths: TreePaths, quiet: str) -> str:
    """The findings as HTML, each with a link to the row that it names; `quiet` where there are none."""
    caught = "".join(f"<p>{markup(line, 600)}</p>" for line in facts.caught)
    if not facts.findings:
        return caught or ("" if facts.nothing or facts.bad or facts.failure or facts.nonfinite else quiet)
    items = "".join(
        f"<li{' class=wrong' if finding.wrong else ''}><p>{_linked(finding.text, paths)}</p>"
        f'<p class="remedy">{markup(finding.remedy)}</p></li>'
        for finding in facts.findings
    )
    return f'<ol class="findings">{items}</ol>{caught}'


def _name_link(name: str, paths: TreePaths) -> str:
    row = paths.row_of(name)
    text = markup(name, NAME_LIMIT)
    return text if row is None else f'<a href="#row={markup(paths.path(row), 4_000)}">{text}</a>'


def _linked(text: str, paths: TreePaths) -> str:
    """A text in which the first name of a row of the tree is a link to it."""
    named = paths.named_in(text)
    if named is None:
        return markup(text)
    word, row = named
    before, _, after = text.partition(word)
    return (
        f'{markup(before)}<a href="#row={markup(paths.path(row), 4_000)}">{markup(word)}</a>{markup(after)}'
    )


def failure(failed: Failure, paths: TreePaths) -> str:
    """The path to the module that failed, each a link to its row."""
    step = "" if failed.step is None else f" in step {failed.step}"
    phase = f", {failed.phase}" if failed.phase else " outside modules" if failed.outside else ""
    verb = "returned" if failed.phase else "got"
    above = len(failed.path) - FAILURE_ROWS
    above_item = f"<li>{plural(above, 'module')} around these</li>" if above > 0 else ""
    items = "".join(
        f"<li><code>{_name_link(place.name or place.type, paths)}</code>"
        f"{f' {markup(place.type, 80)}' if place.name not in ('', place.type) else ''}"
        f" <span>{verb} {markup(place.tensors, 200)}</span></li>"
        for place in failed.path[-FAILURE_ROWS:]
    )
    details = ["{} got {}".format(*failed.called)] if failed.called is not None else []
    details += [f"its parameters: {', '.join(failed.parameters)}"] if failed.parameters else []
    if failed.sibling is not None:
        details.append("last that worked before it: {} {} returned {}".format(*failed.sibling))
    details += [f"at {failed.line}"] if failed.line is not None else []
    paragraphs = "".join(f"<p>{markup(line, 600)}</p>" for line in details)
    headline = f"Failed{step}{markup(phase)}: {markup(failed.error, 400)}"
    reason = f'<p class="reason">{_sentence(failed.reason)}</p>' if failed.reason is not None else ""
    return f'<div class="failure"><p>{headline}</p>{reason}<ol>{above_item}{items}</ol>{paragraphs}</div>'


def _sentence(text: str) -> str:
    return markup(f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}", 600)


def nonfinite(lines: list[str], module: str, paths: TreePaths) -> str:
    """Where NaN or infinities began: the head, with a link to the row of the module, and the ranges around it."""
    before, name, after = lines[0].partition(f" {module}" if module else "\0")
    head = f"{markup(before)} {_name_link(module, paths)}{markup(after)}" if name else markup(lines[0])
    ranges = "".join(f"<li><code>{markup(line, 600)}</code></li>" for line in lines[1:])
    return f'<div class="failure"><p>{head}</p><ul>{ranges}</ul></div>'


def gaps(lines: list[str]) -> str:
    """The lines of gaps as an HTML list: of the recording and of this page."""
    return f"<ul>{''.join(f'<li>{markup(line)}</li>' for line in lines)}</ul>"


def environment(facts: ReportTexts) -> str:
    """Versions and devices."""
    rows = "".join(
        f'<tr><th scope="row">{markup(title)}</th><td>{markup(value)}</td></tr>'
        for title, value in facts.environment
    )
    return f"<table><tbody>{rows}</tbody></table>"


def rows(numbers: Aggregate, facts: ReportTexts, paths: TreePaths, *, most: int = TOP_ROWS) -> str:
    """The rows of the tree with most time, in the order of the tree, and what is in none, as a table.

    Args:
        numbers: of the trace; those of the steps that count are shown.
        facts: the words of the trace.
        paths: of its rows; a row can be linked to.
        most: rows.
    """
    total_ns = numbers.tree[f"{COUNTED}total_ns"]
    count_all = len(total_ns)
    chosen = np.sort(np.argsort(-total_ns, kind="stable")[:most]).tolist()
    span = facts.counted
    body = "".join(_row(numbers, node, span.base_ns, paths) for node in chosen)
    for outside in span.outside:
        body += (
            f'<tr class="rest"><th scope="row">{markup(outside.label)}</th><td>{duration(outside.self_ns)}</td>'
            "<td></td><td></td><td></td><td></td></tr>"
        )
    caption = (
        f"The {most} of {count(count_all)} rows with most time"
        if count_all > most
        else f"All {plural(count_all, 'row')}"
    )
    return (
        f"<table><caption>{caption}. Times, calls and % are of {markup(span.text)}; self is without what is inside."
        f'</caption><thead><tr><th scope="col">module</th><th scope="col">{METRICS["self"].title}</th>'
        f'<th scope="col">%</th><th scope="col">{METRICS["total"].title}</th>'
        f'<th scope="col">{METRICS["calls"].title}</th><th scope="col">output</th></tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _row(numbers: Aggregate, node: int, base_ns: int, paths: TreePaths) -> str:
    tree = numbers.placed.tree
    depth = int(tree.depth[node])
    label, class_name = tree.label[node], tree.type[node]
    class_text = (
        f' <span class="type">{markup(class_name, NAME_LIMIT)}</span>'
        if class_name and label not in (class_name, f"({class_name})")
        else ""
    )
    folded = f' <span class="folded">x{tree.instances[node]}</span>' if tree.instances[node] > 1 else ""
    deep = f"[{depth}] " if depth > DEEPEST_INDENT else ""
    again = " recompute" if tree.recompute[node] else ""
    calls, self_ns, total_ns = (
        int(numbers.tree[f"{COUNTED}{name}"][node]) for name in ("calls", "self_ns", "total_ns")
    )
    spent, total = (
        METRICS[key].text(None if ns < 0 else ns) for key, ns in (("self", self_ns), ("total", total_ns))
    )
    share = percent(self_ns, base_ns) if self_ns >= 0 else "?"
    if not calls:
        spent = total = share = "-"
    raised = int(tree.raised[node])
    output = f"raised {plural(raised, 'time')}" if raised else tree.outputs[node]
    name = f"{deep}{markup(label, NAME_LIMIT)}{folded}{class_text}{again}"
    address, level = markup(paths.path(node), 4_000), min(depth, DEEPEST_INDENT)
    return (
        f'<tr id="row={address}"><th scope="row" class="d{level}">{name}</th>'
        f"<td>{spent}</td><td>{share}</td><td>{total}</td><td>{METRICS['calls'].text(calls)}</td>"
        f"<td>{markup(output, NAME_LIMIT)}</td></tr>"
    )
