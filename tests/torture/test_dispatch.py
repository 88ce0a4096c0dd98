"""No hook calls a tensor operation, and torch takes the same paths with hooks as without."""

from __future__ import annotations

import contextlib
import warnings

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

import modtrace
from tests.torture.models import CASE_LIST, CASES
from tests.torture.observe import observe, seed


class Operations(TorchDispatchMode):
    """Writes down each operation that reaches the dispatcher."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    """Writes down each torch function called from python, reading a shape included."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(getattr(func, "__qualname__", str(func)))
        return func(*args, **(kwargs or {}))


def operations(case, mode, *, traced, mode_outside, **options):
    """What the mode sees of one run of the case."""
    seed()
    trace = modtrace.trace(**options) if traced else contextlib.nullcontext()
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        model = case.make()
        for context in (mode, trace) if mode_outside else (trace, mode):
            stack.enter_context(context)
        try:
            case.run(model)
        except BaseException as error:
            mode.seen.append(f"{type(error).__name__} left")
    return mode.seen


@pytest.mark.parametrize("case", CASE_LIST, ids=lambda case: case.name)
@pytest.mark.parametrize("make_mode", [Operations, Functions])
@pytest.mark.parametrize("functions", [False, True])
def test_modes_see_the_same(case, make_mode, functions):
    if case.name == "recursion_error":
        pytest.skip("where the limit is met depends on torch's own frames around hooks")
    operations(case, make_mode(), traced=False, mode_outside=True)  # torch keeps some results of a first run
    for mode_outside in (True, False):
        untraced = operations(case, make_mode(), traced=False, mode_outside=mode_outside)
        traced = operations(case, make_mode(), traced=True, mode_outside=mode_outside, functions=functions)
        assert traced == untraced


def test_recording_itself_calls_nothing():
    with Operations() as aten, Functions() as functions, modtrace.trace() as trace:
        torch.nn.Identity()(1)
    assert len(trace.calls) == 1
    assert aten.seen == []
    assert functions.seen == []


@pytest.mark.parametrize("options", [None, {}, {"functions": True}])
def test_encoder_keeps_its_fused_kernel(options):
    case, traced = CASES["transformer_in_eval"], options is not None
    seen = operations(case, Operations(), traced=traced, mode_outside=False, **(options or {}))
    assert seen.count("aten._transformer_encoder_layer_fwd.default") == 2
    assert "aten.softmax.int" not in seen


def test_beside_other_tools():
    """torch's profiler, its flop counter and its module tracker, all at once."""
    case = CASES["transformer_in_training"]

    @contextlib.contextmanager
    def tools():
        with torch.profiler.profile(), FlopCounterMode(display=False) as flops, ModuleTracker():
            yield flops

    @contextlib.contextmanager
    def tools_and_trace():
        with modtrace.trace() as trace, tools() as flops:
            yield
        seen.append(((trace.calls["kind"] == "module").sum(), flops.get_total_flops()))
        with tools() as flops, modtrace.trace() as trace:
            case.run(case.make())
        seen.append(((trace.calls["kind"] == "module").sum(), flops.get_total_flops()))

    seen = []
    observe(case, tools)
    untraced = observe(case, tools)
    traced = observe(case, tools_and_trace)
    assert traced["output"] == untraced["output"]
    assert traced["gradients"] == untraced["gradients"]
    assert [calls for calls, _ in seen] == [19, 19]
    assert all(flops for _, flops in seen)
