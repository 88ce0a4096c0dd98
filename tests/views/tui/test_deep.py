"""A tree of 5,000 levels in the widget itself."""

from __future__ import annotations

import asyncio

import numpy as np
from textual.app import App

from modtrace.analysis.filters import FilterRows
from modtrace.text import width
from modtrace.views.models.nodes import TreeNodes, ends_of, parents_of
from modtrace.views.models.tree_model import TreeModel
from modtrace.views.tui.call_tree import CallTree
from modtrace.views.tui.tree_lines import TreeLines
from tests.views.tui.screen import text

DEPTH = 5000


def test_5000_levels():
    depth = np.arange(DEPTH)
    known = np.ones(DEPTH, bool)
    rows = FilterRows(
        depth * 0, ["a"], depth * 0, ["Linear"], lambda name: (depth + 1, known) if name != "mem" else None
    )
    nodes = TreeNodes(depth, ends_of(depth), parents_of(depth), lambda at: f"n{at}", lambda _: "Linear", rows)
    tree = CallTree(TreeLines(TreeModel(nodes), DEPTH))

    class Small(App[None]):
        def compose(self):
            yield tree

    async def main():
        async with Small().run_test(size=(80, 24)) as pilot:
            tree.focus()
            await pilot.press("E", "end")
            await pilot.pause()
            assert (len(tree.model), tree.cursor) == (DEPTH, DEPTH - 1)
            shown = text(pilot.app).splitlines()
            assert "[4999] " in shown[-1]
            assert "n4999" in shown[-1]
            assert max(map(width, shown)) <= 80
            await pilot.press("left", "s", "r", "home", "space")
            assert (len(tree.model), tree.cursor) == (1, 0)

    asyncio.run(main())
