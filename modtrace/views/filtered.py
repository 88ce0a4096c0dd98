"""What a filter lets through, for the tables of `modtrace info --where`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from modtrace.analysis.filters import Rows, mask, parse
from modtrace.analysis.tree import Tree, merged, only
from modtrace.errors import UsageError
from modtrace.trace.reader import Stored
from modtrace.views.tui.trees import Part, grown

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def filtered_tree(stored: Stored, where: str) -> Tree:
    """The merged tree of the first process: nodes that a filter lets through and all above them.

    Raises:
        UsageError: the filter cannot be read.
    """
    wanted = parse(where)
    if not stored.processes:
        return merged(stored)
    placed = grown(Part.of(stored, 0), "merged")
    nodes, tree = placed.nodes, placed.tree
    assert tree is not None
    ahead = np.concatenate([[0], np.cumsum(mask(wanted, nodes.rows))])
    kept = ahead[nodes.end] > ahead[:-1]
    return only(tree, kept[: len(tree.depth)])


def filtered_modules(frame: pd.DataFrame, where: str) -> Bools:
    """Which rows of the table of modules a filter lets through.

    Raises:
        UsageError: the filter cannot be read, or asks for what a module as a whole does not have.
    """
    wanted = parse(where)
    for term in wanted.terms:
        if term.kind in ("phase", "step", "rank", "mem"):
            raise UsageError(f"{term.kind} is known of calls, not of modules: use it with --tree")
    names = {"self": "self_ns", "total": "total_ns", "calls": "calls", "flops": "flops"}

    def numbers(name: str) -> tuple[Ints, Bools]:
        column = frame[names[name]]
        known = column.notna().to_numpy(np.bool_)
        return column.fillna(0).to_numpy(np.int64), known

    paths = [name or kind for name, kind in zip(frame["name"], frame["type"], strict=True)]
    every = np.arange(len(frame))
    return mask(wanted, Rows(every, paths, every, [str(kind) for kind in frame["type"]], numbers))
