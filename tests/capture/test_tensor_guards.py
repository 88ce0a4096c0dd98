"""Guards of single tensors: what they pass has the signature they were made for, in every grad mode."""

from __future__ import annotations

import itertools

import pytest
import torch

from modtrace.capture.engine import tensor_guards
from modtrace.capture.engine.signatures import value_key
from modtrace.capture.engine.tensor_guards import (
    NOTHING,
    SEVERAL,
    grad_differs,
    guard_of,
    has_grad,
    has_grads,
    is_guarded,
    remember,
)

MAKERS = {
    "float32": lambda: torch.zeros(2, 3),
    "other size": lambda: torch.zeros(3, 2),
    "more dimensions": lambda: torch.zeros(2, 3, 1),
    "float64": lambda: torch.zeros(2, 3, dtype=torch.float64),
    "meta": lambda: torch.zeros(2, 3, device="meta"),
    "with grad": lambda: torch.zeros(2, 3).requires_grad_(),
    "parameter": lambda: torch.nn.Parameter(torch.zeros(2, 3)),
    "sparse": lambda: torch.zeros(2, 3).to_sparse(),
    "none": lambda: None,
    "number": lambda: 3,
    "list": lambda: [torch.zeros(2, 3)],
}
TENSORS = ("float32", "other size", "float64", "meta", "with grad")


@pytest.mark.parametrize("guard", [guard_of, tensor_guards._attribute_guard, tensor_guards._tensor_guard])
@pytest.mark.parametrize(("first", "second"), [*itertools.product(TENSORS, MAKERS)])
def test_what_passes_has_the_signature(guard, first, second):
    guarded, value = MAKERS[first](), MAKERS[second]()
    alike = type(guarded) is type(value) and value_key(guarded) == value_key(value)
    assert bool(guard(guarded)(value)) is alike


def test_torchs_own_guard_is_used_where_it_tells():
    assert guard_of is tensor_guards._tensor_guard


@pytest.mark.parametrize("tells", ["nothing", "no dtype", "raises"])
def test_a_torch_whose_guard_does_not_tell(tells, monkeypatch):
    def guard(value):
        if tells == "raises":
            raise RuntimeError
        return (
            (lambda _: True)
            if tells == "nothing"
            else lambda other: getattr(other, "shape", 0) == value.shape
        )

    monkeypatch.setattr(tensor_guards, "_tensor_guard", guard)
    assert tensor_guards._choose_guard() is tensor_guards._attribute_guard


def test_a_guard_is_made_when_a_signature_comes_twice_in_a_row():
    x, memory = torch.zeros(2), NOTHING
    assert not memory[0](x)
    memory = remember(memory, x, 7)
    assert memory[2] == 7
    assert not memory[0](x), "once is not enough"
    memory = remember(memory, x, 7)
    assert memory[0](torch.ones(2))
    assert memory[1:] == (False, 7)
    memory = remember(memory, torch.zeros(3), 8)
    assert memory[2] == 8
    assert not memory[0](torch.zeros(3))
    assert not memory[0](x)


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("requires_grad", [True, False])
def test_no_guard_of_a_tensor_with_grad_is_made_without_grad_mode(enabled, requires_grad):
    x = torch.zeros(2, requires_grad=requires_grad)
    with torch.set_grad_enabled(enabled):
        assert is_guarded(x) is (enabled or not requires_grad)
        memory = remember(remember(NOTHING, x, 5), x, 5)
        assert memory[0](x) is (enabled or not requires_grad)
        assert memory[1] is (requires_grad and enabled)


class Watching(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        raise AssertionError("a mode has seen it")


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("in_mode", [True, False])
def test_requires_grad_is_read_out_of_sight_of_modes(in_mode, counted, monkeypatch):
    if not counted:
        monkeypatch.setattr(tensor_guards, "_count_modes", None)
    x, y = torch.zeros(2), torch.zeros(2, requires_grad=True)
    mode = Watching()
    if in_mode:
        mode.__enter__()
    try:
        values = has_grad(x), has_grad(y), has_grads((x, y, x)), has_grads(())
        differs = [grad_differs(value, grad) for value in (x, y) for grad in (False, True, SEVERAL)]
    finally:
        if in_mode:
            mode.__exit__(None, None, None)
    assert values == (False, True, (False, True, False), ())
    assert differs == [False, True, False, True, False, False]
