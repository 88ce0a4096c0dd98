"""What values look like in a trace: text, rows of tensors, whether something was not looked into; and their numbers."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch

from modtrace.capture.engine import signatures
from modtrace.capture.engine.signatures import (
    Signatures,
    arguments_key,
    is_opaque_class,
    keywords_key,
    value_key,
)
from modtrace.trace.schema import TEXT_LIMIT

Pair = namedtuple("Pair", "first second")  # noqa: PYI024 - the class itself is what is tested


@dataclass
class Fields:
    first: object
    second: object = None


@dataclass
class Slots:
    __slots__ = ("first",)
    first: object


class Output(OrderedDict):
    """As outputs of transformers: a dict that is a dataclass too."""

    __dataclass_fields__ = Fields.__dataclass_fields__

    def __init__(self, first, second):
        super().__init__()
        self.__dict__.update(first=first, second=second)


class Items(list):
    pass


class Data:
    def __init__(self, **values):
        self.__dict__.update(values)


class Lies(torch.Tensor):
    """Says that it cannot be looked at."""

    @property
    def shape(self):
        raise RuntimeError


def nested(depth, inner):
    for _ in range(depth):
        inner = [inner]
    return inner


X = torch.zeros(2, 3)


def shown(key):
    """Text, tensors and `opaque` of a key."""
    interned = Signatures()
    interned.rows()
    number = interned.number(key)
    rows = interned.rows()
    assert rows["signature"] == [number]
    return rows["text"][0], rows["tensors"][0], rows["opaque"][0]


TEXTS = {
    "tensor": (X, "f32[2,3]"),
    "scalar tensor": (torch.tensor(1), "i64[]"),
    "meta": (torch.zeros(1, dtype=torch.float16, device="meta"), "f16[1]@meta"),
    "sparse": (torch.zeros(2, 2).to_sparse(), "f32[2,2]:sparse_coo"),
    "parameter": (torch.nn.Parameter(X), "f32[2,3]"),
    "subclass": (torch.zeros(4).as_subclass(type("Mine", (torch.Tensor,), {})), "Mine:f32[4]"),
    "none": (None, "None"),
    "truth": (True, "bool"),
    "number": (3, "int"),
    "text": ("abc", "str(3)"),
    "size": (torch.Size([3]), "Size"),
    "empty list": ([], "[]"),
    "list": ([X, 1], "[f32[2,3], int]"),
    "list of one": ([X], "[f32[2,3]]"),
    "tuple": ((X, None), "(f32[2,3], None)"),
    "run": ([X, X, X, 1], "[f32[2,3] x3, int]"),
    "subclass of list": (Items([1]), "Items(int)"),
    "dict": ({"a": X, 1: None, (): 2}, "{a: f32[2,3], 1: None, tuple: int}"),
    "long key": ({"k" * 70: 1}, "{" + "k" * 60 + ": int}"),
    "ordered": (OrderedDict(a=1), "OrderedDict{a: int}"),
    "namedtuple": (Pair(X, 2), "Pair(first=f32[2,3], second=int)"),
    "dataclass": (Fields(X), "Fields(first=f32[2,3], second=None)"),
    "slots": (Slots(X), "Slots(first=f32[2,3])"),
    "model output": (Output(X, None), "Output(first=f32[2,3])"),
    "object": (Data(a=1), "Data"),
    "depth of 3": (nested(3, 1), "[[[int]]]"),
    "depth of 4": (nested(4, 1), "[[[[int]]]]"),
    "depth of 5": (nested(5, 1), "[[[[list]]]]"),
    "tensor below": (nested(4, X), "[[[[f32[2,3]]]]]"),
    "64 leaves": ([1] * 63, "[int x63]"),
    "a leaf more": ([1] * 64, "[int x63, ... 1 more]"),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_texts(name):
    value, text = TEXTS[name]
    assert shown(value_key(value))[0] == text


def test_entries_beyond_the_limit_are_counted():
    key = value_key({str(number): 1 for number in range(70)})
    assert len(key) == 2 + 63 + 1
    assert key[-1] == ("...", ("more", 7))
    text, _, _ = shown(key)
    assert len(text) == TEXT_LIMIT
    assert text.startswith("{0: int, 1: int, 2: int")


def test_rows_of_tensors():
    value = {"a": [X, torch.zeros(4, dtype=torch.int32)], "b": Pair(torch.zeros(1).requires_grad_(), 3)}
    _, rows, _ = shown(value_key(value))
    assert [(row["path"], row["shape"], row["dtype"], row["requires_grad"]) for row in rows] == [
        ("a.0", [2, 3], "float32", False), ("a.1", [4], "int32", False), ("b.first", [1], "float32", True),
    ]  # fmt: skip
    assert {(row["device"], row["layout"]) for row in rows} == {("cpu", "strided")}
    _, (row,), _ = shown(arguments_key((1, X)))
    assert row["path"] == "1"
    text, (row,), _ = shown(keywords_key({"mask": X, "p": 0.5}))
    assert row["path"] == "mask"
    assert text == "mask=f32[2,3], p=float"


def test_a_tensor_that_cannot_be_looked_at_is_unknown():
    text, (row,), opaque = shown(value_key(torch.zeros(3).as_subclass(Lies)))
    assert text == "nested[?]"
    assert row["shape"] is None
    assert opaque


SAME = [
    (1, 1, True), (1, 2, False), (True, 1, False), (0.0, -0.0, False), (math.nan, float("nan"), True),
    ("a", "a", True), ("a", "b", False), (torch.Size([1]), torch.Size([2]), False),
    (torch.float32, torch.float64, False), (torch.float32, torch.float32, True),
    (Data(a=1), Data(a=1), True), (Data(a=1), Data(a=2), False), (Data(a=1), Data(b=1), False),
    (Data(x=X), Data(x=torch.ones(2, 3)), True), (Data(x=X), Data(x=torch.ones(3, 2)), False),
    (Data(a=[1, 2]), Data(a=[1, 3]), False), (Data(a={"k": 1}), Data(a={"k": 2}), False),
    (Data(a="s"), Data(a="t"), False), (Data(a=0.5), Data(a=0.25), False),
    (Data(a=Data(b=1)), Data(a=Data(b=2)), False), (Data(a=Data(b=1)), Data(a=Data(b=1)), True),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(SAME)))
def test_keys_with_values(number):
    """Where values matter two are the same if they hold the same; in texts nothing of it is seen."""
    first, second, same = SAME[number]
    keys = [value_key(value, valued=True) for value in (first, second)]
    assert (keys[0] == keys[1]) is same
    assert shown(keys[0])[0] == shown(value_key(first))[0]
    assert not shown(keys[0])[2]
    if not isinstance(first, str) and type(first) is type(second):
        assert value_key(first) == value_key(second)


OPAQUE = {
    "written in C": threading.Lock(),
    "module": torch.nn.Linear(1, 1),
    "holds one": Data(a=threading.Lock()),
    "set": {1},
    "keys that are neither text nor int": Data(a={(): 1}),
    "holds too much": Data(a=list(range(1_001))),
    "deep list": Data(a=nested(9, 1)),
    "list that is too deep": nested(5, 1),
    "more leaves": [1] * 65,
    "more entries": {str(n): 1 for n in range(70)},
    "inside": (1, [2, {"k": threading.Lock()}]),
    "in a dataclass": Fields(1, threading.Lock()),
}


@pytest.mark.parametrize("name", OPAQUE)
def test_what_is_not_looked_into(name):
    value = OPAQUE[name]
    assert shown(value_key(value, valued=True))[2]
    assert shown(arguments_key((1, value), valued=True))[2]
    assert shown(keywords_key({"k": value}, valued=True))[2]


@pytest.mark.parametrize(
    "value", [[1] * 63, nested(4, 1), Data(a=list(range(990))), Data(a=nested(3, 1)), {}, X]
)
def test_what_is_looked_into(value):
    assert not shown(value_key(value, valued=True))[2]


def test_numbers():
    interned, asked = Signatures(), []
    interned.seen = lambda number, key: asked.append((number, key))
    keys = [value_key(value) for value in (X, 1, "ab", X, 1)]
    numbers = [interned.number(key) for key in keys]
    assert numbers == [1, 2, 3, 1, 2]
    assert asked == list(zip(numbers[:3], keys[:3], strict=True))
    assert interned.of_tensor(X) == 1
    assert interned.of_tensor(torch.zeros(7)) == 4
    assert interned.empty == 0 == interned.number(arguments_key(()))
    assert interned.rows()["text"] == ["", "f32[2,3]", "int", "str(2)", "f32[7]"]
    assert interned.rows() == {"signature": [], "text": [], "tensors": [], "opaque": []}


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("lock", [False, True])
def test_joined(apart, lock):
    """Positional and keyword arguments, whose rows may have been handed out before."""
    interned = Signatures()
    args = interned.number(arguments_key((X, 1), valued=True))
    kwargs = interned.number(keywords_key({"k": threading.Lock() if lock else X}, valued=True))
    if apart:
        interned.rows()
    assert interned.joined(args, kwargs) == interned.joined(args, kwargs) == kwargs + 1
    rows = interned.rows()
    assert rows["text"][-1] == f"f32[2,3], int, k={'lock' if lock else 'f32[2,3]'}"
    assert [row["path"] for row in rows["tensors"][-1]] == (["0"] if lock else ["0", "k"])
    assert rows["opaque"][-1] is lock


def test_values_that_never_repeat_are_left_out(monkeypatch):
    monkeypatch.setattr(signatures, "MAX_VALUED", 3)
    interned = Signatures()
    numbers = [
        interned.number(arguments_key((step, [step], Fields({"s": step})), valued=True)) for step in range(6)
    ]
    assert numbers == [1, 2, 3, 4, 4, 4]
    key = keywords_key({"k": [3], "m": {"n": "x"}}, valued=True)
    interned.number(key)
    rows = interned.rows()
    assert rows["opaque"] == [False] * 4 + [True] * 2
    assert rows["text"][4] == rows["text"][1] == "int, [int], Fields(first={s: int}, second=None)"
    assert rows["text"][5] == "k=[int], m={n: str(1)}"


def test_the_table_begins_again_where_it_is_full(monkeypatch):
    monkeypatch.setattr(signatures, "MAX_KEYS", 4)
    interned = Signatures()
    tensors = [torch.zeros(size) for size in range(5)]
    numbers = [interned.of_tensor(value) for value in tensors]
    assert numbers == [1, 2, 3, 4, 5]
    assert len(interned.known) == 2, "the fifth key of all begins it again"
    assert interned.of_tensor(tensors[4]) == 5
    assert interned.of_tensor(tensors[0]) == 6
    assert len(interned.rows()["text"]) == 7


@pytest.mark.parametrize(
    ("cls", "is_opaque"),
    [
        (int, True),
        (dict, True),
        (torch.nn.Module, True),
        (Data, False),
        (type("Own", (), {}), False),
    ],
)
def test_what_is_held_outside_of_the_dict_of_an_instance_is_not_seen(cls, is_opaque):
    assert is_opaque_class(cls.__mro__) is is_opaque
