"""The tree of a pair: the times of both sides add up, and what changed is open."""

from __future__ import annotations

import numpy as np
import pytest

from modtrace.analysis.comparing.comparison import Comparison
from modtrace.views.models.pair_tree import SIDES, SORTS, PairTree
from tests.comparing.made_runs import NET, OUTSIDE, US, noisy_runs, run_of

MORE = {**NET, "h.2.adapter": ("Adapter", 100), "h.2.adapter.down": ("Linear", 700)}


@pytest.fixture(scope="module")
def tree():
    return PairTree(
        Comparison(noisy_runs(5, 1), noisy_runs(5, 2, net=MORE, scale={"h.3.mlp.fc": 3, "optimizer": 0.5}))
    )


def named(tree, name):
    return next(node for node in tree.nodes if node.name == name)


def test_rows_are_modules_and_what_is_outside(tree):
    names = [node.name for node in tree.nodes]
    assert names[0] == "step"
    assert set(names) == {"step", "model", *(name for name in MORE if name), *OUTSIDE}
    for node in tree.nodes[1:]:
        above = tree.nodes[node.parent]
        assert node.depth == above.depth + 1
    assert named(tree, "h.3.mlp.fc").label == "fc"
    assert named(tree, "h.2.adapter").verdict == named(tree, "h.2.adapter.down").verdict == "alone"
    assert (named(tree, "h.3.mlp.fc").verdict, named(tree, "optimizer").verdict) == ("slower", "faster")


def test_times_of_both_sides_add_up(tree):
    exact = PairTree(Comparison([run_of(within=0)], [run_of(MORE, within=0)]))
    for shown in (tree, exact):
        for number, node in enumerate(shown.nodes):
            below = shown.below[number]
            if number and below:
                for side in ("baseline_ns", "candidate_ns"):
                    assert (
                        sum(getattr(shown.nodes[child], side) for child in below) <= getattr(node, side) + 10
                    )
    assert sum(exact.nodes[child].candidate_ns for child in exact.below[0]) == pytest.approx(
        exact.nodes[0].candidate_ns, abs=50
    )
    assert named(exact, "h.2.adapter").baseline_ns == 0
    assert named(exact, "h.2.adapter").candidate_ns == 800 * US
    assert named(exact, "h.2").change_ns == 800 * US


def test_what_changed_is_to_be_seen(tree):
    shown = [tree.nodes[row].name for row in tree.rows]
    assert shown[0] == "step"
    assert "h.3.mlp.fc" in shown
    assert "h.1.mlp.fc" not in shown
    assert shown.index("model") < shown.index("optimizer")


def test_orders(tree):
    found = {}
    for key in SORTS:
        tree.sort_by(key)
        found[key] = [tree.nodes[child] for child in tree.ordered(tree.below[0])]
    tree.sort_by("change")
    assert [abs(node.change_ns) for node in found["change"]] == sorted(
        (abs(node.change_ns) for node in found["change"]), reverse=True
    )
    assert [node.candidate_ns for node in found["candidate"]] == sorted(
        (n.candidate_ns for n in found["candidate"]), reverse=True
    )
    assert [node.label for node in found["name"]] == sorted(node.label for node in found["name"])
    assert next(node.name for node in found["order"]) == "model"


def test_opening_and_closing(tree):
    whole = PairTree(tree.comparison)
    whole.open_all(opened=True)
    assert sorted(whole.rows) == list(range(len(whole.nodes)))
    whole.open_all(opened=False)
    assert [whole.nodes[row].depth for row in whole.rows[1:]] == [1] * (len(whole.rows) - 1)
    model = next(row for row in whole.rows if whole.nodes[row].name == "model")
    whole.toggle(model)
    assert any(whole.nodes[row].name == "head" for row in whole.rows)
    whole.toggle(model)
    assert not any(whole.nodes[row].name == "head" for row in whole.rows)


@pytest.mark.parametrize("side", SIDES)
def test_boxes_are_inside_those_around_them(tree, side):
    boxes = tree.boxes(side)
    box_of = {int(owner): place for place, owner in enumerate(boxes.owner)}
    for owner, place in box_of.items():
        parent = tree.nodes[owner].parent
        if parent >= 0:
            around = box_of[parent]
            assert boxes.start[around] <= boxes.start[place] <= boxes.end[place] <= boxes.end[around]
            assert boxes.level[place] == boxes.level[around] + 1
    for level in range(boxes.levels):
        low, high = boxes.of_level(level)
        assert (boxes.start[low + 1 : high] >= boxes.end[low : high - 1]).all()
    widths = np.array([boxes.end[box_of[0]] - boxes.start[box_of[0]]])
    assert widths[0] >= (tree.nodes[0].candidate_ns if side == "candidate" else 0)
    has = {"candidate": "h.2.adapter", "difference": "h.2.adapter", "baseline": "head"}[side]
    assert has in {tree.nodes[owner].name for owner in box_of}
    assert ("h.2.adapter" in {tree.nodes[owner].name for owner in box_of}) == (side != "baseline")
