"""The parts of a report that are in the page without a script: what was run, what was found, the largest rows.

Everything foreign goes through `markup`. There is no `style` attribute: the page's policy forbids them.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from modtrace.analysis.failure import Failure
from modtrace.analysis.tree import Placed
from modtrace.text import markup
from modtrace.units import count, duration, percent, plural
from modtrace.views.html.facts import Facts

TOP_ROWS: Final = 50
NAME_LIMIT: Final = 160
DEEPEST_INDENT: Final = 12
FAILURE_ROWS: Final = 20


def head(facts: Facts) -> str:
    """Title, command line and figures."""
    figures = "".join(
        f"<div><dt>{markup(what)}</dt><dd>{markup(value)}</dd></div>" for what, value in facts.figures
    )
    return (
        f'<h1>{markup(facts.title, NAME_LIMIT)} <span class="status">{markup(facts.status)}</span></h1>'
        f'<p class="command"><code>{markup(facts.command, 2400)}</code></p><dl class="figures">{figures}</dl>'
    )


def findings(facts: Facts) -> str:
    """What is worth a look, or that nothing is."""
    parts = [failure(facts.failure)] if facts.failure is not None else []
    if facts.findings:
        items = "".join(
            f"<li{' class=wrong' if one.wrong else ''}><p>{markup(one.text)}</p>"
            f'<p class="remedy">{markup(one.remedy)}</p></li>'
            for one in facts.findings
        )
        parts.append(f'<ol class="findings">{items}</ol>')
    elif facts.failure is None:
        parts.append("<p>Nothing stands out.</p>")
    return "".join(parts)


def failure(found: Failure) -> str:
    """The path to the module that failed."""
    step = "" if found.step is None else f" in step {found.step}"
    phase = f", {found.phase}" if found.phase else " outside modules" if found.outside else ""
    verb = "returned" if found.phase else "got"
    above = len(found.path) - FAILURE_ROWS
    more = f"<li>{plural(above, 'module')} around these</li>" if above > 0 else ""
    items = "".join(
        f"<li><code>{markup(place.name or place.type, NAME_LIMIT)}</code> {markup(place.type, 80)}"
        f" <span>{verb} {markup(place.tensors, 200)}</span></li>"
        for place in found.path[-FAILURE_ROWS:]
    )
    told = ["{} got {}".format(*found.called)] if found.called is not None else []
    told += [f"its parameters: {', '.join(found.parameters)}"] if found.parameters else []
    if found.sibling is not None:
        told.append("last that worked before it: {} {} returned {}".format(*found.sibling))
    told += [found.reason] if found.reason is not None else []
    told += [f"at {found.line}"] if found.line is not None else []
    rest = "".join(f"<p>{markup(line, 600)}</p>" for line in told)
    what = f"Failed{step}{markup(phase)}: {markup(found.error, 400)}"
    return f'<div class="failure"><p>{what}</p><ol>{more}{items}</ol>{rest}</div>'


def gaps(lines: list[str]) -> str:
    """What is missing, in the recording and in this page."""
    if not lines:
        return "<p>Nothing that is known of: every call recorded is in this page.</p>"
    return f"<ul>{''.join(f'<li>{markup(line)}</li>' for line in lines)}</ul>"


def environment(facts: Facts) -> str:
    """Versions and devices."""
    rows = "".join(
        f'<tr><th scope="row">{markup(what)}</th><td>{markup(value)}</td></tr>'
        for what, value in facts.environment
    )
    return f"<table><tbody>{rows}</tbody></table>"


def rows(
    at: Placed, facts: Facts, *, most: int = TOP_ROWS, limit: int = NAME_LIMIT, indent: str = "class"
) -> str:
    """The rows of the tree with most time, in the order of the tree, and what is in none, as a table.

    Args:
        at: the merged tree.
        facts: the words of the trace.
        most, limit: rows, and characters of a text.
        indent: "class" where the page has the report's style, "em" where it has none: then spaces are used.
    """
    tree = at.tree
    total = len(tree.label)
    chosen = np.sort(np.argsort(-tree.total_ns, kind="stable")[:most]).tolist()
    body = "".join(_row(at, node, facts.wall_ns, limit, indent) for node in chosen)
    for rest in facts.rest:
        share = (
            percent(rest.self_ns, facts.wall_ns)
            if rest.self_ns >= 0
            else f"-{percent(-rest.self_ns, facts.wall_ns)}"
        )
        body += (
            f'<tr class="rest"><th scope="row">{markup(rest.label)}</th><td>{duration(rest.self_ns)}</td>'
            f"<td>{share}</td><td></td><td></td><td></td></tr>"
        )
    told = (
        f"The {most} of {count(total)} rows with most time" if total > most else f"All {plural(total, 'row')}"
    )
    return (
        f"<table><caption>{told}. The % is of the time of the whole run; self is without what is inside.</caption>"
        '<thead><tr><th scope="col">module</th><th scope="col">self</th><th scope="col">%</th>'
        '<th scope="col">total</th><th scope="col">calls</th><th scope="col">output</th></tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _row(at: Placed, node: int, wall_ns: int, limit: int, indent: str) -> str:
    tree = at.tree
    depth = int(tree.depth[node])
    label, kind = tree.label[node], tree.type[node]
    told = (
        f' <span class="type">{markup(kind, limit)}</span>'
        if kind and label not in (kind, f"({kind})")
        else ""
    )
    folded = f' <span class="folded">x{tree.instances[node]}</span>' if tree.instances[node] > 1 else ""
    deep = f"[{depth}] " if depth > DEEPEST_INDENT else ""
    again = " recompute" if tree.recompute[node] else ""
    known = tree.unknown[node] < tree.calls[node]
    own = duration(int(tree.self_ns[node])) if known else "?"
    whole = duration(int(tree.total_ns[node])) if known else "?"
    share = percent(int(tree.self_ns[node]), wall_ns) if known else "?"
    raised = int(tree.raised[node])
    output = f"raised {plural(raised, 'time')}" if raised else tree.outputs[node]
    name = f"{deep}{markup(label, limit)}{folded}{told}{again}"
    level = min(depth, DEEPEST_INDENT)
    start = f'class="d{level}">' if indent == "class" else f'style="text-align:left">{"&emsp;" * level}'
    return (
        f'<tr><th scope="row" {start}{name}</th>'
        f"<td>{own}</td><td>{share}</td><td>{whole}</td><td>{count(int(tree.calls[node]))}</td>"
        f"<td>{markup(output, limit)}</td></tr>"
    )
