"""What a tree view shows: nodes in pre-order as columns. Plain arrays, no Textual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from modtrace.analysis.filters import Rows

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass
class Nodes:
    """A tree, an array element a node, parents before children, children in order of their first calls.

    depth: 0 for a root.
    end: one more than the last descendant.
    parent: -1 for a root.
    label: what a node is called below its parent, as it was recorded (not yet safe to show).
    kind: class name of a node; "" where that would repeat the label.
    rows: path and type of each node for searches and filters, and its numbers: `self`, `total` in ns, `calls`, ...
    """

    depth: Ints
    end: Ints
    parent: Ints
    label: Callable[[int], str]
    kind: Callable[[int], str]
    rows: Rows
    _numbers: dict[str, tuple[Ints, Bools] | None] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.depth)

    def numbers(self, name: str) -> tuple[Ints, Bools]:
        """Values of a number and where they are known; made once. Known nowhere for a number that there is not."""
        if name not in self._numbers:
            self._numbers[name] = self.rows.numbers(name)
        found = self._numbers[name]
        if found is None:
            found = np.zeros(len(self), np.int64), np.zeros(len(self), np.bool_)
            self._numbers[name] = found
        return found

    def number(self, name: str, node: int) -> int | None:
        """One node's number, None where it is not known."""
        values, known = self.numbers(name)
        return int(values[node]) if known[node] else None

    def ancestors(self, node: int) -> list[int]:
        """The nodes above one, the root first."""
        found = []
        up = int(self.parent[node])
        while up >= 0:
            found.append(up)
            up = int(self.parent[up])
        return found[::-1]

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
    for at, level in enumerate(depth.tolist()):
        while waiting and depth[waiting[-1]] >= level:
            ends[waiting.pop()] = at
        waiting.append(at)
    return ends


def parents_of(depth: Ints) -> Ints:
    """The parent of each node, -1 for a root, from the depths in pre-order."""
    parents = np.full(len(depth), -1, np.int64)
    path: list[int] = []
    for at, level in enumerate(depth.tolist()):
        del path[level:]
        if path:
            parents[at] = path[-1]
        path.append(at)
    return parents
