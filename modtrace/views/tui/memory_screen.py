"""The sixth view: what was held over time, and who held it at the cursor."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.worker import Worker, WorkerState

from modtrace.analysis.device_memory import wholes
from modtrace.analysis.memory_from_shapes import sizes_by_shapes
from modtrace.analysis.memory_peaks import MemoryHolder, holders_at
from modtrace.analysis.saved_totals import most_kept
from modtrace.text import fit, pad, plain
from modtrace.units import count, duration, percent, size
from modtrace.views.memory import device_memory_summary
from modtrace.views.models.csv_sheet import Sheet, Value
from modtrace.views.models.nodes import Ints
from modtrace.views.tensor_memory import held_lines, kept_summary
from modtrace.views.tui.base_screen import View
from modtrace.views.tui.curve_view import CurveView
from modtrace.views.tui.line_list import FixedLines, LineList
from modtrace.views.tui.styles import Piece, heat

HOW = ("  Memory was not watched in this process.", "  To watch it: modtrace run --memory 0:3 script.py", "")


class MemoryScreen(View):
    """A curve a device, with a cursor; below it the holders at that moment."""

    NUMBER = 6
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
        self.holders: list[MemoryHolder] = []

    def body(self) -> ComposeResult:
        yield CurveView(id="curve")
        yield LineList(FixedLines([]), id="holders")

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
        listed, stored = self.query_one("#holders", LineList), self.rank.stored
        listed.border_title = "Memory, from shapes"
        listed.show(FixedLines([[(HOW[0], "")], [("  working out sizes ...", "dim")]]))
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
            self.query_one("#holders", LineList).show(FixedLines([[(text, "")] for text in texts]))
        elif event.state is WorkerState.ERROR:
            text = plain(str(event.worker.error), 200)
            self.query_one("#holders", LineList).show(FixedLines([[(f"  cannot be shown: {text}", "warn")]]))

    def on_curve_view_moved(self, event: CurveView.Moved) -> None:
        del event
        self._say()

    def _say(self) -> None:
        device, line = self.rank.memory[self.device]
        moment = self.curve.moment
        index = int(np.searchsorted(line.at_ns, moment, side="right")) - 1
        total = int(line.held_bytes[index]) if index >= 0 else 0
        self.holders = holders_at(self.rank.stored, device, moment)
        steps = self.rank.steps
        step = int(np.searchsorted(steps.start, moment, side="right")) - 1
        inside = 0 <= step < len(steps) and moment < int(steps.end[step])
        self.curve.border_subtitle = f"{duration(moment)}{f'  step {step}' if inside else ''}  {size(total)}"
        lines = [self._line(holder, total) for holder in self.holders]
        listed = self.query_one("#holders", LineList)
        listed.border_title = f"Held at {duration(moment)}: {size(total)}"
        head = pad("   holder", self._room) + f"{'bytes':>10} {'%':>6} {'pieces':>7}  for"
        listed.show(FixedLines(lines, [(head, "head")]), cursor=listed.cursor)

    @property
    def _room(self) -> int:
        return max(self.app.size.width - 54, 20)

    def _line(self, holder: MemoryHolder, total: int) -> list[Piece]:
        name = plain(holder.name[:400]) or "outside of calls"
        class_text = f"  {plain(holder.type[:100])}" if holder.type not in ("", holder.name) else ""
        shown = pad(f"   {fit(name, self._room - 4, keep_end=True)}{class_text}", self._room)
        share = holder.held_bytes / total if total else 0.0
        purpose = holder.category.replace("_", " ") + (", in its backward" if holder.backward else "")
        return [
            (shown, ""),
            (f"{size(holder.held_bytes):>10} ", ""), (f"{percent(holder.held_bytes, total):>6}", heat(share)),
            (f" {count(holder.allocations):>7}  {purpose}", ""),
        ]  # fmt: skip

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
        if self.holders:
            holder = self.holders[event.source.cursor]
            self.viewer.go_to(holder.name, holder.type)

    def sheet(self) -> Sheet | None:
        rows: list[list[Value]] = [
            [holder.name, holder.type, holder.category, holder.held_bytes, holder.allocations]
            for holder in self.holders
        ]
        return Sheet("memory", ["name", "type", "category", "held_bytes", "allocations"], rows)
