"""The fourth view: totals as boxes, from the top down or from what was called."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from modtrace.text import fit, plain
from modtrace.units import duration, percent, plural
from modtrace.views.models.boxes import Icicle
from modtrace.views.models.csv_sheet import Sheet, Value
from modtrace.views.tui.bars import TREE, OneLine
from modtrace.views.tui.base_screen import View
from modtrace.views.tui.flame_chart import FlameChart
from modtrace.views.tui.styles import legend


class FlameScreen(View):
    """The merged tree as boxes; `i` turns it round: what has own time at the top, its callers below."""

    NUMBER = 4
    DEFAULT_CSS = """
    FlameScreen #flame { border: round $primary; }
    FlameScreen #flame:focus { border: round $accent; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("i", "invert", "Invert", id="flame.invert"),
        Binding("t", "to_tree", "Tree", id="flame.to_tree"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.inverted = False

    def body(self) -> ComposeResult:
        yield FlameChart(id="flame")
        yield OneLine(id="legend")
        yield OneLine(id="box")

    @property
    def chart(self) -> FlameChart:
        return self.query_one("#flame", FlameChart)

    @property
    def shown(self) -> Icicle:
        return self.rank.icicle(whole_run=self.viewer.whole_run, inverted=self.inverted)

    def on_mount(self) -> None:
        super().on_mount()
        self._use()
        self.chart.focus()

    def on_screen_resume(self) -> None:
        """Select what is selected in the tree."""
        super().on_screen_resume()
        tree = self.viewer.tree_screen
        if not self.inverted and tree.mode == "merged" and tree.is_mounted:
            node = tree.call_tree.model.selected
            box = int(self.shown.box[node]) if node >= 0 else -1
            if box >= 0:
                self.chart.select(box)
        self._say()

    def rank_changed(self) -> None:
        self._use()
        self.head()

    def window_changed(self) -> None:
        self._use()

    def _use(self) -> None:
        shown = self.shown
        span = float(shown.boxes.end.max()) if len(shown.boxes) else 1.0
        self.chart.use(shown.boxes, shown.nodes.phase_name, view_start=0.0, view_end=span)
        phases = {shown.nodes.phase_name(node) for node in shown.boxes.owner.tolist()}
        self.query_one("#legend", OneLine).put(legend(sorted(phases)))
        self._say()

    def on_flame_chart_moved(self, event: FlameChart.Moved) -> None:
        if not self.inverted:
            placed = self.rank.tree("merged", whole_run=self.viewer.whole_run)
            rows = placed.rows_of(int(self.shown.boxes.owner[event.source.selected]))
            if len(rows):
                self.viewer.tree_screen.select_row(int(rows[0]))
        self._say()

    def on_flame_chart_zoomed(self, event: FlameChart.Zoomed) -> None:
        del event
        self._say()

    def on_flame_chart_zoomed_twice(self, event: FlameChart.ZoomedTwice) -> None:
        """Enter once more shows what called it."""
        if self.inverted:
            return
        nodes, node = self.shown.nodes, int(self.shown.boxes.owner[event.source.selected])
        path, class_name = nodes.path(node), nodes.rows.types[nodes.rows.type[node]]
        self.inverted = True
        self._use()
        around = self.shown
        for top in range(len(around.nodes)):
            rows = around.nodes.rows
            same = around.nodes.path(top) == path and rows.types[rows.type[top]] == class_name
            if around.nodes.depth[top] == 0 and same and around.box[top] >= 0:
                self.chart.select(int(around.box[top]))
                self.chart.zoom_to(int(around.box[top]))
                return

    def _say(self) -> None:
        """The title, and the line about the selected box."""
        chart, shown = self.chart, self.shown
        window = self.rank.profile(whole_run=self.viewer.whole_run).window
        nodes, base = shown.nodes, max(window.base_ns, 1)
        of = window.text.partition(";")[0]
        view = max(chart.view_end - chart.view_start, 1.0)
        description = f"{'self time by caller' if self.inverted else 'total time'} of {of}"
        zoom = " > ".join(plain(nodes.label(int(shown.boxes.owner[box]))[:100]) for box in chart.zoomed[-3:])
        title = f"Flame  {description}" + (f"  zoom: {zoom}" if zoom else "")
        chart.border_title = fit(title, max(self.app.size.width - 32, 10)).replace("[", "\\[")
        chart.border_subtitle = f"{duration(int(view))} ({percent(int(view), base)}%)"
        line = self.query_one("#box", OneLine)
        if chart.selected < 0:
            line.put([(" arrows select a box, enter zooms in, esc out, i turns it round", "dim")])
            return
        node = int(shown.boxes.owner[chart.selected])
        spent = int(shown.size[node])
        parts = [
            plain(nodes.label(node)[:100]), plain(nodes.class_name(node)[:60]), duration(spent),
            f"{percent(spent, base)}% of {of}, {percent(spent, int(view))}% of view",
        ]  # fmt: skip
        calls = None if self.inverted else nodes.number("calls", node)
        if calls is not None:
            parts.append(plural(calls, "call"))
        line.put([(fit(" " + "  ".join(part for part in parts if part), self.app.size.width), "bold")])

    def action_invert(self) -> None:
        self.inverted = not self.inverted
        self._use()

    def action_back(self) -> None:
        if not self.chart.back() and self.inverted:
            self.action_invert()

    def action_to_tree(self) -> None:
        self.viewer.action_view(TREE)

    def sheet(self) -> Sheet | None:
        nodes = self.shown.nodes
        rows: list[list[Value]] = [
            [int(nodes.depth[node]), nodes.path(node), nodes.class_name(node), int(self.shown.size[node])]
            for node in range(len(nodes))
        ]
        return Sheet("callers" if self.inverted else "flame", ["depth", "path", "type", "total_ns"], rows)
