"""The tree of a pair as lines. No Textual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from modtrace.text import fit, pad
from modtrace.units import duration
from modtrace.views.difference_text import interval_text, ratio_text, signed
from modtrace.views.models.pair_tree import ALONE, PairTree
from modtrace.views.tui.styles import Piece

_INDENT: Final = 2
_LEAST_NAME: Final = 16
_STYLES: Final = {"slower": "error", "faster": "type", "unknown": "dim", "same": "", ALONE: "warn"}
"""Verdict -> style of its row's change."""


class PairLines:
    """A row of the tree a line: name and class, baseline, candidate, difference, change, verdict, interval."""

    def __init__(self, tree: PairTree) -> None:
        self.tree = tree

    def __len__(self) -> int:
        return len(self.tree.rows)

    def head(self, width: int) -> Sequence[Piece] | None:
        """Titles of the columns; the one that rows are sorted by has a mark."""
        titles = [("module", "name"), *self._titles(width)]
        texts = [f"{title}{'v' if key == self.tree.sort else ''}" for title, key in titles]
        name, *others = texts
        columns = self._widths(width)
        line = pad(f" {name}", self._name_width(width))
        line += "".join(pad(text, wide, right=True) for text, wide in zip(others, columns, strict=True))
        return [(pad(line, width), "head")]

    def line(self, row: int, width: int) -> Sequence[Piece]:
        """One row."""
        number = self.tree.rows[row]
        node = self.tree.nodes[number]
        inner = bool(self.tree.below[number])
        twist = ("-" if self.tree.is_open(number) else "+") if inner else " "
        room = self._name_width(width)
        left = f" {' ' * (_INDENT * node.depth)}{twist} "
        name = fit(f"{left}{self.tree.text(number)}", room - 1)
        alone = node.verdict == ALONE
        baseline, candidate = (
            "" if alone and not value else duration(value) for value in (node.baseline_ns, node.candidate_ns)
        )
        ratio = ratio_text(node.time.ratio) if node.time is not None else ""
        interval = interval_text(node.time) if node.time is not None else ""
        cells = [baseline, candidate, signed(node.change_ns), ratio, node.verdict, interval]
        texts = [pad(text, wide, right=True) for text, wide in zip(cells, self._widths(width), strict=False)]
        return [
            (pad(name, room), ""),
            ("".join(texts[:2]), ""),
            ("".join(texts[2:]), _STYLES[node.verdict]),
        ]

    def _titles(self, width: int) -> list[tuple[str, str]]:
        titles = [
            ("baseline", "baseline"),
            ("candidate", "candidate"),
            ("difference", "change"),
            ("change", ""),
        ]
        titles += [("verdict", "")]
        return [*titles, ("interval", "")] if self._wide(width) else titles

    def _wide(self, width: int) -> bool:
        return width >= 100

    def _widths(self, width: int) -> list[int]:
        return [10, 11, 12, 10, 9, *([20] if self._wide(width) else [])]

    def _name_width(self, width: int) -> int:
        return max(width - sum(self._widths(width)), _LEAST_NAME)
