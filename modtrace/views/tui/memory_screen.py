"""The sixth view: what was held over time, and who held it at the cursor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.worker import Worker, WorkerState

from modtrace.analysis.device_memory import wholes
from modtrace.analysis.filters import parse
from modtrace.analysis.memory_from_shapes import sizes_by_shapes
from modtrace.analysis.memory_peaks import MemoryHolder, holders_at
from modtrace.analysis.saved_totals import most_kept
from modtrace.filter_language import Filter
from modtrace.text import plain
from modtrace.units import duration, size
from modtrace.views.memory import device_memory_summary
from modtrace.views.models.csv_sheet import Sheet, Value
from modtrace.views.models.nodes import Ints
from modtrace.views.tensor_memory import held_lines, kept_summary
from modtrace.views.tui.base_screen import View
from modtrace.views.tui.curve_view import CurveView
from modtrace.views.tui.holder_lines import SORTS, HolderLines, checked
from modtrace.views.tui.line_list import LineList
from modtrace.views.tui.row_table import RowTable, TextLines
from modtrace.views.tui.row_table_keys import TableKeys
from modtrace.views.tui.tree_lines import filtered

ABOUT = (
    "Who held memory at the cursor of the curve. A filter takes names, classes, mem>1MB, and words such as activation. "
    "s or a click on a head sorts. Enter goes to the holder in the tree."
)
HOW = ("  Memory was not watched in this process.", "  To watch it: modtrace run --memory 0:3 script.py", "")


class MemoryScreen(TableKeys, View):
    """A curve a device, with a cursor; below it the holders at that moment."""

    NUMBER = 6
    PANE_HELP: ClassVar[Mapping[str, str]] = {"holders": ABOUT}
    DEFAULT_CSS = """
    MemoryScreen #curve { height: 45%; border: round $primary; }
    MemoryScreen #holders { border: round $primary; }
    MemoryScreen #curve:focus { border: round $accent; }
    MemoryScreen #holders:focus { border: round $accent; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "left_square_bracket",
            "peak(-1)",
            "Peak",
            id="memory.previous_peak",
            key_display="[ ]",
        ),
        Binding("right_square_bracket", "peak(1)", "Next peak", id="memory.next_peak", show=False),
        Binding("d", "device", "Device", id="memory.device", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.device = 0
        self.lines: HolderLines | None = None
        self._held_text = ""

    def body(self) -> ComposeResult:
        yield CurveView(id="curve")
        yield RowTable(TextLines([]), keys=SORTS, id="holders")

    @property
    def table(self) -> RowTable:
        return self.query_one("#holders", RowTable)

    @property
    def holders(self) -> list[MemoryHolder]:
        """Those at the cursor."""
        return self.lines.holders if self.lines is not None else []

    @property
    def curve(self) -> CurveView:
        return self.query_one("#curve", CurveView)

    def on_mount(self) -> None:
        super().on_mount()
        self.rank_changed()
        self.curve.focus()

    def rank_changed(self) -> None:
        devices = self.rank.memory
        self.curve.display = bool(devices)
        self.head()
        if not devices:
            self._from_shapes()
            return
        self.device = min(self.device, len(devices) - 1)
        device, line = devices[self.device]
        peak = int(line.at_ns[int(line.held_bytes.argmax())])
        self.curve.use(line.at_ns, line.held_bytes, int(line.at_ns[0]), int(line.at_ns[-1]) + 1, peak)
        self.curve.border_title = (
            f"Memory  {plain(device.device, 20)}  peak {size(int(line.held_bytes.max()))}"
        )
        self._say()

    def _from_shapes(self) -> None:
        """Memory that is known without watching: sizes of models and outputs, worked out in the background."""
        stored, self.lines = self.rank.stored, None
        self.table.border_title = "Memory, from shapes"
        self.table.use(TextLines([[(HOW[0], "")], [("  working out sizes ...", "dim")]]))
        width = max(self.app.size.width - 4, 40)

        def make() -> list[str]:
            counters = device_memory_summary(wholes(stored)) + kept_summary(most_kept(stored))
            return [*HOW, *counters, *held_lines(sizes_by_shapes(stored), width=width)]

        self.run_worker(make, thread=True, exclusive=True, name="shapes", exit_on_error=False)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.worker.name != "shapes":
            return
        if event.state is WorkerState.SUCCESS:
            texts = event.worker.result or []
            self.table.use(TextLines([[(text, "")] for text in texts]))
        elif event.state is WorkerState.ERROR:
            text = plain(str(event.worker.error), 200)
            self.table.use(TextLines([[(f"  cannot be shown: {text}", "warn")]]))

    def on_curve_view_moved(self, event: CurveView.Moved) -> None:
        del event
        self._say()

    def _say(self) -> None:
        device, line = self.rank.memory[self.device]
        moment = self.curve.moment
        index = int(np.searchsorted(line.at_ns, moment, side="right")) - 1
        total = int(line.held_bytes[index]) if index >= 0 else 0
        steps = self.rank.steps
        step = int(np.searchsorted(steps.start, moment, side="right")) - 1
        inside = 0 <= step < len(steps) and moment < int(steps.end[step])
        self.curve.border_subtitle = f"{duration(moment)}{f'  step {step}' if inside else ''}  {size(total)}"
        self._use(HolderLines(holders_at(self.rank.stored, device, moment), total, self.app.size.width))
        self._held_text = f"Held at {duration(moment)}: {size(total)}"
        self.show_selected()

    def _use(self, lines: HolderLines) -> None:
        """Show other holders, in the same order and with the same filter."""
        before, self.lines = self.lines, lines
        if before is not None:
            lines.tree.sort(before.tree.key, descending=before.tree.descending)
        if self.filter_text:
            lines.tree.set_filter(self.parsed(self.filter_text))
        self.hits = None
        lines.tree.cursor = min(self.table.cursor, max(len(lines) - 1, 0))
        self.table.use(lines)

    def parsed(self, text: str) -> Filter:
        return checked(parse(text))

    def passing_text(self) -> str:
        return filtered(self.table.model, "")

    def show_selected(self) -> None:
        """Put hits, or what a filter lets through, into the title."""
        model = self.table.model
        marks = ""
        if self.hits is not None:
            marks = f"  hit {model.hit_number(self.hits):,} of {int(self.hits.sum()):,}"
        elif model.filter:
            marks = f"  filter: {self.passing_text()}  F takes it off"
        if self.lines is not None:
            self.table.border_title = self._held_text + marks

    def say_hits(self, text: str) -> None:
        del text  # it is in the title
        self.show_selected()

    def no_hits(self) -> None:
        super().no_hits()
        self.show_selected()

    def _peaks(self) -> Ints:
        """The moment of the peak of each step that was watched; the peak of all where there are no steps."""
        _, line = self.rank.memory[self.device]
        steps = self.rank.steps
        low = np.searchsorted(line.at_ns, steps.start, side="left")
        high = np.searchsorted(line.at_ns, steps.end, side="left")
        moments = [
            int(line.at_ns[first + int(line.held_bytes[first:last].argmax())])
            for first, last in zip(low.tolist(), high.tolist(), strict=True)
            if last > first
        ]
        return np.array(moments or [int(line.at_ns[int(line.held_bytes.argmax())])], np.int64)

    def action_peak(self, by: int) -> None:
        if not self.rank.memory:
            return
        peaks, moment = self._peaks(), self.curve.moment
        index = int(np.searchsorted(peaks, moment, side="right" if by > 0 else "left")) - (by < 0)
        self.curve.go(int(peaks[min(max(index, 0), len(peaks) - 1)]))

    def action_device(self) -> None:
        if self.rank.memory:
            self.device = (self.device + 1) % len(self.rank.memory)
            self.rank_changed()

    def on_line_list_chosen(self, event: LineList.Chosen) -> None:
        """To the holder in the tree."""
        if self.lines is not None and len(self.lines):
            holder = self.lines.holder_at(event.source.cursor)
            self.viewer.go_to(holder.name, holder.type)

    def sheet(self) -> Sheet | None:
        shown = [] if self.lines is None else map(self.lines.holder_at, range(len(self.lines)))
        rows: list[list[Value]] = [
            [holder.name, holder.type, holder.category, holder.held_bytes, holder.allocations]
            for holder in shown
        ]
        return Sheet("memory", ["name", "type", "category", "held_bytes", "allocations"], rows)
