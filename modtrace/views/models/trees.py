"""The three trees of a trace: merged, each module by itself, and the calls in order. No Textual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modtrace.analysis.calls import names
from modtrace.analysis.columns import codes_at, column, nullable_codes, values_and_known, values_at
from modtrace.analysis.filters import FilterRows
from modtrace.analysis.flat_profile import FlatProfile, Window, flat_profile
from modtrace.analysis.metric_values import Values, WindowNumbers, of_single_calls
from modtrace.analysis.roots import roots
from modtrace.analysis.timeline import timeline
from modtrace.analysis.tree import MergedTree, Tree, placed
from modtrace.trace.reader import Stored
from modtrace.trace.schema import MODULE, STEP
from modtrace.views.models.nodes import Bools, Ints, TreeNodes

MODES = ("merged", "instances", "calls")
BEFORE = "before the first call"
OUTSIDE = "outside of calls"
LEFT_OUT = "steps that were left out"


@dataclass(frozen=True)
class ProcessRows:
    """The rows of the timeline that one process has: from `low` to `high`."""

    stored: Stored
    process: int
    low: int
    high: int

    @classmethod
    def of(cls, stored: Stored, process: int) -> ProcessRows:
        """The part of a process, which is one stretch."""
        of_rows = column(timeline(stored).calls, "process")
        low, high = np.searchsorted(of_rows, [process, process + 1]).tolist()
        return cls(stored, process, low, high)

    def column(self, name: str) -> Ints:
        """A column without nulls."""
        values: Ints = column(timeline(self.stored).calls, name)[self.low : self.high]
        return values

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
class PlacedTree:
    """A tree and where the calls stand in it.

    node: the node of each row of the part, None where each row is a node.
    window: the time that shares and sums are of.
    """

    nodes: TreeNodes
    node: npt.NDArray[np.int32] | None
    tree: Tree | None
    window: Window

    @property
    def base_ns(self) -> int:
        """100 %."""
        return self.window.base_ns

    @property
    def window_text(self) -> str:
        """`steps 1-39`, `34 of 40 calls`, `the whole run`."""
        return self.window.text.partition(";")[0]

    def rows_of(self, node: int) -> Ints:
        """The rows of the part that are one node."""
        if self.node is None:
            return np.array([node], np.int64)
        return np.flatnonzero(self.node == node)

    def node_of(self, row: int) -> int:
        """The node of a row of the part."""
        return row if self.node is None else int(self.node[row])


def grouped(part: ProcessRows, mode: str) -> MergedTree | None:
    """The tree of one of MODES whose nodes are groups of calls; None for `calls`."""
    return None if mode == "calls" else placed(part.stored, part.process, repeats=mode == "merged")


def grown(part: ProcessRows, groups: MergedTree | None, *, whole_run: bool) -> PlacedTree:
    """The nodes of a tree, with the numbers of the steps that count, or of the whole run.

    Args:
        part: the rows of one process.
        groups: what `grouped` gives.
        whole_run: numbers are of all calls, and time without any call has rows of its own.
    """
    profile = flat_profile(part.stored, part.process, whole_run=whole_run)
    if groups is None:
        return _calls(part, profile.window)
    return _merged(part, groups, profile, whole_run=whole_run)


def _merged(part: ProcessRows, groups: MergedTree, profile: FlatProfile, *, whole_run: bool) -> PlacedTree:
    tree, node = groups.tree, groups.node
    count = len(tree.depth)
    # Time without any call has rows of its own, so that the top level adds up to the whole run.
    waits = [(BEFORE, profile.before_ns), (OUTSIDE, profile.outside_ns)] if whole_run else []
    waits += [(LEFT_OUT, profile.left_out_ns)] if profile.left_out_ns else []
    extra = len(waits)
    wait_ns = np.array([ns for _, ns in waits], np.int64)
    depth = np.append(tree.depth, np.zeros(extra, np.int64))
    labels = [*tree.label, *(text for text, _ in waits)]
    marks = [" recompute" if again else "" for again in tree.recompute.tolist()] + [""] * extra
    folds = [f" x{number}" if number > 1 else "" for number in tree.instances.tolist()] + [""] * extra
    kinds = [*tree.type, *[""] * extra]

    def label(row: int) -> str:
        return f"{labels[row]}{folds[row]}{marks[row]}"

    def class_name(row: int) -> str:
        return "" if kinds[row] in (labels[row], f"({labels[row][1:-1]})") else kinds[row]

    paths = [name or label_ for name, label_ in zip(tree.name, tree.label, strict=True)]
    paths += [text for text, _ in waits]
    distinct = {text: code for code, text in enumerate(dict.fromkeys(kinds))}
    numbers = _group_numbers(part, node, count, profile.window, wait_ns)
    calls, _ = numbers("calls")
    rows = FilterRows(
        np.arange(count + extra),
        paths,
        np.array([distinct[text] for text in kinds], np.int64),
        list(distinct),
        numbers,
        lambda column_name, key: _members(part, column_name, key, node, count + extra),
    )
    counted = np.append((calls > 0)[:count], wait_ns > 0)
    ends, parents = _ends_and_parents(depth)
    phase = np.append(_first_phases(part, node, count), np.full(extra, -1))
    nodes = TreeNodes(depth, ends, parents, label, class_name, rows, phase, counted)
    return PlacedTree(nodes, node, tree, profile.window)


def _group_numbers(
    part: ProcessRows, node: npt.NDArray[np.int32], count: int, window: Window, wait_ns: Ints
) -> Callable[[str], Values]:
    """Numbers of nodes by the key of a metric: sums over the rows of a window; percentiles and peaks as they are
    anywhere else. `wait_ns` are the times of the rows behind the last node.
    """
    figures = WindowNumbers(part.stored, node, count, window.rows, part.low, part.high)

    def numbers(name: str) -> Values:
        values, known = figures.values(name)
        is_time = name in ("self", "total")
        waited: Any = (wait_ns if is_time else np.zeros_like(wait_ns)).astype(values.dtype)
        return (
            np.append(values, waited),
            np.append(known, np.full(len(wait_ns), is_time)),
        )

    return numbers


def _first_phases(part: ProcessRows, node: npt.NDArray[np.int32], count: int) -> Ints:
    """The phase of the first row of each node, -1 for none."""
    phases = np.full(count, -1, np.int64)
    phases[node[::-1]] = part.codes("phase")[::-1]  # of several values for one node the last remains
    return phases


def _ends_and_parents(depth: Ints) -> tuple[Ints, Ints]:
    from modtrace.views.models.nodes import ends_of, parents_of

    return ends_of(depth), parents_of(depth)


def _members(
    part: ProcessRows, column_name: str, key: int, node: npt.NDArray[np.int32] | None, count: int
) -> Bools:
    """Mask of the nodes that have a call in a phase or a step, or are of a rank."""
    if column_name == "rank":
        return np.full(count, part.rank == key, np.bool_)
    inside: Bools = part.codes(column_name) == key
    if node is None:
        return inside
    with_calls: Bools = np.bincount(node[inside], minlength=count) > 0
    return with_calls


def _calls(part: ProcessRows, window: Window) -> PlacedTree:
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
    kinds: list[str] = [*types, *(class_name for _, class_name in line.labels)]
    tops = roots(part.stored).name
    call_kind = part.column("kind")
    step = part.codes("step").astype(np.int32)
    backward = call_kind != MODULE

    def label(row: int) -> str:
        name, up = paths[int(path[row])], int(parent[row])
        if call_kind[row] == STEP:
            return f"step {step[row]}" if step[row] >= 0 else name
        if not name:
            return tops[kind_code[row]] if of_module[row] else kinds[int(kind_code[row])]
        above = paths[int(path[up])] if up >= 0 and of_module[row] and of_module[up] else ""
        # The backward of a module is inside those of others, so a name is cut where the one above is its beginning.
        return name[len(above) + 1 :] if above and name.startswith(f"{above}.") else name

    def class_name(row: int) -> str:
        text = kinds[int(kind_code[row])]
        return "" if (backward[row] and not text) or text == label(row) else text

    def numbers(name: str) -> Values:
        return of_single_calls(part.stored, name, low, low + count)

    rows = FilterRows(
        path,
        paths,
        kind_code,
        kinds,
        numbers,
        lambda column_name, key: _members(part, column_name, key, None, count),
    )
    phase = part.codes("phase").astype(np.int8)
    nodes = TreeNodes(depth, end, parent, label, class_name, rows, phase, window.rows)
    return PlacedTree(nodes, None, None, window)
