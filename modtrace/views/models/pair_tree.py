"""Two sides of a comparison as one tree with the times of both: what the viewer and the page show of a pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.comparing.change_lines import own_times
from modtrace.analysis.comparing.comparison import Comparison
from modtrace.analysis.comparing.run_numbers import STEP, SUBTREE
from modtrace.analysis.comparing.time_changes import UNTOLD, TimeChange
from modtrace.text import plain
from modtrace.views.models.boxes import Boxes

Ints = npt.NDArray[np.int64]

SORTS: Final = ("change", "candidate", "baseline", "name", "order")
"""Orders of siblings: the largest change first, whatever its sign; the most time; from a to z; as in the model."""
SIDES: Final = ("candidate", "baseline", "difference")
"""Sides that a flame is drawn of."""
_SEEN: Final = 0.01
"""Part of a step from which on what one side alone has is to be seen at once."""
ALONE: Final = "alone"
"""Verdict on what one side alone has."""


@dataclass(frozen=True)
class PairNode:
    """A row: a module of both sides or of one, what is in no module, or the step itself.

    label: name below the row above; name: the whole name.
    parent: row above, -1 for the step.
    baseline_ns, candidate_ns: its part of a step with all rows below it; 0 where that side does not have it.
    time: the change of it as it was judged; None for what one side alone has.
    verdict: `slower`, `faster`, `same`, `unknown` or `alone`.
    """

    label: str
    name: str
    type: str
    depth: int
    parent: int
    baseline_ns: int
    candidate_ns: int
    time: TimeChange | None
    verdict: str

    @property
    def change_ns(self) -> int:
        """By how much its part of a step has grown."""
        return self.candidate_ns - self.baseline_ns


class PairTree:
    """Rows of a comparison, parents before children, and which of them are open, in what order.

    Args:
        comparison: of both sides.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.nodes = _nodes(comparison)
        self.below: list[list[int]] = [[] for _ in self.nodes]
        for number, node in enumerate(self.nodes):
            if node.parent >= 0:
                self.below[node.parent].append(number)
        self.sort = SORTS[0]
        self._open = {0}
        self.rows: list[int] = []
        self.open_changed()

    def open_changed(self) -> None:
        """Open the rows down to each change that has a line, and to what one side alone has; show those."""
        change = self.comparison.step_change
        named = set() if change is None else {place + 1 for line in change.lines for place in line.nodes}
        least_ns = _SEEN * max(self.nodes[0].baseline_ns, self.nodes[0].candidate_ns)
        for number, node in enumerate(self.nodes):
            topmost = node.verdict == ALONE and self.nodes[node.parent].verdict != ALONE
            if number in named or (topmost and abs(node.change_ns) >= least_ns > 0):
                up = node.parent
                while up >= 0:
                    self._open.add(up)
                    up = self.nodes[up].parent
        self._show()

    def is_open(self, number: int) -> bool:
        return number in self._open

    def toggle(self, number: int, *, opened: bool | None = None) -> None:
        """Open or close a row."""
        if not self.below[number]:
            return
        if opened is None:
            opened = number not in self._open
        (self._open.add if opened else self._open.discard)(number)
        self._show()

    def open_all(self, *, opened: bool) -> None:
        """Open or close all rows but the first."""
        self._open = {number for number in range(len(self.nodes)) if self.below[number]} if opened else {0}
        self._show()

    def sort_by(self, key: str) -> None:
        """Order siblings by one of SORTS."""
        self.sort = key
        self._show()

    def ordered(self, numbers: Sequence[int]) -> list[int]:
        """Siblings in the order that was chosen."""
        nodes = self.nodes
        if self.sort == "name":
            return sorted(numbers, key=lambda number: nodes[number].label)
        if self.sort == "order":
            return list(numbers)
        keys = {
            "change": lambda number: -abs(nodes[number].change_ns),
            "candidate": lambda number: -nodes[number].candidate_ns,
            "baseline": lambda number: -nodes[number].baseline_ns,
        }
        return sorted(numbers, key=keys[self.sort])

    def _show(self) -> None:
        rows, waiting = [], [0]
        while waiting:
            number = waiting.pop()
            rows.append(number)
            if number in self._open:
                waiting += self.ordered(self.below[number])[::-1]
        self.rows = rows

    def boxes(self, side: str) -> Boxes:
        """The rows as boxes of a flame.

        Args:
            side: of SIDES. Of a difference a box is as wide as the changes of all rows in it, whatever their signs.
        """
        size = self._sizes(side)
        start = np.zeros(len(size), np.int64)
        for number in range(len(self.nodes)):
            at = int(start[number])
            for child in sorted(self.below[number], key=lambda row: -int(size[row])):
                start[child] = at
                at += int(size[child])
        depth = np.array([node.depth for node in self.nodes], np.int64)
        shown = np.flatnonzero(size > 0)
        order = shown[np.lexsort((start[shown], depth[shown]))]
        return Boxes(depth[order], start[order], (start + size)[order], order, self.text)

    def _sizes(self, side: str) -> Ints:
        nodes = self.nodes
        size = np.zeros(len(nodes), np.int64)
        for number in range(len(nodes) - 1, -1, -1):
            node, below = nodes[number], self.below[number]
            inside = int(size[below].sum()) if below else 0
            if side == "difference":
                own = node.change_ns - sum(nodes[child].change_ns for child in below)
                size[number] = abs(own) + inside
            else:
                value = node.candidate_ns if side == "candidate" else node.baseline_ns
                size[number] = max(value, inside)
        return size

    def text(self, number: int) -> str:
        """The name of a row with its class."""
        node = self.nodes[number]
        return f"{node.label} {node.type}" if node.type and node.type != node.label else node.label


def _nodes(comparison: Comparison) -> list[PairNode]:
    """The step, the modules of both sides in the order of the union tree, and what is in no module."""
    tree = comparison.tree
    own = [
        own_times(side, side.module_times(SUBTREE)) for side in (comparison.baseline, comparison.candidate)
    ]
    totals = np.zeros((2, len(tree)))
    for number in range(len(tree) - 1, -1, -1):
        module = tree.modules[number]
        for side, place in enumerate((module.baseline, module.candidate)):
            totals[side, number] += own[side][place] if place >= 0 else 0.0
        if module.parent >= 0:
            totals[:, module.parent] += totals[:, number]
    times = {module.number: module.times[SUBTREE] for module in comparison.modules}
    step = comparison.steps[STEP]
    nodes = [
        PairNode(STEP, STEP, "", 0, -1, step.baseline_ns or 0, step.candidate_ns or 0, step, step.verdict)
    ]
    for number, module in enumerate(tree.modules):
        above = nodes[module.parent + 1]
        name = tree.name(number)
        label = name[len(above.name) + 1 :] if name.startswith(f"{above.name}.") else name
        time = times.get(number)
        nodes.append(
            PairNode(
                plain(label, 200),
                plain(name, 400),
                plain(tree.type(number), 100),
                above.depth + 1,
                module.parent + 1,
                max(round(float(totals[0, number])), 0),
                max(round(float(totals[1, number])), 0),
                time,
                ALONE if module.pair is None else time.verdict if time is not None else UNTOLD,
            )
        )
    names = list(comparison.outside)
    sides = comparison.baseline.outside_times(names), comparison.candidate.outside_times(names)
    adds = [np.nan_to_num(spent.values_ns * spent.share) for spent in sides]
    for place, (name, time) in enumerate(comparison.outside.items()):
        known = time.baseline_ns is not None and time.candidate_ns is not None
        values = (round(float(adds[0][place])), round(float(adds[1][place])))
        shown = plain(name, 200)
        verdict = time.verdict if known else ALONE
        nodes.append(PairNode(shown, shown, "", 1, 0, *values, time if known else None, verdict))
    return nodes
