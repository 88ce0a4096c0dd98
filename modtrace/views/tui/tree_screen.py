"""The first view: the tree, what is known of its selected row, and a step over time."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.timer import Timer
from textual.widget import Widget

from modtrace.analysis.filters import Filter, parse
from modtrace.errors import UsageError
from modtrace.text import fit, plain
from modtrace.units import count, duration, size
from modtrace.views.tui.bars import AskBar, OneLine
from modtrace.views.tui.braille import filled, highest
from modtrace.views.tui.call_tree import CallTree
from modtrace.views.tui.detail import Detail
from modtrace.views.tui.editing import edit
from modtrace.views.tui.flame_chart import FlameChart
from modtrace.views.tui.lines import LineList, Texts
from modtrace.views.tui.look import Piece
from modtrace.views.tui.nodes import Bools, Ints
from modtrace.views.tui.opened import StepRows
from modtrace.views.tui.popups import Popup
from modtrace.views.tui.shown import Sheet, tree_sheet
from modtrace.views.tui.tree_lines import TreeLines, filtered
from modtrace.views.tui.tree_model import TreeModel
from modtrace.views.tui.trees import MODES, Placed
from modtrace.views.tui.view import View


class TreeScreen(View):
    """Tree, details, timeline: what is selected in one is marked in the others."""

    NUMBER = 1
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
        Binding("slash", "find", "Find", id="tree.find", key_display="/"),
        Binding("n", "hit(True)", "Next hit", id="tree.next_hit", show=False),
        Binding("N", "hit(False)", "Previous hit", id="tree.previous_hit", show=False),
        Binding("f", "filter", "Filter", id="tree.filter"),
        Binding("F", "no_filter", "No filter", id="tree.no_filter", show=False),
        Binding("v", "mode", "Merged, instances, calls", id="tree.mode", show=False),
        Binding("o", "source", "Source in editor", id="tree.source", show=False),
        Binding("y", "copy", "Copy path", id="tree.copy", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.mode = MODES[0]
        self.models: dict[tuple[int, str], TreeModel] = {}
        self.hits: Bools | None = None
        self.step: StepRows | None = None
        self.step_number = 0
        self.filter_text = ""
        self._soon: Timer | None = None
        self._sought_from = -1

    def body(self) -> ComposeResult:
        with Horizontal(id="panes"):
            yield CallTree(self._lines(), id="tree")
            yield LineList(Texts([]), has_cursor=False, id="detail")
        yield OneLine(id="brief")
        with Vertical(id="strip_box"):
            with Horizontal(id="strip"):
                yield OneLine(id="step_left")
                yield FlameChart(fitted=True, id="timeline")
                yield OneLine(id="step_right")
            yield OneLine(id="lane")

    # What is shown.

    @property
    def call_tree(self) -> CallTree:
        return self.query_one("#tree", CallTree)

    @property
    def timeline(self) -> FlameChart:
        return self.query_one("#timeline", FlameChart)

    @property
    def placed(self) -> Placed:
        return self.rank.tree(self.mode)

    def _lines(self) -> TreeLines:
        key = (self.viewer.process, self.mode)
        if key not in self.models:
            self.models[key] = TreeModel(self.placed.nodes)
        lines = TreeLines(
            self.models[key], self.rank.part.wall_ns, self.app.size.width, timed=self.mode == "calls"
        )
        lines.extra = (lines.tree.key,) if lines.tree.key in ("mem", "flops") else ()
        return lines

    def on_mount(self) -> None:
        super().on_mount()
        self.call_tree.focus()
        self.step_changed()
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
        chart.use(self.step.boxes, nodes.kind, left=self.step.start_ns, right=self.step.end_ns)
        self._lane()
        self._titles()

    def _linked(self, rows: Ints) -> Bools:
        """Which rows of the part belong to the selected node."""
        node = self.call_tree.model.selected
        if node < 0:
            return np.zeros(len(rows), np.bool_)
        of_rows = rows if self.placed.node is None else self.placed.node[rows]
        found: Bools = of_rows == node
        return found

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
        title = f"Tree  sort:{model.key} {arrow}  view:{self.mode}"
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
            pane.show(Texts(detail.lines(max(pane.columns, 20))))
            pane.scroll_to(y=0, animate=False)
        else:
            self.query_one("#brief", OneLine).put(self._brief(detail))
        self._titles()
        self.timeline.refresh()

    def _brief(self, detail: Detail) -> list[Piece]:
        """What is selected; while a filter is on, the filter."""
        model = self.call_tree.model
        if not model.filter:
            return detail.brief(self.app.size.width)
        return [(fit(f" filter: {filtered(model)}   F takes it off", self.app.size.width), "bold")]

    def on_line_list_moved(self, event: LineList.Moved) -> None:
        if event.source.id == "tree" and self._soon is None:
            self._soon = self.set_timer(0.05, self._details)

    def on_call_tree_changed(self, event: CallTree.Changed) -> None:
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
        self.call_tree.model.reveal(self.placed.node_of(row))
        self.call_tree.synced()

    def _open(self) -> None:
        model = self.call_tree.model
        if (node := model.selected) >= 0:
            detail, path = Detail(self.rank, self.placed, node), plain(model.nodes.path(node)[:200])
            self.app.push_screen(Popup(path, lambda width: detail.lines(width, whole=True)))

    # Search and filter.

    def action_find(self) -> None:
        self._sought_from = self.call_tree.model.selected
        self.ask_bar.ask("find", "/", "")

    def action_filter(self) -> None:
        self.ask_bar.ask("filter", "f:", self.filter_text)

    def action_no_filter(self) -> None:
        self.filter_text = ""
        self._filter(Filter(()))

    def action_hit(self, forward: bool) -> None:
        if self.hits is None:
            return
        node = self.call_tree.model.next_hit(self.hits, forward=forward)
        if node is None:
            self.app.notify("no hit", markup=False)
            return
        self.call_tree.model.reveal(node)
        self.call_tree.synced()
        self._say_hits()

    def on_ask_bar_typed(self, event: AskBar.Typed) -> None:
        if event.what in ("find", "filter"):
            try:
                if event.what == "find":
                    self._seek(event.text)
                else:
                    self._filter(parse(event.text))
                    self.ask_bar.say(filtered(self.call_tree.model) if event.text.strip() else "")
            except UsageError as error:
                self.ask_bar.say(str(error), trouble=True)

    def on_ask_bar_entered(self, event: AskBar.Entered) -> None:
        if event.what == "export":
            super().on_ask_bar_entered(event)
            return
        if event.what == "filter":
            try:
                self._filter(parse(event.text))
            except UsageError as error:
                self.ask_bar.say(str(error), trouble=True)
                return
            self.filter_text = event.text.strip()
        self.ask_bar.close()
        self.call_tree.focus()
        self._details()

    def on_ask_bar_cancelled(self, event: AskBar.Cancelled) -> None:
        if event.what == "find":
            self._no_hits()
            if self._sought_from >= 0:
                self.call_tree.model.reveal(self._sought_from)
                self.call_tree.synced()
        elif event.what == "filter":
            self._filter(parse(self.filter_text))
        super().on_ask_bar_cancelled(event)

    def after_asking(self) -> None:
        self.call_tree.focus()
        self._details()

    def action_back(self) -> None:
        """Out of what was gone into last: a zoomed timeline, hits, a filter, a threshold."""
        model = self.call_tree.model
        if self.timeline.has_focus and self.timeline.back():
            return
        if self.timeline.has_focus:
            self.call_tree.focus()
        elif self.hits is not None:
            self._no_hits()
        elif model.filter:
            self.action_no_filter()
        elif model.threshold:
            model.set_filter(model.filter, 0.0)
            self.call_tree.synced()

    def _seek(self, text: str) -> None:
        """Search while it is typed: the first hit from where the search began. No row is hidden."""
        model = self.call_tree.model
        if not text.strip():
            self._no_hits()
            self.ask_bar.say("")
            return
        self.hits = self.call_tree.shown.hits = model.hits(text)
        if self._sought_from >= 0:
            model.cursor = model.row_of(self._sought_from)
        node = model.next_hit(self.hits, here=True)
        if node is not None:
            model.reveal(node)
        self.call_tree.synced()
        self._say_hits()

    def _say_hits(self) -> None:
        if self.hits is None:
            return
        total = int(self.hits.sum())
        text = f"hit {self.call_tree.model.hit_number(self.hits):,} of {total:,}   n next  N previous  esc"
        self.ask_bar.say(text if total else "no hit")
        if not self.is_wide and not self.ask_bar.is_open:
            self.query_one("#brief", OneLine).put([(fit(f" {text}", self.app.size.width), "bold")])

    def _no_hits(self) -> None:
        self.hits = self.call_tree.shown.hits = None
        self.call_tree.refresh()

    def _filter(self, wanted: Filter) -> None:
        self.call_tree.model.set_filter(wanted)
        self.call_tree.synced()
        self._details()

    # Other keys.

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
            told = "its source is not known" if place is None else f"{place.text} is not here"
            self.app.notify(told, severity="warning", markup=False)
            return
        edit(self.app, place)

    def action_copy(self) -> None:
        node = self.call_tree.model.selected
        if node >= 0:
            path = plain(self.call_tree.model.nodes.path(node))
            self.app.copy_to_clipboard(path)
            self.app.notify(f"copied {fit(path, 60, keep_end=True)}", markup=False)

    def sheet(self) -> Sheet | None:
        return tree_sheet(self.call_tree.model, f"tree-{self.mode}")


def _entitle(pane: Widget, title: str) -> None:
    """The same again would draw the whole pane anew."""
    if pane.border_title != title:
        pane.border_title = title
