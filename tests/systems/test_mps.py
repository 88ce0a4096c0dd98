"""A Mac's GPU that is played: tensors say that they are on `mps`, and torch's counters of it are the test's."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

import modtrace
from modtrace.analysis.device_memory import wholes


class Played(torch.Tensor):
    """A tensor on `mps` that is computed on the processor. Without gradients: autograd asks for a real device."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device="mps")

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        unwrapped = pytree.tree_map(
            lambda it: it.inner if isinstance(it, Played) else it, (args, kwargs or {})
        )
        out = function(
            *unwrapped[0], **{name: value for name, value in unwrapped[1].items() if name != "device"}
        )
        return pytree.tree_map(lambda it: cls(it) if isinstance(it, torch.Tensor) else it, out)


class Grows(torch.nn.Module):
    """Takes memory that it keeps."""

    def __init__(self, counters):
        super().__init__()
        self.counters = counters
        self.weight = torch.nn.Parameter(Played(torch.ones(4)), requires_grad=False)

    def forward(self, x):
        self.counters["allocated"] += 1000
        return x * self.weight


@pytest.fixture
def counters(monkeypatch):
    now = {"allocated": 5000, "asked": 0}

    def allocated():
        now["asked"] += 1
        return now["allocated"]

    monkeypatch.setattr(torch.mps, "current_allocated_memory", allocated)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 2 * now["allocated"])
    return now


@pytest.fixture
def traced(counters):
    model = Grows(counters)
    with torch.no_grad(), modtrace.trace() as t:
        for _ in range(4):
            model(Played(torch.ones(2, 4)))
    return t


def test_counters_are_read_at_the_ends_of_calls(traced):
    assert traced.calls["memory_delta_bytes"].tolist() == [1000] * 4
    (whole,) = wholes(traced._read())
    assert (whole.device, whole.allocated_bytes, whole.reserved_bytes) == ("mps:0", 9000, 18000)


def test_a_peak_is_not_made_up(traced):
    """Between two readings more may have been allocated: there is no counter that says so."""
    assert traced.calls["memory_peak_bytes"].isna().all()
    assert traced.steps["memory_peak_bytes"].isna().all() if "memory_peak_bytes" in traced.steps else True
    (whole,) = wholes(traced._read())
    assert whole.peak_bytes is None
    assert whole.least_bytes == 9000


def test_times_are_launch_times(traced):
    assert "times are launch times: mps has no clock" in traced.summary()
    assert traced.calls["device_ns"].isna().all()
    if "flops_per_s" in traced.steps:
        assert traced.steps["flops_per_s"].isna().all()


def test_nothing_is_asked_of_it_without_a_tensor_on_it(counters):
    with modtrace.trace():
        torch.nn.Linear(2, 2)(torch.ones(1, 2))
    assert counters["asked"] == 0


def test_counters_that_fail_end_the_reading_alone(counters, monkeypatch):
    def fails():
        raise RuntimeError("no device")

    monkeypatch.setattr(torch.mps, "driver_allocated_memory", fails)
    with torch.no_grad(), modtrace.trace() as t:
        Grows(counters)(Played(torch.ones(2, 4)))
    assert len(t.calls) == 1
    assert t.gaps["reason"].str.contains("memory of devices is not known").any()


def test_a_torch_without_these_counters_is_recorded(counters, monkeypatch):
    monkeypatch.delattr(torch.mps, "driver_allocated_memory")
    with torch.no_grad(), modtrace.trace() as t:
        Grows(counters)(Played(torch.ones(2, 4)))
    assert t.calls["memory_delta_bytes"].isna().all()
