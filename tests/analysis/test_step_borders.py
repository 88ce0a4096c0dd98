"""Where steps begin and end among spans, by hand. Spans that are recorded are in tests/capture/test_phases.py."""

from __future__ import annotations

import numpy as np
import pytest

from modtrace.analysis.call_arrays import Calls
from modtrace.analysis.step_borders import Borders
from modtrace.trace.schema import FUNCTION, MODULE, SPAN


def borders(tree, *, unknown=(), names=None):
    """From (type, start, end, parent) of each call in order; `names` of spans, each its own by default."""
    count = len(tree)
    parent = [row[3] for row in tree]

    def is_inside(call, outer):
        while call > outer:
            call = parent[call]
        return call == outer

    columns = {name: np.zeros(count, np.int64) for name in Calls.__dataclass_fields__}
    columns["kind"], columns["start"], columns["end"], columns["parent"] = np.array(tree, np.int64).T
    columns["last"] = np.array(
        [max(c for c in range(count) if is_inside(c, outer)) for outer in range(count)]
    )
    columns["maker"] = np.array(names or range(count), np.int64)
    columns["known"] = np.array([call not in unknown for call in range(count)])
    columns["parameters"] = np.ones(count, np.bool_)
    calls = Calls(**columns)
    return Borders(calls, np.flatnonzero(calls.kind == MODULE))


EPOCH = [
    (SPAN, 0, 100, -1),  # 0 around all
    (SPAN, 10, 40, 0),  # 1 an iteration
    (SPAN, 12, 38, 1),  # 2 a part of it
    (MODULE, 15, 20, 2),  # 3
    (MODULE, 25, 30, 2),  # 4
    (SPAN, 50, 90, 0),  # 5 an iteration
    (MODULE, 55, 60, 5),  # 6
    (MODULE, 65, 70, 5),  # 7
]


def ends(tree, closing, begin=0, **options):
    of_tree = borders(tree, **options)
    ends_ns = np.array([of_tree.calls.end[call] for call in closing])
    return of_tree.ends(ends_ns, np.array(closing), begin).tolist()


def test_a_step_ends_with_the_spans_that_have_nothing_else_behind_it():
    assert ends(EPOCH, [4, 7], begin=5) == [40, 90]
    assert ends(EPOCH, [3, 7], begin=5) == [20, 90], "another unit stands behind the first in its span"
    assert ends(EPOCH, [4, 7], begin=11) == [38, 90], "what began before the step"
    assert ends(EPOCH, [4, 7], begin=12) == [38, 90]
    assert ends(EPOCH, [4, 7], begin=13) == [30, 90]
    assert ends(EPOCH, [4, 7], begin=5, unknown=[1]) == [38, 90]
    assert ends(EPOCH, [4, 7], begin=0) == [40, 90], "the outermost has the second step in it"
    assert ends(EPOCH, [7], begin=0) == [100]


@pytest.mark.parametrize("names", [None, [0, 1, 2, 0, 0, 1, 0, 0], [0, 1, 1, 0, 0, 0, 0, 0]])
def test_the_first_step_begins_with_spans_that_end_in_it(names):
    of_tree = borders(EPOCH, names=names)
    assert of_tree.first_begin(3, 40, None) == 10
    assert of_tree.first_begin(3, 39, None) == 12
    assert of_tree.first_begin(3, 38, None) == 12
    assert of_tree.first_begin(3, 37, None) == 15
    assert of_tree.first_begin(3, 100, None) == 0
    # Spans that end with its last call count where another of their name exists.
    expected = 15 if names is None else 10
    assert of_tree.first_begin(3, 40, 4) == expected
    assert of_tree.first_begin(3, 40, 6) == 10, "they end before it"


def test_spans_within_a_step():
    of_tree = borders(EPOCH)
    assert of_tree.begin_within(3, 0, 100) == (0, False)
    assert of_tree.begin_within(3, 0, 99) == (10, True)
    assert of_tree.begin_within(3, 10, 40) == (10, False)
    assert of_tree.begin_within(3, 11, 40) == (12, False)
    assert of_tree.begin_within(3, 10, 39) == (12, True)
    assert of_tree.begin_within(3, 13, 39) == (15, False)
    assert borders(EPOCH, unknown=[2]).begin_within(3, 0, 100) == (15, True)
    assert [of_tree.begin_after(3, since) for since in (0, 1, 10, 11, 12, 13)] == [0, 10, 10, 12, 12, 15]


def test_the_end_before_another_call():
    of_tree = borders(EPOCH)
    assert of_tree.end_before(3, 4, 0) == 20
    assert of_tree.end_before(4, 5, 0) == 40
    assert of_tree.end_before(4, 8, 0) == 100
    assert of_tree.end_before(4, 5, 10) == 40
    assert of_tree.end_before(4, 5, 11) == 38
    assert of_tree.end_before(4, 5, 13) == 30
    assert borders(EPOCH, unknown=[1]).end_before(4, 5, 0) == 38


def test_functions_are_looked_through_and_modules_are_not():
    tree = [
        (FUNCTION, 0, 50, -1),
        (SPAN, 5, 45, 0),
        (MODULE, 10, 40, 1),
        (SPAN, 12, 30, 2),
        (MODULE, 15, 20, 3),
    ]
    of_tree = borders(tree)
    assert of_tree.begin_after(2, 0) == 0
    assert of_tree.begin_after(4, 0) == 12
