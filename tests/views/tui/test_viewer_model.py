"""The rows of a step that the viewer draws over time."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import nn

import modtrace
from modtrace.trace.schema import STEP
from modtrace.views.models.viewer_model import ViewerModel


@pytest.fixture(scope="module")
def threads(tmp_path_factory):
    """A loop on a thread that is not the first, and calls on the first one."""
    path = tmp_path_factory.mktemp("threads") / "t.mtrace"
    other, model = nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train():
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()

    with modtrace.trace(path=path, flops=False):
        for _ in range(3):
            other(torch.ones(2))
        loop = threading.Thread(target=train)
        loop.start()
        loop.join()
    return path


@pytest.mark.parametrize("recorded", ["gpt", "threads"])
def test_rows_of_a_step_are_those_that_the_timeline_counts_to_it(recorded, request):
    rank = ViewerModel(request.getfixturevalue(recorded)).rank(0)
    part, number = rank.part, rank.steps.thread
    assert (number > 0) == (recorded == "threads")
    for step in range(len(rank.steps)):
        inside = (part.codes("step") == step) & (part.column("thread") == number)
        expected = np.flatnonzero(inside & (part.column("kind") != STEP))
        assert len(expected) > 4
        assert rank.rows_of_step(step).tolist() == expected.tolist()
