"""Nodes of a tree view, in pre-order, as columns. Plain arrays, no Textual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from modtrace.analysis.filters import FilterRows, Numbers
from modtrace.analysis.phases import NAMES

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass
class TreeNodes:
    """A tree, an array element a node, parents before children, children in order of their first calls.

    depth: 0 for a root.
    end: one more than the last descendant.
    parent: -1 for a root.
    label: what a node is called below its parent, as it was recorded (not yet safe to show).
    class_name: class of a node; "" where that would repeat the label.
    rows: path and type of each node for searches and filters, and its numbers by the key of a metric.
    phase: index into NAMES of the phase of each node, -1 for none; None where that is not known.
    counted: nodes that ran in the time that shares are of; None for all.
    """

    depth: Ints
    end: Ints
    parent: Ints
    label: Callable[[int], str]
    class_name: Callable[[int], str]
    rows: FilterRows
    phase: npt.NDArray[np.integer] | None = None
    counted: Bools | None = None
    _numbers: dict[str, tuple[Numbers, Bools] | None] = field(default_factory=dict)
    _known: dict[str, bool] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.depth)

    def numbers(self, name: str) -> tuple[Numbers, Bools]:
        """Values of a number and where they are known; made once. Known nowhere for a number that there is not."""
        if name not in self._numbers:
            self._numbers[name] = self.rows.numbers(name)
        column = self._numbers[name]
        if column is None:
            column = np.zeros(len(self), np.int64), np.zeros(len(self), np.bool_)
            self._numbers[name] = column
        return column

    def has(self, name: str) -> bool:
        """True where a number is known of any node."""
        if name not in self._known:
            self._known[name] = bool(self.numbers(name)[1].any())
        return self._known[name]

    def number(self, name: str, node: int) -> int | None:
        """One node's whole number, None where it is not known."""
        values, known = self.numbers(name)
        return int(values[node]) if known[node] else None

    def value(self, name: str, node: int) -> float | None:
        """One node's number, a float of what is in tensors, else an int; None where it is not known."""
        values, known = self.numbers(name)
        number: float = values[node].item()
        return number if known[node] else None

    def is_counted(self, node: int) -> bool:
        """True where a node ran in the time that shares are of."""
        return self.counted is None or bool(self.counted[node])

    def phase_name(self, node: int) -> str:
        """Name of the phase of a node, "" for none."""
        code = -1 if self.phase is None else int(self.phase[node])
        return NAMES[code] if code >= 0 else ""

    def ancestors(self, node: int) -> list[int]:
        """The nodes above one, the root first."""
        above = []
        up = int(self.parent[node])
        while up >= 0:
            above.append(up)
            up = int(self.parent[up])
        return above[::-1]

    def path(self, node: int) -> str:
        """The whole name of a node; a root's class."""
        rows = self.rows
        return rows.paths[rows.path[node]] or self.label(node)


def ends_of(depth: Ints) -> Ints:
    """One more than the last descendant of each node, from the depths in pre-order."""
    count = len(depth)
    ends = np.full(count, count, np.int64)
    # The next node that is not deeper ends it: nodes wait on a stack, each is pushed and popped once.
    waiting: list[int] = []
    for node, level in enumerate(depth.tolist()):
        while waiting and depth[waiting[-1]] >= level:
            ends[waiting.pop()] = node
        waiting.append(node)
    return ends


def parents_of(depth: Ints) -> Ints:
    """The parent of each node, -1 for a root, from the depths in pre-order."""
    parents = np.full(len(depth), -1, np.int64)
    path: list[int] = []
    for node, level in enumerate(depth.tolist()):
        del path[level:]
        if path:
            parents[node] = path[-1]
        path.append(node)
    return parents
