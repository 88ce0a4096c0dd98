"""When played devices began, whether they had run dry, what their allocators say: from the recorders to the frames."""

from __future__ import annotations

import time

import pytest
import torch

import modtrace
from modtrace.analysis.columns import column
from modtrace.analysis.device_times import WINDOW_NS, device_times
from modtrace.analysis.timeline import timeline
from modtrace.capture.mechanisms.device_events import SEVERAL
from tests.capture.test_played_cuda import Work, gaps, layers
from tests.fake_cuda import fake_cuda


@pytest.fixture
def gpu():
    with fake_cuda() as played:
        yield played
        assert played.illegal == []


def dry(trace, name):
    """Whether the device had run dry at the start of each phase of a name."""
    calls = trace.calls
    return calls[(calls["kind"] == "phase") & (calls["name"] == name)]["device_dry"].tolist()


def test_a_device_that_is_done_and_one_that_is_behind(gpu):
    model = layers(gpu)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace() as trace:
        for number in range(8):
            if number == 4:
                gpu.hold()
            model(gpu.tensor(2, 4)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        gpu.let_go()
    assert dry(trace, "backward") == [True] * 4 + [False] * 4
    assert dry(trace, "optimizer") == [True] * 4 + [False] * 4
    assert trace.steps["device_dry_share"].tolist()[1:] == [1.0] * 3 + [0.5] + [0.0] * 3
    assert "had run dry at" in trace.summary()


def test_nothing_is_asked_while_a_graph_is_captured(gpu):
    model = Work(gpu, 10)
    graph = torch.cuda.CUDAGraph()
    with modtrace.trace(flops=False) as trace:
        x = gpu.tensor(2, 4)
        model(x)
        with torch.cuda.graph(graph):
            model(x)
        model(x)
    assert trace.calls["device_dry"].isna().tolist()[:2] == [True, True]


class HostClock:
    """The host's clock, of the test's own: it goes on by a little whenever it is read."""

    def __init__(self):
        self.now_ns = 1_000_000_000

    def __call__(self):
        self.now_ns += 100
        return self.now_ns


@pytest.mark.parametrize("drift_ppm", [2_000, -2_000])
def test_a_clock_that_drifts(monkeypatch, drift_ppm):
    """Calls each 20 ms for 30 s, each of which the device begins at once: its clock is 60 ms apart at their end."""
    host = HostClock()
    monkeypatch.setattr(time, "perf_counter_ns", host)
    with fake_cuda(follows_host=True, drift_ppm=drift_ppm) as gpu:
        model, x = Work(gpu, 1_000_000), gpu.tensor(2)
        with modtrace.trace(flops=False) as trace:
            for _ in range(1_500):
                model(x)
                host.now_ns += 20_000_000
        assert gpu.illegal == []
    monkeypatch.undo()
    stored = trace._read()
    rows = device_times(stored)
    launched_ns = column(timeline(stored).calls, "start_ns").astype("int64")[rows.placed]
    late_ns = rows.start_ns[rows.placed] - launched_ns
    apart_ns = rows.clock_ns[rows.placed] - launched_ns
    assert len(late_ns) >= 1_500
    assert abs(int(apart_ns[-1] - apart_ns[0])) > 55_000_000
    assert late_ns.min() >= 0
    assert late_ns.max() <= 2_000e-6 * WINDOW_NS + 200_000


class Takes(torch.nn.Module):
    """Allocates so much, frees it and gives it back to the device."""

    def __init__(self, gpu, size):
        super().__init__()
        self.gpu, self.size = gpu, size

    def forward(self, x):
        self.gpu.free(self.gpu.allocate(self.size))
        torch.cuda.empty_cache()
        return x


def test_memory_taken_by_roots():
    with fake_cuda() as gpu:
        gpu.allocate(1 << 20)
        model = Takes(gpu, 4 << 20)
        with modtrace.trace(flops=False) as trace:
            for _ in range(4):
                model(gpu.tensor(2, 4))
                modtrace.step()
    roots = trace.calls[trace.calls["kind"] == "module"]
    assert roots["memory_device_allocs"].tolist() == [1] * 4
    assert roots["memory_retries"].tolist() == [0] * 4


def test_a_second_device_is_said():
    with fake_cuda(devices=2) as gpu:
        with modtrace.trace(flops=False) as trace:
            for device in (0, 1):
                Work(gpu, 10)(gpu.tensor(2, 4, device=device))
        assert SEVERAL in gaps(trace)
