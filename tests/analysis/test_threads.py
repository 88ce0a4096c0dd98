"""Modules on other threads: in the step in progress when they start, their time in the step, phases that add up."""

from __future__ import annotations

import random
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.intervals import covered_between
from modtrace.trace.schema import PHASES
from tests.torture.compare import assert_well_formed

PARTS = [f"{name}_ns" for name in (*PHASES, "other_threads", "other")]


class Waits(nn.Module):
    """Takes 20 ms."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.began = threading.Event()

    def forward(self, x):
        self.began.set()
        time.sleep(0.02)
        return self.inner(x)


class Replicas(nn.Module):
    """As DataParallel: replicas of one module, each on a thread of its own, within one root call (torch's own
    `parallel_apply` needs an accelerator).
    """

    def __init__(self):
        super().__init__()
        self.replicas = nn.ModuleList([Waits(), Waits()])

    def forward(self, x):
        return forwards_on_threads(self.replicas, x.chunk(2))


def adds_up(trace):
    assert_well_formed(trace.calls)
    steps = trace.steps
    assert (steps[PARTS] >= 0).all(axis=None)
    assert (steps["duration_ns"] == steps[PARTS].sum(axis=1)).all()


def forwards_on_threads(models, inputs):
    out = {}

    def run(number):
        out[number] = models[number](inputs[number])

    workers = [threading.Thread(target=run, args=(number,)) for number in range(len(models))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return torch.cat([out[number] for number in range(len(models))])


@pytest.mark.parametrize("shared", [True, False])
def test_forwards_on_two_threads(shared):
    net = Waits()
    models = [net, net if shared else Waits()]
    optimizer = torch.optim.SGD(nn.ModuleList(models).parameters(), 0.01)
    with modtrace.trace(flops=False) as trace:
        for _ in range(4):
            forwards_on_threads(models, (torch.ones(3, 4), torch.ones(2, 4))).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    adds_up(trace)
    calls, steps = trace.calls, trace.steps
    assert len(steps) == 4
    assert (steps["calls"] == 4).all()
    roots = calls[(calls["kind"] == "module") & (calls["type"] == "Waits")]
    assert roots.groupby("step").size().tolist() == [2, 2, 2, 2]
    assert (roots["phase"] == "forward").all()
    # Both wait at the same time, so less than twice as long is the threads'; the loop's thread waits for them.
    assert (steps["other_threads_ns"] >= 20_000_000).all()
    both = roots.groupby("step")["duration_ns"].sum().to_numpy(int)
    assert (steps["other_threads_ns"].to_numpy(int) <= both).all()
    assert (steps["forward_ns"] == 0).all()
    assert steps["samples"].isna().all()
    assert "other threads" in trace.summary()


def test_replicas_within_a_root_call():
    model = Replicas()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with modtrace.trace(flops=False) as trace:
        for _ in range(3):
            model(torch.ones(6, 4)).sum().backward()
            optimizer.step()
    adds_up(trace)
    steps = trace.steps
    assert (steps["forward_ns"] >= 20_000_000).all()
    # What runs while the loop's own thread is in its forward is that forward's time.
    assert (steps["other_threads_ns"] == 0).all()
    assert (steps["samples"] == 6).all()
    assert (steps["calls"] == 5).all()


def test_an_evaluation_that_outlives_its_step():
    net, other = Waits(), Waits()
    optimizer = torch.optim.SGD(net.parameters(), 0.01)

    def evaluate():
        with torch.no_grad():
            other(torch.ones(1, 4))

    with modtrace.trace(flops=False) as trace:
        worker = None
        for number in range(4):
            net(torch.ones(2, 4)).sum().backward()
            if number == 1:
                worker = threading.Thread(target=evaluate)
                worker.start()
                other.began.wait()
            optimizer.step()
        worker.join()
    adds_up(trace)
    calls, steps = trace.calls, trace.steps
    evals = calls[(calls["type"] == "Waits") & (calls["phase"] == "eval")]
    assert len(evals) == 1
    assert evals["step"].tolist() == [1]
    assert len(steps) == 4
    assert (steps["samples"] == 2).all()
    assert (steps["eval_ns"] == 0).all()


@pytest.mark.parametrize("seed", range(20))
def test_covered_against_counting(seed):
    chance = random.Random(seed)
    spans = [(at := chance.randrange(50), at + chance.randrange(8)) for _ in range(chance.randrange(1, 12))]
    low = np.array([chance.randrange(60) for _ in range(8)])
    high = low + np.array([chance.randrange(20) for _ in range(8)])
    inside = {moment for start, end in spans for moment in range(start, end)}
    expected = [len(inside & set(range(a, b))) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    start, end = np.array(spans).T
    assert covered_between(start, end, low, high).tolist() == expected
