"""Search, filter and copying for every screen with a tree."""

from __future__ import annotations

from modtrace.views.tui.call_tree import CallTree
from modtrace.views.tui.row_table_keys import TableKeys


class TreeKeys(TableKeys):
    """A screen with one `CallTree` called `tree`."""

    @property
    def call_tree(self) -> CallTree:
        return self.query_one("#tree", CallTree)

    @property
    def table(self) -> CallTree:
        return self.call_tree
