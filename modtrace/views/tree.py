"""The merged call tree as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.metric_values import Values
from modtrace.analysis.metrics import METRICS, Metric
from modtrace.analysis.tree import Tree
from modtrace.text import pad, plain
from modtrace.units import percent, plural

Ints = npt.NDArray[np.int64]

MAX_INDENT = 12
_HEAD = "CALL TREE"
_WIDE: Final = 80
"""Columns from which on there are outputs, and numbers over ranks."""
_USUAL, _OUTPUT = 25, 12
"""Columns of total, share and calls with what is between; the fewest that an output is shown in."""
NOT_RUN = "-"
"""Number of a row that did not run in the window."""


@dataclass(frozen=True)
class ColumnOf:
    """A metric of each row of a tree, and its lower bound: each as values and where they are known."""

    metric: Metric
    values: Values
    least: Values

    def text(self, row: int) -> str:
        """The number of a row as text."""
        number, least = (
            values[row].item() if known[row] else None for values, known in (self.values, self.least)
        )
        return self.metric.text(number, least)

    def taken(self, rows: Ints) -> ColumnOf:
        """The numbers of some rows."""
        of_rows, least = ((values[rows], known[rows]) for values, known in (self.values, self.least))
        return ColumnOf(self.metric, of_rows, least)


def tree_lines(
    tree: Tree,
    *,
    width: int,
    base_ns: int,
    depth: int | None = None,
    column: ColumnOf | None = None,
    over_ranks: Sequence[ColumnOf] = (),
) -> list[str]:
    """A line a node: name, class, calls, inclusive time, share, output; `-` for what did not run in the window.

    Args:
        tree: the merged tree.
        width: columns.
        base_ns: what shares are of.
        depth: the deepest level shown; None for all.
        column: a further number of each node.
        over_ranks: numbers that have columns too, from 80 columns on; what calls returned is shown behind them if there
            is room.
    """
    columns = [column] if column is not None and column.metric.key not in ("total", "calls") else []
    if width >= _WIDE:
        shown = [each.metric.key for each in columns]
        columns += [each for each in over_ranks if each.metric.key not in shown]
    total_of, calls_of = METRICS["total"], METRICS["calls"]
    extra = "".join(f" {each.metric.title:>{each.metric.width}}" for each in columns)
    name_width = max(min(34, width - 40 if width >= _WIDE else width - 27 - len(extra)), 8)
    if len(columns) > 1:
        name_width = max(min(34, width - _USUAL - len(extra)), 8)
    outputs = width >= _WIDE and (len(columns) < 2 or width - _USUAL - len(extra) - name_width >= _OUTPUT)
    lines = [_line((_HEAD, total_of.title, "%", calls_of.title, extra, "output"), name_width, width, outputs)]
    hidden = 0
    for node, level in enumerate(tree.depth.tolist()):
        if depth is not None and level > depth:
            hidden += 1
            continue
        name = _named(tree, node, level)
        calls = int(tree.calls[node])
        unknown = tree.unknown[node] == calls
        total = total_of.text(None if unknown else int(tree.total_ns[node])) if calls else NOT_RUN
        share = "?" if unknown else percent(int(tree.total_ns[node]), base_ns)
        share = share if calls else NOT_RUN
        output = plain(tree.outputs[node]) if not tree.raised[node] else f"raised {tree.raised[node]}x"
        extra = "".join(
            f" {each.text(node) if calls or each.metric.adds == 'ranks' else NOT_RUN:>{each.metric.width}}"
            for each in columns
        )
        lines.append(
            _line((name, total, share, calls_of.text(calls), extra, output), name_width, width, outputs)
        )
    if depth is not None and hidden:
        lines.append(f"  {plural(hidden, 'deeper line')}: --depth {depth + 1}")
    return lines


def _named(tree: Tree, node: int, level: int) -> str:
    """Label of a node, its class and number of modules, indented."""
    folded = f" x{tree.instances[node]}" if tree.instances[node] > 1 else ""
    indent = "  " * level if level <= MAX_INDENT else "  " * MAX_INDENT + f"[{level}] "
    class_name, label = plain(tree.type[node]), plain(tree.label[node])
    again = " recompute" if tree.recompute[node] else ""
    shown_class = f"  {class_name}" if class_name and label not in (class_name, f"({class_name})") else ""
    return f"{indent}{label}{folded}{shown_class}{again}"


def _line(cells: tuple[str, str, str, str, str, str], name_width: int, width: int, outputs: bool) -> str:
    """Name, total, share, calls, further numbers as wide as their columns, and output; as much of it as fits."""
    name, total, share, calls, extra, output = cells
    line = f"  {pad(name, name_width)} {total:>8} {share:>5}"
    if width >= 60:
        line += f" {calls:>7}"
    line += extra
    if outputs:
        line += f"  {output}"
    return line
