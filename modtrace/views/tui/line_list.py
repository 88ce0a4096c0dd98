"""A list of lines that only draws what is to be seen: the base of every list in the viewer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from modtrace.views.tui.styles import Piece, style


class Lines(Protocol):
    """The lines of a list. Texts are safe to show and fit into the width."""

    def __len__(self) -> int: ...

    def head(self, width: int) -> Sequence[Piece] | None:
        """The line above all others, None for none."""

    def line(self, row: int, width: int) -> Sequence[Piece]:
        """One line, 0 being the first."""


class FixedLines:
    """Lines that are there already."""

    def __init__(self, lines: Sequence[Sequence[Piece]], head: Sequence[Piece] | None = None) -> None:
        self.lines = list(lines)
        self._head = head

    def __len__(self) -> int:
        return len(self.lines)

    def head(self, width: int) -> Sequence[Piece] | None:
        del width
        return self._head

    def line(self, row: int, width: int) -> Sequence[Piece]:
        del width
        return self.lines[row]


class LineList(ScrollView, can_focus=True):
    """Shows `Lines`, with a cursor unless `has_cursor` is False."""

    HELP = "A list. Enter opens what is under the cursor."
    DEFAULT_CSS = """
    LineList { overflow-x: hidden; overflow-y: auto; scrollbar-size-vertical: 1; height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1)", "Down", id="list.down", show=False),
        Binding("up,k", "move(-1)", "Up", id="list.up", show=False),
        Binding("pagedown,ctrl+f", "page(1)", "Page down", id="list.page_down", show=False),
        Binding("pageup,ctrl+b", "page(-1)", "Page up", id="list.page_up", show=False),
        Binding("home,g", "go(0)", "First", id="list.first", show=False),
        Binding("end,G", "go(-1)", "Last", id="list.last", show=False),
        Binding("enter", "choose", "Open", id="list.open"),
    ]

    class Moved(Message):
        """The cursor is on another line."""

        def __init__(self, source: LineList) -> None:
            self.source = source
            super().__init__()

        @property
        def control(self) -> LineList:
            return self.source

    class Chosen(Moved):
        """Enter was pressed, or a line was clicked twice."""

    class HeadClicked(Moved):
        """The line above all others was clicked, in a column of the list."""

        def __init__(self, source: LineList, column: int) -> None:
            self.column = column
            super().__init__(source)

    def __init__(self, lines: Lines, *, has_cursor: bool = True, id: str | None = None) -> None:
        super().__init__(id=id)
        self.lines: Lines = lines
        self.has_cursor = has_cursor
        self.cursor = 0
        self._drawn = (0, 0, 0, Style.null())

    @property
    def columns(self) -> int:
        """Columns to draw in."""
        return self.scrollable_content_region.width

    def show(self, lines: Lines, *, cursor: int = 0) -> None:
        """Show other lines."""
        self.lines = lines
        self.cursor = min(max(cursor, 0), max(len(lines) - 1, 0))
        self.changed()

    def changed(self, *, follow: bool = True) -> None:
        """Draw anew after the lines have changed, with the cursor in sight unless `follow` is False."""
        # Another size lays out the whole screen anew, so lists that fit all have the same.
        height = len(self.lines) + self._head_lines
        fits = height <= self.scrollable_content_region.height
        self.virtual_size = Size(self.columns, 0 if fits else height)
        self.cursor = min(max(self.cursor, 0), max(len(self.lines) - 1, 0))
        if follow:
            self._into_sight()
        self.refresh()

    @property
    def cursor_in_sight(self) -> bool:
        """Is the line under the cursor drawn?"""
        height = self.scrollable_content_region.height - self._head_lines
        return 0 <= self.cursor - self.scroll_offset.y < height

    def move_to(self, row: int) -> None:
        """Put the cursor on a line."""
        row = min(max(row, 0), max(len(self.lines) - 1, 0))
        before, self.cursor = self.cursor, row
        if before == row:
            return
        if not self._into_sight():
            top = self.scroll_offset.y - self._head_lines
            for line in (before, row):
                self.refresh(Region(0, line - top, self.size.width, 1))
        self.post_message(self.Moved(self))

    def render_lines(self, crop: Region) -> list[Strip]:
        # Textual works these out from all that is around, each time that they are asked for.
        self._drawn = (self.columns, self._head_lines, self.scroll_offset.y, self.rich_style)
        return super().render_lines(crop)

    def render_line(self, y: int) -> Strip:
        width, heads, top, base = self._drawn
        if y < heads:
            pieces = self.lines.head(width) or ()
        else:
            row = y - heads + top
            if row >= len(self.lines):
                return Strip.blank(width, base)
            pieces = self.lines.line(row, width)
            if self.has_cursor and row == self.cursor:
                pieces = [(text, f"{name} cursor".strip() if name else "cursor") for text, name in pieces]
        return strip(pieces, width, dark=self.app.current_theme.dark).apply_style(base)

    def on_resize(self) -> None:
        self.changed()

    def action_move(self, by: int) -> None:
        if self.has_cursor:
            self.move_to(self.cursor + by)
        else:
            self.scroll_relative(y=by, animate=False)

    def action_page(self, by: int) -> None:
        page = max(self.scrollable_content_region.height - self._head_lines - 1, 1)
        self.action_move(by * page)

    def action_go(self, row: int) -> None:
        if self.has_cursor:
            self.move_to(row if row >= 0 else len(self.lines) - 1)
        else:
            self.scroll_to(y=0 if row >= 0 else self.max_scroll_y, animate=False)

    def action_choose(self) -> None:
        if len(self.lines):
            self.post_message(self.Chosen(self))

    def on_click(self, event: events.Click) -> None:
        place = event.get_content_offset(self)  # a border is not counted
        if place is None or not self.has_cursor:
            return
        row = place.y - self._head_lines + self.scroll_offset.y
        if place.y < self._head_lines:
            self.head_clicked(place.x)
        elif row < len(self.lines):
            if event.chain == 2 and row == self.cursor:
                self.action_choose()
            else:
                self.clicked(row, place.x)

    def head_clicked(self, column: int) -> None:
        """Handle a click on the line above all others."""
        self.post_message(self.HeadClicked(self, column))

    def clicked(self, row: int, column: int) -> None:
        """Handle a click on a line."""
        del column
        self.move_to(row)

    @property
    def _head_lines(self) -> int:
        return 0 if self.lines.head(self.columns) is None else 1

    def _into_sight(self) -> bool:
        """Scroll so that the cursor is to be seen; whether that was needed."""
        height = max(self.scrollable_content_region.height - self._head_lines, 1)
        if not self.has_cursor:
            return False
        top = self.scroll_offset.y
        wanted = min(max(top, self.cursor - height + 1), self.cursor)
        if wanted == top:
            return False
        self.scroll_to(y=wanted, animate=False, force=True)
        return True


def strip(pieces: Sequence[Piece], width: int, *, dark: bool) -> Strip:
    """Pieces as a line of exactly a width; what stands behind them has the style of the last."""
    segments = [Segment(text, style(name, dark=dark)) for text, name in pieces if text]
    last = segments[-1].style if segments else None
    return Strip(segments).adjust_cell_length(width, last)


def wrapped(text: str, width: int) -> list[str]:
    """A text as lines of a width, cut between words."""
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
