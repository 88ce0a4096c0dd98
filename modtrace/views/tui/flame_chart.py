"""Boxes as a chart: a flame chart of totals, or a step over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from modtrace.text import fit, pad, plain
from modtrace.views.models.boxes import Boxes, Cell
from modtrace.views.models.nodes import Ints
from modtrace.views.tui.line_list import strip
from modtrace.views.tui.styles import Piece, phase_box

Marked = Callable[[Ints], "np.ndarray[tuple[int], np.dtype[np.bool_]]"]


class FlameChart(Widget, can_focus=True):
    """Shows `Boxes` between `view_start` and `view_end`, one of them selected (-1: none).

    `base` is the level of the box that is zoomed to; those around it are drawn above it.

    Arrows go to the box beside, above or below, however small it is drawn: by the tree, not by what is to be seen.
    """

    HELP = (
        "Boxes as wide as the time of what they stand for. Left and right go to the box beside, down into the largest "
        "inside, up to the one around; enter zooms in, esc out."
    )
    DEFAULT_CSS = "FlameChart { height: 1fr; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "beside(-1)", "Before", id="flame.before", show=False),
        Binding("right,l", "beside(1)", "Behind", id="flame.behind", show=False),
        Binding("up,k", "out", "Around", id="flame.around", show=False),
        Binding("down,j", "into", "Inside", id="flame.inside", show=False),
        Binding("home,g", "edge(0)", "First", id="flame.first", show=False),
        Binding("end,G", "edge(-1)", "Last", id="flame.last", show=False),
        Binding("enter", "zoom", "Zoom", id="flame.zoom"),
        Binding("plus", "wider(2.0)", "Zoom in", id="flame.wider", show=False),
        Binding("minus", "wider(0.5)", "Zoom out", id="flame.narrower", show=False),
    ]

    class Moved(Message):
        """Another box is selected."""

        def __init__(self, source: FlameChart) -> None:
            self.source = source
            super().__init__()

        @property
        def control(self) -> FlameChart:
            return self.source

    class Zoomed(Moved):
        """Another part is shown."""

    class ZoomedTwice(Moved):
        """Enter on a box that is zoomed to already."""

    def __init__(self, *, fitted: bool = False, id: str | None = None) -> None:
        """`fitted` draws one level only where there is one line, that which tells most."""
        super().__init__(id=id)
        none = np.zeros(0, np.int64)
        self.boxes = Boxes(none, none, none, none, str)
        self.phase_of: Callable[[int], str] = str
        self.marked: Marked | None = None
        self.view_start, self.view_end, self.base = 0.0, 1.0, 0
        self.top = 0  # levels scrolled away
        self.selected = -1
        self.zoomed: list[int] = []  # boxes that were zoomed to, one in the other
        self.fitted = fitted

    def use(
        self, boxes: Boxes, phase_of: Callable[[int], str], *, view_start: float, view_end: float
    ) -> None:
        """Show other boxes. `phase_of` is the name of the phase of an owner, which decides on its hue."""
        self.boxes, self.phase_of = boxes, phase_of
        self._full_span = (view_start, view_end)
        self.view_start, self.view_end, self.base, self.top = view_start, max(view_end, view_start + 1), 0, 0
        self.selected = -1
        self.zoomed = []
        self.refresh()

    def select(self, box: int) -> None:
        """Select a box and scroll to it; zoom out as far as needed."""
        if not 0 <= box < len(self.boxes):
            return
        while self.zoomed and not self._inside(box, self.zoomed[-1]):
            self._back()
        self.selected = box
        self._into_sight()
        self.refresh()
        self.post_message(self.Moved(self))

    def zoom_to(self, box: int) -> None:
        """Show a box over the whole width."""
        self.zoomed.append(box)
        self._show_zoomed()

    def back(self) -> bool:
        """Zoom out by one; whether there was anything to zoom out of."""
        if not self.zoomed and (self.view_start, self.view_end) == self._full_span:
            return False
        self._back()
        self.post_message(self.Zoomed(self))
        return True

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        del viewport, width
        return min(self.boxes.levels, container.height)

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        level = self._level_at(y)
        pieces: list[Piece] = []
        column = 0
        cells = self.boxes.cells(level, self.view_start, self.view_end, width)
        marked = (
            self.marked(self.boxes.owner[[cell.box for cell in cells]]) if self.marked and cells else None
        )
        for number, cell in enumerate(cells):
            if cell.start_column > column:
                pieces.append((" " * (cell.start_column - column), ""))
            pieces.append(self._drawn(cell, linked=marked is not None and bool(marked[number])))
            column = cell.end_column
        if column < width:
            pieces.append((" " * (width - column), ""))
        return strip(pieces, width, dark=self.app.current_theme.dark).apply_style(self.rich_style)

    def _level_at(self, line: int) -> int:
        """The level that a line shows."""
        if self.fitted and self.size.height == 1:
            low, high = self.boxes.of_level(self.base)
            return self.base + (high - low == 1 and self.boxes.levels > self.base + 1)
        return self.top + line

    def _drawn(self, cell: Cell, *, linked: bool) -> Piece:
        owner = int(self.boxes.owner[cell.box])
        room = cell.end_column - cell.start_column
        # With nothing but the selection to tell by, without colour, the edge itself changes.
        chosen = cell.box == self.selected
        edge = ">" if chosen else "*" if linked else "|"
        if cell.shared:
            return ":" if not (chosen or linked) else edge, "cursor" if chosen else "dim"
        text = fit(plain(self.boxes.label(owner)[:200]), room - 1) if room > 2 else ""
        low, high = self._full_span
        share = float(self.boxes.end[cell.box] - self.boxes.start[cell.box]) / max(high - low, 1.0)
        name = phase_box(self.phase_of(owner), share)
        if linked:
            name += " marked"
        return edge + pad(text, room - 1), f"{name} cursor" if chosen else name

    def on_resize(self) -> None:
        self._into_sight()

    def on_click(self, event: events.Click) -> None:
        place = event.get_content_offset(self)
        if place is None:
            return
        level = self._level_at(place.y)
        span = self.view_end - self.view_start
        value = self.view_start + (place.x + 0.5) * span / max(self.size.width, 1)
        box = self.boxes.box_at(level, value)
        if box is None:
            return
        if event.chain == 2:
            self.zoom_to(box)
        else:
            self.select(box)

    def action_beside(self, by: int) -> None:
        if self.selected < 0:
            self._first()
            return
        low, high = self.boxes.of_level(int(self.boxes.level[self.selected]))
        self._go(min(max(self.selected + by, low), high - 1))

    def action_edge(self, which: int) -> None:
        if self.selected < 0:
            self._first()
            return
        low, high = self.boxes.of_level(int(self.boxes.level[self.selected]))
        self._go(low if which == 0 else high - 1)

    def action_out(self) -> None:
        if self.selected < 0:
            self._first()
            return
        around = self._around(self.selected)
        if around is not None:
            self.select(around)

    def action_into(self) -> None:
        if self.selected < 0:
            self._first()
            return
        boxes = self.boxes
        low, high = boxes.of_level(int(boxes.level[self.selected]) + 1)
        begin, end = boxes.start[self.selected], boxes.end[self.selected]
        first = low + int(np.searchsorted(boxes.start[low:high], begin, side="left"))
        last = low + int(np.searchsorted(boxes.start[low:high], end, side="left"))
        if last > first:
            sizes = boxes.end[first:last] - boxes.start[first:last]
            self.select(first + int(sizes.argmax()))

    def action_zoom(self) -> None:
        if self.selected < 0:
            self._first()
        elif self.zoomed and self.zoomed[-1] == self.selected:
            self.post_message(self.ZoomedTwice(self))
        else:
            self.zoom_to(self.selected)

    def action_wider(self, by: float) -> None:
        middle = (self.view_start + self.view_end) / 2
        if self.selected >= 0:
            middle = float(self.boxes.start[self.selected] + self.boxes.end[self.selected]) / 2
        half = (self.view_end - self.view_start) / by / 2
        low, high = self._full_span
        half = min(half, (high - low) / 2)
        middle = min(max(middle, low + half), high - half)
        self.view_start, self.view_end = middle - half, middle + max(half, 0.5)
        self.refresh()

    def _go(self, box: int) -> None:
        if box != self.selected:
            self.select(box)

    def _first(self) -> None:
        low, high = self.boxes.of_level(self.base)
        first = low + int(np.searchsorted(self.boxes.end[low:high], self.view_start, side="right"))
        if first < high:
            self.select(first)

    def _around(self, box: int) -> int | None:
        level = int(self.boxes.level[box])
        return self.boxes.box_at(level - 1, float(self.boxes.start[box])) if level else None

    def _inside(self, box: int, outer: int) -> bool:
        boxes = self.boxes
        return bool(
            boxes.level[box] >= boxes.level[outer]
            and boxes.start[box] >= boxes.start[outer]
            and boxes.end[box] <= boxes.end[outer]
        )

    def _back(self) -> None:
        if self.zoomed:
            self.zoomed.pop()
        self._show_zoomed()

    def _show_zoomed(self) -> None:
        if self.zoomed:
            box = self.zoomed[-1]
            self.view_start, self.view_end = float(self.boxes.start[box]), float(self.boxes.end[box])
            self.base = int(self.boxes.level[box])
        else:
            (self.view_start, self.view_end), self.base = self._full_span, 0
        # The nearest of the boxes around it stay in sight.
        self.top = max(self.base - max(self.size.height // 3, 1), 0)
        self._into_sight()
        self.refresh()
        self.post_message(self.Zoomed(self))

    def _into_sight(self) -> None:
        if self.selected < 0:
            return
        height = max(self.size.height, 1)
        level = int(self.boxes.level[self.selected])
        most = max(self.boxes.levels - height, 0)
        self.top = min(max(self.top, level - height + 1), level, most)

    _full_span = (0.0, 1.0)
