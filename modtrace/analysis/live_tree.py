"""The tree of a growing trace as rows to show: repeated blocks folded, all its processes in one or one of them.

Numbers are sums of the last steps; the texts of a row are made when it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.live import LiveProcess, LiveTrace
from modtrace.analysis.live_nodes import AGAIN, BACK, LiveNodes
from modtrace.analysis.live_steps import Step, Sums, window
from modtrace.analysis.module_names import below, fold, fold_root

Ints = npt.NDArray[np.int64]
Key = tuple[Any, ...]

WINDOWS: Final = (20, 100, None)
"""Steps that numbers are of; None for everything since the beginning, or since `reset`."""


@dataclass(frozen=True)
class LiveRow:
    """One row.

    path: a number that tells it apart from all others for as long as the trace grows.
    parent: the row above it, -1 for a root.
    name: its name in the root module, numbers folded; "" for what is no module.
    label: the part of the name below that of the row above.
    class_name: class; "" where that would repeat the label.
    variant: of live_nodes: a plain call, a recompute, a backward.
    """

    path: int
    parent: int
    depth: int
    name: str
    label: str
    class_name: str
    variant: int


@dataclass(frozen=True)
class LiveNumbers:
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
        self.rows: list[LiveRow] = []
        self.instances: list[int] = []
        self.numbers = LiveNumbers(0, 0, *_none(0), 0, *_none(0))
        self._paths: dict[tuple[int, Key], int] = {}
        self._built: object = None
        self._row_of: list[Ints] = []
        self._since: dict[Any, tuple[Ints, int]] = {}

    @property
    def processes(self) -> list[LiveProcess]:
        """Those that are shown."""
        every = self.trace.processes
        return every if self.rank is None else every[self.rank : self.rank + 1]

    def refresh(self) -> None:
        """Bring rows and numbers up to what the trace is now."""
        shown = self.processes
        built = (
            self.rank,
            [(id(p.nodes), len(p.nodes), len(p.nodes.names), len(p.nodes.output)) for p in shown],
        )
        if built != self._built:
            self._build(shown)
            self._built = built
        self.numbers = self._numbers(shown)

    def reset(self) -> None:
        """Let the window of everything begin now."""
        for process in self.trace.processes:
            sums = process.steps.all()
            self._since[process.folder] = (
                np.stack([sums.calls, sums.total_ns, sums.self_ns]),
                process.steps.ended,
            )
        self.refresh()

    def change(self, row: int, by: str = "total") -> float | None:
        """By how much a row's `total` or `self` time in a step differs from that in the window before; None where one
        is not known.
        """
        numbers = self.numbers
        sums = [numbers.now.self_ns, numbers.before.self_ns]
        if by == "total":
            sums = [numbers.now.total_ns, numbers.before.total_ns]
        now, before = (int(values[row]) for values in sums)
        if not numbers.steps or not numbers.before_steps or before <= 0:
            return None
        return (now / numbers.steps) / (before / numbers.before_steps) - 1

    def _build(self, shown: list[LiveProcess]) -> None:
        rows: list[LiveRow] = []
        place: dict[tuple[int, Key], int] = {}
        members: list[set[Any]] = []
        names: list[tuple[str, str]] = []
        full_names: list[str] = []
        self._row_of = []
        for number, process in enumerate(shown):
            nodes = process.nodes
            of_node = np.zeros(len(nodes), np.int64)
            for node, (root, subject) in enumerate(nodes.what):
                over = int(of_node[nodes.parent[node]]) if nodes.parent[node] >= 0 else -1
                name, class_name, key = _group(process, nodes, root, subject)
                key = (*key, nodes.variant[node])
                row = place.get((over, key))
                if row is None:
                    row = place[over, key] = len(rows)
                    top = nodes.root_name(root) if root >= 0 else ""
                    same = over >= 0 and names[over][1] == top and root >= 0
                    label = below(name, names[over][0]) if same else name
                    label = label or (f"({top})" if over >= 0 and names[over][1] else top)
                    full_names.append(nodes.names.get((root, subject), "") if root >= 0 else "")
                    place_above = (rows[over].path if over >= 0 else -1, key)
                    path = self._paths.setdefault(place_above, len(self._paths))
                    depth = rows[over].depth + 1 if over >= 0 else 0
                    rows.append(
                        LiveRow(
                            path,
                            over,
                            depth,
                            name if root >= 0 else "",
                            label,
                            class_name if label != class_name else "",
                            nodes.variant[node],
                        )
                    )
                    names.append((name, top))
                    members.append(set())
                if root >= 0:
                    members[row].add((number, subject))
                of_node[node] = row
            self._row_of.append(of_node)
        self.rows = rows
        # Ranks have a module each: how many there are in one process.
        self.instances = [len({subject for _, subject in modules}) for modules in members]
        for row_index, full_name in enumerate(full_names):  # one by itself has its own number in its name
            parts = full_name.split(".")
            count = rows[row_index].label.count(".") + 1
            if self.instances[row_index] == 1 and "*" in rows[row_index].label and len(parts) >= count:
                rows[row_index] = replace(rows[row_index], name=full_name, label=".".join(parts[-count:]))

    def _numbers(self, shown: list[LiveProcess]) -> LiveNumbers:
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
                part = Sums(*np.maximum(values, 0))
            else:
                part = window(last, count)
                steps += len(last)
                span += sum(step.duration_ns for step in last)
            _add(now, of_node, part)
            _add(before, of_node, window(earlier, count))
            before_steps += len(earlier)
        return LiveNumbers(steps, span, Sums(*now), before_steps, Sums(*before))

    def _windows(self, process: LiveProcess) -> tuple[list[Step], list[Step]]:
        if self.window is None:
            return [], process.steps.last(WINDOWS[0] or 0)
        both = process.steps.last(2 * self.window)
        return both[-self.window :], both[: -self.window]


def _add(sums: Ints, of_node: Ints, part: Sums) -> None:
    for row, values in zip(sums, (part.calls, part.total_ns, part.self_ns), strict=True):
        np.add.at(row, of_node, values[: len(of_node)])


def _none(count: int) -> tuple[Sums]:
    return (Sums(*np.zeros((3, count), np.int64)),)


def _group(process: LiveProcess, nodes: LiveNodes, root: int, subject: int) -> tuple[str, str, Key]:
    """Name, class and what tells a node apart from its siblings. Modules whose names differ only in numbers and that
    are alike in class, parameters and first output are one.
    """
    if root < 0:
        name, class_name, place = nodes.labels.get(subject, ("?", "", ""))
        return name, class_name or place, (name, class_name, place)
    name = nodes.names.get((root, subject), "")
    class_name, parameters = nodes.modules.get(subject, ("?", None))
    top = fold_root(nodes.root_name(root))
    output = process.signatures.get(nodes.output.get(subject, -1), "")
    return fold(name), class_name, (fold(name), class_name, top, parameters, output)


def mark(variant: int) -> str:
    """The mark of a row that is no plain call."""
    return {AGAIN: "again ", BACK: "bwd "}.get(variant, "")
