"""Search, filter and copying for every screen with a table of rows."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from textual.binding import Binding, BindingType

from modtrace.analysis.filters import parse
from modtrace.errors import UsageError
from modtrace.filter_language import Filter
from modtrace.text import fit, plain
from modtrace.views.models.nodes import Bools, Ints
from modtrace.views.tui.base_screen import BaseScreen
from modtrace.views.tui.row_table import RowTable
from modtrace.views.tui.tree_lines import filtered


class TableKeys(BaseScreen):
    """A screen with one `table` that is searched and filtered.

    hits: the nodes that a search has found, None where nothing is searched for.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "find", "Find", id="tree.find", key_display="/"),
        Binding("n", "hit(True)", "Next hit", id="tree.next_hit", show=False),
        Binding("N", "hit(False)", "Previous hit", id="tree.previous_hit", show=False),
        Binding("f", "filter", "Filter", id="tree.filter"),
        Binding("F", "no_filter", "No filter", id="tree.no_filter", show=False),
        Binding("y", "copy", "Copy path", id="tree.copy", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.hits: Bools | None = None
        self.filter_text = ""
        self._search_text = ""
        self._searched_from = -1
        self._filtered_from = -1

    @property
    def table(self) -> RowTable:
        """The table that keys are about."""
        raise NotImplementedError

    def show_selected(self) -> None:
        """Bring what hangs on the selected row up to date."""

    def passing_text(self) -> str:
        """Rows and share of time that the filter lets through; "" where there is no filter."""
        return filtered(self.table.model)

    def say_hits(self, text: str) -> None:
        """Show how many hits there are, while the line to type into is closed."""

    def parsed(self, text: str) -> Filter:
        """Read a filter.

        Raises:
            UsageError: it cannot be read, or asks for what these rows do not have.
        """
        return parse(text)

    def action_find(self) -> None:
        self._searched_from = self.table.model.selected
        self.ask_bar.ask("find", "/", "")

    def action_filter(self) -> None:
        self._filtered_from = self.table.model.selected
        self.ask_bar.ask("filter", "f:", self.filter_text)

    def action_no_filter(self) -> None:
        self.filter_text = ""
        self._filter(Filter(()))

    def action_hit(self, forward: bool) -> None:
        if self.hits is None:
            return
        node = self.table.model.next_hit(self.hits, forward=forward)
        if node is None:
            self.app.notify("no hit", markup=False)
            return
        self.table.model.reveal(node)
        self.table.synced()
        self._count_hits()

    def action_copy(self) -> None:
        node = self.table.model.selected
        if node >= 0:
            path = plain(self.table.model.nodes.path(node))
            self.app.copy_to_clipboard(path)
            self.app.notify(f"copied {fit(path, 60, keep_end=True)}", markup=False)

    def typed(self, purpose: str, text: str) -> None:
        if purpose not in ("find", "filter"):
            return
        try:
            if purpose == "find":
                self._seek(text)
            else:
                self._try_filter(text)
        except UsageError as error:
            if purpose == "filter":
                self._filter_in_force()
            self.ask_bar.say(str(error), trouble=True)

    def entered(self, purpose: str, text: str) -> None:
        if purpose not in ("find", "filter"):
            super().entered(purpose, text)
            return
        if purpose == "filter":
            try:
                passes = self._try_filter(text)
            except UsageError as error:
                self._filter_in_force()
                self.ask_bar.say(str(error), trouble=True)
                return
            if not passes:
                return
            self.filter_text = text.strip()
        self.ask_bar.close()
        self.after_asking()

    def cancelled(self, purpose: str) -> None:
        if purpose == "find":
            self.no_hits()
            if self._searched_from >= 0:
                self.table.model.reveal(self._searched_from)
                self.table.synced()
        elif purpose == "filter":
            self._filter_in_force()

    def after_asking(self) -> None:
        self.table.focus()
        self.show_selected()

    def action_back(self) -> None:
        """Out of what was gone into last: hits, a filter, a threshold."""
        model = self.table.model
        if self.hits is not None:
            self.no_hits()
        elif model.filter:
            self.action_no_filter()
        elif model.threshold:
            model.set_filter(model.filter, 0.0)
            self.table.synced()

    def no_hits(self) -> None:
        """End a search."""
        self.hits = self.table.rows.hits = None
        self.table.refresh()

    def search_again(self, before: Ints) -> None:
        """Search the nodes of a tree that has grown; `before` is the number that each had until then, -1 for none."""
        numbers = np.flatnonzero(before == self._searched_from)
        self._searched_from = int(numbers[0]) if self._searched_from >= 0 and len(numbers) else -1
        if self.hits is not None:
            self.hits = self.table.rows.hits = self.table.model.hits(self._search_text)

    def _seek(self, text: str) -> None:
        """Search while it is typed: the first hit from where the search began. No row is hidden."""
        model = self.table.model
        if not text.strip():
            self.no_hits()
            self.ask_bar.say("")
            return
        self.hits = self.table.rows.hits = model.hits(text)
        self._search_text = text
        if self._searched_from >= 0:
            model.cursor = model.row_of(self._searched_from)
        node = model.next_hit(self.hits, from_cursor=True)
        if node is not None:
            model.reveal(node)
        self.table.synced()
        self._count_hits()

    def hits_text(self) -> str:
        """Number of the hit that the cursor is on, of how many, and the keys."""
        if self.hits is None:
            return ""
        total = int(self.hits.sum())
        number = self.table.model.hit_number(self.hits)
        return f"hit {number:,} of {total:,}   n next  N previous  esc" if total else "no hit"

    def _count_hits(self) -> None:
        if self.hits is None:
            return
        self.ask_bar.say(self.hits_text())
        if not self.ask_bar.is_open:
            self.say_hits(self.hits_text())

    def _try_filter(self, text: str) -> bool:
        """Filter while it is typed; one that no row passes leaves the rows alone. True where rows pass.

        Raises:
            UsageError: it cannot be read.
        """
        wanted = self.parsed(text)
        passes = not wanted or self.table.model.lets_through(wanted)
        if passes:
            self._filter(wanted)
            self.ask_bar.say(self.passing_text() if text.strip() else "")
        else:
            self._filter_in_force()
            self.ask_bar.say("no row", trouble=True)
        return passes

    def _filter_in_force(self) -> None:
        """Filter as before anything was typed, with the cursor where it was."""
        model = self.table.model
        model.set_filter(self.parsed(self.filter_text))
        if 0 <= self._filtered_from < len(model.nodes):
            model.cursor = model.row_of(self._filtered_from)
        self.table.synced()
        self.show_selected()

    def _filter(self, wanted: Filter) -> None:
        self.table.model.set_filter(wanted)
        self.table.synced()
        self.show_selected()
