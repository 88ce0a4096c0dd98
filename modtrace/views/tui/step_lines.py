"""Steps as lines: time, phases, memory. No Textual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from modtrace.analysis.flops import work_of_steps
from modtrace.analysis.memory import peak_of_steps
from modtrace.analysis.statistics import chosen_steps
from modtrace.trace.schema import PHASES
from modtrace.units import count, duration, size
from modtrace.views.models.csv_sheet import Sheet, Value
from modtrace.views.models.nodes import Ints
from modtrace.views.models.viewer_model import Rank
from modtrace.views.tui.styles import Piece

_PHASE_COLUMNS: Final = 10
_BAR_COLUMNS: Final = 12
_FIRST: Final = 12
"""Columns in front of the total: a gutter, the number of the step, a mark."""


class StepLines:
    """A line a step. `keys` are what it can be sorted by: step, total and each phase that takes any time."""

    def __init__(self, rank: Rank) -> None:
        steps = rank.steps
        self.steps = steps
        self.took: Ints = np.maximum(steps.end - steps.start, 0)
        self.values: dict[str, Ints] = {"step": np.arange(len(steps)), "total": self.took}
        for code, name in enumerate(PHASES):
            if steps.spent[code].any():
                self.values[name] = steps.spent[code]
        if steps.threads.any():
            self.values["threads"] = steps.threads
        self.values["other"] = self.took - steps.spent.sum(axis=0) - steps.threads
        counts = self.counts = chosen_steps(rank.stored, rank.process).steps
        self.counted = work_of_steps(rank.stored, rank.part.low, rank.part.high, len(steps)).counted
        self.usual = float(np.median(self.took[counts])) if counts.any() else 0.0
        self.peak: Ints | None = None
        if rank.memory:
            peaks = peak_of_steps(rank.stored, rank.part.low, rank.part.high, steps.start, steps.end)
            if (peaks >= 0).any():
                self.peak = self.values["peak"] = peaks
        self.key, self.descending = "step", False
        self.order: Ints = np.arange(len(steps))

    def __len__(self) -> int:
        return len(self.order)

    @property
    def keys(self) -> list[str]:
        return list(self.values)

    def sort(self, key: str, *, descending: bool) -> None:
        """Order the steps by a column."""
        self.key, self.descending = key, descending
        values = self.values[key]
        self.order = np.argsort(-values if descending else values, kind="stable")

    def shown(self, width: int) -> list[str]:
        """Columns that fit; phases that do not are left out, the smallest first."""
        room = max((width - 34 - (10 if self.peak is not None else 0)) // _PHASE_COLUMNS, 1)
        phases = [name for name in self.values if name not in ("step", "total", "peak")]
        largest = sorted(phases, key=lambda name: -int(self.values[name].sum()))[:room]
        return [name for name in phases if name in largest]

    def head(self, width: int) -> Sequence[Piece]:
        arrow = " v" if self.descending else " ^"

        def name(key: str, text: str, columns: int) -> str:
            return (text + (arrow if self.key == key else "")).rjust(columns)

        line = f"   {name('step', 'step', 8)} {name('total', 'total', 8)}  {'':12}"
        line += "".join(" " + name(key, key, _PHASE_COLUMNS - 1) for key in self.shown(width))
        if self.peak is not None:
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
        return shown[number] if number < len(shown) else "peak" if self.peak is not None else "total"

    def line(self, row: int, width: int) -> Sequence[Piece]:
        step = int(self.order[row])
        took = int(self.took[step])
        top = max(int(self.took.max(initial=0)), 1)
        bar = "#" * round(_BAR_COLUMNS * took / top)
        usual = self.usual
        name = "heat4" if took > 1.5 * usual else "heat1"
        flag = "?" if not self.steps.whole[step] else "*" if self.counted[step] else " "
        tone = "" if self.counts[step] else "dim"
        pieces: list[Piece] = [
            (f"   {count(step):>8}{flag}{duration(took):>8}  ", tone),
            (bar, name),
            (" " * (_BAR_COLUMNS - len(bar)), ""),
        ]
        wide = _PHASE_COLUMNS - 1
        cells = "".join(f" {duration(int(self.values[key][step])):>{wide}}" for key in self.shown(width))
        if self.peak is not None:
            cells += f"{size(int(self.peak[step])) if self.peak[step] >= 0 else '?':>10}"
        pieces.append((cells, tone))
        return pieces

    def sheet(self) -> Sheet:
        """All columns of all steps, in the order that is shown."""
        names = [
            key if key == "step" else "peak_bytes" if key == "peak" else f"{key}_ns" for key in self.values
        ]
        rows: list[list[Value]] = []
        for step in self.order.tolist():
            row: list[Value] = []
            for key, values in self.values.items():
                value = int(values[step])
                row.append(None if key == "peak" and value < 0 else value)
            rows.append(row)
        return Sheet("steps", names, rows)
