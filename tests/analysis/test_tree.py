"""The merged tree, against one that is built from the rows of `t.calls` by plain Python."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.tree import chosen, merged, placed, preorder, without_functions


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.act = nn.Linear(8, 8), nn.GELU()

    def forward(self, x):
        return torch.tanh(self.act(self.fc(x)))


class Net(nn.Module):
    """Three repeats; two layers that are none; one that raises for some inputs and is caught."""

    def __init__(self):
        super().__init__()
        self.h = nn.ModuleList(Block() for _ in range(3))
        self.wide = nn.ModuleList((nn.Linear(8, 8), nn.Linear(8, 4)))
        self.picky = nn.Linear(4, 4)

    def forward(self, x):
        for block in self.h:
            x = block(x)
        for layer in self.wide:
            x = layer(x)
        try:
            self.picky(x[:, :3] if len(x) == 3 else x)
        except RuntimeError:
            pass
        return x.sigmoid()


@pytest.fixture(scope="module", params=[False, True])
def trace(request):
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with modtrace.trace(flops=False, functions=request.param) as recorded:
        for size in (3, 3, 2, 3, 2):
            net(torch.ones(size, 8)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    return recorded


@dataclasses.dataclass
class Node:
    depth: int
    rows: list = dataclasses.field(default_factory=list)
    inside: dict = dataclasses.field(default_factory=dict)


def folded_name(name, *, repeats):
    parts = name.split(".")
    if repeats and parts[0] == "h" and len(parts) > 1:
        parts[1] = "*"
    return ".".join(parts)


def plain_tree(calls, *, repeats):
    """Nodes in order of their first call, each before those in it."""
    top, node_of = Node(-1), {}
    for call, row in calls.iterrows():
        above = node_of.get(row["parent"], top)
        place = "" if row["kind"] in ("module", "backward") else (row["source_file"], row["source_line"])
        key = (folded_name(row["name"], repeats=repeats), row["type"], row["kind"], str(place))
        node = above.inside.setdefault(key, Node(above.depth + 1))
        node.rows.append(row)
        node_of[call] = node
    listed = []

    def walk(node):
        listed.append(node)
        for inner in node.inside.values():
            walk(inner)

    walk(top)
    return listed[1:], node_of


def commonest_of(rows, name):
    counts = Counter(row[name] for row in rows if isinstance(row[name], str))
    return {text for text, count in counts.items() if count == max(counts.values())} or {""}


@pytest.mark.parametrize("repeats", [True, False])
def test_nodes(trace, repeats):
    tree = placed(trace._read(), repeats=repeats).tree
    nodes, _ = plain_tree(trace.calls, repeats=repeats)
    assert tree.depth.tolist() == [node.depth for node in nodes]
    names = {folded_name(row["name"], repeats=repeats) for node in nodes for row in node.rows[:1]}
    assert set(tree.name) == names
    for number, node in enumerate(nodes):
        rows, first = node.rows, node.rows[0]
        assert tree.name[number] == folded_name(first["name"], repeats=repeats)
        assert tree.calls[number] == len(rows)
        assert tree.raised[number] == sum(row["status"] == "raised" for row in rows)
        for name in ("total_ns", "self_ns"):
            column = {"total_ns": "duration_ns"}.get(name, name)
            known = [int(row[column]) for row in rows if row.notna()[column]]
            assert getattr(tree, name)[number] == sum(known)
            unknown = {"total_ns": tree.unknown, "self_ns": tree.unknown_self}[name]
            assert unknown[number] == len(rows) - len(known)
        assert tree.backward[number] == (first["kind"] == "backward")
        assert tree.function[number] == (first["kind"] == "function")
        assert not tree.recompute[number]
        if first["kind"] in ("module", "backward"):
            assert tree.type[number] == first["type"]
            assert tree.instances[number] == len({row["module_id"] for row in rows})
        assert tree.inputs[number] in commonest_of(rows, "inputs")
        assert tree.outputs[number] in commonest_of(rows, "outputs")
    assert sum(tree.raised[~tree.function]) == 3


@pytest.mark.parametrize("repeats", [True, False])
def test_the_node_of_each_row(trace, repeats):
    placed_rows = placed(trace._read(), repeats=repeats)
    nodes, node_of = plain_tree(trace.calls, repeats=repeats)
    number = {id(node): index for index, node in enumerate(nodes)}
    assert placed_rows.node.tolist() == [number[id(node_of[call])] for call in trace.calls.index]


def test_labels(trace):
    tree = merged(trace._read(), None)
    by_name = {}
    for name, label, backward in zip(tree.name, tree.label, tree.backward.tolist(), strict=True):
        by_name.setdefault((name, backward), set()).add(label)
    assert by_name["", False] == {"net"}
    assert by_name["h.*", False] == {"h.*"}
    assert by_name["h.*.fc", False] == {"fc"}
    assert by_name["wide.0", False] == {"wide.0"}
    assert by_name["optimizer", False] == {"optimizer"}
    assert by_name["h.*.fc", True] <= {"fc", "h.*.fc"}


def test_without_functions(trace):
    tree = merged(trace._read(), None)
    nodes, _ = plain_tree(trace.calls, repeats=True)

    def has_others(node):
        return node.rows[0]["kind"] != "function" or any(map(has_others, node.inside.values()))

    expected = [number for number, node in enumerate(nodes) if has_others(node)]
    smaller = without_functions(tree)
    assert smaller.calls.tolist() == tree.calls[expected].tolist()
    assert smaller.name == [tree.name[number] for number in expected]
    assert smaller.depth.tolist() == [nodes[number].depth for number in expected]
    back = chosen(tree, np.array([2, 0, 1]))
    assert back.label == [tree.label[2], tree.label[0], tree.label[1]]
    assert back.total_ns.tolist() == tree.total_ns[[2, 0, 1]].tolist()


@pytest.mark.parametrize("functions", [[0, 1, 1, 0, 1], [1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 0, 1, 1, 0]])
@pytest.mark.parametrize("depths", [[0, 1, 2, 1, 0], [0, 1, 2, 3, 4], [0, 0, 1, 1, 2], [0, 1, 1, 2, 2]])
def test_functions_stay_where_something_else_is_inside(trace, depths, functions):
    tree = chosen(merged(trace._read(), None), np.arange(5))
    tree = dataclasses.replace(tree, depth=np.array(depths), function=np.array(functions, np.bool_))
    tree = dataclasses.replace(tree, name=list("abcde"))
    expected = []
    for number, name in enumerate("abcde"):
        below = []
        for inner in range(number + 1, 5):
            if depths[inner] <= depths[number]:
                break
            below.append(functions[inner])
        if not functions[number] or not all(below):
            expected.append(name)
    assert without_functions(tree).name == expected


def test_preorder():
    parent, rank = np.array([3, -1, 3, -1, 0, 3, 1]), np.array([5, 9, 4, 3, 6, 7, 10])
    assert preorder(parent, rank).tolist() == [3, 2, 0, 4, 5, 1, 6]
    assert preorder(np.array([], np.int64), np.array([], np.int64)).tolist() == []
