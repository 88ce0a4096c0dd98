"""The third view: a row a step, and the step under the cursor over time."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from modtrace.units import count, duration
from modtrace.views.tui.flame_chart import FlameChart
from modtrace.views.tui.lines import LineList, Texts
from modtrace.views.tui.shown import Sheet
from modtrace.views.tui.step_lines import StepLines
from modtrace.views.tui.view import View


class StepsScreen(View):
    """Steps, and below the calls of the one that is selected; enter goes to it in the tree."""

    NUMBER = 3
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
        yield LineList(Texts([]), id="steps")
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
            self.listed.show(Texts([[(f"  there are no steps: {self.rank.why_nothing}", "")]]))
        self._preview()
        self.head()

    def step_changed(self) -> None:
        if self.lines is not None and len(self.lines):
            at = self.lines.order.tolist().index(self.viewer.step)
            if at != self.listed.cursor:
                self.listed.move_to(at)
            self._preview()

    def on_line_list_moved(self, event: LineList.Moved) -> None:
        if self.lines is not None and len(self.lines):
            self.viewer.step = int(self.lines.order[event.source.cursor])
            self._preview()

    def on_line_list_chosen(self, event: LineList.Chosen) -> None:
        del event
        self.viewer.action_view(1)

    def on_flame_chart_moved(self, event: FlameChart.Moved) -> None:
        """What is selected here is selected in the tree."""
        tree = self.viewer.tree_screen
        if tree.is_mounted and event.source.selected >= 0:
            tree.select_row(int(event.source.boxes.owner[event.source.selected]))

    def _preview(self) -> None:
        chart = self.query_one("#calls", FlameChart)
        steps = self.rank.steps
        self.listed.border_title = f"Steps  {count(len(steps))}"
        if self.lines is not None:
            self.listed.border_title += f"  sort:{self.lines.key} {'v' if self.lines.descending else '^'}"
        if not len(steps):
            return
        found = self.rank.timeline_of(self.viewer.step)
        chart.use(found.boxes, self.rank.tree("calls").nodes.kind, left=found.start_ns, right=found.end_ns)
        chart.border_title = f"Step {self.viewer.step}   {duration(found.end_ns - found.start_ns)}"

    def action_sort(self, by: int) -> None:
        if self.lines is None:
            return
        keys = self.lines.keys
        key = keys[(keys.index(self.lines.key) + by) % len(keys)]
        self._sort(key, descending=key != "step")

    def action_reverse(self) -> None:
        if self.lines is not None:
            self._sort(self.lines.key, descending=not self.lines.descending)

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
