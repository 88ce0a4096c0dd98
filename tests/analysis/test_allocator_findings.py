"""Trouble of allocators: a device of the tests' own, `meta`, of 1 GiB, and what its allocator says of itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.findings import findings
from modtrace.analysis.findings.allocator_rules import alloc_conf
from modtrace.capture.mechanisms import counter_readings as memory_readings
from modtrace.capture.mechanisms import device_memory
from modtrace.capture.mechanisms.device_memory import AllocatorEvents, Counters, CudaMemory
from modtrace.trace.schema import AT_RECOUNT

MIB = 1 << 20


class Allocator:
    """What is told of it is set by the tests. `known` says whether it counts its events."""

    kind = "meta"

    def __init__(self):
        self.now = self.reserved = self.peak = self.total = 0
        self.retries = self.taken = self.back = self.ooms = 0
        self.known, self.tell = True, None

    def count(self):
        return 1

    def read(self, device):
        events = (self.retries, self.ooms, self.taken, self.back)
        trouble = (
            AllocatorEvents(*events, self.reserved - self.now, self.now, self.now)
            if self.known
            else AllocatorEvents()
        )
        return Counters(self.now, self.reserved, self.peak, self.total, trouble)

    def watch(self, resets):
        self.tell = resets

    def close(self):
        pass

    def hold(self, size):
        self.total += max(size - self.now, 0)
        self.now = size
        self.peak = max(self.peak, size)

    def reserve(self, size):
        self.taken += size > self.reserved
        self.back += size < self.reserved
        self.reserved = size

    def recount(self):
        self.tell(0, AT_RECOUNT)
        self.total = self.retries = self.taken = self.back = self.ooms = 0


@pytest.fixture
def allocator(monkeypatch):
    found = Allocator()
    monkeypatch.setattr(memory_readings, "memory_of", lambda kind: found if kind == "meta" else None)
    monkeypatch.setattr(memory_readings, "KINDS", ("meta",))
    return found


class Runs(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, x):
        self.what()
        return x


def traced(inside, *, between=lambda: None, steps=8):
    model = Runs(inside)
    with modtrace.trace(flops=False) as trace:
        for _ in range(steps):
            model(torch.empty(2, device="meta"))
            between()
            modtrace.step()
    return trace


def told(trace):
    return {one.rule: one for one in findings(trace._read())}


def short(allocator, held, reserved=900 * MIB):
    """A forward that needs so much and finds the device full."""

    def forward():
        allocator.hold(held)
        allocator.retries += 1
        allocator.reserve(200 * MIB)
        allocator.reserve(reserved)
        allocator.hold(100 * MIB)

    return forward


def test_retries(allocator):
    """Memory is short because it is in pieces."""
    one = told(traced(short(allocator, 500 * MIB)))["retries"]
    assert "the device had no more memory 7 times in 7 of 7 steps" in one.text
    assert "400 MiB that it held (44.4%) was never in use meanwhile" in one.text
    assert "most in Runs" in one.text
    assert one.remedy.endswith("ALLOC_CONF=expandable_segments:True")


def test_memory_that_is_short_because_it_is_in_use(allocator):
    """At the end of the forward 89 % of what is held is free, as always: that says nothing of when it was short."""
    one = told(traced(short(allocator, 880 * MIB)))["retries"]
    assert "never in use" not in one.text
    assert one.remedy == "use a smaller batch, or hold less"


def test_memory_that_was_short_once(allocator):
    times = iter(range(100))
    inside = short(allocator, 500 * MIB)
    assert "retries" not in told(traced(lambda: inside() if next(times) == 4 else None))


def test_an_allocator_that_does_not_count(allocator):
    allocator.known = False
    trace = traced(short(allocator, 500 * MIB))
    assert trace.steps["memory_retries"].isna().all()
    assert trace.calls["memory_device_allocs"].isna().all()
    assert told(trace).keys().isdisjoint({"retries", "device_allocs"})


def test_device_allocs(allocator):
    """The cache is emptied in each step."""
    one = told(traced(lambda: allocator.reserve(300 * MIB), between=lambda: allocator.reserve(10 * MIB)))
    found = one["device_allocs"]
    assert found.text.startswith(
        "the allocator takes memory from the device 1.0 times a step and gives it back"
    )
    assert "most in Runs" in found.text
    assert "empty_cache" in found.remedy
    assert "retries" not in one


def test_a_cache_that_grows_or_stays(allocator):
    sizes = iter(range(100, 10_000, 100))
    assert "device_allocs" not in told(traced(lambda: allocator.reserve(next(sizes) * MIB)))
    assert "device_allocs" not in told(traced(lambda: allocator.reserve(20_000 * MIB)))


def test_events_of_roots_and_steps(allocator):
    trace = traced(short(allocator, 500 * MIB), steps=3)
    roots = trace.calls[trace.calls["kind"] == "module"]
    assert roots["memory_retries"].tolist() == [1, 1, 1]
    assert roots["memory_device_allocs"].tolist() == [2, 1, 1], "the first takes from nothing"
    whole = trace.steps[trace.steps["whole"]]
    assert whole["memory_retries"].tolist()[1:] == [1, 1]


def test_counters_that_the_program_resets(allocator):
    """What comes after is counted on; a reset that is not seen makes it unknown, not less."""
    trace = traced(short(allocator, 500 * MIB), between=allocator.recount, steps=4)
    assert trace.steps["memory_retries"].tolist()[1:4] == [1, 1, 1]

    def unseen():
        allocator.total = allocator.retries = allocator.taken = 0

    other = traced(short(allocator, 500 * MIB), between=unseen, steps=4)
    assert other.steps["memory_retries"].isna().all() or (other.steps["memory_retries"].dropna() >= 0).all()
    assert other.steps["memory_retries"].isna().any()


STATISTICS = {
    **{
        name: {"all": {"current": at, "peak": at + 1, "allocated": at + 2, "freed": 2}}
        for at, name in enumerate(
            ("allocated_bytes", "reserved_bytes", "active_bytes", "inactive_split_bytes", "requested_bytes"), 10
        )
    },
    "num_alloc_retries": 3, "num_ooms": 1, "num_sync_all_streams": 4, "num_device_alloc": 7, "num_device_free": 2,
}  # fmt: skip
"""As `torch._C._cuda_memoryStats` returns it, a part of it."""


def test_what_torch_says_of_its_allocator(monkeypatch):
    monkeypatch.setattr(device_memory, "cuda_memory_stats", lambda device: STATISTICS)
    memory = CudaMemory()
    memory._is_capturing = lambda: False
    assert memory.read(0).trouble == AllocatorEvents(3, 1, 7, 2, 13, 12, 14)
    older = {
        name: one for name, one in STATISTICS.items() if "device" not in name and "requested" not in name
    }
    monkeypatch.setattr(device_memory, "cuda_memory_stats", lambda device: older)
    assert memory.read(0).trouble == AllocatorEvents(3, 1, None, None, 13, 12, None)
    # CUDA's asynchronous allocator says 0 of what it does not count.
    silent = {name: 0 for name in STATISTICS if name.startswith("num")}
    sizes = {
        name: {"all": dict.fromkeys(one["all"], 0)} for name, one in STATISTICS.items() if name not in silent
    }
    monkeypatch.setattr(device_memory, "cuda_memory_stats", lambda device: sizes | silent)
    assert memory.read(0).trouble == AllocatorEvents()


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("2.11.0+cu130", "PYTORCH_CUDA_ALLOC_CONF"),
        ("2.12.0", "PYTORCH_ALLOC_CONF"),
        ("3.0.0", "PYTORCH_ALLOC_CONF"),
        ("2.6", "PYTORCH_CUDA_ALLOC_CONF"),
        (None, "PYTORCH_CUDA_ALLOC_CONF"),
        ("odd", "PYTORCH_CUDA_ALLOC_CONF"),
    ],
)
def test_the_variable_of_each_version(version, name):
    class Stored:
        processes = (type("Process", (), {"torch": version}),)

    assert alloc_conf(Stored()) == name
