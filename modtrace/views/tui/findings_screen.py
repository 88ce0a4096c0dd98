"""The second view: what is worth a look, what to do about it, and what is missing in the trace."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult

from modtrace.analysis.findings import Finding
from modtrace.text import pad
from modtrace.units import plural
from modtrace.views.models.csv_sheet import Sheet, Value
from modtrace.views.models.finding_rows import Remark, RemarkLine, remark_lines, remarks
from modtrace.views.models.hot_rows import HotRows, hot_rows
from modtrace.views.tui.base_screen import View
from modtrace.views.tui.line_list import FixedLines, LineList
from modtrace.views.tui.styles import Piece


class RemarkLines:
    """Lines of remarks; the first line of the one under the cursor is marked."""

    def __init__(self, shown: Sequence[Remark], hot: HotRows, width: int) -> None:
        self.remarks = list(shown)
        self.rows: list[RemarkLine] = remark_lines(shown, hot, width)
        self.first = [
            row
            for row, line in enumerate(self.rows)
            if not row or (line.text and self.rows[row - 1].remark != line.remark)
        ]
        self.cursor = 0

    def __len__(self) -> int:
        return len(self.rows)

    def head(self, width: int) -> Sequence[Piece] | None:
        del width
        return None

    def line(self, row: int, width: int) -> Sequence[Piece]:
        shown = self.rows[row]
        mark = ">>" if row in self.first and shown.remark == self.cursor else "  "
        tone = "warn" if shown.tone == "bold" and shown.text.startswith("    !") else shown.tone
        return [(mark, "bold"), (pad(shown.text[2:], max(width - 2, 0)), tone)]


class RemarkList(LineList):
    """The cursor goes from remark to remark."""

    HELP = "What is worth a look, the most important first, and what to do. Enter goes to the module that is named."

    def show_remarks(self, lines: RemarkLines) -> None:
        """Show remarks, with the cursor on that which it was on."""
        number = min(lines.cursor, max(len(lines.first) - 1, 0))
        self.show(lines, cursor=lines.first[number] if lines.first else 0)

    @property
    def remark(self) -> int:
        """The number of the remark under the cursor, -1 for none."""
        lines = self.lines
        return lines.cursor if isinstance(lines, RemarkLines) and lines.first else -1

    def action_move(self, by: int) -> None:
        self._to(self.remark + (1 if by > 0 else -1))

    def action_page(self, by: int) -> None:
        self._to(self.remark + 3 * by)

    def action_go(self, row: int) -> None:
        self._to(row if row >= 0 else 1 << 30)

    def clicked(self, row: int, column: int) -> None:
        del column
        if isinstance(self.lines, RemarkLines):
            self._to(self.lines.rows[row].remark)

    def _to(self, number: int) -> None:
        lines = self.lines
        if not isinstance(lines, RemarkLines) or not lines.first:
            return
        lines.cursor = min(max(number, 0), len(lines.first) - 1)
        # All of its lines are to be seen, if they fit.
        last = max(row for row, line in enumerate(lines.rows) if line.remark == lines.cursor and line.text)
        self.move_to(last)
        self.move_to(lines.first[lines.cursor])
        self.refresh()


class FindingsScreen(View):
    """Findings, which the application makes in the background."""

    NUMBER = 2
    DEFAULT_CSS = """
    FindingsScreen #findings { border: round $primary; }
    FindingsScreen #findings:focus { border: round $accent; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Remark] | None = None

    def body(self) -> ComposeResult:
        yield RemarkList(FixedLines([]), id="findings")

    @property
    def listed(self) -> RemarkList:
        return self.query_one("#findings", RemarkList)

    @property
    def findings(self) -> list[Finding]:
        return self.viewer.findings or []

    @property
    def hot(self) -> HotRows:
        return hot_rows(self.rank.part, self.rank.profile())

    def on_mount(self) -> None:
        super().on_mount()
        self.listed.focus()
        self.listed.border_title = "Findings"
        self.findings_changed()

    def findings_changed(self) -> None:
        fault = self.viewer.findings_fault
        if self.viewer.findings is None:
            self.listed.show(FixedLines([[("  looking ...", "dim")]]))
        elif fault:
            self.listed.show(FixedLines([[(f"  cannot be shown: {fault}", "warn")]]))
        else:
            self._use()

    def rank_changed(self) -> None:
        self.head()
        if self.shown is not None:
            self._use()

    def fitted(self) -> None:
        super().fitted()
        if self.shown is not None:
            self.call_after_refresh(self._draw)

    def _use(self) -> None:
        self.shown = remarks(self.findings, self.rank.notes, self.hot)
        notes = len(self.rank.notes)
        title = f"Findings  {len(self.findings)}" + (f"   {plural(notes, 'note')}" if notes else "")
        self.listed.border_title = title
        self._draw()

    def _draw(self) -> None:
        if not self.shown:
            self.listed.show(FixedLines([[("  nothing is worth a look: no rule has anything to say", "")]]))
            return
        lines = RemarkLines(self.shown, self.hot, max(self.listed.columns, 20))
        lines.cursor = max(self.listed.remark, 0)
        self.listed.show_remarks(lines)

    def on_line_list_chosen(self, event: LineList.Chosen) -> None:
        del event
        number = self.listed.remark
        node = self.shown[number].node if self.shown and number >= 0 else -1
        row = self.hot.row_of(node) if node >= 0 else -1
        if row >= 0:
            self.viewer.go_to_row(row)
        else:
            self.app.notify("it names no module", markup=False)

    def sheet(self) -> Sheet | None:
        rows: list[list[Value]] = [
            [finding.rule, finding.text, finding.remedy, finding.won_ns] for finding in self.findings
        ]
        return Sheet("findings", ["rule", "text", "remedy", "won_ns"], rows)
