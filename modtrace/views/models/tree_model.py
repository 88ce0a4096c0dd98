"""The visible nodes of a tree, and in what order: open and closed, sorted, filtered, searched. No Textual.

A position is a node's place in pre-order with siblings in the chosen order; a row is a place among those that are to
be seen. All is done on ranges of positions, so that a million nodes and a depth of thousands are no trouble.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import order_keys
from modtrace.analysis.filters import mask, matching
from modtrace.filter_language import Filter
from modtrace.views.models.nodes import Bools, Ints, TreeNodes

Small = npt.NDArray[np.int32]

OPEN_AT_FIRST: Final = 200
"""Levels are open at first as long as no more rows than that are to be seen."""


class TreeModel:
    """A tree that is looked at. `visible` are the positions to be seen, a row each; `cursor` is a row."""

    def __init__(self, nodes: TreeNodes, opened: Bools | None = None) -> None:
        """`opened`: which nodes are open at first; as many levels as fit unless told."""
        self.nodes = nodes
        count = len(nodes)
        self.key = "order"
        self.descending = True
        self.cursor = 0
        self.threshold = 0.0
        self.filter = Filter(())
        self._node: Ints | None = None  # of each position; None while that is the order of calls
        self._place: Ints | None = None  # of each node
        self._end: Small = nodes.end.astype(np.int32)  # one more than the last position below each
        self._leaf = nodes.end == np.arange(1, count + 1)
        self._open = _open_at_first(nodes) if opened is None else opened
        self._before: Bools | None = None  # what was open before a filter opened all that it keeps
        self._passing: Bools | None = None
        self.matches: Bools | None = None
        self.visible: Small = np.zeros(0, np.int32)
        self._rebuild()

    def __len__(self) -> int:
        return len(self.visible)

    # Rows and nodes.

    def node_at(self, row: int) -> int:
        """The node of a row."""
        position = int(self.visible[row])
        return position if self._node is None else int(self._node[position])

    @property
    def shown_nodes(self) -> Ints:
        """The node of each row."""
        nodes: Ints = self.visible.astype(np.int64) if self._node is None else self._node[self.visible]
        return nodes

    @property
    def selected(self) -> int:
        """The node under the cursor, -1 when there is nothing to be seen."""
        return self.node_at(self.cursor) if 0 <= self.cursor < len(self.visible) else -1

    @property
    def hidden(self) -> int:
        """The number of nodes that the threshold hides."""
        total, known = self.nodes.numbers("total")
        roots_total = float(total[self.nodes.depth == 0].sum())
        return int((known & (total < self.threshold * roots_total)).sum())

    def row_of(self, node: int) -> int:
        """The row of a node; of one that is hidden the row of the nearest node above it that is not."""
        position = node if self._place is None else int(self._place[node])
        row = int(np.searchsorted(self.visible, position))
        if row < len(self.visible) and self.visible[row] == position:
            return row
        for up in reversed(self.nodes.ancestors(node)):
            place = up if self._place is None else int(self._place[up])
            row = int(np.searchsorted(self.visible, place))
            if row < len(self.visible) and self.visible[row] == place:
                return row
        return min(row, max(len(self.visible) - 1, 0))

    def is_leaf(self, node: int) -> bool:
        """True where a node has no children that the filter lets through."""
        if self._leaf[node]:
            return True
        if self._passing is None:
            return False
        return not bool(self._passing[node + 1 : self.nodes.end[node]].any())

    def is_open(self, node: int) -> bool:
        """True where the children of a node are shown."""
        return bool(self._open[node])

    def opens(self, node: int) -> bool:
        """Is a node open, apart from a filter that opens all that it keeps?"""
        return bool((self._open if self._before is None else self._before)[node])

    # Open and close.

    def toggle(self, row: int) -> None:
        """Open or close the node of a row."""
        node = self.node_at(row)
        if not self._leaf[node]:
            self.set_open(row, opened=not self._open[node])

    def set_open(self, row: int, *, opened: bool) -> None:
        """Show, or do not show, what is below the node of a row."""
        node = self.node_at(row)
        if bool(self._open[node]) == opened or self._leaf[node]:
            return
        self._open[node] = opened
        position = int(self.visible[row])
        end = int(self._end[position])
        before = self.visible[: row + 1]
        after = self.visible[int(np.searchsorted(self.visible, end)) :]
        shown = self._shown(position + 1, end) if opened else self.visible[:0]
        self.visible = np.concatenate([before, shown, after])
        if self.cursor > row:
            self.cursor = (
                self.cursor + len(shown) if opened else max(row, self.cursor - (len(before) + len(after)))
            )
            self.cursor = min(self.cursor, len(self.visible) - 1)

    def set_open_below(self, row: int, *, opened: bool) -> None:
        """Open or close a node and all below it."""
        node = self.node_at(row)
        self._open[node : self.nodes.end[node]] = opened
        self._keeping_cursor(node)

    def open_chain(self, row: int) -> None:
        """Open a node, and what is below it as long as that is one node alone."""
        node = self.node_at(row)
        end = int(self.nodes.end[node])
        while not self._leaf[node]:
            self._open[node] = True
            if self.nodes.end[node + 1] != end:
                break
            node += 1
        self._keeping_cursor(node)

    def reveal(self, node: int) -> None:
        """Open all above a node and put the cursor on it. A filter that hides it is taken off."""
        if self._passing is not None and not self._passing[node]:
            self.threshold = 0.0
            self.set_filter(Filter(()))
        for up in self.nodes.ancestors(node):
            self._open[up] = True
        self._keeping_cursor(node)

    def parent_row(self, row: int) -> int:
        """The row of the node above that of a row; the row itself for a root."""
        parent = int(self.nodes.parent[self.node_at(row)])
        return self.row_of(parent) if parent >= 0 else row

    # Order.

    def sort(self, key: str, *, descending: bool = True) -> None:
        """Order siblings by a number of the nodes, unknown ones last; `name` is by label and `order` that of calls."""
        selected = self.selected
        self.key, self.descending = key, descending
        self._order()
        self._keeping_cursor(selected)

    def _order(self) -> None:
        """Give each node its position."""
        nodes = self.nodes
        if self.key == "order" and self.descending:
            self._node = self._place = None
            self._end = nodes.end.astype(np.int32)
            return
        self._place = _places(nodes, _ranked(nodes, self.key, descending=self.descending))
        self._node = np.empty(len(nodes), np.int64)
        self._node[self._place] = np.arange(len(nodes))
        size = nodes.end - np.arange(len(nodes))
        self._end = (np.arange(len(nodes)) + size[self._node]).astype(np.int32)

    # Growth.

    def grow(self, nodes: TreeNodes, before: Ints, opened: Bools) -> None:
        """Show the nodes of a tree that has grown. Order, filter, open rows and the cursor stay as they are.

        Args:
            nodes: the nodes to show from now on.
            before: the number that each of them had until now, -1 for a new one.
            opened: which of the new ones are open; read at those only.
        """
        selected = self._number_after(self.selected, before)
        if self._before is not None:  # a filter opens all that it keeps, what is new too
            self._before = _carried(self._before, before, opened)
            self._open = _carried(self._open, before, np.ones(len(nodes), np.bool_))
        else:
            self._open = _carried(self._open, before, opened)
        self.nodes = nodes
        self._leaf = nodes.end == np.arange(1, len(nodes) + 1)
        self._order()
        if self.filter or self.threshold:
            self._match()
        self._keeping_cursor(selected)

    def _number_after(self, node: int, before: Ints) -> int:
        """The new number of a node, that of the nearest above it where it is gone, -1 where none is left."""
        while node >= 0:
            numbers = np.flatnonzero(before == node)
            if len(numbers):
                return int(numbers[0])
            node = int(self.nodes.parent[node])
        return -1

    # Filter and search.

    def set_filter(self, wanted: Filter, threshold: float | None = None) -> None:
        """Show only nodes that a filter lets through and that take `threshold` of the total or more, with all above."""
        selected = self.selected
        self.filter = wanted
        if threshold is not None:
            self.threshold = threshold
        if not wanted and not self.threshold:
            self._passing = self.matches = None
            if self._before is not None:
                self._open, self._before = self._before, None
            if selected >= 0:
                for up in self.nodes.ancestors(selected):
                    self._open[up] = True
            self._keeping_cursor(selected)
            return
        self._match()
        if wanted:
            if self._before is None:
                self._before = self._open
            self._open = np.ones(len(self.nodes), np.bool_)
        elif self._before is not None:
            self._open, self._before = self._before, None
        self._keeping_cursor(selected)

    def lets_through(self, wanted: Filter) -> bool:
        """True where a filter lets any node through."""
        return bool(mask(wanted, self.nodes.rows).any())

    def _match(self) -> None:
        """Work out which nodes the filter and the threshold let through, and which are kept for being above those."""
        nodes = self.nodes
        passed = mask(self.filter, nodes.rows)
        if self.threshold:
            total, known = nodes.numbers("total")
            passed &= ~known | (total >= self.threshold * float(total[nodes.depth == 0].sum()))
        self.matches = passed
        ahead = np.concatenate([[0], np.cumsum(passed, dtype=np.int32)])
        self._passing = ahead[nodes.end] > ahead[:-1]

    def hits(self, text: str) -> Bools:
        """Mask of the nodes that a search finds.

        Raises:
            UsageError: an expression cannot be read.
        """
        return matching(text, self.nodes.rows)

    def next_hit(self, hits: Bools, *, forward: bool = True, from_cursor: bool = False) -> int | None:
        """The next node that was found, from the cursor on and round; None where there is none."""
        positions = np.flatnonzero(hits if self._node is None else hits[self._node])
        if not len(positions):
            return None
        start = int(self.visible[self.cursor]) if len(self.visible) else 0
        if forward:
            side: Literal["left", "right"] = "left" if from_cursor else "right"
            index = int(np.searchsorted(positions, start, side=side)) % len(positions)
        else:
            index = int(np.searchsorted(positions, start, side="left")) - 1
        position = int(positions[index])
        return position if self._node is None else int(self._node[position])

    def hit_number(self, hits: Bools) -> int:
        """The number of hits up to the cursor, the row under it included."""
        if not len(self.visible):
            return 0
        position = int(self.visible[self.cursor])
        return int(
            hits[: position + 1].sum() if self._node is None else hits[self._node[: position + 1]].sum()
        )

    # Inside.

    def _keeping_cursor(self, node: int) -> None:
        self._rebuild()
        self.cursor = self.row_of(node) if node >= 0 and len(self.visible) else 0

    def _rebuild(self) -> None:
        self.visible = self._shown(0, len(self.nodes))

    def _shown(self, low: int, high: int) -> Small:
        """Positions from `low` to `high` that nothing closed in that range stands above, and that a filter keeps."""
        if high <= low:
            return np.zeros(0, np.int32)
        node = slice(low, high) if self._node is None else self._node[low:high]
        cover = np.where(self._open[node], np.int32(0), self._end[low:high])
        np.maximum.accumulate(cover, out=cover)
        shown = np.ones(high - low, np.bool_)
        shown[1:] = cover[:-1] <= np.arange(low + 1, high, dtype=np.int32)
        if self._passing is not None:
            shown &= self._passing[node]
        positions: Small = np.flatnonzero(shown).astype(np.int32)
        positions += low
        return positions


def _carried(values: Bools, before: Ints, new: Bools) -> Bools:
    """Values under the new numbers of their nodes; `new` has those of nodes that had no number before."""
    carried = new.copy()
    known = before >= 0
    carried[known] = values[before[known]]
    return carried


def _open_at_first(nodes: TreeNodes) -> Bools:
    """The deepest levels that still fit are closed. Levels are counted, not walked."""
    levels = np.bincount(nodes.depth) if len(nodes) else np.zeros(1, np.int64)
    fitting = int(np.searchsorted(np.cumsum(levels), OPEN_AT_FIRST, side="right"))
    opened: Bools = nodes.depth < fitting - 1
    return opened


def _ranked(nodes: TreeNodes, key: str, *, descending: bool) -> Ints:
    """A number for each node by which siblings are ordered, the smallest first."""
    if key == "order":
        return -np.arange(len(nodes))
    if key == "name":
        rows = nodes.rows
        order = sorted(range(len(rows.paths)), key=rows.paths.__getitem__)
        rank = np.zeros(len(order) + 1, np.int64)
        rank[order] = np.arange(len(order))
        return rank[rows.path] if descending else -rank[rows.path]
    return order_keys(*nodes.numbers(key), descending=descending)


def _places(nodes: TreeNodes, rank: Ints) -> Ints:
    """The position of each node when siblings stand in order of `rank`, equal ones as they were called."""
    return stacked(nodes, rank, nodes.end - np.arange(len(nodes)), 1)


def stacked(nodes: TreeNodes, rank: Ints, size: Ints, inset: int) -> Ints:
    """Where each node begins when siblings lie side by side in order of `rank`, `inset` behind their parent.

    That is the sizes of the siblings in front of it, and the same of all above it: one running sum in pre-order, so
    that no level is walked.
    """
    count = len(nodes)
    by_rank = np.argsort(rank, kind="stable")
    order = by_rank[np.argsort(nodes.parent.astype(np.int32)[by_rank], kind="stable")]
    parent, sizes = nodes.parent[order], size[order]  # siblings stand together
    before = np.cumsum(sizes) - sizes
    first = np.ones(count, np.bool_)
    first[1:] = parent[1:] != parent[:-1]
    group = np.flatnonzero(first)
    offset = np.empty(count, np.int64)
    offset[order] = before - np.repeat(before[group], np.diff(np.append(group, count)))
    offset[nodes.parent >= 0] += inset
    leaving = np.bincount(nodes.end, weights=offset, minlength=count + 1)[:count].astype(np.int64)
    placed: Ints = np.cumsum(offset - leaving)
    return placed
