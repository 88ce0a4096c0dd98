"""Backwards whose nodes run on the calling thread and on the device's at once; prints what the trace holds.

A thread that records an event has let go of the interpreter's lock: there, in the middle of writing rows, the other
thread runs one of its nodes, if it can.
"""

from __future__ import annotations

import sys
import threading

import torch

import modtrace
from tests.fake_cuda import engine, fake_cuda

BACKWARDS, STEPS = 20, 4
PATIENCE_S = 0.02
"""How long a thread stays inside `record` where the other waits for it to come out."""


def main(*, inside_nodes):
    kept = engine.set_up()
    caller = threading.get_ident()
    inside, ran = threading.Event(), threading.Event()
    threads = set()

    def on_record():
        if threading.get_ident() != caller:
            ran.clear()
            inside.set()
            ran.wait(PATIENCE_S)

    inner = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU())

    def calls_modules():
        if inside_nodes:
            with modtrace.span("in a node"):
                inner(torch.ones(3))
            inner(engine.OnDevice(torch.ones(3)) if threading.get_ident() != caller else torch.ones(3))

    def host_ran():
        threads.add(threading.get_ident())
        calls_modules()
        ran.set()
        inside.wait(PATIENCE_S)
        inside.clear()

    def device_ran():
        threads.add(threading.get_ident())
        calls_modules()

    with fake_cuda(plays=engine.NAME) as gpu:
        model = engine.Mixed(STEPS, host_ran, device_ran)
        with modtrace.trace(flops=False) as trace:
            model(*model.inputs()).backward()
            gpu.on_record = on_record
            for _ in range(BACKWARDS):
                model(*model.inputs()).backward()
        calls = trace.calls
        modules, backward = (calls[calls["kind"] == kind] for kind in ("module", "backward"))
        print("threads", len(threads))
        print("illegal", gpu.illegal)
        print("gaps", trace._tracer.gaps)
        print("calls", len(modules))
        print("with_backward", backward["forward"].nunique())
    return kept


if __name__ == "__main__":
    main(inside_nodes="inside" in sys.argv)
