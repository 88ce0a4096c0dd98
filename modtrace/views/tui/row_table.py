"""A table: a list of the rows of a `TreeModel`, with keys to sort it and heads that are clicked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np
from textual.binding import Binding, BindingType

from modtrace.analysis.filters import FilterRows
from modtrace.views.models.nodes import Bools, TreeNodes
from modtrace.views.models.tree_model import TreeModel
from modtrace.views.tui.line_list import FixedLines, LineList, Lines
from modtrace.views.tui.styles import Piece


class ModelLines(Lines, Protocol):
    """Lines of a model, one a row that is to be seen.

    tree: rows, their order, and what a filter lets through.
    hits: nodes that a search has found; None where nothing is searched for.
    """

    tree: TreeModel
    hits: Bools | None

    def sort_by(self, key: str) -> None:
        """Sort by a column in the order that it is usually wanted in."""

    def key_at(self, column: int, width: int) -> str:
        """The sort key of the column of a head that a place is in."""


class TextLines(FixedLines):
    """Texts in the place of a table: there is nothing to sort, to search or to filter."""

    def __init__(self, lines: Sequence[Sequence[Piece]]) -> None:
        super().__init__(lines)
        self.tree = TreeModel(_no_nodes())
        self.hits: Bools | None = None

    def sort_by(self, key: str) -> None:
        """Do nothing."""

    def key_at(self, column: int, width: int) -> str:
        """Nothing is sorted."""
        del column, width
        return ""


class RowTable(LineList):
    """Shows `ModelLines`, which may be exchanged at any time with `use`."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "sort(1)", "Sort", id="tree.sort"),
        Binding("S", "sort(-1)", "Sort back", id="tree.sort_back", show=False),
        Binding("r", "reverse", "Reverse", id="tree.reverse", show=False),
    ]

    class Changed(LineList.Moved):
        """Sorted, filtered, opened or closed: what a title says may be other than before."""

    def __init__(self, lines: ModelLines, *, keys: Sequence[str] = (), id: str | None = None) -> None:
        super().__init__(lines, id=id)
        self.keys = tuple(keys)

    @property
    def rows(self) -> ModelLines:
        """The lines, with their model."""
        lines: ModelLines = self.lines  # type: ignore[assignment]
        return lines

    @property
    def model(self) -> TreeModel:
        return self.rows.tree

    def use(self, lines: ModelLines) -> None:
        """Show other rows, their model's cursor included."""
        self.show(lines, cursor=lines.tree.cursor)

    def move_to(self, row: int) -> None:
        self.model.cursor = min(max(row, 0), max(len(self.lines) - 1, 0))
        super().move_to(row)

    def synced(self) -> None:
        """Draw after the model was changed, with the cursor where the model has it."""
        moved = self.cursor != self.model.cursor
        self.cursor = self.model.cursor
        self.changed()
        self.post_message(self.Changed(self))
        if moved:
            self.post_message(self.Moved(self))

    def head_clicked(self, column: int) -> None:
        """Sort by the column; a click on the one that is sorted by turns the order round."""
        key = self.rows.key_at(column, self.columns)
        if key == self.model.key:
            self.action_reverse()
        elif key in self.keys and self.tells(key):
            self.sort_by(key)

    def tells(self, key: str) -> bool:
        """True where rows differ in a sort key."""
        return key in ("order", "name") or self.model.nodes.has(key)

    def sort_by(self, key: str) -> None:
        """Sort siblings by a number, `name` or `order`; the cursor stays on its row."""
        self.rows.sort_by(key)
        self.synced()

    def action_sort(self, by: int) -> None:
        known = [key for key in self.keys if self.tells(key)]
        if not known or not len(self.model):
            return
        index = known.index(self.model.key) if self.model.key in known else 0
        self.sort_by(known[(index + by) % len(known)])

    def action_reverse(self) -> None:
        self.model.sort(self.model.key, descending=not self.model.descending)
        self.synced()


def _no_nodes() -> TreeNodes:
    """A tree without a node."""
    none = np.zeros(0, np.int64)
    rows = FilterRows(none, [], none, [], lambda _: None)
    return TreeNodes(none, none, none, lambda _: "", lambda _: "", rows)
