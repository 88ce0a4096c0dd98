"""Hashes of tensors: equal for equal bits, and for nothing else; the tensor and autograd are left alone."""

from __future__ import annotations

import itertools

import pytest
import torch

import modtrace
from modtrace.capture.mechanisms import content_hash
from modtrace.capture.mechanisms.content_hash import ContentHash
from modtrace.capture.recorders.values import checked_measure
from modtrace.errors import UsageError


def hashed(tensor, hasher=None):
    slot = torch.empty((), dtype=torch.int64)
    (hasher or ContentHash()).into(tensor.detach(), slot)
    return int(slot)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(content_hash, "CHUNK", 7)


def test_equal_bits_have_equal_hashes_whatever_the_strides(small_chunks):
    tensor = torch.randn(6, 5)
    others = [
        tensor.clone(),
        tensor.t().contiguous().t(),
        torch.cat([tensor, tensor])[:6],
        tensor.double().float(),
    ]
    assert {hashed(tensor), *map(hashed, others)} == {hashed(tensor)}
    assert 0 <= hashed(tensor) < 1 << 62


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.float8_e4m3fn],
)
def test_one_element_that_differs_is_seen_wherever_it_is(dtype, small_chunks):
    tensor = torch.randn(23).to(dtype)
    seen = {hashed(tensor)}
    for place in range(23):
        other = tensor.clone()
        other[place] = 3.0
        seen.add(hashed(other))
    assert len(seen) == 24


def test_order_counts_and_so_does_the_sign_of_zero(small_chunks):
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    orders = {hashed(torch.tensor(order)) for order in itertools.permutations(values)}
    assert len(orders) == 120
    assert hashed(torch.tensor([0.0])) != hashed(torch.tensor([-0.0]))
    assert hashed(torch.zeros(8)) != hashed(torch.zeros(9))
    assert hashed(torch.tensor(float("nan"))) == hashed(torch.tensor(float("nan")))
    conjugated = torch.randn(3, dtype=torch.complex64).conj()
    assert hashed(conjugated) == hashed(conjugated.resolve_conj())
    assert hashed(torch._neg_view(torch.ones(3))) == hashed(-torch.ones(3))


def traced(weight=None, **options):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    if weight is not None:
        with torch.no_grad():
            model[2].weight += weight
    state = torch.get_rng_state()
    with modtrace.trace(values="0:3", **options) as t:
        outputs = [model(torch.ones(3, 4)) for _ in range(3)]
    assert torch.equal(state, torch.get_rng_state())
    return t, outputs


def test_a_trace_has_them_where_they_are_asked_for():
    plain_run, expected = traced()
    assert plain_run.values["hash"].isna().all()
    assert plain_run.values["norm"].isna().all()
    (one, outputs), (two, _), (other, _) = (
        traced(values_with="hash"), traced(values_with="norm,hash"), traced(1e-6, values_with="hash"),
    )  # fmt: skip
    assert all(torch.equal(*pair) for pair in zip(outputs, expected, strict=True))
    assert one.values["hash"].notna().all()
    assert two.values["norm"].notna().all()
    assert one.values["hash"].tolist() == two.values["hash"].tolist()
    differs = one.values["hash"] != other.values["hash"]
    assert set(one.values["name"][differs]) == {"2", "model"}


def test_what_is_not_measured_is_told():
    checked_measure("norm, hash")
    with pytest.raises(UsageError, match="'mean' is not measured; there are norm and hash"):
        checked_measure("norm,mean")
