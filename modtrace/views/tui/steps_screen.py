"""The fifth view: a row a step, and the step under the cursor over time."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from modtrace.analysis.statistics import chosen_steps
from modtrace.units import count, duration
from modtrace.views.models.csv_sheet import Sheet
from modtrace.views.tui.bars import TREE
from modtrace.views.tui.base_screen import View
from modtrace.views.tui.flame_chart import FlameChart
from modtrace.views.tui.line_list import FixedLines, LineList
from modtrace.views.tui.step_lines import StepLines


class StepsScreen(View):
    """Steps, and below the calls of the one that is selected; enter goes to it in the tree."""

    NUMBER = 5
    DEFAULT_CSS = """
    StepsScreen #steps { border: round $primary; }
    StepsScreen #calls { height: 40%; border: round $primary; }
    StepsScreen #steps:focus { border: round $accent; }
    StepsScreen #calls:focus { border: round $accent; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "sort(1)", "Sort", id="steps.sort"),
        Binding("S", "sort(-1)", "Sort back", id="steps.sort_back", show=False),
        Binding("r", "reverse", "Reverse", id="steps.reverse", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.lines: StepLines | None = None

    def body(self) -> ComposeResult:
        yield LineList(FixedLines([]), id="steps")
        yield FlameChart(id="calls")

    @property
    def listed(self) -> LineList:
        return self.query_one("#steps", LineList)

    def on_mount(self) -> None:
        super().on_mount()
        self.rank_changed()
        self.listed.focus()

    def rank_changed(self) -> None:
        self.lines = StepLines(self.rank)
        if len(self.lines):
            self.listed.show(self.lines, cursor=self.viewer.step)
        else:
            self.listed.show(FixedLines([[(f"  there are no steps: {self.rank.why_nothing}", "")]]))
        self._preview()
        self.head()

    def step_changed(self) -> None:
        if self.lines is not None and len(self.lines):
            row = self.lines.order.tolist().index(self.viewer.step)
            if row != self.listed.cursor:
                self.listed.move_to(row)
            self._preview()

    def on_line_list_moved(self, event: LineList.Moved) -> None:
        if self.lines is not None and len(self.lines):
            self.viewer.step = int(self.lines.order[event.source.cursor])
            self._preview()

    def on_line_list_chosen(self, event: LineList.Chosen) -> None:
        del event
        self.viewer.action_view(TREE)

    def on_flame_chart_moved(self, event: FlameChart.Moved) -> None:
        """Select the call of the box in the tree too."""
        if event.source.selected >= 0:
            self.viewer.tree_screen.select_row(int(event.source.boxes.owner[event.source.selected]))

    def _preview(self) -> None:
        chart = self.query_one("#calls", FlameChart)
        steps = self.rank.steps
        counts = chosen_steps(self.rank.stored, self.rank.process).text
        marks = "  * FLOPs were counted" if self.lines is not None and self.lines.counted.any() else ""
        self.listed.border_title = f"Steps  {count(len(steps))}  counted: {counts}{marks}"
        if self.lines is not None:
            self.listed.border_title += f"  sort:{self.lines.key} {'v' if self.lines.descending else '^'}"
        if not len(steps):
            return
        boxes = self.rank.timeline_of(self.viewer.step)
        chart.use(
            boxes.boxes,
            self.rank.tree("calls").nodes.phase_name,
            view_start=boxes.start_ns,
            view_end=boxes.end_ns,
        )
        chart.border_title = f"Step {self.viewer.step}   {duration(boxes.end_ns - boxes.start_ns)}"

    def action_sort(self, by: int) -> None:
        if self.lines is None:
            return
        keys = self.lines.keys
        key = keys[(keys.index(self.lines.key) + by) % len(keys)]
        self._sort(key, descending=key != "step")

    def action_reverse(self) -> None:
        if self.lines is not None:
            self._sort(self.lines.key, descending=not self.lines.descending)

    def on_line_list_head_clicked(self, event: LineList.HeadClicked) -> None:
        if self.lines is None:
            return
        key = self.lines.key_at(event.column, self.listed.columns)
        if key == self.lines.key:
            self.action_reverse()
        else:
            self._sort(key, descending=key != "step")

    def _sort(self, key: str, *, descending: bool) -> None:
        """The cursor stays on its step."""
        if self.lines is None or not len(self.lines):
            return
        self.lines.sort(key, descending=descending)
        self.listed.show(self.lines, cursor=self.lines.order.tolist().index(self.viewer.step))
        self._preview()

    def action_back(self) -> None:
        if not self.query_one("#calls", FlameChart).back():
            self.listed.focus()

    def sheet(self) -> Sheet | None:
        return self.lines.sheet() if self.lines is not None else None
