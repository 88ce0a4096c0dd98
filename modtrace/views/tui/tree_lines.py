"""A tree as lines: indentation, label, class and numbers in columns. No Textual."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from modtrace.analysis.metrics import METRICS, comparable
from modtrace.text import fit, pad, plain, width
from modtrace.units import percent
from modtrace.views.models.nodes import Bools
from modtrace.views.models.tree_model import TreeModel
from modtrace.views.tree import MAX_INDENT
from modtrace.views.tui.styles import Piece, phase_text, weight

LONGEST: Final = 400
"""Characters of a name that are looked at; no line is longer."""
CURSOR_COLUMNS: Final = 3
"""Columns at the left that mark the cursor."""
_WIDTHS: Final = {"share": 8, "bar": 10, "change": 9, "forward": 9, "backward": 9, "output": 20}
"""Columns that are drawn from a number that has a column of its own, or from texts; of the bar its least."""
_LONGEST_BAR: Final = 60
_LEFT_ALIGNED: Final = ("bar", "output")
_LOOKED_THROUGH: Final = 3000
"""Labels that are looked at to see how wide their column has to be."""
_MIN_LABEL: Final = 40
"""Columns that a label keeps when more numbers are shown than the usual ones."""


def sort_keys() -> tuple[str, ...]:
    """Sort keys of a tree: the order of calls, every number, the name."""
    return ("order", *(metric.key for metric in comparable()), "name")


def _width(name: str) -> int:
    return _WIDTHS[name] if name in _WIDTHS else METRICS[name].width


@dataclass
class TreeLines:
    """Lines of a tree model.

    whole_ns: what shares are of.
    screen: columns of the whole screen, which decide on what is shown: from 80 on shares and calls, from 100 all that
        is known of any row, as far as a label keeps room.
    share: the number that shares are of, `total` or `self`.
    hits: what a search has found.
    timed: rows are single calls, so when they began stands in the place of how many there are.
    extra: further columns, such as the number that the tree is sorted by.
    names: the columns of numbers, in place of those that `screen` has room for.
    title: what stands above the labels.
    texts: texts of a node in a column, in place of its number.
    bar: (phase, length from 0 to 1) of the parts of a node's bar, in place of its share.
    failed: nodes that are marked because the run ended in them.
    titles: heads of columns that are called something else than usual.
    """

    tree: TreeModel
    whole_ns: int
    screen: int = 80
    share: str = "total"
    hits: Bools | None = None
    timed: bool = False
    extra: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None
    title: str = "module"
    texts: Mapping[str, Callable[[int], str]] = field(default_factory=dict)
    bar: Callable[[int], Sequence[tuple[str, float]]] | None = None
    failed: frozenset[int] = frozenset()
    titles: Mapping[str, str] = field(default_factory=dict)
    _needed: tuple[object, int] = (None, 0)

    def __len__(self) -> int:
        return len(self.tree)

    def columns(self, width: int) -> list[str]:
        """Names of the columns of numbers: keys of metrics, `share` and `bar`.

        Args:
            width: columns of a line.
        """
        if self.names is not None:
            return list(self.names)
        names = ["self"]
        if self.screen >= 100:
            names.append("total")
        names.append("share")
        if self.screen >= 80:
            names.append("start" if self.timed else "calls")
            names += [name for name in self.extra if name not in names]
        if self.screen >= 100:
            names += self._further(names, width - _width("bar"))
            names.append("bar")
        return names

    def _further(self, names: Sequence[str], width: int) -> list[str]:
        """Other numbers that are known, the first that fit."""
        further: list[str] = []
        for metric in () if self.timed else comparable():
            room = width - sum(map(_width, (*names, *further, metric.key)))
            if metric.key not in names and room >= _MIN_LABEL and self.tree.nodes.has(metric.key):
                further.append(metric.key)
        return further

    def sort_by(self, key: str) -> None:
        """Sort siblings, and show the number that they are sorted by."""
        self.extra = (key,) if key in METRICS else ()
        self.tree.sort(key)

    def head(self, width: int) -> Sequence[Piece]:
        """Names of the columns, with an arrow at that which is sorted by."""
        columns = self.columns(width)
        room, bar = self._room(width, columns)
        arrow = " v" if self.tree.descending else " ^"
        key = self.tree.key
        elsewhere = f"  by {key}{arrow}" if key not in ("order", *columns) else ""
        line = pad(f"   {self.title}{elsewhere}", room)
        for name in columns:
            columns_of = bar if name == "bar" else _width(name)
            text = self._title(name) + (arrow if self.tree.key == name else "")
            line += " " + (pad(text, columns_of - 1) if name in _LEFT_ALIGNED else text.rjust(columns_of - 1))
        return [(line, "head")]

    def _title(self, name: str) -> str:
        if name in self.titles:
            return self.titles[name]
        return f"% {self.share}" if name == "share" else METRICS[name].title if name in METRICS else name

    def key_at(self, column: int, width: int) -> str:
        """The sort key of the column of a head that a place is in; `name` for the labels."""
        columns = self.columns(width)
        room, bar = self._room(width, columns)
        place, key = room, "name"
        for name in columns:
            if column < place:
                break
            key = name
            place += bar if name == "bar" else _width(name)
        return self.share if key in ("share", "bar") else key

    def line(self, row: int, width: int) -> Sequence[Piece]:
        tree = self.tree
        node = tree.node_at(row)
        columns = self.columns(width)
        room, bar = self._room(width, columns)
        failed = node in self.failed
        gutter = (">>" if row == tree.cursor else "  ") + ("!" if failed else " ")
        pieces: list[Piece] = [(gutter, "error" if failed else "bold")]
        pieces += self._named(node, room - CURSOR_COLUMNS)
        for name in columns:
            pieces += self._bar(node, bar) if name == "bar" else self._cell(node, name)
        return pieces

    def _room(self, width: int, columns: Sequence[str]) -> tuple[int, int]:
        """Columns of labels with their classes, and of the bar: it has what labels do not need."""
        numbers = sum(_width(name) for name in columns if name != "bar")
        if "bar" not in columns:
            return max(width - numbers, 12), 0
        needed = CURSOR_COLUMNS + self._label_columns() + 16
        bar = min(max(width - numbers - needed, _width("bar")), _LONGEST_BAR)
        return max(width - numbers - bar, 12), bar

    def _label_columns(self) -> int:
        """Columns of the longest of the first labels."""
        nodes = self.tree.nodes
        if self._needed[0] is not nodes:
            longest = 0
            for node in range(min(len(nodes), _LOOKED_THROUGH)):
                level = int(nodes.depth[node])
                indent = 2 * level if level <= MAX_INDENT else 2 * MAX_INDENT + len(f"[{level}] ")
                longest = max(longest, indent + 2 + width(plain(nodes.label(node)[:LONGEST])))
            self._needed = nodes, longest
        return self._needed[1]

    def _named(self, node: int, room: int) -> list[Piece]:
        """Label and class. Classes begin behind the longest label, or where it has to end for them."""
        nodes, tree = self.tree.nodes, self.tree
        level = int(nodes.depth[node])
        most = max(min(MAX_INDENT, room // 5), 1)
        indent = "  " * level if level <= most else "  " * most + f"[{level}] "
        mark = "  " if tree.is_leaf(node) else "v " if tree.is_open(node) else "> "
        label = plain(nodes.label(node)[:LONGEST])
        class_name = plain(nodes.class_name(node)[:LONGEST])
        area = max(min(self._label_columns(), room - (13 if room >= 42 else 11)), 8)
        start = fit(indent + mark, max(room - 4, 2))
        limit = max(area, room - 1 - min(width(class_name), 12)) if class_name else room
        shown = fit(label, max(limit - width(start), 1))
        if class_name and width(shown) < width(label):  # a name that is cut says more than its class
            shown, class_name = fit(label, room - width(start)), ""
        style = "error" if node in self.failed else "hit" if self.hits is not None and self.hits[node] else ""
        pieces = [(start, ""), (shown, style)]
        used = width(start) + width(shown)
        if class_name:
            # One that is too long begins further left, where the label leaves room.
            begin = max(min(area + 1, room - width(class_name)), used + 1)
            text = fit(class_name, room - begin)
            pieces += [(" " * (begin - used), ""), (text, "type")]
            used = begin + width(text)
        return [*pieces, (" " * max(room - used, 0), "")]

    def _share(self, node: int) -> float:
        part = self.tree.nodes.number(self.share, node)
        return 0.0 if part is None or self.whole_ns <= 0 else part / self.whole_ns

    def _bar(self, node: int, columns: int) -> list[Piece]:
        """The parts of a bar in the hues of their phases; without them one part as long as the share."""
        room = columns - 1
        if self.bar is None:
            share = self._share(node) if self.tree.nodes.is_counted(node) else 0.0
            name = phase_text(self.tree.nodes.phase_name(node))
            drawn = round(min(share, 1.0) * room)
            return [(" ", ""), ("#" * drawn, name), (" " * (room - drawn), "")]
        pieces: list[Piece] = [(" ", "")]
        drawn, reached = 0, 0.0
        for phase, share in self.bar(node):
            reached += max(share, 0.0)
            end = min(round(reached * room), room)
            pieces.append((("=" if phase == "backward" else "#") * (end - drawn), phase_text(phase)))
            drawn = end
        return [*pieces, (" " * (room - drawn), "")]

    def _cell(self, node: int, name: str) -> list[Piece]:
        nodes, columns = self.tree.nodes, _width(name)
        if name == "share":
            if name in self.texts:
                text = self.texts[name](node)
            elif not nodes.is_counted(node):
                text = "-"
            else:
                part = nodes.number(self.share, node)
                text = "?" if part is None else percent(part, self.whole_ns)
            return [(text.rjust(columns), weight(self._share(node)))]
        if name in self.texts:
            text = fit(self.texts[name](node), columns - 1)
            return [(" " + pad(text, columns - 1) if name in _LEFT_ALIGNED else text.rjust(columns), "")]
        metric, value = METRICS[name], nodes.value(name, node)
        if not (nodes.is_counted(node) or self.timed or metric.adds in ("calls", "ranks")):
            return [("-".rjust(columns), "dim")]
        least = nodes.number(metric.bound, node) if metric.bound else None
        text = "" if value is None and metric.adds == "calls" else metric.text(value, least)
        return [(text.rjust(columns), "")]


def filtered(model: TreeModel, share: str = "self") -> str:
    """Rows that a filter lets through, and their share of a number, where it is known; "" where there is no filter."""
    if model.matches is None:
        return ""
    rows = f"{int(model.matches.sum()):,} of {int(model.nodes.rows.candidates.sum()):,} rows"
    spent_ns, known = model.nodes.numbers(share)
    shown = model.matches & known
    if not known.any():
        return rows
    return f"{rows}, {percent(int(spent_ns[shown].sum()), int(spent_ns[known].sum()))}% of time"
