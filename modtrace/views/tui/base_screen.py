"""The base of all screens: head, line to type into, footer, one line where all is too small."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Footer

from modtrace.text import plain
from modtrace.units import plural
from modtrace.views.models.csv_sheet import Sheet, free_path, write
from modtrace.views.models.trouble import trouble_texts
from modtrace.views.models.viewer_model import Rank, ViewerModel
from modtrace.views.tui.bars import AskBar, Banner, HeadLine, OneLine
from modtrace.views.tui.line_list import wrapped
from modtrace.views.tui.popups import HelpScreen, Popup
from modtrace.views.tui.viewer_app import ViewerApp

LEAST = (60, 12)
WIDE = (120, 24)
ROOMY = 76
"""Columns from which the footer has room for the palette beside the keys."""


class BaseScreen(Screen[None]):
    """A screen of the one application: what all have in common. Subclasses give `heading` and `body`, and what they
    have to search, export, and go back from.
    """

    PANE_HELP: ClassVar[Mapping[str, str]] = {}
    """About panes, by their ids, in place of what they say of themselves."""
    DEFAULT_CSS = """
    BaseScreen #small { display: none; }
    BaseScreen.-small > * { display: none !important; }
    BaseScreen.-small > #small { display: block !important; }
    BaseScreen Footer { background: transparent; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "app.focus_next", "Next pane", id="view.next_pane", show=False),
        Binding("shift+tab", "app.focus_previous", "Previous pane", id="view.previous_pane", show=False),
        Binding("z", "maximised", "Maximise pane", id="view.maximise", show=False),
        Binding("escape", "back", "Back", id="view.back", show=False),
        Binding("x", "export", "Export what is shown", id="view.export", show=False),
        Binding("exclamation_mark", "notes", "What is missing", id="view.notes", show=False),
        Binding("question_mark,f1", "help", "Help", id="view.help"),
    ]

    def compose(self) -> ComposeResult:
        yield from self.heading()
        yield from self.body()
        yield AskBar()
        yield OneLine(id="small")
        yield Footer(compact=True, show_command_palette=True)

    def heading(self) -> ComposeResult:
        """The line above all panes."""
        yield from ()

    def body(self) -> ComposeResult:
        """The panes between head and footer."""
        yield from ()

    @property
    def ask_bar(self) -> AskBar:
        return self.query_one(AskBar)

    @property
    def notes(self) -> list[str]:
        """Gaps and faults of the trace."""
        return []

    @property
    def trace_path(self) -> Path:
        """The trace that is shown."""
        raise NotImplementedError

    def on_mount(self) -> None:
        self.query_one("#small", OneLine).put([("terminal too small (60x12 needed)", "")])
        self.fitted()

    def on_resize(self) -> None:
        self.fitted()

    def on_screen_resume(self) -> None:
        self.head()

    def fitted(self) -> None:
        """Choose the layout for the size of the terminal."""
        size = self.app.size
        self.set_class(size.width < LEAST[0] or size.height < LEAST[1], "-small")
        self.query_one(Footer).show_command_palette = size.width >= ROOMY
        self.set_class(size.width >= WIDE[0] and size.height >= WIDE[1], "-wide")
        self.head()

    @property
    def is_wide(self) -> bool:
        return self.has_class("-wide")

    def head(self) -> None:
        """Write the title."""

    def sheet(self) -> Sheet | None:
        """The rows and columns of the screen, to be exported."""
        return None

    def action_back(self) -> None:
        """Out of what was gone into last."""

    def action_help(self) -> None:
        focused = self.focused
        pane = (focused.id or "") if focused is not None else ""
        about = self.PANE_HELP.get(pane, getattr(focused, "HELP", ""))
        self.app.push_screen(HelpScreen(about, list(self.active_bindings.values())))

    def action_notes(self) -> None:
        notes = self.notes or ["nothing is missing in this trace"]
        lines = [plain(note, 2000) for note in notes]
        self.app.push_screen(
            Popup("Notes", lambda width: [[(text, "")] for line in lines for text in wrapped(line, width)])
        )

    def action_maximised(self) -> None:
        if self.maximized is not None:
            self.minimize()
        elif self.focused is not None:
            self.maximize(self.focused)

    def action_export(self) -> None:
        sheet = self.sheet()
        if sheet is None or not sheet.rows:
            self.app.notify("nothing here to export", severity="warning", markup=False)
            return
        path = free_path(f"{self.trace_path.stem}-{sheet.name}", ".csv")
        self.ask_bar.ask("export", f"export {len(sheet.rows):,} rows to ", os.fspath(path))

    # The line to type into. Textual calls a handler in every class that has one, so these are the only ones.

    def on_ask_bar_typed(self, event: AskBar.Typed) -> None:
        self.typed(event.purpose, event.text)

    def on_ask_bar_entered(self, event: AskBar.Entered) -> None:
        self.entered(event.purpose, event.text)

    def on_ask_bar_cancelled(self, event: AskBar.Cancelled) -> None:
        self.cancelled(event.purpose)
        self.ask_bar.close()
        self.after_asking()

    def typed(self, purpose: str, text: str) -> None:
        """The text that was asked for has changed."""

    def entered(self, purpose: str, text: str) -> None:
        """The text that was asked for is complete."""
        if purpose == "export":
            self.ask_bar.close()
            sheet = self.sheet()
            if sheet is not None:
                self._write(sheet, text)
            self.after_asking()

    def cancelled(self, purpose: str) -> None:
        """The text that was asked for is not wanted."""

    def after_asking(self) -> None:
        """Give the focus back."""
        self.focus_next()

    def _write(self, sheet: Sheet, path: str) -> None:
        try:
            write(sheet, path)
        except OSError as error:
            self.app.notify(
                f"cannot write {plain(path, 200)}: {error.strerror or error}", severity="error", markup=False
            )
        else:
            self.app.notify(f"wrote {len(sheet.rows):,} rows to {plain(path, 200)}", markup=False)


class View(BaseScreen):
    """One of the views of a trace that is open."""

    NUMBER: ClassVar[int] = 0

    def heading(self) -> ComposeResult:
        yield HeadLine(self.NUMBER)
        yield Banner()

    @property
    def viewer(self) -> ViewerApp:
        return cast("ViewerApp", self.app)

    @property
    def opened(self) -> ViewerModel:
        return self.viewer.opened

    @property
    def rank(self) -> Rank:
        return self.viewer.rank

    @property
    def notes(self) -> list[str]:
        return self.rank.notes

    @property
    def trace_path(self) -> Path:
        return self.opened.path

    def head(self) -> None:
        viewer = self.viewer
        several = self.opened.processes > 1
        right = f"rank {self.rank.part.rank}/{self.opened.processes}" if several else ""
        notes = len(self.notes)
        mark = f"! {plural(notes, 'note')}  " if notes else ""
        title = viewer.changed_on_disk or ""
        self.query_one(HeadLine).put(
            f"{self.opened.title(viewer.process)}{'  ' + title if title else ''}", mark + right
        )
        self.query_one(Banner).put(trouble_texts(self.rank.outcome, self.rank.failure, self.rank.nonfinite))

    def rank_changed(self) -> None:
        """Another process is shown."""

    def step_changed(self) -> None:
        """Another step is shown."""

    def findings_changed(self) -> None:
        """The findings are known now."""

    def window_changed(self) -> None:
        """Numbers are those of the steps that count now, or of the whole run."""
