"""What is said about sizes that disagree: only what is certain."""

from __future__ import annotations

import pytest

from modtrace.analysis.failure_reasons import Circumstances, disagreement, reason


def tensor(*shape, path="", dtype="float32", device="cpu"):
    return {"path": path, "shape": list(shape), "dtype": dtype, "device": device}


def weight(*shape, path="weight", **kind):
    return tensor(*shape, path=path, **kind)


MISMATCHES = [
    ("Linear", [weight(84, 100)], [tensor(64, 120)], "last size is 120"),
    ("Linear", [weight(84, 100)], [tensor(120)], "takes 100"),
    ("Linear", [weight(4, 3)], [tensor(2, 3, dtype="float64")], "dtypes differ"),
    ("Linear", [weight(4, 3, device="cuda:0")], [tensor(2, 3)], "devices differ"),
    ("Conv1d", [weight(8, 3, 5)], [tensor(2, 4, 9)], "4 channels"),
    ("Conv2d", [weight(8, 3, 5, 5)], [tensor(2, 4, 9, 9)], "takes 3"),
    ("Conv2d", [weight(8, 3, 5, 5)], [tensor(2, 9)], "dimensions"),
    ("Conv2d", [weight(8, 3, 5, 5)], [tensor(2, 3, 9, 9, dtype="float16")], "dtypes differ"),
    ("Conv3d", [weight(8, 3, 1, 1, 1)], [tensor(2, 5, 9, 9, 9)], "5 channels"),
    ("ConvTranspose2d", [weight(6, 3, 5, 5)], [tensor(2, 4, 9, 9)], "takes 6"),
    ("BatchNorm2d", [weight(16)], [tensor(2, 8, 3, 3)], "8 channels"),
    ("LayerNorm", [weight(16)], [tensor(2, 8)], "ends in [8]"),
    ("GroupNorm", [weight(16)], [tensor(2, 8, 3)], "takes 16"),
    ("Embedding", [weight(10, 4)], [tensor(2, dtype="float32")], "takes integers"),
    ("LSTM", [weight(8, 3, path="weight_ih_l0")], [tensor(2, 5, 4)], "last size is 4"),
    ("MultiheadAttention", [weight(24, 8, path="in_proj_weight")], [tensor(2, 5, 4)], "last size is 4"),
]

NOTHING = [
    ("KeyError", "Linear", [weight(84, 100)], [tensor(64, 120)]),
    ("RuntimeError", "Linear", [weight(84, 100)], []),
    ("RuntimeError", "Linear", [weight(84, 100)], [tensor(64, 100)]),
    ("RuntimeError", "ReLU", [], [tensor(64, 100)]),
    ("RuntimeError", "Conv2d", [weight(8, 1, 5, 5)], [tensor(2, 4, 9, 9)]),
    ("RuntimeError", "Conv2d", [weight(8, 3, 5, 5)], [tensor(3, 9, 9)]),
    ("RuntimeError", "Mine", [weight(84, 100)], [tensor(64, 120)]),
    ("IndexError", "Embedding", [weight(10, 4)], [tensor(2, dtype="int64")]),
    ("RuntimeError", "BatchNorm1d", [weight(8)], [tensor(1, 8)]),
    ("RuntimeError", "LayerNorm", [weight(8)], [tensor(2, 8)]),
    ("RuntimeError", "Linear", [weight(4, 3)], [tensor(2, 3, device="meta")]),
]


@pytest.mark.parametrize(("kind", "parameters", "given", "told"), MISMATCHES)
def test_a_mismatch_is_named(kind, parameters, given, told):
    assert told in (disagreement(Circumstances("RuntimeError", "", kind, parameters, given)) or "nothing")


@pytest.mark.parametrize(("error", "kind", "parameters", "given"), NOTHING)
def test_nothing_is_claimed_without_certainty(error, kind, parameters, given):
    assert reason(Circumstances(error, "", kind, parameters, given)) is None
