"""Boxes in layers: what a flame chart and a timeline draw. Plain arrays, no Textual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modtrace.views.models.nodes import Bools, Ints, TreeNodes
from modtrace.views.models.tree_model import stacked


@dataclass(frozen=True)
class Cell:
    """A box as drawn, from `start_column` up to `end_column`. `box` is its number, and that of the first of several
    where they are narrower than a column and share one.
    """

    start_column: int
    end_column: int
    box: int
    shared: bool


@dataclass(frozen=True)
class Boxes:
    """Boxes sorted by level and start; those of one level do not overlap.

    owner: the node (or row) that each stands for.
    """

    level: Ints
    start: Ints
    end: Ints
    owner: Ints
    label: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.level)

    @property
    def levels(self) -> int:
        return int(self.level.max()) + 1 if len(self.level) else 0

    def of_level(self, level: int) -> tuple[int, int]:
        """The boxes of a level: from, to."""
        low, high = np.searchsorted(self.level, [level, level + 1]).tolist()
        return low, high

    def cells(self, level: int, view_start: float, view_end: float, width: int) -> list[Cell]:
        """The cells of a level from `view_start` to `view_end` on `width` columns, left to right."""
        low, high = self.of_level(level)
        if width <= 0 or view_end <= view_start or high <= low:
            return []
        first = low + int(np.searchsorted(self.end[low:high], view_start, side="right"))
        last = low + int(np.searchsorted(self.start[low:high], view_end, side="left"))
        if last <= first:
            return []
        scale = width / (view_end - view_start)
        begin = np.clip(np.rint((self.start[first:last] - view_start) * scale), 0, width).astype(np.int64)
        stop = np.clip(np.rint((self.end[first:last] - view_start) * scale), 0, width).astype(np.int64)
        wide = stop > begin
        drawn = [
            Cell(int(begin[number]), int(stop[number]), first + int(number), shared=False)
            for number in np.flatnonzero(wide)
        ]
        taken = np.zeros(width + 2, np.int64)
        np.add.at(taken, begin[wide], 1)
        np.add.at(taken, stop[wide], -1)
        free = np.cumsum(taken)[:-1] == 0
        thin = np.flatnonzero(~wide & free[np.minimum(begin, width - 1)] & (begin < width))
        columns, number = np.unique(begin[thin], return_index=True)
        for column, index in zip(columns.tolist(), number.tolist(), strict=True):
            drawn.append(Cell(column, column + 1, first + int(thin[index]), shared=True))
        return sorted(drawn, key=lambda cell: cell.start_column)

    def box_at(self, level: int, value: float) -> int | None:
        """The box of a level at a value."""
        low, high = self.of_level(level)
        index = low + int(np.searchsorted(self.start[low:high], value, side="right")) - 1
        return index if index >= low and self.end[index] > value else None


@dataclass(frozen=True)
class Icicle:
    """The boxes of a tree, and where each node's is."""

    nodes: TreeNodes
    boxes: Boxes
    box: Ints
    size: Ints
    start: Ints


def icicle(nodes: TreeNodes, number: str = "total") -> Icicle:
    """A tree as boxes, the largest child first. A box is as wide as its number, or as what is in it where that is more
    or its own is not known.
    """
    values, known = nodes.numbers(number)
    total = np.where(known, values, 0)
    inside = np.bincount(
        nodes.parent[nodes.parent >= 0],
        weights=total[nodes.parent >= 0].astype(np.float64),
        minlength=len(nodes),
    ).astype(np.int64)
    self_size = np.maximum(total - inside, 0)
    ahead = np.concatenate([[0], np.cumsum(self_size)])
    size = ahead[nodes.end] - ahead[:-1]
    start = stacked(nodes, -size, size, 0)
    shown = np.flatnonzero(size > 0)
    order = shown[np.lexsort((start[shown], nodes.depth[shown]))]
    box = np.full(len(nodes), -1, np.int64)
    box[order] = np.arange(len(order))
    boxes = Boxes(nodes.depth[order], start[order], (start + size)[order], order, nodes.label)
    return Icicle(nodes, boxes, box, size, start)


def callers(nodes: TreeNodes, levels: int = 64) -> TreeNodes:
    """The tree the other way round: at the top what has own time, below each what it was called by.

    Args:
        nodes: the tree.
        levels: callers further away than that are left out.
    """
    self_ns, known = nodes.numbers("self")
    with_self = np.flatnonzero(known & (self_ns > 0))
    rows = nodes.rows
    key = rows.path * (len(rows.types) + 1) + rows.type
    weight, node = self_ns[with_self], with_self
    parent_of = np.full(len(with_self), -1, np.int64)
    by_level: list[tuple[Ints, Ints, Ints]] = []  # of each level: parent, node that it is like, own time
    total = 0
    for _ in range(levels):
        alive = node >= 0
        if not alive.any():
            break
        node, weight, parent_of = node[alive], weight[alive], parent_of[alive]
        pairs = np.stack([parent_of, key[node]], 1)
        _, first, which = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
        which = which.reshape(-1)
        spent = np.bincount(which, weights=weight, minlength=len(first)).astype(np.int64)
        by_level.append((parent_of[first], node[first], spent))
        parent_of = which + total
        total += len(first)
        node = nodes.parent[node]
    if not by_level:
        none = np.zeros(0, np.int64)
        return _upside_down(nodes, none, none, none)
    return _upside_down(nodes, *(np.concatenate(column) for column in zip(*by_level, strict=True)))


def _upside_down(nodes: TreeNodes, parent: Ints, like: Ints, spent: Ints) -> TreeNodes:
    """Nodes in pre-order from parents in order of levels."""
    from modtrace.analysis.filters import FilterRows
    from modtrace.views.models.nodes import ends_of

    count = len(parent)
    children: dict[int, list[int]] = {}
    for node, up in enumerate(parent.tolist()):
        children.setdefault(up, []).append(node)
    order, depth = [], []
    pending = [(node, 0) for node in reversed(children.get(-1, []))]
    while pending:
        node, level = pending.pop()
        order.append(node)
        depth.append(level)
        pending.extend((child, level + 1) for child in reversed(children.get(node, [])))
    chosen = np.array(order, np.int64)
    place = np.empty(count, np.int64)
    place[chosen] = np.arange(count)
    up = parent[chosen]
    depths = np.array(depth, np.int64)
    same = like[chosen]
    known: Bools = np.ones(count, np.bool_)
    values = spent[chosen]
    source = nodes.rows
    rows = FilterRows(
        source.path[same], source.paths, source.type[same], source.types, lambda _: (values, known)
    )
    return TreeNodes(
        depths,
        ends_of(depths),
        np.where(up >= 0, place[up], -1),
        lambda node: nodes.label(int(same[node])),
        lambda node: nodes.class_name(int(same[node])),
        rows,
        None if nodes.phase is None else nodes.phase[same],
    )
