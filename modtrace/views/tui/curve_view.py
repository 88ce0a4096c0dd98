"""A curve over time in braille, with a cursor."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from modtrace.views.models.nodes import Ints
from modtrace.views.tui.braille import filled, highest
from modtrace.views.tui.line_list import strip
from modtrace.views.tui.styles import Piece


class CurveView(Widget, can_focus=True):
    """A step function: `values[i]` holds from `at[i]` until the next. `moment` is where the cursor is."""

    HELP = "What was held over time. Left and right move the cursor, [ and ] jump between the peaks."
    DEFAULT_CSS = "CurveView { height: 1fr; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(-1)", "Before", id="curve.before", show=False),
        Binding("right,l", "move(1)", "Behind", id="curve.behind", show=False),
        Binding("pageup", "move(-10)", "Before", id="curve.page_before", show=False),
        Binding("pagedown", "move(10)", "Behind", id="curve.page_behind", show=False),
        Binding("home,g", "edge(0)", "First", id="curve.first", show=False),
        Binding("end,G", "edge(1)", "Last", id="curve.last", show=False),
    ]

    class Moved(Message):
        """The cursor is at another moment."""

        def __init__(self, source: CurveView) -> None:
            self.source = source
            super().__init__()

        @property
        def control(self) -> CurveView:
            return self.source

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.begins: Ints = np.zeros(0, np.int64)
        self.values: Ints = np.zeros(0, np.int64)
        self.view_start, self.view_end = 0, 1
        self.moment = 0
        self._drawn: tuple[object, list[str]] | None = None

    def use(self, begins: Ints, values: Ints, view_start: int, view_end: int, moment: int) -> None:
        """Show another curve between two moments."""
        self.begins, self.values = begins, values
        self.view_start, self.view_end = view_start, max(view_end, view_start + 1)
        self.moment = min(max(moment, view_start), self.view_end)
        self._drawn = None
        self.refresh()

    @property
    def column(self) -> int:
        """Where the cursor is drawn."""
        width = max(self.size.width, 1)
        return min((self.moment - self.view_start) * width // (self.view_end - self.view_start), width - 1)

    def go(self, moment: int) -> None:
        """Put the cursor at a moment."""
        self.moment = min(max(moment, self.view_start), self.view_end)
        self.refresh()
        self.post_message(self.Moved(self))

    def render_line(self, y: int) -> Strip:
        width, height = self.size.width, self.size.height
        key = (width, height, self.view_start, self.view_end)
        if self._drawn is None or self._drawn[0] != key:
            shown = highest(self.begins, self.values, self.view_start, self.view_end, 2 * width)
            self._drawn = key, filled(shown, height, int(self.values.max(initial=0)))
        line, column = self._drawn[1][y], self.column
        pieces: list[Piece] = [(line[:column], "heat0"), ("|", "cursor"), (line[column + 1 :], "heat0")]
        return strip(pieces, width, dark=self.app.current_theme.dark).apply_style(self.rich_style)

    def on_click(self, event: events.Click) -> None:
        place = event.get_content_offset(self)
        if place is not None:
            self._to_column(place.x)

    def action_move(self, by: int) -> None:
        self._to_column(self.column + by)

    def action_edge(self, which: int) -> None:
        self.go(self.view_start if which == 0 else self.view_end)

    def _to_column(self, column: int) -> None:
        """The end of what a column shows, up to which its highest value has been reached."""
        width = max(self.size.width, 1)
        column = min(max(column, 0), width - 1)
        self.go(self.view_start + ((column + 1) * (self.view_end - self.view_start) - 1) // width)
