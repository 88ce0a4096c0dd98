"""A check of a structure is true only for what has the same key, and true for what is built alike."""

from __future__ import annotations

import copy
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import modtrace
from modtrace.capture.engine.argument_guards import never
from modtrace.capture.engine.signatures import arguments_key, keywords_key, value_key
from modtrace.capture.engine.structure_guards import (
    MANY_GUARDS,
    guard_of_arguments,
    guard_of_keywords,
    guard_of_value,
    remember_structure,
)
from modtrace.capture.engine.tensor_guards import NOTHING, Entry

Pair = namedtuple("Pair", "first second")  # noqa: PYI024 - the class itself is what is tested


@dataclass
class Fields:
    first: object
    second: object = None


@dataclass
class Other:
    first: object
    second: object = None


class Output(OrderedDict):
    """As the outputs of transformers: a dict and a dataclass, whose fields may be absent."""


Output.__dataclass_fields__ = {field.name: field for field in fields(Fields)}


class Items(list):
    pass


class Holds:
    """Data of the program's own, such as a cache."""

    def __init__(self, value):
        self.value = value


def output(first, second):
    made = Output()
    made.__dict__.update({"first": first, "second": second} if second is not None else {"first": first})
    return made


def tensor(size, kind):
    made = torch.zeros(size, dtype=[torch.float32, torch.float64, torch.int64][kind % 3])
    if kind == 3:
        return torch.nn.Parameter(torch.zeros(size))
    if kind == 4:
        return torch.zeros(size).requires_grad_()
    if kind == 5:
        return torch.zeros(2, size).t()
    return made


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, 2, 0.0, -0.0, 1.0, float("nan"), 0j, 1j, -0j, 1 + 0j]),
    st.sampled_from(["", "a", "b"]),
    st.sampled_from(
        [torch.float32, torch.float64, torch.strided, torch.device("cpu"), torch.preserve_format, ...]
    ),
    st.builds(tensor, st.integers(1, 2), st.integers(0, 5)),
    st.sampled_from([torch.Size([1]), torch.Size([2]), len, torch.relu]),
    st.builds(Holds, st.integers(0, 1)),
    st.builds(Holds, st.builds(tensor, st.integers(1, 2), st.integers(0, 5))),
)
names = st.sampled_from(["a", "b", "c", 1])
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=3).map(Items),
        st.dictionaries(names, inner, max_size=3),
        st.dictionaries(names, inner, max_size=3).map(OrderedDict),
        st.builds(Pair, inner, inner),
        st.builds(Fields, inner, inner),
        st.builds(Other, inner, inner),
        st.builds(output, inner, inner),
    ),
    max_leaves=8,
)


@settings(max_examples=400)
@given(values, values, st.booleans(), st.booleans(), st.booleans())
def test_a_value_that_passes_has_the_key(one, other, valued, graded_then, graded_now):
    with torch.set_grad_enabled(graded_then):
        check = guard_of_value(one, valued=valued)
    with torch.set_grad_enabled(graded_now):
        if check(other):
            assert value_key(one, valued=valued) == value_key(other, valued=valued)


@settings(max_examples=300)
@given(st.lists(values, max_size=3).map(tuple), st.lists(values, max_size=3).map(tuple), st.booleans())
def test_arguments_that_pass_have_the_key(one, other, graded):
    check = guard_of_arguments(one)
    with torch.set_grad_enabled(graded):
        if check(other):
            assert arguments_key(one, valued=True) == arguments_key(other, valued=True)


keywords = st.dictionaries(st.sampled_from(["a", "b", "c"]), values, max_size=3)


@settings(max_examples=300)
@given(keywords, keywords, st.booleans())
def test_keywords_that_pass_have_the_key(one, other, graded):
    check = guard_of_keywords(one)
    with torch.set_grad_enabled(graded):
        if check(other):
            assert keywords_key(one, valued=True) == keywords_key(other, valued=True)


@settings(max_examples=200)
@given(values, st.booleans())
def test_a_copy_passes(value, valued):
    """Where there is a check at all: but for the layout of memory, a copy is the same."""
    check = guard_of_value(value, valued=valued)
    if check is not never and "nan" not in repr(value):
        assert check(value)
        assert check(copy.deepcopy(value))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, 2), (1, 3)),
        ((1, 2), [1, 2]),
        ((1,), (True,)),
        ((0.0,), (-0.0,)),
        (("a",), ("b",)),
        ((torch.float32,), (torch.float64,)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": 1}, OrderedDict(a=1)),
        ({"a": 1}, {"a": 1, "b": 2}),
        (Pair(1, 2), (1, 2)),
        (Fields(1, None), Fields(1, 2)),
        (Fields(1, 2), Other(1, 2)),
        (output(1, None), output(1, 2)),
        (output(1, 2), output(1, None)),
        ((torch.zeros(2),), (torch.zeros(3),)),
        ((torch.zeros(2),), (torch.zeros(2).requires_grad_(),)),
        ((torch.zeros(2),), (torch.nn.Parameter(torch.zeros(2), requires_grad=False),)),
        ((None,), (0,)),
        (Holds(1), Holds(2)),
        (Holds(Holds([1])), Holds(Holds([2]))),
        (Holds([torch.zeros(2)]), Holds([torch.zeros(3)])),
        (Holds({"a": 1}), Holds({"b": 1})),
        (Holds(0.0), Holds(-0.0)),
    ],
)
@pytest.mark.parametrize("graded", [True, False])
def test_what_differs_does_not_pass(one, other, graded):
    with torch.set_grad_enabled(graded):
        check = guard_of_value(one, valued=True)
        assert check(copy.deepcopy(one))
        assert not check(other)


class Sub(torch.Tensor):
    pass


@pytest.mark.parametrize(
    "value",
    [
        (Holds(torch.nn.Linear(1, 1)),),
        (Holds({1: 2}),),
        (torch.Size([2]),),
        {1: 2},
        [[[[[1]]]]],
        list(range(100)),
        (torch.zeros(2).as_subclass(Sub),),
    ],
)
def test_what_only_a_walk_can_tell_has_no_check(value):
    assert guard_of_value(value, valued=True) is never


def test_values_do_not_matter_where_they_are_no_part_of_the_key():
    check = guard_of_value((1, "ab", Holds(1), 2.0), valued=False)
    assert check((2, "cd", Holds(2), 3.0))
    assert not check((2, "cde", Holds(2), 3.0))


def test_checks_of_one_entry_are_few():
    """Two signatures that take turns in pairs, for ever."""
    entry, made = Entry(0), []
    last = NOTHING
    for number in [1, 1, 2, 2] * 20:
        last = remember_structure(entry, last, number, lambda: made.append(0) or (lambda _: False))
    assert len(made) == MANY_GUARDS


def test_a_check_that_fails_is_not_written_again():
    entry, made = Entry(0), []
    last = NOTHING
    for _ in range(20):
        last = remember_structure(entry, last, 1, lambda: made.append(0) or never)
    assert len(made) == 1


class Takes(torch.nn.Module):
    def forward(self, x, mask=None, *, scale=1.0, cache=None, flag=False):
        return {"x": x * scale, "pair": (x, mask), "flag": flag}


@pytest.mark.parametrize("engine", ["hooks", "calls"])
@pytest.mark.parametrize("graded", [True, False])
def test_signatures_are_as_without_checks(engine, graded, monkeypatch):
    """Calls alike and unlike the last one, in every order that matters."""

    def record():
        model, x = Takes(), torch.ones(2, 3)
        y = torch.ones(2, 3).requires_grad_()
        runs = [
            ((x,), {}), ((x, None), {"scale": 2.0}), ((x, y), {"scale": 2.0}), ((x, y), {"flag": True}),
            ((y, x), {"flag": True}), ((x, x), {"flag": True, "cache": Holds(1)}), ((x,), {"flag": False}),
        ]  # fmt: skip
        with torch.set_grad_enabled(graded), modtrace.trace(engine=engine, flops=False) as trace:
            for repeats in (1, 4, 2):
                for args, kwargs in runs:
                    for _ in range(repeats):
                        model(*args, **kwargs)
        return [trace.calls[column].astype(str).tolist() for column in ("inputs", "outputs")]

    checked = record()
    module = "modtrace.capture.engine.module_calls."
    for name in ("guard_of_value", "guard_of_arguments", "guard_of_keywords"):
        monkeypatch.setattr(module + name, lambda *_, **__: never)
    assert record() == checked
    assert len(set(checked[0])) > 4


def test_a_guard_made_without_grad_mode_is_not_taken_in_it():
    """torch's guard of a tensor that requires grad passes others once it was made while grad mode was off."""
    model, x = torch.nn.Identity(), torch.ones(2)
    y = torch.ones(2).requires_grad_()
    with modtrace.trace() as trace:
        with torch.no_grad():
            for _ in range(4):
                model(y)
        model(x)
        model(y)
    assert len(trace.calls) == 6
    inputs = trace._stored.table("calls")["inputs"].to_pylist()
    assert inputs[-1] == inputs[0]
    assert inputs[-2] != inputs[0]
