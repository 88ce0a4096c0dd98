"""The three trees of a trace: merged, each module by itself, and the calls in order. No Textual."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modtrace.analysis.calls import names
from modtrace.analysis.columns import codes_at, column, nullable_codes, values_and_known, values_at
from modtrace.analysis.filters import Rows
from modtrace.analysis.memory import of_calls
from modtrace.analysis.roots import roots
from modtrace.analysis.summary import covered
from modtrace.analysis.timeline import timeline
from modtrace.analysis.tree import Tree, placed
from modtrace.analysis.work import work
from modtrace.trace.reader import Stored
from modtrace.trace.schema import MODULE, STEP
from modtrace.views.tui.nodes import Bools, Ints, Nodes

MODES = ("merged", "instances", "calls")
OUTSIDE = "outside modules"


@dataclass(frozen=True)
class Part:
    """The rows of the timeline that one process has: from `low` to `high`."""

    stored: Stored
    process: int
    low: int
    high: int

    @classmethod
    def of(cls, stored: Stored, process: int) -> Part:
        """The part of a process, which is one stretch."""
        of_rows = column(timeline(stored).calls, "process")
        low, high = np.searchsorted(of_rows, [process, process + 1]).tolist()
        return cls(stored, process, low, high)

    def column(self, name: str) -> Ints:
        """A column without nulls."""
        found: Ints = column(timeline(self.stored).calls, name)[self.low : self.high]
        return found

    def codes(self, name: str) -> Ints:
        """A column of keys, -1 where there is none."""
        return nullable_codes(timeline(self.stored).calls.slice(self.low, self.high - self.low), name)

    def values(self, name: str) -> tuple[Ints, Bools]:
        """A column of numbers and where they are known."""
        return values_and_known(timeline(self.stored).calls.slice(self.low, self.high - self.low), name)

    def codes_at(self, name: str, rows: Ints) -> Ints:
        """Keys of some rows of the part, -1 where there is none."""
        return codes_at(timeline(self.stored).calls, name, rows + self.low)

    def values_at(self, name: str, rows: Ints) -> tuple[Ints, Bools]:
        """Numbers of some rows and where they are known."""
        return values_at(timeline(self.stored).calls, name, rows + self.low)

    @property
    def wall_ns(self) -> int:
        return max(self.stored.processes[self.process].wall_ns, 0)

    @property
    def rank(self) -> int:
        return self.stored.processes[self.process].rank


@dataclass(frozen=True)
class Placed:
    """A tree and where the calls stand in it: `node` of each row of the part, None where each row is a node."""

    nodes: Nodes
    node: npt.NDArray[np.int32] | None
    tree: Tree | None

    def rows_of(self, node: int) -> Ints:
        """The rows of the part that are one node."""
        if self.node is None:
            return np.array([node], np.int64)
        return np.flatnonzero(self.node == node)

    def node_of(self, row: int) -> int:
        """The node of a row of the part."""
        return row if self.node is None else int(self.node[row])


def grown(part: Part, mode: str) -> Placed:
    """One of the trees of MODES."""
    return _calls(part) if mode == "calls" else _merged(part, repeats=mode == "merged")


def _merged(part: Part, *, repeats: bool) -> Placed:
    found = placed(part.stored, part.process, repeats=repeats)
    tree, node = found.tree, found.node
    count = len(tree.depth)
    # What nothing recorded was running for is a row of its own, so that the top level adds up to the wall time.
    depth = np.append(tree.depth, 0)
    ends, parents = _ends_and_parents(depth)
    labels = [*tree.label, OUTSIDE]
    marks = [" recompute" if again else "" for again in tree.recompute.tolist()]
    folds = [f" x{number}" if number > 1 else "" for number in tree.instances.tolist()]
    kinds = [*tree.type, ""]

    def label(at: int) -> str:
        return OUTSIDE if at == count else f"{labels[at]}{folds[at]}{marks[at]}"

    def kind(at: int) -> str:
        return "" if kinds[at] in (labels[at], f"({labels[at][1:-1]})") else kinds[at]

    paths = [name or label_ for name, label_ in zip(tree.name, tree.label, strict=True)] + [OUTSIDE]
    distinct = {text: at for at, text in enumerate(dict.fromkeys(kinds))}
    outside = part.wall_ns - _busy(part)

    def numbers(name: str) -> tuple[Ints, Bools] | None:
        every = np.ones(count + 1, np.bool_)
        if name in ("self", "total"):
            values = tree.self_ns if name == "self" else tree.total_ns
            return np.append(values, max(outside, 0)), np.append(tree.unknown < tree.calls, True)
        if name == "calls":
            every[count] = False
            return np.append(tree.calls, 0), every
        return _of_rows(part, name, node, count + 1)

    rows = Rows(
        np.arange(count + 1),
        paths,
        np.array([distinct[text] for text in kinds], np.int64),
        list(distinct),
        numbers,
        lambda kind_, key: _members(part, kind_, key, node, count + 1),
    )
    return Placed(Nodes(depth, ends, parents, label, kind, rows), node, tree)


def _ends_and_parents(depth: Ints) -> tuple[Ints, Ints]:
    from modtrace.views.tui.nodes import ends_of, parents_of

    return ends_of(depth), parents_of(depth)


def _busy(part: Part) -> int:
    """Nanoseconds in which something recorded was running."""
    duration, known = part.values("duration_ns")
    tops = (part.column("parent") < 0) & known
    return covered(part.column("start_ns")[tops], duration[tops])


def _of_rows(
    part: Part, name: str, node: npt.NDArray[np.int32] | None, count: int
) -> tuple[Ints, Bools] | None:
    """`mem`: the most that was held in any call of a node; `flops`: those of all its calls; `flops_at_least`: the same
    without what is not known.
    """
    if name == "mem":
        if not len(part.stored.table("allocations")):
            return None
        held = of_calls(part.stored)
        values, known = held.peak_bytes[part.low : part.high], held.known[part.low : part.high]
    elif name in ("flops", "flops_at_least"):
        if not len(part.stored.table("work")):
            return None
        computed = work(part.stored)
        values = (computed.flops if name == "flops" else computed.least)[part.low : part.high]
        known = values >= 0
    else:
        return None
    if node is None:
        return values, known
    total = np.zeros(count, np.int64)
    if name == "mem":
        np.maximum.at(total, node[known], values[known])
        some = np.bincount(node[known], minlength=count) > 0
    else:
        np.add.at(total, node[known], values[known])
        some = (np.bincount(node, minlength=count) > 0) & (np.bincount(node[~known], minlength=count) == 0)
    return total, some


def _members(part: Part, kind: str, key: int, node: npt.NDArray[np.int32] | None, count: int) -> Bools:
    """Which nodes have a call in a phase or a step, or are of a rank."""
    if kind == "rank":
        return np.full(count, part.rank == key, np.bool_)
    inside: Bools = part.codes(kind) == key
    if node is None:
        return inside
    some: Bools = np.bincount(node[inside], minlength=count) > 0
    return some


def _calls(part: Part) -> Placed:
    line = timeline(part.stored)
    low, count = part.low, part.high - part.low
    depth = part.column("depth")
    parent = part.column("parent")
    parent = np.where(parent >= 0, parent - low, -1)
    end = part.column("last_call") - low + 1
    module, root, tag = part.codes("module"), part.codes("root"), part.codes("label")
    codes, texts = names(part.stored, np.maximum(root, 0), np.maximum(module, 0))
    types = part.stored.table("modules").column("type").to_pylist()
    # Kept as long as the trace is open: half as wide is enough.
    path = np.where(module >= 0, codes, tag + len(texts)).astype(np.int32)
    kind_code = np.where(module >= 0, module, tag + len(types)).astype(np.int32)
    of_module = module >= 0
    paths: list[str] = [*texts, *(name for name, _ in line.labels)]
    kinds: list[str] = [*types, *(kind for _, kind in line.labels)]
    tops = roots(part.stored).name
    what = part.column("kind")
    step = part.codes("step").astype(np.int32)
    backward = what != MODULE

    def label(at: int) -> str:
        name, up = paths[int(path[at])], int(parent[at])
        if what[at] == STEP:
            return f"step {step[at]}" if step[at] >= 0 else name
        if not name:
            return tops[kind_code[at]] if of_module[at] else kinds[int(kind_code[at])]
        above = paths[int(path[up])] if up >= 0 and of_module[at] and of_module[up] else ""
        # The backward of a module is inside those of others, so a name is cut where the one above is its beginning.
        return name[len(above) + 1 :] if above and name.startswith(f"{above}.") else name

    def kind(at: int) -> str:
        text = kinds[int(kind_code[at])]
        return "" if (backward[at] and not text) or text == label(at) else text

    def numbers(name: str) -> tuple[Ints, Bools] | None:
        if name in ("self", "total"):
            return part.values("self_ns" if name == "self" else "duration_ns")
        if name == "calls":
            return np.ones(count, np.int64), np.ones(count, np.bool_)
        if name == "start":
            return part.column("start_ns"), np.ones(count, np.bool_)
        return _of_rows(part, name, None, count)

    rows = Rows(
        path, paths, kind_code, kinds, numbers, lambda kind_, key: _members(part, kind_, key, None, count)
    )
    return Placed(Nodes(depth, end, parent, label, kind, rows), None, None)
