"""Devices in watched steps: what is launched in them is waited for, on the devices that are in use and on no other."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity

import modtrace
import modtrace.capture.mechanisms.profiler_window as watching
from modtrace.analysis.kernels import ran
from modtrace.capture.mechanisms import kineto
from modtrace.capture.mechanisms.kineto import HOST_ACTIVITIES
from modtrace.capture.mechanisms.profiled_operators import Operator
from modtrace.capture.mechanisms.profiler_window import (
    NO_DEVICE_ROWS,
    NOT_FINISHED,
    NOT_STARTED,
    WOULD_START_CUDA,
)
from modtrace.systems import this_process
from modtrace.trace.schema import KERNEL
from modtrace.views import console
from tests.fake_cuda import fake_cuda


@pytest.fixture(autouse=True)
def kernels_can_be_asked_for(monkeypatch):
    """As torch says of itself where it sees a GPU."""
    can = {ProfilerActivity.CPU, ProfilerActivity.CUDA}
    monkeypatch.setattr(torch.autograd.profiler, "_supported_activities", lambda: can)


def asked_for(monkeypatch):
    """The profilers that are prepared."""
    seen = []
    original = watching.prepare_trace
    monkeypatch.setattr(
        watching, "prepare_trace", lambda profiler: (seen.append(profiler), original(profiler))[1]
    )
    return seen


def waits(monkeypatch):
    """Devices that are waited for, with what the profiler does meanwhile."""
    seen = []
    original = torch.cuda.synchronize
    monkeypatch.setattr(
        torch.cuda, "synchronize", lambda device=None: (seen.append(device), original(device))[1]
    )
    return seen


def run(gpu, device, steps=5, each=lambda number: None):
    model = nn.Linear(3, 3, device="meta")
    gpu.place(model, device)
    x = gpu.tensor(2, 3, device=device)
    block = gpu.allocate(1_000, device)
    for number in range(steps):
        each(number)
        gpu.work(1_000)
        model(x)
    gpu.free(block)


def test_devices_in_use_are_waited_for(monkeypatch):
    with fake_cuda(devices=2) as gpu:
        seen = waits(monkeypatch)
        with torch.cuda.device(1):
            run(gpu, 1, 1)
            with modtrace.trace(kernels="1:3", flops=False) as t:
                run(gpu, 1)
    assert seen == [1, 1], "when watching begins and when it ends"
    assert gpu.illegal == []
    assert not [gap for gap in t._tracer.gaps if "kernels" in gap]


@pytest.mark.parametrize("readable", [True, False])
def test_devices_whose_allocator_tells_nothing(monkeypatch, readable):
    """As one of the program's own: waited for is the device on which a tensor was seen, and no other gets a context."""
    with fake_cuda(devices=3, home=1) as gpu, monkeypatch.context() as patch:
        if not readable:
            patch.setattr(watching, "cuda_memory_stats", None)
        gpu.broken["memory_stats"] = RuntimeError(
            "CUDAPluggableAllocator does not yet support getDeviceStats."
        )
        seen = waits(patch)
        model, x = nn.Linear(3, 3, device="meta"), gpu.tensor(2, 3)
        with modtrace.trace(kernels="1:3", flops=False) as t:
            for _ in range(5):
                model(x)
        assert gpu.contexts == [1]
        assert gpu.illegal == []
    assert seen == [1, 1]
    assert set(t.kernels["step"].dropna()) == {1, 2}
    assert not [gap for gap in t._tracer.gaps if "kernels" in gap]


def test_how_well_a_module_fills_the_device(monkeypatch):
    """Kernels of 300 ns in calls that have the device for 1,000 ns."""

    def kernels_of(events, kind):
        asked = [event for event in events if event.name() == "aten::addmm"]
        return [
            Operator(event.start_ns(), 300, "gemm", event.start_thread_id(), "cuda:0", KERNEL)
            for event in asked
        ]

    monkeypatch.setattr(watching, "kernels_of", kernels_of)
    with fake_cuda(devices=1) as gpu:
        model = nn.Linear(3, 3, device="meta")
        gpu.place(model, 0)
        x = gpu.tensor(2, 3)
        model.register_forward_hook(lambda *_: gpu.work(1_000))
        model(x)
        with modtrace.trace(kernels="auto", flops=False) as t:
            for _ in range(8):
                model(x)
                gpu.wait()
    kernels = t.kernels[t.kernels["kind"] == "kernel"]
    assert kernels["step"].tolist() == [3, 4]
    assert kernels["total_ns"].tolist() == [300, 300]
    assert kernels["size_bytes"].isna().all()
    device, (row,) = ran(t._read())
    assert device == "cuda:0"
    assert row.device_ns == t.calls["device_ns"].iloc[3:5].sum()
    assert row.kernel_share == 600 / row.device_ns
    text = console.kernels_text(t._read(), width=100)
    assert "fills" in text.splitlines()[1]
    assert f"{600 / row.device_ns * 100:.0f}%" in text.splitlines()[2]


def test_memory_alone_waits_for_nothing(monkeypatch):
    with fake_cuda(devices=1) as gpu:
        seen = waits(monkeypatch)
        run(gpu, 0, 1)
        with modtrace.trace(memory="1:3", flops=False):
            run(gpu, 0)
    assert seen == []


def test_nothing_is_waited_for_while_a_graph_is_captured(monkeypatch):
    with fake_cuda(devices=1) as gpu:
        seen = waits(monkeypatch)
        run(gpu, 0, 1)
        graph = torch.cuda.CUDAGraph()

        def capture(number):
            if number == 1:
                graph.capture_begin()

        with torch.cuda.stream(torch.cuda.Stream()):
            with modtrace.trace(kernels="1:3", flops=False) as t:
                run(gpu, 0, 4, capture)
            graph.capture_end()
    assert seen == []
    assert NOT_FINISHED in t._tracer.gaps
    assert gpu.illegal == []


class CapturingThread:
    """A thread that captures a graph from `begin` until `end`."""

    def __init__(self):
        self.begun, self.done = threading.Event(), threading.Event()
        self.errors = []
        self._thread = threading.Thread(target=self._capture)

    def begin(self):
        self._thread.start()

    def end(self):
        self.done.set()
        self._thread.join()

    def _capture(self):
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                graph = torch.cuda.CUDAGraph()
                graph.capture_begin()
                self.begun.set()
                self.done.wait(30)
                graph.capture_end()
        except RuntimeError as error:
            self.errors.append(error)


def test_a_capture_that_begins_between_two_devices(monkeypatch):
    """The wait for the second one would break it."""
    with fake_cuda(devices=2) as gpu:
        run(gpu, 0, 1)
        gpu.may_sync = True
        kept = gpu.allocate(1_000, 0), gpu.allocate(1_000, 1)
        seen, capture = waits(monkeypatch), CapturingThread()
        is_used = watching.ProfilerWindow._is_used

        def begins(window, device):
            if device == 1 and len(seen) == 3:
                capture.begin()
                assert capture.begun.wait(30)
            return is_used(window, device)

        monkeypatch.setattr(watching.ProfilerWindow, "_is_used", begins)
        with modtrace.trace(kernels="1:3", flops=False) as t:
            run(gpu, 0)
        capture.end()
        assert len(kept) == 2
    assert seen == [0, 1, 0]
    assert capture.errors == []
    assert NOT_FINISHED in t._tracer.gaps
    assert gpu.illegal == []


def test_a_capture_that_begins_while_a_device_is_waited_for(monkeypatch):
    """It begins when that is over."""
    with fake_cuda(devices=1) as gpu:
        run(gpu, 0, 1)
        capture = CapturingThread()
        original, early = torch.cuda.synchronize, []

        def synchronize(device=None):
            if not early:
                capture.begin()
                early.append(capture.begun.wait(0.05))
            original(device)

        monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
        with modtrace.trace(kernels="1:3", flops=False):
            run(gpu, 0)
        capture.end()
    assert early == [False]
    assert capture.errors == []


def test_watching_does_not_start_cuda(monkeypatch):
    for name in ("is_available", "device_count", "current_device", "_lazy_init"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: pytest.fail("asked for a device"))
    accelerator = getattr(torch, "accelerator", None)
    for name in ("is_available", "device_count", "current_device_index"):
        if hasattr(accelerator, name):
            monkeypatch.setattr(accelerator, name, lambda *_: pytest.fail("asked for a device"))
    model = nn.Linear(3, 3)
    with modtrace.trace(kernels="0:2", memory="0:2", flops=False) as t:
        model(torch.ones(2, 3))
    assert "aten::addmm" in set(t.kernels["operator"])
    assert t._tracer.gaps == []


def test_a_device_that_is_used_after_watching_began(monkeypatch):
    """Its kernels are not noted, and that is told."""
    answers = iter((False, True))
    monkeypatch.setattr(watching, "_uses_device", lambda: next(answers))
    with modtrace.trace(kernels="0:2", flops=False) as t:
        nn.Linear(3, 3)(torch.ones(2, 3))
    assert NOT_STARTED in t._tracer.gaps


def test_kernels_are_asked_for_with_kineto(monkeypatch):
    """Without it torch records events around each operator, also in a capture, and tells of no kernel."""
    with fake_cuda(devices=1) as gpu:
        run(gpu, 0, 1)
        seen = asked_for(monkeypatch)
        with modtrace.trace(kernels="1:3", memory="1:3", flops=False) as t:
            run(gpu, 0)
    (profiler,) = seen
    assert str(profiler.profiler_kind) == "ProfilerState.KINETO"
    assert profiler.kineto_activities == {ProfilerActivity.CPU, ProfilerActivity.CUDA}
    assert profiler.profile_memory
    assert t._tracer.gaps == []


def test_a_torch_that_cannot_tell_kernels(monkeypatch):
    monkeypatch.setattr(torch.autograd.profiler, "_supported_activities", lambda: {ProfilerActivity.CPU})
    with fake_cuda(devices=1) as gpu:
        run(gpu, 0, 1)
        seen = asked_for(monkeypatch)
        with modtrace.trace(kernels="1:3", flops=False) as t:
            run(gpu, 0)
    (profiler,) = seen
    assert str(profiler.profiler_kind) == "ProfilerState.KINETO"
    assert profiler.use_device is None
    assert t._tracer.gaps == [NO_DEVICE_ROWS]
    assert len(t.kernels)


def test_memory_alone_asks_for_the_host_alone(monkeypatch):
    """Allocations of devices are told with it; what the driver tells costs, and is another tool's at times."""
    with fake_cuda(devices=1) as gpu:
        run(gpu, 0, 1)
        seen = asked_for(monkeypatch)
        with modtrace.trace(memory="1:3", flops=False) as t:
            run(gpu, 0)
    (profiler,) = seen
    assert profiler.kineto_activities == {ProfilerActivity.CPU}
    filters = getattr(profiler, "activity_filters", {ProfilerActivity.CPU: set(HOST_ACTIVITIES)})
    assert filters == {ProfilerActivity.CPU: set(HOST_ACTIVITIES)}
    assert len(t._read().table("watched")) == 1


def built_for_cuda(monkeypatch, *files):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(this_process, "LINUX", True)
    monkeypatch.setattr(this_process, "DEVICE_FILES", files)
    for name in kineto.VISIBLE:
        monkeypatch.delenv(name, raising=False)


def test_torchs_profiler_waits_for_the_program_to_start_cuda(monkeypatch, tmp_path):
    """A torch that is built for CUDA starts it when its profiler is started, for the host alone too."""
    built_for_cuda(monkeypatch, str(tmp_path))
    model = nn.Linear(3, 3)
    seen, started = asked_for(monkeypatch), []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: bool(started))
    with modtrace.trace(kernels="0:4", memory="0:4", flops=False) as t:
        for step in range(4):
            if step == 2:
                assert seen == []
                monkeypatch.setattr(watching, "_uses_device", lambda: False)
                started.append(step)
            model(torch.ones(2, 3))
        assert len(seen) == 1
    assert t._tracer.gaps == [WOULD_START_CUDA]
    assert set(t.kernels["step"].dropna()) == {2, 3}


def test_where_no_gpu_can_be_seen_nothing_is_waited_for(monkeypatch, tmp_path):
    built_for_cuda(monkeypatch, str(tmp_path / "absent"))
    assert not kineto.would_start_cuda()
    built_for_cuda(monkeypatch, str(tmp_path))
    assert kineto.would_start_cuda()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not kineto.would_start_cuda()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert kineto.would_start_cuda()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert not kineto.would_start_cuda()
    built_for_cuda(monkeypatch, str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert not kineto.would_start_cuda()
