"""The tree that is looked at, against a plain recursive one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modtrace.analysis.filters import FilterRows, mask, matching, parse
from modtrace.views.models.boxes import Boxes, callers, icicle
from modtrace.views.models.nodes import TreeNodes, ends_of, parents_of
from modtrace.views.models.tree_model import TreeModel


def nodes_of(depth, own, names):
    """Nodes with own numbers; a total is the sum of those of a node and all below."""
    depth, own = np.array(depth, np.int64), np.array(own, np.int64)
    ends = ends_of(depth)
    total = np.array([own[at : ends[at]].sum() for at in range(len(depth))], np.int64)
    texts = sorted(set(names))
    rows = FilterRows(
        np.array([texts.index(name) for name in names], np.int64),
        texts,
        np.zeros(len(depth), np.int64),
        ["Linear"],
        lambda name: (
            ({"self": own, "total": total}[name], np.ones(len(own), bool)) if name != "mem" else None
        ),
    )
    return TreeNodes(depth, ends, parents_of(depth), names.__getitem__, lambda _: "Linear", rows)


@st.composite
def trees(draw):
    depth = [0]
    for _ in range(draw(st.integers(0, 25))):
        depth.append(draw(st.integers(0, depth[-1] + 1)))
    own = [draw(st.integers(0, 9)) for _ in depth]
    names = [draw(st.sampled_from(["a", "b", "fc", "attn"])) for _ in depth]
    return nodes_of(depth, own, names)


def walked(nodes, opened, key, descending, kept):
    """What is to be seen, by walking."""
    children = {}
    for at, up in enumerate(nodes.parent.tolist()):
        children.setdefault(up, []).append(at)
    seen = []

    def visit(up):
        below = children.get(up, [])
        if key != "order":
            values, _ = nodes.numbers(key)
            below = sorted(below, key=lambda at: -values[at] if descending else values[at])
        elif not descending:
            below = below[::-1]
        for at in below:
            if kept[at]:
                seen.append(at)
                if opened[at]:
                    visit(at)

    visit(-1)
    return seen


@settings(max_examples=120)
@given(trees(), st.data())
def test_rows_are_those_of_a_walk(nodes, data):
    model = TreeModel(nodes)
    opened = model.nodes.depth < 99
    model.set_open_below(0, opened=True)
    opened = np.array([model.is_open(at) for at in range(len(nodes))])
    key, descending, kept = "order", True, np.ones(len(nodes), bool)
    for _ in range(data.draw(st.integers(1, 6))):
        selected = model.selected
        what = data.draw(st.sampled_from(["toggle", "sort", "move", "filter"]))
        if what == "toggle" and len(model):
            row = data.draw(st.integers(0, len(model) - 1))
            node = model.node_at(row)
            model.toggle(row)
            if nodes.end[node] > node + 1:
                opened[node] = not opened[node]
        elif what == "sort":
            key = data.draw(st.sampled_from(["order", "self", "total"]))
            descending = data.draw(st.booleans())
            model.sort(key, descending=descending)
            assert model.selected == selected
        elif what == "move" and len(model):
            model.cursor = data.draw(st.integers(0, len(model) - 1))
        elif what == "filter":
            text = data.draw(st.sampled_from(["", "fc", "self>4ns", "-attn"]))
            model.set_filter(parse(text))
            holds = {
                "": lambda at: True, "fc": lambda at: nodes.label(at) == "fc",
                "self>4ns": lambda at: nodes.number("self", at) > 4, "-attn": lambda at: nodes.label(at) != "attn",
            }[text]  # fmt: skip
            kept = np.array(
                [any(holds(at) for at in range(top, nodes.end[top])) for top in range(len(nodes))]
            )
            opened = np.array([model.is_open(at) for at in range(len(nodes))])
            if text:
                assert opened.all()
        assert [model.node_at(row) for row in range(len(model))] == walked(
            nodes, opened, key, descending, kept
        )
        assert 0 <= model.cursor < max(len(model), 1)


@settings(max_examples=60)
@given(trees(), st.sampled_from(["order", "self"]))
def test_search_goes_round_all_hits_and_hides_none(nodes, key):
    model = TreeModel(nodes)
    model.sort(key)
    hits = model.hits("fc")
    wanted = [at for at in range(len(nodes)) if nodes.label(at) == "fc"]
    assert np.flatnonzero(hits).tolist() == wanted
    found = []
    for _ in wanted:
        node = model.next_hit(hits)
        model.reveal(node)
        assert model.selected == node
        found.append(node)
    assert sorted(found) == wanted
    if not wanted:
        assert model.next_hit(hits) is None
    else:
        before = model.next_hit(hits, forward=False)
        model.reveal(before)
        assert model.next_hit(hits) == found[-1]


@settings(max_examples=60)
@given(trees())
def test_boxes_lie_in_their_parents_and_cover_their_totals(nodes):
    shown = icicle(nodes)
    boxes = shown.boxes
    assert sorted(boxes.owner.tolist()) == [at for at in range(len(nodes)) if nodes.number("total", at)]
    for box, node in enumerate(boxes.owner.tolist()):
        assert boxes.end[box] - boxes.start[box] == nodes.number("total", node)
        up = int(nodes.parent[node])
        if up >= 0:
            over = int(shown.box[up])
            assert boxes.start[over] <= boxes.start[box] <= boxes.end[box] <= boxes.end[over]
    around = callers(nodes)
    tops = [at for at in range(len(around)) if around.depth[at] == 0]
    assert sum(around.number("self", at) for at in tops) == int(nodes.numbers("self")[0].sum())


@settings(max_examples=60)
@given(trees(), st.integers(1, 40))
def test_cells_never_overlap_and_miss_no_box_that_is_wide_enough(nodes, columns):
    boxes = icicle(nodes).boxes
    right = float(boxes.end.max()) if len(boxes) else 1.0
    for level in range(boxes.levels):
        cells = boxes.cells(level, 0.0, right, columns)
        assert all(one.end_column <= two.start_column for one, two in itertools.pairwise(cells))
        assert all(0 <= cell.start_column < cell.end_column <= columns for cell in cells)
        low, high = boxes.of_level(level)
        wide = {at for at in range(low, high) if (boxes.end[at] - boxes.start[at]) * columns / right > 1.001}
        assert wide <= {cell.box for cell in cells}


def test_depth_of_5000():
    depth = list(range(5000))
    nodes = nodes_of(depth, [1] * 5000, ["a"] * 4999 + ["fc"])
    model = TreeModel(nodes)
    assert len(model) < 5000
    node = model.next_hit(model.hits("fc"))
    model.reveal(node)
    assert (model.selected, len(model)) == (4999, 5000)
    model.sort("self")
    assert model.selected == 4999
    model.set_open(0, opened=False)
    assert (len(model), model.cursor) == (1, 0)
    assert icicle(nodes).boxes.levels == 5000


def test_threshold_hides_small_nodes_and_counts_them():
    model = TreeModel(nodes_of([0, 1, 1, 1], [0, 90, 9, 1], ["a", "b", "fc", "attn"]))
    model.set_filter(parse(""), 0.05)
    assert [model.nodes.label(model.node_at(row)) for row in range(len(model))] == ["a", "b", "fc"]
    assert model.hidden == 1


@pytest.mark.parametrize("rows", [0, 1])
def test_next_to_nothing(rows):
    model = TreeModel(nodes_of([0] * rows, [1] * rows, ["a"] * rows))
    model.sort("self")
    model.set_filter(parse("zzz"))
    assert (len(model), model.selected) == (0, -1)
    model.set_filter(parse(""))
    assert len(model) == rows


def part_of(nodes, shown):
    """The tree of some of the nodes, those above each being among them."""
    at = np.flatnonzero(shown)
    own, names = nodes.rows.numbers("self")[0], [nodes.label(node) for node in range(len(nodes))]
    return nodes_of(nodes.depth[at], own[at], [names[node] for node in at.tolist()])


@settings(max_examples=120)
@given(trees(), st.data())
def test_a_tree_that_grows_keeps_order_filter_open_rows_and_cursor(whole, data):
    shown = np.array([data.draw(st.booleans()) for _ in range(len(whole))])
    for node, up in enumerate(whole.parent.tolist()):
        shown[node] &= up < 0 or bool(shown[up])
    small = part_of(whole, shown)
    model = TreeModel(small, small.depth < 1)
    key, descending = data.draw(st.sampled_from(["order", "self", "total"])), data.draw(st.booleans())
    model.sort(key, descending=descending)
    for _ in range(data.draw(st.integers(0, 4))):
        if len(model):
            model.toggle(data.draw(st.integers(0, len(model) - 1)))
    filters = data.draw(st.booleans())
    wanted = parse("attn" if filters else "")
    model.set_filter(wanted)
    if len(model):
        model.cursor = data.draw(st.integers(0, len(model) - 1))
    numbers = np.cumsum(shown) - 1
    before = np.where(shown, numbers, -1)
    opened_before = [model.is_open(node) for node in range(len(small))]
    apart = [model.opens(node) for node in range(len(small))]
    selected = model.selected
    new = np.array([data.draw(st.booleans()) for _ in range(len(whole))])
    model.grow(whole, before, new)
    opened = [
        opened_before[numbers[node]] if shown[node] else filters or bool(new[node])
        for node in range(len(whole))
    ]
    assert [model.is_open(node) for node in range(len(whole))] == opened
    kept = np.ones(len(whole), bool)
    if filters:
        passed = mask(wanted, whole.rows)
        kept = np.array([passed[node : whole.end[node]].any() for node in range(len(whole))])
    assert [model.node_at(row) for row in range(len(model))] == walked(whole, opened, key, descending, kept)
    if selected >= 0:
        assert before[model.selected] == selected
    model.set_filter(parse(""))
    without = [apart[numbers[node]] if shown[node] else bool(new[node]) for node in range(len(whole))]
    for up in whole.ancestors(model.selected) if filters and model.selected >= 0 else ():
        without[up] = True  # what was selected stays to be seen
    assert [model.is_open(node) for node in range(len(whole))] == without


def test_a_cursor_whose_node_is_gone_goes_to_the_nearest_above():
    nodes = nodes_of([0, 1, 2, 1], [1, 1, 1, 1], ["a", "b", "fc", "attn"])
    model = TreeModel(nodes)
    model.reveal(2)
    smaller = nodes_of([0, 1, 1], [1, 1, 1], ["a", "b", "attn"])
    model.grow(smaller, np.array([0, 1, 3]), np.zeros(3, bool))
    assert model.selected == 1
    model.grow(nodes_of([], [], []), np.zeros(0, np.int64), np.zeros(0, bool))
    assert (len(model), model.selected) == (0, -1)


@pytest.mark.parametrize(("width", "end"), [(0, 10), (-1, 10), (5, 0)])
def test_no_room_no_cells(width, end):
    nothing = np.zeros(1, np.int64)
    boxes = Boxes(nothing, nothing, nothing + 10, nothing, str)
    assert boxes.cells(0, 0, end, width) == []
    assert len(boxes.cells(0, 0, 10, 5)) == 1


@pytest.mark.parametrize("text", ["/fc/", "/./", "fc", "1"])
def test_headings_are_found_by_no_search(text):
    """Nor by a number that is not known, and a search for nothing finds nothing."""
    rows = FilterRows(
        np.arange(3), ["rank 1 fc", "fc1", "b1"], np.zeros(3, np.int64), [""], lambda _: None,
        headings=np.array([True, False, False]),
    )  # fmt: skip
    found = np.flatnonzero(matching(text, rows)).tolist()
    assert found == ([1, 2] if text in ("/./", "1") else [1])
    assert not matching(" ", rows).any()
    assert not matching("/", rows).any()  # a word, no expression
