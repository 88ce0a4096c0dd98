"""The seventh view: functions, operators and kernels where they were recorded, speeds, and what each module does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from textual.app import ComposeResult
from textual.worker import Worker, WorkerState

from modtrace.analysis.filters import parse
from modtrace.filter_language import Filter
from modtrace.text import plain
from modtrace.views.models.csv_sheet import Sheet, Value
from modtrace.views.models.op_rows import SHARE_UNIT, checked, ops_of
from modtrace.views.tui.base_screen import View
from modtrace.views.tui.line_list import LineList
from modtrace.views.tui.op_lines import SORTS, OpLines
from modtrace.views.tui.row_table import RowTable, TextLines
from modtrace.views.tui.row_table_keys import TableKeys
from modtrace.views.tui.tree_lines import filtered

ABOUT = (
    "Functions and operators, as far as they were recorded; how fast modules compute beside what their device was "
    "measured to reach (modtrace device); the operations of each module. A filter and a search look at the operations "
    "too: f addmm. s or a click on a head sorts within each section. Enter goes to the module in the tree."
)


class OpsScreen(TableKeys, View):
    """Made in the background when it is first looked at; enter goes to the module in the tree."""

    NUMBER = 7
    PANE_HELP: ClassVar[Mapping[str, str]] = {"ops": ABOUT}
    DEFAULT_CSS = "OpsScreen #ops { border: round $primary; } OpsScreen #ops:focus { border: round $accent; }"

    def __init__(self) -> None:
        super().__init__()
        self.lines = OpLines([])

    def body(self) -> ComposeResult:
        yield RowTable(TextLines([]), keys=SORTS, id="ops")

    @property
    def table(self) -> RowTable:
        return self.query_one("#ops", RowTable)

    def on_mount(self) -> None:
        super().on_mount()
        self.rank_changed()
        self.table.focus()

    def parsed(self, text: str) -> Filter:
        return checked(parse(text))

    def passing_text(self) -> str:
        return filtered(self.table.model, "")

    def rank_changed(self) -> None:
        self.head()
        self.hits = None
        self.table.use(TextLines([[("  reading ...", "dim")]]))
        self.table.border_title = "Ops"
        rank = self.rank
        self.run_worker(lambda: ops_of(rank), thread=True, exclusive=True, name="ops", exit_on_error=False)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.worker.name != "ops":
            return
        if event.state is WorkerState.SUCCESS:
            self._use(OpLines(event.worker.result or [], self.rank.part.rank))
        elif event.state is WorkerState.ERROR:
            text = plain(str(event.worker.error), 200)
            self.table.use(TextLines([[(f"  cannot be shown: {text}", "warn")]]))

    def _use(self, lines: OpLines) -> None:
        """Show rows, in the order and with the filter of those before."""
        before, self.lines = self.lines, lines
        if not len(lines):
            self.table.use(TextLines([[(f"  {self.rank.why_nothing}", "")]]))
        else:
            lines.tree.sort(before.tree.key, descending=before.tree.descending)
            if self.filter_text:
                lines.tree.set_filter(self.parsed(self.filter_text))
            lines.tree.cursor = 0
            self.table.use(lines)
        self.show_selected()

    def show_selected(self) -> None:
        """Put hits, or what a filter lets through, into the title."""
        model = self.table.model
        parts = [f"Ops  {int(model.nodes.rows.candidates.sum()):,} rows"]
        if self.hits is not None:
            parts.append(f"hit {model.hit_number(self.hits):,} of {int(self.hits.sum()):,}")
        elif model.filter:
            parts.append(f"filter: {self.passing_text()}  F takes it off")
        parts += [f"sort:{model.key}"] if model.key != "order" else []
        parts += [] if self.rank.has_functions else [" modtrace run --functions records functions too"]
        self.table.border_title = "  ".join(parts)

    def say_hits(self, text: str) -> None:
        del text  # it is in the title
        self.show_selected()

    def no_hits(self) -> None:
        super().no_hits()
        self.show_selected()

    def on_row_table_changed(self, event: RowTable.Changed) -> None:
        del event
        self.show_selected()

    def on_line_list_chosen(self, event: LineList.Chosen) -> None:
        del event
        lines = self.table.lines
        op = lines.op_at(self.table.cursor) if isinstance(lines, OpLines) and len(lines) else None
        if op is not None and not op.is_remark:
            self.viewer.go_to(op.name, op.type)

    def sheet(self) -> Sheet | None:
        ops = [self.lines.op_at(row) for row in range(len(self.lines))]
        rows: list[list[Value]] = [
            [
                op.section, op.name, op.type, op.calls, op.spent_ns, op.flops, op.flops_per_s,
                None if op.reached is None else f"{op.reached / SHARE_UNIT:.4f}", op.description,
            ]
            for op in ops
            if op is not None and not op.is_remark
        ]  # fmt: skip
        columns = ["section", "name", "type", "calls", "self_ns", "flops", "flops_per_s", "reached", "what"]
        return Sheet("ops", columns, rows)
