"""FLOPs of steps where several ranks ran different modules."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import torch
from torch import nn

import modtrace
from modtrace.analysis import flops
from modtrace.analysis.columns import column
from modtrace.analysis.flops import work_of_steps
from modtrace.analysis.timeline import timeline
from modtrace.trace.reader import open_trace


class Factorised(nn.Module):
    """Runs an operation for which there is no formula."""

    def forward(self, x):
        return torch.linalg.qr(x)[1]


def uncounted(path, process):
    """Of each step of a process: what is not known of its work."""
    stored = open_trace(path)
    line = timeline(stored)
    low, high = np.searchsorted(column(line.calls, "process"), [process, process + 1]).tolist()
    return work_of_steps(stored, low, high, len(line.steps[process])).uncounted


def test_what_is_not_known_is_that_of_the_own_rank(tmp_path):
    path, later = tmp_path / "t.mtrace", tmp_path / "later.mtrace"
    models = (
        nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)),
        nn.Sequential(nn.ReLU(), Factorised()),
    )
    for place, model in zip((path, later), models, strict=True):
        with modtrace.trace(path=place):
            for _ in range(3):
                model(torch.ones(4, 4))
    alone = uncounted(later, 0)
    assert [[name for name in names if "qr" in name] for names in alone] == alone
    assert [len(names) for names in alone] == [1, 1, 1]
    shutil.copytree(later / "rank-0", path / "rank-1")
    process = path / "rank-1" / "process.json"
    process.write_text(json.dumps(json.loads(process.read_text()) | {"rank": 1}))
    assert uncounted(path, 0) == [[], [], []]
    assert uncounted(path, 1) == alone


def test_a_flag_of_an_older_trace_is_taken_for_set():
    """A trace from before the column says nothing of it: what may be decided by chance is not counted on."""
    table = pa.table({"unsteady": pa.array([True, False, None], pa.bool_())})
    assert flops._flags(table, "unsteady").tolist() == [True, False, True]
