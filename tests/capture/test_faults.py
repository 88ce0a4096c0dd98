"""A fault of the recorder, wherever it happens, costs the recording and never the program."""

from __future__ import annotations

import errno
import itertools
import threading
import time
import warnings

import pytest
import torch

import modtrace
from modtrace.capture.engine import decode, module_calls
from modtrace.capture.engine import modules as registry
from modtrace.capture.engine import signatures as signature
from modtrace.trace import writer


class Broken(Exception):
    """What is injected."""


def failing_at(real, number):
    """`real`, but its N-th call raises."""
    count = itertools.count(1)

    def call(*args, **kwargs):
        if next(count) == number:
            raise Broken
        return real(*args, **kwargs)

    return call


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
        self.hooked = torch.nn.Linear(4, 4)
        self.hooked.register_forward_hook(lambda module, args, output: output * 2)

    def forward(self, x, *, mask=None):
        x = self.hooked(self.inner(x))
        try:
            self.inner(x[:, :2])
        except RuntimeError:
            pass
        return {"x": x, "pair": (x, mask)}


def run(model):
    torch.manual_seed(0)
    return model(torch.randn(2, 3), mask=torch.ones(2))["x"]


PLACES = {
    "clock": (time, "perf_counter_ns"),
    "enter a tree": (registry.Registry, "_enter"),
    "facts": (registry.Registry, "_facts"),
    "number a signature": (signature.Signatures, "number"),
    "remember": (module_calls, "remember"),
    "write": (writer.Writer, "append"),
    "take out": (decode, "records_of"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("number", [1, 2, 3, 5, 8, 13, 21, 34, 55])
def test_the_program_goes_on(monkeypatch, place, number):
    model = Model()
    expected = run(model)
    owner, name = PLACES[place]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with monkeypatch.context() as patch:
            recording = modtrace.trace()
            patch.setattr(owner, name, failing_at(getattr(owner, name), number))
            try:
                recording.__enter__()
            except Broken:  # nothing has begun: the with statement raises before its block
                return
            try:
                for _ in range(3):
                    assert torch.equal(run(model), expected)
                    recording._tracer.flush()
            finally:
                recording.__exit__(None, None, None)
    assert len(told) <= 1
    assert bool(told) == bool(recording._tracer.gaps)
    tables = torch.nn.modules.module
    assert not tables._global_forward_hooks
    assert not tables._global_forward_pre_hooks
    assert all(len(module._forward_hooks) <= 1 for module in model.modules())
    assert len(recording.calls) == 21 or told
    if told:
        assert "!" in recording.summary()


def test_no_calls_are_lost_by_flushes_at_any_moment():
    model = Model()
    with modtrace.trace() as recording:
        for module in model.modules():
            module.register_forward_hook(lambda *_: recording._tracer.flush())
        for _ in range(5):
            run(model)
    calls = recording.calls
    assert calls["status"].astype(str).value_counts().to_dict() == {"ok": 25, "raised": 10}
    roots = calls[calls["depth"] == 0]
    assert list(roots["last_call"] - roots.index) == [6] * 5
    assert (calls["duration_ns"] >= calls["self_ns"] + calls["tracer_ns"]).all()


def test_times_add_up():
    model = Model()
    with modtrace.trace() as recording:
        for _ in range(4):
            run(model)
    calls = recording.calls
    children = calls[calls["parent"] >= 0].groupby("parent")["duration_ns"].sum()
    children = children.reindex(calls.index, fill_value=0)
    assert (calls["self_ns"] + calls["tracer_ns"] + children == calls["duration_ns"]).all()
    hooked = calls[calls["name"] == "hooked"]
    assert hooked["output_replaced"].all()
    assert (hooked["hooks_ns"] > 0).all()


class Looking(torch.nn.Module):
    """Notes how many modes of torch's stand on its thread, and lets something happen."""

    def __init__(self, happens=None):
        super().__init__()
        self.happens = happens
        self.modes = []

    def forward(self, x):
        self.modes.append((torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack()))
        if self.happens is not None:
            self.happens()
        return x


def in_a_thread(act):
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


@pytest.mark.parametrize("engine", ["hooks", "calls"])
@pytest.mark.parametrize(
    "where", [in_a_thread, lambda act: act()], ids=["the writing thread", "the same thread"]
)
@pytest.mark.parametrize("error", [Broken(), OSError(errno.ENOSPC, "No space left on device")])
def test_no_mode_stays_on_the_programs_thread(engine, where, error):
    """torch keeps modes by thread, and the disk is full on the thread that writes."""
    before, after = Looking(lambda: where(lambda: tracer._fault(error))), Looking()
    model = torch.nn.Sequential(before, torch.nn.Linear(3, 3), after)
    with warnings.catch_warnings(record=True), modtrace.trace(engine=engine, functions=True) as recording:
        tracer = recording._tracer
        model(torch.randn(2, 3))
        model(torch.randn(2, 3))
    assert before.modes == [(1, 1), (0, 0)]
    assert after.modes == [(0, 0), (0, 0)]


@pytest.mark.parametrize("engine", ["hooks", "calls"])
def test_no_mode_comes_back_behind_an_operation(engine):
    """A mode that is running is off the stack, and torch puts it back when it returns."""

    class Breaks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            tracer._fault(Broken())
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad

    class Inside(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.dropout(Breaks.apply(x), 0.0)

    after = Looking()
    model = torch.nn.Sequential(Inside(), after)
    with warnings.catch_warnings(record=True), modtrace.trace(engine=engine, functions=True) as recording:
        tracer = recording._tracer
        model(torch.randn(2, 3, requires_grad=True))
    assert after.modes == [(0, 0)]
