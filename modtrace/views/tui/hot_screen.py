"""The first view: the hottest modules in one table, above it a step by phases and the first finding."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from modtrace.filter_language import Filter
from modtrace.text import fit, plain
from modtrace.views.models.csv_sheet import Sheet, Value
from modtrace.views.models.hot_rows import HotRows, hot_rows
from modtrace.views.models.tree_model import TreeModel
from modtrace.views.tui.bars import TREE, OneLine
from modtrace.views.tui.base_screen import View
from modtrace.views.tui.call_tree import CallTree
from modtrace.views.tui.hot_lines import SORTS, fit_hot_lines, hot_lines, phase_pieces, step_text
from modtrace.views.tui.line_list import LineList
from modtrace.views.tui.tree_keys import TreeKeys
from modtrace.views.tui.tree_lines import filtered


class HotTable(CallTree):
    """Rows of one level, so nothing opens or closes."""

    HELP = (
        "Where the time of a step went: each module without those inside it, forward and backward in one row, repeated "
        "blocks folded: h.* x12. The first step is left out; a shows the whole run. Enter goes to the module in the "
        "tree; s or a click on a head sorts. Bars: # forward, = backward."
    )
    UNUSED = frozenset(
        ("close_or_up", "open_or_down", "toggle_row", "below", "chain", "share", "threshold")
    )  # fmt: skip

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        del parameters
        return action not in self.UNUSED

    def clicked(self, row: int, column: int) -> None:
        del column
        self.move_to(row)


class HotScreen(TreeKeys, View):
    """A row for each group of modules, for phases and for what is no module's."""

    NUMBER = 1
    DEFAULT_CSS = """
    HotScreen .above { height: 1; }
    HotScreen .above.-empty { display: none; }
    HotScreen.-wide #tree { border: round $primary; }
    HotScreen.-wide #tree:focus { border: round $accent; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "to_tree", "Tree", id="hot.to_tree", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._tables: dict[tuple[int, bool], HotRows] = {}

    def body(self) -> ComposeResult:
        yield OneLine(id="step", classes="above")
        yield OneLine(id="phases", classes="above")
        yield OneLine(id="worth", classes="above")
        hot = self.hot
        model = TreeModel(hot.nodes)
        model.sort(hot.key)
        model.cursor = 0
        yield HotTable(hot_lines(hot, model, self.app.size.width), keys=SORTS, id="tree")

    @property
    def hot(self) -> HotRows:
        """The rows of the process and the time that are shown."""
        key = self.viewer.process, self.viewer.whole_run
        if key not in self._tables:
            self._tables[key] = hot_rows(self.rank.part, self.rank.profile(whole_run=key[1]))
        return self._tables[key]

    def on_mount(self) -> None:
        super().on_mount()
        self.call_tree.focus()

    def findings_changed(self) -> None:
        self._above()

    def fitted(self) -> None:
        super().fitted()
        fit_hot_lines(self.call_tree.shown, self.hot, self.app.size.width)
        self._titles()
        self.call_tree.changed()
        self._above()

    def rank_changed(self) -> None:
        self._use()
        self.head()
        self._above()

    def window_changed(self) -> None:
        self._use()

    def _use(self) -> None:
        """Show other rows, in the same order and with the cursor where it was."""
        tree, hot = self.call_tree, self.hot
        before = tree.model
        selected = before.nodes.path(before.selected) if before.selected >= 0 else ""
        model = TreeModel(hot.nodes)
        model.sort(before.key if model.nodes.has(before.key) else hot.key, descending=before.descending)
        if before.filter:
            model.set_filter(before.filter)
        lines = hot_lines(hot, model, self.app.size.width)
        self.hits = None
        same = [node for node in range(len(hot.nodes)) if hot.nodes.path(node) == selected]
        if same and (model.matches is None or model.matches[same[0]]):
            model.reveal(same[0])
        tree.use(lines)
        self._titles()

    def _titles(self) -> None:
        window = self.hot.profile.window
        title = f"Hottest modules   {'times of a step: ' if window.steps else ''}{window.text}"
        if self.viewer.whole_run:
            title += "   a: steps only" if len(self.rank.steps) else ""
        else:
            title += "   a: the whole run"
        self.call_tree.border_title = fit(title, max(self.app.size.width - 8, 10)).replace("[", "\\[")

    def _above(self) -> None:
        """The step, its phases, and the first finding."""
        width = self.app.size.width
        if not self.hot.profile.rows:
            self._put("step", [(fit(f" {self.rank.why_nothing}", width), "warn")])
            self._put("phases", [])
            self._put("worth", [])
            return
        self._put("step", [(step_text(self.rank, width), "")])
        self._put("phases", phase_pieces(self.rank, width))
        if self.hits is None and not self.call_tree.model.filter:
            self._worth(width)

    def _worth(self, width: int) -> None:
        findings = self.viewer.findings
        if findings is None:
            self._put("worth", [(" looking for what is worth a look ...", "dim")])
        elif not findings:
            self._put("worth", [])
        else:
            first = findings[0]
            others = len(findings) - 1
            tail = f"  2: {others} more" if others else "  2: what to do"
            text = fit(f" ! {plain(first.text)}; {plain(first.remedy)}", max(width - len(tail) - 1, 10))
            self._put("worth", [(text, "warn"), (tail, "dim")])

    def _put(self, name: str, pieces: list[tuple[str, str]]) -> None:
        line = self.query_one(f"#{name}", OneLine)
        line.set_class(not pieces, "-empty")
        line.put(pieces)

    def say_hits(self, text: str) -> None:
        self._put("worth", [(fit(f" {text}", self.app.size.width), "bold")])

    def no_hits(self) -> None:
        super().no_hits()
        self.show_selected()

    def show_selected(self) -> None:
        model = self.call_tree.model
        if self.hits is not None:
            self.say_hits(self.hits_text())
        elif model.filter:
            text = f" filter: {filtered(model)}   F takes it off"
            self._put("worth", [(fit(text, self.app.size.width), "bold")])
        else:
            self._worth(self.app.size.width)

    def on_line_list_chosen(self, event: LineList.Chosen) -> None:
        """To the module in the tree."""
        del event
        node = self.call_tree.model.selected
        row = self.hot.row_of(node) if node >= 0 else -1
        if row >= 0:
            self.viewer.go_to_row(row)
        else:
            self.app.notify("no call belongs to this row", markup=False)

    def action_no_filter(self) -> None:
        self.filter_text = ""
        self._filter(Filter(()))

    def action_to_tree(self) -> None:
        self.viewer.action_view(TREE)

    def sheet(self) -> Sheet | None:
        """Sums over the window, all columns."""
        model, hot = self.call_tree.model, self.hot
        rows: list[list[Value]] = []
        for place in range(len(model)):
            row = hot.rows[model.node_at(place)]
            times = row.self_ns, row.forward_ns, row.backward_ns, row.device_ns
            rows.append([row.name, row.type, row.instances, row.calls, *times, row.output])
        columns = ["name", "type", "instances", "calls", "self_ns", "forward_ns", "backward_ns", "device_ns"]
        return Sheet("hot", [*columns, "output"], rows)
