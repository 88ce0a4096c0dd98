"""Screens over others: what is known of a node, and the keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import ActiveBinding, Binding, BindingType
from textual.screen import ModalScreen

from modtrace.text import fit, pad
from modtrace.views.tui.line_list import FixedLines, LineList, wrapped
from modtrace.views.tui.styles import Piece


class Popup(ModalScreen[None]):
    """Lines over the screen below; escape, enter and q close it."""

    DEFAULT_CSS = """
    Popup { align: center middle; }
    Popup LineList { width: 90%; height: 90%; border: round $primary; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q,question_mark,f1", "app.pop_screen", "Close", id="popup.close"),
    ]

    def __init__(self, title: str, lines: Callable[[int], Sequence[Sequence[Piece]]]) -> None:
        """`lines` gives the lines for a width."""
        super().__init__()
        self.heading = title
        self.make = lines

    def compose(self) -> ComposeResult:
        yield LineList(FixedLines([]), has_cursor=False)

    def on_mount(self) -> None:
        listed = self.query_one(LineList)
        listed.border_title = fit(self.heading, 60).replace("[", "\\[")
        listed.border_subtitle = "esc closes"
        listed.focus()
        self.call_after_refresh(self._fill)

    def on_resize(self) -> None:
        self.call_after_refresh(self._fill)

    def _fill(self) -> None:
        listed = self.query_one(LineList)
        lines = self.make(max(listed.columns - 1, 20))  # a bar to scroll with may come
        listed.styles.height = min(len(lines) + 2, max(self.app.size.height - 2, 3))
        listed.show(FixedLines(lines))


class HelpScreen(Popup):
    """The keys that do something now, those of the pane first."""

    def __init__(self, about: str, bindings: Sequence[ActiveBinding]) -> None:
        self.about = about
        self.bindings_shown = bindings
        super().__init__("Keys", self._lines)

    def _lines(self, width: int) -> list[list[Piece]]:
        lines: list[list[Piece]] = [[(text, "")] for text in wrapped(self.about, width)]
        rows: dict[str, tuple[list[str], str]] = {}
        for active in self.bindings_shown:
            binding = active.binding
            if not binding.id or not binding.description:  # those of Textual itself have no names
                continue
            key = binding.id or binding.description
            keys, _ = rows.setdefault(key, ([], binding.description))
            shown = self.app.get_key_display(binding)
            if shown not in keys:
                keys.append(shown)
        if lines:
            lines.append([])
        wide = width >= 56
        lines.append(
            [(pad("key", 17) + pad("what it does", 24) + ("name in keys.toml" if wide else ""), "head")]
        )
        for name, (keys, text) in rows.items():
            shown = pad(" ".join(keys), 16)
            lines.append([(shown, "bold"), (" " + pad(text, 24), ""), (name if wide else "", "dim")])
        lines += [[], [("ctrl+p is the palette: all commands, themes.", "dim")]]
        lines += [[("keys.toml gives keys other names: docs/viewer.md.", "dim")]]
        return lines
