"""The tree of a growing trace as rows to show: repeated blocks folded, all its processes in one or one of them.

Numbers are sums of the last steps; the texts of a row are made when it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.live import LiveProcess, LiveTrace
from modtrace.analysis.live_nodes import AGAIN, BACK, Nodes
from modtrace.analysis.live_steps import Step, Sums, window
from modtrace.analysis.naming import below, fold, fold_root

Ints = npt.NDArray[np.int64]
Key = tuple[Any, ...]

WINDOWS: Final = (20, 100, None)
"""Steps that numbers are of; None for everything since the beginning, or since `reset`."""
SORTS: Final = ("order", "self", "total", "calls", "name")
OPEN_DEPTH: Final = 2
"""Rows less deep than this are open unless the user has closed them."""


@dataclass(frozen=True)
class Row:
    """One row. `path`, a number, tells it apart from all others for as long as the trace grows."""

    path: int
    parent: int
    depth: int
    label: str
    kind: str
    variant: int


@dataclass(frozen=True)
class Numbers:
    """An array element a row: sums over `steps` steps, and over `before_steps` before those."""

    steps: int
    span_ns: int
    now: Sums
    before_steps: int
    before: Sums


class LiveTree:
    """Rows over one process (`rank`, an index) or all of them (None)."""

    def __init__(self, trace: LiveTrace) -> None:
        self.trace = trace
        self.rank: int | None = None
        self.window: int | None = WINDOWS[0]
        self.sort = "total"
        self.rows: list[Row] = []
        self.instances: list[int] = []
        self.numbers = Numbers(0, 0, *_none(0), 0, *_none(0))
        self.visible: list[int] = []
        self.cursor: int | None = None
        self._open: dict[int, bool] = {}
        self._paths: dict[tuple[int, Key], int] = {}
        self._built: object = None
        self._row_of: list[Ints] = []
        self._children: list[list[int]] = []
        self._since: dict[Any, tuple[Ints, int]] = {}

    @property
    def processes(self) -> list[LiveProcess]:
        """Those that are shown."""
        found = self.trace.processes
        return found if self.rank is None else found[self.rank : self.rank + 1]

    def refresh(self) -> None:
        """Bring rows and numbers up to what the trace is now; the cursor stays on its row."""
        shown = self.processes
        built = (
            self.rank,
            [(id(p.nodes), len(p.nodes), len(p.nodes.names), len(p.nodes.output)) for p in shown],
        )
        if built != self._built:
            self._build(shown)
            self._built = built
        self.numbers = self._numbers(shown)
        self.arrange()

    def reset(self) -> None:
        """Let the window of everything begin now."""
        for process in self.trace.processes:
            sums = process.steps.all()
            self._since[process.folder] = (
                np.stack([sums.calls, sums.total_ns, sums.self_ns]),
                process.steps.ended,
            )
        self.refresh()

    def value(self, row: int) -> int:
        """What rows are compared by: total time, or self time where they are sorted by that."""
        return int((self.numbers.now.self_ns if self.sort == "self" else self.numbers.now.total_ns)[row])

    def change(self, row: int) -> float | None:
        """By how much a row's time in a step differs from that in the window before; None where one is not known."""
        numbers = self.numbers
        before = int((numbers.before.self_ns if self.sort == "self" else numbers.before.total_ns)[row])
        if not numbers.steps or not numbers.before_steps or before <= 0:
            return None
        return (self.value(row) / numbers.steps) / (before / numbers.before_steps) - 1

    def is_open(self, row: int) -> bool:
        """Whether the rows below a row are shown."""
        return self._open.get(self.rows[row].path, self.rows[row].depth < OPEN_DEPTH)

    def has_children(self, row: int) -> bool:
        return bool(self._children[row])

    def set_open(self, row: int, value: bool) -> None:
        """Open or close a row."""
        self._open[self.rows[row].path] = value
        self.arrange()

    def arrange(self) -> None:
        """Which rows are shown, in which order; rows that did not run in the window are left out."""
        ran, found = (self.numbers.now.calls > 0).tolist(), []
        for row in range(len(self.rows) - 1, -1, -1):  # parents come before their children
            if ran[row] and self.rows[row].parent >= 0:
                ran[self.rows[row].parent] = True
        waiting = self._sorted(self._children[-1] if self._children else [])[::-1]
        while waiting:
            row = waiting.pop()
            if not ran[row]:
                continue
            found.append(row)
            if self.is_open(row):
                waiting += self._sorted(self._children[row])[::-1]
        self.visible = found
        if found and self.cursor not in [self.rows[row].path for row in found]:
            self.cursor = self.rows[found[0]].path

    def position(self) -> int:
        """Where among the visible rows the cursor is."""
        for at, row in enumerate(self.visible):
            if self.rows[row].path == self.cursor:
                return at
        return 0

    def move(self, by: int) -> None:
        """Move the cursor over visible rows."""
        if self.visible:
            at = min(max(self.position() + by, 0), len(self.visible) - 1)
            self.cursor = self.rows[self.visible[at]].path

    def _sorted(self, rows: list[int]) -> list[int]:
        if self.sort == "order":
            return rows
        if self.sort == "name":
            return sorted(rows, key=lambda row: self.rows[row].label)
        now = self.numbers.now
        values = {"calls": now.calls, "self": now.self_ns}.get(self.sort, now.total_ns)
        return sorted(rows, key=lambda row: -int(values[row]))

    def _build(self, shown: list[LiveProcess]) -> None:
        rows: list[Row] = []
        place: dict[tuple[int, Key], int] = {}
        members: list[set[Any]] = []
        names: list[tuple[str, str]] = []
        wholes: list[str] = []
        self._row_of = []
        for number, process in enumerate(shown):
            nodes = process.nodes
            of_node = np.zeros(len(nodes), np.int64)
            for node, (root, what) in enumerate(nodes.what):
                over = int(of_node[nodes.parent[node]]) if nodes.parent[node] >= 0 else -1
                name, kind, key = _group(process, nodes, root, what)
                key = (*key, nodes.variant[node])
                row = place.get((over, key))
                if row is None:
                    row = place[over, key] = len(rows)
                    top = nodes.root_name(root) if root >= 0 else ""
                    same = over >= 0 and names[over][1] == top and root >= 0
                    label = below(name, names[over][0]) if same else name
                    label = label or (f"({top})" if over >= 0 and names[over][1] else top)
                    wholes.append(nodes.names.get((root, what), "") if root >= 0 else "")
                    place_above = (rows[over].path if over >= 0 else -1, key)
                    path = self._paths.setdefault(place_above, len(self._paths))
                    depth = rows[over].depth + 1 if over >= 0 else 0
                    rows.append(
                        Row(path, over, depth, label, kind if label != kind else "", nodes.variant[node])
                    )
                    names.append((name, top))
                    members.append(set())
                if root >= 0:
                    members[row].add((number, what))
                of_node[node] = row
            self._row_of.append(of_node)
        self.rows = rows
        # Ranks have a module each: how many there are in one process.
        self.instances = [len({what for _, what in found}) for found in members]
        for at, whole in enumerate(wholes):  # one by itself has its own number in its name
            parts = whole.split(".")
            count = rows[at].label.count(".") + 1
            if self.instances[at] == 1 and "*" in rows[at].label and len(parts) >= count:
                rows[at] = replace(rows[at], label=".".join(parts[-count:]))
        self._children = [[] for _ in range(len(rows) + 1)]
        for at, one in enumerate(rows):
            self._children[one.parent].append(at)

    def _numbers(self, shown: list[LiveProcess]) -> Numbers:
        now, before = np.zeros((2, 3, len(self.rows)), np.int64)
        steps = before_steps = span = 0
        for process, of_node in zip(shown, self._row_of, strict=True):
            count = len(process.nodes)
            last, earlier = self._windows(process)
            if self.window is None:
                sums = process.steps.all()
                base, ended = self._since.get(process.folder, (np.zeros((3, 0), np.int64), 0))
                values = np.stack([sums.calls, sums.total_ns, sums.self_ns])
                values[:, : base.shape[1]] -= base
                steps += process.steps.ended - ended
                span += process.wall_ns
                found = Sums(*np.maximum(values, 0))
            else:
                found = window(last, count)
                steps += len(last)
                span += sum(step.duration_ns for step in last)
            _add(now, of_node, found)
            _add(before, of_node, window(earlier, count))
            before_steps += len(earlier)
        return Numbers(steps, span, Sums(*now), before_steps, Sums(*before))

    def _windows(self, process: LiveProcess) -> tuple[list[Step], list[Step]]:
        if self.window is None:
            return [], process.steps.last(WINDOWS[0] or 0)
        both = process.steps.last(2 * self.window)
        return both[-self.window :], both[: -self.window]


def _add(sums: Ints, of_node: Ints, found: Sums) -> None:
    for row, values in zip(sums, (found.calls, found.total_ns, found.self_ns), strict=True):
        np.add.at(row, of_node, values[: len(of_node)])


def _none(count: int) -> tuple[Sums]:
    return (Sums(*np.zeros((3, count), np.int64)),)


def _group(process: LiveProcess, nodes: Nodes, root: int, what: int) -> tuple[str, str, Key]:
    """Name, class and what tells a node apart from its siblings. Modules whose names differ only in numbers and that
    are alike in class, parameters and first output are one.
    """
    if root < 0:
        name, kind, place = nodes.labels.get(what, ("?", "", ""))
        return name, kind or place, (name, kind, place)
    name = nodes.names.get((root, what), "")
    kind, parameters = nodes.modules.get(what, ("?", None))
    top = fold_root(nodes.root_name(root))
    output = process.signatures.get(nodes.output.get(what, -1), "")
    return fold(name), kind, (fold(name), kind, top, parameters, output)


def mark(variant: int) -> str:
    """What is said of a row that is no plain call."""
    return {AGAIN: "again ", BACK: "bwd "}.get(variant, "")
