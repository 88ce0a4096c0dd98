"""Lines of one row: the head of a screen, what is selected, and the line to type a search into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input

from modtrace.text import fit, pad, width
from modtrace.views.tui.line_list import strip, wrapped
from modtrace.views.tui.styles import Piece

VIEWS = ("Hot", "Findings", "Tree", "Flame", "Steps", "Memory", "Ops")
_SHORT_VIEWS = ("Hot", "Find", "Tree", "Flame", "Steps", "Mem", "Ops")
HOT, FINDINGS, TREE, FLAME, STEPS, MEMORY, OPS = range(1, 8)
"""The numbers of the views, and the keys that show them."""


class OneLine(Widget):
    """One line of pieces."""

    DEFAULT_CSS = "OneLine { height: 1; }"

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.pieces: Sequence[Piece] = ()

    def put(self, pieces: Sequence[Piece]) -> None:
        """Show other pieces."""
        before = self._columns
        self.pieces = pieces
        # A layout draws the whole screen anew.
        self.refresh(
            layout=self.styles.width is not None and self.styles.width.is_auto and self._columns != before
        )

    def get_content_width(self, container: object, viewport: object) -> int:
        del container, viewport
        return self._columns

    @property
    def _columns(self) -> int:
        return sum(width(text) for text, _ in self.pieces)

    def render_line(self, y: int) -> Strip:
        del y
        dark = self.app.current_theme.dark
        return strip(self.pieces, self.size.width, dark=dark).apply_style(self.rich_style)


class HeadLine(Widget):
    """The name of the program, what is open, and the views; a click on a view goes there."""

    DEFAULT_CSS = "HeadLine { height: 1; dock: top; }"

    def __init__(self, view: int) -> None:
        super().__init__()
        self.view = view
        self.title = ""
        self.right = ""

    def put(self, title: str, right: str) -> None:
        """Show another title."""
        self.title, self.right = title, right
        self.refresh()

    def render_line(self, y: int) -> Strip:
        del y
        room = self.size.width
        tabs = self._tabs()
        tail = f"  {self.right} " if self.right else " "
        taken = sum(width(text) for text, _ in tabs) + width(tail)
        name = " modtrace " if room >= 100 else " "
        title_text = fit(f"{name}{self.title}", max(room - taken - 1, 0))
        space = " " * max(room - taken - width(title_text), 0)
        pieces = [(title_text, "bold"), (space, ""), *tabs, (tail, "dim")]
        return strip(pieces, room, dark=self.app.current_theme.dark).apply_style(self.rich_style)

    def _tabs(self) -> list[Piece]:
        """A piece a view. The view that is shown is in brackets too, for terminals without reverse."""
        pieces: list[Piece] = []
        names = VIEWS if self.size.width >= 90 else _SHORT_VIEWS
        for number, name in enumerate(names, start=1):
            before = "[" if number == self.view else "" if number - 1 == self.view else " "
            behind = "]" if number == self.view else ""
            pieces.append((f"{before}{number}{name}{behind}", "bold cursor" if number == self.view else ""))
        return pieces

    def on_click(self, event: events.Click) -> None:
        tabs = self._tabs()
        tail = width(f"  {self.right} ") if self.right else 1
        column = self.size.width - tail - sum(width(text) for text, _ in tabs)
        for number, (text, _) in enumerate(tabs, start=1):
            if column <= event.x < column + width(text):
                self.app.call_later(self.app.run_action, f"view({number})")
                return
            column += width(text)


class Banner(Widget):
    """The end of a run that did not end well: a few lines, none of a run that did."""

    DEFAULT_CSS = "Banner { height: auto; } Banner.-empty { display: none; }"
    LOW = 18
    """Lines of a terminal below which there is one line only."""

    def __init__(self) -> None:
        super().__init__(classes="-empty")
        self.texts: Sequence[str] = ()

    def put(self, texts: Sequence[str]) -> None:
        """Show other texts."""
        if list(texts) != list(self.texts):
            self.texts = list(texts)
            self.set_class(not self.texts, "-empty")
            self.refresh(layout=True)

    def lines(self, room: int) -> list[str]:
        """The texts in so many columns: each broken once at most, the first alone where the terminal is low."""
        if self.app.size.height < self.LOW:
            return [fit(f" ! {self.texts[0]}", room)] if self.texts else []
        lines: list[str] = []
        for number, text in enumerate(self.texts):
            mark = " ! " if not number else "   "
            first, *others = wrapped(text, max(room - 4, 10)) or [""]
            lines.append(fit(mark + first, room))
            lines += [fit(f"   {' '.join(others)}", room)] if others else []
        return lines

    def get_content_height(self, container: object, viewport: object, width: int) -> int:
        del container, viewport
        return len(self.lines(width))

    def render_line(self, y: int) -> Strip:
        room = self.size.width
        lines = self.lines(room)
        pieces = [(pad(lines[y] if y < len(lines) else "", room), "error")]
        return strip(pieces, room, dark=self.app.current_theme.dark).apply_style(self.rich_style)


class AskBar(Horizontal):
    """A line to type into: a search, a filter, a path. Hidden until `ask`."""

    DEFAULT_CSS = """
    AskBar { height: 1; display: none; }
    AskBar OneLine { width: auto; }
    AskBar Input { width: 1fr; height: 1; border: none; padding: 0; background: transparent; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel", id="ask.cancel"),
        Binding("up", "earlier", "Earlier", id="ask.earlier", show=False),
    ]

    class Typed(Message):
        """The text is another one."""

        def __init__(self, purpose: str, text: str) -> None:
            self.purpose, self.text = purpose, text
            super().__init__()

    class Entered(Typed):
        """Enter was pressed."""

    class Cancelled(Typed):
        """Escape was pressed."""

    def __init__(self) -> None:
        super().__init__()
        self.purpose = ""
        self._last: dict[str, str] = {}

    def compose(self) -> ComposeResult:
        yield OneLine(id="ask_what")
        yield Input(compact=True, select_on_focus=False)
        yield OneLine(id="ask_said")

    def ask(self, purpose: str, prompt: str, text: str) -> None:
        """Ask for something; `purpose` comes back in the messages."""
        self.purpose = purpose
        self.query_one("#ask_what", OneLine).put([(f" {prompt}", "bold")])
        self.say("")
        entry = self.query_one(Input)
        with entry.prevent(Input.Changed):
            entry.value = text
        entry.cursor_position = len(text)
        self.display = True
        # At once: `focus` comes after what is typed quickly, which would be keys of the tree then.
        self.screen.set_focus(entry)

    @property
    def entry(self) -> Input:
        """The line itself."""
        return self.query_one(Input)

    def say(self, text: str, *, trouble: bool = False) -> None:
        """Show something behind what is typed."""
        self.query_one("#ask_said", OneLine).put([(f" {text} ", "warn" if trouble else "dim")])

    def close(self) -> None:
        """Hide it."""
        self.display = False

    @property
    def is_open(self) -> bool:
        return bool(self.display)

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        if self.is_open:
            self.post_message(self.Typed(self.purpose, event.value))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._last[self.purpose] = event.value
        self.post_message(self.Entered(self.purpose, event.value))

    def action_cancel(self) -> None:
        self.post_message(self.Cancelled(self.purpose, self.query_one(Input).value))

    def action_earlier(self) -> None:
        """Take what was entered before."""
        earlier = self._last.get(self.purpose)
        if earlier:
            entry = self.query_one(Input)
            entry.value = earlier
            entry.cursor_position = len(earlier)
