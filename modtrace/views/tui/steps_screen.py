"""The fifth view: a row a step, and the step under the cursor over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from textual.app import ComposeResult

from modtrace.analysis.filters import parse
from modtrace.analysis.statistics import chosen_steps
from modtrace.filter_language import Filter
from modtrace.units import count, duration
from modtrace.views.models.csv_sheet import Sheet
from modtrace.views.models.nodes import Bools
from modtrace.views.models.step_table import checked
from modtrace.views.tui.bars import TREE
from modtrace.views.tui.base_screen import View
from modtrace.views.tui.flame_chart import FlameChart
from modtrace.views.tui.line_list import LineList
from modtrace.views.tui.row_table import RowTable, TextLines
from modtrace.views.tui.row_table_keys import TableKeys
from modtrace.views.tui.step_lines import StepLines
from modtrace.views.tui.tree_lines import filtered

ABOUT = (
    "A row a step: its time, its phases, its peak of memory. * FLOPs were counted in it, ? it did not come to its end; "
    "steps that are left out of statistics are dim. A filter takes total>50ms, calls, flops, mem, phase:data, step:3 "
    "and the words 'left out' and 'counted'. s or a click on a head sorts."
)


class StepsScreen(TableKeys, View):
    """Steps, and below the calls of the one that is selected; enter goes to it in the tree."""

    NUMBER = 5
    PANE_HELP: ClassVar[Mapping[str, str]] = {"steps": ABOUT}
    DEFAULT_CSS = """
    StepsScreen #steps { border: round $primary; }
    StepsScreen #calls { height: 40%; border: round $primary; }
    StepsScreen #steps:focus { border: round $accent; }
    StepsScreen #calls:focus { border: round $accent; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.lines: StepLines | None = None
        self._drawn = (-1, -1)

    def body(self) -> ComposeResult:
        yield RowTable(TextLines([]), id="steps")
        yield FlameChart(id="calls")

    @property
    def table(self) -> RowTable:
        return self.query_one("#steps", RowTable)

    @property
    def chart(self) -> FlameChart:
        return self.query_one("#calls", FlameChart)

    def on_mount(self) -> None:
        super().on_mount()
        self.rank_changed()
        self.table.focus()

    def parsed(self, text: str) -> Filter:
        return checked(parse(text))

    def passing_text(self) -> str:
        return filtered(self.table.model, "total")

    def rank_changed(self) -> None:
        """Other steps, in the same order and with the same filter."""
        before = self.lines
        lines = self.lines = StepLines(self.rank)
        self.hits = None
        if before is not None and before.key in lines.keys:
            lines.sort(before.key, descending=before.descending)
        if self.filter_text:
            lines.tree.set_filter(self.parsed(self.filter_text))
        lines.tree.cursor = lines.tree.row_of(self.viewer.step) if len(lines) else 0
        self.table.keys = tuple(lines.keys)
        if len(lines.table):
            self.table.use(lines)
        else:
            self.table.use(TextLines([[(f"  there are no steps: {self.rank.why_nothing}", "")]]))
        self.show_selected()
        self.head()

    def step_changed(self) -> None:
        if self.lines is None or not len(self.lines.table):
            return
        model = self.lines.tree
        if model.matches is not None and not model.matches[self.viewer.step] and self.is_current:
            self.viewer.step = self._nearest(model.matches)
        model.reveal(self.viewer.step)
        self.table.synced()
        self.show_selected()

    def _nearest(self, passing: Bools) -> int:
        """The next step in the same direction that the filter lets through; where there is none the one before."""
        wanted, before = self.viewer.step, self._drawn[1]
        steps = np.flatnonzero(passing)
        beyond = steps[steps > wanted] if wanted > before else steps[steps < wanted][::-1]
        return int(beyond[0]) if len(beyond) else before

    def on_line_list_moved(self, event: LineList.Moved) -> None:
        if event.source is self.table:
            self.show_selected()

    def on_row_table_changed(self, event: RowTable.Changed) -> None:
        del event
        self._titles()

    def on_line_list_chosen(self, event: LineList.Chosen) -> None:
        del event
        self.viewer.action_view(TREE)

    def on_flame_chart_moved(self, event: FlameChart.Moved) -> None:
        """Select the call of the box in the tree too."""
        if event.source.selected >= 0:
            self.viewer.tree_screen.select_row(int(event.source.boxes.owner[event.source.selected]))

    def show_selected(self) -> None:
        """The step under the cursor over time, and what the titles say."""
        self._titles()
        step = self.table.model.selected
        if step < 0 or (self.viewer.process, step) == self._drawn:
            return
        self.viewer.step = step
        self._drawn = self.viewer.process, step
        boxes, phase_name = self.rank.timeline_of(step), self.rank.tree("calls").nodes.phase_name
        self.chart.use(boxes.boxes, phase_name, view_start=boxes.start_ns, view_end=boxes.end_ns)
        self.chart.border_title = f"Step {step}   {duration(boxes.end_ns - boxes.start_ns)}"

    def _titles(self) -> None:
        model, lines = self.table.model, self.lines
        if lines is None:
            return
        parts = [f"Steps  {count(len(lines.table))}"]
        if self.hits is not None:
            parts.append(f"hit {model.hit_number(self.hits):,} of {int(self.hits.sum()):,}")
        elif model.filter:
            parts.append(f"filter: {self.passing_text()}  F takes it off")
        parts.append(f"counted: {chosen_steps(self.rank.stored, self.rank.process).text}")
        parts += ["* FLOPs were counted"] if lines.table.counted.any() else []
        parts.append(f"sort:{lines.key} {'v' if lines.descending else '^'}")
        self.table.border_title = "  ".join(parts)

    def say_hits(self, text: str) -> None:
        del text  # it is in the title
        self._titles()

    def no_hits(self) -> None:
        super().no_hits()
        self._titles()

    def action_back(self) -> None:
        """Out of what was gone into last: a zoomed step, then what a table has."""
        if self.chart.back():
            return
        if self.chart.has_focus:
            self.table.focus()
        else:
            super().action_back()

    def sheet(self) -> Sheet | None:
        return self.lines.sheet() if self.lines is not None else None
