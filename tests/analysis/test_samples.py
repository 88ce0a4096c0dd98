"""Samples of a step: right where calls tell, else unknown; against the batches that each loop was given."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

import modtrace

LOOPS = {}


def loop(samples):
    """A loop of three steps, and the samples of each (None for unknown)."""

    def note(function):
        LOOPS[function.__name__] = function, samples
        return function

    return note


class Setup:
    def __init__(self):
        torch.manual_seed(0)
        self.net, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.criterion = nn.MSELoss()
        both = [*self.net.parameters(), *self.other.parameters()]
        self.optimizer = torch.optim.SGD(both, 0.01)
        self.first = torch.optim.SGD(self.net.parameters(), 0.01)
        self.second = torch.optim.SGD(self.other.parameters(), 0.01)


@loop([6, 6, 6])
def one_batch(own):
    for _ in range(3):
        own.criterion(own.net(torch.ones(6, 4)), torch.zeros(6, 4)).backward()
        own.optimizer.step()


@loop([10, 10, 10])
def accumulation(own):
    for _ in range(3):
        for size in (6, 4):
            own.net(torch.ones(size, 4)).sum().backward()
        own.optimizer.step()


@loop([6, 6, 6])
def two_modules_in_a_row(own):
    for _ in range(3):
        own.other(own.net(torch.ones(6, 4))).sum().backward()
        own.optimizer.step()


@loop([6, 6, 6])
def one_backward_two_optimizers(own):
    for _ in range(3):
        own.other(own.net(torch.ones(6, 4))).sum().backward()
        own.first.step()
        own.second.step()


@loop([6, 6, 6])
def teacher_and_frozen_network(own):
    frozen = nn.Linear(4, 4).requires_grad_(requires_grad=False)
    for _ in range(3):
        with torch.no_grad():
            target = own.other(torch.ones(6, 4))
        y = own.net(torch.ones(6, 4))
        (frozen(y) - frozen(target)).square().sum().backward()
        own.optimizer.step()


@loop([6, 6, 6])
def a_forward_that_nothing_follows(own):
    for _ in range(3):
        own.net(torch.ones(3, 4))
        own.net(torch.ones(6, 4)).sum().backward()
        own.optimizer.step()


@loop([6, 6, 6])
def a_derivative_of_the_output(own):
    for _ in range(3):
        x = torch.ones(6, 4, requires_grad=True)
        y = own.net(x)
        slope = torch.autograd.grad(y.sum(), x, create_graph=True)[0]
        (y.sum() + slope.square().sum()).backward()
        own.optimizer.step()


@loop([6, 6, 6])
def a_closure_that_runs_once(own):
    def closure():
        loss = own.net(torch.ones(6, 4)).square().sum()
        loss.backward()
        return loss

    for _ in range(3):
        own.optimizer.step(closure)


@loop([None] * 3)
def a_closure_that_runs_often(own):
    optimizer = torch.optim.LBFGS(own.net.parameters(), max_iter=3)

    def closure():
        optimizer.zero_grad()
        loss = own.net(torch.ones(6, 4)).square().sum()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
        with torch.no_grad():
            own.net.weight += 0.1


@loop([None] * 3)
def generator_and_critic(own):
    for _ in range(3):
        real = own.other(torch.ones(6, 4)).mean()
        (real - own.other(own.net(torch.ones(6, 4)).detach()).mean()).backward()
        own.second.step()
        own.other(own.net(torch.ones(6, 4))).mean().backward()
        own.first.step()


@loop([None] * 3)
def critic_in_two_backwards(own):
    for _ in range(3):
        own.other(torch.ones(6, 4)).mean().backward()
        (-own.other(own.net(torch.ones(6, 4)).detach()).mean()).backward()
        own.second.step()
        own.other(own.net(torch.ones(6, 4))).mean().backward()
        own.first.step()


@loop([None] * 3)
def learning_to_learn(own):
    for _ in range(3):
        fast = dict(own.net.named_parameters())
        for _ in range(2):
            loss = torch.func.functional_call(own.net, fast, torch.ones(3, 4)).square().mean()
            grads = torch.autograd.grad(loss, list(fast.values()))
            fast = {name: value - 0.1 * grad for (name, value), grad in zip(fast.items(), grads, strict=True)}
        torch.func.functional_call(own.net, fast, torch.ones(5, 4)).square().mean().backward()
        own.optimizer.step()


@loop([None] * 3)
def two_views_of_a_batch(own):
    for _ in range(3):
        (own.net(torch.ones(6, 4)) - own.net(torch.zeros(6, 4))).square().sum().backward()
        own.optimizer.step()


@loop([None] * 3)
def two_modules_with_batches_of_their_own(own):
    for _ in range(3):
        (own.net(torch.ones(6, 4)).sum() + own.other(torch.ones(3, 4)).sum()).backward()
        own.optimizer.step()


@loop([None] * 3)
def on_other_threads(own):
    for _ in range(3):
        out = {}

        def run(size, out=out):
            out[size] = own.net(torch.ones(size, 4))

        workers = [threading.Thread(target=run, args=(size,)) for size in (4, 2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        torch.cat([out[4], out[2]]).sum().backward()
        own.optimizer.step()


@pytest.mark.parametrize("name", LOOPS)
def test_samples(name):
    function, expected = LOOPS[name]
    with modtrace.trace() as trace:
        function(Setup())
    found = trace.steps["samples"]
    known = found.notna()
    assert [int(one) if sure else None for one, sure in zip(found.fillna(-1), known, strict=True)] == expected
