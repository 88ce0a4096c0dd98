"""Two threads that train at once, whose backwards share the thread of the device; prints what the trace holds."""

from __future__ import annotations

import sys
import threading

import torch

import modtrace
from tests.fake_cuda import engine, fake_cuda

BACKWARDS, STEPS = 10, 4
APART = 5_000
"""Autograd nodes by which the second thread's numbers are ahead: each thread has its own."""


class Trained(torch.nn.Module):
    def __init__(self, ran):
        super().__init__()
        self.steps = torch.nn.Sequential(*(engine.Step(ran) for _ in range(STEPS)))

    def forward(self, x):
        return engine.ToHost.apply(self.steps(x)).sum()


class First(Trained):
    pass


class Second(Trained):
    pass


def main(*, inside_nodes):
    kept = engine.set_up()
    threads, errors = set(), []
    turn = threading.Barrier(2)

    def node(inner):
        def ran():
            threads.add(threading.get_ident())
            if inside_nodes:
                inner(torch.ones(2))

        return ran

    models = [First(node(torch.nn.Linear(2, 2))), Second(node(torch.nn.Tanh()))]

    def train(number):
        try:
            x = torch.ones(1, requires_grad=True)
            for _ in range(APART * number):
                x * 1
            for _ in range(BACKWARDS):
                turn.wait(60)
                loss = models[number](engine.OnDevice(torch.ones(3)).requires_grad_())
                turn.wait(60)
                loss.backward()
        except Exception as error:
            errors.append(error)
            turn.abort()

    with fake_cuda(plays=engine.NAME) as gpu:
        with modtrace.trace(flops=False) as trace:
            trainers = [threading.Thread(target=train, args=(number,)) for number in range(2)]
            for trainer in trainers:
                trainer.start()
            for trainer in trainers:
                trainer.join()
        calls = trace.calls
        backward = calls[calls["kind"] == "backward"]
        inner = calls[calls["type"].isin(["Linear", "Tanh"])]
        forward = calls.loc[backward["forward"]]
        print("errors", errors)
        print("threads", len(threads))
        print("illegal", gpu.illegal)
        print("gaps", trace._tracer.gaps)
        print("forwards", (calls["kind"] == "module").sum() - len(inner))
        print("with_backward", backward["forward"].nunique())
        print("timed", backward["device_ns"].notna().sum())
        print("of_their_thread", (forward["thread"].to_numpy() == backward["thread"].to_numpy()).sum())
        print("inner", len(inner), inner.groupby("type", observed=True)["thread"].nunique().max())
    return kept


if __name__ == "__main__":
    main(inside_nodes="inside" in sys.argv)
