"""The fourth view: what was held over time, and who held it at the cursor."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from modtrace.analysis.holders import Holder, holders_at
from modtrace.text import fit, pad, plain
from modtrace.units import count, duration, percent, size
from modtrace.views.tui.curve_view import CurveView
from modtrace.views.tui.lines import LineList, Texts
from modtrace.views.tui.look import Piece, heat
from modtrace.views.tui.nodes import Ints
from modtrace.views.tui.shown import Sheet, Value
from modtrace.views.tui.view import View

HOW = ("  Memory was not watched in this process.", "  To watch it: modtrace run --memory 0:3 script.py")


class MemoryScreen(View):
    """A curve a device, with a cursor; below it the holders at that moment."""

    NUMBER = 4
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
        self.holders: list[Holder] = []

    def body(self) -> ComposeResult:
        yield CurveView(id="curve")
        yield LineList(Texts([]), id="holders")

    @property
    def curve(self) -> CurveView:
        return self.query_one("#curve", CurveView)

    def on_mount(self) -> None:
        super().on_mount()
        self.rank_changed()
        self.curve.focus()

    def rank_changed(self) -> None:
        found = self.rank.memory
        self.curve.display = bool(found)
        self.head()
        if not found:
            self.query_one("#holders", LineList).show(Texts([[(text, "")] for text in HOW]))
            return
        self.device = min(self.device, len(found) - 1)
        held, line = found[self.device]
        peak = int(line.at_ns[int(line.held_bytes.argmax())])
        self.curve.use(line.at_ns, line.held_bytes, int(line.at_ns[0]), int(line.at_ns[-1]) + 1, peak)
        self.curve.border_title = f"Memory  {plain(held.device, 20)}  peak {size(int(line.held_bytes.max()))}"
        self._say()

    def on_curve_view_moved(self, event: CurveView.Moved) -> None:
        del event
        self._say()

    def _say(self) -> None:
        held, line = self.rank.memory[self.device]
        moment = self.curve.moment
        at = int(np.searchsorted(line.at_ns, moment, side="right")) - 1
        total = int(line.held_bytes[at]) if at >= 0 else 0
        self.holders = holders_at(self.rank.stored, held, moment)
        steps = self.rank.steps
        step = int(np.searchsorted(steps.start, moment, side="right")) - 1
        inside = 0 <= step < len(steps) and moment < int(steps.end[step])
        self.curve.border_subtitle = f"{duration(moment)}{f'  step {step}' if inside else ''}  {size(total)}"
        lines = [self._line(one, total) for one in self.holders]
        listed = self.query_one("#holders", LineList)
        listed.border_title = f"Held at {duration(moment)}: {size(total)}"
        head = pad("   holder", self._room) + f"{'bytes':>10} {'%':>6} {'pieces':>7}  for"
        listed.show(Texts(lines, [(head, "head")]), cursor=listed.cursor)

    @property
    def _room(self) -> int:
        return max(self.app.size.width - 54, 20)

    def _line(self, one: Holder, total: int) -> list[Piece]:
        name = plain(one.name[:400]) or "outside of calls"
        kind = f"  {plain(one.type[:100])}" if one.type not in ("", one.name) else ""
        shown = pad(f"   {fit(name, self._room - 4, keep_end=True)}{kind}", self._room)
        share = one.held_bytes / total if total else 0.0
        what = one.category.replace("_", " ") + (", in its backward" if one.backward else "")
        return [
            (shown, ""), (f"{size(one.held_bytes):>10} ", ""), (f"{percent(one.held_bytes, total):>6}", heat(share)),
            (f" {count(one.allocations):>7}  {what}", ""),
        ]  # fmt: skip

    def _peaks(self) -> Ints:
        """The moment of the peak of each step that was watched; the peak of all where there are no steps."""
        _, line = self.rank.memory[self.device]
        steps = self.rank.steps
        low = np.searchsorted(line.at_ns, steps.start, side="left")
        high = np.searchsorted(line.at_ns, steps.end, side="left")
        found = [
            int(line.at_ns[first + int(line.held_bytes[first:last].argmax())])
            for first, last in zip(low.tolist(), high.tolist(), strict=True)
            if last > first
        ]
        return np.array(found or [int(line.at_ns[int(line.held_bytes.argmax())])], np.int64)

    def action_peak(self, by: int) -> None:
        if not self.rank.memory:
            return
        peaks, moment = self._peaks(), self.curve.moment
        at = int(np.searchsorted(peaks, moment, side="right" if by > 0 else "left")) - (by < 0)
        self.curve.go(int(peaks[min(max(at, 0), len(peaks) - 1)]))

    def action_device(self) -> None:
        if self.rank.memory:
            self.device = (self.device + 1) % len(self.rank.memory)
            self.rank_changed()

    def on_line_list_chosen(self, event: LineList.Chosen) -> None:
        """To the holder in the tree."""
        if self.holders:
            one = self.holders[event.source.cursor]
            self.viewer.go_to(one.name, one.type)

    def sheet(self) -> Sheet | None:
        rows: list[list[Value]] = [
            [one.name, one.type, one.category, one.held_bytes, one.allocations] for one in self.holders
        ]
        return Sheet("memory", ["name", "type", "category", "held_bytes", "allocations"], rows)
