"""Steps as lines: time, phases, memory. No Textual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from modtrace.units import count, duration, size
from modtrace.views.models.csv_sheet import Sheet, Value
from modtrace.views.models.nodes import Bools, Ints
from modtrace.views.models.step_table import StepTable
from modtrace.views.models.tree_model import TreeModel
from modtrace.views.models.viewer_model import Rank
from modtrace.views.tui.styles import Piece

_PHASE_COLUMNS: Final = 10
_BAR_COLUMNS: Final = 12
_FIRST: Final = 12
"""Columns in front of the total: a gutter, the number of the step, a mark."""


class StepLines:
    """A line a step. `keys` are what it can be sorted by: step, total and each phase that takes any time."""

    def __init__(self, rank: Rank) -> None:
        table = self.table = StepTable(rank)
        self.tree = TreeModel(table.nodes)
        self.tree.sort("step", descending=False)
        self.hits: Bools | None = None
        self.usual = float(np.median(table.took[table.counts])) if table.counts.any() else 0.0

    def __len__(self) -> int:
        return len(self.tree)

    @property
    def order(self) -> Ints:
        """The step of each line."""
        return self.tree.shown_nodes

    @property
    def key(self) -> str:
        return self.tree.key

    @property
    def descending(self) -> bool:
        return self.tree.descending

    @property
    def keys(self) -> list[str]:
        return list(self.table.values)

    def sort(self, key: str, *, descending: bool) -> None:
        """Order the steps by a column."""
        self.tree.sort(key, descending=descending)

    def sort_by(self, key: str) -> None:
        """The largest first, steps as they ran."""
        self.sort(key, descending=key != "step")

    def shown(self, width: int) -> list[str]:
        """Columns that fit; phases that do not are left out, the smallest first."""
        values = self.table.values
        room = max((width - 34 - (10 if self.table.peak is not None else 0)) // _PHASE_COLUMNS, 1)
        phases = [name for name in values if name not in ("step", "total", "peak")]
        largest = sorted(phases, key=lambda name: -int(values[name].sum()))[:room]
        return [name for name in phases if name in largest]

    def head(self, width: int) -> Sequence[Piece]:
        arrow = " v" if self.descending else " ^"

        def name(key: str, text: str, columns: int) -> str:
            return (text + (arrow if self.key == key else "")).rjust(columns)

        line = f"   {name('step', 'step', 8)} {name('total', 'total', 8)}  {'':12}"
        line += "".join(" " + name(key, key, _PHASE_COLUMNS - 1) for key in self.shown(width))
        if self.table.peak is not None:
            line += name("peak", "peak", 10)
        return [(line.ljust(width)[:width], "head")]

    def key_at(self, column: int, width: int) -> str:
        """The column of a head that a place is in."""
        if column < _FIRST:
            return "step"
        place = _FIRST + 10 + _BAR_COLUMNS
        shown = self.shown(width)
        if column < place:
            return "total"
        number = (column - place) // _PHASE_COLUMNS
        return shown[number] if number < len(shown) else "peak" if self.table.peak is not None else "total"

    def line(self, row: int, width: int) -> Sequence[Piece]:
        table, step = self.table, self.tree.node_at(row)
        if not table.steps.recorded[step]:
            return [("   ", "dim"), (f"{count(step):>8} {'?':>8}  not recorded in full", "dim")]
        took = int(table.took[step])
        top = max(int(table.took.max(initial=0)), 1)
        bar = "#" * round(_BAR_COLUMNS * took / top)
        name = "heat4" if took > 1.5 * self.usual else "heat1"
        flag = "?" if not table.steps.whole[step] else "*" if table.counted[step] else " "
        tone = "" if table.counts[step] else "dim"
        is_hit = self.hits is not None and bool(self.hits[step])
        pieces: list[Piece] = [
            ("   ", tone),
            (f"{count(step):>8}", "hit" if is_hit else tone),
            (f"{flag}{duration(took):>8}  ", tone),
            (bar, name),
            (" " * (_BAR_COLUMNS - len(bar)), ""),
        ]
        wide = _PHASE_COLUMNS - 1
        cells = "".join(f" {duration(int(table.values[key][step])):>{wide}}" for key in self.shown(width))
        if table.peak is not None:
            cells += f"{size(int(table.peak[step])) if table.peak[step] >= 0 else '?':>10}"
        pieces.append((cells, tone))
        return pieces

    def sheet(self) -> Sheet:
        """All columns of the steps that are shown, in their order."""
        values = self.table.values
        names = [key if key == "step" else "peak_bytes" if key == "peak" else f"{key}_ns" for key in values]
        rows: list[list[Value]] = []
        for step in self.order.tolist():
            row: list[Value] = []
            for key, column in values.items():
                value = int(column[step])
                is_known = key == "step" or bool(self.table.steps.recorded[step])
                row.append(value if is_known and (key != "peak" or value >= 0) else None)
            rows.append(row)
        return Sheet("steps", names, rows)
