"""Columns of calls as arrays: the narrow table in memory and its Arrow copy say the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import modtrace
from modtrace.analysis.columns import distinct_keys, nullable_codes
from modtrace.analysis.timeline import timeline
from modtrace.trace.call_table import CODED
from modtrace.trace.schema import UNFINISHED


class Flushing(torch.nn.Linear):
    """Has the calls around it written while they are open: in a copy of the trace they never end."""

    def forward(self, x):
        recording = self.recording
        recording._tracer.flush()
        recording.save(self.path)
        return super().forward(x)


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """Calls of which some have no end, some no module and some no step."""
    path = tmp_path_factory.mktemp("columns")
    inner = Flushing(3, 3)
    model = torch.nn.Sequential(torch.nn.ReLU(), inner)
    with modtrace.trace(path=path / "t.mtrace") as inner.recording:
        inner.path = path / "cut.mtrace"
        with modtrace.span("a span"):
            model(torch.ones(2, 3))
    return timeline(modtrace.load(inner.path)._read()).calls


def test_null_is_below_zero_in_both_kinds_of_table(calls):
    arrow = calls.to_arrow()
    assert UNFINISHED in arrow.column("status").to_pylist()
    for name in (*sorted(CODED), "duration_ns", "self_ns"):
        expected = [-1 if value is None else value for value in arrow.column(name).to_pylist()]
        assert nullable_codes(calls, name).tolist() == expected, name
        assert nullable_codes(arrow, name).tolist() == expected, name
    assert -1 in nullable_codes(calls, "duration_ns")


@pytest.mark.parametrize(
    "keys",
    [[], [-1, -1], [3, -1, 0, 3], [5, 2, 2], [1 << 40, 7, -1, 7]],
    ids=["no", "none", "few", "all", "far"],
)
def test_distinct_keys_are_those_that_occur_in_order(keys):
    expected = sorted({key for key in keys if key >= 0})
    assert distinct_keys(np.array(keys, np.int64)).tolist() == expected
    assert distinct_keys(np.broadcast_to(np.int64(4), 3)).tolist() == [4]
