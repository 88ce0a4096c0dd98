"""Nothing a program can see differs for being traced, and nothing is left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import warnings

import pytest
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

import modtrace
from tests.torture.models import CASE_LIST, CASES
from tests.torture.observe import global_hooks, observe
from tests.torture.zoo_exceptions import Interrupt, RaisesAtOnce

NO_HOOKS = dict.fromkeys(global_hooks(), 0)
PYTHON_LIMITS = {"recursion_error"}
"""Where python's recursion limit is met depends on the frames torch puts around hooks."""


def with_functions():
    return modtrace.trace(functions=True)


@pytest.mark.parametrize("trace", [modtrace.trace, with_functions])
@pytest.mark.parametrize("case", CASE_LIST, ids=lambda case: case.name)
def test_traced_run_is_bitwise_the_same(case, trace):
    observe(case)  # torch gives some warnings once in a process
    untraced = observe(case)
    traced = observe(case, trace)

    for key, value in untraced.items():
        if key == "warnings" and case.name in PYTHON_LIMITS:
            continue  # modtrace says that it stopped recording
        assert traced[key] == value, key
    assert traced.keys() == untraced.keys()
    assert traced["global hooks"] == NO_HOOKS


@pytest.mark.parametrize("name", ["plain", "parametrised", "hooks_of_every_sort", "training_steps", "Frozen"])
def test_chosen_model_is_bitwise_the_same(name):
    """The same where one model is traced and not the process."""
    case = CASES[name]
    observe(case)
    untraced = observe(case)

    def run(model):
        with modtrace.trace(model):
            return case.run(model)

    traced = observe(dataclasses.replace(case, run=run))
    for key, value in untraced.items():
        assert traced[key] == value, key


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, Interrupt])
def test_no_hook_remains(error):
    model = nn.Sequential(nn.Identity(), nn.Sequential(RaisesAtOnce(error) if error else nn.ReLU()))
    expected = pytest.raises(error) if error else contextlib.nullcontext()
    with expected, modtrace.trace():
        model(torch.ones(1))

    assert global_hooks() == NO_HOOKS
    assert not nn.modules.module._has_any_global_hook()
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks


def test_same_exception_object_with_the_same_traceback():
    error = ValueError("this very object")
    model = nn.Sequential(RaisesAtOnce(error))
    with pytest.raises(ValueError) as caught, modtrace.trace():
        model(torch.ones(1))

    assert caught.value is error
    assert error.__context__ is None
    assert error.__cause__ is None
    files = {entry.frame.code.path for entry in caught.traceback}
    assert not any("modtrace" in str(file) and "tests" not in str(file) for file in files)


def test_users_global_hooks_survive():
    """Registered before, during and after; whatever is removed when."""
    seen = []

    def register(name):
        return nn.modules.module.register_module_forward_hook(lambda *_: seen.append(name))

    model = nn.Identity()
    before = register("before")
    with modtrace.trace():
        during = register("during")
        model(1)
        before.remove()
        model(2)
    after = register("after")
    model(3)
    during.remove()
    after.remove()

    assert seen == ["before", "during", "during", "during", "after"]
    assert global_hooks() == NO_HOOKS


def test_numbers_of_users_hooks_are_the_same():
    """torch numbers hooks in order of registration and writes the numbers into pickled models."""
    start = RemovableHandle.next_id = 5_000
    model = nn.Identity()
    with modtrace.trace():
        first = model.register_forward_hook(lambda *_: None)
    second = model.register_forward_hook(lambda *_: None)
    assert [first.id, second.id] == [start, start + 1]


def test_nested_and_repeated_traces():
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    with modtrace.trace() as outer:
        model(torch.ones(1))
        with modtrace.trace(model) as inner:
            model(torch.ones(1))
        model(torch.ones(1))
    with modtrace.trace() as later:
        model(torch.ones(1))

    assert [len(trace.calls) for trace in (outer, inner, later)] == [9, 3, 3]
    assert global_hooks() == NO_HOOKS


def test_overlapping_traces():
    model = nn.Sequential(nn.Identity())
    first, second = modtrace.trace(), modtrace.trace()
    one = first.__enter__()
    model(1)
    two = second.__enter__()
    model(2)
    first.__exit__(None, None, None)
    model(3)
    second.__exit__(None, None, None)

    assert [len(one.calls), len(two.calls)] == [4, 4]
    assert global_hooks() == NO_HOOKS


def test_no_thread_is_started():
    before = threading.active_count()
    with modtrace.trace():
        nn.Identity()(1)
        assert threading.active_count() == before


def test_no_warning_under_strict_filters():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with modtrace.trace() as trace:
            nn.Sequential(nn.Linear(2, 2))(torch.ones(1, 2))
        assert len(trace.calls) == 2
