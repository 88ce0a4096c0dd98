"""Time on the device, percentiles and peaks of a row are one number in every view: the one that `t.calls` gives."""

from __future__ import annotations

import numpy as np
import pytest

import modtrace
from modtrace.analysis.filters import mask, parse
from modtrace.trace.reader import open_trace
from modtrace.units import duration, size
from modtrace.views import console
from modtrace.views.html.report import report
from modtrace.views.models.tree_model import TreeModel
from modtrace.views.models.viewer_model import ViewerModel
from modtrace.views.tui.detail import Detail
from modtrace.views.tui.tree_lines import TreeLines
from tests.fuzz.traces import TRACES
from tests.views.reports import Page


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("device") / "t.mtrace"
    TRACES["device"](path)
    return path


@pytest.fixture(scope="module")
def rank(path):
    return ViewerModel(path).rank(0)


def of_node(path, rank, node, column):
    """The known values of a column of the calls of a node."""
    calls = modtrace.load(path).calls
    rows = rank.tree("merged").rows_of(node) + rank.part.low
    return calls[column].iloc[rows].dropna().astype(int).tolist()


def test_device_time(path, rank):
    placed = rank.tree("merged", whole_run=True)
    nodes = placed.nodes
    timed = [node for node in range(len(nodes)) if nodes.number("device", node) is not None]
    assert timed
    lines = TreeLines(TreeModel(nodes), placed.base_ns, 200)
    assert "device" in lines.columns(200)
    page = Page(report(open_trace(path)).html).columns("tree")
    for node in range(len(nodes) - 2):
        values = of_node(path, rank, node, "device_ns")
        wanted = sum(values) if values else None
        assert nodes.number("device", node) == wanted
        assert page["device_ns"][node] == (-1 if wanted is None else wanted)
        detail = ["".join(piece[0] for piece in line) for line in Detail(rank, placed, node).lines(60)]
        assert (f"device {duration(wanted)}" in detail) is (wanted is not None)
    assert np.flatnonzero(mask(parse("device >= 0"), nodes.rows)).tolist() == timed
    most = max(nodes.number("device", node) for node in timed)
    stored = open_trace(path)
    assert duration(most) in console.tree(stored, sort="device", whole_run=True)
    assert "device" in console.modules_table(stored, sort="device").splitlines()[1].split()


def test_peaks_and_spread(path, rank):
    nodes = rank.tree("merged", whole_run=True).nodes
    page = Page(report(open_trace(path)).html).columns("tree")
    for node in range(len(nodes) - 2):
        peaks = of_node(path, rank, node, "memory_peak_bytes")
        wanted = max(peaks) if peaks else None
        assert nodes.number("mem", node) == wanted
        assert page["peak_bytes"][node] == (-1 if wanted is None else wanted)
        took = of_node(path, rank, node, "duration_ns")
        for key in ("p50", "p95", "max"):
            assert nodes.number(key, node) in took if took else nodes.number(key, node) is None
            assert page[f"{key}_ns"][node] == (nodes.number(key, node) if took else -1)
    known = [node for node in range(len(nodes)) if nodes.number("mem", node) is not None]
    assert known
    assert size(nodes.number("mem", known[0])) in console.tree(open_trace(path), sort="mem", whole_run=True)
