"""The tree of a growing trace for the tree widget: its rows as nodes in pre-order, with open rows and cursor kept."""

from __future__ import annotations

from typing import Final

import numpy as np

from modtrace.analysis.filters import MEMBERS, FilterRows
from modtrace.analysis.live_tree import LiveRow, LiveTree, mark
from modtrace.analysis.metrics import METRICS
from modtrace.errors import UsageError
from modtrace.filter_language import Filter
from modtrace.units import count
from modtrace.views.models.nodes import Bools, Ints, TreeNodes, ends_of, parents_of
from modtrace.views.models.tree_model import TreeModel

OPEN_DEPTH: Final = 2
"""Rows less deep than this are open unless the user has closed them."""
STILL: Final = 0.02
"""A change that is smaller is shown as none."""
SMALL: Final = 0.01
"""Of a row that is a smaller share of a step no change is shown: it is noise."""
_NUMBERS: Final = ("self", "total", "calls")
"""Numbers that are known while a run goes on."""


class LiveModel:
    """A `TreeModel` over a `LiveTree`. `rows` is the row of the live tree that each node shows.

    Times and calls of the nodes are those of one step; those of a window without an end are sums.
    """

    def __init__(self, tree: LiveTree) -> None:
        self.tree = tree
        self._opened: dict[int, bool] = {}
        nodes, self.rows = _nodes_of(tree)
        self.model = TreeModel(nodes, nodes.depth < OPEN_DEPTH)
        self.model.sort("total")

    def refresh(self) -> Ints:
        """Take in what the trace has become, or another window or rank; the cursor stays on its row.

        Returns:
            The number that each node had until now, -1 for a new one.
        """
        model = self.model
        paths = self._paths()
        self._opened.update({path: model.opens(node) for node, path in enumerate(paths)})
        self.tree.refresh()
        nodes, self.rows = _nodes_of(self.tree)
        number = {path: node for node, path in enumerate(paths)}
        after = self._paths()
        before = np.array([number.get(path, -1) for path in after], np.int64)
        depth = nodes.depth.tolist()
        opened = [
            self._opened.get(path, level < OPEN_DEPTH) for path, level in zip(after, depth, strict=True)
        ]
        model.grow(nodes, before, np.array(opened, np.bool_))
        return before

    def _paths(self) -> list[int]:
        return [self.tree.rows[row].path for row in self.rows.tolist()]

    @property
    def steps(self) -> int:
        """The number of steps that sums are divided by."""
        return _steps(self.tree)

    @property
    def span_ns(self) -> int:
        """Nanoseconds that shares are of: a step, or all that was recorded."""
        return self.tree.numbers.span_ns // self.steps

    @property
    def window_text(self) -> str:
        """The window of steps that the numbers are of, in words."""
        return "all, sums" if self.tree.window is None else f"last {self.tree.window} steps"

    def calls_text(self, node: int) -> str:
        """Calls in a step, with a decimal where they are not the same in each."""
        calls = int(self.tree.numbers.now.calls[self.rows[node]]) / self.steps
        return count(int(calls)) if calls == int(calls) or calls >= 100 else f"{calls:.1f}"

    def change_text(self, node: int) -> str:
        """`^ +12%`, `v -3%`, `=`; empty where nothing is known of before, and for a row that is next to nothing."""
        if (self.model.nodes.number("total", node) or 0) < SMALL * self.span_ns:
            return ""
        change = self.tree.change(int(self.rows[node]), "self" if self.model.key == "self" else "total")
        if change is None:
            return ""
        if abs(change) < STILL:
            return "="
        return f"{'^' if change > 0 else 'v'} {min(change, 9.99):+.0%}"


def checked(wanted: Filter) -> Filter:
    """The same filter.

    Raises:
        UsageError: it asks for what is known only of a finished trace.
    """
    for term in wanted.terms:
        if term.key in MEMBERS or (term.key in METRICS and term.key not in _NUMBERS):
            raise UsageError(f"{term.key} is not known while a run goes on: open the trace in the viewer")
    return wanted


def _steps(tree: LiveTree) -> int:
    return 1 if tree.window is None else max(tree.numbers.steps, 1)


def _preorder(rows: list[LiveRow], shown: list[bool]) -> list[int]:
    """Those of the rows that are shown, each before all that is below it."""
    below: list[list[int]] = [[] for _ in range(len(rows) + 1)]
    for index in range(len(rows) - 1, -1, -1):
        if shown[index]:
            below[rows[index].parent].append(index)
    order: list[int] = []
    waiting = below[-1]
    while waiting:
        row = waiting.pop()
        order.append(row)
        waiting += below[row]
    return order


def _nodes_of(tree: LiveTree) -> tuple[TreeNodes, Ints]:
    """The rows that ran in the window and all above them as nodes, and the row of each node."""
    rows, now = tree.rows, tree.numbers.now
    shown = (now.calls > 0).tolist()
    for index in range(len(rows) - 1, -1, -1):  # parents come before their children
        if shown[index] and rows[index].parent >= 0:
            shown[rows[index].parent] = True
    order = np.array(_preorder(rows, shown), np.int64)
    of_node = [rows[row] for row in order.tolist()]
    depth = np.array([row.depth for row in of_node], np.int64)
    paths = list(dict.fromkeys(row.name or row.label for row in of_node))
    types = list(dict.fromkeys(row.class_name for row in of_node))
    path_code = {text: code for code, text in enumerate(paths)}
    type_code = {text: code for code, text in enumerate(types)}
    steps = _steps(tree)
    instances = tree.instances

    def label(node: int) -> str:
        row = int(order[node])
        times = f" x{instances[row]}" if instances[row] > 1 else ""
        return f"{mark(of_node[node].variant)}{of_node[node].label}{times}"

    def numbers(name: str) -> tuple[Ints, Bools] | None:
        sums = {"self": now.self_ns, "total": now.total_ns, "calls": now.calls}.get(name)
        if sums is None:
            return None
        values, ran = sums[order], now.calls[order] > 0
        # A row that ran in some of the steps only has one call at least.
        return (-(-values // steps) if name == "calls" else values // steps), ran

    codes = FilterRows(
        np.array([path_code[row.name or row.label] for row in of_node], np.int64),
        paths,
        np.array([type_code[row.class_name] for row in of_node], np.int64),
        types,
        numbers,
    )
    nodes = TreeNodes(
        depth, ends_of(depth), parents_of(depth), label, lambda node: of_node[node].class_name, codes
    )
    return nodes, order
