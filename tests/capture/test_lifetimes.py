"""Recording keeps nothing of the program alive, with the garbage collector off: what is dead under python is dead."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from contextlib import suppress

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import modtrace

OPTIONS = {
    "plain": {},
    "calls": {"engine": "calls"},
    "no_flops": {"flops": False},
    "functions": {"functions": True},
    "memory": {"memory": "0:99"},
    "kernels": {"kernels": "0:99"},
    "memory_later": {"memory": "1:2"},
    "saved": {"saved": "0:99"},
    "syncs": {"syncs": True},
    "everything": {"functions": True, "memory": "0:9", "kernels": "3:20", "saved": "0:30", "syncs": True},
}
REPEATS = 3


class Local:
    """Stands for any value of the caller's: its death says that the caller's frame is gone."""


class Fails(nn.Module):
    def forward(self, x):
        raise ValueError("no")


class Interrupted(nn.Module):
    def forward(self, x):
        raise KeyboardInterrupt


class FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise ValueError("no")


def references(values):
    """Weak references to all locals that can have one, by name."""
    found = {}
    for name, value in values.items():
        with suppress(TypeError):
            found[name] = weakref.ref(value)
    return found


def trained():
    local = Local()
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters())
    loader = DataLoader(TensorDataset(torch.randn(8, 4)), batch_size=4)
    iterator = iter(loader)
    for (batch,) in iterator:
        output = model(batch)
        loss = output.square().mean()
        optimizer.zero_grad()
        model.zero_grad()
        loss.backward()
        optimizer.step()
    return references(locals())


def one_batch():
    local = Local()
    model = nn.Linear(4, 2)
    loader = DataLoader(TensorDataset(torch.randn(8, 4)), batch_size=4)
    iterator = iter(loader)
    (batch,) = next(iterator)
    output = model(batch)
    return references(locals())


def exhausted():
    local = Local()
    loader = DataLoader(TensorDataset(torch.randn(2, 4)), batch_size=4)
    iterator = iter(loader)
    next(iterator)
    try:
        next(iterator)
    except StopIteration:
        pass
    return references(locals())


def closure_of_lbfgs():
    local = Local()
    model = nn.Linear(4, 2)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
    x = torch.randn(4, 4)

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return references(locals())


def caught_in_forward():
    local = Local()
    model = nn.Sequential(nn.Linear(4, 4), Fails())
    x = torch.randn(2, 4)
    try:
        model(x)
    except ValueError:
        pass
    return references(locals())


def caught_interrupt():
    local = Local()
    model = nn.Sequential(nn.Linear(4, 4), Interrupted())
    x = torch.randn(2, 4)
    try:
        model(x)
    except KeyboardInterrupt:
        pass
    return references(locals())


def caught_in_backward():
    local = Local()
    model = nn.Linear(4, 4)
    x = torch.randn(2, 4)
    output = model(x)
    loss = FailsBackward.apply(output).sum()
    try:
        loss.backward()
    except ValueError:
        pass
    return references(locals())


def caught_in_an_operation():
    local = Local()
    model = nn.Linear(4, 4)
    x = torch.randn(2, 5)
    try:
        model(x)
    except RuntimeError:
        pass
    return references(locals())


def recomputed():
    local = Local()
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    x = torch.randn(2, 4, requires_grad=True)
    for reentrant in (False, True):
        output = checkpoint(model, x, use_reentrant=reentrant)
        loss = output.sum()
        loss.backward()
    return references(locals())


def scaled():
    local = Local()
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu")
    x = torch.randn(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x)
        loss = output.float().sum()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    return references(locals())


def own_hooks():
    local = Local()
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    for module in model:
        module.register_forward_pre_hook(lambda module, args: None)
        module.register_forward_hook(lambda module, args, output: output * 2)
    x = torch.randn(2, 4)
    output = model(x)
    output.sum().backward()
    return references(locals())


def own_hook_interrupted():
    local = Local()
    model = nn.Sequential(nn.Linear(4, 4), Interrupted())
    model.register_forward_hook(lambda module, args, output: None)
    x = torch.randn(2, 4)
    try:
        model(x)
    except KeyboardInterrupt:
        pass
    return references(locals())


def function_made_here():
    local = Local()
    big = torch.randn(4)

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * big

        @staticmethod
        def backward(ctx, grad):
            return grad * big

    del Scaled  # a class is in a cycle of its own; what it closes over is not in it after this
    model = nn.Linear(4, 4)
    output = model(torch.randn(2, 4))
    return references(locals())


def overridable_made_here():
    local = Local()
    big = torch.randn(2, 4)

    @torch.overrides.wrap_torch_function(lambda x: (x,))
    def scaled(x):
        return x * big

    model = nn.Linear(4, 4)
    output = scaled(model(torch.randn(2, 4)))
    result = {name: reference for name, reference in references(locals()).items() if name != "scaled"}
    del scaled
    return result


def spanned():
    local = Local()
    model = nn.Linear(4, 4)
    with modtrace.span("mine"):
        output = model(torch.randn(2, 4))
    with suppress(ValueError), modtrace.span("mine"):
        Fails()(output)
    modtrace.step()
    return references(locals())


def by_keyword():
    local = Local()
    model = nn.MultiheadAttention(4, 2, batch_first=True)
    x = torch.randn(2, 3, 4)
    output, weights = model(query=x, key=x, value=x)
    output.sum().backward()
    gradient = torch.autograd.grad(model(query=x, key=x, value=x)[0].sum(), next(iter(model.parameters())))[0]
    return references(locals())


def decorated():
    local = Local()
    model = nn.Linear(4, 4)

    @modtrace.span("decorated")
    def run(x):
        return model(x)

    output = run(torch.randn(2, 4))
    return references({name: value for name, value in locals().items() if name != "run"})


PROGRAMS = [
    trained, one_batch, exhausted, closure_of_lbfgs, caught_in_forward, caught_interrupt, caught_in_backward,
    caught_in_an_operation, recomputed, scaled, own_hooks, own_hook_interrupted, function_made_here,
    overridable_made_here, spanned, by_keyword, decorated,
]  # fmt: skip


@pytest.fixture
def no_collection():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive(program):
    return sorted(name for name, reference in program().items() if reference() is not None)


def everywhere():
    return {program.__name__: [alive(program) for _ in range(REPEATS)] for program in PROGRAMS}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_all_is_dead_after_a_step(options, no_collection):
    everywhere()  # the first one imports
    expected = everywhere()
    assert not any("local" in names for runs in expected.values() for names in runs)
    with modtrace.trace(**options) as trace:
        traced = everywhere()
    assert traced == expected
    assert len(trace.calls) > 50
    assert everywhere() == expected


def _stopped_inside():
    """A trace that ends inside the program's frames, in a forward and in a step of an optimizer."""
    local = Local()
    trace = modtrace.trace()
    trace.__enter__()

    class Stops(nn.Module):
        def forward(self, x):
            trace.__exit__(None, None, None)
            return x

    model = nn.Sequential(nn.Linear(4, 4), Stops())
    x = torch.randn(2, 4)
    output = model(x)
    return references({"local": local, "x": x, "output": output})


def test_all_is_dead_where_a_trace_ends_inside_a_call(no_collection):
    assert alive(_stopped_inside) == []


def _limited_inside(trace):
    """Comes to the limit of a recording in a forward."""
    local = Local()

    class Flushes(nn.Module):
        def forward(self, x):
            trace._tracer.flush()
            return x

    model = nn.Sequential(nn.Linear(4, 4), Flushes())
    x = torch.randn(2, 4)
    output = model(x)
    return references({"local": local, "x": x, "output": output})


@pytest.mark.parametrize("engine", ["hooks", "calls"])
def test_all_is_dead_where_a_limit_ends_the_recording_inside_a_call(engine, no_collection):
    with pytest.warns(RuntimeWarning, match="limit"), modtrace.trace(engine=engine, max_bytes=2500) as trace:
        living = [alive(lambda: _limited_inside(trace)) for _ in range(5)]
    assert living == [[]] * 5
    assert trace._tracer.end_facts["stopped"]["cause"] == "limit of 2,500 B"


def test_the_model_that_is_traced_is_not_kept(no_collection):
    model = nn.Linear(4, 4)
    reference = weakref.ref(model)
    with modtrace.trace(model) as trace:
        model(torch.randn(2, 4))
        del model
        assert reference() is None
    assert len(trace.calls) == 1


def test_a_model_that_is_gone_is_said(tmp_path):
    with pytest.raises(modtrace.UsageError, match="gone"), modtrace.trace(nn.Linear(2, 2)):
        pass


TRIALS = """
import gc, weakref, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
gc.disable()
class Local: pass
references = []
def trial():
    local = Local()
    references.append(weakref.ref(local))
    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    (x,) = next(iter(DataLoader(TensorDataset(torch.randn(8, 8)), batch_size=4)))
    loss = model(x).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
for _ in range(6):
    trial()
references.pop(0)  # torch imports in the first one
print([reference() is not None for reference in references])
"""


@pytest.mark.parametrize(
    "options", [[], ["--functions", "--memory", "0:2", "--kernels", "0:2", "--saved", "0:3", "--syncs"]]
)
def test_locals_of_a_whole_run_are_dead(tmp_path, options):
    (tmp_path / "trials.py").write_text(TRIALS)
    command = [sys.executable, "-m", "modtrace", "run", "-q", *options, "-o", "t.mtrace", "trials.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"{[False] * 5}\n", done.stderr
