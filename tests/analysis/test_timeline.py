"""Times add up in every loop: of each row with what is inside it, of each step with its phases."""

from __future__ import annotations

import contextlib
import copy
import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

import modtrace
from modtrace.trace.schema import PHASES
from tests.torture.compare import assert_well_formed

SPENT = [f"{name}_ns" for name in (*PHASES, "other_threads", "other")]
LOOPS = {}


def loop(function):
    LOOPS[function.__name__] = function
    return function


class Setup:
    def __init__(self):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        self.criterion = nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.net.parameters(), 0.01)

    def loss(self, batch=4):
        y = self.net(torch.ones(batch, 4))
        sum(range(20_000))  # so that the loss takes longer than a clock's tick
        return self.criterion(y, torch.zeros(batch, 2))

    def step(self):
        loss = self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


@loop
def a_span_around_each_step(own):
    for _ in range(4):
        with modtrace.span("iteration"):
            own.step()
        yield


@loop
def a_span_around_each_step_and_what_follows(own):
    for _ in range(4):
        with modtrace.span("iteration"):
            own.net(torch.ones(4, 4)).sum().backward()
            own.optimizer.step()
            own.optimizer.zero_grad()
            sum(range(20_000))
        yield


@loop
def spans_in_spans(own):
    with modtrace.span("training"):
        for _ in range(2):
            with modtrace.span("epoch"):
                for _ in range(2):
                    with modtrace.span("iteration"), modtrace.span("inner"):
                        own.step()
                    yield
                with modtrace.span("validation"), torch.no_grad():
                    own.net(torch.ones(4, 4))


@loop
def a_span_around_all(own):
    with modtrace.span("main"):
        own.step()
        yield


@loop
def spans_around_phases(own):
    for _ in range(3):
        with modtrace.span("forward"):
            loss = own.loss()
        with modtrace.span("backward"):
            loss.backward()
        with modtrace.span("update"):
            own.optimizer.step()
            own.optimizer.zero_grad()
        yield


@loop
def spans_around_parts_of_phases(own):
    for _ in range(3):
        with modtrace.span("batch"):
            y = own.net(torch.ones(4, 4))
            with modtrace.span("loss"):
                loss = own.criterion(y, torch.zeros(4, 2))
            loss.backward()
        own.optimizer.step()
        yield


@loop
def a_span_that_crosses(own):
    crossing = modtrace.span("crossing")
    for number in range(4):
        loss = own.loss()
        if number == 1:
            crossing.__enter__()
        loss.backward()
        own.optimizer.step()
        if number == 2:
            crossing.__exit__(None, None, None)
        yield


@loop
def spans_of_epochs_with_one_step(own):
    for _ in range(3):
        with modtrace.span("epoch"):
            own.step()
            own.net.eval()
            with torch.no_grad():
                own.net(torch.ones(4, 4))
            own.net.train()
        yield


@loop
def marks_inside_spans(own):
    for _ in range(3):
        with modtrace.span("iteration"):
            own.step()
            modtrace.step()
        yield


@loop
def marks_between_forward_and_backward(own):
    for _ in range(3):
        loss = own.loss()
        modtrace.step()
        loss.backward()
        yield


@loop
def updates_by_hand(own):
    for _ in range(3):
        with modtrace.span("iteration"):
            own.loss().backward()
            with torch.no_grad():
                for parameter in own.net.parameters():
                    parameter -= 0.1 * parameter.grad
                    parameter.grad = None
        yield


@loop
def a_closure(own):
    optimizer = torch.optim.LBFGS(own.net.parameters(), max_iter=3)

    def closure():
        optimizer.zero_grad()
        loss = own.loss()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
        yield


@loop
def a_closure_with_spans(own):
    def closure():
        with modtrace.span("closure"):
            own.optimizer.zero_grad()
            with modtrace.span("model"):
                loss = own.loss()
            loss.backward()
        return loss

    for _ in range(3):
        with modtrace.span("iteration"):
            own.optimizer.step(closure)
        yield


@loop
def accumulation(own):
    for batch in DataLoader(torch.ones(24, 4), batch_size=4):
        with modtrace.span("batch"):
            (own.net(batch).sum() / 2).backward()
        own.net(batch).sum().backward()
        own.optimizer.step()
        own.optimizer.zero_grad()
        yield


@loop
def generator_and_critic(own):
    critic = nn.Sequential(nn.Linear(2, 1))
    other = torch.optim.SGD(critic.parameters(), 0.01)
    for _ in range(3):
        with modtrace.span("critic"):
            fake = own.net(torch.ones(4, 4)).detach()
            loss = critic(torch.ones(4, 2)).mean() - critic(fake).mean()
            loss.backward()
            other.step()
        with modtrace.span("generator"):
            critic(own.net(torch.ones(4, 4))).mean().backward()
            own.optimizer.step()
        yield


@loop
def learning_to_learn(own):
    for _ in range(3):
        fast = dict(own.net.named_parameters())
        for _ in range(2):
            with modtrace.span("inner"):
                loss = torch.func.functional_call(own.net, fast, torch.ones(3, 4)).square().mean()
                grads = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
                fast = {
                    name: value - 0.1 * grad for (name, value), grad in zip(fast.items(), grads, strict=True)
                }
        torch.func.functional_call(own.net, fast, torch.ones(5, 4)).square().mean().backward()
        own.optimizer.step()
        own.optimizer.zero_grad()
        yield


@loop
def checkpointing(own):
    for _ in range(3):
        with modtrace.span("iteration"):
            x = checkpoint(own.net, torch.ones(4, 4, requires_grad=True), use_reentrant=False)
            x.sum().backward()
            own.optimizer.step()
        yield


@loop
def errors_caught(own):
    for number in range(3):
        with contextlib.suppress(RuntimeError), modtrace.span("tries"):
            own.net(torch.ones(4, 5 if number == 1 else 4)).sum().backward()
        with contextlib.suppress(ValueError), modtrace.span("raises"):
            own.step()
            if number == 0:
                raise ValueError
        yield


@loop
def generators(own):
    def batches():
        for _ in range(3):
            with modtrace.span("batch"):
                yield torch.ones(4, 4)

    for batch in batches():
        own.net(batch).sum().backward()
        own.optimizer.step()
        yield


@loop
def threads(own):
    replica = copy.deepcopy(own.net)
    for _ in range(3):
        out = {}

        def run(name, model, out=out):
            with modtrace.span(name):
                out[name] = model(torch.ones(4, 4))

        with modtrace.span("iteration"):
            workers = [threading.Thread(target=run, args=pair) for pair in (("a", own.net), ("b", replica))]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            (out["a"] + out["b"]).sum().backward()
            own.optimizer.step()
        yield


@loop
def an_optimizer_in_backward(own):
    optimizers = {one: torch.optim.SGD([one], 0.01) for one in own.net.parameters()}

    def update(parameter):
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in own.net.parameters():
        parameter.register_post_accumulate_grad_hook(update)
    for _ in range(3):
        with modtrace.span("iteration"):
            own.loss().backward()
        yield


@pytest.mark.parametrize("functions", [False, True])
@pytest.mark.parametrize("name", LOOPS)
def test_every_loop_adds_up(name, functions):
    own = Setup()
    with modtrace.trace(functions=functions) as trace:
        count = sum(1 for _ in LOOPS[name](own))
    assert_well_formed(trace.calls)
    steps = trace.steps
    assert (steps[SPENT] >= 0).all(axis=None), steps[SPENT]
    assert (steps["duration_ns"] == steps[SPENT].sum(axis=1)).all()
    assert int(steps["whole"].sum()) == count
    ends = (steps["start_ns"] + steps["duration_ns"]).to_numpy()
    assert (steps["start_ns"].to_numpy()[1:] >= ends[:-1]).all()
    rows = trace.calls[trace.calls["kind"] == "step"]
    if name != "a_span_that_crosses":
        assert len(rows) == len(steps)
    at_top = trace.calls[trace.calls["parent"].isin(rows.index)]
    inside = at_top.groupby("parent")["duration_ns"].sum()
    own_ns = rows["self_ns"].dropna()
    assert (own_ns + inside.reindex(own_ns.index) == rows["duration_ns"][own_ns.index]).all()
