"""Holders of memory at a moment, as lines. No Textual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from modtrace.analysis.filters import FilterRows
from modtrace.analysis.memory_peaks import MemoryHolder
from modtrace.errors import UsageError
from modtrace.filter_language import Filter
from modtrace.text import fit, pad, plain
from modtrace.units import count, percent, size
from modtrace.views.models.nodes import Bools, Ints, TreeNodes
from modtrace.views.models.tree_model import TreeModel
from modtrace.views.tui.styles import Piece, heat

SORTS: Final = ("bytes", "pieces", "for", "name")
_NUMBERS_COLUMNS: Final = 54
"""Columns of bytes, share, pieces and purpose."""


class HolderLines:
    """A line a holder, the largest first.

    Args:
        holders: who held memory.
        total_bytes: what shares are of.
        screen: columns of the whole screen.
    """

    def __init__(self, holders: Sequence[MemoryHolder], total_bytes: int, screen: int) -> None:
        self.holders = list(holders)
        self.total_bytes = total_bytes
        self.tree = TreeModel(_nodes(self.holders))
        self.tree.sort("bytes")
        self.hits: Bools | None = None
        self._room = max(screen - _NUMBERS_COLUMNS, 20)

    def __len__(self) -> int:
        return len(self.tree)

    def holder_at(self, row: int) -> MemoryHolder:
        return self.holders[self.tree.node_at(row)]

    def sort_by(self, key: str) -> None:
        """The most first; names and purposes from a to z."""
        self.tree.sort(key)

    def head(self, width: int) -> Sequence[Piece]:
        del width
        arrow = " v" if self.tree.descending else " ^"

        def title(text: str, key: str) -> str:
            return text + (arrow if self.tree.key == key else "")

        head = pad(f"   {title('holder', 'name')}", self._room)
        head += f"{title('bytes', 'bytes'):>10} {'%':>6} {title('pieces', 'pieces'):>7}"
        return [(f"{pad(head, self._room + 27)}{title('for', 'for')}", "head")]

    def key_at(self, column: int, width: int) -> str:
        """The sort key of the column of a head that a place is in."""
        del width
        ends = {"name": self._room, "bytes": self._room + 17, "pieces": self._room + 27}
        return next((key for key, end in ends.items() if column < end), "for")

    def line(self, row: int, width: int) -> Sequence[Piece]:
        del width
        node = self.tree.node_at(row)
        holder = self.holders[node]
        name = fit(plain(holder.name[:400]) or _OUTSIDE, self._room - 4, keep_end=True)
        class_text = f"  {plain(holder.type[:100])}" if holder.type not in ("", holder.name) else ""
        share = holder.held_bytes / self.total_bytes if self.total_bytes else 0.0
        is_hit = self.hits is not None and bool(self.hits[node])
        return [
            ("   ", ""),
            (name, "hit" if is_hit else ""),
            (pad(class_text, self._room - 3 - len(name)), ""),
            (f"{size(holder.held_bytes):>10} ", ""),
            (f"{percent(holder.held_bytes, self.total_bytes):>6}", heat(share)),
            (f" {count(holder.allocations):>7}  {_purpose(holder)}", ""),
        ]


_OUTSIDE: Final = "outside of calls"


def _purpose(holder: MemoryHolder) -> str:
    return holder.category.replace("_", " ") + (", in its backward" if holder.backward else "")


def _nodes(holders: Sequence[MemoryHolder]) -> TreeNodes:
    """A node a holder."""
    every = np.arange(len(holders))
    purposes = [_purpose(holder) for holder in holders]
    places = {text: -place for place, text in enumerate(sorted(set(purposes)))}
    columns = {
        "bytes": [holder.held_bytes for holder in holders],
        "mem": [holder.held_bytes for holder in holders],
        "pieces": [holder.allocations for holder in holders],
        "for": [places[text] for text in purposes],
    }

    def numbers(key: str) -> tuple[Ints, Bools] | None:
        return (np.array(columns[key], np.int64), np.ones(len(holders), np.bool_)) if key in columns else None

    rows = FilterRows(
        path=every,
        paths=[holder.name or _OUTSIDE for holder in holders],
        type=every,
        types=[holder.type for holder in holders],
        numbers=numbers,
        note=every,
        notes=purposes,
    )
    flat = np.zeros(len(holders), np.int64)
    return TreeNodes(
        flat, every + 1, flat - 1, lambda node: rows.paths[node], lambda node: rows.types[node], rows
    )


def checked(wanted: Filter) -> Filter:
    """The same filter.

    Raises:
        UsageError: it asks for what a holder of memory does not have.
    """
    for term in wanted.terms:
        if term.key not in ("word", "regex", "path", "type", "mem"):
            raise UsageError(f"a holder of memory has mem, type:, path: and words, not {term.key}")
    return wanted
