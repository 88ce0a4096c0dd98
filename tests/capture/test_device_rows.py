"""Rows of devices: what the driver tells through torch's profiler, in its documented shape, to rows of `operators`.

Numbers of operators and numbers of calls of the driver are both small and stand in the same field, as on a real GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from modtrace.capture.mechanisms.profiled_operators import kernels_of
from modtrace.trace.schema import KERNEL, MEMORY_COPY, MEMORY_SET

KINDS = torch._C._autograd.DeviceType


@dataclass
class Event:
    """One event of torch's profiler; on a real one these are methods."""

    activity: str
    label: str
    start: int
    duration: int
    correlation: int
    linked: int = 0
    thread: int = 1
    device: Any = KINDS.CPU
    index: int = 0
    metadata: str = ""

    def activity_type(self):
        return self.activity

    def name(self):
        return self.label

    def start_ns(self):
        return self.start

    def duration_ns(self):
        return self.duration

    def correlation_id(self):
        return self.correlation

    def linked_correlation_id(self):
        return self.linked

    def start_thread_id(self):
        return self.thread

    def device_type(self):
        return self.device

    def device_index(self):
        return self.index

    def metadata_json(self):
        return self.metadata


def ran(activity, label, start, duration, correlation, linked=0, **more):
    return Event(activity, label, start, duration, correlation, linked, device=KINDS.CUDA, **more)


def test_the_played_event_has_methods_of_the_real_one():
    methods = [name for name in vars(Event) if not name.startswith("_") and callable(getattr(Event, name))]
    assert methods
    for name in methods:
        assert hasattr(torch._C._autograd._KinetoEvent, name), name


def layers(count=50):
    """A forward of layers. Each runs five operators and two calls of the driver, the second launches a gemm."""
    events, moments = [], []
    for layer in range(count):
        begin = 10_000 + 1_000 * layer
        numbers = [5 * layer + at + 1 for at in range(5)]
        for at, name in enumerate(("linear", "t", "transpose", "as_strided", "addmm")):
            events.append(Event("cpu_op", f"aten::{name}", begin + 100 * at, 90, numbers[at]))
        launch = begin + 430
        events.append(Event("cuda_runtime", "cudaOccupancy", begin + 420, 5, 2 * layer + 1, numbers[-1]))
        events.append(Event("cuda_runtime", "cudaLaunchKernel", launch, 10, 2 * layer + 2, numbers[-1]))
        events.append(
            ran("kernel", f"gemm_{layer}", 500_000 + 2_000 * layer, 1_500, 2 * layer + 2, numbers[-1])
        )
        moments.append((f"gemm_{layer}", launch))
    return events, moments


def test_every_kernel_is_placed_at_its_own_launch():
    events, moments = layers()
    for some in (events, events[::-1], sorted(events, key=lambda event: event.correlation)):
        assert sorted((one.name, one.at_ns) for one in kernels_of(some, KINDS.CUDA)) == sorted(moments)


def test_a_range_is_no_kernel():
    """torch opens a range around each optimizer's step; its shadow on the device is as long as all kernels in it."""
    events, moments = layers(3)
    number = 9_000
    events.append(Event("user_annotation", "Optimizer.step#SGD.step", 10_000, 9_000, number))
    events.append(ran("gpu_user_annotation", "Optimizer.step#SGD.step", 500_000, 6_000, number, number))
    events.append(ran("overhead", "Command Buffer Full", 500_000, 100, 0))
    assert len(kernels_of(events, KINDS.CUDA)) == len(moments)


def test_what_cannot_be_placed_is_left_out():
    found = kernels_of([ran("kernel", "of an earlier step", 900, 10, 7, 3)], KINDS.CUDA)
    assert found == []


def test_without_a_launch_the_operator_places_it():
    """A kernel of the engine's thread whose launch was dropped: its operator is known."""
    events = [
        Event("cpu_op", "autograd::engine::evaluate_function: MmBackward0", 100, 50, 7, thread=4),
        Event("cuda_runtime", "cudaLaunchKernel", 10, 5, 7),
        ran("kernel", "gemm", 900, 50, 8, 7),
    ]
    (row,) = kernels_of(events, KINDS.CUDA)
    assert (row.at_ns, row.thread) == (125, 4)


def test_the_thread_is_that_of_the_operator():
    events = [
        Event("cpu_op", "aten::mm", 100, 50, 7, thread=4),
        Event("cuda_runtime", "cudaLaunchKernel", 110, 5, 2, 7, thread=1),
        ran("kernel", "gemm", 900, 50, 2, 7),
    ]
    (row,) = kernels_of(events, KINDS.CUDA)
    assert (row.at_ns, row.thread, row.device, row.kind) == (110, 4, "cuda:0", KERNEL)


def test_a_replayed_graph_has_one_launch():
    events = [
        Event("cuda_runtime", "cudaGraphLaunch", 100, 50, 5),
        *(ran("kernel", f"node_{at}", 900 + at, 1, 5, index=1) for at in range(4)),
    ]
    found = kernels_of(events, KINDS.CUDA)
    assert [(one.at_ns, one.device) for one in found] == [(100, "cuda:1")] * 4


def test_a_copy_whose_launch_waits():
    """ROCm copies and waits in one call; where the launch is not known, nothing is said."""
    events = [
        Event("cpu_op", "aten::copy_", 100, 50, 1),
        Event("cuda_runtime", "hipMemcpyWithStream", 110, 5, 1, 1),
        ran("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 112, 8, 1, 1),
        Event("cpu_op", "aten::copy_", 200, 50, 2),
        ran("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 212, 8, 9, 2),
    ]
    assert [one.waited for one in kernels_of(events, KINDS.CUDA)] == [True, None]


def test_copies_and_fills():
    """Bytes, and whether the host waited: it did where the operator of the copy called a synchronisation."""
    bandwidth = '"stream": 7, "bytes": 4096, "memory bandwidth (GB/s)": 1.5'
    events = [
        Event("cpu_op", "aten::copy_", 100, 50, 1),
        Event("cuda_runtime", "cudaMemcpyAsync", 110, 5, 1, 1),
        Event("cuda_runtime", "cudaStreamSynchronize", 120, 25, 2, 1),
        ran("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 112, 8, 1, 1, metadata=bandwidth),
        Event("cpu_op", "aten::copy_", 200, 50, 2),
        Event("cuda_runtime", "cudaMemcpyAsync", 210, 5, 3, 2),
        ran("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 212, 8, 3, 2, metadata=bandwidth),
        Event("cuda_runtime", "cudaMemsetAsync", 310, 5, 4),
        ran("gpu_memset", "Memset (Device)", 320, 2, 4, metadata='"bytes": 64'),
        Event("cuda_runtime", "cudaMemcpyAsync", 410, 5, 5),
        ran("gpu_memcpy", "Memcpy DtoD (Device -> Device)", 420, 2, 5, metadata="no JSON"),
    ]
    found = [(one.at_ns, one.kind, one.size_bytes, one.waited) for one in kernels_of(events, KINDS.CUDA)]
    assert found == [
        (110, MEMORY_COPY, 4096, True),
        (210, MEMORY_COPY, 4096, False),
        (310, MEMORY_SET, 64, None),
        (410, MEMORY_COPY, None, None),
    ]


HIP = '"stream": 0, "correlation": 5, "kind": "HostToDevice", "bytes": "4096"'


def test_names_and_bytes_as_drivers_tell_them():
    """CUPTI names the kinds of memory at both ends; a peer's copy has both devices; ROCm tells what it can."""
    told = {
        ("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)"): (
            '"bytes": 4, "memory bandwidth (GB/s)": 0.002',
            4,
        ),
        ("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)"): ('"bytes": 8, "memory bandwidth (GB/s)": "N/A"', 8),
        ("gpu_memcpy", "Memcpy PtoP (Device -> Device)"): ('"fromDevice": 0, "toDevice": 1, "bytes": 16', 16),
        ("gpu_memset", "Memset (Device)"): ('\n      "device": 0, "context": 1,\n      "bytes": 512', 512),
        ("gpu_memcpy", "CopyHostToDevice"): (HIP, None),
        ("gpu_memset", "FillBuffer"): ("", None),
    }
    events = []
    for number, ((kind, name), (metadata, _)) in enumerate(told.items(), start=1):
        call = "hipMemcpyAsync" if name in ("CopyHostToDevice", "FillBuffer") else "cudaMemcpyAsync"
        events.append(Event("cuda_runtime", call, 100 * number, 5, number))
        events.append(ran(kind, name, 10_000 + number, 7, number, metadata=metadata))
    found = {(one.name, one.size_bytes) for one in kernels_of(events, KINDS.CUDA)}
    assert found == {(name, size) for (_, name), (_, size) in told.items()}
