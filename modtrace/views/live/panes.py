"""The panes of the live view. Only the lines that are seen are made."""

from __future__ import annotations

from typing import ClassVar

from rich.cells import chop_cells
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.strip import Strip
from textual.widget import Widget

from modtrace.analysis.live_tree import LiveTree
from modtrace.text import fit, pad
from modtrace.views.live import words
from modtrace.views.live.scrollback import Scrollback

_HEAD = Style(dim=True, underline=True)
_CURSOR = Style(reverse=True)


def strip(text: str, width: int, style: Style | None = None) -> Strip:
    """One line, exactly as wide as the pane."""
    return Strip([Segment(pad(text, width), style)], width)


class Line(Widget):
    """One line of text."""

    DEFAULT_CSS = "Line { height: 1; }"

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self.left = self.right = ""

    def put(self, left: str, right: str = "") -> None:
        """Show a text, and another one at the right end where there is room."""
        if (left, right) != (self.left, self.right):
            self.left, self.right = left, right
            self.refresh()

    def render_line(self, y: int) -> Strip:
        del y
        width = self.size.width
        room = width - len(self.left) - 1
        text = self.left + (self.right.rjust(width - len(self.left)) if len(self.right) <= room else "")
        return strip(text, width, Style(bold=True))


class TreePane(Widget, can_focus=True):
    """The tree of the last steps."""

    DEFAULT_CSS = "TreePane { height: 1fr; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "Up", id="live.up", show=False),
        Binding("down", "move(1)", "Down", id="live.down", show=False),
        Binding("pageup", "page(-1)", "Page up", id="live.page_up", show=False),
        Binding("pagedown", "page(1)", "Page down", id="live.page_down", show=False),
        Binding("home,g", "move(-1000000)", "First", id="live.first", show=False),
        Binding("end,G", "move(1000000)", "Last", id="live.last", show=False),
        Binding("left,h", "open(False)", "Close", id="live.close", show=False),
        Binding("right", "open(True)", "Open", id="live.open", show=False),
        Binding("space", "turn", "Open or close", id="live.toggle", show=False),
    ]

    def __init__(self, tree: LiveTree) -> None:
        super().__init__(id="tree")
        self.calls = tree
        self.trend = True
        self._first = 0

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        if not y:
            return strip("   " + words.tree_head(self.calls, width - 3, trend=self.trend), width, _HEAD)
        visible = self.calls.visible
        if y == 1:
            self._scroll()
        at = self._first + y - 1
        if at >= len(visible):
            return strip("" if visible or y > 1 else "  no call has been written yet", width)
        row = visible[at]
        chosen = self.calls.rows[row].path == self.calls.cursor
        text = words.tree_row(self.calls, row, width - 3, trend=self.trend)
        return strip(
            f"{'>>' if chosen else '  '} {text}", width, _CURSOR if chosen and self.has_focus else None
        )

    def _scroll(self) -> None:
        """Keep the cursor among the lines that are seen."""
        height = max(self.size.height - 1, 1)
        at = self.calls.position()
        self._first = min(max(self._first, at - height + 1), at)
        self._first = max(min(self._first, len(self.calls.visible) - height), 0)

    def action_move(self, by: int) -> None:
        self.calls.move(by)
        self.refresh()

    def action_page(self, by: int) -> None:
        self.action_move(by * max(self.size.height - 2, 1))

    def action_open(self, value: bool) -> None:
        if self.calls.visible:
            row = self.calls.visible[self.calls.position()]
            over = self.calls.rows[row].parent
            if not value and over >= 0 and not (self.calls.is_open(row) and self.calls.has_children(row)):
                self.calls.cursor = self.calls.rows[over].path
            else:
                self.calls.set_open(row, value)
            self.refresh()

    def action_turn(self) -> None:
        if self.calls.visible:
            row = self.calls.visible[self.calls.position()]
            self.calls.set_open(row, not self.calls.is_open(row))
            self.refresh()

    def on_click(self, event: events.Click) -> None:
        at = self._first + event.y - 1
        if event.y and at < len(self.calls.visible):
            self.calls.cursor = self.calls.rows[self.calls.visible[at]].path
            self.refresh()

    def on_mouse_scroll_down(self) -> None:
        self.action_move(3)

    def on_mouse_scroll_up(self) -> None:
        self.action_move(-3)


class StepsPane(Widget):
    """Bars of the last steps."""

    DEFAULT_CSS = "StepsPane { height: auto; }"

    def __init__(self, tree: LiveTree, *, ascii: bool) -> None:
        super().__init__(id="steps")
        self.calls = tree
        self._ascii = ascii
        self._lines: list[str] = []

    def put(self) -> None:
        """Bring it up to date."""
        self._lines = words.step_lines(self.calls, max(self.size.width, 20), ascii=self._ascii)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        return strip(self._lines[y] if y < len(self._lines) else "", self.size.width)


class OutputPane(Widget, can_focus=True):
    """What the script prints."""

    DEFAULT_CSS = "OutputPane { height: 1fr; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "scroll(1)", "Up", id="output.up", show=False),
        Binding("down", "scroll(-1)", "Down", id="output.down", show=False),
        Binding("pageup", "page(1)", "Page up", id="output.page_up", show=False),
        Binding("pagedown", "page(-1)", "Page down", id="output.page_down", show=False),
        Binding("home,g", "scroll(1000000)", "First", id="output.first", show=False),
        Binding("end,G", "scroll(-1000000)", "Last", id="output.last", show=False),
    ]

    def __init__(self, lines: Scrollback | None) -> None:
        super().__init__(id="output")
        self.lines = lines
        self._above = 0
        self._shown: list[str] = []

    def render_line(self, y: int) -> Strip:
        width, height = self.size.width, max(self.size.height - 1, 1)
        if not y:
            last = [] if self.lines is None else self.lines.last(height, self._above)
            # A line that is too long goes on below, or the end of an error would not be seen.
            self._shown = [piece for line in last for piece in chop_cells(line, width) or [""]][-height:]
            more = f"  {self._above} lines below: end" if self._above else ""
            title = (
                "output"
                if self.lines is not None
                else "output is in the terminal that the script was started in"
            )
            return strip(title + more, width, _CURSOR if self.has_focus else _HEAD)
        return strip(fit(self._shown[y - 1], width) if y <= len(self._shown) else "", width)

    def action_scroll(self, by: int) -> None:
        if self.lines is not None:
            most = max(len(self.lines) - max(self.size.height - 1, 1), 0)
            self._above = min(max(self._above + by, 0), most)
            self.refresh()

    def action_page(self, by: int) -> None:
        self.action_scroll(by * max(self.size.height - 2, 1))

    def on_mouse_scroll_down(self) -> None:
        self.action_scroll(-3)

    def on_mouse_scroll_up(self) -> None:
        self.action_scroll(3)
