"""The rows of `modtrace info --tree`: filtered, in order, with their numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import order_keys
from modtrace.analysis.filters import mask, parse
from modtrace.analysis.metric_values import WindowNumbers
from modtrace.analysis.metrics import METRICS, Metric, comparable
from modtrace.analysis.tree import Tree, chosen, placed, preorder
from modtrace.errors import UsageError
from modtrace.filter_language import Filter
from modtrace.text import plain
from modtrace.trace.reader import Stored
from modtrace.units import plural
from modtrace.views.models.nodes import parents_of
from modtrace.views.models.trees import ProcessRows, grouped, grown
from modtrace.views.tree import ColumnOf

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

OTHER_KEYS: Final = {"modules": ("output", "name"), "tree": ("order", "name")}
"""Sort keys of a table beside metrics."""


def checked_key(key: str, table: str) -> str:
    """A key that a table can be sorted by.

    Args:
        key: as it was given.
        table: a key of OTHER_KEYS.

    Raises:
        UsageError: there is no such key.
    """
    keys = (*(metric.key for metric in comparable()), *OTHER_KEYS[table])
    if key not in keys:
        raise UsageError(f"--sort takes {', '.join(keys)}, not {plain(key, 40)!r}")
    return key


def tree_and_columns(
    stored: Stored, *, where: str = "", sort: str = "", rows: Bools | None = None
) -> tuple[Tree, ColumnOf | None, list[ColumnOf]]:
    """The merged tree of the first process, the number that it is sorted by, and those over ranks where any is known.

    Args:
        stored: the trace.
        where: a filter; nodes that it lets through stay, and all above them.
        sort: a metric by which siblings are sorted, the largest first and unknown ones last, or `name`; "" and `order`
            for the order of calls.
        rows: the rows of the process that sums are of, None for all.

    Raises:
        UsageError: the filter or the key cannot be read.
    """
    key, wanted = checked_key(sort or "order", "tree"), parse(where)
    merged_tree = placed(stored, 0, rows=rows)
    tree, metric = merged_tree.tree, METRICS.get(key)
    count = len(tree.depth)
    node = merged_tree.node
    window = np.ones(len(node), np.bool_) if rows is None else rows
    groups = WindowNumbers(stored, node, count, window, 0, len(node))
    order, shown = np.arange(count), None
    if metric is not None:
        shown = _column(groups, metric)
        (values, known), (least, bounded) = shown.values, shown.least
        ranked = order_keys(np.where(known, values, least), known | bounded, descending=True)
        order = preorder(parents_of(tree.depth), ranked)
    elif key == "name":
        names = sorted(range(count), key=tree.label.__getitem__)
        rank = np.empty(count, np.int64)
        rank[names] = np.arange(count)
        order = preorder(parents_of(tree.depth), rank)
    if wanted and stored.processes:
        order = order[_passing(ProcessRows.of(stored, 0), wanted, groups)[order]]
    if shown is not None:
        shown = shown.taken(order)
    over_ranks = [_column(groups, metric) for metric in METRICS.values() if metric.adds == "ranks"]
    known_ones = [each.taken(order) for each in over_ranks if each.values[1].any()]
    return chosen(tree, order), shown, known_ones


def _column(groups: WindowNumbers, metric: Metric) -> ColumnOf:
    """A metric of the rows of a tree, and its lower bound."""
    values = groups.values(metric.key)
    return ColumnOf(metric, values, groups.values(metric.bound) if metric.bound else values)


def _passing(part: ProcessRows, wanted: Filter, groups: WindowNumbers) -> Bools:
    """Nodes of the merged tree of a process that a filter lets through, and all above them; by numbers of `groups`."""
    grown_tree = grown(part, grouped(part, "merged"), whole_run=False)
    nodes, tree = grown_tree.nodes, grown_tree.tree
    assert tree is not None
    ahead = np.concatenate([[0], np.cumsum(mask(wanted, replace(nodes.rows, numbers=groups.values)))])
    passing: Bools = ahead[nodes.end] > ahead[:-1]
    return passing[: len(tree.depth)]


def no_hit(where: str, rows: int) -> str:
    """Line of a table in which no row passes its filter."""
    return f"  nothing passes the filter {plain(where, 60)!r}: 0 of {plural(rows, 'row')}"
