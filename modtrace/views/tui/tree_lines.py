"""A tree as lines: indentation, label, class and numbers in columns. No Textual."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from modtrace.text import fit, pad, plain, width
from modtrace.units import bounded, count, duration, percent, size
from modtrace.views.tree import MAX_INDENT
from modtrace.views.tui.look import Piece, heat
from modtrace.views.tui.nodes import Bools
from modtrace.views.tui.tree_model import TreeModel

LONGEST: Final = 400
"""Characters of a name that are looked at; no line is longer."""
_WIDTHS: Final = {"self": 9, "total": 9, "share": 8, "calls": 8, "start": 9, "mem": 9, "flops": 11, "bar": 10}
KEYS: Final = ("order", "self", "total", "calls", "mem", "flops", "name")


@dataclass
class TreeLines:
    """Lines of a tree model.

    whole_ns: what shares are of.
    screen: columns of the whole screen, which decide on what is shown: from 80 on shares and calls, from 100 all.
    share: the number that shares are of, `total` or `self`.
    hits: what a search has found.
    timed: rows are single calls, so when they began stands in the place of how many there are.
    extra: further columns, such as `mem` when the tree is sorted by it.
    marks: what to put behind the label of a node, such as a trend.
    """

    tree: TreeModel
    whole_ns: int
    screen: int = 80
    share: str = "total"
    hits: Bools | None = None
    timed: bool = False
    extra: tuple[str, ...] = ()
    marks: Callable[[int], str] | None = None
    kinds: bool = field(default=True)

    def __len__(self) -> int:
        return len(self.tree)

    def columns(self) -> list[str]:
        """Names of the columns of numbers."""
        names = ["self"]
        if self.screen >= 100:
            names.append("total")
        if self.screen >= 80:
            names += ["share", "start" if self.timed else "calls"]
        names += [name for name in self.extra if self.screen >= 80]
        if self.screen >= 100:
            names.append("bar")
        return names

    def head(self, width: int) -> Sequence[Piece]:
        """Names of the columns, with an arrow at that which is sorted by."""
        columns = self.columns()
        room = self._room(width, columns)
        arrow = " v" if self.tree.descending else " ^"
        texts = {"share": f"% {self.share}", "mem": "peak", "flops": "FLOPs"}
        key = self.tree.key
        elsewhere = f"  by {key}{arrow}" if key not in ("order", *columns) else ""
        line = pad(f"   module{elsewhere}", room)
        for name in columns:
            text = texts.get(name, name) + (arrow if self.tree.key == name else "")
            line += " " + (pad(text, _WIDTHS[name] - 1) if name == "bar" else text.rjust(_WIDTHS[name] - 1))
        return [(line, "head")]

    def line(self, row: int, width: int) -> Sequence[Piece]:
        tree = self.tree
        node = tree.node_at(row)
        columns = self.columns()
        room = self._room(width, columns)
        gutter = ">> " if row == tree.cursor else "   "
        pieces: list[Piece] = [(gutter, "bold"), *self._named(node, room - 3)]
        for name in columns:
            pieces += self._cell(node, name)
        return pieces

    def _room(self, width: int, columns: Sequence[str]) -> int:
        return max(width - sum(_WIDTHS[name] for name in columns), 12)

    def _named(self, node: int, room: int) -> list[Piece]:
        nodes, tree = self.tree.nodes, self.tree
        level = int(nodes.depth[node])
        most = max(min(MAX_INDENT, room // 5), 1)
        indent = "  " * level if level <= most else "  " * most + f"[{level}] "
        mark = "  " if tree.is_leaf(node) else "v " if tree.is_open(node) else "> "
        label = plain(nodes.label(node)[:LONGEST])
        kind = plain(nodes.kind(node)[:LONGEST]) if self.kinds else ""
        behind = self.marks(node) if self.marks is not None else ""
        kind_width = 12 if room >= 42 else 10
        name_room = max(room - (kind_width + 1 if kind else 0), 8)
        start = fit(indent + mark, max(name_room - 4, 2))
        left = name_room - width(start)
        shown = fit(label, left)
        if width(label) > left and kind:  # a name that is cut says more than its class
            shown, kind = fit(label, room - width(start)), ""
            left = room - width(start)
        named = "hit" if self.hits is not None and self.hits[node] else ""
        pieces = [(start, ""), (shown, named), (" " * (left - width(shown)), "")]
        if kind:
            pieces += [(" ", ""), (pad(kind, kind_width), "type")]
        if behind:
            text = pieces[2][0]
            pieces[2] = (pad(behind, len(text)) if len(text) else "", "")
        return pieces

    def _cell(self, node: int, name: str) -> list[Piece]:
        nodes, columns = self.tree.nodes, _WIDTHS[name]
        if name == "bar":
            total = nodes.number("total", node) or 0
            share = total / self.whole_ns if self.whole_ns > 0 else 0.0
            bar = "#" * round(min(share, 1.0) * (columns - 1))
            return [(" ", ""), (pad(bar, columns - 1), heat(share))]
        if name == "share":
            part = nodes.number(self.share, node)
            text = "?" if part is None else percent(part, self.whole_ns)
            share = 0.0 if part is None or self.whole_ns <= 0 else part / self.whole_ns
            return [(text.rjust(columns), heat(share))]
        value = nodes.number(name, node)
        if name == "calls":
            text = "" if value is None else count(value)
        elif name == "mem":
            text = size(value)
        elif name == "flops":
            text = bounded(value, nodes.number("flops_at_least", node), "FLOP")
        else:
            text = duration(value)
        return [(text.rjust(columns), "")]


def filtered(model: TreeModel) -> str:
    """How much a filter lets through; "" where there is none."""
    if model.matches is None:
        return ""
    own, known = model.nodes.numbers("self")
    some = model.matches & known
    share = percent(int(own[some].sum()), int(own[known].sum()))
    return f"{int(model.matches.sum()):,} of {len(model.nodes):,} rows, {share}% of time"
