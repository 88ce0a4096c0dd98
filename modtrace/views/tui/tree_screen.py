"""The third view: the tree, what is known of its selected row, and a step over time."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.timer import Timer
from textual.widget import Widget

from modtrace.analysis.metrics import METRICS
from modtrace.filter_language import Filter
from modtrace.text import fit, plain
from modtrace.units import count, duration, size
from modtrace.views.models.csv_sheet import Sheet, tree_sheet
from modtrace.views.models.nodes import Bools, Ints
from modtrace.views.models.tree_model import TreeModel
from modtrace.views.models.trees import MODES, PlacedTree
from modtrace.views.models.viewer_model import StepRows
from modtrace.views.tui.bars import OneLine
from modtrace.views.tui.base_screen import View
from modtrace.views.tui.braille import filled, highest
from modtrace.views.tui.call_tree import CallTree
from modtrace.views.tui.detail import Detail
from modtrace.views.tui.editing import edit
from modtrace.views.tui.flame_chart import FlameChart
from modtrace.views.tui.line_list import FixedLines, LineList
from modtrace.views.tui.popups import Popup
from modtrace.views.tui.row_table import RowTable
from modtrace.views.tui.styles import Piece
from modtrace.views.tui.tree_keys import TreeKeys
from modtrace.views.tui.tree_lines import TreeLines, filtered


class TreeScreen(TreeKeys, View):
    """Tree, details, timeline: what is selected in one is marked in the others."""

    NUMBER = 3
    DEFAULT_CSS = """
    TreeScreen #detail { display: none; width: 40; padding: 0 1; }
    TreeScreen #brief { display: block; }
    TreeScreen #strip { height: 1; }
    TreeScreen #step_left, TreeScreen #step_right { width: auto; }
    TreeScreen #lane { display: none; }
    TreeScreen.-wide #detail { display: block; border: round $primary; }
    TreeScreen.-wide #tree { border: round $primary; }
    TreeScreen.-wide #brief { display: none; }
    TreeScreen.-wide #strip_box { height: auto; border: round $primary; }
    TreeScreen #strip_box { height: 1; }
    TreeScreen #timeline { width: 1fr; }
    TreeScreen.-wide #strip { height: 3; }
    TreeScreen.-wide #step_left, TreeScreen.-wide #step_right { display: none; }
    TreeScreen.-wide #lane.watched { display: block; }
    TreeScreen.-wide LineList:focus { border: round $accent; }
    TreeScreen.-wide #strip_box:focus-within { border: round $accent; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "mode", "Merged, instances, calls", id="tree.mode", show=False),
        Binding("o", "source", "Source in editor", id="tree.source", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.mode = MODES[0]
        self.models: dict[tuple[int, str], TreeModel] = {}
        self.step: StepRows | None = None
        self.step_number = 0
        self._soon: Timer | None = None
        self._wanted: tuple[int, int] | None = None  # process and row to show once it is drawn

    def body(self) -> ComposeResult:
        with Horizontal(id="panes"):
            yield CallTree(self._lines(), id="tree")
            yield LineList(FixedLines([]), has_cursor=False, id="detail")
        yield OneLine(id="brief")
        with Vertical(id="strip_box"):
            with Horizontal(id="strip"):
                yield OneLine(id="step_left")
                yield FlameChart(fitted=True, id="timeline")
                yield OneLine(id="step_right")
            yield OneLine(id="lane")

    # What is shown.

    @property
    def timeline(self) -> FlameChart:
        return self.query_one("#timeline", FlameChart)

    @property
    def placed(self) -> PlacedTree:
        return self.rank.tree(self.mode, whole_run=self.viewer.whole_run)

    def _lines(self) -> TreeLines:
        key, placed = (self.viewer.process, self.mode), self.placed
        model = self.models.setdefault(key, TreeModel(placed.nodes))
        if (
            model.nodes is not placed.nodes
        ):  # the same rows with other numbers, and a few more or less at the end
            numbers, before = np.arange(len(placed.nodes)), len(model.nodes)
            model.grow(
                placed.nodes, np.where(numbers < before, numbers, -1), np.zeros(len(numbers), np.bool_)
            )
        lines = TreeLines(model, placed.base_ns, self.app.size.width, timed=self.mode == "calls")
        lines.extra = (model.key,) if model.key in METRICS else ()
        lines.title = f"module, {placed.window_text}"
        failing = self.rank.failing_row
        lines.failed = frozenset((placed.node_of(failing),)) if failing >= 0 else frozenset()
        return lines

    def on_mount(self) -> None:
        super().on_mount()
        self.call_tree.focus()
        self.step_changed()
        process, row = self._wanted or (-1, -1)
        if process != self.viewer.process:
            row = self.rank.failing_row
        if row >= 0:
            self.call_after_refresh(self.select_row, row)
        self._titles()
        self._details()

    def window_changed(self) -> None:
        share = self.call_tree.shown.share
        hits = self.hits
        self.call_tree.use(self._lines())
        self.call_tree.shown.share = share
        self.hits = None
        if hits is not None:
            self.search_again(np.arange(len(self.call_tree.model.nodes)))
        self._titles()
        self._details()

    def fitted(self) -> None:
        super().fitted()
        self.call_tree.shown.screen = self.app.size.width
        self.call_tree.changed()
        self.call_after_refresh(self._details)
        self.call_after_refresh(self._lane)

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        if self.step_number != self.viewer.step:
            self.step_changed()

    def rank_changed(self) -> None:
        self.hits = None
        self.call_tree.use(self._lines())
        self.step_changed()
        self._titles()
        self._details()
        self.head()

    def step_changed(self) -> None:
        steps = self.rank.steps
        if not len(steps):
            self.step = None
            return
        chart = self.timeline
        self.step_number = self.viewer.step
        self.step, nodes = self.rank.timeline_of(self.step_number), self.rank.tree("calls").nodes
        chart.marked = self._linked
        chart.use(self.step.boxes, nodes.phase_name, view_start=self.step.start_ns, view_end=self.step.end_ns)
        self._lane()
        self._titles()

    def _linked(self, rows: Ints) -> Bools:
        """Mask of the rows of the part that belong to the selected node."""
        node = self.call_tree.model.selected
        if node < 0:
            return np.zeros(len(rows), np.bool_)
        of_rows = rows if self.placed.node is None else self.placed.node[rows]
        linked: Bools = of_rows == node
        return linked

    def _lane(self) -> None:
        """Title, ends and memory of the step."""
        if self.step is None:
            return
        took = duration(self.step.end_ns - self.step.start_ns)
        number = f"step {self.viewer.step} of {count(len(self.rank.steps))}"
        peak = ""
        lane = self.query_one("#lane", OneLine)
        lane.set_class(bool(self.rank.memory), "watched")
        if self.rank.memory:
            _, line = self.rank.memory[0]
            columns = max(self.app.size.width - 26, 10)
            values = highest(line.at_ns, line.held_bytes, self.step.start_ns, self.step.end_ns, 2 * columns)
            top = int(line.held_bytes.max())
            peak = f"  peak {size(int(values.max(initial=0)))}"
            lane.put([(" mem ", "bold"), (filled(values, 1, top)[0], "heat0"), (peak, "")])
        self.query_one("#step_left", OneLine).put([(f" {number} ", "")])
        self.query_one("#step_right", OneLine).put([(f" {took}{peak} ", "")])
        self.query_one("#strip_box").border_title = f"Timeline  {number}   {took}"

    def _titles(self) -> None:
        model = self.call_tree.model
        arrow = "v" if model.descending else "^"
        hits = ""
        if self.hits is not None:
            hits = f"  hit {model.hit_number(self.hits):,} of {int(self.hits.sum()):,}"
        title = f"Tree{hits}  {self.placed.window_text}  sort:{model.key} {arrow}  view:{self.mode}"
        if model.threshold:
            title += f"  {count(model.hidden)} hidden below {model.threshold:.1%} (- shows more)"
        _entitle(self.call_tree, title)
        node = model.selected
        path = plain(model.nodes.path(node)[:200]) if node >= 0 else ""
        _entitle(self.query_one("#detail"), fit(path, 34).replace("[", "\\["))

    def _details(self) -> None:
        """Everything that hangs on the selected row."""
        self._soon = None
        if not self.is_mounted:
            return
        detail = Detail(self.rank, self.placed, self.call_tree.model.selected)
        if self.is_wide:
            pane = self.query_one("#detail", LineList)
            pane.show(FixedLines(detail.lines(max(pane.columns, 20))))
            pane.scroll_to(y=0, animate=False)
        else:
            self.query_one("#brief", OneLine).put(self._brief(detail))
        self._titles()
        self.timeline.refresh()

    def _brief(self, detail: Detail) -> list[Piece]:
        """The selected row in one line; while a filter is on, the filter."""
        model = self.call_tree.model
        if self.hits is not None:
            return [(fit(f" {self.hits_text()}", self.app.size.width), "bold")]
        if not model.filter:
            return detail.brief(self.app.size.width)
        return [(fit(f" filter: {filtered(model)}   F takes it off", self.app.size.width), "bold")]

    def on_line_list_moved(self, event: LineList.Moved) -> None:
        if event.source.id == "tree" and self._soon is None:
            self._soon = self.set_timer(0.05, self._details)

    def on_row_table_changed(self, event: RowTable.Changed) -> None:
        del event
        self._titles()

    def on_line_list_chosen(self, event: LineList.Chosen) -> None:
        if event.source.id == "tree":
            self._open()

    def on_flame_chart_moved(self, event: FlameChart.Moved) -> None:
        chart = event.source
        if chart.has_focus and chart.selected >= 0:
            self.select_row(int(chart.boxes.owner[chart.selected]))

    def select_row(self, row: int) -> None:
        """Put the cursor on the node of a row of the part."""
        if not self.is_mounted:
            self._wanted = self.viewer.process, row
            return
        self.call_tree.model.reveal(self.placed.node_of(row))
        self.call_tree.synced()

    def _open(self) -> None:
        model = self.call_tree.model
        if (node := model.selected) >= 0:
            detail, path = Detail(self.rank, self.placed, node), plain(model.nodes.path(node)[:200])
            self.app.push_screen(Popup(path, lambda width: detail.lines(width, full=True)))

    def show_selected(self) -> None:
        self._details()

    def no_hits(self) -> None:
        super().no_hits()
        self._details()

    def say_hits(self, text: str) -> None:
        self._titles()
        if not self.is_wide:
            self.query_one("#brief", OneLine).put([(fit(f" {text}", self.app.size.width), "bold")])

    # Keys.

    def action_back(self) -> None:
        """Out of what was gone into last: a zoomed timeline, then what a tree has."""
        if self.timeline.has_focus and self.timeline.back():
            return
        if self.timeline.has_focus:
            self.call_tree.focus()
        else:
            super().action_back()

    def action_mode(self) -> None:
        """The next of the three trees, with the cursor on what it was on."""
        placed, node = self.placed, self.call_tree.model.selected
        known = node >= 0 and not Detail(self.rank, placed, node).outside
        rows = placed.rows_of(node)[:1].tolist() if known else []
        self.mode = MODES[(MODES.index(self.mode) + 1) % len(MODES)]
        self.hits = None
        lines = self._lines()
        lines.share = self.call_tree.shown.share
        if lines.tree.filter:
            lines.tree.set_filter(Filter(()))
        self.filter_text = ""
        if len(rows):
            lines.tree.reveal(self.placed.node_of(rows[0]))
        self.call_tree.use(lines)
        self._details()

    def action_source(self) -> None:
        place = Detail(self.rank, self.placed, self.call_tree.model.selected).place
        if place is None or not place.is_here:
            reason = "its source is not known" if place is None else f"{place.text} is not here"
            self.app.notify(reason, severity="warning", markup=False)
            return
        edit(self.app, place)

    def sheet(self) -> Sheet | None:
        return tree_sheet(self.call_tree.model, f"tree-{self.mode}")


def _entitle(pane: Widget, title: str) -> None:
    """The same again would draw the whole pane anew."""
    if pane.border_title != title:
        pane.border_title = title
