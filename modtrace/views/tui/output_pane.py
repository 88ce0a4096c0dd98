"""The pane with what a script prints while it is looked at. Only the lines that are seen are made."""

from __future__ import annotations

from typing import ClassVar

from rich.cells import chop_cells
from textual.binding import Binding, BindingType
from textual.strip import Strip
from textual.widget import Widget

from modtrace.text import fit
from modtrace.views.live.scrollback import Scrollback
from modtrace.views.tui.line_list import strip


class OutputPane(Widget, can_focus=True):
    """The output of the script."""

    HELP = "What the script prints. It stays at the end unless you scroll up; t shows it alone."
    DEFAULT_CSS = "OutputPane { height: 1fr; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "scroll(1)", "Up", id="output.up", show=False),
        Binding("down,j", "scroll(-1)", "Down", id="output.down", show=False),
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
            below = f"  {self._above} lines below: end" if self._above else ""
            title = (
                "output"
                if self.lines is not None
                else "output is in the terminal that the script was started in"
            )
            pieces = [(fit(title + below, width), "cursor" if self.has_focus else "head")]
        else:
            pieces = [(fit(self._shown[y - 1], width) if y <= len(self._shown) else "", "")]
        return strip(pieces, width, dark=self.app.current_theme.dark).apply_style(self.rich_style)

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
