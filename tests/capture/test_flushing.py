"""Writing from a thread of modtrace's own leaves the program's objects to the program's threads."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from torch import nn

import modtrace
from modtrace.capture.engine import flusher


@pytest.mark.parametrize("enabled", [True, False])
def test_finalizers_of_the_program_do_not_run_where_blocks_are_written(enabled, monkeypatch):
    ran_on, by_then = [], []

    class Finalized:
        def __del__(self):
            ran_on.append(threading.get_ident())

    def garbage():
        one = Finalized()
        one.itself = one

    thresholds = gc.get_threshold()
    model = nn.Sequential(*[nn.Identity() for _ in range(50)])
    with modtrace.trace() as trace:
        for _ in range(20):
            model(torch.ones(1))
        blocks = trace._tracer._blocks
        write = blocks.write

        def leave_garbage(*args):
            garbage()
            write(*args)
            by_then.append(len(ran_on))

        monkeypatch.setattr(blocks, "write", leave_garbage)
        writer = threading.Thread(target=trace._tracer._flusher.flush_apart)
        gc.set_threshold(1, 1, 1)
        gc.enable() if enabled else gc.disable()
        try:
            writer.start()
            writer.join()
            assert gc.isenabled() is enabled
        finally:
            gc.set_threshold(*thresholds)
            gc.enable()
        assert trace._tracer.rows["calls"] == 20 * 51
    gc.collect()
    assert by_then[0] == 0
    assert len(ran_on) >= 1


def test_of_a_long_forward_the_last_calls_keep_their_backward(monkeypatch):
    """What is known of nodes is bounded: a half is forgotten, the older one."""
    layers = 40
    model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(layers)])
    monkeypatch.setattr(flusher, "MANY_GROWN", 10 * flusher.GROWN)
    with modtrace.trace() as trace:
        due = trace._tracer._context
        x = torch.ones(1, 2)
        for layer in model:
            due.due = 0  # each call finds a block due
            x = layer(x)
        x.sum().backward()
    calls = trace.calls
    rows = calls[calls["kind"] == "backward"]
    names = [int(name) for name in rows["name"] if str(name).isdigit()] or rows["root"].tolist()
    assert 3 <= len(rows) < layers, names
