"""Every rule fires on what it is for and is silent on what is not. Times are written into the tables, not measured."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

import modtrace
from modtrace.analysis.calls import calls as calls_frame
from modtrace.analysis.findings import findings, mode_rules, time_rules, training_rules
from modtrace.analysis.findings.base import MIN_STEPS, Facts
from modtrace.analysis.findings.ranked import RULES
from modtrace.analysis.phases import RECOMPUTE
from modtrace.analysis.step_columns import step_columns
from modtrace.analysis.timeline import timeline
from modtrace.trace.schema import PHASES

MS = 1_000_000
STEPS = 40


def net(*more):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 1), *more
    )


def train(model, steps=STEPS, given=None):
    """The trace of a training loop."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    with modtrace.trace() as trace:
        for x in DataLoader([torch.ones(4) if given is None else given] * 2 * steps, batch_size=2):
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()
    return trace


@pytest.fixture(scope="module")
def healthy():
    return facts_of(train(net()))


def facts_of(trace):
    steps = step_columns(trace._read(), 0)
    return steady(Facts(trace._read(), timeline(trace._read()).calls, steps, steps, steps))


def steady(facts):
    complete = facts.steps.chosen(facts.steps["whole"])
    return dataclasses.replace(facts, complete=complete, steady=complete.chosen(slice(1, None)))


def with_phases(facts, **ms):
    """All steps with these phases, in milliseconds: numbers, or one a step."""
    each = np.ones(len(facts.steps))
    times = {f"{name}_ns": (each * ms.get(name, 0) * MS).astype(int) for name in (*PHASES, "other")}
    steps = facts.steps.changed(**times, duration_ns=np.sum([*times.values()], axis=0))
    return steady(dataclasses.replace(facts, steps=steps))


def with_calls(facts, **columns):
    calls = facts.calls
    for name, values in columns.items():
        calls = calls.with_column(name, np.array(np.broadcast_to(np.asarray(values, np.int64), len(calls))))
    return dataclasses.replace(facts, calls=calls)


USUAL = {"data": 0.5, "forward": 10, "loss": 1, "backward": 20, "optimizer": 3, "other": 1}


def found(rule, facts):
    return [(one.rule, one.text) for one in rule(facts)]


def only(rule, facts):
    ((name, text),) = found(rule, facts)
    assert name == rule.__name__
    return text


def test_data(healthy):
    assert not found(time_rules.data, with_phases(healthy, **USUAL))
    text = only(time_rules.data, with_phases(healthy, **{**USUAL, "data": 12}))
    assert text.startswith(
        "waiting for data: 468 ms (25.5% of the steps, 39 steps over 10 ms) in DataLoader(num_workers=0)"
    )
    (one,) = time_rules.data(with_phases(healthy, **{**USUAL, "data": 12}))
    assert "num_workers" in one.remedy
    assert one.won_ns == 39 * 12 * MS


def test_too_few_steps_say_nothing(healthy):
    bad = with_phases(healthy, data=50, forward=1, backward=90, optimizer=50)
    few = dataclasses.replace(bad, steady=bad.steady.chosen(slice(MIN_STEPS - 1)))
    for rule in (
        time_rules.data,
        time_rules.first_step,
        time_rules.long_backward,
        time_rules.long_optimizer,
        time_rules.recompute,
    ):
        assert not found(rule, few)
    assert found(time_rules.data, bad)


def test_first_step(healthy):
    healthy = with_calls(healthy, tracer_ns=0)
    healthy = dataclasses.replace(healthy, steps=healthy.steps.changed(counted=False))
    first = np.array([400] + [10] * (STEPS - 1))
    assert only(time_rules.first_step, with_phases(healthy, **{**USUAL, "forward": first})).startswith(
        "step 0 took 12.0x the median (426 ms)"
    )
    # Long, but little of the whole; or much of a short run, but not that long.
    assert not found(
        time_rules.first_step, with_phases(healthy, **{**USUAL, "forward": np.array([160] + [10] * 39)})
    )
    assert not found(time_rules.first_step, with_phases(healthy, **USUAL))


def test_what_tracing_costs_is_not_the_first_step_s(healthy):
    """A first step that is long for modtrace's own work in it is no finding; nor one of which that is not known."""
    first = with_phases(healthy, **{**USUAL, "forward": np.array([400] + [10] * (STEPS - 1))})
    calls = calls_frame(first.stored)
    rows = (calls["step"] == 0) & (calls["kind"] == "phase") & (calls["name"] == "backward")
    assert rows.sum() == 1
    uncounted = steady(dataclasses.replace(first, steps=first.steps.changed(counted=False)))
    tracer = calls["tracer_ns"].where(~rows, 300 * MS)
    assert not found(time_rules.first_step, with_calls(uncounted, tracer_ns=tracer))
    assert found(time_rules.first_step, with_calls(uncounted, tracer_ns=calls["tracer_ns"].where(~rows, 0)))
    assert bool(first.steps["counted"][0])
    assert not found(time_rules.first_step, with_calls(first, tracer_ns=0)), (
        "it is not known without the counting"
    )


def test_one_module(healthy):
    healthy = with_phases(healthy, **USUAL)  # 35.5 ms a step
    calls = calls_frame(healthy.stored)
    even = with_calls(healthy, self_ns=np.full(len(calls), MS))
    assert not found(time_rules.one_module, even)
    heavy = np.where(calls["name"] == "2", 10 * MS, MS)
    assert only(time_rules.one_module, with_calls(healthy, self_ns=heavy)) == (
        "2 (Linear) is 56.3% of a step: 20.0 ms in 1 call, mean of 39 steps"
    )
    # The most of the modules, but little of the step: there the time is elsewhere.
    assert not found(time_rules.one_module, with_calls(healthy, self_ns=heavy // 4))
    # The time of the first step, or of one long one, is not what a step takes.
    for some in (calls["step"] == 0, calls["step"] == 3):
        assert not found(
            time_rules.one_module,
            with_calls(healthy, self_ns=np.where(some & (calls["name"] == "2"), heavy, MS)),
        )
    few = dataclasses.replace(healthy, steady=healthy.steady.chosen(slice(MIN_STEPS - 1)))
    assert not found(time_rules.one_module, with_calls(few, self_ns=heavy))


def test_one_module_of_few_says_nothing():
    facts = facts_of(train(nn.Sequential(nn.Linear(4, 1)), steps=8))
    assert not found(time_rules.one_module, with_calls(facts, self_ns=np.full(len(facts.calls), MS)))


def test_long_backward(healthy):
    assert not found(time_rules.long_backward, with_phases(healthy, **USUAL))
    text = only(time_rules.long_backward, with_phases(healthy, **{**USUAL, "backward": 41}))
    assert text.startswith("backward takes 4.1x the forward, longest in ")


@pytest.mark.parametrize("world_size", [None, 1, 2])
def test_a_backward_that_may_wait_for_other_ranks_is_not_said_to_be_long(healthy, monkeypatch, world_size):
    long = with_phases(healthy, **{**USUAL, "backward": 41})
    processes = tuple(dataclasses.replace(one, world_size=world_size) for one in long.stored.processes)
    monkeypatch.setitem(long.stored.__dict__, "processes", processes)
    assert bool(found(time_rules.long_backward, long)) == (world_size != 2)


def test_long_optimizer(healthy):
    assert not found(time_rules.long_optimizer, with_phases(healthy, **USUAL))
    text = only(time_rules.long_optimizer, with_phases(healthy, **{**USUAL, "optimizer": 30}))
    assert text.startswith("AdamW.step takes 48.0% of a step (30.0 ms)")
    # Its numbers are those of the phases of a step, one slow step among them.
    slow = np.array([30] * (STEPS - 1) + [400])
    text = only(time_rules.long_optimizer, with_phases(healthy, **{**USUAL, "optimizer": slow}))
    assert text.startswith("AdamW.step takes 54.9% of a step (39.5 ms)")


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(4, 1), nn.Linear(4, 4)

    def forward(self, x):
        return self.used(x)


class Cut(nn.Module):
    def __init__(self, freeze):
        super().__init__()
        self.cut, self.kept = nn.Linear(4, 4).requires_grad_(not freeze), nn.Linear(4, 1)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = nn.Parameter(torch.ones(4, 4))

    def forward(self, x):
        with torch.set_grad_enabled(False):
            hidden = self.tied(x)
        return self.kept(self.tied(x) + hidden + self.cut(x).detach())


def test_no_gradient(healthy):
    assert not found(training_rules.no_gradient, healthy)
    assert only(training_rules.no_gradient, facts_of(train(Cut(freeze=False), steps=2))).startswith(
        "no gradient reached cut (Linear)"
    )
    assert not found(training_rules.no_gradient, facts_of(train(Cut(freeze=True), steps=2)))


def test_no_gradient_of_what_others_train():
    """A part that is detached here and trained by another call, and a copy that is only followed."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = nn.Linear(4, 4), nn.Linear(4, 1)
            self.copy = nn.Linear(4, 4)

        def forward(self, x):
            with torch.no_grad():
                aim = self.copy(x)
            return self.head(self.encoder(x).detach()) + aim.sum() + self.encoder.weight.sum()

    model = Model()
    optimizer = torch.optim.SGD([*model.encoder.parameters(), *model.head.parameters()], 0.1)
    with modtrace.trace() as trace:
        for _ in range(6):
            optimizer.zero_grad()
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
    assert not found(training_rules.no_gradient, facts_of(trace))


def test_no_gradient_knows_checkpoints():
    class Model(nn.Module):
        def __init__(self, reentrant):
            super().__init__()
            self.first, self.body, self.head, self.reentrant = (
                nn.Linear(4, 4),
                net()[:2],
                nn.Linear(8, 1),
                reentrant,
            )

        def forward(self, x):
            return self.head(checkpoint(self.body, self.first(x), use_reentrant=self.reentrant))

    for reentrant in (False, True):
        assert not found(training_rules.no_gradient, facts_of(train(Model(reentrant), steps=2)))


@pytest.mark.parametrize(
    ("batch", "training", "fires"), [(1, True, True), (2, True, False), (1, False, False)]
)
def test_batch_norm(batch, training, fires):
    model = nn.Sequential(nn.BatchNorm2d(3))
    model.train(training)
    with modtrace.trace() as trace:
        model(torch.ones(batch, 3, 4, 4)).sum().backward()
    assert bool(found(mode_rules.batch_norm, facts_of(trace))) is fires


def test_batch_norm_of_a_last_batch():
    """Named; where few batches have one sample they are the last of a loader."""
    model = nn.Sequential(nn.BatchNorm2d(3))
    with modtrace.trace() as trace:
        for size in (4, 4, 1):
            model(torch.ones(size, 3, 4, 4)).sum().backward()
    facts = facts_of(trace)
    assert (
        only(mode_rules.batch_norm, facts) == "batches of 1 in training mode: 0 (BatchNorm2d), in 1 call of 3"
    )
    (one,) = mode_rules.batch_norm(facts)
    assert one.remedy.startswith("drop_last=True")


def test_batch_norm_that_is_synchronized():
    class Ranks:
        def __init__(self, stored):
            self.stored = stored
            self.process_count = 2

        def __getattr__(self, name):
            return getattr(self.stored, name)

    model = nn.Sequential(nn.SyncBatchNorm(3).eval()).train()
    model[0].forward = lambda x: x
    with modtrace.trace() as trace:
        model(torch.ones(1, 3, 4, 4, requires_grad=True)).sum().backward()
    facts = facts_of(trace)
    assert found(mode_rules.batch_norm, facts), "alone"
    assert not found(mode_rules.batch_norm, dataclasses.replace(facts, stored=Ranks(facts.stored)))


def test_times_of_launching_say_nothing_of_backward_and_optimizer(healthy):
    slow = with_phases(healthy, **{**USUAL, "backward": 90, "optimizer": 300})
    assert found(time_rules.long_optimizer, slow)
    assert found(time_rules.long_backward, slow)
    beside = steady(dataclasses.replace(slow, steps=slow.steps.changed(device_ns=1)))
    assert not found(time_rules.long_optimizer, beside)
    assert not found(time_rules.long_backward, beside)


def test_a_module_named_like_a_phase_is_none():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.data, self.optimizer = nn.Linear(4, 4), nn.Linear(4, 1)

        def forward(self, x):
            return self.optimizer(self.data(x))

    facts = with_phases(facts_of(train(Named())), **{**USUAL, "data": 30, "optimizer": 40})
    assert "DataLoader" in only(time_rules.data, facts)
    assert only(time_rules.long_optimizer, facts).startswith("AdamW.step")


def test_tiny_calls(healthy, monkeypatch):
    monkeypatch.setattr(time_rules, "TINY_CALLS", 5)
    small = with_calls(with_phases(healthy, **USUAL), self_ns=np.full(len(healthy.calls), 1_000))
    assert not found(time_rules.tiny_calls, small), "many, but nothing beside the rest"
    crowded = with_calls(with_phases(healthy, other=0.1), self_ns=np.full(len(healthy.calls), 10_000))
    assert only(time_rules.tiny_calls, crowded).startswith("7 module calls a step take under 20.0 us each")
    large = with_calls(with_phases(healthy, other=0.1), self_ns=np.full(len(healthy.calls), 30_000))
    assert not found(time_rules.tiny_calls, large)


def test_drift(healthy):
    assert not found(time_rules.drift, with_phases(healthy, **USUAL))
    slower = with_phases(healthy, **{**USUAL, "forward": np.linspace(10, 60, STEPS)})
    assert only(time_rules.drift, slower).startswith("steps grow slower: ")
    noisy = with_phases(healthy, **{**USUAL, "forward": np.tile([5, 80], STEPS // 2)})
    assert not found(time_rules.drift, noisy)


def test_drift_names_the_phase_and_knows_larger_inputs(healthy):
    slower = with_phases(healthy, **{**USUAL, "data": np.linspace(1, 60, STEPS)})
    assert only(time_rules.drift, slower).endswith("most of it in data")
    (one,) = time_rules.drift(slower)
    assert one.remedy == "look at what the loader does"
    more = dataclasses.replace(slower, steps=slower.steps.changed(flops=np.arange(1, STEPS + 1) * 1000))
    assert not found(time_rules.drift, steady(more)), "there is more to compute"


@pytest.mark.parametrize("guarded", [False, True])
def test_eval_with_grad(guarded):
    model = net().eval()
    with modtrace.trace() as trace, torch.set_grad_enabled(not guarded):
        for _ in range(3):
            model(torch.ones(1, 4))
    assert bool(found(mode_rules.eval_with_grad, facts_of(trace))) is not guarded


def test_recompute():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = net()

        def forward(self, x):
            return checkpoint(self.body, x, use_reentrant=False)

    facts = facts_of(train(Model(), steps=10))
    again = facts.calls.values("phase") == RECOMPUTE
    for ms, fires in ((10, True), (1, False)):
        calls = with_calls(with_phases(facts, **USUAL), duration_ns=np.where(again, ms * MS, 1))
        assert bool(found(time_rules.recompute, calls)) is fires


def test_results_come_first_then_the_time_at_stake():
    trace = train(Unused(), steps=8)
    ranked = findings(trace._read())
    assert ranked[0].rule == "never_ran"
    stakes = [one.won_ns for one in ranked if not one.wrong]
    assert stakes == sorted(stakes, reverse=True)


def test_every_rule_is_tested_and_documented():
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "findings.md").read_text()
    tests = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*findings.py"))
    for rule in RULES:
        assert f"`{rule.__name__}`" in page
        assert f"def test_{rule.__name__}(" in tests
        assert rule.__doc__
