"""Functions, operators, speeds and operations of modules as lines, a heading before each section. No Textual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from modtrace.text import fit, pad, plain
from modtrace.units import bounded, count, duration, percent, scaled
from modtrace.views.models.nodes import Bools
from modtrace.views.models.op_rows import OPERATIONS, SHARE_UNIT, SPEEDS, Op, op_table
from modtrace.views.models.tree_model import TreeModel
from modtrace.views.tui.styles import Piece

SORTS: Final = ("order", "self", "calls", "flops", "speed", "reached", "name")
_TITLES: Final = {"calls": "calls", "self": "self", "flops": "a call", "speed": "speed", "reached": "reached"}
_WIDTHS: Final = {"calls": 8, "self": 10, "flops": 12, "speed": 14, "reached": 10}
_ROOMY: Final = 110
"""Columns from which speeds have columns of their own; below they begin the description."""


class OpLines:
    """Lines of ops, sorted and filtered within their sections."""

    def __init__(self, ops: Sequence[Op], rank: int = 0) -> None:
        self.table = op_table(ops, rank)
        nodes = self.table.nodes
        self.tree = TreeModel(nodes, np.ones(len(nodes), np.bool_))
        self.hits: Bools | None = None
        self.timed = any(op.spent_ns is not None for op in ops)
        self.fast = any(op.section == SPEEDS and not op.is_remark for op in ops)

    def __len__(self) -> int:
        return len(self.tree)

    def op_at(self, row: int) -> Op | None:
        """The op of a line; None for a heading."""
        return self.table.ops[self.tree.node_at(row)]

    def sort_by(self, key: str) -> None:
        """The largest first in each section, names from a to z."""
        self.tree.sort(key)

    def _columns(self, width: int) -> list[str]:
        speeds = ["speed", "reached"] if self.fast and width >= _ROOMY else []
        return ["calls", *(["self"] if self.timed else []), "flops", *speeds]

    def _room(self, width: int) -> int:
        wide = self.fast and width >= _ROOMY
        return max(min(36 if wide else 44, width - 50), 20)

    def head(self, width: int) -> Sequence[Piece]:
        arrow = " v" if self.tree.descending else " ^"
        key = self.tree.key
        line = pad("   name" + (arrow if key == "name" else ""), self._room(width))
        for name in self._columns(width):
            line += (_TITLES[name] + (arrow if key == name else "")).rjust(_WIDTHS[name])
        return [(pad(f"{line}  what", width), "head")]

    def key_at(self, column: int, width: int) -> str:
        """The sort key of the column of a head that a place is in; behind the numbers the order as it was."""
        place = self._room(width)
        if column < place:
            return "name"
        for name in self._columns(width):
            place += _WIDTHS[name]
            if column < place:
                return name
        return "order"

    def line(self, row: int, width: int) -> Sequence[Piece]:
        node, room = self.tree.node_at(row), self._room(width)
        op = self.table.ops[node]
        if op is None:
            return [(pad(f" {self.table.sections[node]}", width), "bold")]
        if op.is_remark:
            return [(pad(f"   {plain(op.description[:600])}", width), "dim")]
        class_text = f"  {plain(op.type[:200])}" if op.type not in ("", op.name) else ""
        name = fit(plain(op.name[:400]), room - 4, keep_end=True)
        is_hit = self.hits is not None and bool(self.hits[node])
        columns = self._columns(width)
        numbers = "".join(self._number(op, key).rjust(_WIDTHS[key]) for key in columns)
        description = op.description
        if op.section == SPEEDS and "speed" not in columns:
            direction = "bwd" if description.startswith("backward") else "fwd"
            figures = f"{self._number(op, 'reached')} reached, {self._number(op, 'speed')}"
            description = f"{direction} {figures}, {description}"
        behind = max(width - room - len(numbers) - 2, 0)
        return [
            ("   ", ""),
            (name, "hit" if is_hit else ""),
            (pad(class_text, room - 3 - len(name)), ""),
            (f"{numbers}  ", ""),
            (fit(plain(description[:600]), behind), ""),
        ]

    def _number(self, op: Op, key: str) -> str:
        if key == "calls":
            return count(op.calls)
        if key == "self":
            return "" if op.spent_ns is None and op.section != SPEEDS else duration(op.spent_ns)
        if key == "flops":
            return bounded(op.flops, op.least, "FLOP") if op.section in (OPERATIONS, SPEEDS) else ""
        if op.section != SPEEDS:
            return ""
        if key == "speed":
            return scaled(op.flops_per_s, "FLOP/s")
        return "?" if op.reached is None else f"{percent(op.reached, SHARE_UNIT)}%"
