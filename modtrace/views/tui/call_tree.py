"""The tree widget: a table with keys to open and close its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from textual.binding import Binding, BindingType

from modtrace.analysis.metrics import METRICS
from modtrace.views.tui.row_table import RowTable
from modtrace.views.tui.tree_lines import TreeLines, sort_keys

THRESHOLDS: Final = (0.0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.10)


class CallTree(RowTable):
    """Shows `TreeLines`, which may be exchanged at any time with `use`."""

    HELP = (
        "The tree of calls. Calls of one module in one place are one row, repeated blocks are folded: h.* x12. "
        "v changes to each module by itself, and to single calls in order."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "close_or_up", "Close or up", id="tree.close", show=False),
        Binding("right,l", "open_or_down", "Open or down", id="tree.open", show=False),
        Binding("space", "toggle_row", "Open or close", id="tree.toggle", show=False),
        Binding("E", "below(True)", "Open all below", id="tree.open_below", show=False),
        Binding("C", "below(False)", "Close all below", id="tree.close_below", show=False),
        Binding("e", "chain", "Open single chain", id="tree.chain", show=False),
        Binding("percent_sign", "share", "% of self or total", id="tree.share", show=False),
        Binding("plus", "threshold(1)", "Hide small rows", id="tree.threshold_up", show=False),
        Binding("minus", "threshold(-1)", "Show small rows", id="tree.threshold_down", show=False),
    ]

    def __init__(self, lines: TreeLines, *, keys: Sequence[str] | None = None, id: str | None = None) -> None:
        super().__init__(lines, keys=sort_keys() if keys is None else keys, id=id)

    @property
    def shown(self) -> TreeLines:
        assert isinstance(self.lines, TreeLines)
        return self.lines

    def grown(self) -> None:
        """Draw after the model has grown. The list stays scrolled to where it is, unless the cursor was in sight there
        and no longer is.
        """
        follow = self.cursor_in_sight
        self.cursor = self.model.cursor
        self.changed(follow=follow)

    def clicked(self, row: int, column: int) -> None:
        self.move_to(row)
        level = int(self.model.nodes.depth[self.model.node_at(row)])
        if abs(column - 3 - 2 * level) <= 1:
            self.action_toggle_row()

    def action_toggle_row(self) -> None:
        if len(self.lines):
            self.model.toggle(self.cursor)
            self.synced()

    def action_close_or_up(self) -> None:
        if not len(self.lines):
            return
        node = self.model.selected
        if self.model.is_open(node) and not self.model.is_leaf(node):
            self.model.set_open(self.cursor, opened=False)
            self.synced()
        else:
            self.move_to(self.model.parent_row(self.cursor))

    def action_open_or_down(self) -> None:
        if not len(self.lines):
            return
        node = self.model.selected
        if self.model.is_leaf(node):
            return
        if self.model.is_open(node):
            self.move_to(self.cursor + 1)
        else:
            self.model.set_open(self.cursor, opened=True)
            self.synced()

    def action_below(self, opened: bool) -> None:
        if len(self.lines):
            self.model.set_open_below(self.cursor, opened=opened)
            self.synced()

    def action_chain(self) -> None:
        if len(self.lines):
            self.model.open_chain(self.cursor)
            self.synced()

    def tells(self, key: str) -> bool:
        """True where rows differ in the sort key: of a single call there is no median."""
        metric = METRICS.get(key)
        if metric is None:
            return True
        of_one = self.shown.timed and metric.adds in ("calls", "p50", "p95", "max")
        return not of_one and self.model.nodes.has(key)

    def action_share(self) -> None:
        self.shown.share = "self" if self.shown.share == "total" else "total"
        self.refresh()

    def action_threshold(self, by: int) -> None:
        index = THRESHOLDS.index(self.model.threshold) if self.model.threshold in THRESHOLDS else 0
        index = min(max(index + by, 0), len(THRESHOLDS) - 1)
        self.model.set_filter(self.model.filter, THRESHOLDS[index])
        self.synced()
