"""Replicas of a model on threads of a pool, and a module that all of them share: as in torch's `parallel_apply`,
which needs an accelerator. The program keeps an account of its own calls.
"""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import modtrace
from tests.torture.compare import assert_well_formed, module_calls

REPLICAS, STEPS = 4, 20


class Account:
    """Of each thread the calls in order, each as the classes from its root down to it."""

    def __init__(self):
        self.own = threading.local()
        self.threads = []

    def __call__(self, label):
        if not hasattr(self.own, "paths"):
            self.own.paths, self.own.open = [], []
            self.threads.append(self.own.paths)
        self.own.open.append(label)
        self.own.paths.append(tuple(self.own.open))

    def close(self):
        self.own.open.pop()

    def size(self):
        return sum(map(len, self.threads))


def counted(account, label, forward, **children):
    """A module of a class of this name, whose calls are in the account; it has a weight and these children."""

    def run(self, *args):
        account(label)
        try:
            return forward(self, *args)
        finally:
            account.close()

    module = type(label, (nn.Module,), {"forward": run})()
    module.weight = nn.Parameter(torch.ones(4))
    for name, child in children.items():
        setattr(module, name, child)
    return module


def replicas(account):
    """Each calls its own body, then a head that all share. The head fails one of them, which tries again."""
    meet = threading.Barrier(REPLICAS, timeout=60)

    def head(self, x, attempt):
        if attempt == 0:
            meet.wait()  # all threads are within the shared module
            if len(x) == 2:
                raise ValueError("try again")
        return self.last(x) * self.weight

    def net(self, x):
        x = self.body(x)
        try:
            return self.head(x, 0)
        except ValueError:
            return self.head(x, 1)

    def body(self, x):
        meet.wait()
        return self.inner(self.inner(x))

    def scale(self, x):
        return x * self.weight

    shared = counted(account, "Head", head, last=counted(account, "Last", scale))
    return [
        counted(
            account, f"Net{number}", net, head=shared,
            body=counted(account, f"Body{number}", body, inner=counted(account, f"Inner{number}", scale)),
        )
        for number in range(REPLICAS)
    ]  # fmt: skip


def trained(account, **options):
    """The trace of a loop over the replicas, and how many calls there were in each step."""
    nets = replicas(account)
    optimizer = torch.optim.SGD(nn.ModuleList(nets).parameters(), 0.01)
    inputs = [torch.ones(number + 1, 4) for number in range(REPLICAS)]
    numbers = []
    with modtrace.trace(flops=False, rollups=True, **options) as trace, ThreadPoolExecutor(REPLICAS) as pool:
        for _ in range(STEPS):
            before = account.size()
            torch.cat(list(pool.map(lambda net, x: net(x), nets, inputs))).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            numbers.append(account.size() - before)
    return trace, numbers


def paths_of_threads(calls):
    """The same of the trace."""
    paths, threads = {-1: ()}, {}
    for call, row in module_calls(calls).iterrows():
        paths[call] = (*paths[row["parent"]], row["type"])
        threads.setdefault(row["thread"], []).append(paths[call])
    return list(threads.values())


@pytest.mark.parametrize("engine", ["hooks", "calls"])
@pytest.mark.parametrize("keep", ["all", 3])
def test_calls_of_each_thread_nest_and_count_as_the_program_says(engine, keep):
    account = Account()
    trace, numbers = trained(account, engine=engine, keep=keep)
    calls = trace.calls
    assert_well_formed(calls)
    assert len(account.threads) == REPLICAS
    rows = calls[calls["kind"] == "module"]
    in_steps = rows.groupby("step").size().to_dict()
    assert in_steps == {step: numbers[step] for step in in_steps}
    failed = rows[rows["error"].notna()]
    assert failed.groupby("step").size().to_dict() == dict.fromkeys(in_steps, 1)
    assert set(failed["type"]) == {"Head"}
    if keep == "all":
        assert sorted(paths_of_threads(calls)) == sorted(account.threads)
    else:
        assert {*range(10), *range(12, STEPS, 3)} <= set(in_steps)
    sums = trace.rollups
    sums = sums[sums["kind"] == "module"].groupby("type", observed=True)["calls"].sum()
    assert sums.to_dict() == Counter(path[-1] for paths in account.threads for path in paths)
