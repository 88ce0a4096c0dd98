"""The merged tree: calls of one module in one place are one node, repeated blocks are folded."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from modtrace.analysis.calls import commonest, same_text
from modtrace.analysis.columns import column, counted_pairs, distinct_pairs, nullable_codes, values_and_known
from modtrace.analysis.module_names import below
from modtrace.analysis.module_repeats import Folded, folded
from modtrace.analysis.modules import instances, sums
from modtrace.analysis.phases import RECOMPUTE
from modtrace.analysis.timeline import timeline
from modtrace.trace.call_table import CallTable
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, FUNCTION

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Tree:
    """Nodes in pre-order, parents before children; an array or list element a node.

    `label` is the name below the parent (`attn`, `h.*`), that of the root for a root (`G`); `name` is the whole name
    (`h.*.attn`), "" for a root.
    `unknown` counts calls whose duration is not known, `unknown_self` those whose self time is not; `total_ns` and
    `self_ns` leave them out.
    """

    depth: Ints
    label: list[str]
    name: list[str]
    function: Bools
    recompute: Bools
    backward: Bools
    type: list[str]
    instances: Ints
    calls: Ints
    total_ns: Ints
    self_ns: Ints
    raised: Ints
    unknown: Ints
    unknown_self: Ints
    inputs: list[str]
    outputs: list[str]


@dataclass(frozen=True)
class MergedTree:
    """The merged tree, and where the rows of the timeline are in it.

    node: of each row its node, as its position in `tree`.
    """

    tree: Tree
    node: npt.NDArray[np.int32]


@once
def merged(stored: Stored, process: int | None = None) -> Tree:
    """The merged tree of all calls, or of those of one process."""
    return placed(stored, process).tree


def placed(
    stored: Stored, process: int | None = None, *, repeats: bool = True, rows: Bools | None = None
) -> MergedTree:
    """As `merged`, with the node of each of its rows.

    Args:
        stored: the trace.
        process: that process alone.
        repeats: fold repeated blocks into one node; otherwise each module of its own name is one.
        rows: the rows that calls and times are of, an element a row; None for all. Nodes, failures and signatures are
            of all rows.
    """
    table = timeline(stored).calls
    if process is not None:
        table = table.filter(column(table, "process") == process) if len(stored.processes) > 1 else table
    groups = folded(stored) if repeats else folded(stored, repeats=False)
    group = groups.group[column(table, "call")]
    recomputed = nullable_codes(table, "phase") == RECOMPUTE
    call_kind = column(table, "kind")
    variant = 2 * (call_kind == BACKWARD) + recomputed
    node, parent, depth, key = _nodes(table, group << 2 | variant)
    of_group = key >> 2
    count = len(parent)
    inside = np.ones(len(node), np.bool_) if rows is None else rows
    duration, known = values_and_known(table, "duration_ns")
    self_ns, self_known = values_and_known(table, "self_ns")
    timed, self_timed = inside & known, inside & self_known
    signatures, same = stored.table("signatures").column("text").to_pylist(), same_text(stored)
    of_modules, module, _ = counted_pairs(node, nullable_codes(table, "module") + 1)
    alike = np.append(1, instances(stored.table("modules")))[module]
    order = preorder(parent, _first(node, count))

    def texts(name: str) -> list[str]:
        codes = commonest(node, same[nullable_codes(table, name)], count)[order].tolist()
        return [signatures[code] if code >= 0 else "" for code in codes]

    names = [groups.name[g] for g in of_group.tolist()]
    position = np.empty(count, np.int32)
    position[order] = np.arange(count)
    tree = Tree(
        depth=depth[order],
        label=[_label(names, groups, of_group, parent, int(index)) for index in order],
        name=[names[index] for index in order.tolist()],
        function=np.bincount(node[call_kind == FUNCTION], minlength=count)[order] > 0,
        recompute=(key[order] & 1) == 1,
        backward=(key[order] & 2) == 2,
        type=[groups.type[of_group[index]] for index in order],
        instances=np.bincount(of_modules, alike, minlength=count).astype(np.int64)[order],
        calls=np.bincount(node[inside], minlength=count)[order],
        total_ns=sums(node[timed], duration[timed], count)[order],
        self_ns=sums(node[self_timed], self_ns[self_timed], count)[order],
        raised=np.bincount(node[column(table, "status") == 1], minlength=count)[order],
        unknown=np.bincount(node[inside & ~known], minlength=count)[order],
        unknown_self=np.bincount(node[inside & ~self_known], minlength=count)[order],
        inputs=texts("inputs"),
        outputs=texts("outputs"),
    )
    return MergedTree(tree, position[node])


def without_functions(tree: Tree) -> Tree:
    """The tree without functions that nothing else is inside of."""
    keep = ~tree.function
    below = 0  # the depth at which the nearest kept node behind stands
    for index in range(len(keep) - 1, -1, -1):
        depth = int(tree.depth[index])
        keep[index] = keep[index] or below > depth
        below = depth if keep[index] else min(below, depth)
    return only(tree, keep)


def only(tree: Tree, keep: Bools) -> Tree:
    """The tree with some of its nodes; those above them must be among them."""
    return chosen(tree, np.flatnonzero(keep))


def chosen(tree: Tree, nodes: Ints) -> Tree:
    """Some nodes of a tree in another order; each must come behind its parent."""
    columns: dict[str, Any] = {field.name: getattr(tree, field.name) for field in fields(Tree)}
    for name, values in columns.items():
        columns[name] = [values[number] for number in nodes] if isinstance(values, list) else values[nodes]
    return Tree(**columns)


def _nodes(table: CallTable, group: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Node of each call; parent, depth and group of each node. Level by level, so no depth is too deep."""
    depth = column(table, "depth")
    call = column(table, "call")
    parent = column(table, "parent")
    above = _positions(call, parent)
    node = np.full(len(depth), -1, np.int64)
    parents: list[Ints] = [np.zeros(0, np.int64)]
    depths: list[Ints] = [np.zeros(0, np.int64)]
    group_of: list[Ints] = [np.zeros(0, np.int64)]
    small = int(depth.max(initial=0)) < 1 << 15
    by_depth = np.argsort(depth.astype(np.int16) if small else depth, kind="stable")
    edges = (
        np.searchsorted(depth[by_depth], np.arange(int(depth.max()) + 2)) if len(depth) else np.zeros(1, int)
    )
    total = 0
    for level in range(len(edges) - 1):
        rows = by_depth[edges[level] : edges[level + 1]]
        up = np.where(above[rows] >= 0, node[above[rows]], -1)
        over, inside, which = distinct_pairs(up + 1, group[rows])
        node[rows] = which + total
        parents.append(over - 1)
        group_of.append(inside)
        depths.append(np.full(len(over), level, np.int64))
        total += len(over)
    return node, np.concatenate(parents), np.concatenate(depths), np.concatenate(group_of)


def _first(node: Ints, count: int) -> Ints:
    """The first call of each node."""
    first = np.full(count, len(node), np.int64)
    first[node[::-1]] = np.arange(len(node))[::-1]
    return first


def _positions(call: Ints, parent: Ints) -> Ints:
    """Where the parent of each call stands among the calls, -1 for none."""
    if len(call) and int(call[-1]) - int(call[0]) == len(call) - 1:
        return np.where(parent >= 0, parent - call[0], -1)
    return np.where(parent >= 0, np.searchsorted(call, np.maximum(parent, 0)), -1)


def preorder(parent: Ints, rank: Ints) -> Ints:
    """Nodes with each parent before its children, siblings with the smallest rank first."""
    children: dict[int, list[int]] = {}
    for node in np.argsort(rank, kind="stable").tolist():
        children.setdefault(int(parent[node]), []).append(node)
    order = []
    pending = children.get(-1, [])[::-1]
    while pending:
        node = pending.pop()
        order.append(node)
        pending.extend(children.get(node, [])[::-1])
    return np.array(order, np.int64)


def _label(names: list[str], groups: Folded, of_group: Ints, parent: Ints, index: int) -> str:
    """The name of a node below its parent's."""
    name, up = names[index], int(parent[index])
    if up < 0 or not groups.of_module[of_group[up]]:
        return name or groups.root[of_group[index]] or groups.type[of_group[index]]
    if not groups.of_module[of_group[index]]:
        return name
    if not name:
        return f"({groups.root[of_group[index]]})"
    same_tree = groups.root[of_group[index]] == groups.root[of_group[up]]
    return below(name, names[up]) if same_tree else name
