"""Device time on a real GPU: beside events recorded by hand, and beside the kernels that torch's profiler saw."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import modtrace

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

NEAR = 0.05
WIDE = 4096


def heavy(layers=4):
    """Matrix products that take the device far longer than the host takes to launch them."""
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(WIDE, WIDE, bias=False) for _ in range(layers)]).cuda()


def batch():
    return torch.randn(4 * WIDE, WIDE, device="cuda")


def warm(model, x):
    for _ in range(3):
        model(x).sum().backward()
    torch.cuda.synchronize()


def roots(trace):
    calls = trace.calls
    return calls[(calls["kind"] == "module") & (calls["name"] == "")]


def test_as_events_by_hand():
    model, x = heavy(), batch()
    warm(model, x)
    by_hand = []
    with modtrace.trace(model, flops=False) as trace:
        for _ in range(10):
            first, second = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            model(x)
            second.record()
            by_hand.append((first, second))
    torch.cuda.synchronize()
    found = roots(trace)["device_ns"]
    assert found.notna().all()
    assert len(found) == 10
    expected = sum(first.elapsed_time(second) for first, second in by_hand) * 1e6
    # The first call of a trace finds an idle device, and waits for the host within its events.
    assert found.sum() == pytest.approx(expected, rel=NEAR)


def test_as_the_kernels_of_each_module():
    model, x = heavy(), batch()
    warm(model, x)
    with modtrace.trace(model, flops=False) as trace, torch.no_grad():
        for _ in range(10):
            model(x)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler, torch.no_grad():
        for _ in range(10):
            model(x)
        torch.cuda.synchronize()
    cuda = torch.autograd.DeviceType.CUDA
    kernels = sum(
        event.time_range.elapsed_us() * 1_000 for event in profiler.events() if event.device_type == cuda
    )
    parts = trace.modules[trace.modules["name"] != ""]
    assert parts["forward_device_ns"].sum() == pytest.approx(kernels, rel=NEAR)
    assert roots(trace)["device_ns"].sum() == pytest.approx(kernels, rel=NEAR)


def test_backward_and_optimizer():
    model, x = heavy(), batch()
    warm(model, x)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with modtrace.trace(flops=False) as trace:
        for _ in range(8):
            model(x).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.cuda.synchronize()
    calls = trace.calls
    phases = calls[calls["kind"] == "phase"].groupby("name", observed=True)["device_ns"]
    assert phases.sum()["backward"] > phases.sum()["forward"]
    assert phases.count()["optimizer"] == 8
    rows = calls[calls["kind"] == "backward"]
    assert rows["device_ns"].notna().all()
    found = trace.modules.set_index("name")
    inside = found.drop("")["backward_device_ns"].sum()
    assert inside == pytest.approx(found.loc["", "backward_device_ns"], rel=NEAR)
    assert (trace.steps["device_ns"] > 0).all()
    assert "  device    idle at least" in trace.summary()


def test_no_call_waits_for_the_device():
    model, x = heavy(), batch()
    warm(model, x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with modtrace.trace(model, flops=False):
            for _ in range(20):
                model(x).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_calls_on_a_side_stream():
    model, x = heavy(1), batch()
    warm(model, x)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with modtrace.trace(model, flops=False) as trace, torch.no_grad():
        model(x)
        with torch.cuda.stream(side):
            model(x)
    assert roots(trace)["device_ns"].notna().all()


def test_a_captured_graph_holds_no_event_of_ours():
    model, x = heavy(1), batch()
    warm(model, x)
    graph = torch.cuda.CUDAGraph()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with modtrace.trace(model, flops=False) as trace, torch.no_grad():
        with torch.cuda.stream(side):
            model(x)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            captured = model(x)
            trace._tracer.flush()
        graph.replay()
        expected = model(x)
    torch.cuda.synchronize()
    assert torch.equal(captured, expected)
    assert roots(trace)["device_ns"].isna().tolist() == [False, True, False]


def test_named_tensors_tell_the_device():
    class Named(nn.Module):
        def forward(self, *, x):
            return x @ x

    x = torch.randn(WIDE, WIDE, device="cuda")
    first, named = nn.Identity(), Named()
    with modtrace.trace(flops=False) as trace:
        first(x)
        named(x=x)
    found = trace.calls.set_index("type")["device_ns"]
    assert found["Named"] > 0


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_devices():
    models = [nn.Linear(WIDE, WIDE, bias=False, device=f"cuda:{index}") for index in range(2)]
    with modtrace.trace(flops=False) as trace, torch.no_grad():
        for index, model in enumerate(models):
            model(torch.randn(WIDE, WIDE, device=f"cuda:{index}"))
    assert trace.calls["device_ns"].notna().all()
    devices = trace._read().table("device_times").column("device").to_pylist()
    assert sorted(set(devices)) == ["cuda:0", "cuda:1"]
