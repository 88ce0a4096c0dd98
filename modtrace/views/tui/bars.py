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

from modtrace.text import fit, width
from modtrace.views.tui.lines import strip
from modtrace.views.tui.look import Piece

VIEWS = ("Tree", "Flame", "Steps", "Memory", "Ops")


class OneLine(Widget):
    """One line of pieces."""

    DEFAULT_CSS = "OneLine { height: 1; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
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
        left = fit(f"{name}{self.title}", max(room - taken - 1, 0))
        space = " " * max(room - taken - width(left), 0)
        pieces = [(left, "bold"), (space, ""), *tabs, (tail, "dim")]
        return strip(pieces, room, dark=self.app.current_theme.dark).apply_style(self.rich_style)

    def _tabs(self) -> list[Piece]:
        pieces: list[Piece] = []
        names = VIEWS if self.size.width >= 70 else [name[:3] for name in VIEWS]
        for at, name in enumerate(names, start=1):
            chosen = at == self.view
            # The view that is shown is in brackets too, for terminals without reverse.
            pieces.append((f"[{at}{name}]" if chosen else f" {at}{name} ", "bold cursor" if chosen else ""))
        return pieces

    def on_click(self, event: events.Click) -> None:
        tabs = self._tabs()
        tail = width(f"  {self.right} ") if self.right else 1
        at = self.size.width - tail - sum(width(text) for text, _ in tabs)
        for number, (text, _) in enumerate(tabs, start=1):
            if at <= event.x < at + width(text):
                self.app.call_later(self.app.run_action, f"view({number})")
                return
            at += width(text)


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

        def __init__(self, what: str, text: str) -> None:
            self.what, self.text = what, text
            super().__init__()

    class Entered(Typed):
        """Enter was pressed."""

    class Cancelled(Typed):
        """Escape was pressed."""

    def __init__(self) -> None:
        super().__init__()
        self.what = ""
        self._last: dict[str, str] = {}

    def compose(self) -> ComposeResult:
        yield OneLine(id="ask_what")
        yield Input(compact=True, select_on_focus=False)
        yield OneLine(id="ask_said")

    def ask(self, what: str, prompt: str, text: str) -> None:
        """Ask for something; `what` comes back in the messages."""
        self.what = what
        self.query_one("#ask_what", OneLine).put([(f" {prompt}", "bold")])
        self.say("")
        entry = self.query_one(Input)
        with entry.prevent(Input.Changed):
            entry.value = text
        entry.cursor_position = len(text)
        self.display = True
        # At once: `focus` comes after what is typed quickly, which would be keys of the tree then.
        self.screen.set_focus(entry)

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
            self.post_message(self.Typed(self.what, event.value))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._last[self.what] = event.value
        self.post_message(self.Entered(self.what, event.value))

    def action_cancel(self) -> None:
        self.post_message(self.Cancelled(self.what, self.query_one(Input).value))

    def action_earlier(self) -> None:
        """Take what was entered before."""
        earlier = self._last.get(self.what)
        if earlier:
            entry = self.query_one(Input)
            entry.value = earlier
            entry.cursor_position = len(earlier)
