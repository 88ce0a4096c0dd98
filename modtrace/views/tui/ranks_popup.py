"""The ranks of a job over the screen below: what each spends a step in, and the way to one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen
from textual.worker import Worker, WorkerState

from modtrace.analysis.ranks.heat_map import HeatColumn, HeatMap, heat_map
from modtrace.analysis.ranks.rank_report import RankReport, rank_report
from modtrace.text import fit, pad, plain
from modtrace.trace.reader import Stored
from modtrace.units import duration
from modtrace.views.ranks import SIGNS, remarks
from modtrace.views.tui.line_list import FixedLines, LineList
from modtrace.views.tui.styles import Piece

_CELL: Final = 11
_NAME: Final = 7
_MANY_REMARKS: Final = 3
_MOST_MODULES: Final = 12


class RanksPopup(ModalScreen[str]):
    """A line a rank; enter and a double click choose one, whose folder is the result. None where none was chosen."""

    DEFAULT_CSS = """
    RanksPopup { align: center middle; }
    RanksPopup LineList { width: 96%; height: 90%; border: round $primary; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,b", "dismiss", "Close", id="ranks.close"),
    ]

    def __init__(self, stored: Stored, folder: str) -> None:
        """`folder` is that of the process that is shown, where the cursor begins."""
        super().__init__()
        self.stored = stored
        self.folder = folder
        self.report: RankReport | None = None
        self.folders: list[str] = []

    def compose(self) -> ComposeResult:
        yield LineList(FixedLines([[("  reading ...", "dim")]]))

    def on_mount(self) -> None:
        listed = self.query_one(LineList)
        listed.border_title = "Ranks: a step of each, median"
        listed.border_subtitle = "enter shows a rank, esc closes"
        listed.focus()
        self.run_worker(lambda: rank_report(self.stored), thread=True, name="ranks", exit_on_error=False)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.state is WorkerState.SUCCESS:
            self.report = event.worker.result
            self._fill()
        elif event.state is WorkerState.ERROR:
            text = plain(str(event.worker.error), 200)
            self.query_one(LineList).show(FixedLines([[(f"  cannot be shown: {text}", "warn")]]))

    def on_resize(self) -> None:
        self.call_after_refresh(self._fill)

    def _fill(self) -> None:
        if self.report is None:
            return
        listed = self.query_one(LineList)
        heat = heat_map(self.report, _MOST_MODULES)
        lines = rank_lines(heat, remarks(self.report), max(listed.columns - 1, 20))
        self.folders = [rank.folder for rank in heat.ranks]
        cursor = self.folders.index(self.folder) if self.folder in self.folders else 0
        listed.show(lines, cursor=cursor)

    def on_line_list_chosen(self, event: LineList.Chosen) -> None:
        row = event.source.cursor
        if row < len(self.folders):
            self.dismiss(self.folders[row])


def rank_lines(heat: HeatMap, texts: Sequence[str], width: int) -> FixedLines:
    """Lines of a width: one a rank, then what is wrong with them. As many modules have a column as fit."""
    columns = [*heat.phases, *heat.modules][: max((width - _NAME) // _CELL, 1)]
    head: list[Piece] = [(pad("rank", _NAME), "head")]
    head += [
        (f"{fit(_short(column.title), _CELL - 2, keep_end=True):>{_CELL - 1}} ", "head") for column in columns
    ]
    lines: list[list[Piece]] = []
    for row, rank in enumerate(heat.ranks):
        lines.append([(pad(str(rank.rank), _NAME), "bold"), *(_cell(column, row) for column in columns)])
    shown = [f"  ! {plain(text)}" for text in texts[:_MANY_REMARKS]]
    shown.append("  - + * #: from 5, 10, 25 and 50% more than usual on; modules: own time")
    lines += [[], *([(fit(text, width), "" if "!" in text else "dim")] for text in shown)]
    return FixedLines(lines, head)


def _short(title: str) -> str:
    """`module.2 forward` as `module.2 fwd`: the end of a heading is what fits."""
    return plain(title).replace(" forward", " fwd").replace(" backward", " bwd")


def _cell(column: HeatColumn, row: int) -> Piece:
    """A time, with the sign of its level: terminals may have no colors."""
    spent_ns, level = column.times_ns[row], column.levels[row]
    text = "?" if spent_ns is None else duration(spent_ns)
    return f"{text:>{_CELL - 1}}{SIGNS[level] if level else ' '}", f"heat{level}" if level else ""
