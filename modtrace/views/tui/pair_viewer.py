"""`modtrace view A --against B`: the tree of two runs with both times, and a flame coloured by what changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType

from modtrace.analysis.comparing.comparison import Comparison
from modtrace.analysis.comparing.run_numbers import STEP
from modtrace.text import fit, plain
from modtrace.units import duration
from modtrace.views.difference_text import interval_text, ratio_text
from modtrace.views.models.csv_sheet import Sheet, Value
from modtrace.views.models.pair_tree import SIDES, SORTS, PairTree
from modtrace.views.tui.bars import OneLine
from modtrace.views.tui.base_screen import BaseScreen
from modtrace.views.tui.flame_chart import FlameChart
from modtrace.views.tui.key_bindings import config_file, read_keys
from modtrace.views.tui.line_list import LineList
from modtrace.views.tui.pair_lines import PairLines


class PairList(LineList):
    """The tree of a pair."""

    HELP = (
        "Modules of both runs with the time of each in a step, all below it included. - and + stand before rows with "
        "others inside. Colours: red is slower, blue faster, grey cannot be told from noise."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,l", "open(True)", "Open row", id="pair.open", show=False),
        Binding("left,h", "open(False)", "Close row, or to the row around", id="pair.close", show=False),
        Binding("enter,space", "choose", "Open or close", id="pair.toggle"),
    ]

    def __init__(self, tree: PairTree) -> None:
        super().__init__(PairLines(tree), id="pair")
        self.pair_tree = tree

    @property
    def node(self) -> int:
        """The row of the tree under the cursor."""
        return self.pair_tree.rows[self.cursor]

    def to_node(self, number: int) -> None:
        """Put the cursor on a row of the tree, which is opened down to it."""
        up = self.pair_tree.nodes[number].parent
        while up >= 0:
            self.pair_tree.toggle(up, opened=True)
            up = self.pair_tree.nodes[up].parent
        self.changed()
        self.move_to(self.pair_tree.rows.index(number))

    def action_open(self, opened: bool) -> None:
        tree, node = self.pair_tree, self.node
        if opened == tree.is_open(node) or not tree.below[node]:
            if opened:
                self.move_to(self.cursor + 1)
            elif tree.nodes[node].parent >= 0:
                self.move_to(tree.rows.index(tree.nodes[node].parent))
            return
        tree.toggle(node, opened=opened)
        self.changed()

    def action_choose(self) -> None:
        self.pair_tree.toggle(self.node)
        self.changed()


class PairScreen(BaseScreen):
    """The tree above, the flame below it."""

    DEFAULT_CSS = """
    PairScreen #pair { height: 2fr; }
    PairScreen #pair-flame { height: 1fr; border-top: solid $primary; }
    PairScreen #pair-flame:focus { border-top: solid $accent; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "sort", "Sort", id="pair.sort"),
        Binding("d", "side", "Flame of", id="pair.side"),
        Binding("E", "all(True)", "Open all", id="pair.open_all", show=False),
        Binding("C", "all(False)", "Close all", id="pair.close_all", show=False),
        Binding("q", "app.quit", "Quit", id="pair.quit"),
    ]

    def __init__(self, comparison: Comparison, names: tuple[str, str]) -> None:
        super().__init__()
        self.comparison, self.names = comparison, names
        self.pair_tree = PairTree(comparison)
        self.side = SIDES[0]

    def heading(self) -> ComposeResult:
        yield OneLine(id="pair-head")

    def body(self) -> ComposeResult:
        yield PairList(self.pair_tree)
        yield FlameChart(id="pair-flame")
        yield OneLine(id="pair-row")

    @property
    def pair_list(self) -> PairList:
        return self.query_one(PairList)

    @property
    def flame(self) -> FlameChart:
        return self.query_one(FlameChart)

    @property
    def notes(self) -> list[str]:
        return self.comparison.notes

    @property
    def trace_path(self) -> Path:
        return Path(f"{self.names[0]}-against-{self.names[1]}")

    def on_mount(self) -> None:
        super().on_mount()
        self._draw_flame()
        self.pair_list.focus()

    def head(self) -> None:
        step = self.comparison.steps[STEP]
        times = f"{duration(step.baseline_ns)} -> {duration(step.candidate_ns)} {ratio_text(step.ratio)}"
        told = step.verdict + (f": {step.reason}" if step.reason else "")
        names = f"{plain(self.names[0])} -> {plain(self.names[1])}"
        text = fit(f" modtrace  {names}   step {times}  {told}", self.app.size.width)
        self.query_one("#pair-head", OneLine).put([(text, "bold")])
        self._tell_row()

    def on_line_list_moved(self, event: LineList.Moved) -> None:
        del event
        self._tell_row()
        number = self.pair_list.node
        boxes = self.flame.boxes
        same = [place for place in range(len(boxes)) if int(boxes.owner[place]) == number]
        if same and self.flame.selected != same[0]:
            self.flame.select(same[0])

    def on_flame_chart_moved(self, event: FlameChart.Moved) -> None:
        del event
        flame = self.flame
        if flame.selected >= 0 and flame.has_focus:
            self.pair_list.to_node(int(flame.boxes.owner[flame.selected]))

    def action_back(self) -> None:
        self.flame.back()

    def action_sort(self) -> None:
        node = self.pair_list.node
        self.pair_tree.sort_by(SORTS[(SORTS.index(self.pair_tree.sort) + 1) % len(SORTS)])
        self.pair_list.to_node(node)
        self.pair_list.changed()
        self._tell_row()

    def action_side(self) -> None:
        self.side = SIDES[(SIDES.index(self.side) + 1) % len(SIDES)]
        self._draw_flame()
        self._tell_row()

    def action_all(self, opened: bool) -> None:
        node = self.pair_list.node if opened else 0
        self.pair_tree.open_all(opened=opened)
        self.pair_list.to_node(node)

    def _draw_flame(self) -> None:
        boxes = self.pair_tree.boxes(self.side)
        end = float(boxes.end.max()) if len(boxes) else 1.0
        self.flame.use(boxes, lambda owner: self.pair_tree.nodes[owner].verdict, view_start=0.0, view_end=end)

    def _tell_row(self) -> None:
        """The whole name under the cursor, and what the flame is of."""
        node = self.pair_tree.nodes[self.pair_list.node]
        interval = interval_text(node.time) if node.time is not None else ""
        reason = node.time.reason if node.time is not None else "of one side alone"
        parts = [
            node.name,
            interval,
            reason,
            f"flame of {self.side}, d: the next",
            f"sorted by {self.pair_tree.sort}",
        ]
        text = "   ".join(part for part in parts if part)
        self.query_one("#pair-row", OneLine).put([(fit(f" {text}", self.app.size.width), "dim")])

    def sheet(self) -> Sheet | None:
        rows: list[list[Value]] = []
        for number in self.pair_tree.rows:
            node = self.pair_tree.nodes[number]
            time = node.time
            ratios = (time.ratio, time.low, time.high) if time is not None else (None, None, None)
            times = node.baseline_ns, node.candidate_ns, node.change_ns
            rows.append([node.depth, node.name, node.type, *times, *ratios, node.verdict])
        columns = [
            "depth",
            "name",
            "type",
            "baseline_ns",
            "candidate_ns",
            "change_ns",
            "ratio",
            "ratio_low",
            "ratio_high",
        ]
        return Sheet("pair", [*columns, "verdict"], rows)


class PairViewer(App[None]):
    """Two runs beside each other."""

    TITLE = "modtrace"
    CSS = "Screen { background: $background; } ToastRack { dock: top; align: right top; margin-top: 1; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "quit", "Leave", id="pair.leave", show=False, priority=True),
    ]

    def __init__(self, comparison: Comparison, names: tuple[str, str], *, keys: Path | None = None) -> None:
        super().__init__()
        self._comparison, self._names = comparison, names
        self._keys_file = keys if keys is not None else config_file(os.environ)

    def on_mount(self) -> None:
        light = os.environ.get("COLORFGBG", "").rpartition(";")[2] in ("7", "15")
        self.theme = "ansi-light" if light else "ansi-dark"
        self.push_screen(PairScreen(self._comparison, self._names))
        known = set(pair_binding_ids())
        keys, _ = read_keys(
            self._keys_file, known
        )  # the file may name keys of other screens, which is no mistake
        if keys:
            self.set_keymap(keys)


def pair_binding_ids() -> Iterator[str]:
    """The names of the keys of a pair alone."""
    for owner in (PairList, PairScreen, PairViewer):
        for binding in owner.BINDINGS:
            if isinstance(binding, Binding) and binding.id and binding.id.startswith("pair."):
                yield binding.id
