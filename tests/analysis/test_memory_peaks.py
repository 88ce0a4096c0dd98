"""Bytes of tensors as a trace describes them."""

from __future__ import annotations

import math

import pytest

from modtrace.analysis.memory_peaks import UNKNOWN, tensors_bytes
from modtrace.trace.schema import DTYPE_BYTES


def tensor(shape, dtype="float32", layout="strided"):
    return {"shape": shape, "dtype": dtype, "layout": layout}


@pytest.mark.parametrize("dtype", DTYPE_BYTES)
def test_one_tensor(dtype):
    for shape in ([], [3], [2, 5], [4, 0, 2]):
        assert tensors_bytes([tensor(shape, dtype)]) == math.prod(shape) * DTYPE_BYTES[dtype]


def test_widths_are_torchs():
    torch = pytest.importorskip("torch")
    for name, width in DTYPE_BYTES.items():
        if hasattr(torch, name):
            assert getattr(torch, name).itemsize == width


def test_several():
    assert tensors_bytes(None) == tensors_bytes([]) == 0
    assert tensors_bytes([tensor([3]), tensor([2, 2], "int64")]) == 12 + 32


UNTOLD = [tensor(None), tensor([None, 2]), tensor([-1]), tensor([2], "?"), tensor([2], layout="sparse_coo")]


@pytest.mark.parametrize("number", range(len(UNTOLD)))
def test_one_that_does_not_tell_makes_all_unknown(number):
    for tensors in ([UNTOLD[number]], [tensor([8]), UNTOLD[number]], [UNTOLD[number], tensor([8])]):
        assert tensors_bytes(tensors) == UNKNOWN


def test_what_no_machine_could_hold_is_unknown():
    most = tensor([1 << 60], "int8")
    assert tensors_bytes([most]) == 1 << 60
    assert tensors_bytes([most, tensor([1], "int8")]) == UNKNOWN
